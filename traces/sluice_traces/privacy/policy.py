"""Which detectors look at the text, and what happens when one finds something."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

OnFinding = Literal["redact", "quarantine"]
"""`redact`: a placeholder takes the text's place; `quarantine`: the step becomes no row."""


class DetectorName(StrEnum):
    """What is looked for."""

    PRIVATE_KEY = "privateKey"
    """PEM and OpenSSH private key blocks, whole or cut."""
    SECRET = "secret"
    """Tokens of cloud and API providers by their published formats, passwords in assignments and URLs."""
    EMAIL = "email"
    """E-mail addresses."""
    IBAN = "iban"
    """Bank accounts, by country length and ISO 7064 check digits."""
    CARD = "card"
    """Payment cards, by issuer range, length and Luhn check digit."""
    PHONE = "phone"
    """Phone numbers that are possible in their country's plan."""
    IP = "ip"
    """IPv4 and IPv6 addresses, loopback excepted."""
    HIGH_ENTROPY = "highEntropy"
    """Random-looking strings that no other detector knows."""


_PATTERN_NAME = re.compile(r"[a-z][a-zA-Z0-9]{0,31}")
_MAX_PATTERN = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """How private text is treated."""

    detectors: tuple[DetectorName, ...] = tuple(DetectorName)
    """Detectors, in their own order; where findings overlap the first in the enumeration names the placeholder."""
    on_finding: OnFinding = "redact"
    """What happens to a finding."""
    patterns: Mapping[str, str] = field(default_factory=dict)
    """Further regular expressions by name; each match is a finding."""

    def __post_init__(self) -> None:
        if self.on_finding not in ("redact", "quarantine"):
            raise ValueError(f"privacy.on_finding is {self.on_finding!r}: give redact or quarantine")
        for name, pattern in self.patterns.items():
            if not _PATTERN_NAME.fullmatch(name) or name in set(DetectorName):
                raise ValueError(f"privacy.patterns: {name!r} is no free name of letters and digits")
            if len(pattern) > _MAX_PATTERN:
                raise ValueError(f"privacy.patterns.{name}: longer than {_MAX_PATTERN} characters")
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"privacy.patterns.{name}: {error}") from None
            if compiled.search("") is not None:
                raise ValueError(f"privacy.patterns.{name}: matches the empty text, so it would match everywhere")

    @property
    def active(self) -> bool:
        """Whether anything is looked for."""
        return bool(self.detectors or self.patterns)

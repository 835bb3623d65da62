"""Private text to placeholders, per run: the same text is the same placeholder, and no placeholder tells the text.

Placeholders are numbered in the order of appearance within a run (`[EMAIL_1]`). A hash would be shorter to explain and
easy to reverse for phones and cards, whose numbers can be tried out.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import regex

from sluice_traces.convert import PrivateTextError
from sluice_traces.privacy import credentials, gates, identifiers
from sluice_traces.privacy.folding import fold
from sluice_traces.privacy.gates import Gate, Searched
from sluice_traces.privacy.policy import DetectorName, PrivacyConfig

Span = tuple[int, int]
Detector = Callable[[str], Iterator[Span]]


class Look(NamedTuple):
    """One detector."""

    name: str
    """Name under which findings are counted."""
    find: Detector
    """Finds the stretches."""
    gate: Gate | None = None
    """Tells a text that may have a finding from one that has none; without one, every text may."""


DETECTORS = (
    Look(DetectorName.PRIVATE_KEY.value, credentials.find_private_keys, gates.private_key),
    Look(DetectorName.SECRET.value, credentials.find_tokens, gates.long_word),
    Look(DetectorName.SECRET.value, credentials.find_passwords, gates.password),
    Look(DetectorName.EMAIL.value, credentials.find_emails, gates.email),
    Look(DetectorName.IBAN.value, identifiers.find_ibans, gates.long_number),
    Look(DetectorName.CARD.value, identifiers.find_cards, gates.long_number),
    Look(DetectorName.PHONE.value, identifiers.find_phones, gates.long_number),
    Look(DetectorName.IP.value, identifiers.find_addresses, gates.address),
    Look(DetectorName.HIGH_ENTROPY.value, credentials.find_random_strings, gates.long_word),
)
"""Every detector, in order of rank: where findings overlap, the first names the placeholder."""
IDENTITY_DETECTORS = frozenset({DetectorName.EMAIL, DetectorName.SECRET, DetectorName.PRIVATE_KEY})
"""Detectors that look at run and tenant ids, which are often long numbers and random by design; so do all patterns."""
_BUILT_IN = frozenset(look.name for look in DETECTORS)
PATTERN_TIMEOUT_S = 2.0
"""Seconds that a user's pattern may take on one text; patterns with nested repetition can take for ever."""
FAILED = "detectorFailed"
"""Counts under this name what was kept back because a detector could not judge it."""
_REMEMBERED = 8192


class Redactor:
    """Looks for private text by one policy."""

    def __init__(self, config: PrivacyConfig) -> None:
        self.config = config
        wanted = set(config.detectors)
        patterns = [Look(name, compile_pattern(name, pattern)) for name, pattern in config.patterns.items()]
        self._detectors = [*patterns, *(look for look in DETECTORS if look.name in wanted)]
        self._identity = [*patterns, *(look for look in DETECTORS if look.name in wanted & IDENTITY_DETECTORS)]
        self._clean: set[str] = set()

    def run(self) -> "RunRedactor":
        """A redactor for one run."""
        return RunRedactor(self)

    def clean(self, texts: Iterable[str]) -> bool:
        """Whether no detector needs to look at any of some texts; false says nothing."""
        searched = Searched(fold("\n".join(texts)).text)
        try:
            return all(look.gate is not None and not look.gate(searched) for look in self._detectors)
        except Exception:  # noqa: BLE001 - a gate that fails must not let its text through
            return False

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Private stretches of a text as start, end and detector; ordered, without overlaps.

        Raises:
            PrivateTextError: a detector failed, so that nothing is known of the text.
        """
        if not text or text in self._clean:
            return []
        found = _merged(_spans(text, self._detectors))
        if not found:
            # Pages and intents repeat within runs and between them; what was clean once stays clean.
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean.add(text)
        return found

    def private_identity(self, name: str) -> bool:
        """Whether a run or tenant id holds private text; one that cannot be judged does."""
        try:
            return bool(_spans(name, self._identity))
        except PrivateTextError:
            return True

    def mask(self, text: str) -> str:
        """A text for people, e.g. a file name in a report, with private stretches masked."""
        try:
            found = _merged(_spans(text, self._identity))
        except PrivateTextError:
            return "(withheld)"
        return _replaced(text, found, lambda _, name: f"[{name.upper()}]")


class RunRedactor:
    """Replaces private text of one run."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._placeholders: dict[tuple[str, str], str] = {}
        self.counts: dict[str, int] = {}
        """Distinct private texts found, by detector."""

    def scrub(self, text: str) -> str:
        """The text with placeholders for what is private.

        Raises:
            PrivateTextError: findings are quarantined, or something private would remain.
        """
        try:
            found = self._redactor.find(text)
            if not found:
                return text
            cleaned = _replaced(text, found, self._placeholder)
            if self._redactor.config.on_finding == "quarantine":
                raise PrivateTextError(found[0][2])
            if left := self._redactor.find(cleaned):
                raise PrivateTextError(left[0][2])
        except PrivateTextError as error:
            if str(error) == FAILED:
                self.counts[FAILED] = self.counts.get(FAILED, 0) + 1
            raise
        return cleaned

    def _placeholder(self, private: str, name: str) -> str:
        key = (name, private)
        if key not in self._placeholders:
            self.counts[name] = self.counts.get(name, 0) + 1
            self._placeholders[key] = f"[{_snake(name)}_{self.counts[name]}]"
        return self._placeholders[key]


def compile_pattern(name: str, pattern: str) -> Detector:
    """A detector from a regular expression; one that takes longer than `PATTERN_TIMEOUT_S` has failed on its text.

    Raises:
        ValueError: it is none.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"privacy.patterns.{name}: {error}") from None

    def find(text: str) -> Iterator[Span]:
        return (match.span() for match in compiled.finditer(text, timeout=PATTERN_TIMEOUT_S))

    return find


def _spans(text: str, detectors: list[Look]) -> list[tuple[int, int, int, str]]:
    """Findings as start, rank, end and detector."""
    spans: list[tuple[int, int, int, str]] = []
    folded = fold(text)
    searched = Searched(folded.text)
    for rank, (name, find, gate) in enumerate(detectors):
        try:
            if gate is not None and not gate(searched):
                continue
            if name in _BUILT_IN:
                found = [folded.span(start, end) for start, end in find(folded.text) if end > start]
            else:
                found = [(start, end) for start, end in find(text) if end > start]
            spans += [(start, rank, end, name) for start, end in found]
        except Exception:  # noqa: BLE001 - a detector that fails must not let its text through
            raise PrivateTextError(FAILED) from None
    return spans


def _merged(spans: list[tuple[int, int, int, str]]) -> list[tuple[int, int, str]]:
    """Overlapping findings as one, named by the one of first rank."""
    merged: list[tuple[int, int, int, str]] = []
    for start, rank, end, name in sorted(spans):
        if merged and start < merged[-1][1]:
            first, last_end, last_rank, last_name = merged[-1]
            best = (rank, name) if rank < last_rank else (last_rank, last_name)
            merged[-1] = (first, max(end, last_end), *best)
        else:
            merged.append((start, end, rank, name))
    return [(start, end, name) for start, end, _, name in merged]


def _replaced(text: str, found: list[tuple[int, int, str]], placeholder: Callable[[str, str], str]) -> str:
    pieces, position = [], 0
    for start, end, name in found:
        pieces += [text[position:start], placeholder(text[start:end], name)]
        position = end
    return "".join([*pieces, text[position:]])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()

"""A seeded corpus of made-up private texts and of texts that only look like them. Nothing in it was ever valid."""

import hashlib
import ipaddress
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sluice_traces.privacy import DetectorName

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
WORDS = (
    "open the third listing send seller a message about price and leave photo gallery then report what is shown".split()  # noqa: SIM905
)
DOMAINS = ["example.com", "mail.example.org", "post.example.co.uk", "büro.example.de", "x-y.example.travel"]
IBAN_FORMS = {"DE": 18, "GB": None, "FR": 23, "NL": None, "ES": 20, "CH": 17, "AT": 16}


@dataclass(frozen=True)
class Sample:
    """One text."""

    text: str
    """The text, a private stretch inside a sentence or not."""
    private: str
    """The private stretch; empty in a harmless text."""
    detector: DetectorName | None
    """What should find it; None in a harmless text."""


def _take(rng: random.Random, alphabet: str, count: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def _email(rng: random.Random) -> str:
    local = rng.choice(["jo.doe", "anna_maria", "k+shop", "x", "müller", "first.last.third"]) + str(rng.randrange(100))
    return f"{local}@{rng.choice(DOMAINS)}"


def _luhn(body: str) -> str:
    total = 0
    for index, digit in enumerate(reversed(body)):
        value = int(digit) * (1 if index % 2 else 2)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        [("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("36", 14), ("3530", 16)]
    )
    number = _luhn(prefix + _take(rng, string.digits, length - 1 - len(prefix)))
    if rng.random() < 0.5:
        return number
    joint = rng.choice([" ", "-"])
    return joint.join(number[i : i + 4] for i in range(0, len(number), 4))


def _iban(rng: random.Random) -> str:
    country = rng.choice(list(IBAN_FORMS))
    digits = IBAN_FORMS[country]
    body = (
        _take(rng, string.digits, digits)
        if digits
        else _take(rng, string.ascii_uppercase, 4) + _take(rng, string.digits, 14 if country == "GB" else 10)
    )
    value = int("".join(str(int(c, 36)) for c in body + country + "00"))
    number = f"{country}{98 - value % 97:02d}{body}"
    return number if rng.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, len(number), 4))


def _phone(rng: random.Random) -> str:
    area = rng.choice(["415", "212", "650", "303", "617"])
    rest = f"{rng.randrange(2, 10)}{_take(rng, string.digits, 2)}", _take(rng, string.digits, 4)
    berlin = f"+49 30 {rng.randrange(200000, 990000)}"
    london = f"+44 20 7{_take(rng, string.digits, 3)} {_take(rng, string.digits, 4)}"
    return rng.choice(
        [
            f"({area}) {rest[0]}-{rest[1]}",
            f"{area}-{rest[0]}-{rest[1]}",
            f"+1 {area} {rest[0]} {rest[1]}",
            berlin,
            london,
        ]
    )


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return ".".join(str(rng.randrange(11, 120)) for _ in range(4))
    return str(ipaddress.IPv6Address(rng.getrandbits(128) | (0x2001 << 112)))


def _private_key(rng: random.Random) -> str:
    kind = rng.choice(["RSA ", "EC ", "OPENSSH ", ""])
    body = "\n".join(_take(rng, ALNUM + "+/", 64) for _ in range(rng.randrange(2, 6)))
    end = f"\n-----END {kind}PRIVATE KEY-----" if rng.random() < 0.8 else ""
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}{end}"


def _secret(rng: random.Random) -> str:
    makers: list[Callable[[], str]] = [
        lambda: "AKIA" + _take(rng, string.ascii_uppercase + "234567", 16),
        lambda: "AIza" + _take(rng, ALNUM + "_-", 34) + "a",
        lambda: rng.choice(["ghp_", "gho_", "ghs_"]) + _take(rng, ALNUM, 36),
        lambda: "glpat-" + _take(rng, ALNUM, 20),
        lambda: f"xoxb-{_take(rng, string.digits, 11)}-{_take(rng, ALNUM, 24)}",
        lambda: "sk_live_" + _take(rng, ALNUM, 24),
        lambda: "sk-proj-" + _take(rng, ALNUM, 40),
        lambda: "hf_" + _take(rng, string.ascii_letters, 34),
        lambda: "npm_" + _take(rng, ALNUM, 36),
        lambda: f"SG.{_take(rng, ALNUM, 22)}.{_take(rng, ALNUM, 43)}",
        lambda: f"eyJ{_take(rng, ALNUM, 30)}.eyJ{_take(rng, ALNUM, 60)}.{_take(rng, ALNUM, 43)}",
    ]
    return rng.choice(makers)()


def _password(rng: random.Random) -> str:
    return (
        rng.choice(["hunter", "Tr0ub4dor", "letmein", "blue-"])
        + _take(rng, string.digits, 3)
        + rng.choice(["", "!", "$x"])
    )


def _random(rng: random.Random) -> str:
    return _take(rng, ALNUM, rng.randrange(28, 60))


def _sentence(rng: random.Random, inner: str) -> str:
    before = " ".join(rng.choices(WORDS, k=rng.randrange(1, 8)))
    after = " ".join(rng.choices(WORDS, k=rng.randrange(0, 6)))
    opening, closing = rng.choice([("", ""), ("(", ")"), ('"', '"'), ("", "."), ("", ","), ("<", ">")])
    return f"{before} {opening}{inner}{closing} {after}".rstrip()


def private_samples(seed: int, each: int) -> Iterator[Sample]:
    """So many samples of each kind of private text."""
    rng = random.Random(seed)
    plain = {
        DetectorName.EMAIL: _email,
        DetectorName.CARD: _card,
        DetectorName.IBAN: _iban,
        DetectorName.PHONE: _phone,
        DetectorName.IP: _ip,
        DetectorName.PRIVATE_KEY: _private_key,
        DetectorName.SECRET: _secret,
        DetectorName.HIGH_ENTROPY: _random,
    }
    for _ in range(each):
        for detector, make in plain.items():
            private = make(rng)
            yield Sample(_sentence(rng, private), private, detector)
        private = _password(rng)
        form = rng.choice(["password: {}", 'api_key="{}"', "https://bot:{}@example.org/x", "Secret = {}", "token={}"])
        yield Sample(f"{rng.choice(WORDS)} {form.format(private)}", private, DetectorName.SECRET)


def harmless_samples(seed: int, each: int) -> Iterator[Sample]:
    """So many samples of each kind of text that only looks private."""
    rng = random.Random(seed)
    makers: list[Callable[[], str]] = [
        lambda: f"${rng.randrange(1, 9999):,}.{rng.randrange(100):02d}",
        lambda: f"click({rng.randrange(1280)}, {rng.randrange(720)})",
        lambda: f"order {rng.randrange(10**9, 10**10)}",
        lambda: str(uuid.UUID(int=rng.getrandbits(128))),
        lambda: "sha256:" + hashlib.sha256(str(rng.random()).encode()).hexdigest(),
        lambda: (
            f"2026-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}"
            f"T{rng.randrange(24):02d}:{rng.randrange(60):02d}:00Z"
        ),
        lambda: f"version {rng.randrange(9)}.{rng.randrange(20)}.{rng.randrange(20)}",
        lambda: f"https://shop.example.com/listings/{rng.randrange(10**6)}?page={rng.randrange(9)}&sort=price",
        lambda: "".join(word.capitalize() for word in rng.choices(WORDS, k=6)),
        lambda: "_".join(rng.choices(WORDS, k=5)) + str(rng.randrange(100)),
        lambda: rng.choice(
            ["password: required", "enter your password", "forgot token?", "secret: none", "password is wrong"]
        ),
        lambda: (
            f"[{rng.randrange(20)}] 'Add to cart' ({rng.randrange(1280)},{rng.randrange(720)})"
            f"-({rng.randrange(1280)},{rng.randrange(720)})"
        ),
        lambda: f"{rng.randrange(10, 99)} of {rng.randrange(100, 999)} at {rng.randrange(24)}:{rng.randrange(10, 60)}",
        lambda: (
            f"rated {rng.randrange(1, 5)}.{rng.randrange(10)} by {rng.randrange(1000)} people, "
            f"@seller{rng.randrange(99)}"
        ),
        lambda: f"IBAN and card number: {rng.choice(['missing', 'see below', 'DE00'])}",
        lambda: "localhost at 127.0.0.1 and ::1",
    ]
    for _ in range(each):
        for make in makers:
            yield Sample(_sentence(rng, make()), "", None)

"""Detectors of what grants access or names a mailbox: private keys, tokens of providers, passwords, randomness."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator

Span = tuple[int, int]

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]{0,20000}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s:,\\-]*)"
)

_FORMATS = (
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA)[A-Z2-7]{16}",  # AWS identifiers
    r"AIza[0-9A-Za-z_-]{35}",  # Google API key
    r"ya29\.[0-9A-Za-z_-]{20,}",  # Google OAuth access token
    r"GOCSPX-[0-9A-Za-z_-]{28}",  # Google OAuth client secret
    r"gh[pousr]_[0-9A-Za-z]{36,251}",  # GitHub
    r"github_pat_[0-9A-Za-z_]{22,255}",
    r"glpat-[0-9A-Za-z_-]{20,}",  # GitLab
    r"xox[abeoprs]-[0-9A-Za-z-]{10,250}",  # Slack
    r"https://hooks\.slack\.com/services/[A-Za-z0-9/_-]{20,}",
    r"[sr]k_(?:live|test)_[0-9A-Za-z]{16,}",  # Stripe
    r"whsec_[0-9A-Za-z]{24,}",
    r"sk-(?:ant-|proj-|svcacct-)?[0-9A-Za-z_-]{20,}",  # model providers
    r"hf_[0-9A-Za-z]{30,}",  # Hugging Face
    r"npm_[0-9A-Za-z]{36}",
    r"pypi-[0-9A-Za-z_-]{50,}",
    r"SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}",  # SendGrid
    r"key-[0-9a-f]{32}",  # Mailgun
    r"(?:AC|SK)[0-9a-f]{32}",  # Twilio
    r"dop_v1_[0-9a-f]{64}",  # DigitalOcean
    r"hv[sb]\.[0-9A-Za-z_-]{24,}",  # Vault
    r"dckr_pat_[0-9A-Za-z_-]{27}",  # Docker Hub
    r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify
    r"AccountKey=[0-9A-Za-z+/]{86}==",  # Azure storage
    r"eyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}",  # JSON web token
)
_TOKEN = re.compile(r"(?<![0-9A-Za-z_])(?:" + "|".join(_FORMATS) + r")(?![0-9A-Za-z])")
_TOKEN_HINTS = (
    *("AKIA", "ASIA", "AGPA", "AIDA", "AROA", "ANPA", "ANVA", "AIza", "ya29", "GOCSPX", "ghp_", "gho_", "ghu_", "ghs_"),
    *("ghr_", "github_pat", "glpat", "xox", "hooks.slack", "k_live", "k_test", "whsec", "sk-", "hf_", "npm_", "pypi-"),
    *("SG.", "key-", "AC", "SK", "dop_v1", "hvs.", "hvb.", "dckr_pat", "shp", "AccountKey", "eyJ"),
)
"""One of these is in every token: searching for words is much faster than matching the formats."""

_PLACEHOLDER = r"(?!\[[A-Z0-9_]+_\d+\])"
_ASSIGNED = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[ _-]?key|access[ _-]?key|credentials?)"
    r"[\"']?\s{0,3}(?:[:=]|\bis\b)\s{0,3}[\"']?" + _PLACEHOLDER + r"([^\s\"',;<>]{6,200})"
)
_ASSIGNED_HINTS = ("pass", "pwd", "secret", "token", "key", "credential")
_BEARER = re.compile(r"(?i)\b(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/-]{16,}={0,2})")
_URL_PASSWORD = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@]{1,100}:" + _PLACEHOLDER + r"([^\s/@]{1,200})@")

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)

_RANDOM = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{20,}={0,2}(?![A-Za-z0-9+/_=-])")
_ENTROPY_SHARE = 0.8
"""Least share of the largest entropy that a string of its length can have; random letters and digits stay above it."""
_CHANGE_SHARE = 0.35
"""Least share of neighbours of different class: chance gives about .6, words joined to one another below .3."""
_MIN_CLASS = 2
"""Least number of lower-case letters, of upper-case letters and of digits."""


def find_private_keys(text: str) -> Iterator[Span]:
    """Private key blocks; one that is cut off is taken to its last key character."""
    if "-----BEGIN" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield match.span()


def find_tokens(text: str) -> Iterator[Span]:
    """Tokens of known format."""
    if any(hint in text for hint in _TOKEN_HINTS):
        for match in _TOKEN.finditer(text):
            yield match.span()


def find_passwords(text: str) -> Iterator[Span]:
    """Passwords in assignments, in URLs and in authorization headers."""
    lowered = text.lower()
    if any(hint in lowered for hint in _ASSIGNED_HINTS):
        for match in _ASSIGNED.finditer(text):
            if _like_a_password(match[1]):
                yield match.span(1)
    if "bearer" in lowered or "basic" in lowered:
        for match in _BEARER.finditer(text):
            if _like_a_password(match[1]):
                yield match.span(1)
    if "://" in text and "@" in text:
        for match in _URL_PASSWORD.finditer(text):
            yield match.span(1)


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses with a dotted domain."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield match.span()


def find_random_strings(text: str) -> Iterator[Span]:
    """Strings of 20 characters and more that mix upper and lower case and digits as only chance does."""
    for match in _RANDOM.finditer(text):
        if _random_looking(match[0]):
            yield match.span()


def _like_a_password(value: str) -> bool:
    """Whether a value is more than a word: placeholders and prose have no digits or odd characters inside."""
    core = value.strip(".!?:*•…()[]{}")
    has_digit = any(character.isdigit() for character in core)
    has_letter = any(character.isalpha() for character in core)
    odd = any(not character.isalnum() and character not in "-_./" for character in core)
    return len(core) >= 6 and has_letter and (has_digit or odd)


def _random_looking(value: str) -> bool:
    core = value.rstrip("=")
    counts = (sum(map(str.islower, core)), sum(map(str.isupper, core)), sum(map(str.isdigit, core)))
    if min(counts) < _MIN_CLASS:
        return False
    # Words joined by separators have long runs of one class; chance changes class about every second character.
    changes = sum(_kind(a) != _kind(b) for a, b in itertools.pairwise(core))
    if changes < _CHANGE_SHARE * (len(core) - 1):
        return False
    entropy = -sum(n / len(core) * math.log2(n / len(core)) for n in Counter(core).values())
    return entropy >= _ENTROPY_SHARE * math.log2(min(len(core), 64))


def _kind(character: str) -> int:
    return 0 if character.islower() else 1 if character.isupper() else 2 if character.isdigit() else 3

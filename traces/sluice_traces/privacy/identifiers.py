"""Detectors of numbers that identify people: cards, bank accounts, phones, addresses on the network.

Each confirms its candidates by check digits or numbering plans, so that prices, coordinates and order numbers pass.
"""

import ipaddress
import re
from collections.abc import Iterator

Span = tuple[int, int]

_DIGITS = re.compile(r"\d(?:[ -]?\d){12,}")
_GROUP = re.compile(r"\d+")
_CARD_ISSUERS = re.compile(
    r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|6(?:011|4[4-9]|5|2)|35(?:2[89]|[3-8])"
)
"""Leading digits of Visa, Mastercard, American Express, Diners, Discover, UnionPay and JCB (ISO/IEC 7812 ranges)."""
_CARD_LENGTHS = range(13, 20)

_IBAN = re.compile(r"([A-Za-z]{2})\d{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_LENGTHS = {
    **{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28},
    **{"CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18},
    **{"FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22},
    **{"IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20},
    **{"LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15},
    **{"PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19},
    **{"SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20},
}
"""Length of an account number by country (ISO 13616 registry)."""

_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")

_PHONE_HINT = re.compile(r"\+\d|\d[ ()./-]{1,3}\d")
_PHONE_SEPARATED = re.compile(r"\d[ ().-]+\d")
_PHONE_REGION = "US"


def find_cards(text: str) -> Iterator[Span]:
    """Payment cards: an issuer's leading digits, 13 to 19 digits, Luhn check digit (ISO/IEC 7812-1, annex B).

    Digits in groups may begin and end with any group, so that a number beside the card does not hide it.
    """
    for run in _DIGITS.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        if not _cut_off(text, *run.span()):
            yield from _cards_of(text, groups)


def _cards_of(text: str, groups: list[Span]) -> Iterator[Span]:
    taken = -1
    for first, (start, _) in enumerate(groups):
        if start < taken:
            continue
        digits = ""
        for _, end in groups[first : first + _CARD_LENGTHS[-1]]:
            digits = re.sub(r"\D", "", text[start:end])
            if len(digits) > _CARD_LENGTHS[-1]:
                break
            if len(digits) in _CARD_LENGTHS and _CARD_ISSUERS.match(digits) and _luhn(digits):
                taken = end
                yield start, end
                break


def _cut_off(text: str, start: int, end: int) -> bool:
    """Whether digits are the decimals of a number, or part of a name."""
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    decimals = before in {".", ","} and text[max(0, start - 2) : start - 1].isdigit()
    return decimals or before.isalpha() or after.isalpha()


def find_ibans(text: str) -> Iterator[Span]:
    """Bank accounts: length of the country and check digits (ISO 7064, MOD 97-10)."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[1].upper())
        inside = text[: match.start()][-1:].isalnum()
        end = None if length is None or inside else _take_alphanumerics(text, match.start(), length)
        if end is None or (end < len(text) and text[end].isalnum()):
            continue
        compact = re.sub(r"[ -]", "", text[match.start() : end]).upper()
        rearranged = compact[4:] + compact[:4]
        if int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1:
            yield match.start(), end


def find_phones(text: str) -> Iterator[Span]:
    """Phone numbers that a numbering plan knows: with a country code, or written in groups as in North America.

    A bare run of digits is not taken for a phone: order numbers look the same.
    """
    if _PHONE_HINT.search(text) is None:
        return
    from phonenumbers import Leniency, PhoneNumberMatcher

    for found in PhoneNumberMatcher(text, _PHONE_REGION, leniency=Leniency.VALID, max_tries=len(text)):
        if found.raw_string.lstrip("(").startswith("+") or _PHONE_SEPARATED.search(found.raw_string):
            yield found.start, found.end


def find_addresses(text: str) -> Iterator[Span]:
    """IP addresses other than loopback and unspecified ones."""
    if text.count(".") >= 3:
        yield from _confirmed(_IPV4, text)
    if text.count(":") >= 2:
        yield from _confirmed(_IPV6, text)


def _confirmed(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    for match in pattern.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield match.span()


def _luhn(digits: str) -> bool:
    total = 0
    for index, character in enumerate(reversed(digits)):
        value = int(character) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _take_alphanumerics(text: str, start: int, count: int) -> int | None:
    """End of the stretch that holds so many ASCII letters and digits, single blanks or dashes between them."""
    taken, index, separated = 0, start, False
    while index < len(text) and taken < count:
        character = text[index]
        if character.isascii() and character.isalnum():
            taken, separated = taken + 1, False
        elif character in " -" and not separated:
            separated = True
        else:
            return None
        index += 1
    return index if taken == count else None

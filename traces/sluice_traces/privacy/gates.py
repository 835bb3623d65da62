"""What every finding of a detector has in it, searched before the detector is asked.

A gate may err on the open side only. It is cheap enough to search the texts of a whole run at once: what is closed for
them joined is closed for each of them, and where nothing is open no detector runs at all.
"""

import re
from collections.abc import Callable

_WORD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+=:-")
_WORDS = bytes(ord("w") if byte in _WORD_BYTES else ord(" ") for byte in range(256))
_LONG_WORD_BYTES = b"w" * 15
_LONG_WORD = re.compile(r"[A-Za-z0-9_./+=:-]{15}")
_BETWEEN, _HEXADECIMAL = frozenset(b" ()/+-"), frozenset(b"abcdefABCDEF")


def _number_class(byte: int) -> int:
    """A digit as 0, a letter of hexadecimal numbers as h, what may stand between digits as -, dot and colon kept."""
    if chr(byte).isdigit() and byte < 128:
        return ord("0")
    if byte in b".:":
        return byte
    return ord("h") if byte in _HEXADECIMAL else ord("-") if byte in _BETWEEN else ord("x")


_NUMBERS = bytes(_number_class(byte) for byte in range(256))
_LONG_NUMBER_BYTES = re.compile(rb"0(?:[-.]{0,3}0){6}")
_LONG_NUMBER = re.compile(r"\d(?:[ ()./+-]{0,3}\d){6}")
_COLONS = re.compile(rb":[0h]{0,4}:")
_PASSWORD_HINTS = ("pass", "pwd", "secret", "token", "key", "credential", "bearer", "basic")


class Searched:
    """A text, or several joined by line breaks, and what gates have found in it."""

    __slots__ = ("_long_number", "_long_word", "_numbers", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._long_word: bool | None = None
        self._long_number: bool | None = None
        self._numbers: bytes | None = None

    def numbers(self) -> bytes:
        """The text, which must be ASCII, by the classes of `_number_class`."""
        if self._numbers is None:
            self._numbers = self.text.encode("ascii").translate(_NUMBERS)
        return self._numbers

    def has_long_word(self) -> bool:
        """Whether fifteen characters stand together without a blank."""
        if self._long_word is None:
            if self.text.isascii():
                self._long_word = _LONG_WORD_BYTES in self.text.encode("ascii").translate(_WORDS)
            else:
                self._long_word = _LONG_WORD.search(self.text) is not None
        return self._long_word

    def has_long_number(self) -> bool:
        """Whether seven digits stand together with little between them."""
        if self._long_number is None:
            if self.text.isascii():
                self._long_number = _LONG_NUMBER_BYTES.search(self.numbers()) is not None
            else:
                self._long_number = _LONG_NUMBER.search(self.text) is not None
        return self._long_number


Gate = Callable[[Searched], bool]
"""Whether a text may have a finding; false means that it has none."""


def private_key(searched: Searched) -> bool:
    """Every private key begins with its frame."""
    return "-----BEGIN" in searched.text


def long_word(searched: Searched) -> bool:
    """In every token of known format and in every random string."""
    return searched.has_long_word()


def password(searched: Searched) -> bool:
    """A password is recognised by the word before it, or by its place in a URL."""
    text, lowered = searched.text, searched.text.lower()
    return any(hint in lowered for hint in _PASSWORD_HINTS) or ("@" in text and "://" in text)


def email(searched: Searched) -> bool:
    """Every address has the sign."""
    return "@" in searched.text


def long_number(searched: Searched) -> bool:
    """In every card, phone and, but for a few countries, bank account."""
    return searched.has_long_number()


def address(searched: Searched) -> bool:
    """Digits around a dot, or two colons with at most four hexadecimal digits between."""
    if not searched.text.isascii():
        return True
    numbers = searched.numbers()
    return b"0.0" in numbers or _COLONS.search(numbers) is not None

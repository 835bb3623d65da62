"""Texts as detectors see them: what only looks different is made the same.

Web pages put blanks that do not break, typographic dashes, letters of full width and characters without any width into
numbers and addresses. A detector that knows plain ones only would let those through.
"""

from typing import NamedTuple

_BLANKS = (0x00A0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
_DASHES = (*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63)
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_ALIKE = {
    **dict.fromkeys(_BLANKS, " "),
    **dict.fromkeys(_DASHES, "-"),
    **{code: chr(code - 0xFEE0) for code in _FULL_WIDTH},
}
_WIDTHLESS = frozenset(
    map(chr, (0x00AD, 0x034F, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF))
)


class Folded(NamedTuple):
    """A text as detectors see it."""

    text: str
    """The text, at most as long as the original."""
    places: list[int] | None
    """Where each of its characters stands in the original, and its length last; None where nothing has moved."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """A stretch of the text as a stretch of the original, with what has no width inside."""
        if self.places is None:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def fold(text: str) -> Folded:
    """The text that detectors look at."""
    if text.isascii():
        return Folded(text, None)
    folded = text.translate(_ALIKE)
    if _WIDTHLESS.isdisjoint(folded):
        return Folded(folded, None)
    places = [place for place, character in enumerate(folded) if character not in _WIDTHLESS]
    return Folded("".join(folded[place] for place in places), places)

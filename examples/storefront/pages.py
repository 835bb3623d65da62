"""Pages of the shop as the model reads them: a name, lines of text, and elements with the pixel of their centre."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

SCREEN_WIDTH = 1280
"""Pixels."""
SCREEN_HEIGHT = 720
"""Pixels."""
HALF_WIDTH = 40
"""Half the width of an element's box in pixels; columns lie further apart than two of these."""
HALF_HEIGHT = 20
"""Half the height of an element's box in pixels; rows lie further apart than two of these."""

COLUMNS = tuple(range(90, 1200, 90))
"""Possible horizontal centres."""
ROWS = tuple(range(60, 700, 60))
"""Possible vertical centres."""


class PageName(StrEnum):
    """Pages of the shop."""

    HOME = "home"
    RESULTS = "results"
    LISTING = "listing"
    GALLERY = "gallery"
    PHOTO = "photo"
    MESSAGE = "message"
    SENT = "sent"
    LOADING = "loading"


class Theme(StrEnum):
    """How the shop lays its pages out; a visitor sees one of them throughout."""

    GRID = "grid"
    LIST = "list"
    WIDE = "wide"


@dataclass(frozen=True, kw_only=True)
class Element:
    """Something one can click: a box around (`x`, `y`)."""

    label: str
    x: int
    y: int
    detail: str = ""
    forbidden: bool = False
    """Whether a click is never wanted: an advertisement, or a button that spends money."""

    def render(self) -> str:
        """One line, e.g. `third (270, 420) red lamp $42`."""
        return f"{self.label} ({self.x}, {self.y}) {self.detail}".rstrip()

    def contains(self, x: int, y: int) -> bool:
        """Whether the pixel lies in the element's box."""
        return abs(x - self.x) <= HALF_WIDTH and abs(y - self.y) <= HALF_HEIGHT


@dataclass(frozen=True, kw_only=True)
class Page:
    """One state of the screen."""

    name: PageName
    theme: Theme
    lines: tuple[str, ...] = ()
    elements: tuple[Element, ...] = ()

    def render(self) -> str:
        """The page as short text: its name, what it says and, indented, what can be clicked."""
        lines = [*self.lines, *(f" {element.render()}" for element in self.elements)]
        return "\n".join([f"Page: {self.name} {self.theme}", *lines])

    def hit(self, x: int, y: int) -> Element | None:
        """The element under a pixel."""
        return next((element for element in self.elements if element.contains(x, y)), None)

    def element(self, label: str) -> Element:
        """The element with a label.

        Raises:
            KeyError: the page has none.
        """
        for element in self.elements:
            if element.label == label:
                return element
        raise KeyError(f"page {self.name} has no element {label!r}")


class Layout:
    """Hands out places on the screen so that no two elements of a page share a row or a column.

    A page of a theme always hands out the same places in the same order, as a real shop's templates do.
    """

    def __init__(self, theme: Theme, page: PageName) -> None:
        rng = Random(f"storefront-layout-{theme}-{page}")
        self._columns = rng.sample(COLUMNS, len(COLUMNS))
        self._rows = rng.sample(ROWS, len(ROWS))

    def place(self, label: str, detail: str = "", *, forbidden: bool = False) -> Element:
        """A new element at the next place."""
        return Element(label=label, x=self._columns.pop(), y=self._rows.pop(), detail=detail, forbidden=forbidden)

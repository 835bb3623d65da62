"""Draws a rollout on a terminal: facts, arms, and the tree of what stands behind it."""

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice_cli.rollout.view import SYMBOLS, Mood, RolloutView, Row

STYLES = {
    Mood.GOOD: "green",
    Mood.BAD: "red",
    Mood.HELD: "magenta",
    Mood.WARN: "yellow",
    Mood.BUSY: "cyan",
    Mood.QUIET: "dim",
}
"""Colour of each mood; the symbols say the same."""


def console(*, no_color: bool, error: bool = False) -> Console:
    """Return the terminal; NO_COLOR counts too, and so does output that is no terminal."""
    # A pipe has no width: lines must not be folded there.
    made = Console(no_color=no_color, highlight=False, stderr=error, soft_wrap=True)
    return made if made.is_terminal else Console(no_color=True, highlight=False, stderr=error, width=200)


def render(view: RolloutView) -> RenderableType:
    """Return the whole picture of a rollout."""
    return Group(_head(view), Text(""), _arms(view), Text(""), _tree(view))


def _said(mood: Mood, text: str) -> Text:
    return Text(f"{SYMBOLS[mood]} {text}", style=STYLES[mood])


def _head(view: RolloutView) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("Name:", Text(view.name))
    grid.add_row("Namespace:", Text(view.namespace))
    reason = f" ({view.reason})" if view.reason and view.reason != view.phase else ""
    grid.add_row("Status:", _said(view.mood, view.phase + reason))
    if view.message:
        grid.add_row("Message:", Text(view.message))
    for label, text in view.facts:
        grid.add_row(f"{label}:", Text(text))
    return grid


def _arms(view: RolloutView) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ARM", "MATURED RUNS", "ESCALATED", "RATE"):
        table.add_column(name, justify="left" if name == "ARM" else "right")
    for arm in view.arms:
        rate = "-" if arm.rate is None else f"{100 * arm.rate:.2f} %"
        table.add_row(arm.name, str(arm.runs), str(arm.escalated), rate)
    return table


def _tree(view: RolloutView) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("NAME", "KIND", "STATUS", "AGE", "INFO"):
        table.add_column(header, no_wrap=header != "INFO", overflow="fold")
    for place, row in enumerate(view.rows):
        name = Text(_branches(view.rows, place) + row.name)
        table.add_row(name, row.kind, _said(row.mood, row.phase), row.age, Text(row.info))
    return table


def _branches(rows: tuple[Row, ...], place: int) -> str:
    """Return the lines before a row's name: `├──` where a sibling follows, `└──` where none does."""
    depth = rows[place].depth
    if depth == 0:
        return ""
    parts = ["│  " if _continues(rows, place, level) else "   " for level in range(1, depth)]
    return "".join(parts) + ("├──" if _continues(rows, place, depth) else "└──")


def _continues(rows: tuple[Row, ...], place: int, depth: int) -> bool:
    """Return whether another row of this depth follows under the same parent."""
    for row in rows[place + 1 :]:
        if row.depth <= depth:
            return row.depth == depth
    return False

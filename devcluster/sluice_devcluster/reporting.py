"""Progress on the screen: a live line on a terminal, plain lines anywhere else.

Everything goes to standard error, so that standard output carries only what another program reads.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO


class Stage(Protocol):
    """One step that is under way."""

    def update(self, note: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Show how far the step is: ``done`` of ``total`` units where they are known, and a short note."""


class Reporter(Protocol):
    """Where progress is told."""

    def stage(self, title: str) -> AbstractContextManager[Stage]:
        """Announce a step; its end, success or failure, is announced when the block ends."""

    def note(self, text: str) -> None:
        """Say one line."""


class _PlainStage:
    """Prints at most one line every ``interval`` seconds."""

    def __init__(self, title: str, say: Callable[[str], None], interval: float, clock: Callable[[], float]) -> None:
        self._title, self._say, self._interval, self._clock = title, say, interval, clock
        self._last = clock()

    def update(self, note: str = "", *, done: int | None = None, total: int | None = None) -> None:
        now = self._clock()
        if now - self._last >= self._interval:
            self._last = now
            self._say(f"  {self._title}: {_figures(done, total)}{note}".rstrip(": "))


class PlainReporter:
    """One line when a step takes long and one when it ends; what a log file wants."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        start = self._clock()
        try:
            yield _PlainStage(title, self.note, self._interval, self._clock)
        except BaseException:
            self.note(f"✗ {title} ({self._clock() - start:.1f} s)")
            raise
        self.note(f"✓ {title} ({self._clock() - start:.1f} s)")

    def note(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)


class SilentReporter:
    """Says nothing."""

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        yield self

    def update(self, note: str = "", *, done: int | None = None, total: int | None = None) -> None:
        """Drop the update."""

    def note(self, text: str) -> None:
        """Drop the line."""


class TerminalReporter:
    """A live line with a spinner, a bar where the total is known, and the time that has passed."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        start = time.monotonic()
        try:
            with Progress(*columns, console=self._console, transient=True) as progress:
                task = progress.add_task(escape(title), total=None, note="")

                class Live:
                    def update(self, note: str = "", *, done: int | None = None, total: int | None = None) -> None:
                        text = escape(f"{_figures(done, total)}{note}")
                        progress.update(task, completed=done or 0, total=total, note=text)

                yield Live()
        except BaseException:
            self._console.print(f"[red]✗[/] {escape(title)} ({time.monotonic() - start:.1f} s)")
            raise
        self._console.print(f"[green]✓[/] {escape(title)} [dim]({time.monotonic() - start:.1f} s)[/]")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)


def default_reporter() -> Reporter:
    """A live reporter where standard error is a terminal and rich is installed, a plain one otherwise."""
    if sys.stderr.isatty():
        try:
            return TerminalReporter()
        except ModuleNotFoundError:
            return PlainReporter()
    return PlainReporter()


def _figures(done: int | None, total: int | None) -> str:
    if done is None:
        return ""
    return f"{done} of {total} " if total else f"{done} "

"""Progress of long commands: a bar with an estimate on a terminal, nothing anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Told how many units are done."""


@contextmanager
def progress_bar(what: str, total: int, *, enabled: bool | None = None) -> Iterator[Advance]:
    """Show how far a command is, on standard error.

    Args:
        what: what is done, e.g. `labelling`.
        total: units in all.
        enabled: whether to show it; None shows it where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield _plain(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True, force_terminal=True), transient=True, refresh_per_second=4
    ) as bar:
        task = bar.add_task(what, total=total)
        # Updating takes a lock; a thousand updates in all are enough for the eye.
        stride = max(1, total // 1000)

        def advance(done: int) -> None:
            if done % stride == 0 or done == total:
                bar.update(task, completed=done)

        yield advance


def _plain(what: str, total: int) -> Advance:
    stride = max(1, total // 20)

    def advance(done: int) -> None:
        if done % stride == 0 or done == total:
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return advance

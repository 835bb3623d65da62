"""A progress bar for `sluice train`, drawn from the `progress.json` that the worker writes."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from sluice_api.contracts.jobs import PROGRESS_FILE, Progress

INTERVAL_SECONDS = 0.25
"""Seconds between looks at the file."""


@contextmanager
def shown(folder: Path, *, quiet: bool) -> Iterator[None]:
    """Within the block, show where the attempt in `folder` stands: a bar on a terminal, a line a stage elsewhere."""
    if quiet:
        yield
        return
    done = threading.Event()
    draw = _draw_bar if sys.stderr.isatty() else _draw_lines
    thread = threading.Thread(target=draw, args=(folder / PROGRESS_FILE, done), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def describe(progress: Progress) -> str:
    """The figures of a progress document in one line."""
    metrics = progress.metrics
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.4f}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if "epoch" in metrics:
        parts.append(f"epoch {metrics['epoch']:.2f}")
    return "  ".join(parts)


def _read(path: Path) -> Progress | None:
    try:
        return Progress.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _draw_lines(path: Path, done: threading.Event) -> None:
    stage = ""
    while True:
        ended = done.wait(INTERVAL_SECONDS)
        progress = _read(path)
        if progress is not None and progress.stage != stage:
            stage = progress.stage
            print(f"{stage}  {describe(progress)}".rstrip(), file=sys.stderr, flush=True)
        if ended:
            return


def _draw_bar(path: Path, done: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None, figures="")
        while True:
            ended = done.wait(INTERVAL_SECONDS)
            progress = _read(path)
            if progress is not None:
                bar.update(
                    task,
                    description=progress.stage,
                    completed=progress.step,
                    total=progress.of or None,
                    figures=describe(progress),
                )
            if ended:
                return

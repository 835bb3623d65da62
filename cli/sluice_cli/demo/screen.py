"""What the demo shows: a live picture on a terminal, plain lines of what changed anywhere else."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sluice_cli.demo.watching import Snapshot, Transition

COLOURS = {
    "Succeeded": "green",
    "Ready": "green",
    "Completed": "green",
    "Pass": "green",
    "Better": "green",
    "Failed": "red",
    "Fail": "red",
    "Stalled": "red",
    "Worse": "red",
    "RolledBack": "red",
}
"""Colour of a phase or verdict; anything else is under way."""
BARS = "▁▂▃▄▅▆▇█"
KIND_ORDER = ("TraceDataset", "FineTuneRun", "EvalRun", "PromotionScorecard", "ShadowRollout")


def coloured(word: str) -> Text:
    """Return a phase or verdict in its colour."""
    return Text(word, style=COLOURS.get(word, "yellow") if word else "dim")


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Return the newest values as bars, scaled to their own range."""
    newest = list(values)[-width:]
    low, high = min(newest), max(newest)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in newest)


def short(digest: str) -> str:
    """Return the first characters of a digest."""
    return digest.removeprefix("sha256:")[:12]


def objects_table(snapshot: Snapshot) -> Table:
    """Return every object with its phase and what it waits for."""
    table = Table(box=None, pad_edge=False, expand=True)
    for header, ratio in (("Kind", 3), ("Name", 5), ("Phase", 3), ("Waits for / because", 12)):
        table.add_column(header, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for kind, name in sorted(snapshot.objects, key=lambda key: (KIND_ORDER.index(key[0]), key[1])):
        status = snapshot.status(kind, name)
        phase = (
            status.get("verdict") or status.get("phase", "")
            if kind == "PromotionScorecard"
            else status.get("phase", "")
        )
        table.add_row(kind, name, coloured(phase), f"{status.get('reason', '')}  {status.get('message', '')}".strip())
    return table


def gates_table(scorecard: Mapping[str, Any]) -> Table:
    """Return the gates of a scorecard, value against threshold."""
    table = Table(box=None, pad_edge=False)
    for header in ("Gate", "Value", "", "Threshold", "n", "95 % interval", "Verdict", "Evidence"):
        table.add_column(header)
    for gate in scorecard.get("gates", []):
        interval = gate.get("interval")
        missing = gate["verdict"] == "Missing"
        table.add_row(
            gate["name"],
            "—" if missing else f"{gate['value']:.3f}",
            "≥" if gate["direction"] == "min" else "≤",
            "—" if gate.get("threshold") is None else f"{gate['threshold']:.2f}",
            str(gate.get("n") or "—"),
            f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "—",
            coloured(gate["verdict"]),
            short(gate.get("source", "")),
        )
    return table


def rollout_lines(name: str, status: Mapping[str, Any]) -> Text:
    """Return weight against measured share, and the arms."""
    weight, arms, evidence = status.get("weight", {}), status.get("arms", {}), status.get("evidence") or {}
    desired = weight.get("desired", 0)
    share = evidence.get("candidateShare")
    filled = round(desired / 100 * 40)
    text = Text(f"{name}  ")
    text.append("█" * filled + "░" * (40 - filled), style="cyan")
    text.append(f" weight {desired} % (route {weight.get('actual', 0)} %)")
    text.append(f", measured share {share:.1%}" if share is not None else ", share not measured yet")
    for label, key in (("stable", "stable"), ("candidate", "candidate")):
        arm = arms.get(key, {})
        runs = arm.get("runs", 0)
        rate = f"{arm.get('escalations', 0) / runs:.1%}" if runs else "—"
        text.append(f"\n  {label:9} {runs:5} matured runs, {arm.get('escalations', 0):4} escalated ({rate})")
    if evidence.get("harm") is not None:
        text.append(f"\n  evidence of harm {evidence['harm']:.3g}, of non-inferiority {evidence['nonInferiority']:.3g}")
    return text


class Screen:
    """Shows chapters and the state of the objects; a live picture on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None, *, plain: bool = False) -> None:
        """Write to `console`, by default standard output."""
        self.console = console or Console(highlight=False)
        self._plain = plain or not self.console.is_terminal
        self._live: Live | None = None
        self._start = time.monotonic()
        self._printed: dict[str, Any] = {}

    def __enter__(self) -> "Screen":
        """Return itself; the live picture starts with the first chapter that has objects."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the live picture."""
        self.still()

    def chapter(self, number: int, title: str, text: str) -> None:
        """Open a chapter."""
        self.still()
        self.console.print()
        self.console.rule(f"[bold]{number}. {title}[/bold]  [dim]{self._elapsed()}[/dim]", align="left")
        self.console.print(text, style="dim")

    def say(self, text: str | RenderableType) -> None:
        """Print something that stays."""
        self.console.print(text)

    def show(self, snapshot: Snapshot, transitions: list[Transition]) -> None:
        """Show the present state, and every change as a line that stays."""
        for change in transitions:
            line = Text(f"{self._elapsed()}  {change.kind}/{change.name}: ")
            line.append_text(coloured(change.phase))
            line.append(f"  {change.reason}" if change.reason else "")
            line.append(f"  {change.message}" if change.message else "", style="dim")
            self.console.print(line)
        if self._plain:
            self._print_figures(snapshot)
        else:
            self._picture(snapshot)

    def still(self) -> None:
        """End the live picture, if there is one."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _elapsed(self) -> str:
        """Return minutes and seconds since the start."""
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60}:{seconds % 60:02}"

    def _picture(self, snapshot: Snapshot) -> None:
        """Draw the live picture."""
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        parts: list[RenderableType] = [objects_table(snapshot)]
        for (kind, name), item in snapshot.objects.items():
            status = item.get("status") or {}
            if kind == "FineTuneRun" and status.get("phase") == "Running" and name in snapshot.losses:
                parts.append(Panel(_training(snapshot, name, status), title=f"training {name}", title_align="left"))
            if kind == "ShadowRollout" and status.get("step"):
                parts.append(Panel(rollout_lines(name, status), title="traffic", title_align="left"))
        self._live.update(Panel(Group(*parts), title=f"kubectl get sluice  ·  {self._elapsed()}", title_align="left"))

    def _print_figures(self, snapshot: Snapshot) -> None:
        """Print losses and weights as lines, when they changed."""
        for name, curve in snapshot.losses.items():
            self._print_once(
                f"loss/{name}", curve[-1], f"{self._elapsed()}  {name}: step {curve[-1][0]}, loss {curve[-1][1]:.3f}"
            )
        for (kind, name), item in snapshot.objects.items():
            status = item.get("status") or {}
            if kind == "ShadowRollout" and status.get("step"):
                text = rollout_lines(name, status)
                self._print_once(f"rollout/{name}", text.plain, text)

    def _print_once(self, key: str, value: Any, line: str | Text) -> None:
        """Print a line unless its value was printed last."""
        if self._printed.get(key) != value:
            self._printed[key] = value
            self.console.print(line, style="dim")


def _training(snapshot: Snapshot, name: str, status: Mapping[str, Any]) -> Text:
    """Return step, loss and the curve so far."""
    progress = status.get("progress") or {}
    losses = [loss for _, loss in snapshot.losses[name]]
    speed = progress.get("tokensPerSecond")
    text = Text(f"step {progress.get('step')}/{progress.get('of')}  loss {losses[-1]:.3f}  {sparkline(losses)}")
    text.append(f"  {speed:,.0f} tokens/s" if speed else "")
    return text

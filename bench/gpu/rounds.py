"""Rounds of contenders, each alone on the device in a process of its own, none of which can take the others down.

A contender that fails, or that is not done in time, is noted with what it said, and the rest go on. Steps are timed on
the device's own clock, by events between its kernels, so that the host may run ahead as it does outside of a
measurement; it waits for the device once, at the end.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any

from turns import Turn

if TYPE_CHECKING:  # a process that is started for one function need not load what another one needs
    import workload

FEWEST = 3
"""Steps that count at least, however long they take."""
LEAVE_SECONDS = 10.0
"""Seconds that a process has to end by itself."""
SHARE = 0.8
"""Of a contender's time, with the start of its process, what it may begin a step in."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Run:
    """How much is measured."""

    toy: "workload.Toy"
    """The language model."""
    shape: str
    """Its name."""
    steps: int
    """Steps of a contender that count, over all rounds."""
    warm_up: int
    """Steps of a round that do not."""
    rounds: int
    """Rounds."""
    seconds: float
    """Time for one kind of work; no round but the first begins that would not fit, and no contender after it."""
    limit: float
    """Seconds after which a contender's round is ended."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "seconds", "limit"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a contender did in a round, without its first steps."""

    seconds: list[float]
    """Seconds of each step."""
    units: list[float]
    """Tokens, samples or pairs of each step."""
    peak: int
    """Bytes allocated on the device at most."""
    reserved: int
    """Bytes reserved on the device at most."""
    before: float
    """Seconds of loading, compiling and of the first steps: what a short run pays besides."""


class ContenderError(Exception):
    """A contender has failed; the text says how."""


class OwnTurns(Turn):
    """Turns without anybody to wait for: as many steps as are asked for, or as there is time for."""

    def __init__(self, *, steps: int, fewest: int, until: float, on_device: bool) -> None:
        """Count steps until the time `until`, in seconds since the epoch, but `fewest` at least."""
        self._left, self._fewest, self._until = steps, fewest, until
        self._on_device = on_device
        self._marks: list[tuple[Any, Any]] = []
        self._begun: Any = None
        self.units: list[float] = []

    def begin(self) -> bool:
        """Start the next step's clock, if there is one."""
        late = time.time() > self._until and len(self.units) >= self._fewest
        if len(self.units) >= self._left or late:
            return False
        self._begun = self._mark()
        return True

    def end(self, units: float, **figures: float) -> None:
        """Note the step."""
        self._marks.append((self._begun, self._mark()))
        self.units.append(units)

    def seconds(self) -> list[float]:
        """Seconds of each step, once the device is done with all of them."""
        if not self._on_device:
            return [end - begin for begin, end in self._marks]
        import torch

        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1000 for begin, end in self._marks]

    def _mark(self) -> Any:
        if not self._on_device:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class _Telling:
    """Tells the other end of a pipe what went wrong; what did still goes on its way."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._connection.send((False, f"{kind.__name__}: {error}"[:500]))


def _tell(connection: Connection, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    with _Telling(connection):
        connection.send((True, function(**options)))


def alone(function: Callable[..., Any], seconds: float, **options: Any) -> Any:
    """What a function returns, given options, in a process of its own, which is ended after so many seconds.

    Raises:
        ContenderError: it raised, its process ended, or it took too long.
    """
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, function, options))
    process.start()
    theirs.close()
    try:
        if not mine.poll(seconds):
            raise ContenderError(f"not done within {seconds:.0f} s")
        done, found = mine.recv()
        process.join(LEAVE_SECONDS)
    except EOFError as error:
        process.join(LEAVE_SECONDS)
        raise ContenderError(f"its process ended with exit code {process.exitcode}") from error
    finally:
        _end(process)
        mine.close()
    if not done:
        raise ContenderError(str(found))
    return found


def _end(process: Any) -> None:
    process.terminate()
    process.join(LEAVE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def take_round(contender: Callable[..., None], run: Run, options: Mapping[str, Any], until: float) -> Round:
    """One contender's round, in this process; no step but the fewest begins after the time `until`."""
    import torch

    on_device = run.toy.device != "cpu"
    started = time.perf_counter()
    turns = OwnTurns(
        steps=run.warm_up + max(1, run.steps // run.rounds),
        fewest=run.warm_up + min(FEWEST, run.steps),
        until=until,
        on_device=on_device,
    )

    def ready() -> Turn:
        if on_device:
            torch.cuda.reset_peak_memory_stats()
        return turns

    contender(ready, toy=run.toy, **options)
    counted = slice(run.warm_up, None)
    seconds = turns.seconds()[counted]
    return Round(
        seconds=seconds,
        units=turns.units[counted],
        peak=torch.cuda.max_memory_allocated() if on_device else 0,
        reserved=torch.cuda.max_memory_reserved() if on_device else 0,
        before=time.perf_counter() - started - sum(seconds),
    )


def summary(rounds: list[Round]) -> dict[str, float]:
    """Figures of a contender; its rate is the median over steps, which a step that compiles late does not change."""
    steps = [step for each in rounds for step in zip(each.units, each.seconds, strict=True)]
    return {
        "rate": median(units / seconds for units, seconds in steps),
        "mean_rate": sum(units for units, _ in steps) / sum(seconds for _, seconds in steps),
        "steps": len(steps),
        "step_seconds": median(seconds for _, seconds in steps),
        "peak_gib": max(each.peak for each in rounds) / GIB,
        "reserved_gib": max(each.reserved for each in rounds) / GIB,
        "before_seconds": median(each.before for each in rounds),
    }


Figures = dict[str, dict[str, float | str]]
"""Figures by contender; of one that failed, `error`, besides what rounds before it gave."""


def measure(
    contenders: Mapping[str, Callable[..., None]],
    run: Run,
    options: Mapping[str, Any],
    told: Callable[[str, Figures], None],
) -> Figures:
    """Rates and memory of each contender, over alternating rounds; `told` hears whose turn it was, and all figures."""
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    errors: dict[str, str] = {}
    figures: Figures = {}
    began = time.monotonic()
    for number in range(run.rounds):
        spent = time.monotonic() - began
        if number and spent * (number + 1) / number > run.seconds:
            break
        for name, function in contenders.items():
            if name in errors:
                continue
            limit = min(run.limit, run.seconds - (time.monotonic() - began))
            if limit <= 0:
                errors[name] = f"no time was left: the others took {run.seconds:.0f} s"
            else:
                print(f"{name}, round {number + 1}: at most {limit:.0f} s", file=sys.stderr, flush=True)
                try:
                    own = {"contender": function, "run": run, "options": options, "until": time.time() + SHARE * limit}
                    found[name].append(alone(take_round, limit, **own))
                except ContenderError as error:
                    errors[name] = str(error)
            figures[name] = dict(summary(found[name])) if found[name] else {}
            figures[name] |= {"error": errors[name]} if name in errors else {}
            told(name, figures)
    return figures

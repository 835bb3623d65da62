"""Contenders that take turns, step by step, each in a process of its own.

A contender blocks between two optimizer steps until it is told to go on; while one works, the others wait. So whatever
else the machine does hits all of them alike, and each still has its own memory to be measured.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

WARM_UP = 2
"""Turns that are not counted."""
FEWEST = 3
"""Turns that count at least, however long they take."""
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
"""glibc keeps freed memory: handing out pages anew costs TRL, whose tensors are largest, about half as much again."""
START_SECONDS = 300.0
"""Seconds until a contender must be ready, or done with a turn."""


class Turn:
    """A contender's side: waits for its turn, says what it did in it."""

    def __init__(self, connection: Connection) -> None:
        """Talk over a pipe."""
        self._connection = connection
        self._started = self._cpu = 0.0

    def begin(self) -> bool:
        """Wait for the next turn; False when there is none any more."""
        if not self._connection.recv():
            return False
        self._started, self._cpu = time.perf_counter(), time.process_time()
        return True

    def end(self, units: float, **figures: float) -> None:
        """Say how much was done, with further figures; the turn's time is from `begin` to now."""
        figures["cpu"] = time.process_time() - self._cpu
        self._connection.send((time.perf_counter() - self._started, units, figures))

    def close(self) -> None:
        """Say what the process needed at most, in bytes."""
        self._connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


class NoMoreTurnsError(Exception):
    """Ends a contender that is inside somebody else's loop."""


@dataclass
class Tally:
    """What a contender did in the turns that count."""

    seconds: list[float] = field(default_factory=list)
    """Seconds of each turn."""
    units: list[float] = field(default_factory=list)
    """Units done in each turn."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    """Further figures of each turn, by name."""
    peak_bytes: float = 0.0
    """Largest resident set of the process."""

    @property
    def rate(self) -> float:
        """Units per second over all turns."""
        return sum(self.units) / sum(self.seconds)

    @property
    def cpu_rate(self) -> float:
        """Units per second of processor time, all threads together: what a busy machine changes least."""
        return sum(self.units) / sum(self.figures["cpu"])

    @property
    def turn_seconds(self) -> float:
        """Median seconds of a turn."""
        return median(self.seconds)


def take_turns(
    contenders: Mapping[str, Callable[..., Any]],
    turns: int,
    *,
    seconds: float = float("inf"),
    seldom: Mapping[str, int] | None = None,
    keeping: bool = True,
    **options: Any,
) -> dict[str, Tally]:
    """Let every contender take `turns` turns after the warm-up, in an order that rotates.

    Args:
        contenders: functions of a module, called as `f(turn, **options)` in a fresh process each.
        turns: turns that count, at most.
        seconds: time after which no further round of turns begins, once `FEWEST` count.
        seldom: contenders that take part in every so manieth round only.
        keeping: start every contender with `ALLOCATOR`; what the environment says of it wins.
        **options: passed on.

    Raises:
        RuntimeError: a contender ended early.
    """
    context = multiprocessing.get_context("spawn")
    tallies = {name: Tally() for name in contenders}
    pipes: dict[str, Connection] = {}
    processes = []
    added = {name: value for name, value in ALLOCATOR.items() if keeping and name not in os.environ}
    os.environ.update(added)
    try:
        for name, function in contenders.items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_contend, args=(function, theirs, options), name=name, daemon=True)
            process.start()
            theirs.close()
            pipes[name] = mine
            processes.append(process)
            _receive(mine, name)
        order = list(contenders)
        began = time.monotonic()
        for number in range(WARM_UP + turns):
            if number >= WARM_UP + FEWEST and time.monotonic() - began > seconds:
                break
            if number > WARM_UP:
                so_far = ", ".join(f"{name} {tally.rate:,.1f}/s" for name, tally in tallies.items())
                print(f"turn {number - WARM_UP} of {turns}: {so_far}", file=sys.stderr, flush=True)
            order = order[1:] + order[:1]
            for name in order:
                if number > WARM_UP and (number - WARM_UP) % (seldom or {}).get(name, 1):
                    continue
                pipes[name].send(True)
                took, units, figures = _receive(pipes[name], name)
                if number >= WARM_UP:
                    tallies[name].seconds.append(took)
                    tallies[name].units.append(units)
                    for key, value in figures.items():
                        tallies[name].figures.setdefault(key, []).append(value)
        for name, pipe in pipes.items():
            pipe.send(False)
            tallies[name].peak_bytes = _receive(pipe, name)
    finally:
        for name in added:
            del os.environ[name]
        for process in processes:
            process.terminate()
            process.join()
    return tallies


def _receive(pipe: Connection, name: str) -> Any:
    if not pipe.poll(START_SECONDS):
        raise RuntimeError(f"{name} did not answer within {START_SECONDS:.0f} s")
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"{name} ended early: its own message is above") from error


def _contend(function: Callable[..., Any], connection: Connection, options: Mapping[str, Any]) -> None:
    turn = Turn(connection)

    def ready() -> Turn:
        connection.send("ready")
        return turn

    function(ready, **options)
    turn.close()

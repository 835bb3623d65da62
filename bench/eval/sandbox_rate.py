"""Sandboxed executions a second, every protection on."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from sluice_evaluator.sandbox.client import Case, Sandbox

CODE = "def add(a, b):\n    return a + b\n"


def measure(executions: int, rounds: int) -> float:
    """Run a small solution many times over on all cores that this process may use; best of some rounds."""
    cores = len(os.sched_getaffinity(0))
    cases = [Case(arguments=(i, i + 1), expected=2 * i + 1) for i in range(5)]
    best = 0.0
    with Sandbox(servers=cores) as sandbox, ThreadPoolExecutor(cores) as pool:
        for _ in range(rounds):
            started = time.perf_counter()
            passed = sum(pool.map(lambda _: sandbox.run_python(CODE, "add", cases).passed, range(executions // rounds)))
            best = max(best, executions // rounds / (time.perf_counter() - started))
            if passed != executions // rounds:
                raise RuntimeError(f"{executions // rounds - passed} correct solutions did not pass")
    return best

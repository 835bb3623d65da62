"""Shoppers: runs for the agent, as many as asked for, or at a steady rate until stopped."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import httpx

from storefront.tasks import EVALUATION_SEEDS, make_task

TENANTS = tuple(f"tenant-{number}" for number in range(1, 13))
"""Where shoppers come from."""
CONCURRENCY = 24
"""Runs in flight at most."""
TIMEOUT_S = 60.0
"""Seconds for one run."""


@dataclass
class Counts:
    """What the runs came to."""

    runs: int = 0
    successes: int = 0
    escalated: int = 0
    failed: int = 0
    """Runs that the agent did not serve."""
    variants: dict[str, int] = field(default_factory=dict)
    """Served runs by arm."""

    def add(self, outcome: dict[str, object]) -> None:
        """Count a served run."""
        self.runs += 1
        self.successes += bool(outcome["success"])
        self.escalated += not outcome["success"]
        variant = str(outcome.get("variant") or "")
        self.variants[variant] = self.variants.get(variant, 0) + 1


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Sends runs to an agent."""

    url: str
    first_seed: int
    """Seed of the first task; later ones follow. Traffic wraps below the evaluation's seeds."""
    rate: float = 0.0
    """Runs a second; 0 is as fast as the agent serves them."""
    counts: Counts = field(default_factory=Counts)

    async def send(self, runs: int | None, stopped: asyncio.Event) -> None:
        """Send `runs` runs, or runs until `stopped` is set where `runs` is None."""
        slots, tasks = asyncio.Semaphore(CONCURRENCY), set()
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            async for number in self._numbers(runs, stopped):
                await slots.acquire()
                task = asyncio.create_task(self._run(client, number))
                tasks.add(task)
                task.add_done_callback(lambda done: (tasks.discard(done), slots.release()))
            await asyncio.gather(*tasks)

    async def _numbers(self, runs: int | None, stopped: asyncio.Event) -> AsyncIterator[int]:
        """Yield numbers of runs, at the fleet's rate."""
        start, number = time.monotonic(), 0
        while not stopped.is_set() and (runs is None or number < runs):
            if self.rate:
                pause = start + number / self.rate - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
            yield number
            number += 1

    async def _run(self, client: httpx.AsyncClient, number: int) -> None:
        """Send one run and count what came of it."""
        seed = (self.first_seed + number) % EVALUATION_SEEDS
        task = make_task(seed)
        body = {
            "task_id": task.task_id,
            "task_text": task.text,
            "url": task.url,
            "tenant_id": Random(f"storefront-tenant-{seed}").choice(TENANTS),
            "run_id": f"run-{self.first_seed}-{number}",
        }
        try:
            response = await client.post(f"{self.url}/v1/predict", json=body)
            response.raise_for_status()
            self.counts.add(response.json())
        except (httpx.HTTPError, ValueError) as error:
            self.counts.failed += 1
            print(f"run {number}: {type(error).__name__}: {error}", file=sys.stderr)


async def _main(fleet: Fleet, runs: int | None) -> None:
    """Send until done or told to stop."""
    stopped = asyncio.Event()
    stop: Callable[[], None] = stopped.set
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await fleet.send(runs, stopped)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m storefront.fleet --url URL`: 0 when at least one run was served and none failed."""
    parser = argparse.ArgumentParser(prog="storefront.fleet", description=main.__doc__)
    parser.add_argument("--url", required=True, help="base URL of the agent")
    parser.add_argument("--runs", type=int, help="runs to send; without it until stopped")
    parser.add_argument("--rate", type=float, default=0.0, help="runs a second; 0 is as fast as they are served")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first task")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    arguments = parser.parse_args(argv)
    fleet = Fleet(url=arguments.url.rstrip("/"), first_seed=arguments.first_seed, rate=arguments.rate)
    asyncio.run(_main(fleet, arguments.runs))
    counts = fleet.counts
    if arguments.json:
        print(json.dumps(vars(counts)))
    else:
        print(
            f"{counts.runs} runs, {counts.successes} solved, {counts.escalated} escalated, {counts.failed} not served"
        )
    return 0 if counts.runs and not counts.failed else 1


if __name__ == "__main__":
    raise SystemExit(main())

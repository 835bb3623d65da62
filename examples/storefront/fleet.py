"""Shoppers: production traffic of many tenants, paced or as fast as the agent serves it."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from storefront.service import TOKEN_HEADERS, token_of
from storefront.tasks import EVALUATION_SEEDS, make_task


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Who comes, and how often."""

    url: str
    """Agent."""
    runs: int | None = None
    """Runs in all; None goes on until stopped."""
    rate: float | None = None
    """Runs started per second; None starts one as soon as another ends."""
    concurrency: int = 48
    """Runs in flight at most."""
    tenants: int = 20
    """Tenants that the shoppers belong to."""
    first_seed: int = 1
    """Seed of the first task; the others follow."""

    def __post_init__(self) -> None:
        if self.runs is not None and self.runs < 1:
            raise ValueError(f"runs must be at least 1, got {self.runs}")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if self.concurrency < 1 or self.tenants < 1:
            raise ValueError("concurrency and tenants must be at least 1")
        if not 0 <= self.first_seed < EVALUATION_SEEDS:
            raise ValueError(f"first_seed must be within 0 and {EVALUATION_SEEDS - 1}: above are evaluation tasks")


@dataclass
class FleetReport:
    """What came of the runs."""

    runs: int = 0
    successes: int = 0
    """Solved by the model without help."""
    escalated: int = 0
    errors: int = 0
    """Requests that the agent did not answer."""
    variants: Counter[str] = field(default_factory=Counter)
    """Runs by arm."""
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "runs": self.runs,
            "successes": self.successes,
            "escalated": self.escalated,
            "errors": self.errors,
            "variants": dict(sorted(self.variants.items())),
            "seconds": round(self.seconds, 3),
        }


def request_of(seed: int, tenants: int) -> dict[str, Any]:
    """The request of one shopper: run and tenant follow from the seed, so their arm does too."""
    task = make_task(seed)
    return {
        "task_id": task.task_id,
        "task_text": task.text,
        "url": task.url,
        "max_steps": 12,
        "tenant_id": f"tenant-{seed % tenants}",
        "run_id": f"run-{seed}",
        "model": None,
    }


async def run_fleet(config: FleetConfig, client: httpx.AsyncClient) -> FleetReport:
    """Sends shoppers until all have been served."""
    report, started = FleetReport(), time.monotonic()
    free = asyncio.Semaphore(config.concurrency)
    headers = {TOKEN_HEADERS[0]: token} if (token := token_of(os.environ)) else {}

    async def shop(seed: int) -> None:
        try:
            answer = await client.post(
                f"{config.url.rstrip('/')}/v1/predict", json=request_of(seed, config.tenants), headers=headers
            )
            answer.raise_for_status()
            outcome = answer.json()
        except (httpx.HTTPError, ValueError):
            report.errors += 1
        else:
            report.runs += 1
            report.successes += bool(outcome["success"])
            report.escalated += bool(outcome["escalated"])
            report.variants[outcome["serving"]["variant"] or "__unassigned__"] += 1
        finally:
            free.release()

    async with asyncio.TaskGroup() as group:
        number = 0
        while config.runs is None or number < config.runs:
            if config.rate is not None:
                await asyncio.sleep(max(0.0, started + number / config.rate - time.monotonic()))
            await free.acquire()
            group.create_task(shop(config.first_seed + number))
            number += 1
    report.seconds = time.monotonic() - started
    return report


async def _main(config: FleetConfig) -> FleetReport:
    limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
    async with httpx.AsyncClient(timeout=60.0, limits=limits, trust_env=False) as client:
        return await run_fleet(config, client)


def main(argv: list[str] | None = None) -> int:
    """`python -m storefront.fleet --url URL`: 0 when every run was answered, 1 when some were not."""
    parser = argparse.ArgumentParser(prog="storefront.fleet", description="Traffic for the storefront agent.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--runs", type=int, default=None, help="runs in all (default: until stopped)")
    parser.add_argument("--rate", type=float, default=None, help="runs per second (default: as fast as possible)")
    parser.add_argument("--concurrency", type=int, default=FleetConfig.concurrency)
    parser.add_argument("--tenants", type=int, default=FleetConfig.tenants)
    parser.add_argument("--first-seed", type=int, default=FleetConfig.first_seed)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        config = FleetConfig(
            url=arguments.url,
            runs=arguments.runs,
            rate=arguments.rate,
            concurrency=arguments.concurrency,
            tenants=arguments.tenants,
            first_seed=arguments.first_seed,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        report = asyncio.run(_main(config))
    except KeyboardInterrupt:
        return 130
    if arguments.json:
        print(json.dumps(report.document()))
    else:
        print(
            f"{report.runs} runs in {report.seconds:.1f} s: {report.successes} solved without help, "
            f"{report.escalated} escalated, {report.errors} unanswered",
            file=sys.stderr,
        )
    return 0 if report.errors == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())

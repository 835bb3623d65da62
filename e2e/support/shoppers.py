"""Requests to the agent through the gateway, or to one pod of it."""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from sluice_api.cohorts import cohort_of
from storefront.fleet import FleetConfig, FleetReport, request_of, run_fleet

HOST = "agent.example.com"
"""Host name of the agent at the gateway."""
Z = 3.29
"""Two-sided 99.9 %: a healthy share misses its interval once in a thousand looks."""
BATCH_S = 4.0
"""Seconds of shoppers between two looks whether more shall come."""
LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=32)


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of the requests the candidate answered."""

    requests: int
    candidate: int
    failed: int

    @property
    def interval(self) -> tuple[float, float]:
        """The candidate's share in per cent with its 99.9 % interval by Wilson."""
        n, p = self.requests, self.candidate / self.requests
        middle, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        return 100 * (middle - half) / (1 + Z * Z / n), 100 * (middle + half) / (1 + Z * Z / n)

    def fits(self, weight: int) -> bool:
        """Tell whether a weight in per cent lies within the interval."""
        low, high = self.interval
        return low - 1e-9 <= weight <= high + 1e-9


def serve(url: str, *, runs: int, first_seed: int, host: str = HOST, concurrency: int = 16) -> FleetReport:
    """Let shoppers come as fast as the agent serves them, and return what came of it."""

    async def play() -> FleetReport:
        config = FleetConfig(url=url, runs=runs, first_seed=first_seed, concurrency=concurrency)
        async with httpx.AsyncClient(timeout=60.0, limits=LIMITS, trust_env=False, headers={"Host": host}) as client:
            return await run_fleet(config, client)

    return asyncio.run(play())


def served_by(url: str, *, seed: int, host: str = HOST) -> str:
    """Let one shopper come and return the digest of the weights that served it."""
    with httpx.Client(timeout=60.0, trust_env=False, headers={"Host": host}) as client:
        answer = client.post(f"{url}/v1/predict", json=request_of(seed, 20))
        answer.raise_for_status()
        return str(answer.json()["serving"]["digest"])


def measure(url: str, *, requests: int, host: str = HOST, concurrency: int = 8) -> Share:
    """Ask the agent's health page that often and count who answers."""
    counts = Counter(_variants(url, [{}] * requests, host=host, concurrency=concurrency))
    return Share(requests=requests, candidate=counts["candidate"], failed=counts["failed"])


def arms_of(url: str, keys: Sequence[str], *, header: str, host: str = HOST, concurrency: int = 8) -> dict[str, str]:
    """Ask the agent's health page once for each key, with its cohort in a header, and return who answered."""
    asked = [{header: str(cohort_of(key))} for key in keys]
    return dict(zip(keys, _variants(url, asked, host=host, concurrency=concurrency), strict=True))


def _variants(url: str, asked: Sequence[Mapping[str, str]], *, host: str, concurrency: int) -> list[str]:
    """Send a request with each of these headers, and return who answered each."""
    answers = [""] * len(asked)

    async def play() -> None:
        left = iter(enumerate(asked))
        async with httpx.AsyncClient(timeout=30.0, limits=LIMITS, trust_env=False, headers={"Host": host}) as client:

            async def ask() -> None:
                for place, headers in left:
                    answers[place] = await _variant(client, url, headers)

            await asyncio.gather(*(ask() for _ in range(concurrency)))

    asyncio.run(play())
    return answers


async def _variant(client: httpx.AsyncClient, url: str, headers: Mapping[str, str] | None = None) -> str:
    try:
        answer = await client.get(f"{url}/healthz", headers=headers)
        return str(answer.json()["variant"]) if answer.status_code == 200 else "failed"
    except (httpx.HTTPError, ValueError, KeyError):
        return "failed"


@dataclass
class Stream:
    """A request every few milliseconds, and when each was answered by whom."""

    seen: list[tuple[float, str]] = field(default_factory=list)
    """Monotonic seconds of the answer, and `baseline`, `candidate` or `failed`."""

    def failed(self) -> int:
        """Return how many requests got no good answer."""
        return sum(1 for _, variant in self.seen if variant == "failed")

    def last(self, variant: str) -> float | None:
        """Return when an arm answered for the last time."""
        return max((at for at, name in self.seen if name == variant), default=None)


@contextmanager
def streaming(url: str, *, host: str = HOST, every_s: float = 0.02) -> Iterator[Stream]:
    """Keep asking while the block runs."""
    stream, stop = Stream(), threading.Event()

    async def play() -> None:
        async with httpx.AsyncClient(timeout=30.0, limits=LIMITS, trust_env=False, headers={"Host": host}) as client:
            while not stop.is_set():
                stream.seen.append((time.monotonic(), await _variant(client, url)))
                await asyncio.sleep(every_s)

    thread = threading.Thread(target=lambda: asyncio.run(play()), name="stream", daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        stop.set()
        thread.join(60.0)


@contextmanager
def shopping(url: str, *, per_second: float, first_seed: int, host: str = HOST) -> Iterator[None]:
    """Keep shoppers coming while the block runs, a few seconds' worth at a time; the last are served to the end."""
    stop = threading.Event()
    batch = max(1, round(BATCH_S * per_second))

    async def play() -> None:
        async with httpx.AsyncClient(timeout=60.0, limits=LIMITS, trust_env=False, headers={"Host": host}) as client:
            seed = first_seed
            while not stop.is_set():
                config = FleetConfig(url=url, rate=per_second, runs=batch, first_seed=seed, concurrency=24)
                await run_fleet(config, client)
                seed += batch

    thread = threading.Thread(target=lambda: asyncio.run(play()), name="shoppers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90.0)

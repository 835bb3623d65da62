"""Asks Prometheus for a rollout's guards. Whatever is not exactly one finite number is no answer."""

import asyncio
import math
from collections.abc import Iterable
from typing import Any

import aiohttp

from sluice_api.v1alpha1.shadowrollout import Guard
from sluice_operator.decisions.base import GuardView

TIMEOUT_S = 5.0
"""Seconds within which all guards of a rollout must be answered."""


async def ask(prometheus: str, guards: Iterable[Guard]) -> dict[str, GuardView]:
    """Return each guard's value now, or why there is none; never raises for what Prometheus does."""
    wanted = list(guards)
    if not prometheus:
        missing = GuardView(problem="the operator knows no Prometheus: start it with --prometheus URL")
        return {guard.name: missing for guard in wanted}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        answers = await asyncio.gather(*(_ask_one(session, prometheus, guard) for guard in wanted))
    return {guard.name: answer for guard, answer in zip(wanted, answers, strict=True)}


async def _ask_one(session: aiohttp.ClientSession, prometheus: str, guard: Guard) -> GuardView:
    url = f"{prometheus.rstrip('/')}/api/v1/query"
    try:
        async with session.post(url, data={"query": guard.query, "timeout": f"{TIMEOUT_S:g}s"}) as response:
            answer = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return GuardView(problem=f"{prometheus} does not answer: {error or type(error).__name__}")
    return read_answer(answer)


def read_answer(answer: Any) -> GuardView:
    """Return the value of an answer of `/api/v1/query`: one scalar, or a vector of one sample."""
    if not isinstance(answer, dict) or answer.get("status") != "success":
        told = answer.get("error") if isinstance(answer, dict) else None
        return GuardView(problem=f"Prometheus refuses the query: {str(told or 'not its answer')[:300]}")
    try:
        data = answer["data"]
        if data["resultType"] == "scalar":
            value = float(data["result"][1])
        elif data["resultType"] == "vector" and len(data["result"]) == 1:
            value = float(data["result"][0]["value"][1])
        else:
            count = len(data["result"])
            return GuardView(problem=f"the query gives {count} series instead of one: aggregate it, e.g. with sum()")
    except (KeyError, IndexError, TypeError, ValueError):
        return GuardView(problem="Prometheus' answer cannot be read")
    if not math.isfinite(value):
        return GuardView(problem=f"the query gives {value}, no number: is there traffic?")
    return GuardView(value=value)

"""One POST of JSON, with every way to fail turned into an `InfrastructureError`.

The connection, time-outs, 408, 425, 429 and 5xx are worth another try; other refusals are not: a wrong token or path
stays wrong. An answer that is not a JSON object of bounded size is the endpoint's fault, too, never the model's.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from sluice_evaluator.errors import InfrastructureError, ThrottledError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Largest answer that is read."""
_RETRYABLE = frozenset({408, 425, 500, 502, 503, 504})


def http_client(*, concurrency: int, timeout_s: float) -> httpx.AsyncClient:
    """Make a client whose pool fits the concurrency and whose every phase has a limit."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s), pool=None),
        limits=httpx.Limits(max_connections=concurrency + 1, max_keepalive_connections=concurrency + 1),
        follow_redirects=True,
    )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110, 10.2.3); None where there is none that makes sense."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        instant = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, ((instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - now).total_seconds())


def _refusal(url: str, response: httpx.Response) -> InfrastructureError:
    retry_after = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
    message = f"{url} answered {response.status_code}"
    if response.status_code == 429:
        return ThrottledError(message, retry_after_s=retry_after)
    if response.status_code in (401, 403):
        message += ": check the token"
    retryable = response.status_code in _RETRYABLE
    return InfrastructureError(message, retryable=retryable, retry_after_s=retry_after if retryable else None)


async def _bounded_body(url: str, response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise InfrastructureError(f"{url} answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def post_json(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, Any]:
    """POST a JSON object and return the JSON object that comes back.

    Raises:
        InfrastructureError: anything else came back, or nothing did.
    """
    try:
        async with client.stream("POST", url, json=body, headers=headers) as response:
            if response.status_code != 200:
                raise _refusal(url, response)
            data = await _bounded_body(url, response)
    except httpx.ConnectError as error:
        raise InfrastructureError(f"{url} is not reachable: is it running, and is the address right?") from error
    except httpx.TimeoutException as error:
        raise InfrastructureError(f"{url} did not answer in time ({type(error).__name__})") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        retryable = not isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL)
        raise InfrastructureError(f"{url} failed: {type(error).__name__}", retryable=retryable) from error
    try:
        answer = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InfrastructureError(f"{url} answered something that is not JSON") from error
    if not isinstance(answer, dict):
        raise InfrastructureError(f"{url} answered a {type(answer).__name__}, not an object")
    return answer

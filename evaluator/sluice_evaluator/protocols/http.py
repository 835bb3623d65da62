"""One POST of JSON, with every way to fail turned into an `InfrastructureError`.

The connection, time-outs, 408, 425, 429 and 5xx are worth another try; other refusals are not: a wrong token or path
stays wrong. An answer that is not a JSON object of bounded size is the endpoint's fault, too, never the model's.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, getproxies, urlopen

import aiohttp

from sluice_evaluator.errors import InfrastructureError, ThrottledError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Largest answer that is read."""
_RETRYABLE = frozenset({408, 425, 500, 502, 503, 504})


def http_client(*, concurrency: int, timeout_s: float) -> aiohttp.ClientSession:
    """Make a client whose pool fits the concurrency and whose every phase has a limit.

    It keeps no cookies: what one task was told, the next one does not know. Proxies of the environment are honoured
    where there are any; looking for them costs every request.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency + 1),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, timeout_s), sock_read=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=bool(getproxies()),
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


def ask_once(url: str, body: Mapping[str, Any] | None = None, *, timeout_s: float) -> tuple[int, str]:
    """GET a URL, or POST JSON to it, outside any loop; give the status and the text that came back, whatever they are.

    Raises:
        ValueError: the URL is none.
        OSError: nothing answered.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"not an HTTP URL: {url!r}")
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=timeout_s) as response:
            return int(response.status), response.read(MAX_ANSWER_BYTES).decode(errors="replace")
    except HTTPError as error:
        with error:
            return error.code, error.read(MAX_ANSWER_BYTES).decode(errors="replace")
    except HTTPException as error:
        raise OSError(f"{url} answered no HTTP ({type(error).__name__})") from error


def _refusal(url: str, response: aiohttp.ClientResponse) -> InfrastructureError:
    retry_after = retry_after_seconds(response.headers.get("retry-after"), datetime.now(UTC))
    message = f"{url} answered {response.status}"
    if response.status == 429:
        return ThrottledError(message, retry_after_s=retry_after)
    if response.status in (401, 403):
        message += ": check the token"
    retryable = response.status in _RETRYABLE
    return InfrastructureError(message, retryable=retryable, retry_after_s=retry_after if retryable else None)


async def _bounded_body(url: str, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise InfrastructureError(f"{url} answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def post_json(
    client: aiohttp.ClientSession, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> dict[str, Any]:
    """POST a JSON object and return the JSON object that comes back.

    Raises:
        InfrastructureError: anything else came back, or nothing did.
    """
    try:
        async with client.post(url, json=body, headers=headers) as response:
            if response.status != 200:
                raise _refusal(url, response)
            data = await _bounded_body(url, response)
    except TimeoutError as error:
        raise InfrastructureError(f"{url} did not answer in time ({type(error).__name__})") from error
    except aiohttp.ClientConnectorError as error:
        raise InfrastructureError(f"{url} is not reachable: is it running, and is the address right?") from error
    except aiohttp.InvalidURL as error:
        raise InfrastructureError(f"{url} is not a URL: give one that starts with http://", retryable=False) from error
    except (aiohttp.ClientError, OSError) as error:
        raise InfrastructureError(f"{url} failed: {type(error).__name__}") from error
    try:
        answer = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InfrastructureError(f"{url} answered something that is not JSON") from error
    if not isinstance(answer, dict):
        raise InfrastructureError(f"{url} answered a {type(answer).__name__}, not an object")
    return answer

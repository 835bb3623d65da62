"""Requests that a gateway copies to the candidate: served dry, recorded under the request's ID, seen by no user."""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_api.contracts.rollout import DRY_RUN_HEADER, REQUEST_ID_HEADER
from sluice_api.contracts.trace import Variant


@dataclass(frozen=True, kw_only=True)
class Request:
    """How a server treats a request, and what the trace of its run carries."""

    variant: Variant
    """What the trace is stamped with: the server's arm, or `mirror`."""
    dry: bool
    """Whether no tool may act: nothing may be bought, sent or changed."""
    request_id: str
    """ID of the request; empty where the gateway sets none."""


def read_request(headers: Mapping[str, str], arm: Variant) -> Request:
    """Tell how the server of an arm treats a request.

    The header names the arm that is dry while requests are mirrored. It fails closed: a candidate that finds any other
    value there stays dry too, since it may be looking at a copy.

    Raises:
        ValueError: `arm` is not one that serves users.
    """
    if arm not in (Variant.BASELINE, Variant.CANDIDATE):
        raise ValueError(f"a server's arm is baseline or candidate, not {arm}")
    known = {name.lower(): value for name, value in headers.items()}
    dry = arm == Variant.CANDIDATE and DRY_RUN_HEADER.lower() in known
    return Request(
        variant=Variant.MIRROR if dry else arm, dry=dry, request_id=known.get(REQUEST_ID_HEADER.lower(), "").strip()
    )

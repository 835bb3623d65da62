"""Instants as every document and status writes them: RFC 3339, UTC, ending in `Z`."""

from datetime import UTC, datetime
from typing import Literal


def format_instant(instant: datetime, precision: Literal["seconds", "milliseconds", "microseconds"] = "seconds") -> str:
    """Return an aware instant, e.g. `2026-11-21T14:58:00Z`; what is finer than `precision` is cut off."""
    return instant.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """Return an RFC 3339 instant as an aware datetime in UTC.

    Raises:
        ValueError: the text is not an instant with an offset.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an RFC 3339 instant") from None
    if instant.tzinfo is None:
        raise ValueError(f"instant {text!r} has no offset: end it with Z")
    return instant.astimezone(UTC)

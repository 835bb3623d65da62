"""Durations and instants as text."""

import re
from datetime import timedelta

_DURATION = re.compile(r"^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$")
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
LONGEST = timedelta(days=3_650)
"""Longest duration that is accepted."""


def parse_duration(text: str) -> timedelta:
    """Return the length of a duration like `7d`, `1h30m` or `600s`.

    Raises:
        ValueError: the text is not a duration, or is longer than ten years.
    """
    match = _DURATION.match(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration: write it like 7d, 1h30m or 600s")
    numbers = (int(group or 0) for group in match.groups())
    seconds = sum(number * scale for number, (_, scale) in zip(numbers, _UNITS, strict=True))
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"duration {text!r} is longer than ten years")
    return timedelta(seconds=seconds)


def format_duration(length: timedelta) -> str:
    """Return a length of time in the same form, whole seconds, `0s` for none or less."""
    seconds = max(0, round(length.total_seconds()))
    parts = []
    for unit, scale in _UNITS:
        number, seconds = divmod(seconds, scale)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"

"""What a status says when a reconciliation failed.

The status stays what it was, as if the process had crashed at that point, and gets the error on top: every decision can
start again from there. Nothing of the decision that failed is claimed.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sluice_api.instants import format_instant

CONDITION_LIMIT = 4096
"""Longest message of a condition."""


def with_problem(
    status: Mapping[str, Any], *, generation: int, reason: str, message: str, instant: datetime, stalled: bool
) -> dict[str, Any]:
    """Return `status` with the error in its conditions, reason and message.

    `stalled`: it waits for a change by a person; otherwise it is tried again by itself. Times of conditions that do not
    change are kept, so that the same error again is the same status.
    """
    text = message[:CONDITION_LIMIT]
    wanted = {
        "Ready": "False",
        "Reconciling": "False" if stalled else "True",
        "Stalled": "True" if stalled else "False",
    }
    now = format_instant(instant)
    conditions = []
    old = {str(condition.get("type")): condition for condition in status.get("conditions") or []}
    if (old.get("Ready") or {}).get("status") == "True":
        # What was made stays good while its successor cannot be made.
        del wanted["Ready"]
    for name, value in wanted.items():
        before = old.get(name) or {}
        same = before.get("status") == value
        conditions.append(
            {
                "type": name,
                "status": value,
                "reason": reason,
                "message": text,
                "lastTransitionTime": before["lastTransitionTime"] if same else now,
                "observedGeneration": generation,
            }
        )
    kept = [dict(condition) for condition in status.get("conditions") or [] if condition.get("type") not in wanted]
    return {
        **status,
        "observedGeneration": generation,
        "phase": status.get("phase") or "Pending",
        "reason": reason,
        "message": text,
        "conditions": [*kept, *conditions],
    }

"""Which arm of a rollout serves a run: sticky, repeatable, and without any state to share between agents."""

import math

from sluice_api.cohorts import place_of
from sluice_api.contracts.trace import Variant

BUCKETS = 10_000
"""Buckets that keys are spread over: a share is honoured to a hundredth of a per cent."""


class ShadowRouter:
    """Sends a share of the keys to the candidate.

    A key's bucket depends on the salt and the key alone. So a key stays where it is while the share holds, every agent
    agrees without talking to another, and a raised share only ever adds keys to the candidate.

    Args:
        candidate_pct: share of the candidate in per cent; below 0 counts as 0, above 100 as 100.
        salt: makes the spread of one rollout independent of another's.

    Raises:
        ValueError: the share is not a number.
    """

    def __init__(self, candidate_pct: float = 0.0, salt: str = "") -> None:
        if math.isnan(candidate_pct):
            raise ValueError("candidate_pct must be a number, got nan")
        self._candidate_pct = min(max(float(candidate_pct), 0.0), 100.0)
        self._salt = salt

    @property
    def candidate_pct(self) -> float:
        """Share of the candidate in per cent, within 0 and 100."""
        return self._candidate_pct

    @property
    def salt(self) -> str:
        """Salt of the buckets."""
        return self._salt

    def bucket(self, key: str) -> float:
        """Return a key's place in per cent, in [0, 100), in steps of a hundredth.

        It is the place of `salt:key` among ten thousand (`sluice_api.cohorts.place_of`), by 100.
        """
        return place_of(f"{self._salt}:{key}", BUCKETS) / 100

    def route(self, key: str | None) -> Variant:
        """Return the arm of a key: `baseline` or `candidate`.

        A run without a key cannot stick to anything, so it goes to the baseline at every share, 100 included.
        """
        if not key:
            return Variant.BASELINE
        return Variant.CANDIDATE if self.bucket(key) < self._candidate_pct else Variant.BASELINE

"""Mirrored requests: what the candidate would have done, joined with what the stable arm did, by request ID."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sluice_api.contracts.shadow import Pairs
from sluice_api.contracts.trace import Variant
from sluice_evaluator.runs import Run


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Runs of both arms for the same requests, in the order in which both were known."""

    stable: list[Run]
    """What users saw."""
    mirrored: list[Run]
    """What the candidate made of the same request, same order."""
    unmatched: int
    """Mirrored runs without their counterpart."""

    @property
    def differences(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """1 where the candidate alone escalated, -1 where the stable arm alone did, 0 otherwise."""
        pairs = zip(self.mirrored, self.stable, strict=True)
        return np.array([float(m.escalations > 0) - float(s.escalations > 0) for m, s in pairs])

    @property
    def counts(self) -> Pairs:
        """The pairs in numbers."""
        differences = self.differences
        return Pairs(
            joined=len(self.mirrored),
            only_candidate=int((differences > 0).sum()),
            only_stable=int((differences < 0).sum()),
            unmatched=self.unmatched,
        )


def join(runs: Sequence[Run]) -> Joined:
    """Join runs by request. A request that an arm served twice is no pair: nobody knows which run was meant."""
    arms: dict[str, dict[str, list[Run]]] = {Variant.BASELINE: {}, Variant.MIRROR: {}}
    for run in runs:
        if run.variant in arms and run.request_id:
            arms[run.variant].setdefault(run.request_id, []).append(run)
    stable = {key: found[0] for key, found in arms[Variant.BASELINE].items() if len(found) == 1}
    mirrored = {key: found[0] for key, found in arms[Variant.MIRROR].items() if len(found) == 1}
    keys = [key for key in mirrored if key in stable]
    keys.sort(key=lambda key: (max(_end(mirrored[key]), _end(stable[key])), key))
    every = sum(run.variant == Variant.MIRROR for run in runs)
    return Joined(
        stable=[stable[key] for key in keys], mirrored=[mirrored[key] for key in keys], unmatched=every - len(keys)
    )


def _end(run: Run) -> float:
    return run.ended_at.timestamp() if run.ended_at else 0.0

"""The job that analyses a rollout's traces by arm, and what it came to."""

from typing import Literal

from sluice_api.contracts.base import ArtifactRef, Contract, Digest
from sluice_api.contracts.jobs.base import JobBase
from sluice_api.contracts.shadow import ShadowSummary


class ShadowJob(JobBase):
    """ShadowRollout: the arms of the present step."""

    worker: Literal["shadow"] = "shadow"
    """Discriminator."""
    source_uri: str
    """Prefix of the trace store."""
    since: str
    """Start of the step: evidence before it never counts."""
    baseline_since: str = ""
    """Start of the stable arm's evidence where it differs: at 100 % no stable arm runs beside the candidate, and the
    stable runs of the step before are the comparison. Empty takes `since`."""
    now: str
    """Instant of the analysis, from the operator's clock: decides maturity, so that a repeated job agrees."""
    rollout: str
    """UID of the rollout whose assignments count. Empty behind a gateway, where agents know no rollout: weights and
    instants bind the evidence then."""
    paired: bool = False
    """Compare what both arms made of the same mirrored requests, pair by pair, instead of two arms of users."""
    candidate_digest: Digest
    """Weights of the candidate arm."""
    stable_digest: Digest
    """Weights of the stable arm."""
    maturity_s: float
    """Seconds after a run's end before it counts."""
    min_runs: int
    """Matured candidate runs asked for."""
    method: Literal["sequential", "tolerance"] = "sequential"
    """Decision rule."""
    margin: float = 0.01
    """Non-inferiority margin on the run escalation rate (sequential), absolute."""
    tolerance: float = 0.0
    """Allowed excess of the step escalation rate (tolerance)."""
    alpha: float = 0.05
    """Error level of the test for non-inferiority, and of the one for harm where `harm_alpha` is None."""
    harm_alpha: float | None = None
    """Error level of this step's test for harm: its part of what the whole rollout may spend."""


class ShadowOutput(Contract):
    """Result of a ShadowJob."""

    worker: Literal["shadow"] = "shadow"
    """Discriminator."""
    summary: ShadowSummary
    """The analysis."""
    report: ArtifactRef
    """The same, published."""

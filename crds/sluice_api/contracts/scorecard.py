"""The promotion scorecard: nine gates at three tiers."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from sluice_api.contracts.base import Contract


class Tier(StrEnum):
    """How much is asked of a candidate."""

    BASE = "base"
    FIRST_SFT = "first_sft"
    FUTURE = "future"


class Direction(StrEnum):
    """Which side of the threshold passes; boundaries pass."""

    MIN = "min"
    MAX = "max"


class GateName(StrEnum):
    """The nine gates, in the order in which they are reported."""

    TASK_PASS_RATE = "task_pass_rate"
    PARSER_VALIDITY = "parser_validity"
    GROUNDING_ACCURACY = "grounding_accuracy"
    FORBIDDEN_REGION_AVOIDANCE = "forbidden_region_avoidance"
    LOOP_RATE_MAX = "loop_rate_max"
    GALLERY_RECOVERY_RATE = "gallery_recovery_rate"
    ESCALATION_RATE_MAX = "escalation_rate_max"
    DONE_COMPLETENESS = "done_completeness"
    COST_PER_SUCCESS_USD_MAX = "cost_per_success_usd_max"


class GateVerdict(StrEnum):
    """Judgement of one gate. Only `Pass` counts as passed where evidence is required."""

    PASS = "Pass"
    FAIL = "Fail"
    MISSING = "Missing"
    INCONCLUSIVE = "Inconclusive"


class ScorecardVerdict(StrEnum):
    """Judgement of the whole scorecard."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"


class GateResult(Contract):
    """One gate. The first six fields are the seed's shape."""

    name: GateName
    """The gate."""
    value: float
    """Measured value; 0.0 when missing."""
    threshold: float | None
    """Threshold at the chosen tier; None when the tier has none."""
    direction: Direction
    """Which side passes."""
    passed: bool
    """The seed's rule: a missing input is skipped and counts as passed."""
    note: str = ""
    """`input missing — gate skipped`, `no threshold for tier`, or empty."""
    n: int | None = None
    """Units behind the value."""
    interval: tuple[float, float] | None = None
    """95 % Clopper-Pearson interval of a rate."""
    source: str = ""
    """Digest of the evidence, or `override:<who>`."""
    verdict: GateVerdict = GateVerdict.MISSING
    """The fail-closed judgement."""
    detail: str = ""
    """What the value was measured on, or why there is no better verdict; for people."""


class Scorecard(Contract):
    """Result of `sluice scorecard`."""

    tier: Tier
    """Tier of the thresholds."""
    overall_passed: bool
    """The seed's rule: every gate that could be judged passed."""
    gates: list[GateResult]
    """All nine, in order."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """`label_step_count`, `label_reason_counts`, and what Sluice adds."""
    verdict: ScorecardVerdict = ScorecardVerdict.INCONCLUSIVE
    """Fail-closed: Pass only when every required gate is Pass and none is Fail."""
    candidate_digest: str = ""
    """Weights that it judges; empty by hand."""
    evaluated_at: str = ""
    """When, RFC 3339, UTC."""

"""The job that judges a candidate, and what it came to."""

from typing import Literal

from pydantic import Field

from sluice_api.contracts.base import ArtifactRef, Contract, Digest
from sluice_api.contracts.jobs.base import JobBase
from sluice_api.contracts.scorecard import GateResult, ScorecardVerdict, Tier


class MetricOverride(Contract):
    """A metric given by hand; it wins over measured ones and is recorded with its source."""

    name: str
    """Gate name."""
    value: float
    """Value."""
    source: str = ""
    """Who says so."""


class ScorecardJob(JobBase):
    """PromotionScorecard: evidence to a verdict."""

    worker: Literal["scorecard"] = "scorecard"
    """Discriminator."""
    tier: Tier = Tier.FIRST_SFT
    """Tier of the thresholds."""
    candidate_digest: Digest
    """Weights that are judged; evidence about others is refused."""
    eval_report: ArtifactRef | None = None
    """Report of the candidate."""
    compare_report: ArtifactRef | None = None
    """Comparison with the champion; its verdict Worse fails the scorecard."""
    shadow_summary: ArtifactRef | None = None
    """Shadow evidence of one step."""
    labelled: ArtifactRef | None = None
    """Dataset whose label counts feed the labeller's gates."""
    metrics: list[MetricOverride] = Field(default_factory=list)
    """Overrides."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Per-gate thresholds that replace the tier's."""
    threshold_authors: dict[str, str] = Field(default_factory=dict)
    """Who decided each of them, for the record."""
    required_gates: list[str] = Field(default_factory=list)
    """Gates whose absence is not a pass."""
    comparison_require: Literal["Better", "NotWorse"] = "NotWorse"
    """What the comparison with the champion must show for a Pass."""
    comparison_needed: bool = False
    """Whether a scorecard without a comparison is Inconclusive."""
    comparison_alpha: float = 0.05
    """Error budget over all candidates that are compared with one champion."""
    valid_for_s: float | None = None
    """Seconds that the verdict may be relied on, for the record; None leaves it open."""
    now: str
    """Instant of the judgement, from the operator's clock."""
    scorecard_uri: str
    """Prefix below which the scorecard is published."""
    history_uri: str = ""
    """The lineage's `SCORECARD_HISTORY.jsonl`; empty keeps one beside the scorecard."""


class ComparisonRecord(Contract):
    """The comparison with the champion, judged at what was left of the error budget."""

    verdict: str
    """Better, Worse, Equivalent or Inconclusive, at `level`."""
    p_value: float
    """Two-sided, exact."""
    level: float
    """Level of this candidate."""
    candidate: int
    """The how-manieth comparison with this champion, from 1."""
    budget: float
    """Error budget over all candidates that are compared with the champion."""
    spent: float
    """What this comparison and those before it have used of the budget."""


class ScorecardOutput(Contract):
    """Result of a ScorecardJob."""

    worker: Literal["scorecard"] = "scorecard"
    """Discriminator."""
    scorecard: ArtifactRef
    """The published scorecard."""
    history_uri: str
    """Append-only history."""
    verdict: ScorecardVerdict
    """Fail-closed judgement."""
    gates: list[GateResult]
    """All nine gates."""
    comparison: ComparisonRecord | None = None
    """The comparison with the champion; None without one."""

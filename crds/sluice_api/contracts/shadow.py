"""Shadow analysis: what the arms of a rollout did, and what that shows."""

from enum import StrEnum

from pydantic import Field

from sluice_api.contracts.base import Contract


class ShadowVerdict(StrEnum):
    """What the evidence of the present step shows."""

    NO_DATA = "NoData"
    """An arm is missing, or nothing has matured."""
    INSUFFICIENT = "Insufficient"
    """Fewer matured runs than the step asks for."""
    UNDECIDED = "Undecided"
    """Enough runs to look at, no decision yet: neither harm nor non-inferiority is shown."""
    HARM = "Harm"
    """The candidate escalates more often than the stable arm."""
    NON_INFERIOR = "NonInferior"
    """The candidate's escalation rate is within the margin of the stable arm's."""


class VariantSummary(Contract):
    """One arm. Rates are per step, as the seed counts them, four decimal places; run-level figures beside them."""

    variant: str
    """`baseline`, `candidate` or `__unassigned__`."""
    run_count: int = 0
    """Runs."""
    step_count: int = 0
    """Steps."""
    escalation_count: int = 0
    """Steps labelled with reason `escalation`."""
    failure_count: int = 0
    """Steps with a negative label, escalations included: the seed's count."""
    escalation_rate: float = 0.0
    """`escalation_count / step_count`."""
    failure_rate: float = 0.0
    """`failure_count / step_count`."""
    escalated_runs: int = 0
    """Runs with at least one escalation."""
    run_escalation_rate: float = 0.0
    """`escalated_runs / run_count`, unrounded: the unit of inference."""


class ShadowComparison(Contract):
    """Candidate against baseline; absent when an arm is missing."""

    escalation_rate_delta: float
    """Candidate minus baseline, four decimal places."""
    failure_rate_delta: float
    """Candidate minus baseline, four decimal places."""
    candidate_escalation_rate_lower: bool
    """True when the candidate's rate is lower or equal."""
    baseline_runs: int
    """Runs of the baseline arm."""
    candidate_runs: int
    """Runs of the candidate arm."""


class EProcess(Contract):
    """State of the sequential test, for people and pictures."""

    harm: float = 1.0
    """Highest e-value so far against `candidate rate <= stable rate`; harm is shown at `harm_threshold`."""
    non_inferiority: float = 1.0
    """Present e-value against `candidate rate >= stable rate + margin`; non-inferiority is shown at `threshold`."""
    threshold: float = 20.0
    """`1 / alpha`: where non-inferiority is shown."""
    harm_threshold: float = 20.0
    """Where harm is shown: `1 / harm_alpha`, this step's part of the rollout's error level."""


class Pairs(Contract):
    """Mirrored requests: what both arms made of the same ones."""

    joined: int = 0
    """Requests with a matured run of each arm."""
    only_candidate: int = 0
    """The candidate escalated, the stable arm did not."""
    only_stable: int = 0
    """The stable arm escalated, the candidate did not."""
    unmatched: int = 0
    """Mirrored runs without a run of the stable arm for the same request."""


class ShadowSummary(Contract):
    """Result of `sluice shadow analyze`."""

    variants: dict[str, VariantSummary]
    """By variant name."""
    comparison: ShadowComparison | None = None
    """Absent when an arm is missing."""
    verdict: ShadowVerdict = ShadowVerdict.NO_DATA
    """What the evidence shows by the chosen method."""
    method: str = "tolerance"
    """`sequential` or `tolerance`."""
    e_process: EProcess | None = None
    """Sequential method only."""
    since: str = ""
    """Runs that started before this instant do not count."""
    immature_runs: int = 0
    """Runs left out because they ended too recently."""
    foreign_runs: int = 0
    """Candidate runs left out because other weights or another rollout served them."""
    foreign_stable_runs: int = 0
    """Runs of the stable arm left out for the same reason."""
    bad_files: int = 0
    """Files that could not be read as a trace."""
    bad_examples: list[str] = Field(default_factory=list)
    """At most five of them, `path: reason`; never trace text."""
    min_runs: int = 0
    """Matured candidate runs asked for."""
    candidate_digest: str = ""
    """Weights that the evidence is about; empty when unbound."""
    last_run_at: str = ""
    """End of the newest run of this rollout and these weights since `since`, mature or not."""
    candidate_share: float | None = None
    """Share of all runs since `since` (mature or not) that the candidate arm served."""
    evaluator: str = ""
    """Digest of the code that judged: what another one says cannot be set beside it."""
    pairs: Pairs | None = None
    """Mirrored requests; only of a step that mirrors."""
    traces: int = Field(default=0)
    """Trace files read."""

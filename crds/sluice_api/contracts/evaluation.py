"""Evaluation: tasks, the report of one model, the comparison of two."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from sluice_api.contracts.base import Contract


class Criterion(Contract):
    """One condition of a task; an unknown type is never satisfied."""

    type: str
    """`task_success`, `status_eq`, `url_contains` or `output_contains`."""
    value: str | None = None
    """Operand; unused by `task_success`. Matching is case-sensitive."""


class EvalTask(Contract):
    """One task of a suite."""

    task_id: str
    """Identity within the suite."""
    task_text: str
    """What the agent is asked to do."""
    url: str = ""
    """Where it starts."""
    criteria: list[Criterion] = Field(default_factory=list)
    """All must hold; an empty list means `task_success`."""
    max_cost: float = 1.0
    """Budget in US dollars."""
    max_steps: int = 30
    """Budget in steps."""
    max_tokens: int = 512
    """Longest answer in tokens, for a model that is asked directly."""
    cluster: str = ""
    """Template or tenant that the task shares with others; where given, whole clusters are the unit of inference."""


class Outcome(Contract):
    """What a runner returned for a task."""

    success: bool = False
    """Whether the agent says it succeeded."""
    status: str = ""
    """End state of the run."""
    url: str = ""
    """Where it ended."""
    output: str = ""
    """What it answered."""
    cost: float = 0.0
    """US dollars."""
    duration_s: float = 0.0
    """Seconds."""
    error: str | None = None
    """Error that the runner returned, if any."""
    raw: dict[str, Any] | None = None
    """The runner's answer as it came."""


class CriterionResult(Contract):
    """Judgement of one criterion."""

    type: str
    """Type of the criterion."""
    value: str | None = None
    """Its operand."""
    passed: bool
    """Whether it held."""
    detail: str = ""
    """Why not, when it did not."""


class TaskResult(Contract):
    """Judgement of one task."""

    task_id: str
    """The task."""
    passed: bool
    """Whether every criterion held."""
    criterion_results: list[CriterionResult] = Field(default_factory=list)
    """One entry a criterion."""
    outcome: Outcome
    """What the runner returned."""
    infra_error: bool = False
    """True when the task could not be judged (exception, time-out); excluded from comparisons."""
    cluster: str = ""
    """Cluster of the task."""
    repeats: list[bool | None] = Field(default_factory=list)
    """Whether each repeat passed, None where it could not be judged; empty when the task was run once."""


class MetricValue(Contract):
    """A measured rate with its denominator."""

    value: float
    """The estimate."""
    n: int
    """Units that it was measured on."""


class EvalReport(Contract):
    """Result of one model on one suite. The first eight fields and `results` are the seed's shape."""

    name: str
    """Name of the evaluation."""
    started_at: str
    """Start, RFC 3339, UTC."""
    ended_at: str
    """End, RFC 3339, UTC."""
    task_count: int
    """Tasks of the suite."""
    pass_count: int
    """Tasks passed."""
    fail_count: int
    """Tasks not passed, tasks that could not be judged included."""
    error_count: int
    """Tasks whose runner raised; they count in `fail_count` too."""
    pass_rate: float
    """`pass_count / task_count`, four decimal places."""
    results: list[TaskResult]
    """One entry a task, in the suite's order."""
    suite_digest: str = ""
    """Digest of the tasks: reports over different suites are not comparable."""
    harness_digest: str = ""
    """Digest of what judges: scorer versions, limits, protocol."""
    model_digest: str = ""
    """Digest of the weights that were evaluated."""
    metrics: dict[str, MetricValue] = Field(default_factory=dict)
    """Further metrics that the agent measured, by scorecard gate name, e.g. `parser_validity`."""


class CompareVerdict(StrEnum):
    """What a paired comparison shows."""

    BETTER = "Better"
    WORSE = "Worse"
    EQUIVALENT = "Equivalent"
    INCONCLUSIVE = "Inconclusive"


class CompareReport(Contract):
    """Candidate against baseline over the tasks that both could be judged on."""

    baseline_pass_rate: float
    """Pass rate of the whole baseline report."""
    candidate_pass_rate: float
    """Pass rate of the whole candidate report."""
    delta: float
    """`candidate_pass_rate - baseline_pass_rate`, over the whole reports."""
    common_task_count: int
    """Tasks in both reports, infrastructure errors excluded."""
    candidate_wins: int
    """Common tasks that only the candidate passed."""
    candidate_losses: int
    """Common tasks that only the baseline passed."""
    win_rate: float
    """`wins / (wins + losses)`, 0.5 without either."""
    regressions: list[str]
    """Tasks that only the baseline passed."""
    improvements: list[str]
    """Tasks that only the candidate passed."""
    p_value: float = 1.0
    """Exact two-sided McNemar test on the discordant pairs."""
    minimum_detectable_effect: float = 1.0
    """Smallest difference in pass rate that this many pairs could show (two-sided .05, power .8)."""
    interval: tuple[float, float] = (-1.0, 1.0)
    """95 % interval of the paired difference in pass rate."""
    verdict: CompareVerdict = CompareVerdict.INCONCLUSIVE
    """What the evidence shows."""
    alpha: float = 0.05
    """Two-sided level of the verdict; smaller where a lineage's budget is spent over many candidates."""
    e_value: float | None = None
    """Evidence that the candidate is better, by tasks that are independent: valid whenever it is looked at, 20 or more
    rejects at .05. None where tasks come in clusters."""
    infra_excluded: int = 0
    """Tasks left out because one side could not be judged."""
    suite_digest: str = ""
    """Digest of the tasks."""
    candidate_digest: str = ""
    """Weights of the candidate; empty when unknown."""
    baseline_digest: str = ""
    """Weights of the baseline; empty when unknown."""

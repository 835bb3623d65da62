"""The job that measures a model on a suite, and what it came to."""

from typing import Literal

from sluice_api.contracts.base import ArtifactRef, Contract, ModelRef
from sluice_api.contracts.jobs.base import JobBase

CANDIDATE_TOKEN_VARIABLE = "SLUICE_CANDIDATE_TOKEN"
"""Variable of a worker's pod with the token for the candidate's endpoint."""
BASELINE_TOKEN_VARIABLE = "SLUICE_BASELINE_TOKEN"
"""Variable of a worker's pod with the token for the baseline's endpoint."""
AGENT_TOKEN_VARIABLE = "SLUICE_AGENT_TOKEN"
"""Variable of a worker's pod with the token for the agent."""
TOKEN_VARIABLES = frozenset({CANDIDATE_TOKEN_VARIABLE, BASELINE_TOKEN_VARIABLE, AGENT_TOKEN_VARIABLE})
"""The variables of Sluice's own that hold tokens for other services."""
CREDENTIAL_PREFIXES = (
    *("AWS_", "AZURE_", "CLOUDSDK_", "GCLOUD_", "GCS_", "GOOGLE_", "MINIO_", "S3_"),
    *("HF_", "HUGGING_FACE_", "KUBE", "RAY_", "SLUICE_"),
)
"""How variables begin that configure or authenticate a worker itself: storage, cloud, model hub, cluster, Sluice."""


def may_be_sent(variable: str) -> bool:
    """Return whether a variable may hold a token that a worker sends to an agent or an endpoint.

    A worker's own credentials never may: whoever names the URL would get them.
    """
    return variable in TOKEN_VARIABLES or not variable.upper().startswith(CREDENTIAL_PREFIXES)


class EvalTarget(Contract):
    """One model to evaluate: weights by digest, or an endpoint that serves them."""

    name: str
    """Name in the report."""
    digest: str = ""
    """Digest of the weights; empty when only an endpoint is known."""
    base_model: ModelRef | None = None
    """Base weights to serve."""
    adapter: ArtifactRef | None = None
    """Adapter to serve on the base."""
    endpoint_url: str | None = None
    """Endpoint that already serves the model."""
    token_env: str | None = None
    """Environment variable of the worker that holds the endpoint's token."""


class EvalJob(JobBase):
    """EvalRun: a candidate, and where given a baseline, on the same tasks."""

    worker: Literal["eval"] = "eval"
    """Discriminator."""
    candidate: EvalTarget
    """The candidate."""
    baseline: EvalTarget | None = None
    """The baseline."""
    baseline_report: ArtifactRef | None = None
    """A finished report to compare with instead."""
    suite_uri: str
    """JSON file of tasks, rows of a benchmark, or `builtin:NAME`."""
    suite_digest: str = ""
    """Pinned digest: of the file's bytes, or of a built-in suite's tasks. Another suite is not run. Empty pins
    nothing."""
    agent_url: str | None = None
    """Agent that runs a task with the model named in the request (`POST /v1/predict`)."""
    agent_token_env: str | None = None
    """Environment variable of the worker that holds the agent's token."""
    concurrency: int = 16
    """Tasks in flight."""
    repeats: int = 1
    """Times that each task is run; a task passes by majority."""
    infra_error_fraction: float = 0.02
    """More infrastructure errors than this share fail the run."""
    task_timeout_s: float = 600.0
    """Seconds for one task."""
    cache_uri: str | None = None
    """Run-scoped prefix of judged tasks: every attempt goes on where the last one ended. None keeps nothing."""


class EvalSummary(Contract):
    """Figures of one report."""

    tasks: int
    """Tasks of the suite."""
    passed: int
    """Tasks passed."""
    failed: int
    """Tasks judged and not passed."""
    errored: int
    """Tasks that could not be judged."""
    unscored: int = 0
    """Tasks without a score."""
    pass_rate: float
    """`passed / (passed + failed)`: over the tasks that could be judged."""
    interval: tuple[float, float]
    """95 % Wilson interval of the pass rate."""


class EvalComparison(Contract):
    """Figures of a comparison."""

    common: int
    """Tasks judged on both sides."""
    wins: int
    """Only the candidate passed."""
    losses: int
    """Only the baseline passed."""
    win_rate: float
    """`wins / (wins + losses)`, 0.5 without either."""
    p_value: float
    """Exact two-sided McNemar test."""
    minimum_detectable_effect: float
    """Smallest detectable difference."""
    interval: tuple[float, float] | None = None
    """95 % interval of the paired difference in pass rate."""
    verdict: str
    """Better, Worse, Equivalent or Inconclusive."""


class EvalOutput(Contract):
    """Result of an EvalJob."""

    worker: Literal["eval"] = "eval"
    """Discriminator."""
    report: ArtifactRef
    """Report of the candidate."""
    baseline_report: ArtifactRef | None = None
    """Report of the baseline."""
    compare_report: ArtifactRef | None = None
    """Comparison."""
    summary: EvalSummary
    """Figures of the candidate."""
    baseline_summary: EvalSummary | None = None
    """Figures of the baseline."""
    comparison: EvalComparison | None = None
    """Figures of the comparison."""
    candidate_digest: str = ""
    """Weights that the report is about."""
    baseline_digest: str = ""
    """Weights of the baseline that was measured beside them; empty without one, or when unknown."""
    suite_digest: str = ""
    """Suite that was read: digest of the file's bytes, or of a built-in suite's tasks."""
    harness_digest: str = ""
    """What judged: scorer versions, limits, protocol."""

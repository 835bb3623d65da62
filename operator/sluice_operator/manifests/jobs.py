"""Job inputs: what a worker is given, built from an object, its attempt and its resolved inputs."""

from collections.abc import Sequence

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.jobs import (
    EvalJob,
    EvalTarget,
    LabelJob,
    MetricOverride,
    ScorecardJob,
    ShadowJob,
    TrainJob,
)
from sluice_api.contracts.scorecard import Tier
from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, ShadowRollout, TraceDataset
from sluice_api.v1alpha1.common import Attempt, SluiceObject
from sluice_operator.manifests.naming import adapter_uri, cache_uri, checkpoint_uri, scorecard_uri


def run_ref(obj: SluiceObject) -> RunRef:
    """Return the owner of a job."""
    return RunRef(kind=obj.crd.kind, namespace=obj.namespace, name=obj.name, uid=obj.uid)


def label_job(obj: TraceDataset, attempt: Attempt, *, parent: str | None) -> LabelJob:
    """Return the input of a dataset build; `parent` is the digest of the version before."""
    spec = obj.spec
    return LabelJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        source_uri=spec.source.uri,
        tenants=list(spec.source.tenants),
        variants=list(spec.source.variants),
        since=spec.source.since or "",
        keep=list(spec.label.keep),
        format=spec.convert.format,
        screen_width=spec.convert.screen.width,
        screen_height=spec.convert.screen.height,
        require_screenshot=spec.convert.require_screenshot,
        holdout=spec.split.holdout,
        split_by=spec.split.by,
        require_review=spec.review.required,
        dataset_uri=spec.output.uri,
        parent=parent,
    )


def train_job(
    obj: FineTuneRun,
    attempt: Attempt,
    *,
    dataset: ArtifactRef,
    base_model: ModelRef,
    parent: ArtifactRef | None,
    use_gpu: bool,
) -> TrainJob:
    """Return the input of a training attempt. Checkpoints are shared by the attempts, so that a later one resumes."""
    spec = obj.spec
    modules = spec.lora.target_modules
    return TrainJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        dataset=dataset,
        base_model=base_model,
        parent=parent,
        method=spec.method,
        lora_rank=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=modules
        if modules == "all-linear"
        else [name.strip() for name in modules.split(",") if name.strip()],
        learning_rate=spec.optimizer.learning_rate,
        schedule=spec.optimizer.schedule,
        warmup_ratio=spec.optimizer.warmup_ratio,
        tokens_per_step=spec.optimizer.tokens_per_step,
        epochs=spec.optimizer.epochs,
        max_steps=spec.optimizer.max_steps,
        max_length=spec.sequence.max_length,
        packing=spec.sequence.packing,
        checkpoint_every=spec.checkpoint.every,
        checkpoint_keep=spec.checkpoint.keep,
        checkpoint_uri=checkpoint_uri(spec.output, obj.namespace, obj.uid),
        adapter_uri=adapter_uri(spec.output),
        workers=spec.workers,
        use_gpu=use_gpu,
        seed=spec.seed,
    )


def eval_job(
    obj: EvalRun, attempt: Attempt, *, candidate: EvalTarget, baseline: EvalTarget | None, task_timeout_s: float
) -> EvalJob:
    """Return the input of an evaluation; `task_timeout_s` in seconds."""
    spec = obj.spec
    return EvalJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        candidate=candidate,
        baseline=baseline,
        suite_uri=spec.suite.uri,
        agent_url=spec.agent.url if spec.agent is not None else None,
        agent_token_env=spec.agent.token_secret_ref.key
        if spec.agent is not None and spec.agent.token_secret_ref is not None
        else None,
        concurrency=spec.concurrency,
        repeats=spec.repeats,
        infra_error_fraction=spec.limits.infra_error_fraction,
        task_timeout_s=task_timeout_s,
        cache_uri=cache_uri(spec.output, obj.namespace, obj.uid),
    )


def scorecard_job(
    obj: PromotionScorecard,
    attempt: Attempt,
    *,
    candidate_digest: str,
    eval_report: ArtifactRef | None,
    compare_report: ArtifactRef | None,
    labelled: ArtifactRef | None,
) -> ScorecardJob:
    """Return the input of a judgement. Its instant is the attempt's, so that a repeated submission is the same."""
    spec = obj.spec
    shadow = None
    if spec.shadow is not None:
        shadow = ArtifactRef(uri=spec.shadow.summary_uri, digest=spec.shadow.summary_digest)
    return ScorecardJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        tier=Tier(spec.tier),
        candidate_digest=candidate_digest,
        eval_report=eval_report,
        compare_report=compare_report,
        shadow_summary=shadow,
        labelled=labelled,
        metrics=[MetricOverride(name=m.name, value=m.value, source=m.source) for m in spec.metrics],
        thresholds={override.name: override.value for override in spec.thresholds},
        required_gates=_unique(spec.required_gates),
        now=attempt.intended_at or "",
        scorecard_uri=scorecard_uri(spec.output, obj.namespace, candidate_digest),
    )


def shadow_job(
    obj: ShadowRollout,
    attempt: Attempt,
    *,
    since: str,
    baseline_since: str,
    candidate_digest: str,
    stable_digest: str,
    min_runs: int,
    maturity_s: float,
) -> ShadowJob:
    """Return the input of an analysis of the present step; `maturity_s` in seconds."""
    analysis = obj.spec.analysis
    return ShadowJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        source_uri=analysis.source.uri,
        since=since,
        baseline_since=baseline_since,
        now=attempt.intended_at or "",
        rollout=obj.uid,
        candidate_digest=candidate_digest,
        stable_digest=stable_digest,
        maturity_s=maturity_s,
        min_runs=min_runs,
        method=analysis.method,
        margin=analysis.margin,
        tolerance=analysis.tolerance,
        alpha=analysis.alpha,
    )


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))

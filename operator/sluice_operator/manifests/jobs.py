"""Job inputs: what a worker is given, built from an object, its attempt and its resolved inputs."""

from collections.abc import Sequence

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.jobs import (
    CriticRule,
    DuplicateRule,
    EvalJob,
    EvalTarget,
    LabelJob,
    LeakRule,
    MetricOverride,
    MixtureBucket,
    MixtureRule,
    PrivacyRule,
    ScorecardJob,
    ShadowJob,
    TrainJob,
)
from sluice_api.contracts.scorecard import Tier
from sluice_api.contracts.suites import builtin_digest
from sluice_api.training import train_settings
from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, ShadowRollout, TraceDataset
from sluice_api.v1alpha1.common import Attempt, SluiceObject
from sluice_api.v1alpha1.promotionscorecard import ComparisonRule
from sluice_api.v1alpha1.tracedataset import MixtureOptions, TraceDatasetSpec
from sluice_operator.decisions.base import Platform
from sluice_operator.manifests.naming import adapter_uri, cache_uri, checkpoint_uri, history_uri, scorecard_uri


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
        privacy=PrivacyRule(
            detectors=list(spec.privacy.detectors),
            on_finding=spec.privacy.on_finding,
            patterns={each.name: each.pattern for each in spec.privacy.patterns},
        ),
        max_bad_fraction=spec.max_bad_fraction,
        critic=None if spec.critic is None else CriticRule.model_validate(spec.critic.model_dump()),
        mixture=_mixture(spec.mixture),
        duplicates=DuplicateRule.model_validate(spec.deduplication.model_dump()),
        leaks=LeakRule(
            suites=leak_suites(spec), threshold=spec.leaks.threshold, shingle_words=spec.leaks.shingle_words
        ),
        workers=spec.workers,
        append=spec.append,
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
    memory_bytes: int | None = None,
    platform: Platform = "",
    device: str = "",
) -> TrainJob:
    """Return the input of a training attempt. Checkpoints are shared by the attempts, so that a later one resumes.

    `memory_bytes`, `platform` and `device` are what a worker has, where that is known.
    """
    spec = obj.spec
    return TrainJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        dataset=dataset,
        base_model=base_model,
        parent=parent,
        checkpoint_uri=checkpoint_uri(spec.output, obj.namespace, obj.uid),
        adapter_uri=adapter_uri(spec.output),
        use_gpu=use_gpu,
        memory_bytes=memory_bytes,
        platform=platform,
        device=device,
        **train_settings(spec),
    )


def eval_job(
    obj: EvalRun,
    attempt: Attempt,
    *,
    candidate: EvalTarget,
    baseline: EvalTarget | None,
    baseline_report: ArtifactRef | None = None,
    suite_digest: str,
    agent_token_env: str | None = None,
    task_timeout_s: float,
) -> EvalJob:
    """Return the input of an evaluation; `task_timeout_s` in seconds.

    What its attempts have judged they hand on to each other, below a prefix of the run.
    """
    spec = obj.spec
    return EvalJob(
        run=run_ref(obj),
        attempt=attempt.number,
        output_uri=attempt.output_uri,
        candidate=candidate,
        baseline=baseline,
        baseline_report=baseline_report,
        suite_uri=spec.suite.uri,
        suite_digest=suite_digest,
        agent_url=spec.agent.url if spec.agent is not None else None,
        agent_token_env=agent_token_env,
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
    valid_for_s: float,
) -> ScorecardJob:
    """Return the input of a judgement that may be relied on for `valid_for_s` seconds.

    Its instant is the attempt's, so that a repeated submission is the same.
    """
    spec = obj.spec
    comparison = spec.comparison or ComparisonRule()
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
        threshold_authors={override.name: override.author for override in spec.thresholds},
        required_gates=_unique(spec.required_gates),
        comparison_require=comparison.require,
        comparison_needed=spec.comparison is not None,
        comparison_alpha=comparison.alpha,
        valid_for_s=valid_for_s,
        now=attempt.intended_at or "",
        scorecard_uri=scorecard_uri(spec.output, obj.namespace, candidate_digest),
        history_uri=history_uri(spec.output, obj.namespace),
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


def leak_suites(spec: TraceDatasetSpec) -> list[str]:
    """Return the suites to keep out of the rows: those that are named, and the one that new versions are tried on."""
    suites = [suite.uri for suite in spec.leaks.suites]
    template = spec.on_new_version.eval_run if spec.on_new_version is not None else None
    suite = (template or {}).get("suite")
    uri = suite.get("uri") if isinstance(suite, dict) else None
    if isinstance(uri, str) and (uri.startswith(("s3://", "file://")) or builtin_digest(uri) is not None):
        suites.append(uri)
    return _unique(suites)


def _mixture(options: MixtureOptions | None) -> MixtureRule | None:
    if options is None:
        return None
    return MixtureRule(
        rows=options.rows,
        max_repeats=options.max_repeats,
        seed=options.seed,
        tag_weights={each.name: each.weight for each in options.tag_weights},
        buckets=[
            MixtureBucket(
                name=each.name, weight=each.weight, source_uri=each.source.uri if each.source is not None else None
            )
            for each in options.buckets
        ],
    )


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))

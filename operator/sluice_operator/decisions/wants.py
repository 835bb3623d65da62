"""Which facts a decision needs: `wanted(obj) -> Wants`, pure, so that observing gathers exactly these."""

from collections.abc import Callable
from dataclasses import dataclass

from sluice_api.contracts.suites import is_builtin
from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, ShadowRollout, TraceDataset
from sluice_api.v1alpha1.common import Attempt, SluiceObject
from sluice_api.v1alpha1.evalrun import ModelTarget
from sluice_operator.manifests.naming import lineage_name

Reference = tuple[str, str]
"""Kind and name of an object in the same namespace."""


@dataclass(frozen=True, kw_only=True)
class AttemptWant:
    """The open attempt.

    Read the job's state first, progress and result after it: a job that ends in between would otherwise look like one
    that ended without a result.
    """

    job: str
    """Name of the job in its backend."""
    output_uri: str
    """Prefix of `progress.json` and `result.json`."""


@dataclass(frozen=True, kw_only=True)
class Wants:
    """Facts to gather for one decision."""

    references: tuple[Reference, ...] = ()
    """Objects to read; a missing one is reported as None under `Kind/name`."""
    channel: tuple[str, str] | None = None
    """Root and name of the channel to read."""
    route: bool = False
    """Whether to read the route."""
    suite_uri: str | None = None
    """Suite whose digest is asked for."""
    profile: str = ""
    """Profile to look up: the open attempt's, else the spec's."""
    attempt: AttemptWant | None = None
    """The open attempt; None when no job may be running."""
    guards: bool = False
    """Whether to ask Prometheus for the guards of a rollout under way."""
    rivals: bool = False
    """Whether to list the other rollouts and pass them through `rivals_of`."""


def open_attempt(obj: SluiceObject) -> Attempt | None:
    """Return the attempt that has not ended; only the newest can be open."""
    attempts = getattr(obj, "status").attempts  # noqa: B009 - each kind declares its own status type
    newest: Attempt | None = attempts[-1] if attempts else None
    return newest if newest is not None and newest.ended_at is None else None


def wanted(obj: SluiceObject) -> Wants:
    """Return what `decide` needs to know about `obj`.

    Raises:
        TypeError: `obj` is none of the five kinds.
    """
    for kind, function in _BY_KIND.items():
        if isinstance(obj, kind):
            return function(obj)
    raise TypeError(f"{type(obj).__name__} is none of the five kinds")


def _attempt_want(attempt: Attempt | None) -> AttemptWant | None:
    return None if attempt is None else AttemptWant(job=attempt.job, output_uri=attempt.output_uri)


def _profile(attempt: Attempt | None, spec_profile: str) -> str:
    return (attempt.profile if attempt is not None else "") or spec_profile


def _tracedataset(obj: TraceDataset) -> Wants:
    attempt = open_attempt(obj)
    latest, lineage = obj.status.latest, obj.spec.on_new_version
    references: tuple[Reference, ...] = ()
    if latest is not None and lineage is not None and latest.digest not in obj.status.lineages:
        name = lineage_name(obj.name, latest.digest)
        templates = {
            "FineTuneRun": lineage.fine_tune_run,
            "EvalRun": lineage.eval_run,
            "PromotionScorecard": lineage.promotion_scorecard,
            "ShadowRollout": lineage.shadow_rollout,
        }
        references = tuple((kind, name) for kind, template in templates.items() if template is not None)
    return Wants(references=references, profile=_profile(attempt, obj.spec.profile), attempt=_attempt_want(attempt))


def _finetunerun(obj: FineTuneRun) -> Wants:
    attempt = open_attempt(obj)
    references: list[Reference] = [("TraceDataset", obj.spec.dataset_ref.name)]
    if obj.spec.parent_ref is not None:
        references.append(("FineTuneRun", obj.spec.parent_ref.name))
    return Wants(
        references=tuple(references), profile=_profile(attempt, obj.spec.profile), attempt=_attempt_want(attempt)
    )


def _evalrun(obj: EvalRun) -> Wants:
    attempt = open_attempt(obj)
    targets: list[ModelTarget] = [obj.spec.candidate]
    if obj.spec.baseline is not None:
        targets.append(obj.spec.baseline)
    references = tuple(
        dict.fromkeys(("FineTuneRun", t.fine_tune_run_ref.name) for t in targets if t.fine_tune_run_ref is not None)
    )
    channel = next((t.channel for t in targets if t.channel is not None), None)
    root = obj.spec.channels
    return Wants(
        references=references,
        channel=(root, channel) if root is not None and channel is not None else None,
        suite_uri=None if is_builtin(obj.spec.suite.uri) else obj.spec.suite.uri,
        profile=_profile(attempt, obj.spec.profile),
        attempt=_attempt_want(attempt),
    )


def _promotionscorecard(obj: PromotionScorecard) -> Wants:
    attempt = open_attempt(obj)
    spec = obj.spec
    references: list[Reference] = []
    if spec.candidate.fine_tune_run_ref is not None:
        references.append(("FineTuneRun", spec.candidate.fine_tune_run_ref.name))
    if spec.eval_run_ref is not None:
        references.append(("EvalRun", spec.eval_run_ref.name))
    if spec.labelled_traces is not None:
        references.append(("TraceDataset", spec.labelled_traces.dataset_ref.name))
    return Wants(references=tuple(references), profile=_profile(attempt, spec.profile), attempt=_attempt_want(attempt))


def _shadowrollout(obj: ShadowRollout) -> Wants:
    attempt = open_attempt(obj)
    spec, status = obj.spec, obj.status
    references: list[Reference] = [("FineTuneRun", spec.candidate.fine_tune_run_ref.name)]
    if spec.scorecard_ref is not None:
        references.append(("PromotionScorecard", spec.scorecard_ref.name))
    references.extend(
        ("PromotionScorecard", card.name)
        for card in status.scorecards
        if card.step == status.step and card.round == status.round
    )
    return Wants(
        references=tuple(dict.fromkeys(references)),
        channel=(spec.stable.root, spec.stable.channel),
        route=True,
        guards=bool(spec.analysis.guards) and status.step > 0 and not status.outcome,
        profile=_profile(attempt, spec.profile),
        attempt=_attempt_want(attempt),
        rivals=True,
    )


_BY_KIND: dict[type[SluiceObject], Callable[..., Wants]] = {
    TraceDataset: _tracedataset,
    FineTuneRun: _finetunerun,
    EvalRun: _evalrun,
    PromotionScorecard: _promotionscorecard,
    ShadowRollout: _shadowrollout,
}

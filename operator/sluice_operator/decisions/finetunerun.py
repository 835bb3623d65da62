"""FineTuneRun: pins its data, trains through attempts that resume, publishes one adapter."""

import re
from typing import Any

from sluice_api.contracts.base import DIGEST_PATTERN, ArtifactRef, ModelRef
from sluice_api.contracts.jobs import FailureClass, ProbeResult, Result, StopReason, TrainJob, TrainOutput
from sluice_api.training import schedule_problem, workers_problem
from sluice_api.v1alpha1 import FineTuneRun, TraceDataset
from sluice_api.v1alpha1.common import Attempt, AttemptFailure, ConditionStatus
from sluice_api.v1alpha1.finetunerun import AdapterStatus, FineTuneRunStatus, PinnedInputs, ProbeStatus
from sluice_operator.decisions.attempts import Limits, refused, workers_within
from sluice_operator.decisions.base import Backend, Decision, Now, Observed, Profile
from sluice_operator.decisions.common import (
    Facts,
    Mood,
    Objection,
    Verdict,
    decided,
    first_objection,
    profile_known,
    reference,
    the_profile,
)
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import short, trained
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason
from sluice_operator.decisions.runs import Prepared, decide_run, new_progress
from sluice_operator.manifests.jobs import train_job
from sluice_operator.manifests.naming import version_uri

FORMATS = {"sft": "sft", "dpo": "preference"}
"""Row format that each training method reads."""


def decide(obj: FineTuneRun, observed: Observed, now: Now) -> Decision:
    """Return what to do about a FineTuneRun."""
    return decide_run(_RULES, obj, obj.status, observed, now)


# Checks, in order of importance


def durations_valid(facts: Facts[FineTuneRun]) -> Objection | None:
    """Check `spec.deadlines`."""
    deadlines = facts.obj.spec.deadlines
    for name in ("queued", "running", "hang"):
        try:
            parse_duration(getattr(deadlines, name))
        except ValueError as error:
            return Objection(reason=Reason.INVALID_SPEC, message=f"spec.deadlines.{name}: {error}")
    return None


def revision_fits(facts: Facts[FineTuneRun]) -> Objection | None:
    """Check that a revision is given for hub models only."""
    base = facts.obj.spec.base_model
    if base.revision and not base.uri.startswith("hf://"):
        return Objection(
            reason=Reason.INVALID_SPEC,
            message=f"spec.baseModel.revision {base.revision!r} is for hf:// models, not for {base.uri}",
        )
    return None


def schedule_valid(facts: Facts[FineTuneRun]) -> Objection | None:
    """Check `spec.phases` and `spec.probes`."""
    problem = schedule_problem(facts.obj.spec)
    return Objection(reason=Reason.INVALID_SPEC, message=problem) if problem else None


def workers_allowed(facts: Facts[FineTuneRun]) -> Objection | None:
    """Check `spec.workers`, `spec.minWorkers` and `spec.strategy`, also against what the profile can do."""
    spec = facts.obj.spec
    problem = workers_problem(spec)
    if problem:
        return Objection(reason=Reason.INVALID_SPEC, message=problem)
    profile = facts.observed.profile
    if profile is not None and profile.backend is Backend.JOB and spec.workers > 1:
        return Objection(
            reason=Reason.PROFILE_CEILING,
            message=f"spec.workers is {spec.workers}, profile {profile.name!r} starts one pod (backend job): "
            "set spec.workers to 1, or name a profile of the backend kuberay or ray",
        )
    return workers_within(facts, spec.workers)


CHECKS = (durations_valid, revision_fits, schedule_valid, profile_known, workers_allowed)
"""Checks of the spec alone."""


def resolve_dataset(facts: Facts[FineTuneRun]) -> ArtifactRef | Objection:
    """Return the dataset version to train on: the exact one that is named, or the newest."""
    ref = facts.obj.spec.dataset_ref
    dataset = reference(facts, TraceDataset, ref.name)
    if isinstance(dataset, Objection):
        return dataset
    wanted = FORMATS[facts.obj.spec.method]
    if dataset.spec.convert.format != wanted:
        return Objection(
            reason=Reason.DATASET_FORMAT_MISMATCH,
            message=f"spec.method {facts.obj.spec.method} reads {wanted} rows, TraceDataset/{ref.name} makes "
            f"{dataset.spec.convert.format} rows (spec.convert.format)",
        )
    if ref.digest is not None:
        known = next((version for version in dataset.status.versions if version.digest == ref.digest), None)
        uri = known.uri if known is not None else version_uri(dataset.spec.output.uri, ref.digest)
        return ArtifactRef(uri=uri, digest=ref.digest)
    latest = dataset.status.latest
    if latest is None:
        told = f"{dataset.status.phase}: {dataset.status.message}" if dataset.status.message else dataset.status.phase
        return Objection(
            reason=Reason.DATASET_NOT_READY,
            message=f"spec.datasetRef: TraceDataset/{ref.name} has no version yet ({told})",
            mood=Mood.WORKING,
        )
    return ArtifactRef(uri=latest.uri, digest=latest.digest)


def resolve_parent(facts: Facts[FineTuneRun]) -> tuple[ArtifactRef, str | None] | Objection | None:
    """Return the adapter to continue from with its base model's digest; None where the spec names no parent."""
    ref = facts.obj.spec.parent_ref
    if ref is None:
        return None
    parent = trained(facts, ref.name, "spec.parentRef")
    if isinstance(parent, Objection):
        if parent.reason is Reason.CANDIDATE_NOT_READY:
            return Objection(reason=Reason.PARENT_NOT_READY, message=parent.message, mood=parent.mood)
        return parent
    mine, theirs = facts.obj.spec.base_model, parent.spec.base_model
    adapter = parent.status.adapter
    if adapter is None or (mine.uri, mine.revision) != (theirs.uri, theirs.revision):
        return Objection(
            reason=Reason.PARENT_MISMATCH,
            message=f"spec.parentRef: the adapter of FineTuneRun/{ref.name} belongs to base model {theirs.uri} "
            f"{theirs.revision}, spec.baseModel is {mine.uri} {mine.revision}",
        )
    return ArtifactRef(uri=adapter.uri, digest=adapter.digest), parent.status.inputs.base_model


class _Rules:
    """What a FineTuneRun adds to the loop of the run kinds."""

    outcome = ConditionType.SUCCEEDED
    again = "create a new FineTuneRun"
    unit = "steps"

    def limits(self, facts: Facts[FineTuneRun]) -> Limits:
        deadlines = facts.obj.spec.deadlines
        return Limits(
            queued=parse_duration(deadlines.queued),
            running=parse_duration(deadlines.running),
            hang=parse_duration(deadlines.hang),
            max_attempts=facts.obj.spec.retry.max_attempts,
        )

    def workers(self, facts: Facts[FineTuneRun]) -> int:
        return workers_now(facts.obj)

    def output(self, facts: Facts[FineTuneRun]) -> str:
        return facts.obj.spec.output

    def suspended(self, facts: Facts[FineTuneRun]) -> bool:
        return facts.obj.spec.suspend

    def pinned(self, facts: Facts[FineTuneRun], status: FineTuneRunStatus) -> bool:
        return status.inputs.base_model is not None

    def prepare(
        self, facts: Facts[FineTuneRun], status: FineTuneRunStatus, *, fresh: bool
    ) -> Prepared[FineTuneRunStatus] | Objection:
        objection = first_objection(facts, CHECKS)
        if objection is not None:
            return objection
        inputs = status.inputs
        if inputs.dataset is None or (fresh and inputs.base_model is None):
            dataset = resolve_dataset(facts)
            if isinstance(dataset, Objection):
                return dataset
            parent = resolve_parent(facts)
            if isinstance(parent, Objection):
                return parent
            inputs = PinnedInputs(
                dataset=dataset.digest,
                dataset_uri=dataset.uri,
                parent=parent[0].digest if parent is not None else None,
                parent_uri=parent[0].uri if parent is not None else None,
            )
            base = facts.obj.spec.base_model.digest or (parent[1] if parent is not None else None)
        else:
            base = inputs.base_model or facts.obj.spec.base_model.digest
        return Prepared(
            status=status.model_copy(update={"inputs": inputs, "progress": None, "resumed_from_step": None}),
            inputs={"dataset": inputs.dataset, "baseModel": base, "parent": inputs.parent},
        )

    def job(self, facts: Facts[FineTuneRun], status: FineTuneRunStatus, attempt: Attempt) -> TrainJob:
        inputs, source = status.inputs, facts.obj.spec.base_model
        if inputs.dataset is None or inputs.dataset_uri is None:
            raise ValueError(f"attempt {attempt.number} of FineTuneRun/{facts.obj.name} has no pinned dataset")
        parent = None
        if inputs.parent is not None and inputs.parent_uri is not None:
            parent = ArtifactRef(uri=inputs.parent_uri, digest=inputs.parent)
        return train_job(
            facts.obj,
            attempt,
            dataset=ArtifactRef(uri=inputs.dataset_uri, digest=inputs.dataset),
            base_model=ModelRef(uri=source.uri, revision=source.revision, digest=attempt.inputs.get("baseModel")),
            parent=parent,
            use_gpu=bool(the_profile(facts).accelerator),
            memory_bytes=worker_memory(the_profile(facts)),
            platform=the_profile(facts).platform,
            device=the_profile(facts).device,
        )

    def track(self, facts: Facts[FineTuneRun], status: FineTuneRunStatus, attempt: Attempt) -> FineTuneRunStatus:
        view = facts.observed.attempt
        update: dict[str, Any] = {"progress": new_progress(facts, attempt, status.progress)}
        progress = view.progress if view is not None else None
        if progress is not None and progress.attempt == attempt.number:
            if progress.resumed_from_step is not None:
                update["resumed_from_step"] = progress.resumed_from_step
            base = progress.inputs.get("baseModel", "")
            if status.inputs.base_model is None and DIGEST_PATTERN.match(base):
                update["inputs"] = status.inputs.model_copy(update={"base_model": base})
        return status.model_copy(update=update)

    def finish(
        self, facts: Facts[FineTuneRun], status: FineTuneRunStatus, attempt: Attempt, result: Result
    ) -> FineTuneRunStatus | Attempt:
        output = result.output
        problem = _mismatch(status, output)
        if problem or not isinstance(output, TrainOutput):
            return refused(attempt, reason=Reason.RESULT_MISMATCH, message=problem, failure_class=FailureClass.DATA)
        return status.model_copy(
            update={
                "adapter": AdapterStatus(
                    uri=output.adapter.uri,
                    digest=output.adapter.digest,
                    rank=output.rank,
                    final_loss=float(f"{output.final_loss:.4g}"),
                    steps=output.steps,
                ),
                "inputs": status.inputs.model_copy(update={"base_model": output.base_model.digest}),
                "resumed_from_step": output.resumed_from_step,
                "stop_reason": output.stop_reason.value,
                "strategy": output.strategy,
                "trained_by": output.workers,
                "last_probe": _probe_status(output.probes[-1]) if output.probes else None,
            }
        )

    def settled(self, facts: Facts[FineTuneRun], status: FineTuneRunStatus) -> Decision | None:
        adapter = status.adapter
        if adapter is None:
            return None
        message = (
            f"adapter {short(adapter.digest)} of rank {adapter.rank} after {adapter.steps} steps, "
            f"final loss {adapter.final_loss:.4f} nats per {'pair' if facts.obj.spec.method == 'dpo' else 'token'}"
        )
        if status.stop_reason not in ("", StopReason.COMPLETED):
            message += f"; ended early: {status.stop_reason}"
        verdict = Verdict(
            mood=Mood.DONE,
            phase=Phase.SUCCEEDED,
            reason=Reason.SUCCEEDED,
            message=message,
            more={ConditionType.SUCCEEDED: (ConditionStatus.TRUE, Reason.SUCCEEDED, message)},
        )
        return decided(facts, status, verdict)


def workers_now(obj: FineTuneRun) -> int:
    """Return how many workers the next job of a run gets.

    All; or, of an elastic run, half as many after each attempt in a row that lacked a node, at least `spec.minWorkers`.
    """
    spec, lacking = obj.spec, 0
    for attempt in reversed([each for each in obj.status.attempts if each.ended_at is not None]):
        failure = attempt.failure
        if failure is None or not _lacked_a_node(failure):
            break
        lacking += 1
    return spec.workers if spec.min_workers is None else max(spec.min_workers, spec.workers >> lacking)


def _lacked_a_node(failure: AttemptFailure) -> bool:
    if failure.reason in (Reason.SUSPENDED, Reason.SUPERSEDED):
        return False
    lost = failure.failure_class in (FailureClass.PREEMPTED, FailureClass.NODE_LOST)
    return lost or failure.reason == Reason.QUEUE_DEADLINE_EXCEEDED


def worker_memory(profile: Profile) -> int | None:
    """Return the bytes that a worker's model has: of its accelerator, else of the worker itself; None when unknown."""
    text = profile.accelerator_memory if profile.accelerator else profile.resources.get("memory", "")
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)([kKMGT]?)(i?)", text)
    if match is None:
        return None
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def _probe_status(probe: ProbeResult) -> ProbeStatus:
    """Return what a probe showed, rates to four places."""
    return ProbeStatus(
        step=probe.step,
        tasks=probe.tasks,
        judged=probe.judged,
        passed=probe.passed,
        pass_rate=None if probe.pass_rate is None else round(probe.pass_rate, 4),
        syntax_rate=None if probe.syntax_rate is None else round(probe.syntax_rate, 4),
    )


def _mismatch(status: FineTuneRunStatus, output: object) -> str:
    """Return why a result must not be believed; empty when it may."""
    if not isinstance(output, TrainOutput):
        return f"the result is a {type(output).__name__}, not a TrainOutput"
    found, pinned = output.base_model.digest, status.inputs.base_model
    if found is None:
        return "the result does not say which base model was trained on"
    if pinned is not None and found != pinned:
        return f"the result was trained on base model {found}, pinned is {pinned}"
    return ""


_RULES = _Rules()

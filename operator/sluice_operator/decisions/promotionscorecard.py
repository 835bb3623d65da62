"""PromotionScorecard: waits for its evidence, judges once, and says when the judgement is too old to rely on.

Evidence about other weights is refused here, before the worker is asked, and once more by the worker. `Ready` means
that a verdict is there, `Passed` that it is Pass and has not expired.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import ComparisonRecord, FailureClass, Result, ScorecardJob, ScorecardOutput
from sluice_api.contracts.scorecard import GateResult
from sluice_api.instants import format_instant, parse_instant
from sluice_api.v1alpha1 import EvalRun, PromotionScorecard, TraceDataset
from sluice_api.v1alpha1.common import Attempt, ConditionStatus
from sluice_api.v1alpha1.promotionscorecard import (
    ComparisonVerdict,
    GateStatus,
    HistoryStatus,
    PromotionScorecardStatus,
)
from sluice_operator.decisions.attempts import Limits, refused
from sluice_operator.decisions.base import Decision, Now, Observed
from sluice_operator.decisions.common import (
    Facts,
    Mood,
    Objection,
    Verdict,
    decided,
    first_objection,
    profile_known,
    reference,
)
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import short, trained
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason
from sluice_operator.decisions.runs import Prepared, decide_run
from sluice_operator.manifests.jobs import scorecard_job

LIMITS = Limits(running=parse_duration("1h"))
"""Limits of a judgement, which reads documents only."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a scorecard judges, resolved."""

    candidate: str
    eval_report: ArtifactRef | None = None
    compare_report: ArtifactRef | None = None
    labelled: ArtifactRef | None = None


def decide(obj: PromotionScorecard, observed: Observed, now: Now) -> Decision:
    """Return what to do about a PromotionScorecard."""
    return decide_run(_RULES, obj, obj.status, observed, now)


def validity_valid(facts: Facts[PromotionScorecard]) -> Objection | None:
    """Check `spec.validFor`."""
    try:
        parse_duration(facts.obj.spec.valid_for)
    except ValueError as error:
        return Objection(reason=Reason.INVALID_SPEC, message=f"spec.validFor: {error}; write it like 12h or 7d")
    return None


def candidate_valid(facts: Facts[PromotionScorecard]) -> Objection | None:
    """Check that the candidate is named in exactly one way."""
    candidate = facts.obj.spec.candidate
    if (candidate.fine_tune_run_ref is None) == (candidate.digest is None):
        return Objection(
            reason=Reason.INVALID_SPEC, message="spec.candidate: give exactly one of fineTuneRunRef and digest"
        )
    return None


CHECKS = (validity_valid, candidate_valid, profile_known)
"""Checks of the spec alone."""


def resolve_candidate(facts: Facts[PromotionScorecard]) -> str | Objection:
    """Return the digest of the weights that are judged."""
    candidate = facts.obj.spec.candidate
    if candidate.digest is not None:
        return candidate.digest
    if candidate.fine_tune_run_ref is None:
        raise ValueError("spec.candidate names nothing")
    run = trained(facts, candidate.fine_tune_run_ref.name, "spec.candidate.fineTuneRunRef")
    if isinstance(run, Objection):
        return run
    if run.status.adapter is None:
        raise ValueError(f"FineTuneRun/{run.name} has no adapter")
    return run.status.adapter.digest


def resolve_evidence(facts: Facts[PromotionScorecard], candidate: str) -> Evidence | Objection:
    """Return the evidence, all of it about `candidate`."""
    spec = facts.obj.spec
    report = compare = labelled = None
    if spec.eval_run_ref is not None:
        run = _evaluated(facts, spec.eval_run_ref.name, candidate)
        if isinstance(run, Objection):
            return run
        status = run.status
        report = ArtifactRef(uri=status.report.uri, digest=status.report.digest) if status.report is not None else None
        if status.compare_report is not None:
            compare = ArtifactRef(uri=status.compare_report.uri, digest=status.compare_report.digest)
    if spec.labelled_traces is not None:
        name = spec.labelled_traces.dataset_ref.name
        dataset = reference(facts, TraceDataset, name)
        if isinstance(dataset, Objection):
            return dataset
        latest = dataset.status.latest
        if latest is None:
            return Objection(
                reason=Reason.DATASET_NOT_READY,
                message=f"spec.labelledTraces: TraceDataset/{name} has no version yet; it is waited for",
                mood=Mood.WORKING,
            )
        labelled = ArtifactRef(uri=latest.uri, digest=latest.digest)
    return Evidence(candidate=candidate, eval_report=report, compare_report=compare, labelled=labelled)


def _evaluated(facts: Facts[PromotionScorecard], name: str, candidate: str) -> EvalRun | Objection:
    run = reference(facts, EvalRun, name)
    if isinstance(run, Objection):
        return run
    if run.status.report is None:
        if run.status.phase == Phase.FAILED:
            return Objection(
                reason=Reason.EVAL_RUN_FAILED,
                message=f"spec.evalRunRef: EvalRun/{name} failed with {run.status.reason} and will have no report: "
                "create a new EvalRun and a new PromotionScorecard",
            )
        told = f"{run.status.phase}: {run.status.message}" if run.status.message else run.status.phase
        return Objection(
            reason=Reason.EVAL_RUN_NOT_READY,
            message=f"spec.evalRunRef: EvalRun/{name} has no report yet ({told})",
            mood=Mood.WORKING,
        )
    judged = run.status.inputs.candidate
    if judged != candidate:
        return Objection(
            reason=Reason.CANDIDATE_MISMATCH,
            message=f"spec.evalRunRef: EvalRun/{name} measured {judged or 'weights of unknown digest'}, "
            f"the candidate is {candidate}: no verdict. Name an EvalRun of these weights, or the weights that "
            "it measured",
        )
    return run


def _moved(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return which evidence is another one than an attempt was decided on for."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    told = ", ".join(f"{name} is {short(now.get(name))}, was {short(before.get(name))}" for name in names)
    return f"the evidence moved before it was judged: {told}. Create a new PromotionScorecard for the new evidence"


def _inputs(facts: Facts[PromotionScorecard], evidence: Evidence) -> dict[str, str]:
    """Return the digests that a judgement rests on."""
    shadow = facts.obj.spec.shadow
    digests = {
        "candidate": evidence.candidate,
        "evalReport": evidence.eval_report.digest if evidence.eval_report is not None else None,
        "compareReport": evidence.compare_report.digest if evidence.compare_report is not None else None,
        "labelled": evidence.labelled.digest if evidence.labelled is not None else None,
        "shadow": shadow.summary_digest if shadow is not None else None,
    }
    return {name: digest for name, digest in digests.items() if digest is not None}


class _Rules:
    """What a PromotionScorecard adds to the loop of the run kinds."""

    outcome = ConditionType.PASSED
    again = "create a new PromotionScorecard"
    unit = "gates"

    def limits(self, facts: Facts[PromotionScorecard]) -> Limits:
        return LIMITS

    def workers(self, facts: Facts[PromotionScorecard]) -> int:
        return 1

    def output(self, facts: Facts[PromotionScorecard]) -> str:
        return facts.obj.spec.output

    def suspended(self, facts: Facts[PromotionScorecard]) -> bool:
        return False

    def pinned(self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus) -> bool:
        return status.candidate is not None

    def prepare(
        self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus, *, fresh: bool
    ) -> Prepared[PromotionScorecardStatus] | Objection:
        objection = first_objection(facts, CHECKS)
        if objection is not None:
            return objection
        candidate = resolve_candidate(facts)
        if isinstance(candidate, Objection):
            return candidate
        if status.candidate is not None and candidate != status.candidate:
            return Objection(
                reason=Reason.CANDIDATE_MISMATCH,
                message=f"spec.candidate is {short(candidate)} by now, pinned is {short(status.candidate)}: "
                "create a new PromotionScorecard",
            )
        evidence = resolve_evidence(facts, candidate)
        if isinstance(evidence, Objection):
            return evidence
        return Prepared(
            status=status.model_copy(update={"candidate": candidate}),
            inputs=_inputs(facts, evidence),
        )

    def job(
        self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus, attempt: Attempt
    ) -> ScorecardJob | Objection:
        evidence = resolve_evidence(facts, attempt.inputs["candidate"])
        if isinstance(evidence, Objection):
            return evidence
        if _inputs(facts, evidence) != attempt.inputs:
            return Objection(reason=Reason.CANDIDATE_MISMATCH, message=_moved(attempt.inputs, _inputs(facts, evidence)))
        return scorecard_job(
            facts.obj,
            attempt,
            candidate_digest=evidence.candidate,
            eval_report=evidence.eval_report,
            compare_report=evidence.compare_report,
            labelled=evidence.labelled,
            valid_for_s=parse_duration(facts.obj.spec.valid_for).total_seconds(),
        )

    def track(
        self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus, attempt: Attempt
    ) -> PromotionScorecardStatus:
        return status

    def finish(
        self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus, attempt: Attempt, result: Result
    ) -> PromotionScorecardStatus | Attempt:
        output = result.output
        if not isinstance(output, ScorecardOutput):
            return refused(
                attempt,
                reason=Reason.RESULT_MISMATCH,
                message=f"the result is a {type(output).__name__}, not a ScorecardOutput: is spec.profile's image of "
                "this release?",
                failure_class=FailureClass.DATA,
            )
        judged_at = attempt.intended_at or facts.now.text
        expires = parse_instant(judged_at) + parse_duration(facts.obj.spec.valid_for)
        return status.model_copy(
            update={
                "verdict": str(output.verdict),
                "candidate": attempt.inputs["candidate"],
                "gates": [gate_status(gate) for gate in output.gates][:16],
                "comparison": comparison_status(output.comparison),
                "scorecard_uri": output.scorecard.uri,
                "scorecard_digest": output.scorecard.digest,
                "evaluated_at": judged_at,
                "expires_at": format_instant(expires),
                "history": HistoryStatus(uri=output.history_uri),
            }
        )

    def settled(self, facts: Facts[PromotionScorecard], status: PromotionScorecardStatus) -> Decision | None:
        if status.verdict is None or status.expires_at is None:
            return None
        left = parse_instant(status.expires_at) - facts.now.instant
        needed = facts.obj.spec.comparison is not None
        verdict = judged(status, needed=needed) if left.total_seconds() > 0 else expired(status)
        return decided(facts, status, verdict, requeue_after=left if left.total_seconds() > 0 else None)


def gate_status(gate: GateResult) -> GateStatus:
    """Return a gate as the status shows it."""
    return GateStatus(
        name=str(gate.name),
        value=gate.value,
        threshold=gate.threshold,
        direction=gate.direction.value,
        n=gate.n,
        interval=list(gate.interval) if gate.interval is not None else None,
        verdict=gate.verdict.value,
        source=gate.source[:1024],
        note=gate.note[:1024],
        detail=gate.detail[:1024],
    )


def comparison_status(record: ComparisonRecord | None) -> ComparisonVerdict | None:
    """Return the judged comparison as the status shows it."""
    if record is None:
        return None
    found = {name: getattr(record, name) for name in ComparisonVerdict.model_fields}
    return ComparisonVerdict.model_validate(found, by_name=True)


def judged(status: PromotionScorecardStatus, *, needed: bool = False) -> Verdict:
    """Return what a valid verdict says, with the gates that decided it, and the comparison where one is `needed`."""
    phase, reason, passed = {
        "Pass": (Phase.PASSED, Reason.GATES_PASSED, ConditionStatus.TRUE),
        "Fail": (Phase.REFUSED, Reason.GATES_FAILED, ConditionStatus.FALSE),
        "Inconclusive": (Phase.INCONCLUSIVE, Reason.GATES_INCONCLUSIVE, ConditionStatus.FALSE),
    }[status.verdict or "Inconclusive"]
    message = gates_in_words(status, needed=needed)
    return Verdict(
        mood=Mood.DONE,
        phase=phase,
        reason=reason,
        message=message,
        more={ConditionType.PASSED: (passed, reason, message)},
    )


def expired(status: PromotionScorecardStatus) -> Verdict:
    """Return what an expired verdict says."""
    message = (
        f"the verdict {status.verdict} of {status.evaluated_at} expired at {status.expires_at}: "
        "create a new PromotionScorecard"
    )
    return Verdict(
        mood=Mood.DONE,
        phase=Phase.EXPIRED,
        reason=Reason.EXPIRED,
        message=message,
        more={ConditionType.PASSED: (ConditionStatus.FALSE, Reason.EXPIRED, message)},
    )


def gates_in_words(status: PromotionScorecardStatus, *, needed: bool = False) -> str:
    """Return the gates' counts, the comparison, and each gate that did not pass with the numbers behind it."""
    gates = status.gates
    passed = sum(1 for gate in gates if gate.verdict == "Pass")
    parts = [f"{status.verdict}: {passed} of {len(gates)} gates passed"]
    found = status.comparison
    if found is not None:
        parts.append(
            f"comparison with the champion {found.verdict} (p {found.p_value:.3g} at level {found.level:.3g}, "
            f"candidate {found.candidate} of its budget, {found.spent:.3g} of {found.budget:g} spent)"
        )
    elif needed:
        parts.append("comparison with the champion missing: give spec.evalRunRef an EvalRun with a baseline")
    for gate in gates:
        if gate.verdict in ("Fail", "Inconclusive"):
            sign = "≥" if gate.direction == "min" else "≤"
            asked = [f"asked {sign} {gate.threshold:g}"] if gate.threshold is not None else []
            asked += [f"n {gate.n}"] if gate.n is not None else []
            text = f" ({', '.join(asked)})" if asked else ""
            parts.append(f"{gate.name} {gate.value:.4g} {gate.verdict}{text}")
    missing = [gate.name for gate in gates if gate.verdict == "Missing"]
    if missing:
        parts.append(f"missing {', '.join(missing)}")
    return "; ".join(parts)


_RULES = _Rules()

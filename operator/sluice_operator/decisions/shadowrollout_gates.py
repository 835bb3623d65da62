"""Gates of a step: what must be in before the weight may rise; the first that is not gives the reason to hold.

At 100 % there is no stable arm beside the candidate. The last step therefore asks for soak, matured runs and a passing
scorecard, but not for the verdict NonInferior; harm against the stable runs of the step before still rolls back.
"""

from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.instants import format_instant, parse_instant
from sluice_api.v1alpha1 import PromotionScorecard
from sluice_api.v1alpha1.common import ANNOTATION_PROMOTED_BY
from sluice_api.v1alpha1.shadowrollout import Approval, ShadowRolloutStatus, StepScorecardStatus
from sluice_operator.decisions.base import CreateOnce, EmitEvent
from sluice_operator.decisions.common import WAITING, Command, Mood, Objection, acknowledge, pending_command
from sluice_operator.decisions.duration import format_duration, parse_duration
from sluice_operator.decisions.models import short
from sluice_operator.decisions.reasons import Phase, Reason
from sluice_operator.decisions.shadowrollout_analysis import harm_alpha, last_failure
from sluice_operator.decisions.shadowrollout_view import (
    Rollout,
    at,
    evidence_is_fresh,
    interval,
    is_last,
    present_step,
    share_mismatch,
    step_start,
)
from sluice_operator.manifests.configmap import assignment_of
from sluice_operator.manifests.lineage import step_scorecard
from sluice_operator.manifests.naming import LABEL_OWNER_UID, step_scorecard_name

MOST_UNREADABLE = 0.05
"""Share of unreadable traces above which a step holds."""
KEPT_SCORECARDS = 40
"""Step scorecards kept in a status."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A step scorecard as recorded, and as it is now."""

    entry: StepScorecardStatus
    found: PromotionScorecard | None
    genuine: bool
    """Whether it is the one that this rollout made, unchanged."""
    expired: bool


def held(
    phase: Phase,
    reason: Reason,
    message: str,
    *,
    mood: Mood = Mood.WORKING,
    requeue_after: timedelta = WAITING,
) -> Objection:
    """Return the objection of a gate that holds the present weight."""
    return Objection(reason=reason, message=message, mood=mood, phase=phase, requeue_after=requeue_after)


# Evidence


def evidence_gate(facts: Rollout, status: ShadowRolloutStatus) -> Objection | None:
    """Check that the step has fresh evidence with matured runs, enough of it, and that it decides."""
    where, evidence = at(status, facts), status.evidence
    failure = last_failure(status)
    if evidence is None:
        if failure:
            return held(
                Phase.NO_DATA, Reason.ANALYSIS_FAILED, f"{where}: the analysis failed, it is tried again: {failure}"
            )
        pause = format_duration(interval(facts))
        return held(Phase.BAKING, Reason.NO_EVIDENCE, f"{where}: the first analysis follows {pause} after its start")
    if not evidence_is_fresh(facts, status):
        why = f"; the newest one failed: {failure}" if failure else ""
        return held(
            Phase.NO_DATA,
            Reason.EVIDENCE_STALE,
            f"{where}: the newest analysis is of {evidence.at}, too old{why}. "
            f"Check that profile {facts.obj.spec.profile!r} can run analyses",
        )
    runs, asked = status.arms.candidate.runs, present_step(facts, status).min_runs
    last = is_last(facts, status)
    if runs == 0 or (evidence.verdict == ShadowVerdict.NO_DATA and not last):
        stable = status.arms.stable.runs
        return held(
            Phase.NO_DATA,
            Reason.NO_DATA,
            f"{where}: {runs} matured runs of the candidate, {stable} of the stable arm in this step. Check that "
            f"both arms serve, and export their traces to {facts.obj.spec.analysis.source.uri}",
        )
    started = step_start(status)
    soaked = started + parse_duration(present_step(facts, status).soak) if started is not None else None
    if soaked is None or facts.now.instant < soaked:
        until = format_instant(soaked) if soaked is not None else "its start"
        text = f"{where}: soaks until {until}, {runs} of {asked} matured runs"
        left = soaked - facts.now.instant if soaked is not None else WAITING
        return held(Phase.SOAKING, Reason.SOAKING, text, requeue_after=min(left, WAITING))
    if evidence.evaluator and status.evaluator and evidence.evaluator != status.evaluator:
        return held(
            Phase.SOAKING,
            Reason.EVALUATOR_CHANGED,
            f"{where}: evaluator {short(evidence.evaluator)} made the newest analysis, {short(status.evaluator)} those "
            f"before. Give profile {facts.obj.spec.profile!r} the image that it had, or abort and retry",
            mood=Mood.STUCK,
        )
    if evidence.unreadable is not None and evidence.unreadable > MOST_UNREADABLE:
        return held(
            Phase.SOAKING,
            Reason.TRACES_UNREADABLE,
            f"{where}: {evidence.unreadable:.1%} of the traces cannot be read, more than {MOST_UNREADABLE:.0%}: they "
            "may hide harm. The analysis names examples; correct the exporter",
        )
    mismatch = share_mismatch(facts, status)
    if mismatch and assignment_of(facts.obj).key == "run":
        # A few tenants of different size may well add up to another share.
        return held(Phase.SOAKING, Reason.SHARE_MISMATCH, f"{where}: {mismatch}")
    if runs < asked:
        return held(Phase.SOAKING, Reason.TOO_FEW_RUNS, f"{where}: {runs} of {asked} matured runs")
    if evidence.verdict != ShadowVerdict.NON_INFERIOR and not last:
        arms = status.arms
        return held(
            Phase.SOAKING,
            Reason.UNDECIDED,
            f"{where}: neither harm nor non-inferiority is shown: {runs} runs ({arms.candidate.escalations} escalated) "
            f"against {arms.stable.runs} stable ones ({arms.stable.escalations} escalated){_e_values(facts, status)}",
        )
    return None


def _e_values(facts: Rollout, status: ShadowRolloutStatus) -> str:
    """Return how far both tests are, in words; empty for a method without them."""
    evidence, alpha = status.evidence, facts.obj.spec.analysis.alpha
    if evidence is None or evidence.harm is None or evidence.non_inferiority is None:
        return ""
    part = harm_alpha(facts, status)
    return (
        f"; e-values: harm {evidence.harm:.3g} of {1 / part:.0f}, "
        f"non-inferiority {evidence.non_inferiority:.3g} of {1 / alpha:.0f}"
    )


def overdue(facts: Rollout, status: ShadowRolloutStatus) -> bool:
    """Return whether the step has been undecided for longer than `analysis.maxDuration`."""
    started = step_start(status)
    return started is not None and facts.now.instant >= started + parse_duration(facts.obj.spec.analysis.max_duration)


# Scorecards


def cards(facts: Rollout, status: ShadowRolloutStatus) -> list[Card]:
    """Return the scorecards of the present step and round, newest last."""
    return [
        _card(facts, status, entry)
        for entry in status.scorecards
        if entry.step == status.step and entry.round == status.round
    ]


def with_verdicts(facts: Rollout, status: ShadowRolloutStatus) -> ShadowRolloutStatus:
    """Return the status with the verdicts that the present step's scorecards have by now."""
    known = {card.entry.name: card for card in cards(facts, status)}
    entries = []
    for entry in status.scorecards:
        card = known.get(entry.name)
        verdict = card.found.status.verdict if card is not None and card.found is not None and card.genuine else None
        entries.append(entry.model_copy(update={"verdict": verdict}) if verdict else entry)
    return status if entries == status.scorecards else status.model_copy(update={"scorecards": entries})


def failed_card(facts: Rollout, status: ShadowRolloutStatus) -> Card | None:
    """Return a genuine scorecard of the present step that says Fail."""
    for card in cards(facts, status):
        if card.genuine and card.found is not None and card.found.status.verdict == "Fail":
            return card
    return None


def passing_card(facts: Rollout, status: ShadowRolloutStatus) -> Card | None:
    """Return a genuine scorecard of the present step that says Pass and has not expired."""
    for card in reversed(cards(facts, status)):
        if card.genuine and card.found is not None and not card.expired and card.found.status.verdict == "Pass":
            return card
    return None


def scorecard_gate(facts: Rollout, status: ShadowRolloutStatus) -> Objection | CreateOnce | None:
    """Check that a fresh scorecard of this step says Pass; return it to create where the next one is due."""
    if passing_card(facts, status) is not None:
        return None
    where, evidence = at(status, facts), status.evidence
    known = cards(facts, status)
    newest = known[-1] if known else None
    if evidence is None:
        return held(Phase.BAKING, Reason.NO_EVIDENCE, f"{where}: no analysis yet")
    name = step_scorecard_name(facts.obj.name, facts.obj.uid, status.round, status.step, evidence.attempt)
    if newest is None or newest.entry.name != name or newest.found is None:
        waits = newest is not None and newest.found is not None and _is_open(newest.found)
        if not waits:
            return CreateOnce(
                manifest=step_scorecard(
                    facts.obj,
                    round_number=status.round,
                    step=status.step,
                    attempt=evidence.attempt,
                    candidate_digest=status.candidate_digest or "",
                    summary_uri=evidence.uri,
                    summary_digest=evidence.digest,
                )
            )
    if newest is None or newest.found is None:
        raise ValueError("a scorecard that is not there must be created")
    name, found = newest.entry.name, newest.found
    if not newest.genuine:
        return held(
            Phase.AWAITING_SCORECARD,
            Reason.STEP_SCORECARD_FOREIGN,
            f"{where}: PromotionScorecard/{name} is not as this rollout makes it and does not count; "
            "another follows the next analysis",
            mood=Mood.STUCK,
        )
    if _is_open(found):
        text = f" ({found.status.phase}: {found.status.message})" if found.status.message else ""
        return held(
            Phase.AWAITING_SCORECARD,
            Reason.AWAITING_SCORECARD,
            f"{where}: PromotionScorecard/{name} has no verdict yet{text}",
        )
    state = "has expired" if newest.expired else f"says {found.status.verdict or found.status.phase}"
    return held(
        Phase.AWAITING_SCORECARD,
        Reason.STEP_SCORECARD_INCONCLUSIVE,
        f"{where}: PromotionScorecard/{name} {state} ({found.status.message}); another follows the next analysis",
    )


def with_card(status: ShadowRolloutStatus, create: CreateOnce) -> ShadowRolloutStatus:
    """Return the status with a scorecard recorded that is being created."""
    manifest = create.manifest
    entry = StepScorecardStatus(
        step=status.step,
        round=status.round,
        name=manifest["metadata"]["name"],
        evidence=manifest["spec"]["shadow"]["summaryDigest"],
    )
    kept = [old for old in status.scorecards if old.name != entry.name]
    return status.model_copy(update={"scorecards": [*kept, entry][-KEPT_SCORECARDS:]})


def _is_open(card: PromotionScorecard) -> bool:
    """Return whether a scorecard may still get a verdict by itself."""
    return card.status.verdict is None and card.status.phase != Phase.FAILED


def _card(facts: Rollout, status: ShadowRolloutStatus, entry: StepScorecardStatus) -> Card:
    raw = facts.observed.references.get(f"PromotionScorecard/{entry.name}")
    if raw is None:
        return Card(entry=entry, found=None, genuine=False, expired=False)
    try:
        found = PromotionScorecard.model_validate(raw)
    except ValidationError:
        return Card(entry=entry, found=None, genuine=False, expired=False)
    spec, options, shadow = found.spec, facts.obj.spec.scorecard, found.spec.shadow
    genuine = (
        (found.metadata.get("labels") or {}).get(LABEL_OWNER_UID) == facts.obj.uid
        and spec.candidate.digest == status.candidate_digest
        and shadow is not None
        and (shadow.step, shadow.summary_digest) == (status.step, entry.evidence)
        and (spec.tier, list(spec.required_gates)) == (options.tier, list(options.required_gates))
        and not spec.metrics
        and not spec.thresholds
        and found.status.candidate in (None, status.candidate_digest)
    )
    return Card(entry=entry, found=found, genuine=genuine, expired=is_expired(facts, found))


def is_expired(facts: Rollout, card: PromotionScorecard) -> bool:
    """Return whether a scorecard is too old to rely on; one with a verdict and no end is."""
    if card.status.verdict is None:
        return False
    expires = card.status.expires_at
    return expires is None or facts.now.instant >= parse_instant(expires)


# Approval


def with_approval(facts: Rollout, status: ShadowRolloutStatus) -> tuple[ShadowRolloutStatus, tuple[EmitEvent, ...]]:
    """Return the status with a pending promote command acted on: it approves the step that it names.

    A later step's number waits for that step; anything else is acknowledged and told to be ignored. Approval never
    replaces evidence.
    """
    value = pending_command(facts.obj, status, Command.PROMOTE)
    if value is None or (value.isdecimal() and int(value) > status.step and not status.outcome):
        return status, ()
    status = acknowledge(status, Command.PROMOTE, value)
    if status.step == 0 or value != str(status.step):
        text = f"promote {value!r} is ignored: the rollout is at step {status.step}"
        return status, (EmitEvent(reason=Reason.COMMAND_IGNORED, message=text[:1024], warning=True),)
    approval = Approval(step=status.step, at=facts.now.text, by=_manager(facts))
    kept = [old for old in status.approvals if old.step != status.step]
    return status.model_copy(update={"approvals": [*kept, approval][-20:]}), ()


def _manager(facts: Rollout) -> str:
    """Return who approved: the annotation beside the promote annotation, else the field manager of the latter."""
    named = facts.obj.annotations.get(ANNOTATION_PROMOTED_BY)
    if named:
        return named[:253]
    for entry in facts.obj.metadata.get("managedFields") or ():
        annotations = ((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if "f:sluice.dev/promote" in annotations:
            return str(entry.get("manager", ""))[:253]
    return ""


def approval_gate(facts: Rollout, status: ShadowRolloutStatus) -> Objection | None:
    """Check that a step which asks for it was approved."""
    if status.step not in facts.obj.spec.approval or any(old.step == status.step for old in status.approvals):
        return None
    return held(
        Phase.AWAITING_APPROVAL,
        Reason.AWAITING_APPROVAL,
        f"{at(status, facts)}: everything is in; approve with "
        f"kubectl annotate shadowrollout {facts.obj.name} sluice.dev/promote={status.step} --overwrite",
        mood=Mood.RESTING,
    )

"""Real preference pairs: the answer that failed and the answer that passed, in the same state of the same run.

A person's edit of a step is preferred to what the step answered, whatever its label: the state is the step's own.
Without one, a pair needs a negative step and a later positive step of the same run whose prompt was the same: the
hand-over to the expert after an escalation, or a retry. Two answers given in different states are no preference between
them, so:

- where both steps recorded the request that the model saw (`envelope.prompt`), the two must be equal;
- otherwise the intents must be equal, and no step from the rejected one up to the chosen one may have changed anything
  that was not rolled back;
- where the prompt holds a screenshot, the second condition must hold in any case: equal text does not show an equal
  screen.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.convert import Converter, DropReason, PrivateTextError, Screens, Tally
from sluice_traces.ladder import Verdict
from sluice_traces.records import HumanEditRecord, LabelledStepRecord, PairStepRecord, StepRecord
from sluice_traces.rows import SYSTEM_TURN, PairMetadataRow, PreferenceRowRecord

EXPERT_TYPE = "expert"
"""`type` of a step that the expert answered, or its first word."""

PairStep = PairStepRecord | LabelledStepRecord


class Correction(StrEnum):
    """Where the chosen answer of a pair comes from."""

    EXPERT_HANDOVER = "expert_handover"
    """The expert took over."""
    RETRY = "retry"
    """The same model tried again and passed."""
    HUMAN_EDIT = "human_edit"
    """A person said what the answer should have been."""


class EditedMetadataRow(PairMetadataRow, kw_only=True, gc=False):
    """Where a pair of a human edit came from: the edited step is both the rejected and the chosen one."""

    corrected_by: str
    """Who edited it."""


def pair_rows(
    run_id: str,
    tenant_id: str,
    steps: Sequence[PairStep],
    verdicts: Sequence[Verdict],
    converter: Converter,
    screens: Screens,
    tally: Tally,
    *,
    require_screenshot: bool,
    scrub: Callable[[str], str] = str,
) -> list[PreferenceRowRecord]:
    """The preference rows of one run, in the order of the rejected steps.

    Args:
        run_id: the run.
        tenant_id: its tenant, empty for shared runs.
        steps: its steps.
        verdicts: one a step.
        converter: renders prompts and answers.
        screens: screenshots of the run.
        tally: counts every judged step, and every negative or edited step that became no pair.
        require_screenshot: leave out pairs whose state has no screenshot.
        scrub: removes private text from the names of editors.
    """
    rows: list[PreferenceRowRecord] = []
    row: PreferenceRowRecord | DropReason
    tally.count_verdicts(verdicts)
    for index, (step, (label, _)) in enumerate(zip(steps, verdicts, strict=True)):
        if label is not Label.NEGATIVE and step.human_edit is None:
            continue
        image = screens.image(step.step_index)
        if image is None and require_screenshot:
            tally.drop(DropReason.NO_SCREENSHOT)
            continue
        try:
            if step.human_edit is not None:
                row = _edited(run_id, tenant_id, step, step.human_edit, verdicts[index], converter, image, scrub)
            else:
                row = _pair(run_id, tenant_id, steps, verdicts, index, converter, image)
        except PrivateTextError:
            row = DropReason.PRIVATE
        if isinstance(row, DropReason):
            tally.drop(row)
        else:
            rows.append(row)
    return rows


def find_correction(
    steps: Sequence[PairStep], verdicts: Sequence[Verdict], rejected: int, *, image: bool
) -> int | None:
    """Index of the first later positive step in the state of a negative one; None when there is none."""
    untouched = _untouched(steps[rejected])
    for index in range(rejected + 1, len(steps)):
        if verdicts[index][0] is Label.POSITIVE and _same_state(
            steps[rejected], steps[index], untouched=untouched, image=image
        ):
            return index
        untouched = untouched and _untouched(steps[index])
    return None


def provenance(chosen: PairStep, rejected: Verdict) -> Correction:
    """Who gave the chosen answer: an escalation hands the run to the expert, and expert steps say so themselves."""
    by_expert = (chosen.type or "").lower().startswith(EXPERT_TYPE)
    escalated = rejected[1] is LabelReason.ESCALATION
    return Correction.EXPERT_HANDOVER if by_expert or escalated else Correction.RETRY


def _untouched(step: PairStep) -> bool:
    """Whether the step left the state as it was."""
    return not step.observed_outcome or bool(step.reversed)


def _same_state(rejected: PairStep, chosen: PairStep, *, untouched: bool, image: bool) -> bool:
    if image and not untouched:
        return False
    before, after = _seen(rejected), _seen(chosen)
    if before is not None and after is not None:
        return before == after
    return untouched and (rejected.intent or "") == (chosen.intent or "")


def _seen(step: PairStep) -> str | None:
    prompt = step.envelope.prompt if step.envelope is not None else None
    return prompt if isinstance(prompt, str) and prompt else None


def _pair(
    run_id: str,
    tenant_id: str,
    steps: Sequence[PairStep],
    verdicts: Sequence[Verdict],
    index: int,
    converter: Converter,
    image: str | None,
) -> PreferenceRowRecord | DropReason:
    step = steps[index]
    rejected = converter.answer(step)
    if isinstance(rejected, DropReason):
        return rejected
    found = find_correction(steps, verdicts, index, image=image is not None)
    if found is None:
        return DropReason.UNPAIRED
    chosen = converter.answer(steps[found])
    # The same answer in the same state shows that the environment moved, not that one answer is better.
    if isinstance(chosen, DropReason) or chosen == rejected:
        return DropReason.UNPAIRED
    action = steps[found].last_action
    metadata = PairMetadataRow(
        run_id=run_id,
        tenant_id=tenant_id,
        step=steps[found].step_index,
        label=verdicts[found][0].value,
        label_reason=verdicts[found][1].value,
        action_type=(action.action_type if action else None) or "",
        rejected_step=step.step_index,
        rejected_reason=verdicts[index][1].value,
        provenance=provenance(steps[found], verdicts[index]).value,
    )
    prompt = (SYSTEM_TURN, converter.prompt(step.intent, image=image is not None))
    return PreferenceRowRecord(prompt, chosen, rejected, metadata, image)


def _edited(
    run_id: str,
    tenant_id: str,
    step: PairStep,
    edit: HumanEditRecord,
    verdict: Verdict,
    converter: Converter,
    image: str | None,
    scrub: Callable[[str], str],
) -> PreferenceRowRecord | DropReason:
    """The pair of a step that a person edited."""
    wanted = StepRecord(step.step_index, last_action=edit.last_action, predicted_outcome=edit.predicted_outcome)
    rejected, chosen = converter.answer(step), converter.answer(wanted)
    if isinstance(rejected, DropReason):
        return rejected
    if isinstance(chosen, DropReason):
        return chosen
    if chosen == rejected:
        return DropReason.UNPAIRED
    metadata = EditedMetadataRow(
        run_id=run_id,
        tenant_id=tenant_id,
        step=step.step_index,
        label=Label.POSITIVE.value,
        label_reason=Correction.HUMAN_EDIT.value,
        action_type=(edit.last_action.action_type if edit.last_action else None) or "",
        rejected_step=step.step_index,
        rejected_reason=verdict[1].value,
        provenance=Correction.HUMAN_EDIT.value,
        corrected_by=scrub(edit.edited_by),
    )
    prompt = (SYSTEM_TURN, converter.prompt(step.intent, image=image is not None))
    return PreferenceRowRecord(prompt, chosen, rejected, metadata, image)

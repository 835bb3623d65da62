"""Judged steps to training rows in the one prompt and the one action grammar of `sluice_api`.

Positive (and, on request, neutral) steps become supervised rows. A negative step never takes that shape: it becomes a
`rejected` row (here) or the rejected side of a real pair (`sluice_traces.preference`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec.structs import astuple

from sluice_api.chat import render_user
from sluice_api.contracts.trace import Label, LabelReason
from sluice_traces.encoded import text_rows
from sluice_traces.fast import action_line, outcome_text
from sluice_traces.ladder import LABEL_OF, Verdict, judge_steps
from sluice_traces.records import NO_PARAMS, ActionRecord, LabelledStepRecord, ParamsRecord, StepRecord
from sluice_traces.rows import SYSTEM_TURN, MetadataRow, RejectedRowRecord, SftRowRecord, TurnRow


class DropReason(StrEnum):
    """Why a judged step became no row."""

    LABEL_NOT_KEPT = "label_not_kept"
    """Its label is not among the labels to keep."""
    NO_ACTION = "no_action"
    """The model took no action."""
    ACTION_NOT_IN_GRAMMAR = "action_not_in_grammar"
    """An unknown action, or one without coordinates, text or keys."""
    NO_SCREENSHOT = "no_screenshot"
    """Its screenshot is missing and asked for."""
    UNPAIRED = "unpaired"
    """Preference pairs: nothing in the same state to pair it with."""
    PRIVATE = "private"
    """Quarantined: it held what must not leave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertConfig:
    """How a judged step becomes a row."""

    keep: frozenset[Label] = frozenset({Label.POSITIVE})
    """Labels to keep."""
    screen_width: int = 1280
    """Pixels, for the prompt."""
    screen_height: int = 720
    """Pixels, for the prompt."""
    require_screenshot: bool = True
    """Drop steps whose screenshot is missing."""

    def __post_init__(self) -> None:
        if not self.keep:
            raise ValueError("keep names no label: give at least one of positive, negative, neutral")
        if self.screen_width < 1 or self.screen_height < 1:
            raise ValueError(f"the screen is {self.screen_width}x{self.screen_height}: both sides must be positive")


@dataclass(slots=True)
class Tally:
    """Steps by what became of them."""

    reasons: dict[LabelReason, int] = field(default_factory=dict)
    """Steps by ladder rule."""
    dropped: dict[DropReason, int] = field(default_factory=dict)
    """Steps that became no row."""

    def count_verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Count judged steps."""
        reasons = self.reasons
        for _, reason in verdicts:
            reasons[reason] = reasons.get(reason, 0) + 1

    def count_reasons(self, reasons: Mapping[LabelReason, int]) -> None:
        """Count judged steps by ladder rule."""
        for reason, count in reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count steps that became no row."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def merge(self, other: "Tally") -> None:
        """Add another tally's counts to this one."""
        self.count_reasons(other.reasons)
        for dropped, count in other.dropped.items():
            self.drop(dropped, count)

    def labels(self) -> dict[str, int]:
        """Steps by label, all three named."""
        counts = {label.value: 0 for label in Label}
        for reason, count in self.reasons.items():
            counts[LABEL_OF[reason].value] += count
        return counts

    def label_reasons(self) -> dict[str, int]:
        """Steps by ladder rule, in the ladder's order."""
        return {reason.value: self.reasons[reason] for reason in LabelReason if reason in self.reasons}

    def drops(self) -> dict[str, int]:
        """Dropped steps by reason, sorted."""
        return {reason.value: count for reason, count in sorted(self.dropped.items())}


# Members of an enum are slow to look up.
_NOT_KEPT = DropReason.LABEL_NOT_KEPT

Scrub = Callable[[str], str]
"""Removes private text; raises `PrivateTextError` to keep the whole step back."""


class PrivateTextError(Exception):
    """A step holds text that must not leave and may not be redacted; the message names the detector only."""


@dataclass(frozen=True, slots=True)
class Screens:
    """Screenshots of one run."""

    folder: str = ""
    """Their folder, relative to the screenshots root."""
    steps: Collection[int] = ()
    """Steps that have one."""

    def image(self, step: int) -> str | None:
        """Path of a step's screenshot relative to the root; None when there is none."""
        return f"{self.folder}/{step:04d}.png" if step in self.steps else None


NO_SCREENS = Screens()
"""A run without screenshots."""


def carried_verdict(step: LabelledStepRecord) -> Verdict | None:
    """The judgement that a labelled step carries; None when it carries none that the ladder gives."""
    try:
        label, reason = Label(step.label or ""), LabelReason(step.label_reason or "")
    except ValueError:
        return None
    # A failure that somebody calls positive must not be taught.
    return (label, reason) if LABEL_OF[reason] is label else None


def action_text(action: ActionRecord | None) -> str | DropReason:
    """The action as one line of text, or why there is none."""
    if action is None or not action.action_type:
        return DropReason.NO_ACTION
    return action_line(action.action_type, action.params or NO_PARAMS) or DropReason.ACTION_NOT_IN_GRAMMAR


def _scrub_action(action: ActionRecord | None, scrub: Scrub) -> ActionRecord | None:
    """The action with its texts scrubbed before they are quoted, so that detectors see them as they are."""
    if action is None or action.params is None:
        return action
    params = {
        name: scrub(value)
        if isinstance(value, str)
        else [scrub(item) if isinstance(item, str) else item for item in value]
        if isinstance(value, list)
        else value
        for name, value in action.arguments().items()
    }
    return ActionRecord(action.action_type, ParamsRecord(**params))


def said_in(steps: Iterable[StepRecord]) -> list[str]:
    """Every text of some steps that rows may carry: all that a `Converter` would scrub."""
    texts: list[str] = []
    for step in steps:
        texts.append(step.intent or "")
        texts.append(step.predicted_outcome or "")
        action = step.last_action
        if action is not None and action.params is not None:
            for value in astuple(action.params):
                if type(value) is str:
                    texts.append(value)
                elif type(value) is list:
                    texts += [item for item in value if isinstance(item, str)]
    return texts


class Converter:
    """Turns judged steps into encoded rows. One instance serves any number of runs; it keeps nothing of them."""

    def __init__(self, config: ConvertConfig, scrub: Scrub | None = None) -> None:
        self._config = config
        self._scrub = scrub
        self._keep = config.keep - {Label.NEGATIVE}
        self._text = text_rows(self._keep, config.screen_width, config.screen_height)

    def prompt(self, intent: str | None, *, image: bool) -> TurnRow:
        """The human turn of a step."""
        text = intent or ""
        if self._scrub is not None:
            text = self._scrub(text)
        return TurnRow("human", render_user(text, self._config.screen_width, self._config.screen_height, image))

    def answer(self, step: StepRecord) -> str | DropReason:
        """The assistant turn of a step, or why there is none."""
        last, outcome = step.last_action, step.predicted_outcome
        if self._scrub is not None:
            last = _scrub_action(last, self._scrub)
            outcome = self._scrub(outcome or "")
        action = action_text(last)
        if isinstance(action, DropReason):
            return action
        said = outcome_text(outcome)
        return f"{said}\n{action}" if said else action

    def judged_rows(
        self, run_id: str, tenant_id: str, steps: Sequence[StepRecord], screens: Screens, tally: Tally
    ) -> Sequence[SftRowRecord]:
        """`rows` of steps that are judged on the way: the same rows, at a third of the cost where all is text."""
        if self._scrub is not None or screens.steps or self._config.require_screenshot:
            return self.rows(run_id, tenant_id, steps, judge_steps(steps), screens, tally)
        rows, reasons, no_action, not_in_grammar = self._text.write(run_id, tenant_id, steps)
        if tally.reasons:
            tally.count_reasons(reasons)
        else:
            tally.reasons = reasons
        if no_action:
            tally.drop(DropReason.NO_ACTION, no_action)
        if not_in_grammar:
            tally.drop(DropReason.ACTION_NOT_IN_GRAMMAR, not_in_grammar)
        not_kept = len(steps) - len(rows) - no_action - not_in_grammar
        if not_kept:
            tally.drop(_NOT_KEPT, not_kept)
        return rows

    def rows(
        self,
        run_id: str,
        tenant_id: str,
        steps: Sequence[StepRecord],
        verdicts: Sequence[Verdict],
        screens: Screens,
        tally: Tally,
    ) -> Sequence[SftRowRecord]:
        """The supervised rows of one run, in the order of the steps.

        Args:
            run_id: the run.
            tenant_id: its tenant, empty for shared runs.
            steps: its steps.
            verdicts: one a step.
            screens: its screenshots.
            tally: counts every judged and every dropped step.
        """
        tally.count_verdicts(verdicts)
        keep, rows, not_kept = self._keep, list[SftRowRecord](), 0
        for step, (label, reason) in zip(steps, verdicts, strict=True):
            if label not in keep:
                not_kept += 1
                continue
            row = self._row(run_id, tenant_id, step, label, reason, screens)
            if isinstance(row, SftRowRecord):
                rows.append(row)
            else:
                tally.drop(row)
        if not_kept:
            tally.drop(DropReason.LABEL_NOT_KEPT, not_kept)
        return rows

    def rejected(
        self, run_id: str, tenant_id: str, step: StepRecord, verdict: Verdict, screens: Screens
    ) -> RejectedRowRecord | DropReason:
        """A negative step as a `rejected` row, or why it is none."""
        row = self._row(run_id, tenant_id, step, *verdict, screens)
        if isinstance(row, DropReason):
            return row
        system, human, answer = row.conversations
        return RejectedRowRecord((system, human), answer.value, row.metadata, row.image)

    def _row(
        self, run_id: str, tenant_id: str, step: StepRecord, label: Label, reason: LabelReason, screens: Screens
    ) -> SftRowRecord | DropReason:
        image = screens.image(step.step_index) if screens.steps else None
        if image is None and self._config.require_screenshot:
            return DropReason.NO_SCREENSHOT
        try:
            answer = self.answer(step)
            if isinstance(answer, DropReason):
                return answer
            human = self.prompt(step.intent, image=image is not None)
        except PrivateTextError:
            return DropReason.PRIVATE
        action_type = (step.last_action.action_type if step.last_action else None) or ""
        # Labels and reasons are strings already; taking their `.value` would cost more than writing them.
        metadata = MetadataRow(run_id, tenant_id, step.step_index, label, reason, action_type)
        return SftRowRecord((SYSTEM_TURN, human, TurnRow("gpt", answer)), metadata, image)

"""Traces as the hot path sees them: msgspec structs with only the fields that are used, decoded in one pass.

The full documents are `sluice_api.contracts.trace`; their pydantic models validate everything and are too slow for
millions of traces. Fields that are not listed here are skipped while decoding, never copied.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from sluice_api.contracts.trace import SHARED_TENANT_FOLDER, Variant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ParamsRecord(msgspec.Struct, gc=False):
    """Arguments of an action, those that the grammar of `sluice_api.actions` reads; `UNSET` where there is none."""

    x: Any = msgspec.UNSET
    y: Any = msgspec.UNSET
    text: Any = msgspec.UNSET
    keys: Any = msgspec.UNSET
    key: Any = msgspec.UNSET
    direction: Any = msgspec.UNSET
    amount: Any = msgspec.UNSET
    seconds: Any = msgspec.UNSET
    summary: Any = msgspec.UNSET

    def given(self) -> dict[str, Any]:
        """The arguments that there are, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not msgspec.UNSET}


NO_PARAMS = ParamsRecord()
"""No arguments."""


class ActionRecord(msgspec.Struct, gc=False):
    """The last action of a step."""

    action_type: str | None = None
    """Name of the action; None and unknown names teach nothing."""
    params: ParamsRecord | None = None
    """Its arguments."""

    def arguments(self) -> dict[str, Any]:
        """The arguments that there are, by name."""
        return {} if self.params is None else self.params.given()


StepIndex = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""Position of a step in its run; what a column of a shard can hold."""


class StepRecord(msgspec.Struct, gc=False):
    """What judging and converting a step need of it."""

    step_index: StepIndex
    """Position in the run, from 0."""
    intent: str | None = None
    """What the step was to achieve, and the page state where the agent is text-only."""
    success: bool | None = None
    """Whether the step succeeded; missing counts as failed."""
    data: str | None = None
    """What the environment answered."""
    last_action: ActionRecord | None = None
    """The action the model answered with last."""
    predicted_outcome: str | None = None
    """What the model expected to happen."""
    observed_outcome: str | None = None
    """What was seen to change."""


class EnvelopeRecord(msgspec.Struct, gc=False):
    """The request as the model saw it."""

    prompt: Any = None
    """The page state given to the model; text in every known agent."""


class HumanEditRecord(msgspec.Struct, gc=False):
    """The answer that a person says a step should have given."""

    last_action: ActionRecord | None = None
    """The action."""
    predicted_outcome: str | None = None
    """What it is expected to do."""
    edited_by: str = ""
    """Who says so."""


class PairStepRecord(StepRecord, gc=False):
    """What pairing steps needs on top."""

    type: str | None = None
    """Kind of step, as the agent names it; `expert` steps were answered by the model that took over."""
    reversed: bool | None = None
    """Whether the step was rolled back, so that the next one starts from the same state."""
    envelope: EnvelopeRecord | None = None
    """The request as the model saw it."""
    human_edit: HumanEditRecord | None = None
    """What a person says the answer should have been."""


class HeaderRecord(msgspec.Struct, gc=False):
    """What a trace says of itself, without its steps."""

    schema_version: int
    """Version of the trace schema."""
    run_id: str
    """Identity of the run."""
    tenant_id: str | None = ""
    """Tenant; empty for shared runs."""
    variant: str | None = ""
    """Arm that served the run."""
    status: str | None = ""
    """How the run ended."""
    started_at: str | None = ""
    """Start, RFC 3339."""
    review_status: str | None = ""
    """Human review; only labelled traces have one."""


class TraceRecord(HeaderRecord, kw_only=True, gc=False):
    """One run with the steps that supervised rows are made of."""

    steps: list[StepRecord]
    """The steps."""


class PairTraceRecord(HeaderRecord, kw_only=True, gc=False):
    """One run with the steps that preference pairs are made of."""

    steps: list[PairStepRecord]
    """The steps."""


class LabelledStepRecord(StepRecord, kw_only=True, gc=False):
    """A step with the judgement that a file carries."""

    label: str | None = None
    """The judgement; None where the file was never labelled."""
    label_reason: str | None = None
    """The ladder rule that fired."""
    type: str | None = None
    """As in `PairStepRecord`."""
    reversed: bool | None = None
    """As in `PairStepRecord`."""
    envelope: EnvelopeRecord | None = None
    """As in `PairStepRecord`."""
    human_edit: HumanEditRecord | None = None
    """As in `PairStepRecord`."""


class LabelledTraceRecord(HeaderRecord, kw_only=True, gc=False):
    """One labelled run. Older labellers dropped `schema_version`; such a file reads as version 0."""

    schema_version: int = 0
    """Version of the trace it came from; 0 when the labeller did not carry it."""
    steps: list[LabelledStepRecord]
    """The labelled steps."""


def variant_name(variant: str | None) -> str:
    """The arm's name as filters and summaries use it: an empty one is `__unassigned__`."""
    return variant or Variant.UNASSIGNED.value


def tenant_folder(tenant_id: str | None) -> str:
    """The tenant's name as filters use it: an empty one is `__shared__`."""
    return tenant_id or SHARED_TENANT_FOLDER


def instant_us(text: str | None) -> int | None:
    """Microseconds since 1970 of an RFC 3339 instant; None when it is missing or no instant. No offset means UTC."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds

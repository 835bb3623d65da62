"""One trace document to rows, in one pass: decode, filter, judge, convert. Knows no storage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

import msgspec

from sluice_api.contracts.dataset import RowFormat
from sluice_api.contracts.trace import Variant
from sluice_traces.convert import ConvertConfig, Converter, Screens, Tally, said_in
from sluice_traces.ladder import judge_steps
from sluice_traces.preference import pair_rows
from sluice_traces.privacy import Redactor
from sluice_traces.reader import decode
from sluice_traces.records import (
    HeaderRecord,
    PairTraceRecord,
    TraceRecord,
    instant_us,
    tenant_folder,
    variant_name,
)
from sluice_traces.rows import RowRecord, encode_rows
from sluice_traces.screens import CheckedScreens, Picture

_position = attrgetter("step_index")

REVIEW_APPROVED = "approved"
"""`review_status` of a trace that a person let through."""


class SkipReason(StrEnum):
    """Why a good trace is not used."""

    TENANT_NOT_SELECTED = "tenant_not_selected"
    """Its tenant is not among those asked for."""
    VARIANT_NOT_SELECTED = "variant_not_selected"
    """Another arm served it."""
    STARTED_BEFORE_SINCE = "started_before_since"
    """It is older than asked for."""
    START_UNKNOWN = "start_unknown"
    """Newer ones are asked for and it does not say when it started."""
    NOT_REVIEWED = "not_reviewed"
    """Reviewed ones are asked for and nobody has approved it."""
    FORGOTTEN = "forgotten"
    """Its run or tenant was asked to be forgotten."""
    PRIVATE_IDENTITY = "private_identity"
    """Its run or tenant id holds private text, which its rows would carry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceFilter:
    """Which traces to use."""

    tenants: frozenset[str] = frozenset()
    """Tenants, `__shared__` for runs without one; empty means all."""
    variants: frozenset[str] = frozenset()
    """Arms, `__unassigned__` for runs without one; empty means all."""
    since: str = ""
    """Runs that started at or after this instant, RFC 3339; empty means all."""
    require_review: bool = False
    """Only traces that a person approved."""

    def __post_init__(self) -> None:
        if self.since and instant_us(self.since) is None:
            raise ValueError(f"since is {self.since!r}, which is no RFC 3339 instant")

    def skip(self, trace: HeaderRecord, started_us: int | None) -> SkipReason | None:
        """Why not to use a trace; None to use it."""
        if self.tenants and tenant_folder(trace.tenant_id) not in self.tenants:
            return SkipReason.TENANT_NOT_SELECTED
        name = variant_name(trace.variant)
        # A mirrored request was answered for nobody: what came of it must not teach unless somebody looked at it.
        if name == Variant.MIRROR or (self.variants and name not in self.variants):
            return SkipReason.VARIANT_NOT_SELECTED
        if self.since:
            if started_us is None:
                return SkipReason.START_UNKNOWN
            if started_us < (instant_us(self.since) or 0):
                return SkipReason.STARTED_BEFORE_SINCE
        if self.require_review and trace.review_status != REVIEW_APPROVED:
            return SkipReason.NOT_REVIEWED
        return None


@dataclass(slots=True)
class RunRows:
    """What one trace gave."""

    tenant_id: str
    """Its tenant, empty for shared runs."""
    run_id: str
    """The run."""
    started_us: int | None
    """Start in microseconds since 1970; None when unknown."""
    block: bytes
    """Its rows as lines of JSON, each ended, in the order of the steps."""
    rows: int
    """How many."""
    tally: Tally
    """Its steps by what became of them."""
    redactions: dict[str, int]
    """Distinct private texts found, by detector."""
    pictures: tuple[Picture, ...] = ()
    """Screenshots that its rows refer to."""
    bad_screens: dict[str, int] = field(default_factory=dict)
    """Screenshots that could not be used, by reason."""


class TracePipeline:
    """Turns trace documents into rows. Holds no state between documents."""

    def __init__(
        self,
        config: ConvertConfig,
        *,
        row_format: RowFormat = "sft",
        trace_filter: TraceFilter | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._config = config
        self._filter = trace_filter or TraceFilter()
        self._converter = Converter(config)
        self._redactor = redactor
        self._pairs = row_format == "preference"
        self._decode_trace = msgspec.json.Decoder(TraceRecord)
        self._decode_pairs = msgspec.json.Decoder(PairTraceRecord)

    def process(self, raw: bytes, screens: Screens) -> RunRows | SkipReason:
        """The rows of one trace document, or why it is not used.

        Args:
            raw: the document.
            screens: screenshots of its run.

        Raises:
            BadFileError: it is no usable trace.
        """
        trace: TraceRecord | PairTraceRecord
        trace = decode(raw, self._decode_pairs) if self._pairs else decode(raw, self._decode_trace)
        started_us = instant_us(trace.started_at)
        skip = self._filter.skip(trace, started_us)
        if skip is not None:
            return skip
        tally, tenant_id = Tally(), trace.tenant_id or ""
        steps = trace.steps
        steps.sort(key=_position)
        redactions: dict[str, int] = {}
        converter = self._converter
        scrub: Callable[[str], str] = str
        if self._redactor is not None:
            if self._redactor.private_identity(trace.run_id) or self._redactor.private_identity(tenant_id):
                return SkipReason.PRIVATE_IDENTITY
            if self._pairs or not self._redactor.clean(said_in(steps)):
                redactor = self._redactor.run()
                scrub, redactions = redactor.scrub, redactor.counts
                converter = Converter(self._config, scrub)
        rows: Sequence[RowRecord]
        if isinstance(trace, PairTraceRecord):
            rows = pair_rows(
                trace.run_id,
                tenant_id,
                trace.steps,
                judge_steps(trace.steps),
                converter,
                screens,
                tally,
                require_screenshot=self._config.require_screenshot,
                scrub=scrub,
            )
        else:
            rows = converter.judged_rows(trace.run_id, tenant_id, trace.steps, screens, tally)
        found = RunRows(tenant_id, trace.run_id, started_us, encode_rows(rows), len(rows), tally, redactions)
        if isinstance(screens, CheckedScreens):
            found.pictures = screens.pictures(row.image for row in rows)
            found.bad_screens = dict(screens.problems)
        return found

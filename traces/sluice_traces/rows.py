"""Rows as they are written: the shapes of `sluice_api.contracts.dataset`, as msgspec structs for the hot path."""

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

from sluice_api.chat import SYSTEM_PROMPT

SOURCE = "labelled_trace"
"""Producer of the rows."""


class TurnRow(msgspec.Struct, frozen=True, gc=False):
    """One turn."""

    role: str = msgspec.field(name="from")
    """`system`, `human` or `gpt`."""
    value: str
    """What is said."""


class MetadataRow(msgspec.Struct, gc=False):
    """Where a row came from."""

    run_id: str
    """Run of the step."""
    tenant_id: str
    """Tenant of the run."""
    step: int
    """Index of the step in its run."""
    label: str
    """Label of the step."""
    label_reason: str
    """Ladder rule behind the label."""
    action_type: str
    """Action that the row teaches."""
    source: str = SOURCE
    """Producer of the row."""


class PairMetadataRow(MetadataRow, kw_only=True, gc=False):
    """Where a preference pair came from; the inherited fields are those of the chosen step."""

    rejected_step: int
    """Index of the rejected step in the same run."""
    rejected_reason: str
    """Ladder rule behind the rejected step's label."""
    provenance: str
    """Who corrected it, see `sluice_traces.preference.Correction`."""


class SftRowRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One supervised example."""

    conversations: tuple[TurnRow, TurnRow, TurnRow]
    """System, human and gpt turn."""
    metadata: MetadataRow
    """Lineage."""
    image: str | None = None
    """Screenshot, relative to the screenshots root."""


class RejectedRowRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One answer that must not be imitated; no `conversations`, so that no supervised trainer can take it for one."""

    prompt: tuple[TurnRow, TurnRow]
    """System and human turn."""
    rejected: str
    """The answer."""
    metadata: MetadataRow
    """Lineage."""
    image: str | None = None
    """Screenshot, relative to the screenshots root."""


class PreferenceRowRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """One chosen answer and the rejected one in the same state."""

    prompt: tuple[TurnRow, TurnRow]
    """System and human turn."""
    chosen: str
    """The answer that passed."""
    rejected: str
    """The answer that did not."""
    metadata: PairMetadataRow
    """Lineage."""
    image: str | None = None
    """Screenshot of the state, relative to the screenshots root."""


SYSTEM_TURN = TurnRow("system", SYSTEM_PROMPT)
"""First turn of every row."""

RowRecord = SftRowRecord | RejectedRowRecord | PreferenceRowRecord
"""Any row."""

ENCODER = msgspec.json.Encoder()
"""Writes rows; the order of the fields is the order of their definition, so equal rows have equal bytes."""
_SFT_ROW = msgspec.json.Decoder(SftRowRecord)


class EncodedRows(Sequence[SftRowRecord]):
    """Rows as lines of JSON; they are decoded where they are looked at."""

    def __init__(self, block: bytes, rows: int) -> None:
        self.block = block
        """The lines, each ended."""
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[SftRowRecord]:
        return iter(_SFT_ROW.decode_lines(self.block))

    @overload
    def __getitem__(self, index: int) -> SftRowRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[SftRowRecord]: ...

    def __getitem__(self, index: int | slice) -> SftRowRecord | list[SftRowRecord]:
        return _SFT_ROW.decode_lines(self.block)[index]


def encode_rows(rows: Sequence[RowRecord]) -> bytes:
    """Rows as lines of JSON, each ended."""
    return rows.block if isinstance(rows, EncodedRows) else ENCODER.encode_lines(rows)


class RowKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of a row within a dataset, and the order of the rows in it."""

    tenant_id: str
    """Tenant of the run."""
    run_id: str
    """Run."""
    step: int
    """Index of the step."""


class _Keyed(msgspec.Struct, gc=False):
    metadata: RowKey


_KEYED = msgspec.json.Decoder(_Keyed)


def row_key(line: bytes) -> RowKey:
    """Identity of a row on disk.

    Raises:
        msgspec.DecodeError: the line is no row.
    """
    return _KEYED.decode(line).metadata

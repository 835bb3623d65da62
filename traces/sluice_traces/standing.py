"""Appending to a standing set: rows of the version before whose traces are gone, taken over unchanged.

A trace that is still there and is not used any more (its tenant is not selected, a person rejected it, its name is
private) is not gone: its rows leave. So does a row in which today's detectors find what those of its time did not look
for: its trace is gone, so that nothing could be redacted anew.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from sluice_api.contracts.dataset import HOLDOUT_PART, TRAIN_PART, RowFormat
from sluice_artifacts import CorruptError, open_store
from sluice_traces.convert import DropReason, PrivateTextError, Tally
from sluice_traces.curate import image_of
from sluice_traces.dataset import ParentVersion
from sluice_traces.preference import EditedMetadataRow
from sluice_traces.privacy import Redactor
from sluice_traces.rows import ENCODER, PreferenceRowRecord, SftRowRecord
from sluice_traces.screens_pool import screens_uri
from sluice_traces.shards import row_digest
from sluice_traces.spool import Spool
from sluice_traces.tombstones import Tombstones


class _EditedRowRecord(PreferenceRowRecord, omit_defaults=True, gc=False):
    metadata: EditedMetadataRow


def keep_standing(
    parent: ParentVersion,
    spool: Spool,
    tombstones: Tombstones,
    row_format: RowFormat,
    dataset_uri: str,
    redactor: Redactor,
    tally: Tally,
) -> int:
    """Add the rows of runs whose traces are gone to a spool; return how many.

    Args:
        parent: the version before.
        spool: the rows of the traces that are there.
        tombstones: what must not stay.
        row_format: shape of the rows.
        dataset_uri: prefix of all versions.
        redactor: looks for private text.
        tally: counts the rows that hold some.

    Raises:
        ArtifactError: the version cannot be read, or its rows are not what their digests say.
    """
    store = open_store(dataset_uri)
    sizes = {found.uri.rpartition("/")[2]: found.size for found in store.list(screens_uri(dataset_uri))}
    sources = {(run.tenant_id, run.run_id): run.source for run in parent.runs() if run.rows}
    kept = 0
    for part in (TRAIN_PART, HOLDOUT_PART):
        rows = parent.rows(part)
        for (tenant, run), group in groupby(rows, key=lambda row: _run_of(row[0])):
            source = sources.get((tenant, run))
            if source is None or spool.has_run(tenant, run) or tombstones.covers(tenant, run):
                continue
            if spool.is_refused(source):
                continue
            lines = []
            for row, line in _lines(group, row_format, parent.ref.uri):
                if _is_private(row, redactor):
                    tally.drop(DropReason.PRIVATE)
                else:
                    lines.append(line)
            if not lines:
                continue
            spool.add(tenant, run, source, None, b"".join(line + b"\n" for line in lines), len(lines))
            for name in {image for line in lines if (image := image_of(line)) is not None}:
                spool.note_picture(name, "", sizes.get(name, 0))
            kept += len(lines)
    return kept


def _is_private(row: dict[str, Any], redactor: Redactor) -> bool:
    """Whether a row holds private text; one that cannot be judged does."""
    turns = [*row.get("conversations", ()), *row.get("prompt", ())]
    texts = [*(turn["value"] for turn in turns), row.get("chosen", ""), row.get("rejected", "")]
    texts.append(row["metadata"].get("corrected_by", ""))
    try:
        # Outcome and action stand on lines of their own, and were searched apart from one another.
        found = any(redactor.find(line) for text in texts for line in text.split("\n"))
    except PrivateTextError:
        return True
    return found or any(redactor.private_identity(name) for name in _run_of(row))


def _run_of(row: dict[str, Any]) -> tuple[str, str]:
    metadata = row["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata.get("tenant_id", "")), str(metadata.get("run_id", ""))


def _lines(
    rows: Iterator[tuple[dict[str, Any], bytes]], row_format: RowFormat, uri: str
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Rows, and the bytes that they were made of."""
    for row, digest in rows:
        shape: type[SftRowRecord | PreferenceRowRecord] = SftRowRecord
        if row_format == "preference":
            metadata = row["metadata"]
            edited = isinstance(metadata, dict) and "corrected_by" in metadata
            shape = _EditedRowRecord if edited else PreferenceRowRecord
        line = ENCODER.encode(msgspec.convert(row, shape))
        if row_digest(line) != digest:
            raise CorruptError(uri, "a row is not what its digest says; publish the version again")
        yield row, line

"""`runs.parquet` of a version: every run that it knows, its trace file, and where its rows went."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sluice_api.contracts.dataset import RUNS_FILE
from sluice_artifacts import CorruptError, join
from sluice_traces.shards import ShardError, iter_tables, open_writer
from sluice_traces.spool import Part

_BATCH = 2048
_RUNS_SCHEMA = pa.schema(
    [
        ("tenant_id", pa.string()),
        ("run_id", pa.string()),
        ("source", pa.string()),
        ("part", pa.string()),
        ("rows", pa.int32()),
    ]
)


class RunLine(NamedTuple):
    """One row of `runs.parquet`: where the rows of a run come from and where they went."""

    tenant_id: str
    """Tenant of the run, empty for shared runs."""
    run_id: str
    """The run."""
    source: str
    """Path of its trace below the source."""
    part: Part
    """Where its rows went."""
    rows: int
    """Rows that its steps gave, before duplicates left; 0 also for a run of the parent version whose trace is gone."""


def read_runs(path: Path, uri: str) -> Iterator[RunLine]:
    """The runs of a version, from its `runs.parquet`.

    Raises:
        CorruptError: the file is none; `uri` says where it came from.
    """
    try:
        for table in iter_tables(path, _RUNS_SCHEMA.names):
            for tenant, run, source, part, rows in zip(
                *(table.column(name).to_pylist() for name in _RUNS_SCHEMA.names), strict=True
            ):
                yield RunLine(tenant, run, source, Part(part), rows)
    except (ShardError, ValueError) as error:
        raise CorruptError(join(uri, RUNS_FILE), f"is no list of runs: {error}") from None


def write_runs(path: Path, runs: Iterable[RunLine]) -> None:
    """Write `runs.parquet`, in the order given."""
    with open_writer(path, _RUNS_SCHEMA) as writer:
        batch: list[RunLine] = []
        for run in runs:
            batch.append(run)
            if len(batch) >= _BATCH:
                _write_runs(writer, batch)
                batch = []
        if batch:
            _write_runs(writer, batch)


def _write_runs(writer: pq.ParquetWriter, batch: list[RunLine]) -> None:
    columns = zip(*batch, strict=True)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, _RUNS_SCHEMA.types, strict=True)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=_RUNS_SCHEMA))

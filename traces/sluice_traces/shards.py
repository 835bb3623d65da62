"""Rows on disk: Parquet shards (zstd) of a dataset version, written in row groups and read back by row group.

The shape of a shard follows the row's contract (`SftRow`, `PreferenceRow`), so that any Parquet reader sees
conversations; beside it stand three columns of lineage: the row's digest, the trace file it came from, and the bucket
of the mixture. Groups and shards are cut by row counts alone, so that equal rows in equal order give equal bytes.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from sluice_api.contracts.dataset import SHARD_SUFFIX, RowFormat

GROUP_ROWS = 2048
"""Rows a row group: what a reader holds in memory."""
SHARD_ROWS = 128 * GROUP_ROWS
"""Rows a shard."""
COMPRESSION_LEVEL = 3
"""Level of zstd."""
WRITER = f"pyarrow {pa.__version__}"
"""What writes the shards."""
_PARSE_BYTES = 4 * 1024 * 1024
_READ_ROWS = 512

_TURN = pa.struct([pa.field("from", pa.string()), pa.field("value", pa.string())])
_METADATA = [
    *((name, pa.string()) for name in ("source", "run_id", "tenant_id", "label", "label_reason", "action_type")),
    ("step", pa.int32()),
]
_PAIR_METADATA = [
    *_METADATA,
    ("rejected_step", pa.int32()),
    ("rejected_reason", pa.string()),
    ("provenance", pa.string()),
    ("corrected_by", pa.string()),
]
_ROWS: dict[str, pa.Schema] = {
    "sft": pa.schema([("conversations", pa.list_(_TURN)), ("image", pa.string()), ("metadata", pa.struct(_METADATA))]),
    "preference": pa.schema(
        [
            ("prompt", pa.list_(_TURN)),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("image", pa.string()),
            ("metadata", pa.struct(_PAIR_METADATA)),
        ]
    ),
}
_FIELDS = {
    *(name for schema in _ROWS.values() for name in schema.names),
    *(field.name for field in (*_TURN, *pa.struct(_PAIR_METADATA))),
}
_LINEAGE = [("trace", pa.string()), ("bucket", pa.string()), ("digest", pa.binary(16))]
_LINEAGE_NAMES = frozenset(name for name, _ in _LINEAGE)


class ShardError(ValueError):
    """A file that holds no rows as they should be; the message names file and row, never its text."""


class Row(NamedTuple):
    """One row to write."""

    line: bytes
    """The row as JSON, without line end."""
    trace: str
    """File that it came from, below its source."""
    bucket: str = ""
    """Bucket of the mixture; empty where nothing is mixed."""


def row_digest(line: bytes) -> bytes:
    """What identifies a row's content: BLAKE2b of its JSON, 16 bytes."""
    return hashlib.blake2b(line, digest_size=16).digest()


class TableWriter:
    """Writes tables of one schema into numbered shards, in groups of `GROUP_ROWS`. A context manager."""

    def __init__(self, folder: Path, part: str, schema: pa.Schema) -> None:
        """Prepare to write `<part>-00000.parquet` and so on below a folder; without rows no file is written."""
        self._folder, self._part, self._schema = folder, part, schema
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._shard_rows = 0
        self.rows = 0
        """Rows taken so far."""
        self.paths: list[Path] = []
        """Shards begun so far; whole once the writer is closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(everything=True)
        self._close()

    def add(self, table: pa.Table) -> None:
        """Take rows."""
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        if self._pending_rows >= GROUP_ROWS:
            self._flush(everything=False)

    def _flush(self, *, everything: bool) -> None:
        if not self._pending_rows:
            return
        table = pa.concat_tables(self._pending)
        start = 0
        while table.num_rows - start >= GROUP_ROWS or (everything and start < table.num_rows):
            group = table.slice(start, GROUP_ROWS)
            self._write(group)
            start += group.num_rows
        rest = table.slice(start)
        self._pending, self._pending_rows = ([rest] if rest.num_rows else []), rest.num_rows

    def _write(self, group: pa.Table) -> None:
        if self._writer is None:
            path = self._folder / f"{self._part}-{len(self.paths):05d}{SHARD_SUFFIX}"
            self.paths.append(path)
            self._writer = open_writer(path, self._schema)
            self._shard_rows = 0
        # Chunks of a concatenation would end as data pages of their own: bytes must not tell how rows arrived.
        self._writer.write_table(group.combine_chunks(), row_group_size=GROUP_ROWS)
        self._shard_rows += group.num_rows
        if self._shard_rows >= SHARD_ROWS:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of one Parquet file with the settings of every file of a version."""
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=COMPRESSION_LEVEL, write_statistics=True, version="2.6"
    )


def shard_schema(row_format: RowFormat) -> pa.Schema:
    """Columns of a shard: the row's own, and the lineage."""
    row = _ROWS[row_format]
    return pa.schema([*row, *(pa.field(name, kind) for name, kind in _LINEAGE)])


class RowWriter:
    """Writes rows given as JSON. A context manager."""

    def __init__(self, folder: Path, part: str, row_format: RowFormat) -> None:
        self._tables = TableWriter(folder, part, shard_schema(row_format))
        self._row_schema = _ROWS[row_format]
        self._rows: list[Row] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._parse()
        self._tables.__exit__(kind, error, traceback)

    @property
    def rows(self) -> int:
        """Rows taken so far."""
        return self._tables.rows + len(self._rows)

    @property
    def paths(self) -> list[Path]:
        """Shards begun so far; whole once the writer is closed."""
        return self._tables.paths

    def add(self, row: Row) -> None:
        """Take a row.

        Raises:
            ShardError: an earlier row is no row of the format.
        """
        self._rows.append(row)
        self._bytes += len(row.line)
        if len(self._rows) >= GROUP_ROWS or self._bytes >= _PARSE_BYTES:
            self._parse()

    def _parse(self) -> None:
        if not self._rows:
            return
        table = parse_lines([row.line for row in self._rows], self._row_schema)
        lineage = (
            [row.trace for row in self._rows],
            [row.bucket for row in self._rows],
            [row_digest(row.line) for row in self._rows],
        )
        for (name, kind), values in zip(_LINEAGE, lineage, strict=True):
            table = table.append_column(pa.field(name, kind), pa.array(values, kind))
        self._tables.add(table)
        self._rows, self._bytes = [], 0


def parse_lines(lines: Sequence[bytes], schema: pa.Schema) -> pa.Table:
    """Lines of JSON as a table; fields that the schema has not are left out, missing ones are null.

    Raises:
        ShardError: a line does not fit the schema.
    """
    data = b"\n".join(lines)
    try:
        table = pyarrow.json.read_json(
            io.BytesIO(data),
            # One block: a row never lies across two.
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        raise ShardError(f"one of {len(lines)} rows does not fit the columns {', '.join(schema.names)}") from None
    return table.select(schema.names).cast(schema)


def iter_tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """A shard by pieces of at most a row group.

    Raises:
        ShardError: the file is no Parquet, is damaged, or lacks a column.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        known = set(file.schema_arrow.names)
        if missing := [name for name in columns or () if name not in known]:
            raise ShardError(f"{path.name}: has no column {missing[0]}")
        for batch in file.iter_batches(batch_size=_READ_ROWS, columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read as `ShardError`."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ShardError(f"{path.name}: is no readable Parquet file ({type(error).__name__})") from None


def count_rows(paths: Iterable[Path]) -> int:
    """How many rows `iter_rows` gives of some files, without reading a row.

    Raises:
        ShardError: a shard cannot be read.
        FileNotFoundError: a file is missing.
    """
    count = 0
    for path in paths:
        if path.suffix == SHARD_SUFFIX:
            with _readable(path), pq.ParquetFile(path) as file:
                count += file.metadata.num_rows
        else:
            with path.open("rb") as lines:
                count += sum(1 for line in lines if line.strip())
    return count


def iter_rows(paths: Iterable[Path]) -> Iterator[tuple[str, int, Any]]:
    """Every row of some files, in order: the shared way to read the rows of a dataset.

    Args:
        paths: shards, or files with a row of JSON a line; blank lines are no rows.

    Yields:
        Name of the file, number of the row in it from 1, and the row as JSON values, without the columns of lineage.

    Raises:
        ShardError: a file or a line cannot be read; names both.
        FileNotFoundError: a file is missing.
    """
    for path in paths:
        rows = _shard_rows(path) if path.suffix == SHARD_SUFFIX else _json_rows(path)
        for number, row in rows:
            yield path.name, number, row


def iter_shard(path: Path) -> Iterator[tuple[Any, bytes]]:
    """Every row of a shard as JSON values, with its digest.

    Raises:
        ShardError: the file cannot be read.
    """
    first = 1
    for table in iter_tables(path):
        try:
            names = [name for name in table.column_names if name not in _LINEAGE_NAMES]
            rows = list(map(_without_nulls, table.select(names).to_pylist()))
        except UnicodeDecodeError as error:
            places = f"{path.name}:{first} to {first + table.num_rows - 1}"
            raise ShardError(f"{places}: not UTF-8 text ({error.reason}): publish the dataset again") from None
        if "digest" not in table.column_names:
            raise ShardError(f"{path.name}: has no column digest: build the dataset with `sluice trace convert`")
        yield from zip(rows, table.column("digest").to_pylist(), strict=True)
        first += table.num_rows


def _shard_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, (row, _) in enumerate(iter_shard(path), start=1):
        yield number, row


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was written: absent fields come back from columns as nulls."""
    return {
        name: {key: inner for key, inner in value.items() if inner is not None} if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }


class _RowError(ValueError):
    """What is wrong with a line that is JSON."""


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _json_row(line)
            except UnicodeDecodeError as error:
                raise ShardError(f"{path.name}:{number}: not UTF-8 text ({error.reason})") from None
            except json.JSONDecodeError as error:
                raise ShardError(f"{path.name}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            except RecursionError:
                raise ShardError(f"{path.name}:{number}: brackets are nested too deeply for a row") from None
            except _RowError as error:
                raise ShardError(f"{path.name}:{number}: {error}") from None
            except ValueError:
                # Python reads no integer of more digits than `sys.get_int_max_str_digits`.
                raise ShardError(f"{path.name}:{number}: a number has more digits than any field of a row") from None
            yield number, row


def _json_row(line: bytes) -> Any:
    """The row of a line.

    Refused are halves of surrogate pairs, which JSON can spell and no text holds, and a field that stands twice, of
    which another reader may see the other one.
    """
    row = json.loads(line.decode(), object_pairs_hook=_object)
    if b"\\ud" in line or b"\\uD" in line:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _RowError("half of a surrogate pair, \\ud800 to \\udfff without its other half") from None
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name is told only where it is one of a row's, never what somebody wrote."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1 and name in _FIELDS), None)
        what = "a field" if twice is None else f"the field {twice}"
        raise _RowError(f"{what} stands twice in one object: keep one")
    return found

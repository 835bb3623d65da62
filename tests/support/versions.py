"""Published dataset versions as tests look at them."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import RUNS_FILE, DatasetManifest, part_files
from sluice_artifacts import fetch, join, open_store
from sluice_traces.lineage import read_runs
from sluice_traces.shards import iter_rows


def part_rows(ref: ArtifactRef, part: str = "train") -> list[dict[str, Any]]:
    """The rows of a part, as a trainer reads them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "version"
        manifest = fetch(ref, folder, DatasetManifest)
        return [row for _, _, row in iter_rows([folder / e.path for e in part_files(manifest.files, part)])]


def lineage(ref: ArtifactRef, part: str = "train") -> list[dict[str, Any]]:
    """The columns of lineage of a part's rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "version"
        manifest = fetch(ref, folder, DatasetManifest)
        tables = [
            pq.read_table(folder / e.path, columns=["trace", "bucket", "digest"])
            for e in part_files(manifest.files, part)
        ]
        return [row for table in tables for row in table.to_pylist()]


def runs(ref: ArtifactRef) -> list[dict[str, Any]]:
    """The runs of a version."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / RUNS_FILE
        open_store(ref.uri).download(join(ref.uri, RUNS_FILE), path)
        return [run._asdict() for run in read_runs(path, ref.uri)]


def document(ref: ArtifactRef, name: str) -> Any:
    """A JSON document of a version."""
    return json.loads(open_store(ref.uri).read(join(ref.uri, name)))


def lines(ref: ArtifactRef, name: str) -> list[Any]:
    """The lines of a JSONL file of a version."""
    return [json.loads(line) for line in open_store(ref.uri).read(join(ref.uri, name)).splitlines()]


def plain_text(folder: Path) -> str:
    """Everything below a folder as text, Parquet files unpacked, so that a search for words finds them."""
    pieces = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        if path.suffix == ".parquet":
            pieces += [str(row) for row in pq.read_table(path).to_pylist()]
        pieces.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(pieces)

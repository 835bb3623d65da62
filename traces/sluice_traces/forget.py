"""Forgetting a run or a tenant: tombstones, every affected version rebuilt without it, every model trained on it named.

Rows leave at once: a rebuilt version is the old one without the forgotten rows, under a new digest, and the
tombstones tell the next build to continue from it. Counts of steps in its manifest stay those of the old version,
since they tell nothing of a run; the next build from the traces counts anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import (
    HOLDOUT_PART,
    REPORT_FILE,
    RUNS_FILE,
    TRAIN_PART,
    DatasetManifest,
    FileEntry,
    RowFormat,
    part_files,
)
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import (
    MANIFEST_FILE,
    CorruptError,
    canonical_json,
    fetch,
    from_hex,
    join,
    open_store,
    publish,
    read_manifest,
    to_hex,
)
from sluice_traces.cache import CACHE_FOLDER
from sluice_traces.lineage import read_runs, write_runs
from sluice_traces.records import tenant_folder
from sluice_traces.screens_pool import pool_names, screens_uri
from sluice_traces.shards import ShardError, TableWriter, iter_tables, shard_schema
from sluice_traces.tombstones import Forgotten, Tombstones, add_tombstones
from sluice_traces.workspace import workspace


@dataclass(frozen=True, slots=True)
class AffectedModel:
    """A model that was trained on forgotten rows, directly or by its parent."""

    uri: str
    """Where its adapter lies."""
    digest: str
    """Its digest."""
    dataset: str
    """Digest of the version that it was trained on."""
    inherited: bool
    """Whether only a model that it continues was trained on them."""


@dataclass(slots=True)
class ForgetReport:
    """What forgetting did."""

    versions: int = 0
    """Versions that were looked at; 0 where a prefix holds none, and is perhaps mistyped."""
    affected: list[str] = field(default_factory=list)
    """Digests of the versions that held rows of it."""
    rebuilt: dict[str, str] = field(default_factory=dict)
    """Digest of each affected newest version to the digest of the one that took its place."""
    emptied: list[str] = field(default_factory=list)
    """Digests of affected newest versions that would have no rows to train on without it."""
    removed_rows: int = 0
    """Rows that the rebuilt versions lack."""
    purged: list[str] = field(default_factory=list)
    """Digests of affected versions that were deleted."""
    models: list[AffectedModel] = field(default_factory=list)
    """Models trained on it."""


def forget(dataset_uri: str, forgotten: list[Forgotten], model_uris: list[str], *, purge: bool) -> ForgetReport:
    """Forget runs or tenants in all versions of one dataset.

    Tombstones are written first, so that a build at the same time is either found by the search for versions or finds
    them itself when it is done, and takes its version back; then caches are dropped, newest versions rebuilt, models
    named, and last, where asked for, affected versions deleted.

    Args:
        dataset_uri: prefix of the dataset's versions.
        forgotten: what to forget.
        model_uris: prefixes below which adapters lie.
        purge: delete the affected versions.

    Raises:
        ArtifactError: the storage failed; what was done stays, and the same call goes on.
    """
    report, asked = ForgetReport(), Tombstones(forgotten=forgotten)
    add_tombstones(dataset_uri, forgotten, {})
    drop_cache(dataset_uri)
    manifests = dict(_versions(dataset_uri))
    report.versions = len(manifests)
    report.affected = sorted(digest for digest in manifests if _holds(dataset_uri, digest, manifests[digest], asked))
    parents = {manifest.parent for manifest in manifests.values()}
    for digest in report.affected:
        if digest not in parents:
            _rebuild(dataset_uri, digest, asked, report)
    add_tombstones(dataset_uri, [], report.rebuilt)
    report.models = affected_models(model_uris, set(report.affected))
    if purge:
        for digest in report.affected:
            drop_version(_ref(dataset_uri, digest))
            report.purged.append(digest)
        _drop_screens(dataset_uri)
    return report


def drop_cache(dataset_uri: str) -> None:
    """Delete what earlier builds made of the traces.

    Raises:
        ArtifactError: the storage failed.
    """
    _drop(join(dataset_uri, CACHE_FOLDER + "/"))


def drop_version(ref: ArtifactRef) -> None:
    """Delete a version; its manifest goes first, so that nobody reads half of it.

    Raises:
        ArtifactError: the storage failed.
    """
    _drop(ref.uri, first=MANIFEST_FILE)


def find_datasets(prefix: str) -> list[str]:
    """Prefixes of the datasets whose versions lie somewhere below a prefix, in order.

    Raises:
        ArtifactError: the storage failed.
    """
    found = set()
    for entry in open_store(prefix).list(prefix.rstrip("/") + "/"):
        folder, _, name = entry.uri.rpartition("/")
        parent, _, stem = folder.rpartition("/")
        if name == RUNS_FILE and _is_digest(stem):
            found.add(parent + "/")
    return sorted(found)


def _is_digest(stem: str) -> bool:
    return len(stem) == 64 and set(stem) <= set("0123456789abcdef")


def affected_models(model_uris: list[str], datasets: set[str]) -> list[AffectedModel]:
    """The models trained on versions, or continuing a model that was; ordered by place.

    Raises:
        ArtifactError: the storage failed.
    """
    found: dict[str, tuple[str, AdapterManifest]] = {}
    for prefix in model_uris:
        for uri, data in _manifests(prefix):
            try:
                manifest = AdapterManifest.model_validate_json(data)
            except ValueError:
                continue
            found[from_hex(uri.rstrip("/").rpartition("/")[2])] = (uri, manifest)
    direct = {digest for digest, (_, manifest) in found.items() if manifest.dataset.digest in datasets}
    reached = set(direct)
    while grown := {
        digest
        for digest, (_, manifest) in found.items()
        if digest not in reached and manifest.parent is not None and manifest.parent.digest in reached
    }:
        reached |= grown
    models = [
        AffectedModel(found[digest][0], digest, found[digest][1].dataset.digest, digest not in direct)
        for digest in reached
    ]
    return sorted(models, key=lambda model: model.uri)


def _versions(dataset_uri: str) -> Iterator[tuple[str, DatasetManifest]]:
    for uri, _ in _manifests(dataset_uri):
        digest = from_hex(uri.rstrip("/").rpartition("/")[2])
        yield digest, read_manifest(_ref(dataset_uri, digest), DatasetManifest)


def _manifests(prefix: str) -> Iterator[tuple[str, bytes]]:
    """Folder and content of every manifest that lies in a folder named by a digest."""
    store = open_store(prefix)
    for found in list(store.list(prefix.rstrip("/") + "/")):
        folder, _, name = found.uri.rpartition("/")
        stem = folder.rpartition("/")[2]
        if name == MANIFEST_FILE and _is_digest(stem):
            yield folder + "/", store.read(found.uri)


def _holds(dataset_uri: str, digest: str, manifest: DatasetManifest, asked: Tombstones) -> bool:
    """Whether a version knows a forgotten run."""
    uri = _ref(dataset_uri, digest).uri
    entry = next((entry for entry in manifest.files if entry.path == RUNS_FILE), None)
    if entry is None:
        raise CorruptError(uri, f"has no {RUNS_FILE}, so nobody knows whose rows it holds; delete the version")
    with workspace("sluice-forget-") as folder:
        path = folder / RUNS_FILE
        open_store(uri).download(join(uri, RUNS_FILE), path, sha256=entry.sha256)
        return any(asked.covers(run.tenant_id, run.run_id) for run in read_runs(path, uri))


def _rebuild(dataset_uri: str, digest: str, asked: Tombstones, report: ForgetReport) -> None:
    """Publish a version without the forgotten rows."""
    with workspace("sluice-forget-") as folder:
        source, target = folder / "source", folder / "target"
        ref = _ref(dataset_uri, digest)
        manifest = fetch(ref, source, DatasetManifest)
        target.mkdir()
        files: dict[str, Path] = {}
        rows: dict[str, int] = {}
        for part in (TRAIN_PART, HOLDOUT_PART):
            shards = [source / entry.path for entry in part_files(manifest.files, part)]
            paths, rows[part], dropped = _filter(shards, target, part, manifest.format, asked, ref.uri)
            report.removed_rows += dropped
            files |= {path.name: path for path in paths}
        runs = list(read_runs(source / RUNS_FILE, ref.uri))
        kept = [run for run in runs if not asked.covers(run.tenant_id, run.run_id)]
        write_runs(target / RUNS_FILE, kept)
        # A plan names rows by position, and a list of bad files may name the forgotten: neither is carried over.
        files[RUNS_FILE] = target / RUNS_FILE
        if rows[TRAIN_PART] == 0:
            report.emptied.append(digest)
            return

        def build(entries: list[FileEntry]) -> DatasetManifest:
            update = {"files": entries, "rows": rows[TRAIN_PART], "holdout_rows": rows[HOLDOUT_PART]}
            traces = max(0, manifest.traces - (len(runs) - len(kept)))
            tenants = {name: n for name, n in manifest.tenants.items() if (name, None) not in _folders(asked)}
            return manifest.model_copy(update={**update, "traces": traces, "tenants": tenants})

        files[REPORT_FILE] = target / REPORT_FILE
        left = build([]).model_dump(mode="json", exclude={"files", "parent"})
        files[REPORT_FILE].write_bytes(canonical_json({**left, "bad_files_named": []}))
        report.rebuilt[digest] = publish(dataset_uri, files, build).digest


def _folders(asked: Tombstones) -> frozenset[tuple[str, str | None]]:
    """What was asked for, with tenants by the names under which a manifest counts them."""
    return frozenset((tenant_folder(tenant), run) for tenant, run in asked.names)


def _filter(
    shards: list[Path], folder: Path, part: str, row_format: RowFormat, asked: Tombstones, uri: str
) -> tuple[list[Path], int, int]:
    """Copy the rows that are not about forgotten runs; return the new shards, and how many stayed and went."""
    dropped = 0
    try:
        with TableWriter(folder, part, shard_schema(row_format)) as writer:
            for path in shards:
                for table in iter_tables(path):
                    metadata = table.column("metadata").combine_chunks()
                    names = zip(
                        metadata.field("tenant_id").to_pylist(), metadata.field("run_id").to_pylist(), strict=True
                    )
                    keep = [not asked.covers(tenant or "", run or "") for tenant, run in names]
                    dropped += keep.count(False)
                    writer.add(table.filter(pa.array(keep)))
    except ShardError as error:
        raise CorruptError(uri, str(error)) from None
    return writer.paths, writer.rows, dropped


def _drop_screens(dataset_uri: str) -> None:
    """Delete screenshots that no version refers to any more."""
    store = open_store(dataset_uri)
    orphans = set(pool_names(store, dataset_uri))
    if not orphans:
        return
    for digest, manifest in _versions(dataset_uri):
        ref = _ref(dataset_uri, digest)
        for part in (TRAIN_PART, HOLDOUT_PART):
            for entry in part_files(manifest.files, part):
                with workspace("sluice-forget-") as folder:
                    path = folder / entry.path
                    store.download(join(ref.uri, entry.path), path, sha256=entry.sha256)
                    for table in iter_tables(path, ["image"]):
                        orphans.difference_update(table.column("image").to_pylist())
    for name in sorted(orphans):
        store.delete(join(screens_uri(dataset_uri), name))


def _drop(prefix: str, *, first: str | None = None) -> None:
    """Delete everything below a prefix; `first` names the file whose absence makes the rest invisible."""
    store = open_store(prefix)
    if first is not None:
        store.delete(join(prefix, first))
    for found in list(store.list(prefix)):
        store.delete(found.uri)


def _ref(dataset_uri: str, digest: str) -> ArtifactRef:
    return ArtifactRef(uri=join(dataset_uri, to_hex(digest) + "/"), digest=digest)

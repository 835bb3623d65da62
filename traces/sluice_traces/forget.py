"""Forgetting a run or a tenant: tombstones, every affected version rebuilt without it, every model trained on it named.

Rows leave at once: a rebuilt version is the old one without the forgotten rows, under a new digest, and the
tombstones tell the next build to continue from it. Counts of steps in its manifest stay those of the old version,
since they tell nothing of a run; the next build from the traces counts anew.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.dataset import HOLDOUT_FILE, RUNS_FILE, TRAIN_FILE, DatasetManifest, FileEntry
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import (
    MANIFEST_FILE,
    CorruptError,
    NotFoundError,
    fetch,
    from_hex,
    join,
    open_store,
    publish,
    read_manifest,
    to_hex,
)
from sluice_traces.cache import CACHE_FOLDER
from sluice_traces.dataset import RunLine
from sluice_traces.rows import row_key
from sluice_traces.tombstones import Forgotten, Tombstones, add_tombstones

_RUN_LINE = msgspec.json.Decoder(RunLine)


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

    Tombstones are written first, so that a build at the same time cannot bring the rows back; then caches are dropped,
    newest versions rebuilt, models named, and last, where asked for, affected versions deleted.

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
    _drop(join(dataset_uri, CACHE_FOLDER + "/"))
    manifests = dict(_versions(dataset_uri))
    report.affected = sorted(digest for digest in manifests if _holds(dataset_uri, digest, asked))
    parents = {manifest.parent for manifest in manifests.values()}
    for digest in report.affected:
        if digest not in parents:
            _rebuild(dataset_uri, digest, asked, report)
    add_tombstones(dataset_uri, [], report.rebuilt)
    report.models = affected_models(model_uris, set(report.affected))
    if purge:
        for digest in report.affected:
            _drop(_ref(dataset_uri, digest).uri, first=MANIFEST_FILE)
            report.purged.append(digest)
    return report


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
        if name == MANIFEST_FILE and len(stem) == 64 and set(stem) <= set("0123456789abcdef"):
            yield folder + "/", store.read(found.uri)


def _holds(dataset_uri: str, digest: str, asked: Tombstones) -> bool:
    """Whether a version knows a forgotten run."""
    uri = join(_ref(dataset_uri, digest).uri, RUNS_FILE)
    try:
        lines = open_store(uri).read(uri).splitlines()
    except NotFoundError:
        raise CorruptError(
            uri, "is missing, so nobody knows whose rows this version holds; delete the version"
        ) from None
    return any(asked.covers(run.tenant_id, run.run_id) for run in map(_RUN_LINE.decode, lines))


def _rebuild(dataset_uri: str, digest: str, asked: Tombstones, report: ForgetReport) -> None:
    """Publish a version without the forgotten rows."""
    with tempfile.TemporaryDirectory(prefix="sluice-forget-") as name:
        source, target = Path(name) / "source", Path(name) / "target"
        manifest = fetch(_ref(dataset_uri, digest), source, DatasetManifest)
        target.mkdir()
        rows = {}
        for part in (TRAIN_FILE, HOLDOUT_FILE):
            kept, dropped = _filter(source / part, target / part, asked, is_row=True)
            rows[part] = kept
            report.removed_rows += dropped
        _, runs = _filter(source / RUNS_FILE, target / RUNS_FILE, asked, is_row=False)
        if rows[TRAIN_FILE] == 0:
            report.emptied.append(digest)
            return

        def build(entries: list[FileEntry]) -> DatasetManifest:
            update = {"files": entries, "rows": rows[TRAIN_FILE], "holdout_rows": rows[HOLDOUT_FILE]}
            traces = max(0, manifest.traces - runs)
            return manifest.model_copy(update={**update, "traces": traces})

        files = {part: target / part for part in (TRAIN_FILE, HOLDOUT_FILE, RUNS_FILE)}
        report.rebuilt[digest] = publish(dataset_uri, files, build).digest


def _filter(source: Path, target: Path, asked: Tombstones, *, is_row: bool) -> tuple[int, int]:
    """Copy the lines that are not about forgotten runs; return how many stayed and how many went."""
    kept = dropped = 0
    with source.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            key = row_key(line) if is_row else _RUN_LINE.decode(line)
            if asked.covers(key.tenant_id, key.run_id):
                dropped += 1
            else:
                out.write(line)
                kept += 1
    return kept, dropped


def _drop(prefix: str, *, first: str | None = None) -> None:
    """Delete everything below a prefix; `first` names the file whose absence makes the rest invisible."""
    store = open_store(prefix)
    if first is not None:
        store.delete(join(prefix, first))
    for found in list(store.list(prefix)):
        store.delete(found.uri)


def _ref(dataset_uri: str, digest: str) -> ArtifactRef:
    return ArtifactRef(uri=join(dataset_uri, to_hex(digest) + "/"), digest=digest)

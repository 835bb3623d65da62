"""Full checkpoints: written in the background, complete or not there, verified before use.

```
<checkpoint_uri>/step-00000250.attempt-1/adapter_config.json         what peft needs to load the adapter alone
                                         adapter_model.safetensors
                                         optimizer.safetensors       AdamW's moments and the generators' states
                                         trainer_state.json          step, recent losses
                                         complete.json               hashes of the others: written last
```

The folder carries the attempt's number, so that a slow attempt that was given up never writes into its successor's
files; nor does it delete any of them. A checkpoint counts once `complete.json` is there, every file has the hash it
names, and its fingerprint is that of the run: same plan, same base, same settings. One that is bad in itself is passed
over for the one before; a storage that cannot be asked is a failure, since an older step is no answer to it.
"""

import json
import logging
import re
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sluice_api.contracts.base import Contract
from sluice_api.contracts.dataset import FileEntry
from sluice_api.contracts.jobs import FailureClass, ProbeResult
from sluice_artifacts import ArtifactError, CorruptError, NotFoundError, Store, canonical_json, join, open_store
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.snapshot import PendingSnapshot, Snapshot, Take

COMPLETE_FILE = "complete.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "trainer_state.json"
REQUIRED_FILES = frozenset({ADAPTER_FILE, OPTIMIZER_FILE, STATE_FILE})
"""What a run cannot go on without."""
FAILURE_LIMIT = 3
"""Checkpoints in a row that may fail to be written before training stops."""

_FOLDER = re.compile(r"/step-(\d{8})\.attempt-(\d+)/")
_log = logging.getLogger(__name__)


class CheckpointManifest(Contract):
    """`complete.json`: what makes a checkpoint whole."""

    schema_version: int = 1
    """Version of this document."""
    fingerprint: str
    """Digest of what the run is: a checkpoint of another run is never used."""
    step: int
    """Steps done."""
    files: list[FileEntry]
    """Every other file."""


@dataclass(frozen=True, kw_only=True)
class AdapterNames:
    """How the trained parameters are called in peft's files."""

    config: bytes
    """`adapter_config.json`."""
    by_parameter: Mapping[str, str]
    """Name in the file by name in the model."""


class Checkpointer:
    """Writes and finds the checkpoints of one run."""

    def __init__(
        self,
        *,
        uri: str,
        fingerprint: str,
        attempt: int,
        keep: int,
        names: AdapterNames,
        store: Store | None = None,
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            uri: run-scoped prefix.
            fingerprint: digest of what the run is.
            attempt: number of this attempt.
            keep: complete checkpoints kept, at least 1.
            names: names of the parameters in peft's files.
            store: where they lie; None opens the URI's.
        """
        if keep < 1:
            raise ValueError(f"checkpoint_keep is {keep}: it must be at least 1")
        self._uri = uri
        self._fingerprint = fingerprint
        self._attempt = attempt
        self._keep = keep
        self._names = names
        self._store = store or open_store(uri)
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._error: ArtifactError | OSError | None = None
        self._fatal: Exception | None = None
        self._ours: dict[str, bool] = {}
        self._passed_over: set[str] = set()

    def save(self, take: Take) -> None:
        """Copy and write the state in the background; waits only while an earlier one is being written.

        Raises:
            WorkerError: `Storage` after `FAILURE_LIMIT` checkpoints in a row could not be written.
        """
        self._join()
        pending = take()
        self._thread = threading.Thread(target=self._write, args=(pending,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, *, must_succeed: bool = False) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            WorkerError: `Storage` when too many failed, or, with `must_succeed`, when the last one did.
        """
        self._join(limit=1 if must_succeed else FAILURE_LIMIT)

    def newest(self) -> Snapshot | None:
        """The newest checkpoint of this run that is whole; None where there is none.

        One that is damaged, or of another run, is passed over with a warning.

        Raises:
            ArtifactError: the storage cannot be asked.
            OSError: what was fetched cannot be kept here, for lack of room for example.
        """
        for step, _, folder in sorted(self._complete(), reverse=True):
            try:
                return self._read(folder)
            except (_NotOursError, NotFoundError, CorruptError, SafetensorError, ValueError, KeyError) as error:
                self._passed_over.add(folder)
                _log.warning("checkpoint of step %d is passed over: %s", step, error)
        return None

    def _join(self, limit: int = FAILURE_LIMIT) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._fatal is not None:
            raise self._fatal
        if self._failures >= limit and self._error is not None:
            message = f"checkpoints cannot be written: {self._error}"
            raise WorkerError(FailureClass.STORAGE, message) from self._error

    def _write(self, pending: PendingSnapshot) -> None:
        try:
            self._upload(pending.result())
        except (ArtifactError, OSError) as error:
            self._failures += 1
            self._error = error
            _log.warning("checkpoint of step %d was not written (%d in a row): %s", pending.step, self._failures, error)
        except Exception as error:  # noqa: BLE001 - a thread's error is raised where training waits for it
            self._fatal = error
        else:
            self._failures = 0

    def _upload(self, snapshot: Snapshot) -> None:
        folder = join(self._uri, f"step-{snapshot.step:08d}.attempt-{self._attempt}/")
        with tempfile.TemporaryDirectory(prefix="sluice-checkpoint-") as scratch:
            paths = self._files(snapshot, Path(scratch))
            entries = []
            for path in paths:
                sha256 = self._store.upload(path, join(folder, path.name))
                entries.append(FileEntry(path=path.name, sha256=sha256, size=path.stat().st_size))
        if lacking := {entry.path for entry in entries} - self._listed().get(folder, set()):
            raise CorruptError(folder, f"{', '.join(sorted(lacking))} went while it was written: by another attempt?")
        manifest = CheckpointManifest(fingerprint=self._fingerprint, step=snapshot.step, files=entries)
        self._store.write(join(folder, COMPLETE_FILE), canonical_json(manifest))
        self._ours[folder] = True
        try:
            self._prune(snapshot.step, best_step(snapshot.probes))
        except ArtifactError as error:
            _log.warning("older checkpoints stay until the next one is written: %s", error)

    def _files(self, snapshot: Snapshot, scratch: Path) -> list[Path]:
        adapter = {self._names.by_parameter[name]: tensor for name, tensor in snapshot.parameters.items()}
        random = {f"random/{device}": state for device, state in snapshot.random.items()}
        save_tensors(adapter, scratch / ADAPTER_FILE)
        save_tensors({**snapshot.optimizer, **random}, scratch / OPTIMIZER_FILE)
        (scratch / ADAPTER_CONFIG_FILE).write_bytes(self._names.config)
        state = {
            "step": snapshot.step,
            "recent": [list(entry) for entry in snapshot.recent],
            "probes": [probe.model_dump(mode="json") for probe in snapshot.probes],
        }
        (scratch / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        return sorted(scratch.iterdir())

    def _read(self, folder: str) -> Snapshot:
        manifest = CheckpointManifest.model_validate_json(self._store.read(join(folder, COMPLETE_FILE)))
        if manifest.fingerprint != self._fingerprint:
            raise _NotOursError("it is of a run with another plan, base or settings")
        if lacking := REQUIRED_FILES - {entry.path for entry in manifest.files}:
            raise CorruptError(folder, f"{COMPLETE_FILE} does not name {', '.join(sorted(lacking))}")
        with tempfile.TemporaryDirectory(prefix="sluice-checkpoint-") as scratch:
            place = Path(scratch)
            for entry in manifest.files:
                self._store.download(join(folder, entry.path), place / Path(entry.path).name, sha256=entry.sha256)
            adapter = load_file(place / ADAPTER_FILE)
            optimizer = load_file(place / OPTIMIZER_FILE)
            state = json.loads((place / STATE_FILE).read_text(encoding="utf-8"))
        random = {name.removeprefix("random/"): optimizer.pop(name) for name in list(optimizer) if _is_random(name)}
        return Snapshot(
            step=int(state["step"]),
            parameters={name: adapter[key] for name, key in self._names.by_parameter.items()},
            optimizer=optimizer,
            random=random,
            recent=tuple((float(loss), int(units)) for loss, units in state["recent"]),
            probes=tuple(ProbeResult.model_validate(probe) for probe in state["probes"]),
        )

    def _complete(self) -> list[tuple[int, int, str]]:
        """Step, attempt and folder of every checkpoint that says it is whole."""
        return [_place(folder) for folder, names in self._listed().items() if COMPLETE_FILE in names]

    def _is_ours(self, folder: str) -> bool:
        """Whether a checkpoint is of this run; one whose marker cannot be read as such is not."""
        if folder not in self._ours:
            try:
                text = self._store.read(join(folder, COMPLETE_FILE))
                self._ours[folder] = CheckpointManifest.model_validate_json(text).fingerprint == self._fingerprint
            except (NotFoundError, CorruptError, ValueError):
                self._ours[folder] = False
        return self._ours[folder]

    def _prune(self, written: int, best: int | None) -> None:
        """Delete what is beyond the newest `keep`, and what a killed attempt left behind.

        Ranked are the checkpoints that this run can go on from: its own, up to the step just `written`. Those that were
        passed over when it resumed, or lack a file, or are of another run, stay only where the ranked ones leave room,
        and go first. The checkpoint of the best probe stays, however old.

        Left alone is what an attempt that still runs may be writing or need: everything of a later attempt than this
        one, which then is the one that was given up, and whole checkpoints beyond `written` until this one gets there.
        """
        listed = self._listed()
        places = [place for place in map(_place, listed) if place[1] <= self._attempt]
        whole = [place for place in places if listed[place[2]] >= {COMPLETE_FILE, *REQUIRED_FILES}]
        good = [place for place in whole if place[2] not in self._passed_over and self._is_ours(place[2])]
        usable = [place for place in good if place[0] <= written]
        spare = sorted(place for place in places if place not in good and COMPLETE_FILE in listed[place[2]])
        steps = sorted({step for step, _, _ in usable}, reverse=True)
        kept = {*steps[: self._keep], best}
        surplus = spare[: max(0, len(spare) - max(0, self._keep - len(steps)))]
        old = [place for place in usable if place[0] not in kept]
        unfinished = [place for place in places if COMPLETE_FILE not in listed[place[2]]]
        overtaken = [place for place in unfinished if len(steps) >= self._keep and place[0] < steps[self._keep - 1]]
        for _, _, folder in (*surplus, *old, *overtaken):
            self._delete(folder, listed[folder])

    def _listed(self) -> dict[str, set[str]]:
        """Names of the files in every folder, whole or not."""
        found: dict[str, set[str]] = {}
        for info in self._store.list(self._uri):
            if match := _FOLDER.search(info.uri):
                found.setdefault(info.uri[: match.end()], set()).add(info.uri[match.end() :])
        return found

    def _delete(self, folder: str, names: Collection[str]) -> None:
        """Delete a folder, its `complete.json` first."""
        for name in sorted(names, key=lambda each: each != COMPLETE_FILE):
            self._store.delete(join(folder, name))


class _NotOursError(Exception):
    """The checkpoint belongs to another run."""


def _place(folder: str) -> tuple[int, int, str]:
    """Step, attempt and URI of a checkpoint's folder."""
    match = _FOLDER.search(folder)
    assert match is not None, folder
    return int(match[1]), int(match[2]), folder


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write a file of safetensors.

    Raises:
        OSError: there is no room for it.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def _is_random(name: str) -> bool:
    return name.startswith("random/")


def best_step(probes: Sequence[ProbeResult]) -> int | None:
    """Step of the first probe with the highest pass rate, the baseline aside; None where none could be judged."""
    judged = [probe for probe in probes if probe.pass_rate is not None and probe.step > 0]
    return max(judged, key=lambda probe: (probe.pass_rate or 0.0, -probe.step)).step if judged else None


def peft_names(parameters: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name in peft's file by name in the model, for every trained parameter.

    Raises:
        ValueError: the two do not correspond one to one.
    """
    names = {
        name: name.replace(".modules_to_save.default.", ".").replace(".default.", ".").removesuffix(".default")
        for name in parameters
    }
    if set(names.values()) != set(state) or len(names) != len(state):
        raise ValueError("trained parameters and peft's state differ")
    return names

"""Checkpoints: whole or passed over, kept by count, and a storage that fails does not stop training at once."""

import errno
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from sluice_api.contracts.jobs import FailureClass, ProbeResult
from sluice_artifacts import ArtifactError, ForbiddenError, ObjectInfo, Store, UnreachableError, open_store
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.checkpoint import COMPLETE_FILE, FAILURE_LIMIT, AdapterNames, Checkpointer, best_step, peft_names
from sluice_trainer.snapshot import PendingSnapshot, Snapshot

NAMES = AdapterNames(config=b"{}", by_parameter={"a.default.weight": "a.weight", "b.default.weight": "b.weight"})


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    parameters = {name: torch.randn(3, 4, generator=generator) for name in NAMES.by_parameter}
    optimizer = {
        f"{name}/{key}": torch.randn(3, 4, generator=generator)
        for name in parameters
        for key in ("exp_avg", "exp_avg_sq")
    }
    optimizer |= {f"{name}/step": torch.tensor(float(step)) for name in parameters}
    return Snapshot(
        step=step,
        parameters=parameters,
        optimizer=optimizer,
        random={"cpu": torch.get_rng_state()},
        recent=((0.1 + step, 3), (1 / 3, 7)),
        probes=(ProbeResult(step=0, tasks=8, judged=3, passed=1, pass_rate=1 / 3, syntax_rate=None),),
    )


def pending(step: int) -> PendingSnapshot:
    future: Future[Snapshot] = Future()
    future.set_result(snapshot(step))
    return PendingSnapshot(step, future)


def checkpointer(folder: Path, **options: Any) -> Checkpointer:
    settings = {"uri": f"file://{folder}", "fingerprint": "f", "attempt": 1, "keep": 3, "names": NAMES} | options
    return Checkpointer(**settings)


def save(target: Checkpointer, *steps: int) -> None:
    for step in steps:
        target.save(lambda step=step: pending(step))
    target.wait()


def same(left: Snapshot, right: Snapshot) -> bool:
    pairs = [(left.parameters, right.parameters), (left.optimizer, right.optimizer), (left.random, right.random)]
    return (left.step, left.recent, left.probes) == (right.step, right.recent, right.probes) and all(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
        for first, second in pairs
    )


def folders(path: Path) -> list[str]:
    return sorted({each.parent.name for each in path.rglob("*") if each.is_file()})


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    save(checkpointer(tmp_path), 7)
    found = checkpointer(tmp_path, attempt=2).newest()
    assert found is not None
    assert same(found, snapshot(7))


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpointer(tmp_path / "absent").newest() is None


def test_the_newest_ones_are_kept(tmp_path: Path) -> None:
    save(checkpointer(tmp_path, keep=2), 1, 2, 3, 4)
    assert folders(tmp_path) == ["step-00000003.attempt-1", "step-00000004.attempt-1"]


def test_what_a_killed_attempt_left_unfinished_goes_with_the_old_ones(tmp_path: Path) -> None:
    save(checkpointer(tmp_path, keep=2), 1, 2)
    (tmp_path / "step-00000002.attempt-1" / COMPLETE_FILE).unlink()
    save(checkpointer(tmp_path, keep=2, attempt=2), 3, 4)
    assert folders(tmp_path) == ["step-00000003.attempt-2", "step-00000004.attempt-2"]


@pytest.mark.parametrize("damage", ["unfinished", "flipped", "truncated", "missing", "garbage marker"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    save(checkpointer(tmp_path), 1, 2)
    folder = tmp_path / "step-00000002.attempt-1"
    target = folder / "optimizer.safetensors"
    data = target.read_bytes()
    if damage == "unfinished":
        (folder / COMPLETE_FILE).unlink()
    elif damage == "flipped":
        target.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncated":
        target.write_bytes(data[:-9])
    elif damage == "missing":
        target.unlink()
    else:
        (folder / COMPLETE_FILE).write_bytes(b"{")
    found = checkpointer(tmp_path).newest()
    assert found is not None
    assert same(found, snapshot(1))


def test_a_checkpoint_of_another_run_is_never_used(tmp_path: Path) -> None:
    save(checkpointer(tmp_path, fingerprint="other plan"), 5)
    assert checkpointer(tmp_path).newest() is None


def test_a_later_attempts_checkpoint_of_the_same_step_wins(tmp_path: Path) -> None:
    save(checkpointer(tmp_path), 2)
    save(checkpointer(tmp_path, attempt=2), 2)
    (tmp_path / "step-00000002.attempt-1" / "trainer_state.json").write_text(json.dumps({"step": 0, "recent": []}))
    found = checkpointer(tmp_path, attempt=3).newest()
    assert found is not None
    assert found.step == 2


class Wrapped:
    """A store that can fail or wait before a write; everything else goes through."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.failing = False
        self.gate = threading.Event()
        self.gate.set()
        self.log: list[str] = []

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> str:
        assert self.gate.wait(30)
        if self.failing:
            raise UnreachableError(uri, "the storage did not answer")
        self.log.append(path.name)
        return self.inner.upload(path, uri, if_absent=if_absent)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        self.log.append(uri.rsplit("/", 1)[1])
        return self.inner.write(uri, data, if_absent=if_absent, if_match=if_match)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_the_marker_is_written_last(tmp_path: Path) -> None:
    store = Wrapped(open_store(f"file://{tmp_path}"))
    save(checkpointer(tmp_path, store=store), 1)
    assert store.log[-1] == COMPLETE_FILE
    assert len(store.log) == 5


def test_saving_does_not_wait_for_the_storage(tmp_path: Path) -> None:
    store = Wrapped(open_store(f"file://{tmp_path}"))
    store.gate.clear()
    target = checkpointer(tmp_path, store=store)
    target.save(lambda: pending(1))
    assert checkpointer(tmp_path).newest() is None
    store.gate.set()
    target.wait()
    found = checkpointer(tmp_path).newest()
    assert found is not None
    assert found.step == 1


def test_a_storage_that_fails_is_borne_until_the_limit(tmp_path: Path) -> None:
    store = Wrapped(open_store(f"file://{tmp_path}"))
    target = checkpointer(tmp_path, store=store)
    store.failing = True
    save(target, *range(1, FAILURE_LIMIT))
    store.failing = False
    save(target, 10)
    store.failing = True
    with pytest.raises(WorkerError, match="checkpoints cannot be written") as caught:
        save(target, *range(11, 12 + FAILURE_LIMIT))
    assert caught.value.failure_class == FailureClass.STORAGE
    found = checkpointer(tmp_path).newest()
    assert found is not None
    assert found.step == 10


def test_a_last_checkpoint_that_must_succeed_says_when_it_did_not(tmp_path: Path) -> None:
    store = Wrapped(open_store(f"file://{tmp_path}"))
    store.failing = True
    target = checkpointer(tmp_path, store=store)
    target.save(lambda: pending(1))
    with pytest.raises(WorkerError, match="checkpoints cannot be written"):
        target.wait(must_succeed=True)


def test_the_checkpoint_of_the_best_probe_is_kept_beside_the_newest(tmp_path: Path) -> None:
    target = checkpointer(tmp_path, keep=1)
    rates = {0: 0.9, 1: 0.1, 2: 0.5, 3: None, 4: 0.5, 5: 0.3}
    shown: list[ProbeResult] = []
    for step, rate in rates.items():
        shown.append(ProbeResult(step=step, tasks=10, judged=10, passed=0, pass_rate=rate, syntax_rate=1.0))
        if step:
            future: Future[Snapshot] = Future()
            future.set_result(replace(snapshot(step), probes=tuple(shown)))
            target.save(lambda step=step, future=future: PendingSnapshot(step, future))
    target.wait()
    assert folders(tmp_path) == ["step-00000002.attempt-1", "step-00000005.attempt-1"]
    assert best_step(()) is None


def test_checkpoints_of_other_settings_make_room_and_never_take_it(tmp_path: Path) -> None:
    """A run whose settings were changed starts at step 0 below what was written before: its own have to stay."""
    save(checkpointer(tmp_path, keep=2, fingerprint="before"), 50, 60)
    target = checkpointer(tmp_path, keep=2, attempt=2)
    save(target, 1)
    assert folders(tmp_path) == ["step-00000001.attempt-2", "step-00000060.attempt-1"]
    save(target, 2, 3)
    assert folders(tmp_path) == ["step-00000002.attempt-2", "step-00000003.attempt-2"]


def test_a_damaged_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path: Path) -> None:
    save(checkpointer(tmp_path), 1, 9)
    (tmp_path / "step-00000009.attempt-1" / "optimizer.safetensors").write_bytes(b"no")
    target = checkpointer(tmp_path, keep=1, attempt=2)
    found = target.newest()
    assert found is not None and found.step == 1
    save(target, 2)
    assert folders(tmp_path) == ["step-00000002.attempt-2"]


def test_an_attempt_that_was_given_up_deletes_nothing_of_its_successors(tmp_path: Path) -> None:
    """It was only slow: its successor is ahead by now, and may be writing."""
    save(checkpointer(tmp_path, keep=1, attempt=2), 8)
    beginning = tmp_path / "step-00000002.attempt-2" / "optimizer.safetensors"
    beginning.parent.mkdir()
    beginning.write_bytes(b"the first part")
    save(checkpointer(tmp_path, keep=1), 3, 4)
    assert folders(tmp_path) == ["step-00000002.attempt-2", "step-00000004.attempt-1", "step-00000008.attempt-2"]
    found = checkpointer(tmp_path, attempt=3).newest()
    assert found is not None and found.step == 8


def test_what_an_earlier_attempt_finished_late_stays_until_it_is_overtaken(tmp_path: Path) -> None:
    save(checkpointer(tmp_path), 1)
    target = checkpointer(tmp_path, keep=1, attempt=2)
    assert target.newest() is not None
    save(checkpointer(tmp_path), 5)
    save(target, 2)
    assert folders(tmp_path) == ["step-00000002.attempt-2", "step-00000005.attempt-1"]
    save(target, 6)
    assert folders(tmp_path) == ["step-00000006.attempt-2"]


class Robbed(Wrapped):
    """Another attempt deletes each file that is uploaded."""

    def upload(self, path: Path, uri: str, *, if_absent: bool = False) -> str:
        sha256 = super().upload(path, uri, if_absent=if_absent)
        self.delete(uri)
        return sha256


def test_a_checkpoint_whose_files_went_is_not_sealed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(checkpointer(tmp_path, store=Robbed(open_store(f"file://{tmp_path}"))), 1)
    assert folders(tmp_path) == []
    assert "went while it was written" in caplog.text


def test_a_sealed_folder_without_its_files_pushes_out_none_that_has_them(tmp_path: Path) -> None:
    save(checkpointer(tmp_path), 1, 2)
    (tmp_path / "step-00000002.attempt-1" / "optimizer.safetensors").unlink()
    save(checkpointer(tmp_path, keep=2, attempt=2), 3)
    assert folders(tmp_path) == ["step-00000001.attempt-1", "step-00000003.attempt-2"]


class Undeletable(Wrapped):
    """A storage whose credentials may write and not delete."""

    def delete(self, uri: str) -> None:
        raise ForbiddenError(uri, "deleting is not allowed")


def test_what_cannot_be_deleted_stays_and_costs_the_run_nothing(tmp_path: Path) -> None:
    target = checkpointer(tmp_path, keep=1, store=Undeletable(open_store(f"file://{tmp_path}")))
    save(target, *range(1, FAILURE_LIMIT + 3))
    target.wait(must_succeed=True)
    assert len(folders(tmp_path)) == FAILURE_LIMIT + 2


def test_a_temporary_folder_without_room_is_borne_like_a_storage_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    target = checkpointer(tmp_path)
    monkeypatch.setattr("sluice_trainer.checkpoint.save_file", full)
    save(target, 1)
    with pytest.raises(WorkerError, match="No space left") as caught:
        target.wait(must_succeed=True)
    assert caught.value.failure_class == FailureClass.STORAGE


class Refusing(Wrapped):
    """Lists, but gives no file for the reason given."""

    def __init__(self, inner: Store, error: Exception) -> None:
        super().__init__(inner)
        self.error = error

    def download(self, uri: str, path: Path, *, sha256: str | None = None) -> str:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("s3://b/k", "no answer"),
        ForbiddenError("s3://b/k", "refused"),
        ArtifactError("file:///k", "no space left"),
        OSError(errno.ENOSPC, "no space left"),
    ],
)
def test_a_storage_that_does_not_give_the_newest_is_no_reason_to_take_an_older_one(
    tmp_path: Path, error: Exception
) -> None:
    save(checkpointer(tmp_path), 1, 2)
    with pytest.raises(type(error)):
        checkpointer(tmp_path, store=Refusing(open_store(f"file://{tmp_path}"), error)).newest()


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^checkpoint_keep is 0"):
        checkpointer(tmp_path, keep=0)


def test_names_in_files_are_those_of_peft() -> None:
    names = {
        "m.q.lora_A.default.weight": "m.q.lora_A.weight",
        "m.q.lora_B.default.weight": "m.q.lora_B.weight",
        "m.norm.modules_to_save.default.weight": "m.norm.weight",
    }
    parameters, state = ({name: torch.zeros(1) for name in each} for each in (names.keys(), names.values()))
    assert peft_names(parameters, state) == dict(zip(parameters, state, strict=True))
    with pytest.raises(ValueError, match="differ"):
        peft_names(parameters, {"m.q.lora_A.weight": torch.zeros(1)})

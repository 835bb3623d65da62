"""Refreshing reads what is new, gives what a full build gives, and cannot be led astray by a broken cache."""

import json
import os
from pathlib import Path

import pytest

from sluice_api.contracts.jobs import LabelOutput
from sluice_artifacts.files import FileStore
from sluice_artifacts.reporting import Reporter
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Trace files that are read."""
    seen, original = [], FileStore.read

    def read(self, uri):
        if "/traces/" in uri:
            seen.append(uri.rpartition("/")[2])
        return original(self, uri)

    monkeypatch.setattr(FileStore, "read", read)
    return seen


@pytest.fixture
def source(tmp_path) -> Path:
    many(tmp_path / "traces", 20)
    return tmp_path / "traces"


def test_only_new_and_changed_traces_are_read(source, tmp_path, reads):
    first = build(source, tmp_path)
    assert len(reads) == 20
    reads.clear()
    write_trace(source, trace("new"))
    changed = write_trace(source, trace("run-003", "tenant-1", [step(0)]))
    (source / "tenant-0" / "run-002.json").unlink()
    (source / "bad.json").write_text("{")
    second = build(source, tmp_path, parent=first.dataset.digest)
    assert sorted(reads) == ["bad.json", "new.json", changed.name]
    assert second.reused_files == 18


def test_a_refresh_equals_a_full_build_over_the_same_input(source, tmp_path):
    (source / "tenant-0" / "copy.json").write_text(json.dumps(trace("run-000", "tenant-0")))
    (source / "cut.json").write_text("{")
    first = build(source, tmp_path / "a")
    write_trace(source, trace("new", started_at="2026-11-02T00:00:00Z"))
    for parent in (None, first.dataset.digest):
        refreshed = build(source, tmp_path / "a", parent=parent)
        for cache in (tmp_path / "a" / "datasets" / "_cache").iterdir():
            cache.unlink()
        full = build(source, tmp_path / "a", parent=parent)
        assert refreshed.reused_files > 20
        assert full == refreshed.model_copy(update={"reused_files": 0})
        assert full.bad_files == 2


def test_other_options_do_not_share_a_cache(source, tmp_path, reads):
    build(source, tmp_path)
    reads.clear()
    build(source, tmp_path, screen_width=640)
    assert len(reads) == 20


def test_a_new_screenshot_counts_as_a_change(tmp_path):
    source = tmp_path / "traces"
    for name in ("a", "b"):
        write_trace(source, trace(name), screens=True)
    (source / "acme" / "b_screens" / "0001.png").rename(tmp_path / "away.png")
    assert build(source, tmp_path, require_screenshot=True, holdout=0.0).rows == 3
    (tmp_path / "away.png").rename(source / "acme" / "b_screens" / "0001.png")
    assert build(source, tmp_path, require_screenshot=True, holdout=0.0).rows == 4


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "other"])
def test_a_broken_cache_is_made_anew(source, tmp_path, damage):
    first = build(source, tmp_path)
    (cache,) = (tmp_path / "datasets" / "_cache").glob("*.sqlite3")
    content = cache.read_bytes()
    damaged = {"garbage": os.urandom(5000), "cut": content[: len(content) // 2], "empty": b"", "other": b"x"}
    cache.write_bytes(damaged[damage])
    again = build(source, tmp_path)
    assert again.dataset == first.dataset
    assert again.reused_files == 0
    assert build(source, tmp_path).reused_files == 20


def test_a_cache_that_cannot_be_written_does_not_fail_the_build(source, tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "_cache").write_text("in the way")
    assert build(source, tmp_path).rows == 36

"""The label worker on real files: what it publishes, what it refuses, and that only the input decides the digest."""

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from sluice_api.contracts.dataset import DatasetManifest, SftRow
from sluice_api.contracts.jobs import FailureClass, LabelOutput, Result
from sluice_artifacts import NotFoundError, ObjectInfo, fetch
from sluice_artifacts.files import FileStore
from sluice_artifacts.reporting import Reporter, WorkerError, run_worker
from sluice_traces import build as build_module
from sluice_traces import worker as worker_module
from sluice_traces.worker import run
from trace_factory import PNG, label_job, many, step, trace, write_trace
from versions import document, lines, part_rows, runs


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


def rows(output: LabelOutput, part="train") -> list[dict]:
    return part_rows(output.dataset, part)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and then ends."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return PNG[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + PNG[33:]


def failure(source, output, **fields) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        build(source, output, **fields)
    return caught.value


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "traces"
    many(folder, 20)
    return folder


def test_a_version_holds_rows_holdout_and_lineage(source, tmp_path):
    output = build(source, tmp_path / "out")
    assert (output.rows, output.holdout_rows, output.new_rows, output.traces) == (36, 4, 36, 20)
    assert output.labels == {"positive": 40, "negative": 20, "neutral": 0}
    assert output.label_reasons == {"escalation": 20, "gate_verify_pass": 20, "success_with_observed_delta": 20}
    manifest = fetch(output.dataset, tmp_path / "fetched", DatasetManifest)
    assert [entry.path for entry in manifest.files] == [
        "bad-files.jsonl",
        "holdout-00000.parquet",
        "report.json",
        "runs.parquet",
        "train-00000.parquet",
    ]
    assert (manifest.rows, manifest.holdout_rows, manifest.traces) == (36, 4, 20)
    assert manifest.dropped == {"label_not_kept": 20}
    for row in rows(output):
        SftRow.model_validate(row)
        assert row["metadata"]["label"] == "positive"
    held = {row["metadata"]["run_id"] for row in rows(output, "holdout")}
    assert held == {"run-018", "run-019"}
    assert held.isdisjoint(row["metadata"]["run_id"] for row in rows(output))


def test_rows_are_sorted_by_tenant_run_and_step(source, tmp_path):
    keys = [
        (r["metadata"]["tenant_id"], r["metadata"]["run_id"], r["metadata"]["step"])
        for r in rows(build(source, tmp_path))
    ]
    assert keys == sorted(keys)


def test_every_row_is_traced_to_its_file(source, tmp_path):
    output = build(source, tmp_path)
    files = {(run["tenant_id"], run["run_id"]): run for run in runs(output.dataset)}
    for name in ("train", "holdout"):
        for row in rows(output, name):
            run = files[(row["metadata"]["tenant_id"], row["metadata"]["run_id"])]
            assert run["part"] == name
            document = json.loads((source / run["source"]).read_text())
            assert document["steps"][row["metadata"]["step"]]["step_index"] == row["metadata"]["step"]


def test_the_digest_depends_on_the_input_alone(source, tmp_path, monkeypatch):
    first = build(source, tmp_path / "a")
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy)
    listing = FileStore.list
    monkeypatch.setattr(FileStore, "list", lambda self, prefix: iter(list(listing(self, prefix))[::-1]))
    assert build(copy, tmp_path / "b").dataset.digest == first.dataset.digest


def test_files_in_any_number_of_threads_give_the_same_digest(source, tmp_path, monkeypatch):
    first = build(source, tmp_path / "a")
    read_files = build_module.read_files

    def threaded(read, files, *, threads, known):
        return read_files(read, files, threads=7, known=known)

    monkeypatch.setattr(build_module, "read_files", threaded)
    assert build(source, tmp_path / "b").dataset.digest == first.dataset.digest


def test_nothing_new_gives_the_parent_itself(source, tmp_path):
    first = build(source, tmp_path)
    again = build(source, tmp_path, parent=first.dataset.digest)
    assert again.dataset == first.dataset
    assert again.new_rows == 0


def test_new_traces_give_a_version_with_the_rows_that_the_parent_has_not(source, tmp_path):
    first = build(source, tmp_path)
    many(source, 30)
    second = build(source, tmp_path, parent=first.dataset.digest)
    assert second.dataset != first.dataset
    old, new = rows(first), rows(second)
    assert second.new_rows == sum(row not in old for row in new) == 18
    assert [row for row in old if row not in new] == []
    assert (
        DatasetManifest.model_validate_json(
            (Path(second.dataset.uri.removeprefix("file://")) / "manifest.json").read_bytes()
        ).parent
        == first.dataset.digest
    )
    held = {row["metadata"]["run_id"] for row in rows(first, "holdout")}
    assert held <= {row["metadata"]["run_id"] for row in rows(second, "holdout")}


def test_what_was_held_out_stays_held_out_over_a_gap(source, tmp_path):
    first = build(source, tmp_path)
    held = {row["metadata"]["run_id"] for row in rows(first, "holdout")}
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in list(source.rglob("run-018.json")):
        shutil.move(path, kept / path.name)
    second = build(source, tmp_path, parent=first.dataset.digest)
    shutil.move(kept / "run-018.json", source / "tenant-0" / "run-018.json")
    many(source, 40)
    third = build(source, tmp_path, parent=second.dataset.digest)
    assert held <= {row["metadata"]["run_id"] for row in rows(third, "holdout")}


@pytest.mark.parametrize(
    ("fields", "traces"),
    [
        ({"tenants": ["tenant-1"]}, 10),
        ({"variants": ["baseline"]}, 20),
        ({"since": "2026-11-01T00:10:00Z"}, 10),
        ({"since": "2026-11-01T01:10:00+01:00"}, 10),
    ],
)
def test_only_selected_traces_are_used(source, tmp_path, fields, traces):
    output = build(source, tmp_path, **fields)
    assert output.traces == traces


def test_shared_and_unassigned_runs_are_selected_by_their_folder_names(tmp_path):
    many(tmp_path / "s", 3)
    for number in range(2):
        write_trace(tmp_path / "s", trace(f"shared-{number}", "", variant=""))
    output = build(tmp_path / "s", tmp_path, tenants=["__shared__"], variants=["__unassigned__"])
    assert output.traces == 2


def test_mirrored_requests_never_become_data(source, tmp_path):
    write_trace(source, trace("copied", variant="mirror", steps=[step(0)]))
    output = build(source, tmp_path / "out")
    assert (output.traces, output.rows) == (20, 36)


def test_only_approved_traces_where_review_is_required(tmp_path):
    for number, status in enumerate(["approved", "approved", "rejected", "pending"]):
        write_trace(tmp_path / "s", trace(f"r{number}", review_status=status))
    assert build(tmp_path / "s", tmp_path, require_review=True).traces == 2
    error = failure(tmp_path / "s", tmp_path, require_review=True, tenants=["nobody"])
    assert "sluice trace review --set approved" in error.message


def test_screenshots_are_found_and_named(tmp_path):
    write_trace(tmp_path / "s", trace("a"), screens=True)
    write_trace(tmp_path / "s", trace("b"), screens=True)
    (tmp_path / "s" / "acme" / "b_screens" / "0001.png").write_bytes(b"")
    output = build(tmp_path / "s", tmp_path, require_screenshot=True, holdout=0.0)
    name = hashlib.sha256(PNG).hexdigest() + ".png"
    assert [row["image"] for row in rows(output)] == [name] * 3
    assert (tmp_path / "datasets" / "_screens" / name).read_bytes() == PNG
    manifest = fetch(output.dataset, tmp_path / "fetched", DatasetManifest)
    assert (manifest.screens.files, manifest.screens.bytes, manifest.screens.bad) == (1, len(PNG), {})
    assert output.screens == 1


BROKEN_SCREENS = {
    "cut": (PNG[:-20], "corrupt"),
    "checksum": (PNG[:45] + bytes([PNG[45] ^ 1]) + PNG[46:], "corrupt"),
    "no picture": (b"<html>not found</html>", "not_png"),
    "bomb": (png_header(60_000, 60_000), "too_large"),
}


@pytest.mark.parametrize("name", BROKEN_SCREENS)
def test_a_broken_screenshot_counts_as_missing_and_is_counted_by_reason(tmp_path, name):
    content, reason = BROKEN_SCREENS[name]
    write_trace(tmp_path / "s", trace("a"), screens=True)
    (tmp_path / "s" / "acme" / "a_screens" / "0001.png").write_bytes(content)
    output = build(tmp_path / "s", tmp_path, require_screenshot=True, holdout=0.0)
    assert [row["metadata"]["step"] for row in rows(output)] == [0]
    report = document(output.dataset, "report.json")
    assert report["screens"]["bad"] == {reason: 1}
    assert report["dropped"] == {"no_screenshot": 1}
    optional = build(tmp_path / "s", tmp_path / "optional", require_screenshot=False, holdout=0.0)
    assert ["image" in row for row in rows(optional)] == [True, False]
    assert "<image>" not in rows(optional)[1]["conversations"][1]["value"]


def test_a_screenshot_that_changes_under_the_build_repeats_it(tmp_path, monkeypatch):
    write_trace(tmp_path / "s", trace("a"), screens=True)
    publish_version = worker_module.publish_version

    def change(*args, **kwargs):
        (tmp_path / "s" / "acme" / "a_screens" / "0001.png").write_bytes(b"other")
        (tmp_path / "s" / "acme" / "a_screens" / "0000.png").write_bytes(b"other")
        return publish_version(*args, **kwargs)

    monkeypatch.setattr(worker_module, "publish_version", change)
    error = failure(tmp_path / "s", tmp_path, require_screenshot=True, holdout=0.0)
    assert error.failure_class is FailureClass.STORAGE
    assert list(tmp_path.rglob("manifest.json")) == []


def test_preference_pairs_are_published_in_their_own_shape(tmp_path):
    for number in range(4):
        wrong = step(0, intent="p", success=False, observed_outcome="", last_action={"action_type": "wait"})
        write_trace(tmp_path / "s", trace(f"r{number}", steps=[wrong, step(1, intent="p")]))
    output = build(tmp_path / "s", tmp_path, format="preference")
    assert output.rows == 3
    assert {"prompt", "chosen", "rejected", "metadata"} == set(rows(output)[0])


BAD = {
    "truncated.json": (b'{"schema_version": 3, "run_id": "x', "truncated_json"),
    "utf8.json": (b'{"schema_version": 3, "run_id": "\xff", "steps": []}', "bad_utf8"),
    "version.json": (b'{"schema_version": 7, "run_id": "x", "steps": []}', "wrong_schema_version"),
    "other.json": (b'{"hello": "secret"}', "not_a_trace"),
    "copy.json": (json.dumps(trace("run-000", "tenant-0")).encode(), "duplicate_run_id"),
}


def test_bad_files_are_counted_and_named_and_never_fatal(source, tmp_path):
    clean = build(source, tmp_path / "clean")
    for name, (content, _) in BAD.items():
        (source / "zz" / name).parent.mkdir(exist_ok=True)
        (source / "zz" / name).write_bytes(content)
    output = build(source, tmp_path / "dirty")
    assert [rows(output, part) for part in ("train", "holdout")] == [rows(clean, part) for part in ("train", "holdout")]
    assert output.bad_files == len(BAD)
    assert output.bad_reasons == {reason: 1 for _, reason in BAD.values()}
    report = document(output.dataset, "report.json")
    assert report["bad_files"] == output.bad_reasons
    listed = lines(output.dataset, "bad-files.jsonl")
    assert listed == report["bad_files_named"]
    assert {each["path"]: each["reason"] for each in listed} == {f"zz/{n}": reason for n, (_, reason) in BAD.items()}
    named = dict(example.split(": ")[:2] for example in output.bad_examples)
    assert named == {f"zz/{name}": reason for name, (_, reason) in BAD.items()}
    assert "secret" not in output.model_dump_json()


def test_of_two_files_with_one_run_the_first_by_path_counts(tmp_path):
    write_trace(tmp_path / "s", trace("r1"))
    write_trace(tmp_path / "s", trace("r2"))
    (tmp_path / "s" / "acme" / "a-copy.json").write_text(json.dumps(trace("r1", steps=[step(7)])))
    output = build(tmp_path / "s", tmp_path, holdout=0.0)
    assert output.bad_examples == ["acme/r1.json: duplicate_run_id: the run is in acme/a-copy.json already"]
    assert {row["metadata"]["step"] for row in rows(output) if row["metadata"]["run_id"] == "r1"} == {7}


def test_one_run_id_in_two_tenants_is_no_duplicate(tmp_path):
    write_trace(tmp_path / "s", trace("r1", "a"))
    write_trace(tmp_path / "s", trace("r1", "b"))
    assert build(tmp_path / "s", tmp_path).bad_files == 0


def test_files_that_are_still_being_written_are_left_alone(source, tmp_path):
    clean = build(source, tmp_path / "clean")
    (source / "tenant-0" / ".run-9.json.tmp").write_text('{"schema')
    (source / "tenant-0" / "run-9.json.part").write_text('{"schema')
    (source / "tenant-0" / ".run-9.json").write_text('{"schema')
    output = build(source, tmp_path / "dirty")
    assert (output.bad_files, output.dataset.digest) == (0, clean.dataset.digest)


def test_a_file_that_vanishes_between_listing_and_reading_is_counted(source, tmp_path, monkeypatch):
    read = FileStore.read

    def vanish(self, uri):
        if uri.endswith("run-003.json"):
            raise NotFoundError(uri, "gone")
        return read(self, uri)

    monkeypatch.setattr(FileStore, "read", vanish)
    output = build(source, tmp_path)
    assert output.bad_examples == ["tenant-1/run-003.json: vanished: listed, and gone when it was read"]


def test_a_huge_file_is_refused_unread(source, tmp_path, monkeypatch):
    listing = FileStore.list

    def swell(self, prefix):
        for found in listing(self, prefix):
            size = 2 * 2**30 if found.uri.endswith("run-003.json") else found.size
            yield ObjectInfo(uri=found.uri, size=size, modified=found.modified, etag="")

    monkeypatch.setattr(FileStore, "list", swell)
    assert "too_large" in build(source, tmp_path).bad_examples[0]


def test_too_many_bad_files_fail_where_a_budget_is_given(source, tmp_path):
    for number in range(5):
        (source / f"bad-{number}.json").write_text("{")
    assert build(source, tmp_path, max_bad_fraction=0.2).bad_files == 5
    error = failure(source, tmp_path, max_bad_fraction=0.19)
    assert error.failure_class is FailureClass.DATA
    assert "5 of 25 trace files" in error.message
    assert "truncated_json 5" in error.message


def test_only_bad_files_fail(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.json").write_text("{}")
    error = failure(tmp_path / "s", tmp_path)
    assert error.failure_class is FailureClass.DATA
    assert "a.json: not_a_trace" in error.message


def test_an_empty_or_missing_source_says_what_to_check(tmp_path):
    error = failure(tmp_path / "nothing", tmp_path)
    assert error.failure_class is FailureClass.DATA
    assert "no trace files under" in error.message
    assert "source.uri" in error.message


@pytest.mark.parametrize(
    ("steps", "fields", "hint"),
    [
        ([step(0)], {"require_screenshot": True}, "convert.requireScreenshot"),
        ([step(0, success=False)], {}, "sluice trace review"),
        ([step(0, success=False)], {"format": "preference"}, "convert.format"),
        ([step(0, last_action=None)], {}, "last_action"),
    ],
)
def test_no_rows_says_how_many_steps_were_left_out_and_what_to_change(tmp_path, steps, fields, hint):
    write_trace(tmp_path / "s", trace(steps=steps))
    error = failure(tmp_path / "s", tmp_path, **fields)
    assert error.failure_class is FailureClass.DATA
    assert "1 traces gave 1 steps" in error.message
    assert hint in error.message
    assert list(tmp_path.rglob("manifest.json")) == []


def test_no_selected_trace_says_so(source, tmp_path):
    error = failure(source, tmp_path, tenants=["other"], since="2027-01-01T00:00:00Z")
    assert "tenant_not_selected 20" in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"keep": ["positive", "negative"]},
        {"keep": []},
        {"keep": ["good"]},
        {"since": "yesterday"},
        {"holdout": 0.9},
        {"screen_width": 0},
        {"max_bad_fraction": 2.0},
    ],
)
def test_a_job_that_asks_for_what_cannot_be_is_a_user_error(source, tmp_path, fields):
    assert failure(source, tmp_path, **fields).failure_class is FailureClass.USER_ERROR


def test_a_parent_that_is_not_there_is_named(source, tmp_path):
    error = failure(source, tmp_path, parent="sha256:" + "1" * 64)
    assert error.failure_class is FailureClass.DATA
    assert "1111 is not under file://" in error.message
    assert "restore it" in error.message


def test_progress_names_the_stages(source, tmp_path):
    job = label_job(source, tmp_path)
    assert run_worker(job, run) == 0
    attempt = Path(job.output_uri.removeprefix("file://"))
    assert json.loads((attempt / "progress.json").read_text())["stage"] == "publishing"
    result = Result.model_validate_json((attempt / "result.json").read_bytes())
    assert isinstance(result.output, LabelOutput)


def test_killed_anywhere_a_second_attempt_gives_the_digest_of_a_clean_run(tmp_path):
    source = tmp_path / "s"
    many(source, 60)
    clean = build(source, tmp_path / "clean")
    out = tmp_path / "killed"
    job = label_job(source, out)
    command = [sys.executable, "-m", "sluice_cli", "worker", "label"]
    environment = {**os.environ, "SLUICE_JOB_INPUT": job.model_dump_json(by_alias=True)}
    progress = out / "attempts" / "1" / "progress.json"
    for stage in ("labelling", "publishing"):
        progress.unlink(missing_ok=True)
        process = subprocess.Popen(command, env=environment)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if progress.exists() and json.loads(progress.read_text())["stage"] == stage:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        for version in (out / "datasets").glob("*/manifest.json"):
            assert "sha256:" + version.parent.name == clean.dataset.digest
    assert build(source, out).dataset.digest == clean.dataset.digest

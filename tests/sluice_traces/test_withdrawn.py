"""What was withdrawn stays away: forgotten while a build goes on, rejected, or not selected any more."""

import json
from pathlib import Path

import pytest

from sluice_api.contracts.jobs import FailureClass, LabelOutput
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_cli.main import main
from sluice_traces import worker as worker_module
from sluice_traces.tombstones import Forgotten, Tombstones
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace
from versions import part_rows, plain_text


def build(source: Path, output: Path, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


def forget(folder: Path, *arguments: str) -> int:
    return main(["trace", "forget", "--dataset", (folder / "datasets").as_uri() + "/", *arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    many(tmp_path / "traces", 6)
    write_trace(tmp_path / "traces", trace("private-run", "victim", [step(0, intent="the victim's page")]))
    return tmp_path / "traces"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", [["--run", "private-run"], []])
def test_a_run_forgotten_while_a_build_goes_on_leaves_nothing(source, tmp_path, monkeypatch, moment, name):
    publish, tombstones = worker_module.publish_version, worker_module.read_tombstones
    asked = ["--tenant", "victim", *name]

    def forget_then_publish(*args, **kwargs):
        # The build has looked for tombstones for the last time before it writes.
        forget(tmp_path, *asked)
        return publish(*args, **kwargs)

    def found(dataset_uri):
        found = tombstones(dataset_uri)
        if (tmp_path / "datasets" / "_cache").exists() and not found[0].forgotten:
            forget(tmp_path, *asked)
            return tombstones(dataset_uri)
        return found

    if moment == "after":
        monkeypatch.setattr(worker_module, "publish_version", forget_then_publish)
    else:
        monkeypatch.setattr(worker_module, "read_tombstones", found)
    with pytest.raises(WorkerError, match="forgotten while it went on") as caught:
        build(source, tmp_path)
    assert caught.value.failure_class is FailureClass.STORAGE
    assert list(tmp_path.rglob("manifest.json")) == []
    assert "victim" not in plain_text(tmp_path / "datasets").replace('"tenant_id":"victim"', "")
    monkeypatch.undo()
    assert build(source, tmp_path).traces == 6


def test_forgetting_somebody_else_does_not_disturb_a_build(source, tmp_path, monkeypatch):
    publish = worker_module.publish_version

    def forget_then_publish(*args, **kwargs):
        forget(tmp_path, "--tenant", "stranger")
        return publish(*args, **kwargs)

    monkeypatch.setattr(worker_module, "publish_version", forget_then_publish)
    assert build(source, tmp_path).traces == 7


def test_shared_runs_may_be_called_by_the_name_of_their_folder(tmp_path):
    many(tmp_path / "traces", 4)
    write_trace(tmp_path / "traces", trace("open-run", "", [step(0, intent="the shared page")]))
    first = build(tmp_path / "traces", tmp_path, holdout=0.0)
    assert forget(tmp_path, "--tenant", "__shared__", "--run", "open-run", "--purge") == 0
    assert "the shared page" not in plain_text(tmp_path / "datasets")
    assert build(tmp_path / "traces", tmp_path, parent=first.dataset.digest).traces == 4
    assert Tombstones(forgotten=[Forgotten(tenant_id="")]).covers("__shared__", "r")


def test_a_prefix_without_versions_is_no_success(tmp_path, capsys):
    assert forget(tmp_path, "--tenant", "victim") == 2
    assert "no versions lie under" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"review_status": "rejected"}, {"require_review": True}),
        ({}, {"tenants": ["tenant-0", "tenant-1"]}),
        ({}, {"variants": ["candidate"]}),
    ],
)
def test_rows_of_traces_that_must_not_be_used_any_more_are_not_kept(tmp_path, change, fields):
    source = tmp_path / "traces"
    for number in range(4):
        write_trace(source, trace(f"run-{number}", "tenant-0", variant="candidate", review_status="approved"))
    withdrawn = trace("withdrawn", "tenant-2", [step(0, intent="withdrawn page")], review_status="approved")
    write_trace(source, withdrawn)
    gone = write_trace(source, trace("gone", "tenant-1", [step(0, intent="page of a trace that is gone")]))
    first = build(source, tmp_path, append=True, holdout=0.0)
    write_trace(source, {**withdrawn, **change})
    gone.unlink()
    second = build(source, tmp_path, append=True, holdout=0.0, parent=first.dataset.digest, **fields)
    said = json.dumps(part_rows(second.dataset))
    assert "withdrawn page" not in said and "page of a trace that is gone" in said
    assert second.kept_rows == 1


def test_a_tenant_named_by_any_character_goes_through_a_mixture(tmp_path):
    for number, tenant in enumerate(["plain", "nul\0inside", "new\nline", "quote\"'"]):
        document = trace(f"run-{number}", tenant, [step(0, intent=f"page {number}")])
        (tmp_path / "traces").mkdir(exist_ok=True)
        (tmp_path / "traces" / f"{number}.json").write_text(json.dumps(document))
    rule = {"rows": 8, "buckets": [{"name": "traces", "weight": 1.0}]}
    output = build(tmp_path / "traces", tmp_path, mixture=rule, holdout=0.0)
    found = {row["metadata"]["tenant_id"] for row in part_rows(output.dataset)}
    assert found == {"plain", "nul\0inside", "new\nline", "quote\"'"}


@pytest.mark.parametrize("row_format", ["sft", "preference"])
def test_rows_that_todays_detectors_would_not_let_through_are_not_kept(tmp_path, row_format):
    source = tmp_path / "traces"
    failed = step(0, success=False, data="no", observed_outcome="")
    retry = {"last_action": {"action_type": "type_text", "params": {"text": "mail joe@example.com"}}}
    fields = {"append": True, "holdout": 0.0, "format": row_format}
    named = write_trace(source, trace("of CUST-17", steps=[failed, step(1, intent="open listing 0", **retry)]))
    open_text = write_trace(source, trace("b", steps=[failed, step(1, intent="open listing 0", **retry)]))
    plain = {"last_action": {"action_type": "click", "params": {"x": 1, "y": 1}}}
    clean = write_trace(source, trace("c", steps=[failed, step(1, intent="open listing 0", **plain)]))
    write_trace(source, trace("d", steps=[failed, step(1, intent="open listing 0", **plain)]))
    loose = {"detectors": [], "patterns": {}, "on_finding": "redact"}
    first = build(source, tmp_path, privacy=loose, **fields, duplicates={"exact": False, "near": False})
    assert "joe@example.com" in json.dumps(part_rows(first.dataset))
    for path in (named, open_text, clean):
        path.unlink()
    strict = {"patterns": {"customer": r"CUST-\d+"}}
    parent = first.dataset.digest
    second = build(
        source, tmp_path, privacy=strict, **fields, duplicates={"exact": False, "near": False}, parent=parent
    )
    assert {row["metadata"]["run_id"] for row in part_rows(second.dataset)} == {"c", "d"}
    assert (second.kept_rows, second.quarantined) == (1, 2)

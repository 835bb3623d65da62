"""Forgetting: no byte of it in any version that stands, no build brings it back, every model is named."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import LabelOutput
from sluice_api.contracts.models import AdapterManifest
from sluice_artifacts import publish, read_manifest
from sluice_artifacts.reporting import Reporter
from sluice_cli.main import main
from sluice_traces import tombstones
from sluice_traces.tombstones import Forgotten, Tombstones, add_tombstones, read_tombstones
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace
from versions import part_rows, plain_text


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


def adapter(root: Path, dataset: ArtifactRef, parent: ArtifactRef | None = None) -> ArtifactRef:
    def manifest(entries) -> AdapterManifest:
        base = ModelRef(uri="file:///base")
        return AdapterManifest(
            files=entries,
            base_model=base,
            rank=8,
            alpha=16,
            target_modules=["q"],
            dataset=dataset,
            data_plan=dataset.digest,
            parent=parent,
        )

    return publish((root / "adapters").as_uri() + "/", {"adapter_model.safetensors": b"w"}, manifest)


@pytest.fixture
def source(tmp_path) -> Path:
    many(tmp_path / "traces", 20)
    write_trace(tmp_path / "traces", trace("private-run", "victim", [step(0, intent="the victim's page")]))
    return tmp_path / "traces"


def forget(tmp_path, *arguments) -> tuple[int, str]:
    uri = (tmp_path / "datasets").as_uri() + "/"
    return main(["trace", "forget", "--dataset", uri, "--json", *arguments]), uri


def texts(folder: Path) -> str:
    return plain_text(folder)


def test_a_forgotten_run_leaves_every_version_and_stays_away(source, tmp_path, capsys):
    old = build(source, tmp_path)
    first = adapter(tmp_path, old.dataset)
    later = adapter(tmp_path, ArtifactRef(uri="file:///x/", digest="sha256:" + "1" * 64), parent=first)
    adapter(tmp_path, ArtifactRef(uri="file:///y/", digest="sha256:" + "2" * 64))
    models = (tmp_path / "adapters").as_uri()
    code, uri = forget(tmp_path, "--tenant", "victim", "--run", "private-run", "--models", models, "--purge")
    assert code == 0
    report = json.loads(capsys.readouterr().out)[uri]
    assert report["affected"] == report["purged"] == [old.dataset.digest]
    assert report["removed_rows"] == 1
    assert {(m["digest"], m["inherited"]) for m in report["models"]} == {(first.digest, False), (later.digest, True)}
    new = report["rebuilt"][old.dataset.digest]
    manifest = read_manifest(ArtifactRef(uri=f"{uri}{new[7:]}/", digest=new), DatasetManifest)
    assert manifest.rows + manifest.holdout_rows == old.rows + old.holdout_rows - 1
    assert "the victim's page" not in texts(tmp_path / "datasets")

    # A refresh names the old version as its parent, since that is what a status knows.
    refreshed = build(source, tmp_path, parent=old.dataset.digest)
    assert "the victim's page" not in texts(tmp_path / "datasets")
    assert refreshed.rows + refreshed.holdout_rows == old.rows + old.holdout_rows - 1
    assert read_manifest(refreshed.dataset, DatasetManifest).skipped == {"forgotten": 1}


def test_all_runs_of_a_tenant_are_forgotten_in_newest_versions_only_where_nothing_is_purged(source, tmp_path, capsys):
    first = build(source, tmp_path)
    many(source, 30)
    second = build(source, tmp_path, parent=first.dataset.digest)
    code, uri = forget(tmp_path, "--tenant", "tenant-0")
    assert code == 0
    report = json.loads(capsys.readouterr().out)[uri]
    assert set(report["affected"]) == {first.dataset.digest, second.dataset.digest}
    assert list(report["rebuilt"]) == [second.dataset.digest]
    folder = tmp_path / "datasets" / report["rebuilt"][second.dataset.digest][7:]
    assert "tenant-0" not in texts(folder)
    assert (tmp_path / "datasets" / second.dataset.digest[7:]).exists()


def test_what_was_held_out_stays_held_out_after_forgetting(source, tmp_path):
    old = build(source, tmp_path)
    held = part_rows(old.dataset, "holdout")
    forget(tmp_path, "--tenant", "victim")
    many(source, 60)
    new = build(source, tmp_path, parent=old.dataset.digest)
    kept = part_rows(new.dataset, "holdout")
    for row in held:
        assert row in kept or row["metadata"]["tenant_id"] == "victim"


def test_what_nobody_has_changes_nothing(source, tmp_path, capsys):
    old = build(source, tmp_path)
    assert forget(tmp_path, "--tenant", "stranger")[0] == 0
    again = build(source, tmp_path, parent=old.dataset.digest)
    assert again.dataset == old.dataset


def test_a_dataset_that_would_be_empty_exits_1(tmp_path, capsys):
    write_trace(tmp_path / "traces", trace("only", "victim"))
    build(tmp_path / "traces", tmp_path, holdout=0.0)
    code, uri = forget(tmp_path, "--tenant", "victim", "--purge")
    assert code == 1
    assert json.loads(capsys.readouterr().out)[uri]["emptied"]
    assert "open listing" not in texts(tmp_path / "datasets")


def test_a_run_without_its_tenant_is_refused(tmp_path, capsys):
    assert forget(tmp_path, "--run", "r")[0] == 2
    assert "--tenant is needed" in capsys.readouterr().err


def test_shared_runs_are_of_the_empty_tenant():
    asked = Tombstones(forgotten=[Forgotten(tenant_id="", run_id="r")])
    assert asked.covers("", "r")
    assert not asked.covers("", "s")
    assert not asked.covers("acme", "r")


def test_tombstones_of_two_writers_are_both_kept(tmp_path, monkeypatch):
    uri = tmp_path.as_uri() + "/"
    read, raced = tombstones.read_tombstones, []

    def race(dataset_uri):
        found = read(dataset_uri)
        if not raced:
            raced.append(True)
            add_tombstones(uri, [Forgotten(tenant_id="other")], {})
        return found

    monkeypatch.setattr(tombstones, "read_tombstones", race)
    add_tombstones(uri, [Forgotten(tenant_id="mine")], {})
    assert {each.tenant_id for each in read_tombstones(uri)[0].forgotten} == {"mine", "other"}


def test_unreadable_tombstones_stop_every_build(source, tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "tombstones.json").write_text("{")
    with pytest.raises(Exception, match=r"tombstones\.json: is no list of tombstones"):
        build(source, tmp_path)


def test_replaced_versions_are_followed_to_their_end():
    chain = Tombstones(replacements={"a": "b", "b": "c", "x": "x"})
    assert [chain.current(name) for name in ("a", "b", "c", "x", "z")] == ["c", "c", "c", "x", "z"]


def test_every_dataset_below_a_prefix_is_found_and_rebuilt(source, tmp_path, capsys):
    outputs = [build(source, tmp_path / name) for name in ("a", "b")]
    root = tmp_path.as_uri() + "/"
    code = main(["trace", "forget", "--datasets", root, "--tenant", "victim", "--purge", "--json"])
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == [f"{root}a/datasets/", f"{root}b/datasets/"]
    for output, found in zip(outputs, report.values(), strict=True):
        assert list(found["rebuilt"]) == [output.dataset.digest]
        (folder,) = (Path(output.dataset.uri[7:]).parent / new[7:] for new in found["rebuilt"].values())
        assert "victim" not in texts(folder)
    assert main(["trace", "forget", "--datasets", f"{root}nothing/", "--tenant", "victim"]) == 2


def test_screenshots_of_the_forgotten_leave_and_others_stay(tmp_path):
    source = tmp_path / "traces"
    for name, tenant, colour in (("a", "acme", "red"), ("b", "acme", "blue"), ("private", "victim", "green")):
        write_trace(source, trace(name, tenant, [step(0, intent=name)]), screens=True)
        Image.new("RGB", (2, 2), colour).save(source / tenant / f"{name}_screens" / "0000.png")
    old = build(source, tmp_path, require_screenshot=True, holdout=0.0)
    pool = tmp_path / "datasets" / "_screens"
    before = {path.name for path in pool.iterdir()}
    assert len(before) == old.screens == 3
    assert forget(tmp_path, "--tenant", "victim", "--purge")[0] == 0
    green = hashlib.sha256((source / "victim" / "private_screens" / "0000.png").read_bytes()).hexdigest() + ".png"
    assert before - {path.name for path in pool.iterdir()} == {green}


def test_a_mixed_version_is_rebuilt_without_the_forgotten(source, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [json.dumps({"prompt": f"p{n}", "response": f"r{n}"}) for n in range(10)]
    (corpus / "a.jsonl").write_text("\n".join(lines))
    buckets = [{"name": "agent", "weight": 1}, {"name": "chat", "weight": 1, "source_uri": corpus.as_uri()}]
    old = build(source, tmp_path, holdout=0.0, mixture={"rows": 80, "max_repeats": 8, "buckets": buckets})
    assert any("victim" in str(row) for row in part_rows(old.dataset))
    code, uri = forget(tmp_path, "--tenant", "victim")
    assert code == 0
    report = json.loads(capsys.readouterr().out)[uri]
    digest = report["rebuilt"][old.dataset.digest]
    new = ArtifactRef(uri=f"{uri}{digest[7:]}/", digest=digest)
    rows = part_rows(new)
    assert not any("victim" in str(row) for row in rows)
    assert len(rows) == old.rows - report["removed_rows"]
    assert "victim" not in read_manifest(new, DatasetManifest).tenants

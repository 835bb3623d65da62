"""Labelling on a real local Ray: the same version as in one process, and the same failures."""

from pathlib import Path

import pytest

from sluice_api.contracts.jobs import LabelOutput
from sluice_artifacts import ForbiddenError
from sluice_artifacts.reporting import Reporter
from sluice_traces import distributed
from sluice_traces.distributed import RayLabelling
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace
from versions import document


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


@pytest.fixture
def small_pages(monkeypatch):
    """Pages and windows so small that a few traces fill several."""
    monkeypatch.setattr(distributed, "PAGES_PER_WORKER", 2)
    monkeypatch.setattr(RayLabelling.__init__, "__kwdefaults__", {"page_files": 5})


@pytest.fixture
def one_ray():
    """One local Ray for several builds, started as a build starts it."""
    distributed._connect(2)
    yield
    distributed.ray.shutdown()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.usefixtures("one_ray")
def test_many_workers_give_the_version_of_one_process(tmp_path, small_pages):
    source = tmp_path / "traces"
    many(source, 43)
    write_trace(source, trace("shots", "acme"), screens=True)
    write_trace(source, trace("mail", "acme", steps=[step(0, intent="to joe@example.com")]))
    (source / "acme" / "cut.json").write_text("{")
    (source / "acme" / "copy.json").write_text((source / "tenant-0" / "run-000.json").read_text())
    one = build(source, tmp_path / "one")
    two = build(source, tmp_path / "two", workers=2)
    assert two.dataset.digest == one.dataset.digest
    assert document(two.dataset, "report.json") == document(one.dataset, "report.json")
    for number in range(12):
        write_trace(source, trace(f"new-{number}", "acme", started_at="2026-11-02T00:00:00Z"))
    parent = one.dataset.digest
    refreshed = build(source, tmp_path / "two", workers=2, parent=parent)
    assert refreshed.reused_files == 47
    assert refreshed.dataset.digest == build(source, tmp_path / "one", parent=parent).dataset.digest


def test_a_failing_storage_is_told_as_in_one_process(tmp_path):
    many(tmp_path / "traces", 3)
    job = label_job(tmp_path / "traces", tmp_path)
    answer = distributed.label_page(
        {"page": distributed._ENCODER.encode(distributed._Page([distributed._Item("a", "ftp://a", 1, "", "", [])]))},
        job.model_dump_json(by_alias=True),
    )
    assert answer["problem"] == b"" and answer["outcomes"]
    error = distributed._problem(["s3://b/k", "not allowed", "ForbiddenError"])
    assert isinstance(error, ForbiddenError) and "not allowed" in str(error)


def test_ray_is_imported_only_where_it_is_asked_for():
    source = Path(distributed.__file__).with_name("worker.py").read_text()
    assert "import ray" not in source

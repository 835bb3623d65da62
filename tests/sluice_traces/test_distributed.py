"""Labelling on a real local Ray: the same version as in one process, and the same failures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sluice_api.contracts.jobs import LabelJob, LabelOutput
from sluice_artifacts import ForbiddenError
from sluice_artifacts.reporting import Reporter
from sluice_traces import distributed
from sluice_traces.ray_cluster import ADDRESS_VARIABLE
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace
from versions import document

SCRIPT = str(Path(__file__).parents[1] / "support" / "ray_builds.py")


def build(source, output, **fields) -> LabelOutput:
    job = label_job(source, output, **fields)
    return run(job, Reporter(job))


def build_in_tasks(job: LabelJob) -> LabelOutput:
    """Build a version in tasks of a local Ray, which the build starts and ends."""
    environment = {name: value for name, value in os.environ.items() if name != ADDRESS_VARIABLE}
    command = [sys.executable, SCRIPT, job.model_dump_json(by_alias=True)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return LabelOutput.model_validate_json(finished.stdout.splitlines()[-1])


@pytest.mark.integration
def test_many_workers_give_the_version_of_one_process(tmp_path):
    source = tmp_path / "traces"
    many(source, 7)
    first = build(source, tmp_path / "one")
    # What an earlier build knows is known to tasks too: two builds go on from the same place.
    shutil.copytree(tmp_path / "one" / "datasets", tmp_path / "two" / "datasets")
    for number in range(40):
        started = f"2026-11-02T00:{number:02d}:00Z"
        steps = [step(0, intent=f"mail {number} to joe@example.com")]
        write_trace(source, trace(f"new-{number:02d}", "acme", steps, started_at=started), screens=number % 9 == 0)
    (source / "acme" / "cut.json").write_text("{")
    (source / "acme" / "copy.json").write_text((source / "tenant-0" / "run-000.json").read_text())
    parent = first.dataset.digest
    two = build_in_tasks(label_job(source, tmp_path / "two", workers=2, parent=parent))
    one = build(source, tmp_path / "one", parent=parent)
    assert two.reused_files == one.reused_files == 7
    assert two.dataset.digest == one.dataset.digest != parent
    assert document(two.dataset, "report.json") == document(one.dataset, "report.json")


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

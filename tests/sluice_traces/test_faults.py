"""What production does to a build: a throttling storage, SIGKILL at any moment, listings without end."""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest

from s3_faults import ThrottlingProxy, share
from sluice_api.contracts.jobs import LabelJob, LabelOutput, Result
from sluice_artifacts import ObjectInfo, UnreachableError, join, open_store
from sluice_artifacts.reporting import Reporter, run_worker
from sluice_traces.labeller import PATIENCE, patiently
from sluice_traces.source import Inventory
from sluice_traces.worker import run
from trace_factory import label_job, many, step, trace, write_trace
from versions import plain_text

RUNS = 60


@pytest.fixture
def bucket(s3_server, monkeypatch) -> Iterator[str]:
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    name = f"faults-{secrets.token_hex(4)}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    client.create_bucket(Bucket=name)
    yield name
    client.close()


def send(folder: Path, uri: str) -> None:
    store = open_store(uri)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        store.write(join(uri, path.relative_to(folder).as_posix()), path.read_bytes())


def s3_job(bucket: str, name: str, **fields) -> LabelJob:
    return label_job(
        f"s3://{bucket}/traces/",
        Path("/unused"),
        output_uri=f"s3://{bucket}/{name}/attempts/1/",
        dataset_uri=f"s3://{bucket}/{name}/datasets/",
        **fields,
    )


def build(job: LabelJob) -> LabelOutput:
    return run(job, Reporter(job))


@pytest.fixture
def source(tmp_path) -> Path:
    many(tmp_path / "traces", RUNS)
    write_trace(tmp_path / "traces", trace("shots", "acme"), screens=True)
    (tmp_path / "traces" / "acme" / "cut.json").write_text("{")
    return tmp_path / "traces"


def test_a_storage_that_throttles_slows_a_build_and_changes_nothing(bucket, source, s3_server, monkeypatch):
    send(source, f"s3://{bucket}/traces/")
    clean = build(s3_job(bucket, "clean"))
    with ThrottlingProxy(s3_server.endpoint_url, share(0.2, seed=1)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        throttled = build(s3_job(bucket, "throttled"))
    assert proxy.throttled > 10
    assert throttled.dataset.digest == clean.dataset.digest


def test_waits_grow_are_jittered_and_end():
    waits: list[float] = []
    asked = []

    def refuse() -> bytes:
        asked.append(1)
        raise UnreachableError("s3://b/k", "SlowDown")

    with pytest.raises(UnreachableError):
        patiently(refuse, sleep=waits.append, rng=random.Random(0))
    assert len(asked) == PATIENCE and len(waits) == PATIENCE - 1
    assert all(0.5 * 0.25 * 2**n <= wait <= 0.25 * 2**n for n, wait in enumerate(waits))


def visible(bucket: str, name: str) -> list[str]:
    """Digests of the versions that a reader sees."""
    found = open_store(f"s3://{bucket}/").list(f"s3://{bucket}/{name}/datasets/")
    return [each.uri.split("/")[-2] for each in found if each.uri.endswith("/manifest.json")]


def survive(bucket: str, source: Path, kills: int, seed: int) -> None:
    """Kill the worker so many times at random moments of its life; it ends with the digest of a clean run."""
    send(source, f"s3://{bucket}/traces/")
    clean = build(s3_job(bucket, "clean"))
    rng = random.Random(seed)
    job = s3_job(bucket, "killed")
    environment = {**os.environ, "SLUICE_JOB_INPUT": job.model_dump_json(by_alias=True)}
    command = [sys.executable, "-m", "sluice_cli", "worker", "label"]
    began = time.monotonic()
    subprocess.run(
        command, env={**environment, "SLUICE_JOB_INPUT": s3_job(bucket, "timed").model_dump_json()}, check=True
    )
    life = time.monotonic() - began
    landed = 0
    for _ in range(kills):
        process = subprocess.Popen(command, env=environment)
        try:
            # A moment of its life, its first and its last included.
            process.wait(rng.uniform(0.05, 1.0) * life)
        except subprocess.TimeoutExpired:
            landed += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert set(visible(bucket, "killed")) <= {clean.dataset.digest[7:]}
    assert landed > 0
    output = build(job)
    assert output.dataset.digest == clean.dataset.digest
    assert visible(bucket, "killed") == [clean.dataset.digest[7:]]
    send_to = "s3://{}/{}/datasets/{}/"
    for entry in ("train-00000.parquet", "runs.parquet", "report.json"):
        ours, theirs = (
            open_store("s3://").read(send_to.format(bucket, name, clean.dataset.digest[7:]) + entry)
            for name in ("killed", "clean")
        )
        assert ours == theirs


def test_a_worker_killed_twice_ends_with_the_digest_of_a_clean_run(bucket, source):
    survive(bucket, source, kills=2, seed=3)


@pytest.mark.soak
def test_a_worker_killed_twenty_times_ends_with_the_digest_of_a_clean_run(bucket, source):
    survive(bucket, source, kills=20, seed=4)


class Endless:
    """A listing of many small files, made up while it is read."""

    def __init__(self, files: int) -> None:
        self.files = files

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        moment = datetime(2026, 11, 1, tzinfo=UTC)
        for number in range(self.files):
            uri = f"{prefix}tenant-{number % 100:03d}/run-{number:09d}.json"
            yield ObjectInfo(uri=uri, size=900, modified=moment, etag=f"{number:032x}")


def peak_of(files: int, folder: Path) -> int:
    tracemalloc.start()
    with Inventory(folder) as inventory:
        inventory.scan(Endless(files), "s3://b/traces/")
        assert inventory.count() == files
        assert sum(1 for _ in inventory.files()) == files
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_listing_is_never_held_in_memory(tmp_path):
    assert peak_of(40_000, tmp_path) < 1.5 * peak_of(4_000, tmp_path) + 200_000


@pytest.mark.soak
def test_a_million_tiny_files_are_listed_in_the_memory_of_a_few(tmp_path):
    assert peak_of(1_000_000, tmp_path) < 1.5 * peak_of(4_000, tmp_path) + 200_000


def test_a_trace_that_is_being_written_is_counted_and_read_whole_the_next_time(tmp_path):
    source = tmp_path / "traces"
    many(source, 10)
    whole = write_trace(source, trace("late", "acme", [step(0, intent="the late one")]))
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    first = build(label_job(source, tmp_path))
    assert first.bad_reasons == {"truncated_json": 1}
    whole.write_bytes(content)
    second = build(label_job(source, tmp_path, parent=first.dataset.digest))
    assert (second.bad_files, second.reused_files) == (0, 10)
    assert "the late one" in plain_text(tmp_path / "datasets")


def test_a_failed_build_leaves_a_result_that_says_which_budget_was_passed(tmp_path):
    source = tmp_path / "traces"
    many(source, 3)
    (source / "tenant-0" / "cut.json").write_text("{")
    job = label_job(source, tmp_path, max_bad_fraction=0.2)
    assert run_worker(job, run) == 0
    result = Result.model_validate_json((tmp_path / "attempts" / "1" / "result.json").read_bytes())
    assert "1 of 4 trace files" in result.failure.message
    assert "more than the allowed share of 0.2" in result.failure.message
    assert "tenant-0/cut.json: truncated_json" in result.failure.message
    assert list(tmp_path.rglob("manifest.json")) == []

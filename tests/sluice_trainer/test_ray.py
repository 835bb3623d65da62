"""The same jobs through real Ray Train: one worker, two workers, a failure of a worker."""

import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2.api.exceptions import WorkerGroupError

from operators import until
from sluice_api.contracts.jobs import FailureClass, Progress, TrainOutput
from sluice_artifacts import open_store
from sluice_artifacts.reporting import Reporter, WorkerError, classify, run_worker
from sluice_traces import ray_cluster
from sluice_trainer import ray_adapter, worker
from training_jobs import Workplace

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainOutput]:
    """The same work bare, by one worker on Ray and by two, on one local Ray.

    A worker's start is ten times its work here, so both Ray jobs are started at once.
    """
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worker.CACHE_VARIABLE, str(folder / "cache"))
        patch.delenv(ray_adapter.ADDRESS_VARIABLE, raising=False)
        patch.setenv(ray_adapter.CPUS_VARIABLE, "1")
        place = Workplace(folder, rows=12)
        workers = {"bare": 1, "one worker": 1, "two workers": 2}
        jobs = {name: place.job(name.replace(" ", "-"), workers=count) for name, count in workers.items()}
        assert run_worker(jobs["bare"], worker.run_bare) == 0
        on_ray = [jobs["one worker"], jobs["two workers"]]
        with ray_adapter.connected(place.job("cluster", workers=3)), ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda job: run_worker(job, worker.run), on_ray)) == [0, 0]
        return {name: place.output(job) for name, job in jobs.items()}


def test_one_worker_publishes_what_the_bare_loop_publishes(trained: dict[str, TrainOutput]) -> None:
    found, expected = trained["one worker"], trained["bare"]
    assert found.steps == expected.steps > 1
    assert found.final_loss == pytest.approx(expected.final_loss, abs=1e-5)
    if os.environ.get("OMP_NUM_THREADS") == "1":
        assert found.adapter == expected.adapter


def test_two_workers_end_with_the_same_loss(trained: dict[str, TrainOutput]) -> None:
    found, expected = trained["two workers"], trained["bare"]
    assert found.steps == expected.steps
    assert found.final_loss == pytest.approx(expected.final_loss, abs=1e-4)


@pytest.mark.soak
def test_an_elastic_run_starts_with_the_workers_that_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two of three; and the next attempt, with room for one, goes on where these were stopped."""
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(ray_adapter.ADDRESS_VARIABLE, raising=False)
    monkeypatch.setenv(ray_adapter.CPUS_VARIABLE, "1")
    place = Workplace(tmp_path, rows=12)
    bare = place.job("bare")
    assert run_worker(bare, worker.run_bare) == 0
    asked = {"workers": 3, "min_workers": 1, "checkpoint_every": 1}
    with ray_cluster.connected(2, "none"):
        whole = place.job("elastic", **asked)
        assert run_worker(whole, worker.run) == 0
    for path in sorted((tmp_path / "runs" / "elastic" / "checkpoints").glob("*"))[-1:]:
        shutil.rmtree(path)
    with ray_cluster.connected(1, "none"):
        rest = place.job("elastic", attempt=2, **asked)
        assert run_worker(rest, worker.run) == 0
    first, second, expected = (place.output(job) for job in (whole, rest, bare))
    assert (first.workers, second.workers) == (2, 1)
    assert second.resumed_from_step == expected.steps - 1
    for output in (first, second):
        assert output.steps == expected.steps
        assert output.final_loss == pytest.approx(expected.final_loss, abs=1e-4)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_an_elastic_run_grows_when_there_is_room_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started with one of two workers; a node joins while it trains."""
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(ray_adapter.CPUS_VARIABLE, "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setattr(ray_adapter, "RESIZE_SECONDS", 2.0)
    place = Workplace(tmp_path, rows=12)
    bare = place.job("bare", max_steps=600, checkpoint_every=300)
    assert run_worker(bare, worker.run_bare) == 0
    job = place.job("grows", max_steps=600, workers=2, min_workers=1, checkpoint_every=20)
    checkpoints = Path(job.checkpoint_uri.removeprefix("file://"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        monkeypatch.setenv(ray_adapter.ADDRESS_VARIABLE, cluster.address)

        # Ray adds nodes from the main thread only.
        with ThreadPoolExecutor(1) as pool:
            status = pool.submit(run_worker, job, worker.run)
            until(lambda: list(checkpoints.glob("step-*/complete.json")), timeout_s=300, what="a first checkpoint")
            cluster.add_node(num_cpus=1)
            assert status.result(900) == 0
    finally:
        cluster.shutdown()
    found, expected = place.output(job), place.output(bare)
    assert (found.workers, found.steps) == (2, expected.steps)
    assert found.resumed_from_step is not None
    assert found.final_loss == pytest.approx(expected.final_loss, abs=1e-3)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_node_that_is_taken_away_ends_the_attempt_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray does when a worker pod gets SIGTERM: the node is drained; its worker saves before it goes."""
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(ray_adapter.CPUS_VARIABLE, "1")
    place = Workplace(tmp_path, rows=12)
    job = place.job("evicted", max_steps=5000, checkpoint_every=5000)
    progress = Path(job.output_uri.removeprefix("file://")) / "progress.json"

    def trains() -> bool:
        return progress.exists() and Progress.model_validate_json(progress.read_bytes()).step > 3

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        monkeypatch.setenv(ray_adapter.ADDRESS_VARIABLE, cluster.address)
        with ThreadPoolExecutor(1) as pool:
            status = pool.submit(run_worker, job, worker.run)
            until(trains, timeout_s=300, what="a few steps")
            deadline = int(1000 * (time.time() + 120))
            accepted, why = GcsClient(address=cluster.gcs_address).drain_node(
                node.node_id, autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "test", deadline
            )
            assert accepted, why
            assert status.result(300) == 0
    finally:
        cluster.shutdown()
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.PREEMPTED, failure
    assert "saved at step" in failure.message
    assert list(Path(job.checkpoint_uri.removeprefix("file://")).glob("step-*/complete.json"))


def test_a_stop_is_asked_for_by_a_file_or_by_a_node_that_goes(tmp_path: Path) -> None:
    now, leaves = 0.0, False
    job = Workplace(tmp_path).job("asked")
    poll = ray_adapter._StopPoll(job, lambda: leaves, clock=lambda: now)
    assert not poll()
    leaves = True
    assert poll()
    leaves = False
    assert not poll()
    open_store(job.output_uri).write(f"{job.output_uri}stop", b"")
    assert not poll(), "it looks once a second"
    now = ray_adapter.STOP_POLL_SECONDS
    assert poll()


def test_the_workers_own_failure_is_the_one_that_counts(tmp_path: Path) -> None:
    """As Ray Train hands it over: pickled, beside what the other workers saw of it."""
    job = Workplace(tmp_path).job("failed")
    own = WorkerError(FailureClass.STORAGE, "checkpoints cannot be written")
    group = WorkerGroupError("text", {0: RuntimeError("connection closed by peer"), 1: own})
    failure = classify(ray_adapter.translated(pickle.loads(pickle.dumps(group)), job))
    assert (failure.failure_class, failure.message) == (FailureClass.STORAGE, "checkpoints cannot be written")
    lost = WorkerGroupError("text", {0: ActorDiedError()})
    assert classify(ray_adapter.translated(lost, job)).failure_class == FailureClass.NODE_LOST
    full = WorkerGroupError("text", {0: ActorDiedError(), 1: OutOfMemoryError("the node ran out of memory")})
    failure = classify(ray_adapter.translated(full, job))
    assert failure.failure_class == FailureClass.OUT_OF_MEMORY
    assert "sequence.activationCheckpointing to 'on', in quotes" in failure.message


def test_a_cluster_that_cannot_be_reached_is_an_infrastructure_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ray_adapter.ADDRESS_VARIABLE, "127.0.0.1:1")
    monkeypatch.setattr("ray.is_initialized", lambda: False)

    def refuse(**_: object) -> None:
        raise ConnectionError("no GCS at 127.0.0.1:1")

    monkeypatch.setattr("ray.init", refuse)
    job = Workplace(tmp_path).job("nobody")
    with (
        pytest.raises(WorkerError, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be reached") as caught,
        ray_adapter.connected(job),
    ):
        raise AssertionError("never connected")
    assert caught.value.failure_class == FailureClass.INFRASTRUCTURE


def test_a_start_is_spoken_for_until_the_workers_report_or_it_takes_too_long(tmp_path: Path) -> None:
    now = 0.0
    job = Workplace(tmp_path).job("slow")
    path = Path(job.output_uri.removeprefix("file://")) / "progress.json"

    def stamp() -> datetime:
        return datetime.fromtimestamp(now, UTC)

    def written() -> str:
        return Progress.model_validate_json(path.read_bytes()).updated_at

    driver = Reporter(job, now=stamp, monotonic=lambda: now)
    driver.progress(stage=ray_adapter.STARTING)
    beat = ray_adapter.StartBeat(job, driver, clock=lambda: now)
    first = written()
    now = 5.0
    beat()
    assert written() == first
    now = 11.0
    beat()
    second = written()
    assert second > first
    now = ray_adapter.START_LIMIT_SECONDS + 12
    beat()
    assert written() == second, "a start that takes too long is a hang"

    now = 0.0
    beat = ray_adapter.StartBeat(job, driver, clock=lambda: now)
    Reporter(job, now=stamp).progress(stage="loading")
    now = 20.0
    beat()
    now = 40.0
    beat()
    progress = Progress.model_validate_json(path.read_bytes())
    assert (progress.stage, progress.updated_at) == ("loading", first), "the workers' own report stands"

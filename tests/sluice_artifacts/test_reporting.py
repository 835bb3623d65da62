"""Workers' reports: progress within its rate, one classified result at the end, whatever ended the work."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from sluice_api.contracts.base import ArtifactRef, RunRef
from sluice_api.contracts.jobs import FailureClass, LabelJob, LabelOutput, Progress, Result
from sluice_artifacts import CorruptError, ForbiddenError, NotFoundError, UnreachableError, join, open_store
from sluice_artifacts.failures import StopRequested, classify
from sluice_artifacts.files import FileStore
from sluice_artifacts.reporting import Reporter, WorkerError, run_worker

NOW = datetime(2026, 11, 21, 14, 58, tzinfo=UTC)


def label_job(root, attempt=1):
    return LabelJob(
        run=RunRef(kind="TraceDataset", namespace="default", name="d", uid="u-1"),
        attempt=attempt,
        output_uri=join(root, f"runs/u-1/{attempt}/"),
        source_uri=join(root, "traces/"),
        dataset_uri=join(root, "datasets/"),
    )


OUTPUT = LabelOutput(
    dataset=ArtifactRef(uri="file:///d/", digest="sha256:" + "0" * 64), rows=3, holdout_rows=1, new_rows=4
)


def result_of(job):
    return Result.model_validate_json(open_store(job.output_uri).read(job.output_uri + "result.json"))


def progress_of(job):
    return Progress.model_validate_json(open_store(job.output_uri).read(job.output_uri + "progress.json"))


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return NOW + timedelta(seconds=self.seconds - 100.0)

    def monotonic(self):
        return self.seconds


class CountingStore(FileStore):
    """A file store that counts its writes and fails as many of them as it is told to."""

    def __init__(self, failures=0):
        self.writes = []
        self.failures = failures

    def write(self, uri, data, *, if_absent=False, if_match=None):
        if self.failures:
            self.failures -= 1
            raise UnreachableError(uri, "the server is away")
        self.writes.append(json.loads(data))
        return super().write(uri, data, if_absent=if_absent, if_match=if_match)


@pytest.fixture
def local(tmp_path):
    return (tmp_path / "local").as_uri()


class TestProgress:
    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def store(self):
        return CountingStore()

    @pytest.fixture
    def reporter(self, local, store, clock):
        return Reporter(label_job(local), store=store, now=clock.now, monotonic=clock.monotonic)

    def test_is_written_where_the_operator_reads(self, root):
        job = label_job(root, attempt=2)
        Reporter(job, now=lambda: NOW).progress(stage="training", step=3, of=10, metrics={"loss": 0.5})
        assert progress_of(job) == Progress(
            attempt=2, updated_at="2026-11-21T14:58:00.000Z", stage="training", step=3, of=10, metrics={"loss": 0.5}
        )

    def test_is_limited_to_one_a_second_but_not_between_stages(self, reporter, store, clock):
        for step in range(10):
            reporter.progress(stage="training", step=step)
            clock.seconds += 0.25
        assert [write["step"] for write in store.writes] == [0, 4, 8]
        reporter.progress(stage="publishing")
        reporter.progress(stage="done")
        assert [write["stage"] for write in store.writes[3:]] == ["publishing", "done"]

    def test_what_was_held_back_comes_with_the_flush_and_only_once(self, reporter, store):
        reporter.progress(stage="training", step=1)
        reporter.progress(step=2)
        assert len(store.writes) == 1
        reporter.flush()
        reporter.flush()
        assert [write["step"] for write in store.writes] == [1, 2]

    def test_what_is_not_given_stays_and_a_new_stage_starts_over(self, reporter, store, clock):
        reporter.progress(stage="training", step=5, of=10, inputs={"dataset": "sha256:a"}, resumed_from_step=4)
        clock.seconds += 2
        reporter.progress(metrics={"loss": 1.0}, inputs={"baseModel": "sha256:b"})
        clock.seconds += 2
        reporter.progress(stage="publishing")
        second, third = store.writes[1:]
        assert (second["step"], second["of"], second["metrics"], second["resumed_from_step"]) == (
            5,
            10,
            {"loss": 1.0},
            4,
        )
        assert second["inputs"] == third["inputs"] == {"dataset": "sha256:a", "baseModel": "sha256:b"}
        assert (third["step"], third["of"], third["metrics"]) == (0, 0, {"loss": 1.0})
        assert third["updated_at"] == "2026-11-21T14:58:04.000Z"

    def test_numbers_that_json_has_not_are_left_out(self, reporter, store):
        reporter.progress(stage="training", metrics={"loss": float("nan"), "norm": float("inf"), "epoch": 1})
        assert store.writes[0]["metrics"] == {"epoch": 1.0}

    def test_a_storage_that_is_away_does_not_end_the_work(self, reporter, store, clock, caplog):
        store.failures = 1
        reporter.progress(stage="training", step=1)
        assert "progress was not written" in caplog.text
        clock.seconds += 2
        reporter.progress(step=2)
        assert [write["step"] for write in store.writes] == [2]


class TestRunWorker:
    def test_success(self, root):
        job = label_job(root)

        def work(given, reporter):
            assert given is job
            reporter.progress(stage="labelling", step=1, of=2)
            reporter.progress(step=2)
            return OUTPUT

        assert run_worker(job, work, now=lambda: NOW) == 0
        assert result_of(job) == Result(run=job.run, attempt=1, finished_at="2026-11-21T14:58:00.000Z", output=OUTPUT)
        assert progress_of(job).step == 2

    def test_the_result_comes_last(self, local):
        store = CountingStore()

        def work(job, reporter):
            for step in range(3):
                reporter.progress(stage="labelling", step=step)
            return OUTPUT

        run_worker(label_job(local), work, store=store)
        assert ["finished_at" in write for write in store.writes] == [False, False, True]
        assert store.writes[1]["step"] == 2

    def test_a_classified_failure(self, root, caplog):
        job = label_job(root)

        def work(job, reporter):
            raise WorkerError(FailureClass.DATA, "no rows: 12 of 12 steps are neutral; add traces")

        assert run_worker(job, work) == 0
        result = result_of(job)
        assert result.output is None
        assert result.failure.failure_class == FailureClass.DATA
        assert result.failure.message == "no rows: 12 of 12 steps are neutral; add traces"
        assert "no rows" in caplog.text
        assert "Traceback" not in caplog.text, "the message says it all"

    def test_the_first_result_of_an_attempt_stands(self, root):
        job = label_job(root)
        assert run_worker(job, lambda job, reporter: OUTPUT) == 0
        first = result_of(job)
        assert run_worker(job, lambda job, reporter: 1 / 0) == 0
        assert result_of(job) == first

    def test_a_storage_that_comes_back_gets_the_result(self, local):
        job, pauses = label_job(local), []
        assert run_worker(job, lambda job, reporter: OUTPUT, store=CountingStore(failures=3), sleep=pauses.append) == 0
        assert result_of(job).output == OUTPUT
        assert pauses == [0.5, 1.0, 2.0]

    def test_a_storage_that_stays_away_is_exit_status_3(self, local, caplog):
        job = label_job(local)
        store = CountingStore(failures=100)
        assert run_worker(job, lambda job, reporter: OUTPUT, store=store, sleep=lambda _: None) == 3
        assert "the result was not written (try 4 of 4)" in caplog.text

    def test_a_place_that_is_none_is_exit_status_3(self, local, caplog):
        job = label_job(local).model_copy(update={"output_uri": "gs://bucket/x/"})
        assert run_worker(job, lambda job, reporter: OUTPUT) == 3
        assert "no result can be written" in caplog.text

    @pytest.mark.integration
    def test_a_bucket_that_is_not_there_is_exit_status_3(self, bucket, caplog):
        job = label_job("s3://no-such-bucket-here")
        assert run_worker(job, lambda job, reporter: OUTPUT, sleep=lambda _: None) == 3
        assert "no such bucket" in caplog.text

    def test_an_output_that_json_cannot_say_is_a_failure(self, local):
        job = label_job(local)
        output = OUTPUT.model_copy(update={"share": float("nan")})
        assert run_worker(job, lambda job, reporter: output) == 0
        assert result_of(job).failure.failure_class == FailureClass.UNKNOWN

    def test_leaving_by_exit_is_a_failure_too(self, local):
        job = label_job(local)
        assert run_worker(job, lambda job, reporter: sys.exit(0)) == 0
        assert result_of(job).failure.failure_class == FailureClass.UNKNOWN

    def test_trace_text_stays_out_of_the_result_but_not_of_the_log(self, local, caplog):
        job = label_job(local)

        def work(job, reporter):
            raise ValueError("my password is hunter2")

        with caplog.at_level(logging.ERROR):
            assert run_worker(job, work) == 0
        message = result_of(job).failure.message
        assert "hunter2" not in message
        assert message.startswith("ValueError at sluice_artifacts/test_reporting.py:")

    def test_signal_handlers_are_put_back(self, local):
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        run_worker(label_job(local), lambda job, reporter: OUTPUT)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


STOPPABLE = """
import sys, time
from sluice_api.contracts.jobs import FailureClass, LabelJob
from sluice_artifacts.reporting import WorkerError, run_worker
def stubborn(job, reporter):
    reporter.progress(stage="working")
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass
def saving(job, reporter):
    with reporter.cooperative_stop() as stop:
        reporter.progress(stage="working")
        stop.wait()
        print("saved", flush=True)
        raise WorkerError(FailureClass.PREEMPTED, "stopped at step 7; a checkpoint was saved")
sys.exit(run_worker(LabelJob.model_validate_json(sys.argv[2]), {"stubborn": stubborn, "saving": saving}[sys.argv[1]]))
"""


class TestStop:
    def stop(self, job, kind, number):
        worker = subprocess.Popen(
            [sys.executable, "-c", STOPPABLE, kind, job.model_dump_json()],
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while not open_store(job.output_uri).exists(job.output_uri + "progress.json"):
            assert worker.poll() is None, worker.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        worker.send_signal(number)
        output, _ = worker.communicate(timeout=60)
        return worker.returncode, output

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_the_work_as_preempted(self, root, number):
        job = label_job(root)
        assert self.stop(job, "stubborn", number) == (0, b"")
        failure = result_of(job).failure
        assert failure.failure_class == FailureClass.PREEMPTED
        assert failure.message == f"the job was asked to stop ({number.name}) before it was done"

    def test_work_that_asks_for_it_may_save_first(self, local):
        job = label_job(local)
        assert self.stop(job, "saving", signal.SIGTERM) == (0, b"saved\n")
        assert result_of(job).failure.message == "stopped at step 7; a checkpoint was saved"

    @pytest.mark.parametrize(
        ("second", "after", "ended"),
        [
            (signal.SIGINT, 1.0, "the job was asked to stop (SIGINT) before it was done"),
            (signal.SIGINT, 0.5, "saved"),
            (signal.SIGTERM, 60.0, "saved"),
        ],
    )
    def test_a_second_ctrl_c_ends_work_that_saves_and_no_other_signal_does(self, local, second, after, ended):
        job = label_job(local)
        now = 0.0

        def saving(job, reporter):
            nonlocal now
            with reporter.cooperative_stop() as stop:
                signal.raise_signal(signal.SIGINT)
                assert stop.is_set()
                now = after
                signal.raise_signal(second)
                raise WorkerError(FailureClass.PREEMPTED, "saved")

        assert run_worker(job, saving, monotonic=lambda: now) == 0
        failure = result_of(job).failure
        assert (failure.failure_class, failure.message) == (FailureClass.PREEMPTED, ended)

    def test_a_kill_leaves_no_result(self, local):
        job = label_job(local)
        assert self.stop(job, "stubborn", signal.SIGKILL)[0] == -signal.SIGKILL
        assert not open_store(job.output_uri).exists(job.output_uri + "result.json")


class OutOfMemoryError(RuntimeError):
    """Named as the one of torch."""


class ActorDiedError(Exception):
    """Named as the one of Ray."""


class DistBackendError(RuntimeError):
    """Named as the one of torch's process groups."""


class RayTaskError(Exception):
    """Wraps as the one of Ray does."""

    def __init__(self, cause):
        super().__init__("the traceback, with text of traces")
        self.cause = cause


class WorkerGroupError(Exception):
    """Wraps as the one of Ray Train does."""

    def __init__(self, worker_failures):
        super().__init__("text")
        self.worker_failures = worker_failures


class PreemptionError(WorkerGroupError):
    """Named as the one of Ray Train."""


class NCCLHangError(WorkerGroupError):
    """Named as the one of Ray Train."""


def raised_from(cause):
    try:
        raise RuntimeError("text") from cause
    except RuntimeError as error:
        return error


class Model(BaseModel):
    x: int


def validation_error():
    with pytest.raises(ValueError) as caught:
        Model.model_validate({"x": "secret text"})
    return caught.value


NO_ROWS = WorkerError(FailureClass.DATA, "no rows")


@pytest.mark.parametrize(
    ("error", "failure_class", "message"),
    [
        (NO_ROWS, "Data", "no rows"),
        (pickle.loads(pickle.dumps(NO_ROWS)), "Data", "no rows"),
        (raised_from(NO_ROWS), "Data", "no rows"),
        (RayTaskError(NO_ROWS), "Data", "no rows"),
        (WorkerGroupError({0: RayTaskError(raised_from(NO_ROWS))}), "Data", "no rows"),
        (ExceptionGroup("text", [ValueError("text"), NO_ROWS]), "Data", "no rows"),
        (NotFoundError("s3://b/k", "no such object"), "Data", "s3://b/k: no such object"),
        (CorruptError("s3://b/k", "its digest differs"), "Data", "s3://b/k: its digest differs"),
        (ForbiddenError("s3://b/k", "refused"), "Storage", "s3://b/k: refused"),
        (UnreachableError("s3://b/k", "away"), "Storage", "s3://b/k: away"),
        (OSError(28, "No space left on device"), "Storage", "No space left on device"),
        (MemoryError(), "OutOfMemory", "ask for less at a time"),
        (OutOfMemoryError("tried to allocate"), "OutOfMemory", "a profile with more memory"),
        (raised_from(OutOfMemoryError("text")), "OutOfMemory", "out of memory"),
        (ActorDiedError("text"), "NodeLost", "ActorDiedError: a worker or its node went away"),
        (WorkerGroupError({1: ActorDiedError("text")}), "NodeLost", "went away"),
        (WorkerGroupError({0: DistBackendError("text"), 1: ValueError("text")}), "NodeLost", "went away"),
        (PreemptionError({}), "Preempted", "the node is being taken away"),
        (NCCLHangError({0: ValueError("text")}), "Hang", "the workers wait for each other"),
        (ConnectionRefusedError(111, "Connection refused"), "Infrastructure", "Connection refused"),
        (TimeoutError(), "Infrastructure", "TimeoutError"),
        (StopRequested("SIGTERM"), "Preempted", "asked to stop (SIGTERM)"),
        (KeyboardInterrupt(), "Preempted", "asked to stop"),
        (validation_error(), "Unknown", "Model is invalid in x"),
        (ValueError("secret text"), "Unknown", "ValueError at"),
        (FileNotFoundError(2, "No such file", "secret text"), "Unknown", "FileNotFoundError at"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_classify(error, failure_class, message):
    failure = classify(error)
    assert (failure.failure_class, message in failure.message) == (failure_class, True), failure.message
    assert "text" not in failure.message.removeprefix("context")


def test_a_long_message_is_cut():
    assert len(classify(WorkerError(FailureClass.DATA, "x" * 10_000)).message) == 2000


def test_causes_that_form_a_ring_end():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first).failure_class == FailureClass.UNKNOWN

"""The thin adapter to Ray Train: workers, their process group, and the way back of what they report.

The driver connects to the cluster of its Ray job (or starts a local one), hands the job to the workers and waits. Every
worker runs the same `session`; the first reports progress and writes checkpoints to artifact storage itself, so nothing
large passes through Ray. Restarting is left to whoever submitted the job: an attempt that dies is followed by one that
resumes from the newest checkpoint.
"""

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sluice_api.contracts.jobs import PROGRESS_FILE, FailureClass, Progress, TrainJob, TrainOutput
from sluice_api.contracts.jobs.base import STOP_FILE
from sluice_artifacts import ArtifactError, join, open_store
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_traces import ray_cluster
from sluice_traces.ray_cluster import ADDRESS_VARIABLE
from sluice_trainer.settings import out_of_memory_advice
from sluice_trainer.stages import STARTING, UNSAVED

if TYPE_CHECKING:
    from sluice_trainer.live import Prober

CPUS_VARIABLE = "SLUICE_TRAIN_CPUS_PER_WORKER"
"""Environment variable: CPUs of each worker, which are also its threads."""
MAX_CPUS = 4
"""CPUs of each worker where the variable is unset and the cluster has as many."""
STOP_POLL_SECONDS = 1.0
"""Seconds between looks for the file that asks for a stop."""
PATIENCE_SECONDS = 15.0
"""Seconds that workers which have nothing to save get to end by themselves, asked to stop."""
START_BEAT_SECONDS = 10.0
"""Seconds between reports of the driver while the workers are being started."""
START_LIMIT_SECONDS = 600.0
"""Seconds for which it does so."""
RESIZE_SECONDS = 60.0
"""Seconds between looks for room for more workers of an elastic run; a group that grows starts again."""
PROCESS_GROUP_TIMEOUT_SECONDS = 600
"""Seconds after which a worker gives up waiting for the others, from the first step on."""
LONG_TIMEOUT_SECONDS = 6 * 3600
"""The same before, when one may have the base and another still fetches it, and where a suite is waited for."""
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The controller looks at its workers this often, which is added to every start, report and end. The default is 2 s;
    # five times a second took it 8 % of a processor.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A node that is being taken away (a pod that got SIGTERM) is told to the workers, which save and end the attempt;
    # who submitted the job starts the next one.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}

_log = logging.getLogger(__name__)


def run(job: TrainJob, reporter: Reporter, cache: Path, prober: "Prober | None" = None) -> TrainOutput:
    """Train on Ray and return the first worker's output.

    Raises:
        WorkerError: the workers' own failure, or `Infrastructure` when Ray cannot be reached.
    """
    reporter.progress(stage=STARTING, inputs={"dataset": job.dataset.digest})
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with ExitStack() as stack:
        stop = stack.enter_context(reporter.cooperative_stop())
        stack.enter_context(connected(job))
        storage = stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-ray-"))
        text = _fit(_trainer(job, cache, storage, prober), job, stop, StartBeat(job, reporter))
    if text is None:
        raise WorkerError(FailureClass.INFRASTRUCTURE, "the training workers ended without an output: see their logs")
    return TrainOutput.model_validate_json(text)


def connected(job: TrainJob) -> AbstractContextManager[None]:
    """The job's Ray cluster, or a local one with room for its workers; see `ray_cluster.connected`."""
    advice = (
        f"check that the cluster of the profile runs, its address ({ADDRESS_VARIABLE}) and its token, "
        "or train in one process (sluice train --no-ray)"
    )
    return ray_cluster.connected(max(job.workers, os.cpu_count() or 1), advice)


class StartBeat:
    """Says that the workers are being started, until they report themselves.

    Placing workers and importing their libraries takes long on a busy cluster and is no hang; a start that takes longer
    than `START_LIMIT_SECONDS` is one, and nobody speaks for it any more.
    """

    def __init__(self, job: TrainJob, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin the start now."""
        self._job = job
        self._reporter = reporter
        self._clock = clock
        self._started = self._last = clock()
        self._over = False

    def __call__(self) -> None:
        """Report, if it is time to and the workers have not."""
        now = self._clock()
        if self._over or now - self._last < START_BEAT_SECONDS:
            return
        self._last = now
        stage = _stage(self._job) or STARTING
        self._over = stage != STARTING or now - self._started > START_LIMIT_SECONDS
        if not self._over:
            self._reporter.progress(stage=STARTING)


class StopOrder:
    """Passes a request to stop on to the workers, and says when to go without waiting for them."""

    def __init__(self, job: TrainJob, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare to tell the workers of a job."""
        self._job = job
        self._clock = clock
        self._asked_at: float | None = None
        self._looked_at = -math.inf

    def __call__(self) -> bool:
        """Ask the workers, the first time; whether there is nothing to save, and nobody who will end by himself.

        Workers that cannot be placed never read what they are asked. Where the progress cannot be read, they may be
        training, and are waited for.
        """
        now = self._clock()
        if self._asked_at is None:
            self._asked_at = now
            with suppress(ArtifactError):
                open_store(self._job.output_uri).write(join(self._job.output_uri, STOP_FILE), b"")
        if now - self._looked_at < STOP_POLL_SECONDS:
            return False
        self._looked_at = now
        stage = _stage(self._job)
        return stage == STARTING or (stage in UNSAVED and now - self._asked_at >= PATIENCE_SECONDS)


def _stage(job: TrainJob) -> str | None:
    """The stage that a job's progress shows; None where it cannot be read."""
    try:
        text = open_store(job.output_uri).read(join(job.output_uri, PROGRESS_FILE))
        return Progress.model_validate_json(text).stage
    except (ArtifactError, ValidationError):
        return None


def _fit(trainer: Any, job: TrainJob, stop: threading.Event, beat: StartBeat) -> str | None:
    """Run the trainer beside the main thread, which passes a request to stop on to the workers.

    Raises:
        WorkerError: the workers' own failure, or `Preempted` when they were not waited for.
    """
    outcome: list[Any] = []
    order = StopOrder(job)

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.1)
        beat()
        if stop.is_set() and order() and thread.is_alive():
            message = "asked to stop before the first step: there is nothing to save, the next attempt begins anew"
            raise WorkerError(FailureClass.PREEMPTED, message)
    (result,) = outcome
    if isinstance(result, BaseException):
        raise translated(result, job) from result
    value: str | None = result.return_value
    return value


def _trainer(job: TrainJob, cache: Path, storage: str, prober: "Prober | None") -> Any:
    """A Ray trainer for the job; a single worker needs no process group, and so no torch in the driver."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    # With two numbers Ray Train starts as many workers as there is room for, and looks for more now and then: when some
    # join, the group starts again, from the newest checkpoint.
    count = job.workers if job.min_workers in (None, job.workers) else (job.min_workers, job.workers)
    scaling = ScalingConfig(
        num_workers=count,
        use_gpu=job.use_gpu,
        resources_per_worker={"CPU": _cpus_per_worker(job)},
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )
    run_config = RunConfig(
        name=f"{job.run.uid}-{job.attempt}",
        storage_path=storage,
        failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
    )
    arguments = {
        "train_loop_config": {"job": job.model_dump_json(by_alias=True), "cache": str(cache), "prober": prober},
        "scaling_config": scaling,
        "run_config": run_config,
    }
    if job.workers == 1:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        return DataParallelTrainer(train_worker, **arguments)
    from ray.train.torch import TorchConfig, TorchTrainer

    backend = "nccl" if job.use_gpu else "gloo"
    config = TorchConfig(backend=backend, timeout_s=LONG_TIMEOUT_SECONDS)
    return TorchTrainer(train_worker, torch_config=config, **arguments)


def train_worker(config: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs; the first returns its output as JSON.

    Raises:
        WorkerError: with the failure's class and what to do about it.
    """
    import ray.train
    import torch

    from sluice_trainer.group import Alone, ProcessGroup
    from sluice_trainer.hardware import worker_device
    from sluice_trainer.loop import StepRecord
    from sluice_trainer.session import run_session
    from sluice_trainer.surroundings import NoProgress, Surroundings

    job = TrainJob.model_validate_json(config["job"])
    torch.set_num_threads(min(torch.get_num_threads(), os.cpu_count() or 1))
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    reporter = Reporter(job) if first else None

    def checkpoint_taken(step: int, record: StepRecord | None) -> None:
        ray.train.report({"step": step, "loss": record.loss if record else float("nan")})

    group = Alone() if context.get_world_size() == 1 else ProcessGroup()

    def stepped() -> None:
        if group.size > 1 and job.probes is None:
            wait_at_most(PROCESS_GROUP_TIMEOUT_SECONDS)

    around = Surroundings(
        group=group,
        device=worker_device(job),
        progress=reporter or NoProgress(),
        stop_requested=_StopPoll(job, being_preempted) if first else being_preempted,
        checkpoint_taken=checkpoint_taken,
        cache=Path(config["cache"]),
        prober=config["prober"],
        stepped=stepped,
    )
    output = run_session(job, around)
    if reporter is not None:
        reporter.flush()
    return output.model_dump_json() if output else None


def wait_at_most(seconds: float) -> None:
    """Have this process give up waiting for the others of the default group sooner, or later, than until now."""
    from torch import distributed

    # Older releases of torch know it by the other name alone.
    change = getattr(distributed, "set_timeout", None) or distributed.distributed_c10d._set_pg_timeout
    change(timedelta(seconds=seconds))


def being_preempted() -> bool:
    """Whether a node of the group is being taken away: Ray tells all workers of a drain, which SIGTERM begins.

    `ray.train.get_preemption_info` says the same and is a meeting of all workers, at every step; workers that see this
    at different steps agree by the step's own sum.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


class _StopPoll:
    """Whether to stop: at once where a node goes, otherwise by the file, at most every `STOP_POLL_SECONDS`."""

    def __init__(
        self, job: TrainJob, preempted: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._preempted = preempted
        self._uri = join(job.output_uri, STOP_FILE)
        self._store = open_store(job.output_uri)
        self._clock = clock
        self._looked_at = clock()
        self._stop = False

    def __call__(self) -> bool:
        """Whether the job was asked to stop; a storage that does not answer has not asked."""
        now = self._clock()
        if not self._stop and now - self._looked_at >= STOP_POLL_SECONDS:
            self._looked_at = now
            try:
                self._stop = self._store.exists(self._uri)
            except ArtifactError as error:
                _log.warning("cannot look for a request to stop: %s", error)
        return self._stop or self._preempted()


def _cpus_per_worker(job: TrainJob) -> int:
    """CPUs of a worker: as set, or its share of the cluster's, at most `MAX_CPUS`."""
    import ray

    text = os.environ.get(CPUS_VARIABLE, "")
    if text:
        if not (text.isascii() and text.isdigit()) or int(text) < 1:
            raise WorkerError(FailureClass.USER_ERROR, f"{CPUS_VARIABLE} is {text!r}: it must be a positive integer")
        return int(text)
    # What is free, not what there is: the job's own driver holds CPUs too, and a group that asks for them never starts.
    share = int(ray.available_resources().get("CPU", 1)) // job.workers
    return max(1, min(MAX_CPUS, share))


def translated(error: BaseException, job: TrainJob) -> BaseException:
    """The failure that the workers themselves reported, if any did; otherwise the error as it is.

    A worker that Ray's memory monitor ended cannot report anything; its failure gets the advice that it would have had.
    """
    failures = getattr(error, "worker_failures", None) or {}
    inner = [getattr(failures[rank], "_base_exc", failures[rank]) for rank in sorted(failures)]
    for failure in inner:
        if isinstance(failure, WorkerError):
            return WorkerError(failure.failure_class, failure.message)
    if any(type(failure).__name__ == "OutOfMemoryError" for failure in inner):
        return WorkerError(FailureClass.OUT_OF_MEMORY, f"a worker's node ran {out_of_memory_advice(job)}")
    return error

"""What every worker does around its work: progress while it runs, one classified result at the end.

A worker's function takes its job and a `Reporter` and returns its output. `run_worker` calls it, turns whatever it
raises into a `Failure`, and writes `result.json` last. Nothing that is written holds an exception's free text unless
the exception is one of Sluice's own or the operating system's: other messages may quote traces.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Protocol, TypeVar

from sluice_api.contracts.jobs import (
    PROGRESS_FILE,
    RESULT_FILE,
    Failure,
    FailureClass,
    JobBase,
    JobOutput,
    Progress,
    Result,
)
from sluice_api.instants import format_instant
from sluice_artifacts.digests import canonical_json
from sluice_artifacts.errors import ArtifactError, ConflictError
from sluice_artifacts.failures import StopRequested, WorkerError, classify
from sluice_artifacts.store import Store, join, open_store

__all__ = ["Reporter", "StopRequested", "WorkerError", "classify", "run_worker"]

SECOND_THOUGHT_SECONDS = 1.0
"""Seconds after the first request to stop from which on another Ctrl-C is one of its own."""
RESULT_ATTEMPTS = 4
"""Times that the result is tried to be written, on top of the store's own retries."""

_SAID_IN_FULL = frozenset({FailureClass.DATA, FailureClass.USER_ERROR, FailureClass.PREEMPTED})
_log = logging.getLogger(__name__)

J = TypeVar("J", bound=JobBase)
J_contra = TypeVar("J_contra", bound=JobBase, contravariant=True)


class WorkerFunction(Protocol[J_contra]):
    """The work itself."""

    def __call__(self, job: J_contra, reporter: "Reporter", /) -> JobOutput:
        """Do the job and return its output; raise `WorkerError` for a failure whose class is known."""
        ...


def utc_now() -> datetime:
    """Return the present instant, aware, UTC."""
    return datetime.now(UTC)


class Reporter:
    """Writes an attempt's `progress.json`, whole each time and at most once a second.

    Safe to share between threads. A storage that does not take the progress is logged, never raised: it must not end
    the work; an operator that sees no progress for long calls it a hang.
    """

    def __init__(
        self,
        job: JobBase,
        *,
        store: Store | None = None,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        min_interval_s: float = 1.0,
    ) -> None:
        """Prepare to report on a job.

        `now` stamps the progress; `monotonic` and `min_interval_s` limit its rate.
        """
        self._uri = join(job.output_uri, PROGRESS_FILE)
        self._store = store if store is not None else open_store(job.output_uri)
        self._now = now
        self._monotonic = monotonic
        self._min_interval_s = min_interval_s
        self._progress = Progress(attempt=job.attempt, updated_at="")
        self._written_at = -math.inf
        self._pending = False
        self._lock = threading.Lock()
        self._cooperative = 0
        self.stop_requested = threading.Event()
        """Set when the job was asked to stop."""

    def progress(
        self,
        *,
        stage: str | None = None,
        step: int | None = None,
        of: int | None = None,
        metrics: Mapping[str, float] | None = None,
        inputs: Mapping[str, str] | None = None,
        resumed_from_step: int | None = None,
    ) -> None:
        """Report where the work stands. What is not given stays as it was; a new stage starts at step 0 of 0.

        Within a second of the last report of the same stage nothing is written: the next report, or `flush`, carries
        it. Digests in `inputs` are added to those reported before. Metrics that are not finite are left out, since
        JSON has no word for them.
        """
        with self._lock:
            last = self._progress
            new_stage = stage is not None and stage != last.stage
            update: dict[str, object] = {
                "stage": last.stage if stage is None else stage,
                "step": (0 if new_stage else last.step) if step is None else step,
                "of": (0 if new_stage else last.of) if of is None else of,
                "inputs": {**last.inputs, **(inputs or {})},
            }
            if metrics is not None:
                update["metrics"] = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
            if resumed_from_step is not None:
                update["resumed_from_step"] = resumed_from_step
            self._progress = last.model_copy(update=update)
            self._pending = True
            if new_stage or self._monotonic() - self._written_at >= self._min_interval_s:
                self._write()

    def flush(self) -> None:
        """Write what the rate limit has held back."""
        with self._lock:
            if self._pending:
                self._write()

    @contextmanager
    def cooperative_stop(self) -> Iterator[threading.Event]:
        """Within the block a request to stop only sets the event; the work sees it and ends by itself.

        For work that has something to save first. It then raises `WorkerError(FailureClass.PREEMPTED, …)`. Outside
        such a block a request to stop interrupts the work at once, and so does a second Ctrl-C inside.
        """
        self._cooperative += 1
        try:
            yield self.stop_requested
        finally:
            self._cooperative -= 1

    @property
    def stops_cooperatively(self) -> bool:
        """Whether the work is inside `cooperative_stop`."""
        return self._cooperative > 0

    def _write(self) -> None:
        self._progress = self._progress.model_copy(update={"updated_at": format_instant(self._now(), "milliseconds")})
        self._written_at = self._monotonic()
        self._pending = False
        try:
            self._store.write(self._uri, canonical_json(self._progress))
        except ArtifactError as error:
            _log.warning("progress was not written: %s", error)


def run_worker(
    job: J,
    function: WorkerFunction[J],
    *,
    store: Store | None = None,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Run a worker's function and write its `result.json`; return the exit status.

    0: a result was written, of success or of failure. 3: not even that could be done, so that the operator sees an
    attempt without a result. SIGTERM and SIGINT end the work as `Preempted`: at once, or when work inside
    `Reporter.cooperative_stop` has saved; a second SIGINT, a second later or more, ends that at once as well.
    """
    try:
        result_store = store if store is not None else open_store(job.output_uri)
        reporter = Reporter(job, store=result_store, now=now)
    except (ArtifactError, ValueError) as error:
        _log.error("no result can be written: %s", error)
        return 3
    with _stop_signals(reporter, monotonic) as ignore_further:
        try:
            try:
                output: JobOutput | None = function(job, reporter)
            finally:
                ignore_further()
            failure = None
        except BaseException as error:  # noqa: BLE001 - whatever ends a worker has to be reported
            output, failure = None, classify(error)
            # What a message says in full needs no traceback under it.
            told = None if failure.failure_class in _SAID_IN_FULL else error
            _log.error("the attempt failed as %s: %s", failure.failure_class, failure.message, exc_info=told)
        reporter.flush()
        result = Result(
            run=job.run,
            attempt=job.attempt,
            finished_at=format_instant(now(), "milliseconds"),
            output=output,
            failure=failure,
        )
        return 0 if _write_result(job, result, result_store, sleep) else 3


def _write_result(job: JobBase, result: Result, store: Store, sleep: Callable[[float], None]) -> bool:
    """Write the result once; an attempt that has one already keeps it."""
    uri = join(job.output_uri, RESULT_FILE)
    try:
        data = canonical_json(result)
    except ValueError as error:
        failure = Failure(failure_class=FailureClass.UNKNOWN, message=f"the output cannot be written as JSON: {error}")
        data = canonical_json(result.model_copy(update={"output": None, "failure": failure}))
    for attempt in range(RESULT_ATTEMPTS):
        try:
            store.write(uri, data, if_absent=True)
            return True
        except ConflictError:
            _log.warning("%s exists already: the first result of an attempt stands", uri)
            return True
        except ArtifactError as error:
            _log.error("the result was not written (try %d of %d): %s", attempt + 1, RESULT_ATTEMPTS, error)
            if attempt + 1 < RESULT_ATTEMPTS:
                sleep(0.5 * 2**attempt)
    return False


@contextmanager
def _stop_signals(reporter: Reporter, monotonic: Callable[[], float]) -> Iterator[Callable[[], None]]:
    """Turn SIGTERM and SIGINT into a request to stop; the callable given makes further ones harmless.

    A second SIGINT is somebody at a terminal who will not wait: it interrupts even work that has something to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    finished = False
    asked_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        first = asked_at is None
        asked_at = monotonic() if asked_at is None else asked_at
        reporter.stop_requested.set()
        # A terminal and a program that passes its signals on send the same Ctrl-C twice at one moment.
        insists = number == signal.SIGINT and monotonic() - asked_at >= SECOND_THOUGHT_SECONDS
        if finished or (not insists and (not first or reporter.stops_cooperatively)):
            return
        raise StopRequested(signal.Signals(number).name)

    def ignore_further() -> None:
        nonlocal finished
        finished = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ignore_further
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

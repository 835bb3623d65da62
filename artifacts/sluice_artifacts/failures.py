"""From an exception to the failure class that decides the retry, and to a message that may leave the worker."""

import errno
import traceback
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from sluice_api.contracts.jobs import Failure, FailureClass
from sluice_artifacts.errors import ArtifactError, CorruptError, NotFoundError

MESSAGE_LIMIT = 2000
"""Characters of a failure message; conditions are for people."""

_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}
_NODE_LOST = {
    "ActorDiedError",
    "ActorUnavailableError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "OwnerDiedError",
    "RayActorError",
    "WorkerCrashedError",
    "WorkerHealthCheckTimeoutError",
    "WorkerHealthCheckFailedError",
    # A process group whose other members do not answer any more.
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
}
_PREEMPTED = {"PreemptionError"}
_HANG = {"NCCLHangError"}
_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class WorkerError(Exception):
    """A failure whose class the worker knows.

    Survives pickling, since workers pass exceptions between processes.
    """

    def __init__(self, failure_class: FailureClass, message: str) -> None:
        """Remember the class; `message` says what happened and what to do, and never holds trace text."""
        super().__init__(failure_class, message)
        self.failure_class = failure_class
        self.message = message

    def __str__(self) -> str:
        """Return the message."""
        return self.message


class StopRequested(BaseException):
    """The job was asked to stop. Not an `Exception`, so that no library's catch-all swallows it."""


def classify(error: BaseException) -> Failure:
    """Return the failure that an exception stands for.

    The first exception with a known class decides, looking from the outermost inwards through causes, groups, and
    what Ray wraps (`cause`, `worker_failures`). Anything else is `Unknown`, reported by type and place only.
    """
    for candidate in _unwrapped(error):
        failure = _classify_one(candidate)
        if failure is not None:
            failure_class, message = failure
            return Failure(failure_class=failure_class, message=message[:MESSAGE_LIMIT])
    message = f"{_type_and_place(error)}; the log of the attempt has the traceback"
    return Failure(failure_class=FailureClass.UNKNOWN, message=message)


def _classify_one(error: BaseException) -> tuple[FailureClass, str] | None:
    """Return class and message of one exception by itself, or None when they do not follow from its type."""
    name = type(error).__name__
    if type(error) is WorkerError or (isinstance(error, WorkerError) and hasattr(error, "failure_class")):
        return error.failure_class, error.message
    if isinstance(error, (StopRequested, KeyboardInterrupt)):
        return FailureClass.PREEMPTED, f"the job was asked to stop ({error or name}) before it was done"
    if isinstance(error, ArtifactError) and hasattr(error, "message"):
        missing_or_wrong = isinstance(error, (NotFoundError, CorruptError))
        return (FailureClass.DATA if missing_or_wrong else FailureClass.STORAGE), str(error)
    if name in _OUT_OF_MEMORY:
        return (
            FailureClass.OUT_OF_MEMORY,
            f"out of memory at {_place(error)}: ask for less at a time, or for a profile with more memory",
        )
    if name in _PREEMPTED:
        return FailureClass.PREEMPTED, f"{name}: the node is being taken away"
    if name in _HANG:
        return FailureClass.HANG, f"{name}: the workers wait for each other and none goes on"
    if name in _NODE_LOST:
        return FailureClass.NODE_LOST, f"{name}: a worker or its node went away"
    if isinstance(error, ConnectionError | TimeoutError):
        return FailureClass.INFRASTRUCTURE, f"{_type_and_place(error)}: {error.strerror or 'no connection'}"
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return FailureClass.STORAGE, f"{error.strerror} at {_place(error)}: free or attach storage"
    if isinstance(error, ValidationError):
        fields = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors(include_input=False)[:5])
        return FailureClass.UNKNOWN, f"{error.title} is invalid in {fields} at {_place(error)}"
    return None


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it wraps, breadth first, each once."""
    queue = [error]
    seen: set[int] = set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        wrapped: list[object] = [getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        for failures in (getattr(current, "worker_failures", None), getattr(current, "exceptions", None)):
            wrapped.extend(failures.values() if isinstance(failures, dict) else failures or ())
        wrapped.extend((current.__cause__, None if current.__suppress_context__ else current.__context__))
        queue.extend(inner for inner in wrapped if isinstance(inner, BaseException))


def _type_and_place(error: BaseException) -> str:
    return f"{type(error).__name__} at {_place(error)}"


def _place(error: BaseException) -> str:
    """Return `folder/file.py:line` of the innermost frame, or of the innermost of Sluice's own where there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    own = [
        frame for frame in frames if "sluice_" in frame.filename and "sluice_artifacts/reporting" not in frame.filename
    ]
    frame = (own or frames)[-1]
    path = Path(frame.filename)
    return f"{path.parent.name}/{path.name}:{frame.lineno}"

"""What every job has: who asked for it, where its files go, and how it may fail."""

from enum import StrEnum

from sluice_api.contracts.base import Contract, RunRef

JOB_INPUT_VARIABLE = "SLUICE_JOB_INPUT"
"""Environment variable that carries the job input."""


PROGRESS_FILE = "progress.json"
"""Below `output_uri`; rewritten atomically while the worker works."""


RESULT_FILE = "result.json"
"""Below `output_uri`; written once, last."""


STOP_FILE = "stop"
"""Below `output_uri`; written, empty, by whoever asks a training to save and end. The first worker looks for it."""


class FailureClass(StrEnum):
    """Why an attempt failed; each class has its own retry rule."""

    PREEMPTED = "Preempted"
    """The node was taken away, or the job was asked to stop: retried without counting."""
    NODE_LOST = "NodeLost"
    """A worker or the head vanished: retried."""
    HANG = "Hang"
    """No progress within the limit: stopped and retried."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Out of memory: not retried, the message names the fix."""
    DATA = "Data"
    """The input data is missing, empty or wrong: not retried until the spec changes."""
    USER_ERROR = "UserError"
    """The spec asks for what cannot be: not retried until the spec changes."""
    STORAGE = "Storage"
    """Artifact storage refused or failed: retried with back-off."""
    INFRASTRUCTURE = "Infrastructure"
    """The compute backend is unreachable or broken: retried with back-off."""
    UNKNOWN = "Unknown"
    """None of the others: retried."""


class Failure(Contract):
    """A failed attempt."""

    failure_class: FailureClass
    """Class, decides the retry."""
    message: str
    """What happened and what to do about it; never trace text."""


class JobBase(Contract):
    """What every job input has."""

    schema_version: int = 1
    """Version of this document."""
    run: RunRef
    """Owner of the job."""
    attempt: int
    """Attempt number, from 1."""
    output_uri: str
    """Attempt-scoped prefix for progress, result and by-products; ends in `/`."""

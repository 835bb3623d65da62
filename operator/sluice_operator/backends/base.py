"""The Protocol of compute backends.

A backend is told names and gives views; it never decides. A job's name is unique for owner UID and attempt, so
submitting twice is one job; a job of that name with another owner is somebody else's and raises ForeignObjectError.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.decisions.base import JobView, Profile

LOG_LINES = 200
"""Lines of a log that are read for people."""


@dataclass(frozen=True, kw_only=True)
class JobKey:
    """One job and the object that it belongs to."""

    name: str
    """Name in the backend."""
    namespace: str
    """Namespace of the owner."""
    owner: str
    """UID of the owner."""


class ComputeBackend(Protocol):
    """Where jobs run."""

    async def submit(self, key: JobKey, profile: Profile, job_input: Any, *, workers: int, owner: SluiceObject) -> None:
        """Submit a job, or find that it exists under our UID.

        Raises BackendUnreachableError, BackendError, ForeignObjectError, or a ClusterError.
        """

    async def status(self, key: JobKey, profile: Profile) -> JobView:
        """Return how the job stands; a backend that does not answer is `JobState.UNKNOWN`, never an exception.

        Only a job of that name with another owner raises: ForeignObjectError.
        """

    async def stop(self, key: JobKey, profile: Profile) -> None:
        """Ask the job to stop; a missing one is success. Raises as `submit`."""

    async def logs(self, key: JobKey, profile: Profile) -> str:
        """Return the end of the job's log. Raises as `submit`."""

"""`batch/v1` Jobs: for steps that need no Ray."""

from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.backends.base import LOG_LINES, JobKey
from sluice_operator.backends.pods import pod_reason
from sluice_operator.cluster import Cluster, require_owner
from sluice_operator.decisions.base import JobState, JobView, Profile
from sluice_operator.errors import BackendError, ClusterError
from sluice_operator.manifests.job import job
from sluice_operator.resources import JOB, POD


class JobBackend:
    """Jobs as batch/v1 Jobs."""

    def __init__(self, cluster: Cluster) -> None:
        """Talk to `cluster`."""
        self._cluster = cluster

    async def submit(self, key: JobKey, profile: Profile, job_input: Any, *, workers: int, owner: SluiceObject) -> None:
        """Create the Job, or find that it exists under our UID."""
        await self._cluster.create_once(job(owner, key.name, profile, job_input), owner=key.owner)

    async def status(self, key: JobKey, profile: Profile) -> JobView:
        """Return how the Job stands, with its pods' reasons."""
        try:
            raw = await self._cluster.get(JOB, key.namespace, key.name)
            if raw is None:
                return JobView(name=key.name, state=JobState.MISSING, reason="NotFound", message="the Job is gone")
            require_owner(raw, key.owner)
            view = view_of(key.name, raw.get("status") or {})
            if view.state in (JobState.PENDING, JobState.FAILED):
                reason, message = pod_reason(await self._pods(key))
                if reason:
                    return JobView(name=key.name, state=view.state, reason=reason, message=message)
            return view
        except ClusterError as error:
            return JobView(name=key.name, state=JobState.UNKNOWN, reason=error.reason, message=str(error))

    async def stop(self, key: JobKey, profile: Profile) -> None:
        """Delete the Job, and with it its pods."""
        raw = await self._cluster.get(JOB, key.namespace, key.name)
        if raw is not None:
            require_owner(raw, key.owner)
            await self._cluster.delete(JOB, key.namespace, key.name, uid=raw["metadata"]["uid"])

    async def logs(self, key: JobKey, profile: Profile) -> str:
        """Return the end of the log of the newest pod."""
        pods = sorted(await self._pods(key), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        if not pods:
            raise BackendError(f"Job {key.namespace}/{key.name} has no pod, so no log")
        return await self._cluster.pod_log(key.namespace, pods[-1]["metadata"]["name"], lines=LOG_LINES)

    async def _pods(self, key: JobKey) -> list[dict[str, Any]]:
        return await self._cluster.list(POD, key.namespace, labels=f"batch.kubernetes.io/job-name={key.name}")


def view_of(name: str, status: Mapping[str, Any]) -> JobView:
    """Return a Job's status as a view."""
    for condition in status.get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            state = JobState.SUCCEEDED if condition["type"] == "Complete" else JobState.FAILED
            reason = "" if state is JobState.SUCCEEDED else str(condition.get("reason") or "")
            message = "" if state is JobState.SUCCEEDED else str(condition.get("message") or "")[:1000]
            return JobView(name=name, state=state, reason=reason, message=message)
    running = int(status.get("ready") or 0) > 0 or int(status.get("succeeded") or 0) > 0
    return JobView(name=name, state=JobState.RUNNING if running else JobState.PENDING)

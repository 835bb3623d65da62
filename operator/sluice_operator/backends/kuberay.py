"""RayJobs of KubeRay: a Ray cluster for each job, on the node pool that the profile names.

What the Ray job itself says is the truth; a submitter's exit code is not. A stopped job is a deleted one: its cluster
and its pods go with it, also where KubeRay's own suspension would wait for a controller. A training that runs is asked
first to save and end by itself, by a file that it looks for.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from sluice_api.contracts.jobs import JOB_INPUT_VARIABLE
from sluice_api.contracts.jobs.base import STOP_FILE
from sluice_api.v1alpha1.common import SluiceObject
from sluice_artifacts import ArtifactError, join, open_store
from sluice_operator.backends.base import LOG_LINES, JobKey
from sluice_operator.backends.pods import pod_reason
from sluice_operator.cluster import Cluster, require_owner
from sluice_operator.decisions.base import JobState, JobView, Profile
from sluice_operator.errors import BackendError, ClusterError
from sluice_operator.manifests.rayjob import rayjob
from sluice_operator.resources import POD, RAY_JOB, RESOURCES
from sluice_operator.storage import bounded

STOP_GRACE_S = 60.0
"""Seconds that a running training has to save and end before its RayJob is deleted."""
RAY_STATES = {
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "STOPPED": JobState.STOPPED,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
}
"""`status.jobStatus`: how the Ray job stands."""
FAILED_DEPLOYMENTS = frozenset({"Failed", "ValidationFailed"})
"""`status.jobDeploymentStatus` of a RayJob that is over without success."""
SUSPENDED_DEPLOYMENTS = frozenset({"Suspending", "Suspended"})
"""`status.jobDeploymentStatus` while Kueue or somebody else holds it back."""

UNTOLD = frozenset({"", "AppFailed"})
"""`status.reason` of a failed RayJob that does not say why: that its entrypoint failed is all that KubeRay knows."""
OUT_OF_MEMORY = "OOMKilled"
"""Kubernetes' reason of a container that needed more memory than its limit."""

logger = logging.getLogger(__name__)


class KubeRayBackend:
    """Jobs as RayJobs."""

    def __init__(self, cluster: Cluster, *, stop_grace_s: float = STOP_GRACE_S) -> None:
        """Talk to `cluster`; give trainings `stop_grace_s` seconds to save when they are stopped."""
        self._cluster = cluster
        self._stop_grace_s = stop_grace_s
        self._ending: dict[JobKey, asyncio.Task[None]] = {}

    async def submit(self, key: JobKey, profile: Profile, job_input: Any, *, workers: int, owner: SluiceObject) -> None:
        """Create the RayJob, or find that it exists under our UID."""
        manifest = rayjob(owner, key.name, profile, job_input, workers=workers)
        await self._cluster.create_once(manifest, owner=key.owner)

    async def status(self, key: JobKey, profile: Profile) -> JobView:
        """Return how the RayJob stands, with its pods' reasons where they say more."""
        try:
            raw = await self._cluster.get(RAY_JOB, key.namespace, key.name)
            if raw is None:
                return JobView(name=key.name, state=JobState.MISSING, reason="NotFound", message="the RayJob is gone")
            require_owner(raw, key.owner)
            view = view_of(key.name, raw.get("status") or {})
            telling = view.state is JobState.FAILED and view.reason in UNTOLD
            if view.state in (JobState.PENDING, JobState.RUNNING) or telling:
                return with_pods(view, await self._pods(key, raw))
            return view
        except ClusterError as error:
            return JobView(name=key.name, state=JobState.UNKNOWN, reason=error.reason, message=str(error))

    async def stop(self, key: JobKey, profile: Profile) -> None:
        """Delete the RayJob, and with it its cluster: at once, or, of a running training, when its grace is over.

        One call is enough for both. A training whose object is being deleted has nothing to save for.
        """
        raw = await self._cluster.get(RAY_JOB, key.namespace, key.name)
        if raw is None:
            self._ending.pop(key, None)
            return
        require_owner(raw, key.owner)
        ending = self._ending.get(key)
        if ending is not None and not ending.done():
            return
        if ending is None and not await self._is_orphaned(key, raw) and await _asked_to_save(raw):
            self._ending[key] = asyncio.create_task(self._end(key, raw["metadata"]["uid"]))
            return
        await self._cluster.delete(RAY_JOB, key.namespace, key.name, uid=raw["metadata"]["uid"])

    async def _end(self, key: JobKey, uid: str) -> None:
        """Delete the RayJob when the grace is over; one that is not deleted is left to the next call of `stop`."""
        await asyncio.sleep(self._stop_grace_s)
        try:
            await self._cluster.delete(RAY_JOB, key.namespace, key.name, uid=uid)
        except ClusterError as error:
            logger.warning("RayJob %s/%s was not deleted after its grace: %s", key.namespace, key.name, error)

    async def _is_orphaned(self, key: JobKey, raw: Mapping[str, Any]) -> bool:
        """Whether the object that the RayJob belongs to is gone or going."""
        for reference in raw["metadata"].get("ownerReferences") or []:
            if reference.get("uid") == key.owner and reference.get("kind") in RESOURCES:
                owner = await self._cluster.get(RESOURCES[reference["kind"]], key.namespace, reference["name"])
                return owner is None or bool(owner["metadata"].get("deletionTimestamp"))
        return False

    async def logs(self, key: JobKey, profile: Profile) -> str:
        """Return the end of the log of the head, where the driver runs."""
        raw = await self._cluster.get(RAY_JOB, key.namespace, key.name)
        pods = await self._pods(key, raw) if raw is not None else []
        heads = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("ray.io/node-type") == "head"]
        if not heads:
            raise BackendError(f"RayJob {key.namespace}/{key.name} has no head pod, so no log")
        return await self._cluster.pod_log(key.namespace, heads[0]["metadata"]["name"], lines=LOG_LINES)

    async def _pods(self, key: JobKey, raw: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = (raw.get("status") or {}).get("rayClusterName")
        if not name:
            return []
        return await self._cluster.list(POD, key.namespace, labels=f"ray.io/cluster={name}")


def with_pods(view: JobView, pods: Sequence[Mapping[str, Any]]) -> JobView:
    """Return a view with what the pods tell.

    Of a job that runs only a pod that waits is news, e.g. a replacement for a lost worker without a node: it is
    told, and changes nothing. Of one that failed, memory comes first: the other pods' ends follow from it.
    """
    if view.state is JobState.RUNNING:
        waiting = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Pending"]
        return replace(view, message=pod_reason(waiting)[1] or view.message)
    found = [pod_reason([pod]) for pod in pods]
    reason, message = next((each for each in found if each[0] == OUT_OF_MEMORY), pod_reason(pods))
    if not reason:
        return view
    if view.state is JobState.FAILED and view.message:
        message = f"{message}; {view.message}"
    return replace(view, reason=reason, message=message)


async def _asked_to_save(raw: Mapping[str, Any]) -> bool:
    """Ask a running training to save and end; whether it was asked."""
    prefix = saving_prefix(raw)
    if not prefix:
        return False
    uri = join(prefix, STOP_FILE)
    try:
        await bounded(uri, lambda: open_store(uri).write(uri, b""))
    except ArtifactError as error:
        logger.warning("a training that is stopped could not be asked to save: %s", error)
        return False
    return True


def saving_prefix(raw: Mapping[str, Any]) -> str:
    """Return the `output_uri` of a RayJob's training while that runs; empty where there is nothing to save."""
    if view_of("", raw.get("status") or {}).state is not JobState.RUNNING:
        return ""
    environment = yaml.safe_load((raw.get("spec") or {}).get("runtimeEnvYAML") or "{}") or {}
    job_input = json.loads((environment.get("env_vars") or {}).get(JOB_INPUT_VARIABLE) or "{}")
    return str(job_input.get("output_uri") or "") if job_input.get("worker") == "train" else ""


def view_of(name: str, status: Mapping[str, Any]) -> JobView:
    """Return a RayJob's status as a view."""
    ray = RAY_STATES.get(str(status.get("jobStatus") or ""))
    deployment = str(status.get("jobDeploymentStatus") or "")
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")[:1000]
    state: JobState = JobState.PENDING
    if ray in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED):
        state = ray
    elif deployment in FAILED_DEPLOYMENTS:
        state, reason = JobState.FAILED, reason or deployment
    elif deployment == "Complete":
        # Complete without a job status: KubeRay never saw the job end.
        state, reason = JobState.FAILED, reason or "NoJobStatus"
    elif deployment in SUSPENDED_DEPLOYMENTS:
        reason = reason or deployment
    elif ray is not None and deployment == "Running":
        state = ray
    return JobView(name=name, state=state, reason=reason, message=message)

"""RayJobs: a Ray cluster for one job, gone when it ends.

KubeRay submits over HTTP (no submitter pod) with token authentication, never retries (`backoffLimit: 0`: attempts are
ours to count) and shuts the cluster down afterwards. Training runs on a group of worker pods with the driver on a small
head; every other worker needs one process only and gets a head with the profile's resources and nothing beside it.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from sluice_api.contracts.jobs import JobBase, TrainJob
from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.decisions.base import Profile
from sluice_operator.manifests.naming import JOB_NAME_LIMIT
from sluice_operator.manifests.pods import (
    container,
    job_labels,
    job_metadata,
    job_variables,
    pod_template,
    reserved,
    resources,
    worker_command,
    worker_kind,
)
from sluice_operator.manifests.tokens import token_environment

HEAD_RESOURCES = {"cpu": "1", "memory": "4Gi"}
"""Head of a training cluster where the profile names none: it holds the driver, not the model."""
KEEP_CLUSTER_S = 30
"""Seconds that the cluster outlives its job, for the end of its log."""
HEALTH_PORT, HEALTH_PATH = 52365, "/api/healthz"
"""Ray's health endpoint on every node (dashboard agent), Ray 2.53 or newer."""

Manifest = dict[str, Any]


def rayjob(obj: SluiceObject, name: str, profile: Profile, job_input: JobBase, *, workers: int) -> Manifest:
    """Return the RayJob `name` of an attempt.

    Raises:
        ValueError: the name is longer than KubeRay accepts, or the profile has no image.
    """
    if len(name) > JOB_NAME_LIMIT:
        raise ValueError(f"RayJob name {name!r} has {len(name)} characters, KubeRay accepts {JOB_NAME_LIMIT}")
    if not profile.image:
        raise ValueError(f"profile {profile.name!r} has no image, backend kuberay needs one")
    labels = job_labels(obj, job_input)
    distributed = worker_kind(job_input) == "train"
    cluster: Manifest = {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token"},
        "headGroupSpec": _head(profile, labels, tokens=token_environment(obj), alone=not distributed),
    }
    if distributed:
        cluster["workerGroupSpecs"] = [_workers(profile, labels, workers, job_input)]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": job_metadata(obj, name, profile, job_input),
        "spec": {
            "jobId": name,
            "submissionMode": "HTTPMode",
            "entrypoint": " ".join(worker_command(profile, job_input)),
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": job_variables(profile, job_input)}, sort_keys=True),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEEP_CLUSTER_S,
            "backoffLimit": 0,
            "rayClusterSpec": cluster,
        },
    }


def _head(profile: Profile, labels: dict[str, str], *, tokens: Sequence[Manifest], alone: bool) -> Manifest:
    needs = (
        resources(profile, accelerated=True) if alone else reserved(profile, profile.head_resources or HEAD_RESOURCES)
    )
    return {
        "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": _cpus(profile) if alone else "0"},
        "template": pod_template(profile, labels, _ray_container("ray-head", profile, needs, tokens)),
    }


def _workers(profile: Profile, labels: dict[str, str], count: int, job_input: JobBase) -> Manifest:
    """The worker pods; a group that may grow and shrink where the job is elastic, for whoever scales it."""
    needs = resources(profile, accelerated=True)
    least = most = count
    if isinstance(job_input, TrainJob) and job_input.min_workers is not None:
        least, most = job_input.min_workers, job_input.workers
    return {
        "groupName": "workers",
        "replicas": count,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": {"num-cpus": _cpus(profile)},
        "template": pod_template(profile, labels, _ray_container("ray-worker", profile, needs)),
    }


def _ray_container(name: str, profile: Profile, needs: Manifest, tokens: Sequence[Manifest] = ()) -> Manifest:
    body = container(name, profile, needs=needs, variables=profile.env, tokens=tokens)
    # KubeRay's own probe waits ten seconds and then asks every five.
    body["readinessProbe"] = {
        "httpGet": {"path": HEALTH_PATH, "port": HEALTH_PORT},
        "initialDelaySeconds": 1,
        "periodSeconds": 2,
        "timeoutSeconds": 2,
        "failureThreshold": 60,
    }
    return body


def _cpus(profile: Profile) -> str:
    return str(max(1, int(profile.num_cpus)))

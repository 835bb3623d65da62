"""What all worker pods share: who they are, what they may do, what they are given.

Every pod meets the restricted Pod Security Standard, carries no service account token (workers never talk to
Kubernetes), has limits equal to its requests unless the profile says otherwise, and one folder to write to, which goes
with the pod: everything else is read-only. A worker that tries out a model's code fences it by itself; that is the wall
behind the fence.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from sluice_api.contracts.jobs import JOB_INPUT_VARIABLE, JobBase
from sluice_api.v1alpha1.common import API_VERSION, SluiceObject
from sluice_operator.decisions.base import Profile
from sluice_operator.manifests.naming import LABEL_ATTEMPT, owner_labels

USER_ID = 1000
"""User and group of the workers."""
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's LocalQueue."""
SCRATCH = "/tmp"
"""Home of the workers, and where they keep what no other job needs."""
TASK_RESOURCES = {"cpu": "1", "memory": "2Gi"}
"""Requests and limits where the profile names none."""

Manifest = dict[str, Any]


def owner_reference(obj: SluiceObject) -> Manifest:
    """Return the controller reference to `obj`: jobs and config maps go with their owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": obj.crd.kind,
        "name": obj.name,
        "uid": obj.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def job_metadata(obj: SluiceObject, name: str, profile: Profile, job_input: JobBase) -> Manifest:
    """Return the metadata of a job."""
    labels = job_labels(obj, job_input)
    if profile.queue:
        labels[LABEL_QUEUE] = profile.queue
    return {"name": name, "namespace": obj.namespace, "labels": labels, "ownerReferences": [owner_reference(obj)]}


def job_labels(obj: SluiceObject, job_input: JobBase) -> dict[str, str]:
    """Return the labels of a job and of its pods."""
    return {**owner_labels(obj.crd.kind, obj.name, obj.uid), LABEL_ATTEMPT: str(job_input.attempt)}


def worker_kind(job_input: JobBase) -> str:
    """Return the worker that runs a job input, e.g. `train`."""
    return str(getattr(job_input, "worker"))  # noqa: B009 - the base of the job inputs has no discriminator


def worker_command(profile: Profile, job_input: JobBase) -> list[str]:
    """Return the command line of a worker."""
    return [*shlex.split(profile.entrypoint), "worker", worker_kind(job_input)]


def job_variables(profile: Profile, job_input: JobBase) -> dict[str, str]:
    """Return the plain environment of a job: the profile's, and the job input."""
    return {**profile.env, JOB_INPUT_VARIABLE: job_input.model_dump_json()}


def resources(profile: Profile, *, accelerated: bool) -> Manifest:
    """Return requests and limits, with one accelerator where asked for and the profile has one."""
    amounts = dict(profile.resources or TASK_RESOURCES)
    if accelerated and profile.accelerator:
        amounts[profile.accelerator] = "1"
    return reserved(profile, amounts)


def reserved(profile: Profile, limits: Mapping[str, str]) -> Manifest:
    """Return limits with their requests: as much, but for what the profile asks for less of."""
    return {"requests": {**limits, **profile.requests}, "limits": dict(limits)}


def container(
    name: str,
    profile: Profile,
    *,
    needs: Manifest,
    command: list[str] | None = None,
    variables: Mapping[str, str] | None = None,
    tokens: Sequence[Manifest] = (),
) -> Manifest:
    """Return a restricted container; `needs` are its resources, `tokens` further entries of its `env`."""
    plain = {"HOME": SCRATCH, **(variables or {})}
    body: Manifest = {
        "name": name,
        "image": profile.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [*({"name": key, "value": value} for key, value in plain.items()), *tokens],
        "resources": needs,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
    }
    if command is not None:
        body["command"] = command
    if profile.env_from:
        body["envFrom"] = [{"secretRef": {"name": secret}} for secret in profile.env_from]
    return body


def pod_template(profile: Profile, labels: Mapping[str, str], main: Manifest) -> Manifest:
    """Return a restricted pod template around its one container, on the nodes that the profile names."""
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [main],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    if profile.service_account:
        spec["serviceAccountName"] = profile.service_account
    if profile.node_selector:
        spec["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in profile.tolerations]
    return {"metadata": {"labels": dict(labels)}, "spec": spec}

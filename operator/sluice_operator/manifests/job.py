"""`batch/v1` Jobs: one pod, one try, for the steps that need no Ray."""

from typing import Any

from sluice_api.contracts.jobs import JobBase
from sluice_api.v1alpha1.common import SluiceObject
from sluice_operator.decisions.base import Profile
from sluice_operator.manifests.pods import (
    container,
    job_labels,
    job_metadata,
    job_variables,
    pod_template,
    resources,
    worker_command,
)
from sluice_operator.manifests.tokens import token_environment

KEEP_JOB_S = 3600
"""Seconds that a finished Job stays, for its log."""


def job(obj: SluiceObject, name: str, profile: Profile, job_input: JobBase) -> dict[str, Any]:
    """Return the Job `name` of an attempt. It never retries: attempts are ours to count.

    Raises:
        ValueError: the profile has no image.
    """
    if not profile.image:
        raise ValueError(f"profile {profile.name!r} has no image, backend job needs one")
    main = container(
        "worker",
        profile,
        needs=resources(profile, accelerated=True),
        command=worker_command(profile, job_input),
        variables=job_variables(profile, job_input),
        tokens=token_environment(obj),
    )
    template = pod_template(profile, job_labels(obj, job_input), main)
    template["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": job_metadata(obj, name, profile, job_input),
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": KEEP_JOB_S,
            "template": template,
        },
    }

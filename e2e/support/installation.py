"""Sluice on a cluster as its admin installs it: namespaces, credentials, and the chart with its own images."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from site_view import Manifest, Site
from sluice_devcluster.gotools import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sluice"
IMAGES = ROOT / "build" / "images"
SYSTEM = "sluice-system"
"""Namespace of the operator."""
WORKLOAD = "shop"
"""Namespace of the users' objects and of the workers' pods."""
BUCKET = "sluice"
OPERATOR = f"system:serviceaccount:{SYSTEM}:sluice-operator"
WORKER_ACCOUNT = "sluice-worker"
"""Service account of the workers' pods; each account has a Secret of its name with its keys of the storage."""
OPERATOR_ACCOUNT = "sluice-operator"
"""Service account of the operator."""
AGENT_ACCOUNT = "storefront-agent"
"""Service account of the users' agent."""
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
SMALL = {"cpu": "100m", "memory": "384Mi"}
"""Requests of pods that share a node of two cores."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An S3 server that the machine and the pods reach, with an account for each service account."""

    endpoint: str
    accounts: Mapping[str, tuple[str, str]]
    """Access key and secret key by service account; `admin` is the server's owner."""
    region: str = "us-east-1"

    def keys(self, account: str) -> dict[str, str]:
        """Variables that are secret."""
        access, secret_key = self.accounts[account]
        return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret_key}

    def plain(self) -> dict[str, str]:
        """Variables that are not."""
        region = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        return {"AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true", **region}


def image(name: str) -> str:
    """Return the reference of an image that `make images` built.

    Raises:
        FileNotFoundError, KeyError: it has not been built.
    """
    listed = {each["name"]: each for each in json.loads((IMAGES / "images.json").read_text())}
    return str(listed[name]["reference"])


def namespace(name: str, **labels: str) -> Manifest:
    """Return a namespace that enforces the restricted Pod Security Standard."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**RESTRICTED, **labels}}}


def secret(name: str, place: str, data: Mapping[str, str]) -> Manifest:
    """Return a Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": place},
        "stringData": dict(data),
    }


def profiles(storage: Storage) -> dict[str, Any]:
    """Return the compute profiles of the small node, and some that cannot work on it."""
    common = {
        "serviceAccount": WORKER_ACCOUNT,
        "env": {**storage.plain(), "OMP_NUM_THREADS": "1", "SLUICE_TRAIN_CPUS_PER_WORKER": "1"},
        "envFrom": [WORKER_ACCOUNT],
        "requests": SMALL,
    }
    ray = {
        **common,
        "backend": "kuberay",
        "image": image("trainer"),
        "maxWorkers": 2,
        "resources": {"cpu": "1", "memory": "2Gi"},
        "headResources": {"cpu": "2", "memory": "2Gi"},
    }
    return {
        "cpu": ray,
        "evaluator": {
            **common,
            "backend": "job",
            "image": image("evaluator"),
            "resources": {"cpu": "1", "memory": "1Gi"},
        },
        "queued": {**ray, "queue": "research"},
        "unpullable": {**ray, "image": "registry.invalid/sluice/trainer:none"},
        "old-ray": {**ray, "rayVersion": "2.40.0"},
        # The chart's own, but for the account that the admission policy asks for.
        "a100": {"serviceAccount": WORKER_ACCOUNT},
    }


def values(storage: Storage, **operator: Any) -> dict[str, Any]:
    """Return the chart's values."""
    return {
        "scope": {"namespace": WORKLOAD},
        "operator": {
            "env": storage.plain(),
            "envFrom": [OPERATOR_ACCOUNT],
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
            **operator,
        },
        "admissionPolicy": {"workerServiceAccounts": [WORKER_ACCOUNT]},
        "profiles": profiles(storage),
    }


def run_helm(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """Run Helm. Raises AssertionError with what it said."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": str(kubeconfig)}
    command = [str(helm()), *arguments]
    done = subprocess.run(
        command, text=True, input=stdin, capture_output=True, env=environment, timeout=180, check=False
    )
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def policy() -> dict[str, Any]:
    """Return the bucket's policy: workers own it, the operator reads and moves channels, the agent leaves traces."""
    inside = f"arn:aws:s3:::{BUCKET}"
    rules = (
        # Where a bucket has a policy, the server asks it alone, for the owner too.
        (WORKER_ACCOUNT, ["s3:*"], inside),
        (WORKER_ACCOUNT, ["s3:*"], f"{inside}/*"),
        (OPERATOR_ACCOUNT, ["s3:ListBucket"], inside),
        (OPERATOR_ACCOUNT, ["s3:GetObject"], f"{inside}/*"),
        (OPERATOR_ACCOUNT, ["s3:PutObject"], f"{inside}/*/channels/*"),
        (AGENT_ACCOUNT, ["s3:ListBucket"], inside),
        (AGENT_ACCOUNT, ["s3:GetObject"], f"{inside}/*"),
        (AGENT_ACCOUNT, ["s3:PutObject"], f"{inside}/*/traces/*"),
    )
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": [account]}, "Action": actions, "Resource": [resource]}
            for account, actions, resource in rules
        ],
    }


def prepare(site: Site, storage: Storage) -> None:
    """Make the namespaces, the service accounts, and for each the Secret with its keys of the storage."""
    site.apply(namespace(SYSTEM), namespace(WORKLOAD))
    for account, place in ((OPERATOR_ACCOUNT, SYSTEM), (WORKER_ACCOUNT, WORKLOAD), (AGENT_ACCOUNT, WORKLOAD)):
        site.apply(secret(account, place, storage.keys(account)))
        if place == WORKLOAD:
            metadata = {"name": account, "namespace": place}
            site.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def install(site: Site, storage: Storage, *, chart: Path = CHART, **operator: Any) -> None:
    """Install or upgrade the release, and wait until the operator is ready."""
    text = yaml.safe_dump(values(storage, **operator))
    flags = ("--namespace", SYSTEM, "--values", "-", "--wait", "--timeout", "2m")
    run_helm(site.kubeconfig, "upgrade", "--install", "sluice", str(chart), *flags, stdin=text)

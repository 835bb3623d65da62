"""The cluster of the scenarios: a node on this machine with everything that Sluice stands on.

It is made from nothing and taken down at the end; what an earlier run left under its name goes first, however that run
ended. A cluster that `SLUICE_E2E_NAME` names and that is up is used as it is instead, and stays;
`SLUICE_E2E_KEEP=1` lets a new one stay too. `SLUICE_E2E_PROVIDER=kind` takes Kubernetes in Docker instead of a node.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from installation import (
    AGENT_ACCOUNT,
    BUCKET,
    IMAGES,
    OPERATOR_ACCOUNT,
    WORKER_ACCOUNT,
    Storage,
    policy,
)
from sluice_devcluster.files import write_atomic
from sluice_devcluster.node import s3store
from sluice_devcluster.node.layout import Node
from sluice_devcluster.providers import ProviderName, State, make_provider

ADDONS = ("kuberay", "gateway", "s3")
GIVEN = os.environ.get("SLUICE_E2E_NAME")
"""Name of the cluster that the caller gives, if any."""
NAME = GIVEN or "e2e"
"""Name of the cluster."""


@dataclass(frozen=True, kw_only=True)
class ClusterUnderTest:
    """Where the cluster and what belongs to it are."""

    kubeconfig: Path
    storage: Storage
    gateway: str
    """URL of the gateway's listener, from the machine."""
    logs: Path
    """Folder with the logs of the cluster's own components."""

    def collect(self, folder: Path) -> None:
        """Keep the components' logs below `folder`."""
        if self.logs.is_dir():
            shutil.copytree(self.logs, folder / "components", dirs_exist_ok=True)


@contextmanager
def cluster_under_test() -> Iterator[ClusterUnderTest]:
    """Bring up the cluster with the images on it, and take it down where it was not up before."""
    chosen = ProviderName(os.environ.get("SLUICE_E2E_PROVIDER", ProviderName.NODE))
    provider: Any = make_provider(chosen, addons=ADDONS, install_packages=True)
    given = bool(GIVEN) and provider.status(NAME).state is State.READY
    if not given:
        provider.down(NAME)
    stays = given or bool(os.environ.get("SLUICE_E2E_KEEP"))
    cluster = provider.up(NAME)
    try:
        _load(provider)
        node = provider.node(NAME)
        yield ClusterUnderTest(
            kubeconfig=cluster.kubeconfig,
            storage=_storage(node),
            gateway=f"http://{node.network.address}",
            logs=node.log("kubelet").parent,
        )
    finally:
        if not stays:
            provider.down(NAME)


def _load(provider: Any) -> None:
    """Bring the images to the node that it does not have, or has in another build."""
    marker = provider.node(NAME).folder / "e2e-images.json"
    wanted = (IMAGES / "images.json").read_text(encoding="utf-8")
    listed = json.loads(wanted)
    known = {each["name"]: each["id"] for each in json.loads(marker.read_text())} if marker.exists() else {}
    missing = [IMAGES / each["archive"] for each in listed if known.get(each["name"]) != each["id"]]
    if missing:
        provider.load(NAME, missing)
        write_atomic(marker, wanted.encode())


def _storage(node: Node) -> Storage:
    """The node's S3 server with its accounts and the bucket, which are made where they are not there yet."""
    root = s3store.root_access(node)
    marker = node.folder / "e2e-accounts.json"
    if not marker.exists():
        made = {name: s3store.create_user(node, name) for name in (OPERATOR_ACCOUNT, WORKER_ACCOUNT, AGENT_ACCOUNT)}
        s3store.create_bucket(node, BUCKET, owner=WORKER_ACCOUNT)
        keys = {name: (access.access_key, access.secret_key) for name, access in made.items()}
        write_atomic(marker, json.dumps(keys).encode(), mode=0o600)
    accounts = {name: tuple(pair) for name, pair in json.loads(marker.read_text()).items()}
    accounts["admin"] = (root.access_key, root.secret_key)
    access, secret = accounts["admin"]
    client = boto3.client(
        "s3",
        endpoint_url=root.endpoint_url,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name=s3store.REGION,
    )
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy()))
    return Storage(endpoint=root.endpoint_url, accounts=accounts)

"""Fixtures of a real API server and a real S3 server, shared by every integration test of a session.

``SLUICE_TEST_KUBECONFIG`` names the kubeconfig of a cluster to use instead of an embedded one of the session's own.
"""

import os
import secrets
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

import pytest

from sluice_devcluster.embedded import EmbeddedProvider
from sluice_devcluster.existing import ExistingProvider
from sluice_devcluster.gotools import kubernetes_binaries
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.s3 import S3Server

FIXTURES = frozenset({"cluster", "kubectl", "namespace", "s3_server"})
"""A test that uses one of these is an integration test."""


class Kubectl(Protocol):
    """``kubectl(*arguments, input=None, check=True, timeout_s=60)``; an error raises ProviderError with its text."""

    def __call__(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - the name by which subprocess.run knows it
        check: bool = True,
        timeout_s: float = 60.0,
    ) -> CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A :class:`~sluice_devcluster.Cluster` for the whole session.

    An embedded one is taken down at the end, after Ctrl-C too; when pytest itself is killed, the kernel ends it.
    """
    given = os.environ.get("SLUICE_TEST_KUBECONFIG")
    home = tmp_path_factory.mktemp("clusters")
    name = f"test-{os.getpid()}-{secrets.token_hex(3)}"
    provider = (
        ExistingProvider(kubeconfig=Path(given), home=home) if given else EmbeddedProvider(home=home, tethered=True)
    )
    try:
        yield provider.up(name)
    finally:
        provider.down(name)


@pytest.fixture(scope="session")
def kubectl(cluster) -> Kubectl:
    """Run kubectl as the cluster's administrator."""
    program = kubernetes_binaries() / "kubectl"

    def run(*arguments, input=None, check=True, timeout_s=60.0):  # noqa: A002 - see the protocol
        return run_kubectl(
            cluster.kubeconfig, *arguments, stdin=input, check=check, timeout_s=timeout_s, kubectl=program
        )

    return run


@pytest.fixture
def namespace(kubectl) -> str:
    """A fresh namespace's name; its deletion is asked for at the end and not waited for."""
    name = f"test-{secrets.token_hex(5)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def s3_server():
    """A running :class:`~sluice_devcluster.s3.S3Server`; use a bucket of your own in each test."""
    with S3Server() as server:
        yield server

"""Fixtures of the operator's integration tests."""

import asyncio
import os
from pathlib import Path

import pytest

from operators import install_crds, install_role
from sluice_devcluster.access import service_account_kubeconfig
from sluice_operator.cluster import Cluster


@pytest.fixture(scope="session")
def crds(kubectl) -> None:
    """The five CRDs, installed."""
    install_crds(kubectl)


@pytest.fixture
def role(cluster, kubectl, namespace, crds, tmp_path) -> Path:
    """Kubeconfig of a service account with exactly the operator's rules in the test's namespace."""
    install_role(kubectl, namespace)
    return service_account_kubeconfig(
        cluster.kubeconfig, namespace, "sluice-operator", tmp_path / "operator.kubeconfig"
    )


@pytest.fixture
async def api(role, monkeypatch):
    """A connection with the operator's own rights."""
    monkeypatch.setenv("KUBECONFIG", os.fspath(role))
    connection = await Cluster.connect()
    yield connection
    await connection.close()
    # aiohttp closes TLS connections a moment after it says so.
    await asyncio.sleep(0.05)

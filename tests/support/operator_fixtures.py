"""Fixtures of the operator's integration tests."""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from admin_api import AdminApi
from jobs_api import JobsApi
from manifests_for_tests import VERSION_DIGEST, dataset, furnish
from operators import Operator, Zygote, install_crds, install_role, until, write_profiles
from sluice_devcluster.access import service_account_kubeconfig
from sluice_devcluster.ray import RayHead
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


@pytest.fixture(scope="session")
def ray_head():
    """A real Ray head with token authentication, shared by the session.

    `SLUICE_TEST_RAY_ADDRESS` (with `RAY_AUTH_TOKEN`) names one to use instead.
    """
    given = os.environ.get("SLUICE_TEST_RAY_ADDRESS")
    if given:
        yield GivenHead(given, os.environ.get("RAY_AUTH_TOKEN", ""))
        return
    with RayHead(num_cpus=8) as head:
        yield head


@dataclass(frozen=True)
class GivenHead:
    """A Ray head that somebody else started."""

    url: str
    token: str

    def address(self) -> str:
        return self.url

    def auth_env(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}


@pytest.fixture(scope="session")
def zygote():
    """Forks operators for the session's tests."""
    with Zygote() as process:
        yield process


@dataclass(frozen=True)
class Place:
    """A namespace with the operator's role and profile, an artifact root, and shortcuts to look at it."""

    namespace: str
    kubeconfig: Path
    root: Path
    tally: Path
    kubectl: Any
    head: RayHead | GivenHead | JobsApi
    logs: Path
    zygote: Zygote
    admin: AdminApi

    @property
    def uri(self) -> str:
        return f"file://{self.root}/"

    def profiles(self, **kinds: dict[str, str]) -> None:
        """Write the profile `cpu`, the fast worker on the real Ray, and others like it with these variables."""
        self.write({"cpu": self.profile(), **{name: self.profile(**env) for name, env in kinds.items()}})

    def write(self, profiles: dict) -> None:
        """Write exactly these profiles."""
        write_profiles(self.kubectl, self.namespace, profiles)

    def profile(self, **env: str) -> dict:
        """Return a profile of the fast worker with these variables."""
        return {
            "backend": "ray",
            "address": self.head.address(),
            "entrypoint": f"{sys.executable} -P {Path(__file__).with_name('fast_worker.py')}",
            "maxWorkers": 2,
            "numCpus": 0.1,
            "env": {"FAST_TALLY": str(self.tally), **env},
        }

    def operator(self, name: str = "operator", *, kubeconfig: Path | None = None, env=None, flags=()) -> Operator:
        """Return an operator process, not started."""
        return Operator(
            kubeconfig or self.kubeconfig,
            self.namespace,
            self.logs / f"{name}.log",
            identity=name,
            env={**self.head.auth_env(), **(env or {})},
            flags=flags,
            zygote=self.zygote,
        )

    def apply(self, *manifests: dict) -> None:
        """Apply manifests as a user does."""
        text = yaml.safe_dump_all(manifests)
        self.kubectl("-n", self.namespace, "apply", "--server-side", "-f", "-", input=text)

    def get(self, kind: str, name: str) -> dict | None:
        """Return an object or None."""
        return self.admin.get(self.namespace, kind, name)

    def phase(self, kind: str, name: str) -> str:
        """Return an object's phase, empty where there is none."""
        return ((self.get(kind, name) or {}).get("status") or {}).get("phase", "")

    def wait_phase(self, kind: str, name: str, *phases: str, timeout_s: float = 180.0) -> dict:
        """Wait for one of the phases; return the status."""

        def reached():
            status = (self.get(kind, name) or {}).get("status") or {}
            seen.append((status.get("phase"), status.get("reason"), status.get("message")))
            return status if status.get("phase") in phases else None

        seen: list = []
        try:
            return until(reached, timeout_s=timeout_s, what=f"{kind} {name} in {phases}", every_s=0.1)
        except AssertionError:
            history = [entry for i, entry in enumerate(seen) if i == 0 or seen[i - 1] != entry]
            logs = "\n".join(path.read_text(errors="replace")[-4000:] for path in self.logs.glob("*.log"))
            raise AssertionError(f"{kind} {name} never reached {phases}: {history[-8:]}\n{logs}") from None

    def jobs(self) -> list[str]:
        """Return `kind--name--uid--attempt` of every worker that ever started, once for each start."""
        names = sorted(path.name for path in self.tally.glob("*")) if self.tally.exists() else []
        return [name.rpartition("--")[0] for name in names]

    def patch(self, kind: str, name: str, change: dict, *flags: str) -> None:
        """Merge a change into an object, as a user or (with a subresource) somebody else does."""
        text = json.dumps(change)
        self.kubectl("-n", self.namespace, "patch", kind, name, "--type=merge", "-p", text, *flags)

    def status(self, kind: str, name: str) -> dict:
        """Return an object's status, empty where there is none."""
        return (self.get(kind, name) or {}).get("status") or {}

    def built(self, name: str = "data") -> None:
        """Make a TraceDataset with a version, as if it had been built."""
        self.apply(dataset(self.uri, name, suspend=True))
        version = {
            "digest": VERSION_DIGEST,
            "uri": f"{self.uri}datasets/{VERSION_DIGEST.removeprefix('sha256:')}/",
            "rows": 10,
            "createdAt": "2026-01-01T00:00:00Z",
        }
        status = {"status": {"phase": "Ready", "latest": version, "versions": [version]}}
        self.patch("tracedataset", name, status, "--subresource=status")


@contextmanager
def new_place(cluster, kubectl, head, zygote, folder: Path) -> Iterator[Place]:
    """Make a namespace with the operator's role, the profile `cpu`, a suite and a stable channel."""
    namespace = f"test-{secrets.token_hex(5)}"
    kubectl("create", "namespace", namespace)
    try:
        install_role(kubectl, namespace)
        kubeconfig = folder / "operator.kubeconfig"
        service_account_kubeconfig(cluster.kubeconfig, namespace, "sluice-operator", kubeconfig)
        furnish(folder / "artifacts")
        (folder / "artifacts" / "traces").mkdir()
        (folder / "logs").mkdir()
        root, tally, logs = folder / "artifacts", folder / "tally", folder / "logs"
        admin = AdminApi(cluster.kubeconfig)
        result = Place(namespace, kubeconfig, root, tally, kubectl, head, logs, zygote, admin)
        result.profiles()
        yield result
        admin.close()
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="session")
def jobs_api(zygote, tmp_path_factory) -> Iterator[JobsApi]:
    """A Jobs API with Ray's semantics and none of its weight."""
    with JobsApi(zygote, tmp_path_factory.mktemp("jobs")) as api:
        yield api


@pytest.fixture
def place(cluster, kubectl, crds, jobs_api, zygote, tmp_path) -> Iterator[Place]:
    """A place for one test, its jobs on the small Jobs API."""
    with new_place(cluster, kubectl, jobs_api, zygote, tmp_path) as result:
        yield result


@pytest.fixture(scope="module")
def site(cluster, kubectl, crds, jobs_api, zygote, tmp_path_factory) -> Iterator[Place]:
    """A place for the tests of one module, its jobs on the small Jobs API."""
    with new_place(cluster, kubectl, jobs_api, zygote, tmp_path_factory.mktemp("site")) as result:
        yield result


@pytest.fixture(scope="module")
def stage(cluster, kubectl, crds, ray_head, zygote, tmp_path_factory) -> Iterator[Place]:
    """A place for the tests of one module, its jobs on the real Ray."""
    with new_place(cluster, kubectl, ray_head, zygote, tmp_path_factory.mktemp("stage")) as result:
        yield result

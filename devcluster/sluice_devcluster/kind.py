"""Clusters by kind (Kubernetes in Docker), for machines where Docker runs and pods are wanted."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import locked, write_atomic
from sluice_devcluster.kubeconfig import read_cluster
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.kindnode import has_addons, import_into_kind, kind_node, start_in_kind, stop_in_kind
from sluice_devcluster.node.layout import Node
from sluice_devcluster.providers import (
    Cluster,
    Component,
    ProviderName,
    State,
    Status,
    check_name,
    clusters_home,
    read_record,
    write_record,
)
from sluice_devcluster.reporting import Reporter, default_reporter

_PREFIX = "sluice-"
"""Put before every name, so that no cluster of somebody else's is ever taken for ours."""


class KindProvider:
    """Shells out to ``kind``; the user's own kubeconfig is not touched.

    Args:
        home: folder of all clusters' folders.
        reporter: where progress is told.
        addons: names of what is started beside Kubernetes (:func:`~sluice_devcluster.node.addons.known_addons`), in
            the network of kind's container; needs root.
        install_packages: let ``apt-get`` install what the add-ons need.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        reporter: Reporter | None = None,
        addons: Sequence[str] = (),
        install_packages: bool = False,
    ) -> None:
        self._home = home or clusters_home()
        self._reporter = reporter or default_reporter()
        self._addons, self._install = tuple(addons), install_packages

    def up(self, name: str) -> Cluster:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        folder = self._home / check_name(name)
        with locked(self._home / f".{name}.lock"):
            self._require_docker()
            write_record(folder, ProviderName.KIND)
            kubeconfig = folder / "kubeconfig"
            if _PREFIX + name in self._clusters():
                content = self._kind("get", "kubeconfig", "--name", _PREFIX + name)
                write_atomic(kubeconfig, content.encode())
            else:
                with self._reporter.stage(f"create kind cluster {name}"):
                    self._create(name, kubeconfig)
            version = run_kubectl(kubeconfig, "get", "--raw=/version").stdout
            server = read_cluster(kubeconfig)[1]["server"]
            if self._addons or has_addons(folder):
                start_in_kind(
                    name,
                    folder,
                    _container(name),
                    self._addons,
                    self._reporter,
                    install_packages=self._install,
                )
        return Cluster(
            name=name,
            provider=ProviderName.KIND,
            kubeconfig=kubeconfig,
            server=server,
            version=_git_version(version),
        )

    def status(self, name: str) -> Status:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        folder = self._home / check_name(name)
        if read_record(folder) is None:
            return Status(name=name, provider=ProviderName.KIND, state=State.ABSENT)
        self._require_docker()
        if _PREFIX + name not in self._clusters():
            return Status(name=name, provider=ProviderName.KIND, state=State.STOPPED)
        kubeconfig = folder / "kubeconfig"
        answer = run_kubectl(kubeconfig, "get", "--raw=/readyz", "--request-timeout=20s", check=False)
        healthy = answer.returncode == 0
        detail = "ok" if healthy else answer.stderr.strip()
        return Status(
            name=name,
            provider=ProviderName.KIND,
            state=State.READY if healthy else State.DEGRADED,
            kubeconfig=kubeconfig,
            server=read_cluster(kubeconfig)[1]["server"] if kubeconfig.is_file() else None,
            components=(Component(name="kube-apiserver", healthy=healthy, detail=detail),),
        )

    def down(self, name: str) -> bool:
        """See :class:`~sluice_devcluster.providers.Provider`."""
        folder = self._home / check_name(name)
        with locked(self._home / f".{name}.lock"):
            record = read_record(folder)
            if record is None:
                return False
            if record["provider"] != ProviderName.KIND:
                raise ProviderError(f"cluster {name!r} belongs to the provider {record['provider']!r}")
            self._require_docker()
            with self._reporter.stage(f"delete kind cluster {name}"):
                stop_in_kind(folder)
                self._delete(name, folder / "kubeconfig")
            shutil.rmtree(folder)
        return True

    def load(self, name: str, archives: Sequence[Path]) -> list[str]:
        """Bring image archives into the cluster's container and return the images' names.

        Raises:
            ProviderError: there is no such file.
            ComponentError: there is no such cluster, or its runtime refuses an archive.
        """
        check_name(name)
        self._require_docker()
        images: list[str] = []
        for archive in archives:
            if not archive.is_file():
                raise ProviderError(f"{archive} is not a file: give image archives, as docker save writes them")
            with self._reporter.stage(f"import {archive.name}"):
                images += import_into_kind(_container(name), archive)
        return images

    def node(self, name: str) -> Node:
        """The cluster's container as a node: its files and addresses.

        Raises:
            ProviderError: it does not run.
        """
        return kind_node(name, self._home / check_name(name), _container(name), {})

    def _create(self, name: str, kubeconfig: Path) -> None:
        try:
            self._kind("create", "cluster", "--name", _PREFIX + name, "--kubeconfig", str(kubeconfig), "--wait", "180s")
        except BaseException:
            # kind leaves the container of a cluster that failed.
            self._delete(name, kubeconfig)
            raise

    def _delete(self, name: str, kubeconfig: Path) -> None:
        self._kind("delete", "cluster", "--name", _PREFIX + name, "--kubeconfig", str(kubeconfig))

    def _clusters(self) -> list[str]:
        return self._kind("get", "clusters").split()

    def _require_docker(self) -> None:
        """Raises ProviderError where Docker or kind is missing, or Docker does not run."""
        for program in ("docker", "kind"):
            if shutil.which(program) is None:
                raise ProviderError(f"the provider 'kind' needs {program} on the PATH; 'embedded' needs neither")
        answer = subprocess.run(
            ["docker", "info"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if answer.returncode != 0:
            lines = answer.stderr.strip().splitlines() or ["it says nothing"]
            raise ProviderError(f"Docker does not run ({lines[-1]}): start it, or use --provider embedded")

    def _kind(self, *arguments: str) -> str:
        # kind would add the cluster to the user's own kubeconfig where the variable names it.
        environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        answer = subprocess.run(
            ["kind", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment
        )
        if answer.returncode != 0:
            raise ProviderError(f"kind {' '.join(arguments)} ended with {answer.returncode}: {answer.stderr.strip()}")
        return answer.stdout


def _container(name: str) -> str:
    """The only node of a cluster of kind."""
    return f"{_PREFIX}{name}-control-plane"


def _git_version(text: str) -> str:
    return str(json.loads(text)["gitVersion"])

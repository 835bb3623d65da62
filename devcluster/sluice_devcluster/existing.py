"""A cluster that somebody else runs: it is looked at and never started, changed or stopped."""

import json
import os
import shutil
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.kubeconfig import read_cluster
from sluice_devcluster.kubectl import run_kubectl
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


class ExistingProvider:
    """Names a cluster that is reached by a given kubeconfig.

    Args:
        kubeconfig: the file; by default the one noted by an earlier ``up``, then ``$KUBECONFIG``.
        home: folder of all clusters' folders.
    """

    def __init__(self, *, kubeconfig: Path | None = None, home: Path | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._home = home or clusters_home()

    def up(self, name: str) -> Cluster:
        """Check that the cluster answers, and note its kubeconfig under ``name``."""
        path = self._path(name)
        if path is None:
            raise ProviderError("the provider 'existing' needs a kubeconfig: give --kubeconfig PATH or set KUBECONFIG")
        server = read_cluster(path)[1]["server"]
        version = json.loads(run_kubectl(path, "version", "--output=json", "--request-timeout=20s").stdout)
        if "serverVersion" not in version:
            raise ProviderError(f"{server} of {path} tells no version: is it a Kubernetes API server?")
        write_record(self._home / check_name(name), ProviderName.EXISTING, kubeconfig=str(path))
        return Cluster(
            name=name,
            provider=ProviderName.EXISTING,
            kubeconfig=path,
            server=server,
            version=str(version["serverVersion"]["gitVersion"]),
        )

    def status(self, name: str) -> Status:
        """Ask the API server whether it is ready."""
        path = self._path(name)
        if path is None:
            return Status(name=name, provider=ProviderName.EXISTING, state=State.ABSENT)
        answer = run_kubectl(path, "get", "--raw=/readyz", "--request-timeout=20s", check=False)
        healthy = answer.returncode == 0
        detail = "ok" if healthy else answer.stderr.strip()
        return Status(
            name=name,
            provider=ProviderName.EXISTING,
            state=State.READY if healthy else State.DEGRADED,
            kubeconfig=path,
            server=read_cluster(path)[1]["server"],
            components=(Component(name="kube-apiserver", healthy=healthy, detail=detail),),
        )

    def down(self, name: str) -> bool:
        """Forget the name; the cluster stays as it is."""
        folder = self._home / check_name(name)
        record = read_record(folder)
        if record is None:
            return False
        if record["provider"] != ProviderName.EXISTING:
            raise ProviderError(f"cluster {name!r} belongs to the provider {record['provider']!r}")
        shutil.rmtree(folder)
        return True

    def _path(self, name: str) -> Path | None:
        if self._kubeconfig is not None:
            return self._kubeconfig.absolute()
        record = read_record(self._home / check_name(name))
        if record is not None and "kubeconfig" in record:
            return Path(record["kubeconfig"])
        paths = [Path(word).absolute() for word in os.environ.get("KUBECONFIG", "").split(os.pathsep) if word]
        if len(paths) > 1:
            raise ProviderError("KUBECONFIG names several files: give the one that is meant with --kubeconfig PATH")
        return paths[0] if paths else None

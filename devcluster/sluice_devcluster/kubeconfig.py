"""Kubeconfig files: who one is and where the API server is."""

import base64
from pathlib import Path
from typing import Any

import yaml

from sluice_devcluster.certs import Leaf
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import write_atomic


def kubeconfig(
    *, name: str, server: str, ca: bytes | None, user: str, credential: Leaf | str, namespace: str | None = None
) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context, everything embedded.

    Args:
        name: of the cluster and the context.
        server: URL of the API server.
        ca: PEM of the authority that signed its certificate; None for the system's roots.
        user: name of the user's entry.
        credential: a client certificate, or a bearer token.
        namespace: default namespace of the context.
    """
    if isinstance(credential, str):
        secret: dict[str, str] = {"token": credential}
    else:
        secret = {
            "client-certificate-data": base64.b64encode(credential.certificate).decode(),
            "client-key-data": base64.b64encode(credential.key).decode(),
        }
    context = {"cluster": name, "user": user} | ({"namespace": namespace} if namespace else {})
    cluster = {"server": server}
    if ca is not None:
        cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": user, "user": secret}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }


def write_kubeconfig(path: Path, config: dict[str, Any]) -> None:
    """Write it whole or not at all, readable by the owner alone."""
    write_atomic(path, yaml.safe_dump(config, sort_keys=False).encode(), mode=0o600)


def read_cluster(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and entry of the cluster of the current context.

    Raises:
        ProviderError: the file cannot be read, or its current context leads to no cluster.
    """
    try:
        config = yaml.safe_load(path.read_text())
        current = config["current-context"]
        context = next(entry["context"] for entry in config["contexts"] if entry["name"] == current)
        return context["cluster"], next(e["cluster"] for e in config["clusters"] if e["name"] == context["cluster"])
    except OSError as error:
        raise ProviderError(f"cannot read the kubeconfig: {error}") from error
    except (yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
        raise ProviderError(f"{path}: not a kubeconfig whose current-context names a cluster") from error


def read_ca(path: Path, entry: dict[str, Any]) -> bytes | None:
    """PEM of the authority in a cluster's entry of the kubeconfig ``path``; None where the system's roots are meant.

    Raises:
        ProviderError: it cannot be read.
    """
    try:
        if "certificate-authority-data" in entry:
            return base64.b64decode(entry["certificate-authority-data"], validate=True)
        if "certificate-authority" in entry:
            # Relative paths in a kubeconfig are relative to the file.
            return path.parent.joinpath(str(entry["certificate-authority"])).read_bytes()
    except (OSError, ValueError) as error:
        raise ProviderError(f"{path}: the cluster's certificate authority cannot be read: {error}") from error
    return None

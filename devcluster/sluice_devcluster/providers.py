"""What every kind of cluster has in common: how to bring it up, look at it and take it down."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import state_home, write_atomic

if TYPE_CHECKING:
    from sluice_devcluster.node.layout import Node
    from sluice_devcluster.reporting import Reporter

ADDON_NAMES = ("network-policies", "kuberay", "gateway", "s3", "prometheus", "argocd")
"""What can be started beside Kubernetes where pods run, in the order in which it starts."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
RECORD = "provider.json"
"""File in a cluster's folder that says which provider it belongs to."""


class ProviderName(StrEnum):
    """The providers by the name a user chooses them by."""

    EMBEDDED = "embedded"
    NODE = "node"
    KIND = "kind"
    EXISTING = "existing"


class State(StrEnum):
    """What a cluster is, as a whole."""

    ABSENT = "Absent"
    """Nothing by this name was started, or it was taken down."""
    STOPPED = "Stopped"
    """It was up, and nothing of it runs now: a crash or a reboot."""
    DEGRADED = "Degraded"
    """Something of it runs, but not all of it is healthy."""
    READY = "Ready"
    """Every component answers."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that is up."""

    name: str
    provider: ProviderName
    kubeconfig: Path
    server: str
    """URL of the API server."""
    version: str
    """Kubernetes release, such as ``v1.36.3``."""

    def environment(self) -> dict[str, str]:
        """Variables by which kubectl, Helm and client libraries find the cluster."""
        return {"KUBECONFIG": str(self.kubeconfig)}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a cluster as it is now."""

    name: str
    healthy: bool
    detail: str
    """What was seen: ``ok``, or the reason it is not."""
    pid: int | None = None
    port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """A cluster as it is now."""

    name: str
    provider: ProviderName
    state: State
    kubeconfig: Path | None = None
    server: str | None = None
    components: tuple[Component, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self) | {"kubeconfig": str(self.kubeconfig) if self.kubeconfig else None}


class Provider(Protocol):
    """A way to get a cluster. Every method may be called at any time, also after a crash of an earlier call."""

    def up(self, name: str) -> Cluster:
        """Bring the cluster up; one that is up already is returned as it is.

        Raises:
            DevClusterError: it cannot be brought up; nothing that this call started is left running.
        """

    def status(self, name: str) -> Status:
        """Look at the cluster without changing anything."""

    def down(self, name: str) -> bool:
        """Stop exactly what ``up`` started and forget it; False when there was nothing.

        Raises:
            DevClusterError: something could not be stopped.
        """


@runtime_checkable
class ImageLoader(Protocol):
    """A provider whose clusters run pods, and so need images."""

    def load(self, name: str, archives: Sequence[Path]) -> list[str]:
        """Bring image archives into the cluster and return the images' names.

        Raises:
            DevClusterError: there is no such cluster or file, or the cluster refuses an archive.
        """


@runtime_checkable
class NodeHolder(Protocol):
    """A provider whose clusters have a node that add-ons run on."""

    def node(self, name: str) -> "Node":
        """The cluster's node: its files and addresses.

        Raises:
            DevClusterError: there is no such cluster.
        """


def check_name(name: str) -> str:
    """``name`` when it can name a cluster, and so a folder.

    Raises:
        ProviderError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ProviderError(f"name: {name!r} must be 1 to 40 lower-case letters, digits and inner hyphens")
    return name


def clusters_home() -> Path:
    """The folder that holds one folder a cluster."""
    return state_home() / "clusters"


def write_record(folder: Path, provider: ProviderName, **details: str) -> None:
    """Note in the cluster's folder, created when missing, that it belongs to ``provider``.

    Raises:
        ProviderError: it belongs to another.
    """
    found = read_record(folder)
    if found is not None and found["provider"] != provider:
        raise ProviderError(
            f"a cluster {folder.name!r} of the provider {found['provider']!r} exists: "
            f"take it down first (sluice cluster down --name {folder.name}), or choose another --name"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = {"provider": str(provider), **details}
    write_atomic(folder / RECORD, json.dumps(content, indent=2).encode() + b"\n")


def read_record(folder: Path) -> Mapping[str, str] | None:
    """What :func:`write_record` wrote; None where no cluster is known.

    Raises:
        ProviderError: the file is damaged.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        ProviderName(record["provider"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProviderError(f"{path} cannot be read ({error}): remove the folder if no cluster of it runs") from error
    return {str(key): str(value) for key, value in record.items()}


def provider_of(name: str, home: Path | None = None) -> ProviderName | None:
    """The provider that the cluster ``name`` belongs to; None where no such cluster is known."""
    record = read_record((home or clusters_home()) / check_name(name))
    return None if record is None else ProviderName(record["provider"])


def make_provider(
    provider: ProviderName,
    *,
    kubeconfig: Path | None = None,
    reporter: "Reporter | None" = None,
    home: Path | None = None,
    addons: Sequence[str] = (),
    install_packages: bool = False,
) -> Provider:
    """The provider by that name.

    Args:
        provider: which one.
        kubeconfig: of the cluster that exists; only for :attr:`ProviderName.EXISTING`.
        reporter: where progress is told; by default the terminal or plain lines on standard error.
        home: folder of all clusters' folders; by default :func:`clusters_home`.
        addons: what :meth:`Provider.up` starts beside Kubernetes, of :data:`ADDON_NAMES`; only where pods run.
        install_packages: let the node provider install what the machine lacks.
    """
    # Imported late: each brings libraries that the others' users need not have.
    if provider is ProviderName.EMBEDDED:
        from sluice_devcluster.embedded import EmbeddedProvider

        return EmbeddedProvider(home=home, reporter=reporter)
    if provider is ProviderName.NODE:
        from sluice_devcluster.node.provider import NodeProvider

        return NodeProvider(home=home, reporter=reporter, addons=addons, install_packages=install_packages)
    if provider is ProviderName.KIND:
        from sluice_devcluster.kind import KindProvider

        return KindProvider(home=home, reporter=reporter, addons=addons, install_packages=install_packages)
    from sluice_devcluster.existing import ExistingProvider

    return ExistingProvider(kubeconfig=kubeconfig, home=home)

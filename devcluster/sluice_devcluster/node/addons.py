"""What can be started on a cluster besides Kubernetes itself, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Service
from sluice_devcluster.reporting import Reporter


@dataclass(frozen=True, kw_only=True)
class Addon:
    """Programs of the node and the objects that go with them."""

    name: str
    summary: str
    tools: Callable[[Reporter], Mapping[str, Path]] = field(default=lambda _: {})
    """Builds or finds its programs."""
    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Packages of the distribution that it needs, with the programs by which each is recognised."""
    manifests: Callable[[Node, Reporter], Sequence[str]] = field(default=lambda _node, _reporter: ())
    """Objects, as YAML documents, applied in this order before its services start."""
    services: tuple[Service, ...] = ()
    prepare: Callable[[Node, Sandbox, Reporter], None] = field(default=lambda _node, _sandbox, _reporter: None)
    """What must be there before its objects are applied."""


def known_addons() -> dict[str, Addon]:
    """Every add-on, in the order in which they start."""
    # Imported late: each is a part of this registry.
    from sluice_devcluster.node.argocd import ARGOCD
    from sluice_devcluster.node.gateway import TRAEFIK_GATEWAY
    from sluice_devcluster.node.kuberay import KUBERAY
    from sluice_devcluster.node.networkpolicy import NETWORK_POLICIES
    from sluice_devcluster.node.prometheus import PROMETHEUS
    from sluice_devcluster.node.s3store import S3

    return {addon.name: addon for addon in (NETWORK_POLICIES, KUBERAY, TRAEFIK_GATEWAY, S3, PROMETHEUS, ARGOCD)}


def choose_addons(names: Sequence[str]) -> list[Addon]:
    """The add-ons by those names, in the order in which they start.

    Raises:
        ProviderError: there is none by one of them.
    """
    known = known_addons()
    for name in names:
        if name not in known:
            raise ProviderError(f"--with: there is no add-on {name!r}; choose from {', '.join(known)}")
    return [addon for name, addon in known.items() if name in names]

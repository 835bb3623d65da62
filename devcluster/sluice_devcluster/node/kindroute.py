"""The machine's way to the pods of a cluster of kind, as it has one to the pods of a node of its own.

Docker's bridge leads to kind's container and no further; a route by the container leads on to its pods. It is written
down before it is laid, so that it is taken away again whatever happened in between.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import write_atomic
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.sandbox import find_program, run_command

_RECORD = "pod-route.json"


def run_ip(arguments: Sequence[str]) -> str:
    """Run ``ip`` on the machine and return what it printed.

    Raises:
        ComponentError: it failed, with its words.
    """
    return run_command([find_program("ip"), *arguments])


@dataclass(frozen=True, kw_only=True)
class PodRoute:
    """One route.

    ``network`` is where the pods get their addresses from, ``via`` the container's address.
    """

    network: str
    via: str

    def add_to(self, folder: Path, ip: Callable[[Sequence[str]], str] = run_ip) -> None:
        """Lay it, where it is not there yet, and write it down in the cluster's folder.

        Raises:
            ProviderError: the machine has another route to this network.
            ComponentError: the kernel refuses it.
        """
        remove_route(folder, ip, but=self)
        found = _shown(self.network, ip)
        if found and not self._among(found):
            raise ProviderError(
                f"the machine reaches {self.network}, the pods' network, by another route already ({found}): take the "
                "cluster down that it belongs to (sluice cluster down --name …)"
            )
        if not found:
            content = {"network": self.network, "via": self.via}
            write_atomic(folder / _RECORD, json.dumps(content).encode())
            ip(["route", "add", self.network, "via", self.via])

    def _among(self, shown: str) -> bool:
        return f"via {self.via} " in f"{shown} "


def remove_route(folder: Path, ip: Callable[[Sequence[str]], str] = run_ip, *, but: PodRoute | None = None) -> None:
    """Take the route away that was written down in the cluster's folder, if any, unless it is ``but``.

    Raises:
        ComponentError: the kernel refuses.
    """
    path = folder / _RECORD
    if not path.is_file():
        return
    route = PodRoute(**json.loads(path.read_text()))
    if route == but:
        return
    if route._among(_shown(route.network, ip)):
        ip(["route", "del", route.network, "via", route.via])
    path.unlink()


def pod_network(kubeconfig: Path) -> str:
    """Where the only node of a cluster of kind gives its pods their addresses from.

    Raises:
        ProviderError: the API server does not answer, or the node has no such network yet.
    """
    answer = run_kubectl(kubeconfig, "get", "nodes", "--output=jsonpath={.items[0].spec.podCIDR}")
    network = answer.stdout.strip()
    if not network:
        raise ProviderError("kind's node has no network for pods yet: run sluice cluster up again in a moment")
    return network


def _shown(network: str, ip: Callable[[Sequence[str]], str]) -> str:
    return ip(["route", "show", "exact", network]).strip()

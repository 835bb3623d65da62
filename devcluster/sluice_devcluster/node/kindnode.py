"""The node's add-ons in a cluster of kind: the same programs and objects, in the network of kind's container.

The programs run on the machine, with its files, and only their sockets are in the container's network namespace; so
pods reach them at the container's address, exactly as they reach a node's. They resolve no names of the cluster there.
The machine reaches the pods too, by a route that leads through the container (:mod:`.kindroute`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.node.addons import choose_addons
from sluice_devcluster.node.identities import write_impersonating_kubeconfigs
from sluice_devcluster.node.images import parse_imported
from sluice_devcluster.node.kindroute import PodRoute, pod_network, remove_route
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.network import NodeNetwork
from sluice_devcluster.node.packages import require_packages
from sluice_devcluster.node.runner import NodeRunner
from sluice_devcluster.node.sandbox import find_program, run_command
from sluice_devcluster.node.starting import start_addons
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.processes import find_owned, identify, stop
from sluice_devcluster.reporting import Reporter

ENFORCED_BY_KIND = "network-policies"
"""The add-on that a cluster of kind does not need: its bridge is not this node's, and enforces policies itself."""
_FORMAT = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"


def parse_container(text: str) -> tuple[int, str]:
    """The first process and the address of a container, as ``docker inspect`` prints them.

    Raises:
        ProviderError: it does not run, or has no address.
    """
    pid, *addresses = text.split() or ["0"]
    if pid == "0" or not addresses:
        raise ProviderError("kind's container does not run: sluice cluster down, then up again")
    return int(pid), addresses[0]


def start_in_kind(
    name: str, folder: Path, container: str, addons: Sequence[str], reporter: Reporter, *, install_packages: bool
) -> None:
    """Start add-ons in the cluster of kind whose kubeconfig is ``folder / "kubeconfig"``. Needs root.

    Raises:
        DevClusterError: an add-on is unknown, could not be built, or did not start, or the machine has another route to
            the pods' network.
    """
    state_file = folder / "state.json"
    state = NodeState.read(state_file)
    if ENFORCED_BY_KIND in addons:
        reporter.note(f"{ENFORCED_BY_KIND}: kind's own network enforces them")
    chosen = choose_addons([*state.addons, *(addon for addon in addons if addon != ENFORCED_BY_KIND)])
    packages: dict[str, Sequence[str]] = {"util-linux": ("nsenter",), "iproute2": ("ip",)}
    tools: dict[str, Path] = {}
    for addon in chosen:
        packages.update(addon.packages)
        tools.update(addon.tools(reporter))
    require_packages(reporter, install=install_packages, packages=packages)
    node = kind_node(name, folder, container, tools)
    for made in (node.state, node.configuration, node.control.logs):
        made.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_impersonating_kubeconfigs(node, node.control.kubeconfig)
    runner = NodeRunner(node, state, state_file, reporter)
    runner.record(init=identify(_inspect(container)[0]), complete=True, laid=True)
    start_addons(runner, chosen, reporter)
    PodRoute(network=pod_network(folder / "kubeconfig"), via=node.network.address).add_to(folder)


def _inspect(container: str) -> tuple[int, str]:
    return parse_container(run_command([find_program("docker"), "inspect", f"--format={_FORMAT}", container]))


def has_addons(folder: Path) -> bool:
    """Whether add-ons were started in the cluster of kind in ``folder`` before."""
    return bool(NodeState.read(folder / "state.json").addons)


def kind_node(name: str, folder: Path, container: str, tools: Mapping[str, Path]) -> Node:
    """Kind's container as a node of which only the network is entered.

    Raises:
        ProviderError: it does not run.
    """
    return Node(
        name=name,
        folder=folder.absolute(),
        network=NodeNetwork(index=0, node_address=_inspect(container)[1]),
        binaries=gotools.kubernetes_binaries(),
        tools=tools,
        namespaces=("--net",),
        resolves_names=False,
    )


def import_into_kind(container: str, archive: Path) -> list[str]:
    """Bring an image archive into kind's container and return the images' names.

    Raises:
        ComponentError: the container does not run, or its runtime refuses the archive.
    """
    command = ["exec", "--interactive", container, "ctr", "--namespace=k8s.io", "images", "import", "-"]
    said = run_command([find_program("docker"), *command], stdin=archive.read_bytes(), timeout_s=900)
    return parse_imported(said)


def stop_in_kind(folder: Path) -> None:
    """Stop the add-ons of the cluster of kind in ``folder`` and take the machine's route to its pods away.

    Raises:
        ComponentError: one of them survives SIGKILL, or the kernel keeps the route.
    """
    remove_route(folder)
    stop(find_owned(str(folder.absolute())), patience_s=5.0)

"""Addresses of a node and the commands that lay its network. No IO.

One pair of virtual Ethernet ends joins the machine and the node's own network namespace. The machine reaches the node
and its pods through it; pods reach the node and one another, and nothing beyond: there is no default route, and what a
pod would open towards the machine is refused.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sluice_devcluster.controlplane import SERVICE_NETWORK
from sluice_devcluster.errors import ProviderError

NODE_LINK = "eth0"
"""The pair's end on the node."""
POD_BRIDGE = "cni0"
MAX_NODES = 100
"""Clusters that can have a node at the same time."""

Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NodeNetwork:
    """The addresses of the node with this number, from 0 to :data:`MAX_NODES` - 1."""

    index: int
    node_address: str | None = None
    """The node's address where somebody else laid the network, as kind does."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_NODES:
            raise ValueError(f"index: {self.index} is not between 0 and {MAX_NODES - 1}")

    @property
    def host_link(self) -> str:
        """The pair's end on the machine."""
        return f"sluice{self.index}"

    @property
    def host_address(self) -> str:
        """The machine, as the node sees it."""
        return f"10.98.{self.index}.1"

    @property
    def address(self) -> str:
        """The node, as the machine and its pods see it."""
        return self.node_address or f"10.98.{self.index}.2"

    @property
    def pod_network(self) -> str:
        """Where the node's pods get their addresses from."""
        return f"10.244.{self.index}.0/24"

    def link_commands(self, init_pid: int) -> list[Command]:
        """Run on the machine: lay the pair into the network namespace of the process ``init_pid``."""
        return [
            ("ip", "link", "add", self.host_link, "type", "veth", "peer", "name", NODE_LINK, "netns", str(init_pid)),
            ("ip", "address", "add", f"{self.host_address}/30", "dev", self.host_link),
            ("ip", "link", "set", self.host_link, "up"),
        ]

    def node_commands(self) -> list[Command]:
        """Run on the node: addresses, routes, forwarding, and the refusal of what pods would open to the machine."""
        table = ("inet", "sluice")
        return [
            ("ip", "link", "set", "lo", "up"),
            ("ip", "address", "add", f"{self.address}/30", "dev", NODE_LINK),
            ("ip", "link", "set", NODE_LINK, "up"),
            # A connection to a Service is routed before kube-proxy's rules change its destination, so some route must
            # match; nothing is ever sent along this one.
            ("ip", "route", "add", SERVICE_NETWORK, "via", self.host_address),
            ("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"),
            ("nft", "add", "table", *table),
            ("nft", "add", "chain", *table, "forward", "{ type filter hook forward priority 10 ; }"),
            ("nft", "add", "rule", *table, "forward", "oifname", NODE_LINK, "ct", "state", "new", "reject"),
        ]

    def route_commands(self) -> list[Command]:
        """Run on the machine, after the node has its address: the way to the pods."""
        return [("ip", "route", "add", self.pod_network, "via", self.address, "dev", self.host_link)]


def choose_network(taken: Collection[str], preferred: int | None = None) -> NodeNetwork:
    """The first network whose link is not among the machine's interfaces ``taken``; ``preferred`` when it is free.

    Raises:
        ProviderError: all are taken.
    """
    numbers = [*([] if preferred is None else [preferred]), *range(MAX_NODES)]
    for number in numbers:
        network = NodeNetwork(index=number)
        if network.host_link not in taken:
            return network
    raise ProviderError(f"all {MAX_NODES} node networks are in use: take a cluster down first (sluice cluster down)")

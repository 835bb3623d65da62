"""Where a node's files are and what every part of it knows about the others. No IO."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluice_devcluster.certs import Pki
from sluice_devcluster.controlplane import Layout
from sluice_devcluster.node.network import Command, NodeNetwork

NODE_NAME = "node"
"""The node's name in Kubernetes."""
DNS_IP = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
"""Inside the node, whose ``/run`` is its own."""
CNI_PLUGINS = "/usr/lib/cni"
"""Where Debian's package puts them."""

PORTS: Mapping[str, int] = {
    "etcd": 2379,
    "etcd-peer": 2380,
    "kube-apiserver": 6443,
    "kube-controller-manager": 10257,
    "kube-scheduler": 10259,
    "kubelet": 10248,
    "kube-proxy": 10256,
    "coredns": 8181,
}
"""Where each component is asked for its health. The node's network is its own, so the usual numbers are always free."""

ALL_NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")

MOUNT_POINTS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/containers")
"""Folders whose paths are fixed in the kubelet and the network plugins: on the node, others lie over them."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node: its files, addresses and programs."""

    name: str
    """Of the cluster."""
    folder: Path
    """The cluster's own."""
    network: NodeNetwork
    binaries: Path
    """Folder of the built Kubernetes programs."""
    tools: Mapping[str, Path] = field(default_factory=dict)
    """Other built programs, by name."""
    namespaces: tuple[str, ...] = ALL_NAMESPACES
    """Those of the node that its programs are started in, as nsenter names them."""
    resolves_names: bool = True
    """Whether the node's programs, and not only its pods, ask the cluster's DNS."""

    @property
    def control(self) -> Layout:
        """The control plane's part."""
        return Layout(
            folder=self.folder,
            binaries=self.binaries,
            address=self.network.address,
            bind_address="0.0.0.0",
            pod_network=self.network.pod_network,
        )

    @property
    def pki(self) -> Pki:
        """Certificates and keys."""
        return self.control.pki

    @property
    def server(self) -> str:
        """URL of the API server, from the machine and from pods alike."""
        return f"https://{self.network.address}:{PORTS['kube-apiserver']}"

    @property
    def state(self) -> Path:
        """What the node's programs keep: images, volumes, logs."""
        return self.folder / "node"

    @property
    def configuration(self) -> Path:
        """The node's rendered configuration files and kubeconfigs."""
        return self.state / "etc"

    @property
    def cgroup(self) -> str:
        """Path of the control group that holds all pods, relative to every hierarchy's root."""
        return f"sluice-{self.name}"

    def log(self, component: str) -> Path:
        """A component's log."""
        return self.control.log(component)

    def kubeconfig(self, identity: str) -> Path:
        """By which a component of the node reaches the API server as itself."""
        return self.configuration / f"{identity}.kubeconfig"

    @property
    def resolv_conf(self) -> Path:
        """The cluster's DNS as the only name server."""
        return self.configuration / "resolv.conf"

    def mount_commands(self, resolv_conf: Path) -> list[Command]:
        """Run by the node's first process: its own ``/proc`` and ``/run``, and its folders over the fixed paths.

        Args:
            resolv_conf: where ``/etc/resolv.conf`` really is; the node's own lies over it.
        """
        commands: list[Command] = [
            # Pods may ask for mounts that travel to or from the node; none of them leaves the node's own namespace.
            ("mount", "--make-rshared", "/"),
            ("mount", "-t", "proc", "proc", "/proc"),
            ("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"),
            ("mkdir", "-p", "/run/cni", "/run/lock", "/run/netns"),
        ]
        for target in MOUNT_POINTS:
            commands.append(("mount", "--bind", str(self.over(target)), target))
        if resolv_conf.is_relative_to("/run"):
            # The node's /run is empty, and what a link leads to must be there to be laid over.
            commands += [("mkdir", "-p", str(resolv_conf.parent)), ("touch", str(resolv_conf))]
        commands.append(("mount", "--bind", str(self.resolv_conf), str(resolv_conf)))
        commands.append(("hostname", NODE_NAME))
        return commands

    def over(self, mount_point: str) -> Path:
        """The node's own folder that lies over a fixed path."""
        return self.state / mount_point.strip("/").replace("/", "-")

"""The container runtime."""

import json
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.errors import ComponentError
from sluice_devcluster.node.images import PAUSE_IMAGE, import_archive, pause_archive
from sluice_devcluster.node.layout import CNI_PLUGINS, CONTAINERD_SOCKET, Node
from sluice_devcluster.node.network import POD_BRIDGE
from sluice_devcluster.node.sandbox import Sandbox, find_program
from sluice_devcluster.node.service import Health, Service

_CONFIGURATION = """\
version = 2
root = {root}
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Where the capability to lower a score is missing (CAP_SYS_RESOURCE), no pod could start otherwise.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = {networks}
"""


def containerd_configuration(node: Node) -> str:
    """``config.toml``; JSON's strings are TOML's."""
    return _CONFIGURATION.format(
        root=json.dumps(str(node.state / "containerd")),
        opt=json.dumps(str(node.state / "containerd-opt")),
        networks=json.dumps(str(_networks(node))),
        socket=CONTAINERD_SOCKET,
        pause=PAUSE_IMAGE,
        plugins=CNI_PLUGINS,
    )


def network_configuration(node: Node) -> str:
    """The pods' network for the CNI plugins: a bridge, and ports of the node where a pod asks for them."""
    addresses = {
        "type": "host-local",
        # Forgotten with the node's namespaces, as the addresses themselves are.
        "dataDir": "/run/cni/networks",
        "ranges": [[{"subnet": node.network.pod_network}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": POD_BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [bridge | {"ipam": addresses}, {"type": "portmap", "capabilities": {"portMappings": True}}],
        },
        indent=2,
    )


def _networks(node: Node) -> Path:
    return node.configuration / "cni"


def _health(_: Node, sandbox: Sandbox) -> Health:
    try:
        sandbox.run(("ctr", "--address", CONTAINERD_SOCKET, "version"), timeout_s=10)
    except ComponentError as error:
        return False, str(error).splitlines()[-1]
    return True, "ok"


def _import_pause(_: Node, sandbox: Sandbox) -> None:
    program = gotools.build(gotools.pause_tool()) / "pause"
    import_archive(sandbox, pause_archive(program.read_bytes()))


CONTAINERD = Service(
    name="containerd",
    argv=lambda node: [find_program("containerd"), "--config", node.configuration / "containerd.toml"],
    files=lambda node: {
        node.configuration / "containerd.toml": containerd_configuration(node),
        _networks(node) / "10-pods.conflist": network_configuration(node),
    },
    health=_health,
    after=_import_pause,
)

"""The node's agent."""

from typing import Any

import yaml

from sluice_devcluster.node.layout import CLUSTER_DOMAIN, CONTAINERD_SOCKET, DNS_IP, NODE_NAME, PORTS, Node
from sluice_devcluster.node.service import Service, http_health


def kubelet_configuration(node: Node) -> dict[str, Any]:
    """``KubeletConfiguration``."""
    pki = node.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # Machines with version 1 of the control groups exist; upstream only warns of them from release to release.
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "address": node.network.address,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": PORTS["kubelet"],
        "readOnlyPort": 0,
        "maxOpenFiles": 20000,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.certificate("kubelet")),
        "tlsPrivateKeyFile": str(pki.key("kubelet")),
        "clusterDNS": [DNS_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(node.resolv_conf),
        "podLogsDir": str(node.state / "pod-logs"),
        "volumePluginDir": str(node.state / "volume-plugins"),
        # A developer's disk and memory are rarely as empty as a server's.
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "2%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "2%",
            "imagefs.inodesFree": "1%",
        },
        # Images come by hand and cannot be pulled again, so none is ever collected.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # As the API server's own default, so that a pod's ConfigMaps and Secrets are seen within a second.
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "serializeImagePulls": False,
    }


KUBELET = Service(
    name="kubelet",
    argv=lambda node: [
        node.binaries / "kubelet",
        f"--config={node.configuration / 'kubelet.yaml'}",
        f"--kubeconfig={node.kubeconfig('kubelet')}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={node.network.address}",
        "--root-dir=/var/lib/kubelet",
        f"--cert-dir={node.state / 'kubelet-certificates'}",
    ],
    files=lambda node: {
        node.configuration / "kubelet.yaml": yaml.safe_dump(kubelet_configuration(node), sort_keys=False),
    },
    health=http_health(PORTS["kubelet"], "/healthz"),
    port=PORTS["kubelet"],
)

"""Services on the node."""

from typing import Any

import yaml

from sluice_devcluster.node.layout import NODE_NAME, PORTS, Node
from sluice_devcluster.node.service import Service, http_health


def proxy_configuration(node: Node) -> dict[str, Any]:
    """``KubeProxyConfiguration``."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": node.network.pod_network,
        "clientConnection": {"kubeconfig": str(node.kubeconfig("kube-proxy"))},
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": f"127.0.0.1:{PORTS['kube-proxy']}",
        "metricsBindAddress": "127.0.0.1:10249",
        # Zero leaves the kernel's own limits alone: some of them are the whole machine's.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


KUBE_PROXY = Service(
    name="kube-proxy",
    argv=lambda node: [node.binaries / "kube-proxy", f"--config={node.configuration / 'kube-proxy.yaml'}"],
    files=lambda node: {
        node.configuration / "kube-proxy.yaml": yaml.safe_dump(proxy_configuration(node), sort_keys=False)
    },
    health=http_health(PORTS["kube-proxy"], "/healthz"),
    port=PORTS["kube-proxy"],
)

"""Names of the cluster: CoreDNS on the node, behind the Service that pods ask."""

import json
from typing import Any

from sluice_devcluster.node.layout import CLUSTER_DOMAIN, DNS_IP, PORTS, Node
from sluice_devcluster.node.objects import apply, client_role, node_service
from sluice_devcluster.node.sandbox import Sandbox
from sluice_devcluster.node.service import Service, http_health

_PORT = 53


def corefile(node: Node) -> str:
    """CoreDNS's configuration. It forwards nothing: the node has no way out, and a name that is not the cluster's is
    answered at once."""
    address = node.network.address
    return f"""\
{CLUSTER_DOMAIN}:{_PORT} in-addr.arpa:{_PORT} ip6.arpa:{_PORT} {{
  bind {address}
  errors
  ready 127.0.0.1:{PORTS["coredns"]}
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
    kubeconfig {node.kubeconfig("coredns")}
    ttl 2
  }}
  cache 2
}}
.:{_PORT} {{
  bind {address}
  errors
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def dns_objects(node: Node) -> list[dict[str, Any]]:
    """The Service under its usual name and address, its only endpoint, and what CoreDNS may read."""
    ports = [
        {"name": "dns", "port": _PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": _PORT, "protocol": "TCP"},
    ]
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    service = node_service("kube-dns", "kube-system", node.network.address, ports, cluster_ip=DNS_IP)
    return [*client_role("coredns", rules), *service]


def _apply(node: Node, _: Sandbox) -> None:
    apply(node, json.dumps({"apiVersion": "v1", "kind": "List", "items": dns_objects(node)}))


COREDNS = Service(
    name="coredns",
    argv=lambda node: [node.tools["coredns"], "-conf", node.configuration / "Corefile"],
    files=lambda node: {node.configuration / "Corefile": corefile(node)},
    health=http_health(PORTS["coredns"], "/ready"),
    # It is ready only once it has read the cluster's Services, and may read them only by its role.
    before=_apply,
    port=PORTS["coredns"],
)

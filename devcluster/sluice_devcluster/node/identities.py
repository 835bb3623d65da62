"""Who the programs of a node are to the API server: a certificate and a kubeconfig each."""

from pathlib import Path

import yaml

from sluice_devcluster.certs import Authority, Leaf
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.kubeconfig import kubeconfig, write_kubeconfig
from sluice_devcluster.node.layout import NODE_NAME, Node
from sluice_devcluster.node.objects import USER_PREFIX

PROGRAMS = ("coredns", "network-policies", "kuberay", "traefik", "prometheus", "argocd")
"""Programs with an identity of ours, whose rights are given by their own roles."""
_AGENTS = ("kube-scheduler", "kube-proxy", "kubelet")


def issue_identities(authority: Authority, address: str) -> dict[str, Leaf]:
    """The certificates of the scheduler, the node's agents and :data:`PROGRAMS`, by file name."""
    leaves = {
        "kube-scheduler": authority.issue("system:kube-scheduler"),
        "kube-proxy": authority.issue("system:kube-proxy"),
        "kubelet": authority.issue(
            f"system:node:{NODE_NAME}", organization="system:nodes", names=(NODE_NAME, address), server=True
        ),
    }
    for program in PROGRAMS:
        leaves[program] = authority.issue(f"{USER_PREFIX}{program}")
    return leaves


def write_impersonating_kubeconfigs(node: Node, admin: Path) -> None:
    """Write the programs' kubeconfigs for a cluster whose authority is not ours.

    Each acts as its own identity, by the administrator's right to act as anybody.

    Args:
        node: whose programs they are; its API server is asked at :attr:`~.layout.Node.server`.
        admin: the administrator's kubeconfig.

    Raises:
        ProviderError: ``admin`` is not a kubeconfig with one user.
    """
    content = yaml.safe_load(admin.read_text())
    try:
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    except (KeyError, IndexError, TypeError) as error:
        raise ProviderError(f"{admin}: not a kubeconfig with a cluster and a user") from error
    for program in PROGRAMS:
        entry = {"cluster": {**cluster, "server": node.server}, "name": node.name}
        actor = {"user": {**user, "as": f"{USER_PREFIX}{program}"}, "name": program}
        context = {"context": {"cluster": node.name, "user": program}, "name": node.name}
        write_kubeconfig(
            node.kubeconfig(program),
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [entry],
                "users": [actor],
                "contexts": [context],
                "current-context": node.name,
            },
        )


def has_identities(node: Node) -> bool:
    """Whether every program's certificate is there; a later release of this package may know more programs."""
    return all(node.pki.certificate(name).is_file() for name in (*_AGENTS, *PROGRAMS))


def write_kubeconfigs(node: Node) -> None:
    """Write the administrator's, the controller manager's and every program's kubeconfig."""
    pki, control = node.pki, node.control
    paths = {"admin": control.kubeconfig, "controller-manager": control.controller_manager_kubeconfig}
    paths |= {name: node.kubeconfig(name) for name in (*_AGENTS, *PROGRAMS)}
    for identity, path in paths.items():
        leaf = Leaf(certificate=pki.certificate(identity).read_bytes(), key=pki.key(identity).read_bytes())
        content = kubeconfig(
            name=f"sluice-{node.name}",
            server=node.server,
            ca=pki.certificate("ca").read_bytes(),
            user=f"sluice-{node.name}-{identity}",
            credential=leaf,
        )
        write_kubeconfig(path, content)

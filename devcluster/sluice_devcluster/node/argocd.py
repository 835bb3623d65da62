"""Argo CD's core: the application controller, the repository server and Redis, without its API server and its page."""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.files import write_atomic
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.objects import apply_definitions, bind_user
from sluice_devcluster.node.sandbox import Sandbox, find_program
from sluice_devcluster.node.service import Service, http_health, tcp_health
from sluice_devcluster.reporting import Reporter

NAMESPACE = "argocd"
_REDIS_PORT = 6379
_REPO_PORT = 8081
_REPO_METRICS_PORT = 8094
_CONTROLLER_METRICS_PORT = 8092


def redis_configuration(node: Node, password: str) -> str:
    """``redis.conf``: a cache on the node's loopback that keeps nothing."""
    return f"""\
bind 127.0.0.1
port {_REDIS_PORT}
requirepass {password}
dir {_home(node)}
save ""
appendonly no
"""


def _define(node: Node, _: Sandbox, reporter: Reporter) -> None:
    folder = _home(node)
    for part in ("tls", "ssh", "gnupg", "plugins", "tmp"):
        (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "bin").mkdir(exist_ok=True)
    for script in gotools.argocd_scripts(reporter):
        write_atomic(folder / "bin" / script.name, script.read_bytes(), mode=0o755)
    password = _password_file(node)
    if not password.is_file():
        write_atomic(password, secrets.token_urlsafe(24).encode())
    apply_definitions(node, gotools.argocd_crds(reporter))


def _manifests(_: Node, reporter: Reporter) -> Sequence[str]:
    """Upstream's own settings and role, and the project that its API server would make."""
    project = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "default", "namespace": NAMESPACE},
        "spec": {
            "sourceRepos": ["*"],
            "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    }
    return [
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        gotools.argocd_role(reporter).read_text(),
        json.dumps(bind_user("argocd", "argocd-application-controller")),
        json.dumps(project),
    ]


def _settings(node: Node, _: Sandbox) -> None:
    """Upstream's settings, where there are none yet: those of a user, such as health scripts, stay."""
    for path in gotools.argocd_settings():
        run_kubectl(
            node.control.kubeconfig,
            "create",
            f"--namespace={NAMESPACE}",
            f"--filename={path}",
            check=False,
            kubectl=node.binaries / "kubectl",
        )


def _environment(node: Node) -> Mapping[str, str]:
    home = _home(node)
    tools = (home / "bin", node.tools["argocd"].parent, node.tools["helm"].parent, node.tools["kustomize"].parent)
    path = ":".join([*(str(folder) for folder in tools), "/usr/bin", "/bin"])
    return {
        "PATH": path,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "KUBECONFIG": str(node.kubeconfig("argocd")),
        "REDIS_PASSWORD": _password_file(node).read_text(),
        # The cluster that an Application calls in-cluster is the one of the kubeconfig.
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_TLS_DATA_PATH": str(home / "tls"),
        "ARGOCD_SSH_DATA_PATH": str(home / "ssh"),
        "ARGOCD_GNUPGHOME": str(home / "gnupg"),
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_PLUGINSOCKFILEPATH": str(home / "plugins"),
        "HOSTNAME": "argocd-application-controller-0",
    }


def _home(node: Node) -> Path:
    return node.state / "argocd"


def _password_file(node: Node) -> Path:
    return node.configuration / "redis-password"


def _tools(reporter: Reporter) -> Mapping[str, Path]:
    return {
        "argocd": gotools.build(gotools.argocd_tool(), reporter) / "argocd",
        "helm": gotools.helm(reporter),
        "kustomize": gotools.build(gotools.kustomize_tool(), reporter) / "kustomize",
    }


def _named(node: Node, name: str) -> Path:
    """Argo CD's binary takes the part of the name that it is called by."""
    return node.tools["argocd"].with_name(name)


REDIS = Service(
    name="argocd-redis",
    argv=lambda node: [find_program("redis-server"), node.configuration / "redis.conf"],
    files=lambda node: {node.configuration / "redis.conf": redis_configuration(node, _password_file(node).read_text())},
    health=tcp_health(_REDIS_PORT),
    port=_REDIS_PORT,
)

REPO_SERVER = Service(
    name="argocd-repo-server",
    argv=lambda node: [
        _named(node, "argocd-repo-server"),
        "--address=127.0.0.1",
        f"--port={_REPO_PORT}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={_REPO_METRICS_PORT}",
        f"--redis=127.0.0.1:{_REDIS_PORT}",
        # Both ends are on the node's loopback.
        "--disable-tls",
        "--client-ca-path=",
        "--loglevel=info",
        # A revision that a branch points to is asked for again at every refresh.
        "--revision-cache-expiration=5s",
    ],
    environment=_environment,
    before=_settings,
    health=http_health(_REPO_METRICS_PORT, "/healthz"),
    port=_REPO_PORT,
)

CONTROLLER = Service(
    name="argocd-application-controller",
    argv=lambda node: [
        _named(node, "argocd-application-controller"),
        f"--kubeconfig={node.kubeconfig('argocd')}",
        f"--namespace={NAMESPACE}",
        f"--metrics-port={_CONTROLLER_METRICS_PORT}",
        f"--redis=127.0.0.1:{_REDIS_PORT}",
        f"--repo-server=127.0.0.1:{_REPO_PORT}",
        "--repo-server-plaintext",
        "--app-resync=20",
        # Without Argo CD's API server and page, an Application's status is where its resources' health is read.
        "--persist-resource-health",
        "--self-heal-timeout-seconds=2",
        "--status-processors=4",
        "--operation-processors=2",
    ],
    environment=_environment,
    health=http_health(_CONTROLLER_METRICS_PORT, "/healthz"),
    port=_CONTROLLER_METRICS_PORT,
)

ARGOCD = Addon(
    name="argocd",
    summary="Argo CD core",
    tools=_tools,
    packages={"redis-server": ("redis-server",), "git": ("git",), "gpg": ("gpg",)},
    prepare=_define,
    manifests=_manifests,
    services=(REDIS, REPO_SERVER, CONTROLLER),
)

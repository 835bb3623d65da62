"""An S3 server on the node, reached by pods through a Service and by the machine at the node's address."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster import gotools
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import write_atomic
from sluice_devcluster.node.addons import Addon
from sluice_devcluster.node.layout import CLUSTER_DOMAIN, Node
from sluice_devcluster.node.objects import NAMESPACE, node_service
from sluice_devcluster.node.sandbox import Sandbox, run_command
from sluice_devcluster.node.service import Service, http_health
from sluice_devcluster.reporting import Reporter
from sluice_devcluster.s3 import client_environment

PORT = 9000
REGION = "us-east-1"
_HEALTH = "/healthz"
_ROOT = "s3-root.json"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where the server is and by which keys."""

    endpoint_url: str
    """From the machine and, equally, from pods."""
    service_url: str
    """From pods, by name."""
    access_key: str
    secret_key: str

    def environment(self, *, inside: bool = False) -> dict[str, str]:
        """Variables by which every AWS client finds the server; ``inside`` a pod by the Service's name."""
        url = self.service_url if inside else self.endpoint_url
        return client_environment(url, self.access_key, self.secret_key, REGION)


def root_access(node: Node) -> Access:
    """The keys of the server's owner.

    Raises:
        ProviderError: the add-on was never started on this node.
    """
    try:
        keys = json.loads((node.configuration / _ROOT).read_text())
    except (OSError, ValueError) as error:
        raise ProviderError(f"cluster {node.name} has no S3 server: sluice cluster up --node --with s3") from error
    return _access(node, keys["access_key"], keys["secret_key"])


def create_user(node: Node, name: str) -> Access:
    """A new account with keys of its own, which may do nothing until a bucket is its own or has a policy for it.

    Args:
        node: where the server runs.
        name: becomes the access key, so it must be unique on the server.

    Raises:
        ProviderError: the add-on was never started on this node.
        ComponentError: the name is taken, or the server does not answer.
    """
    access = _access(node, name, secrets.token_urlsafe(30))
    account = (f"--access={access.access_key}", f"--secret={access.secret_key}", "--role=user")
    _admin(node, "create-user", *account, hidden=(access.secret_key,))
    return access


def create_bucket(node: Node, name: str, *, owner: str | None = None) -> None:
    """A new bucket that belongs to the account ``owner``, by default the server's own.

    Raises:
        ProviderError: the add-on was never started on this node.
        ComponentError: the bucket exists, there is no such account, or the server does not answer.
    """
    _admin(node, "create-bucket", f"--bucket={name}", f"--owner={owner or root_access(node).access_key}")


def ensure_bucket(node: Node, name: str) -> None:
    """A bucket of the server's owner, made where there is none by that name yet.

    Raises:
        ProviderError: the add-on was never started on this node.
        ComponentError: the name cannot be a bucket's, or the server does not answer.
    """
    if not (_data(node) / name).is_dir():
        create_bucket(node, name)


def _admin(node: Node, *arguments: str, hidden: Sequence[str] = ()) -> None:
    root = root_access(node)
    environment = {"ADMIN_ACCESS_KEY": root.access_key, "ADMIN_SECRET_KEY": root.secret_key, "ADMIN_REGION": REGION}
    program = gotools.versitygw()
    command = [str(program), "admin", f"--endpoint-url={root.endpoint_url}", *arguments]
    run_command(command, environment=environment, hidden=hidden)


def _access(node: Node, access_key: str, secret_key: str) -> Access:
    return Access(
        endpoint_url=f"http://{node.network.address}:{PORT}",
        service_url=f"http://s3.{NAMESPACE}.svc.{CLUSTER_DOMAIN}:{PORT}",
        access_key=access_key,
        secret_key=secret_key,
    )


def _keys(node: Node, _sandbox: Sandbox, _reporter: Reporter) -> None:
    """Make the owner's keys and the folders, once; they outlive a restart of the node as the data does."""
    for folder in (_data(node), _accounts(node)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = node.configuration / _ROOT
    if not path.is_file():
        keys = {"access_key": f"sluice{secrets.token_hex(7)}", "secret_key": secrets.token_urlsafe(30)}
        write_atomic(path, json.dumps(keys).encode())


def _environment(node: Node) -> Mapping[str, str]:
    # By the environment: what is on the command line, every local user can read.
    root = root_access(node)
    return {"ROOT_ACCESS_KEY": root.access_key, "ROOT_SECRET_KEY": root.secret_key}


def _manifests(node: Node, _: Reporter) -> Sequence[str]:
    ports = [{"name": "http", "port": PORT, "protocol": "TCP"}]
    return [json.dumps(item) for item in node_service("s3", NAMESPACE, node.network.address, ports)]


def _data(node: Node) -> Path:
    return node.state / "s3"


def _accounts(node: Node) -> Path:
    return node.state / "s3-accounts"


SERVER = Service(
    name="s3",
    argv=lambda node: [
        node.tools["versitygw"],
        f"--port={node.network.address}:{PORT}",
        f"--port=127.0.0.1:{PORT}",
        f"--region={REGION}",
        f"--health={_HEALTH}",
        f"--iam-dir={_accounts(node)}",
        "posix",
        _data(node),
    ],
    environment=_environment,
    health=http_health(PORT, _HEALTH),
    port=PORT,
)

S3 = Addon(
    name="s3",
    summary="S3 server",
    tools=lambda reporter: {"versitygw": gotools.versitygw(reporter)},
    prepare=_keys,
    manifests=_manifests,
    services=(SERVER,),
)

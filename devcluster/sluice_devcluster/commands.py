"""``sluice cluster up|load|storage|status|down``.

Standard output carries what another program reads (shell lines, or JSON with ``--json``), standard error what a person
reads. Exit codes: 0 done, or the cluster is ready; 1 it failed, or the cluster is not ready; 2 bad usage.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sluice_devcluster import gotools
from sluice_devcluster.errors import DevClusterError
from sluice_devcluster.kubectl import find_kubectl
from sluice_devcluster.providers import (
    ADDON_NAMES,
    Component,
    ImageLoader,
    NodeHolder,
    Provider,
    ProviderName,
    State,
    check_name,
    make_provider,
    provider_of,
)
from sluice_devcluster.reporting import Reporter, default_reporter

_FAILED = 1
_USAGE = 2


def add_parser(subparsers: Any) -> dict[str, argparse.ArgumentParser]:
    """Add the command and its subcommands; each sets ``handler``. Return their parsers, by name."""
    parsers: dict[str, argparse.ArgumentParser] = {}
    parser = subparsers.add_parser(
        "cluster",
        help="start and stop a real Kubernetes on this machine",
        description="A Kubernetes for development, by default without Docker: etcd, an API server and a controller "
        "manager as processes on loopback, built from source on first use (about five minutes). With --node, a whole "
        "node beside them, on which pods run.",
        epilog='Use it in a shell: eval "$(sluice cluster up)"',
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, handler, text in (
        ("up", _up, "start it, or what is missing of it, and print how to reach it"),
        ("load", _load, "bring image archives (docker save's or OCI tar files) into its node"),
        (
            "storage",
            _storage,
            "print the variables by which clients find its S3 server, a line each, with its owner's keys",
        ),
        ("status", _status, "show its components; exit code 1 unless all of them are healthy"),
        ("down", _down, "stop exactly what was started and remove its data"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("--name", default="dev", type=_name, help="which cluster (default: dev)")
        action.add_argument(
            "--provider",
            type=ProviderName,
            choices=list(ProviderName),
            help="embedded: a control plane as processes of this machine; node: the same with a node for pods; "
            "kind: Kubernetes in Docker; existing: a cluster that runs already (default: what the cluster was started "
            "with, else embedded)",
        )
        action.add_argument("--kubeconfig", type=Path, help="of the cluster that exists; only for --provider existing")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(handler=_guarded(handler))
        parsers[name] = action
    _add_node_options(parsers["up"])
    parsers["storage"].add_argument("--bucket", help="make this bucket, where it is not there yet")
    parsers["load"].add_argument("archives", nargs="+", type=Path, metavar="IMAGE.tar", help="an image archive")
    return parsers


def _add_node_options(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--node",
        action="store_const",
        const=ProviderName.NODE,
        dest="provider",
        help="the same as --provider node: containerd, kubelet, kube-proxy, scheduler and DNS in namespaces of their "
        "own; needs root",
    )
    up.add_argument(
        "--with",
        dest="addons",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="ADDON,...",
        help=f"start these too, on a node or with kind: {', '.join(ADDON_NAMES)}",
    )
    up.add_argument(
        "--install-packages",
        action="store_true",
        help="let apt-get install the packages that a node needs and that are missing",
    )


def _name(text: str) -> str:
    try:
        return check_name(text)
    except DevClusterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _guarded(handler: Callable[[argparse.Namespace, ProviderName, Provider], int]) -> Callable[..., int]:
    """Choose the provider, run the handler, and turn errors into one message and an exit code."""

    def run(arguments: argparse.Namespace) -> int:
        reporter: Reporter = default_reporter()
        try:
            chosen = arguments.provider or provider_of(arguments.name)
            if chosen is None:
                chosen = ProviderName.EXISTING if arguments.kubeconfig else ProviderName.EMBEDDED
            if arguments.kubeconfig is not None and chosen is not ProviderName.EXISTING:
                print(f"sluice cluster: --kubeconfig belongs to --provider existing, not {chosen}", file=sys.stderr)
                return _USAGE
            addons = tuple(getattr(arguments, "addons", ()))
            if addons and chosen not in (ProviderName.NODE, ProviderName.KIND):
                print(f"sluice cluster: --with needs pods: add --node (provider {chosen} has none)", file=sys.stderr)
                return _USAGE
            provider = make_provider(
                chosen,
                kubeconfig=arguments.kubeconfig,
                reporter=reporter,
                addons=addons,
                install_packages=getattr(arguments, "install_packages", False),
            )
            return handler(arguments, chosen, provider)
        except DevClusterError as error:
            print(f"sluice cluster: {error}", file=sys.stderr)
            return _FAILED

    return run


def _up(arguments: argparse.Namespace, chosen: ProviderName, provider: Provider) -> int:
    cluster = provider.up(arguments.name)
    kubectl = find_kubectl()
    # Where pods run, Sluice is installed from its chart.
    helm = gotools.helm() if isinstance(provider, ImageLoader) and shutil.which("helm") is None else None
    if arguments.json:
        _print_json(
            {
                "name": cluster.name,
                "provider": str(chosen),
                "version": cluster.version,
                "server": cluster.server,
                "kubeconfig": str(cluster.kubeconfig),
                "kubectl": str(kubectl),
            }
        )
        return 0
    print(f"cluster {cluster.name} is up: Kubernetes {cluster.version} at {cluster.server}", file=sys.stderr)
    print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
    print(f"export PATH={shlex.quote(str(kubectl.parent))}:$PATH  # kubectl of the same release")
    if helm is not None:
        print(f"export PATH={shlex.quote(str(helm.parent))}:$PATH  # helm")
    print("# then, for example: kubectl get namespaces")
    return 0


def _load(arguments: argparse.Namespace, chosen: ProviderName, provider: Provider) -> int:
    if not isinstance(provider, ImageLoader):
        print(f"sluice cluster: load needs pods: the provider {chosen} has none", file=sys.stderr)
        return _USAGE
    images = provider.load(arguments.name, arguments.archives)
    if arguments.json:
        _print_json({"name": arguments.name, "images": images})
    else:
        print("\n".join(images))
    return 0


def _storage(arguments: argparse.Namespace, chosen: ProviderName, provider: Provider) -> int:
    if not isinstance(provider, NodeHolder):
        print(
            f"sluice cluster: storage needs a node with the add-on s3: the provider {chosen} has none", file=sys.stderr
        )
        return _USAGE
    # Imported late: it brings the node's parts, which the other commands need not have.
    from sluice_devcluster.node import s3store

    node = provider.node(arguments.name)
    access = s3store.root_access(node)
    if arguments.bucket:
        s3store.ensure_bucket(node, arguments.bucket)
    print_variables(access.environment(), as_json=arguments.json)
    return 0


def print_variables(variables: Mapping[str, str], *, as_json: bool) -> None:
    """Print environment variables: a line each, as env files have them, or JSON."""
    if as_json:
        _print_json(variables)
    else:
        print("\n".join(f"{key}={value}" for key, value in variables.items()))


def _status(arguments: argparse.Namespace, _: ProviderName, provider: Provider) -> int:
    status = provider.status(arguments.name)
    if arguments.json:
        _print_json(status.to_dict())
    else:
        print(f"{status.name}  {status.provider}  {status.state}" + (f"  {status.server}" if status.server else ""))
        _print_table(status.components)
        if status.kubeconfig is not None:
            print(f"kubeconfig  {status.kubeconfig}")
    return 0 if status.state is State.READY else _FAILED


def _down(arguments: argparse.Namespace, _: ProviderName, provider: Provider) -> int:
    removed = provider.down(arguments.name)
    if arguments.json:
        _print_json({"name": arguments.name, "removed": removed})
    else:
        print(f"cluster {arguments.name} " + ("is down" if removed else "does not exist"), file=sys.stderr)
    return 0


def _print_table(components: tuple[Component, ...]) -> None:
    if not components:
        return
    rows = [("COMPONENT", "PID", "PORT", "HEALTH")]
    rows += [(c.name, str(c.pid or "-"), str(c.port or "-"), c.detail) for c in components]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]))


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(content, indent=2, default=str))

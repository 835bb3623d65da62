"""`sluice cluster`: the development cluster; without a node, with Sluice and its storage beside it, or `--bare`."""

import argparse
import shlex
import sys
from typing import Any

EXIT_FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Add `sluice cluster up|storage|status|down`, which go beyond the cluster alone."""
    from sluice_devcluster import commands

    actions = commands.add_parser(subparsers)
    actions["up"].add_argument(
        "--bare",
        action="store_true",
        help="Kubernetes alone: no Ray, operator, example data or agent (with a node it always is)",
    )
    for name, wrap in (("up", _up), ("storage", _storage), ("down", _down)):
        actions[name].set_defaults(handler=wrap(actions[name].get_default("handler")))


def _up(cluster_up: Any) -> Any:
    """Return the handler of `up`: the cluster first, then what Sluice needs."""

    def handler(arguments: argparse.Namespace) -> int:
        code = int(cluster_up(arguments))
        if code or arguments.bare:
            return code
        from sluice_devcluster.providers import ProviderName, make_provider, provider_of

        chosen = provider_of(arguments.name) or ProviderName.EMBEDDED
        if chosen in (ProviderName.NODE, ProviderName.KIND):
            # Where pods run, Sluice is installed from its chart, as a cluster's user would.
            return code
        from sluice_artifacts import ArtifactError, open_store
        from sluice_cli.local.example import ExampleError
        from sluice_cli.local.install import InstallError
        from sluice_cli.local.layout import CheckoutNotFound, Layout
        from sluice_cli.local.stack import FIRST_RUNS, Stack, StackError
        from sluice_cli.local.storage import storage_access
        from sluice_devcluster.errors import DevClusterError
        from sluice_devcluster.reporting import default_reporter

        reporter = default_reporter()
        try:
            provider = make_provider(chosen, kubeconfig=arguments.kubeconfig, reporter=reporter)
            layout = Layout.by_name(arguments.name)
            stack = Stack(cluster=provider.up(arguments.name), layout=layout, reporter=reporter)
            stack.up()
            if next(iter(open_store(layout.traces).list(layout.traces)), None) is None:
                with reporter.stage("let the first shoppers come"):
                    stack.fleet(runs=FIRST_RUNS)
        except (ArtifactError, CheckoutNotFound, DevClusterError, ExampleError, InstallError, StackError) as error:
            print(f"sluice cluster: {error}", file=sys.stderr)
            return EXIT_FAILED
        if not arguments.json:
            for variable, value in (storage_access(layout) or {}).items():
                print(f"export {variable}={shlex.quote(value)}")
            print("# try: kubectl apply -f examples/finetunerun.yaml && kubectl get sluice -w")
        return 0

    return handler


def _storage(cluster_storage: Any) -> Any:
    """Return the handler of `storage`: where there is no node, the S3 server is Sluice's own."""

    def handler(arguments: argparse.Namespace) -> int:
        from sluice_cli.local.layout import Layout
        from sluice_cli.local.storage import ensure_bucket, storage_access
        from sluice_devcluster.commands import print_variables
        from sluice_devcluster.errors import DevClusterError

        layout = Layout.by_name(arguments.name)
        access = None if arguments.provider is not None else storage_access(layout)
        if access is None:
            return int(cluster_storage(arguments))
        if arguments.bucket:
            try:
                ensure_bucket(layout, arguments.bucket)
            except DevClusterError as error:
                print(f"sluice cluster: {error}", file=sys.stderr)
                return EXIT_FAILED
        print_variables(access, as_json=arguments.json)
        return 0

    return handler


def _down(cluster_down: Any) -> Any:
    """Return the handler of `down`: what Sluice started first, then the cluster."""

    def handler(arguments: argparse.Namespace) -> int:
        from sluice_cli.local.layout import Layout
        from sluice_cli.local.stack import down

        down(Layout.by_name(arguments.name))
        return int(cluster_down(arguments))

    return handler

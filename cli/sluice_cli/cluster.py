"""`sluice cluster`: the development cluster; without a node, with Sluice beside it unless `--bare` is given."""

import argparse
import sys
from typing import Any

EXIT_FAILED = 1


def add_parser(subparsers: Any) -> None:
    """Add `sluice cluster up|status|down`, which go beyond the cluster alone."""
    from sluice_devcluster import commands

    actions = commands.add_parser(subparsers)
    actions["up"].add_argument(
        "--bare",
        action="store_true",
        help="Kubernetes alone: no Ray, operator, example data or agent (with a node it always is)",
    )
    for name, wrap in (("up", _up), ("down", _down)):
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
        from sluice_cli.local.example import ExampleError
        from sluice_cli.local.install import InstallError
        from sluice_cli.local.layout import CheckoutNotFound, Layout
        from sluice_cli.local.stack import FIRST_RUNS, Stack, StackError
        from sluice_devcluster.errors import DevClusterError
        from sluice_devcluster.reporting import default_reporter

        reporter = default_reporter()
        try:
            provider = make_provider(chosen, kubeconfig=arguments.kubeconfig, reporter=reporter)
            layout = Layout.by_name(arguments.name)
            stack = Stack(cluster=provider.up(arguments.name), layout=layout, reporter=reporter)
            stack.up()
            if not any(layout.traces.rglob("*.json")):
                with reporter.stage("let the first shoppers come"):
                    stack.fleet(runs=FIRST_RUNS)
        except (CheckoutNotFound, DevClusterError, ExampleError, InstallError, StackError) as error:
            print(f"sluice cluster: {error}", file=sys.stderr)
            return EXIT_FAILED
        if not arguments.json:
            print("# try: kubectl apply -f examples/finetunerun.yaml && kubectl get sluice -w")
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

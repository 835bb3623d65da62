"""`sluice operator run`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod learns its own namespace."""
DEFAULT_NAMESPACE = "sluice-system"
"""The operator's namespace outside a pod."""


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `sluice operator`."""
    operator = subparsers.add_parser("operator", help="run the operator")
    commands = operator.add_subparsers(metavar="COMMAND", title="commands", required=True)
    run = commands.add_parser(
        "run",
        help="run the operator until it is stopped",
        description="Runs the operator against the cluster of the pod's service account or of KUBECONFIG.",
    )
    scope = run.add_mutually_exclusive_group(required=True)
    scope.add_argument("--namespace", help="serve this namespace alone")
    scope.add_argument("--all-namespaces", action="store_true", help="serve every namespace")
    run.add_argument(
        "--system-namespace",
        help="namespace of Lease and profiles (default: the pod's own, else --namespace, else sluice-system)",
    )
    run.add_argument("--identity", help="who holds the Lease (default: POD_NAME, else host and process id)")
    run.add_argument("--lease-duration", type=float, default=15.0, metavar="SECONDS", help="default: %(default)s")
    run.add_argument("--metrics-host", default="127.0.0.1", help="address of /healthz and /metrics")
    run.add_argument(
        "--metrics-port", "--port", type=int, default=8080, help="port of /healthz and /metrics; 0: a free one"
    )
    run.add_argument("--workers", type=int, default=16, help="objects reconciled at the same time")
    run.add_argument("--poll", type=float, default=5.0, metavar="SECONDS", help="between two looks at a running job")
    run.add_argument("--retry-backoff", type=float, default=10.0, metavar="SECONDS", help="before the first retry")
    run.add_argument("--stop-grace", type=float, default=20.0, metavar="SECONDS", help="for a job to stop on deletion")
    run.add_argument("--prometheus", default="", metavar="URL", help="base URL that answers the guards of rollouts")
    run.add_argument(
        "--guards-across-namespaces",
        action="store_true",
        help="with --all-namespaces: let every namespace's guards ask all that --prometheus knows",
    )
    run.add_argument(
        "--storage-root",
        action="append",
        default=[],
        metavar="URI",
        help="where the objects of a namespace may read and write, e.g. s3://models/{namespace}/; may be repeated; "
        "default: anywhere; needed with --all-namespaces",
    )
    run.add_argument(
        "--shared-storage-root",
        action="append",
        default=[],
        metavar="URI",
        help="where the objects of every namespace may read besides; may be repeated",
    )
    run.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    run.set_defaults(handler=run_operator)


def system_namespace(arguments: argparse.Namespace) -> str:
    """Return the namespace of the Lease and the profiles."""
    if arguments.system_namespace:
        return str(arguments.system_namespace)
    if NAMESPACE_FILE.exists():
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return str(arguments.namespace or DEFAULT_NAMESPACE)


def run_operator(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT (0), or until the Lease is lost (3). Bad usage, or no cluster: 2."""
    import asyncio
    import logging
    from datetime import timedelta

    from sluice_operator.decisions.base import Settings
    from sluice_operator.errors import ForbiddenError
    from sluice_operator.lease import LeaseConfig, default_identity
    from sluice_operator.startup import Operator, OperatorConfig

    logging.basicConfig(
        level=arguments.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # kopf tells of every event at INFO; its warnings are worth reading.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        config = OperatorConfig(
            lease=LeaseConfig(
                namespace=system_namespace(arguments),
                identity=arguments.identity or default_identity(),
                duration_s=arguments.lease_duration,
            ),
            namespace=None if arguments.all_namespaces else arguments.namespace,
            health_host=arguments.metrics_host,
            health_port=arguments.metrics_port,
            workers=arguments.workers,
            settings=Settings(
                stop_grace=timedelta(seconds=arguments.stop_grace),
                retry_backoff=timedelta(seconds=arguments.retry_backoff),
                poll=timedelta(seconds=arguments.poll),
                prometheus=arguments.prometheus,
                storage_roots=tuple(arguments.storage_root),
                shared_storage_roots=tuple(arguments.shared_storage_root),
            ),
            guards_across_namespaces=arguments.guards_across_namespaces,
        )
    except ValueError as error:
        print(f"sluice operator run: {error}", file=sys.stderr)
        return 2

    async def run() -> int:
        return await Operator(config).run()

    try:
        return asyncio.run(run())
    except ForbiddenError as error:
        print(f"sluice operator run: {error}", file=sys.stderr)
        return 2

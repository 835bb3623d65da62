"""`sluice dashboard`."""

import argparse
import sys
from pathlib import Path
from typing import Any

EXIT_UNJUDGED = 2


def add_parser(subparsers: Any) -> None:
    """Add `sluice dashboard`."""
    parser = subparsers.add_parser(
        "dashboard",
        help="a live page of every lineage",
        description="Serves one read-only page: every lineage from traces to weight, the gates with their intervals, "
        "the e-values over time, and the candidate's share. It has no login: whoever reaches the address sees what the "
        "kubeconfig may read.",
    )
    parser.add_argument("-n", "--namespace", help="namespace (default: the kubeconfig's)")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="every namespace")
    parser.add_argument("--kubeconfig", type=Path, help="kubeconfig (default: KUBECONFIG, else ~/.kube/config)")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=3200, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--port-file", type=Path, help="write the port into this file once the page is served")
    parser.set_defaults(handler=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM (0); no cluster, or an address that is taken: 2."""
    import asyncio

    from sluice_cli.dashboard.source import Source
    from sluice_cli.kube import KubeApi, KubeError

    try:
        api = KubeApi(kubeconfig=arguments.kubeconfig, context=arguments.context)
    except KubeError as error:
        print(f"sluice dashboard: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    namespace = None if arguments.all_namespaces else arguments.namespace or api.namespace
    try:
        asyncio.run(_serve(Source(api, namespace), arguments))
    except OSError as error:
        print(f"sluice dashboard: cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    finally:
        api.close()
    return 0


async def _serve(source: Any, arguments: argparse.Namespace) -> None:
    import asyncio
    import signal

    from aiohttp import web

    from sluice_cli.dashboard.server import application, is_loopback

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(application(source, host=arguments.host), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, arguments.host, arguments.port).start()
        port = int(runner.addresses[0][1])
        if not is_loopback(arguments.host):
            print("sluice dashboard: it has no login, and others can reach this address", file=sys.stderr)
        if arguments.port_file is not None:
            temporary = arguments.port_file.with_suffix(".tmp")
            temporary.write_text(f"{port}\n", encoding="utf-8")
            temporary.replace(arguments.port_file)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(f"sluice dashboard: http://{host}:{port}/", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()

"""`sluice demo [--keep]`."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add `sluice demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="watch the whole loop on this machine",
        description="Starts a Kubernetes API server, Ray, the operator and a small agent, and goes through the whole "
        "loop with a good and a damaged candidate. About ten minutes on two cores.",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument("--name", default="demo", help="name of the cluster (default: demo)")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live picture, even on a terminal")
    parser.set_defaults(handler=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when everything went as it must, 1 when not."""
    from sluice_cli.demo.performance import perform

    return perform(arguments.name, keep=arguments.keep, plain=arguments.plain)

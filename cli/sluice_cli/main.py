"""`sluice`: finds the package that owns a command, imports that one alone, and runs it."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_UNJUDGED = 2
"""Bad usage, bad input or missing evidence."""
EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C, as shells report it."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A top-level command and the module whose `add_parser` defines it."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command(name="cluster", module="sluice_cli.cluster", help="start and stop a real Kubernetes, with Sluice in it"),
    Command(name="operator", module="sluice_operator.commands", help="run the operator"),
    Command(name="trace", module="sluice_traces.commands", help="label, review and convert traces"),
    Command(name="train", module="sluice_cli.training", help="fine-tune a LoRA adapter on rows"),
    Command(
        name="eval", module="sluice_evaluator.commands", help="run a suite against an endpoint; compare two reports"
    ),
    Command(name="shadow", module="sluice_evaluator.commands", help="compare the arms of a rollout"),
    Command(name="scorecard", module="sluice_evaluator.commands", help="judge a candidate by nine gates"),
    Command(name="serve", module="sluice_runtime.commands", help="serve a base model and adapters, OpenAI-compatible"),
    Command(
        name="rollout",
        module="sluice_cli.rollout.commands",
        help="look at a rollout, wait for it, approve, abort or retry it",
    ),
    Command(name="dashboard", module="sluice_cli.dashboard.commands", help="a live page of every lineage"),
    Command(name="worker", module="sluice_cli.worker", help="carry out one job of the operator"),
    Command(name="demo", module="sluice_cli.demo.commands", help="watch the whole loop on this machine"),
)
"""All commands, in the order of the help text."""


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for `argv`: whole for the command that is named, names and help for the others."""
    parser = argparse.ArgumentParser(
        # kubectl finds the program under this name and calls it by it.
        prog="kubectl sluice" if Path(sys.argv[0]).name == "kubectl-sluice" else "sluice",
        description="Traces to better weights, and better weights to traffic, as fast as the evidence permits.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    wanted = next((argument for argument in argv if not argument.startswith("-")), None)
    command = next((command for command in COMMANDS if command.name == wanted), None)
    if command is not None:
        importlib.import_module(command.module).add_parser(subparsers)
    else:
        for each in COMMANDS:
            subparsers.add_parser(each.name, help=each.help, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(arguments)
    parsed = parser.parse_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        print(f"sluice {version('sluice')}")
        return 0
    handler = getattr(parsed, "handler", None)
    if handler is None:
        parser.print_help(sys.stderr)
        return EXIT_UNJUDGED
    try:
        return int(handler(parsed))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the evaluator's commands in this process."""

import argparse

from sluice_evaluator.commands import add_parser


def sluice(*argv: str) -> int:
    """Parse and carry out a command; give its exit code."""
    parser = argparse.ArgumentParser(prog="sluice")
    add_parser(parser.add_subparsers())
    args = parser.parse_args(argv)
    return int(args.handler(args))

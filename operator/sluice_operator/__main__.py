"""`python -m sluice_operator`: the same as `sluice operator`, without the command line's other packages."""

import argparse
import sys

from sluice_operator.commands import add_parser


def main() -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sluice_operator")
    add_parser(parser.add_subparsers(metavar="COMMAND", title="commands", required=True))
    arguments = parser.parse_args(["operator", *sys.argv[1:]])
    return int(arguments.handler(arguments))


if __name__ == "__main__":
    sys.exit(main())

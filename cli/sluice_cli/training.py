"""`sluice train`, with the evaluator for the probes of a run."""

from typing import Any

from sluice_cli.probing import probe


def add_parser(subparsers: Any) -> None:
    """Add `sluice train`."""
    from sluice_trainer import commands

    commands.add_parser(subparsers, prober=probe)

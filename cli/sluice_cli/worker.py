"""`sluice worker <kind>`: the one entry point of every job that the operator starts."""

import argparse
import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sluice_api.contracts.jobs import JOB_INPUT, JOB_INPUT_VARIABLE

WORKERS = {
    "label": "sluice_cli.harness",
    "train": "sluice_trainer.worker",
    "eval": "sluice_evaluator.workers.eval",
    "shadow": "sluice_evaluator.workers.shadow",
    "scorecard": "sluice_evaluator.workers.scorecard",
}
"""Module with `run(job, reporter)` by kind of worker."""

EXIT_UNUSABLE = 2
"""The job input cannot be used: there is no prefix to write a result to."""


def add_parser(subparsers: Any) -> None:
    """Add `sluice worker`."""
    parser = subparsers.add_parser("worker", help="carry out one job of the operator")
    parser.add_argument("kind", choices=sorted(WORKERS), help="kind of worker")
    parser.add_argument("--input", type=Path, help=f"file with the job input; default: variable {JOB_INPUT_VARIABLE}")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the job; 0 when a result was written (of success or failure), 2 when the input cannot be used."""
    text = arguments.input.read_text(encoding="utf-8") if arguments.input else os.environ.get(JOB_INPUT_VARIABLE, "")
    if not text:
        print(f"sluice worker: no job input: give --input or set {JOB_INPUT_VARIABLE}", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        job = JOB_INPUT.validate_json(text)
    except ValidationError as error:
        print(f"sluice worker: job input: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if job.worker != arguments.kind:
        print(f"sluice worker: job input is for worker {job.worker!r}, not {arguments.kind!r}", file=sys.stderr)
        return EXIT_UNUSABLE
    from sluice_artifacts.reporting import run_worker

    function = importlib.import_module(WORKERS[arguments.kind]).run
    if job.worker == "train":
        from sluice_cli.probing import probe

        function = functools.partial(function, prober=probe)
    return run_worker(job, function)

"""What the evaluator's commands share: exit codes, reading, writing, and one line for input that cannot be used."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HOLDS, FAILS, UNJUDGED = 0, 1, 2
"""The check holds, it does not, it could not be judged."""


class InputError(Exception):
    """The command cannot judge: bad usage or bad input; the message says which."""


def guarded(handler: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn input that cannot be used into one line on stderr and exit code 2."""

    def run(args: argparse.Namespace) -> int:
        from sluice_artifacts import ArtifactError
        from sluice_evaluator.errors import EvaluationError

        try:
            return handler(args)
        except (InputError, EvaluationError, ArtifactError, OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return UNJUDGED

    return run


def read(path: str, what: str) -> bytes:
    """Read a file that a flag names.

    Raises:
        InputError: it is not there.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{what} {path} does not exist")
    return file.read_bytes()


def read_object(path: str, what: str) -> dict[str, Any]:
    """Read a JSON object that a flag names.

    Raises:
        InputError: it is not there, or none.
    """
    try:
        document = json.loads(read(path, what))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{what} {path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{what} {path} is not a JSON object")
    return document


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def show(args: argparse.Namespace, document: Mapping[str, Any], text: str) -> None:
    """Write the document where `--output` asks for it, and print it or its summary."""
    if getattr(args, "output", None):
        write_text(args.output, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(document, indent=2, ensure_ascii=False) if args.json else text)


def add_common(parser: argparse.ArgumentParser, *, output_required: bool = False) -> None:
    """Add the flags of every command."""
    parser.add_argument("--output", required=output_required, default="", help="file for the JSON document")
    parser.add_argument("--json", action="store_true", help="print the JSON document instead of a summary")
    parser.add_argument("--strict", action="store_true", help="missing or undecided evidence is not a pass: exit 2")

"""`sluice trace label|review|convert`: the seed's commands, with its flags, JSON and exit codes."""

import argparse
import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EXIT_OK = 0
"""Done."""
EXIT_FAILED = 1
"""The input is missing, or (review) is no trace."""
EXIT_UNJUDGED = 2
"""Bad usage, bad input, or nothing to work with."""
_BAD_SHOWN = 20


def add_parser(subparsers: Any) -> None:
    """Add `sluice trace`."""
    parser = subparsers.add_parser("trace", help="label, review and convert traces")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    _add_label(commands)
    _add_review(commands)
    _add_convert(commands)
    from sluice_traces.corpus_commands import add_parsers

    add_parsers(commands)


def _add_label(commands: Any) -> None:
    parser = commands.add_parser("label", help="judge every step of a trace, or of a folder of traces")
    parser.add_argument("input", type=Path, help="a trace, or a folder <tenant>/<run_id>.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the labelled traces")
    parser.add_argument("--force", action="store_true", help="label again what is up to date")
    parser.add_argument("--strict", action="store_true", help="exit 2 on an empty folder or on any bad file")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_label)


def _add_review(commands: Any) -> None:
    parser = commands.add_parser("review", help="show a trace with its labels; approve or reject it")
    parser.add_argument("path", type=Path, help="a labelled trace; one without labels is labelled for the view")
    parser.add_argument("--set", dest="status", choices=("pending", "approved", "rejected"), help="set review_status")
    parser.add_argument("--screenshots-root", type=Path, help="folder with <tenant>/<run_id>_screens/")
    parser.add_argument("--json", action="store_true", help="print the labelled trace as JSON")
    parser.set_defaults(handler=run_review)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser("convert", help="labelled traces to training rows")
    parser.add_argument("--traces", type=Path, required=True, help="folder of labelled traces, or one")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file for the rows")
    parser.add_argument("--screenshots-root", type=Path, help="folder with <tenant>/<run_id>_screens/")
    parser.add_argument(
        "--keep-labels", default="positive", help="comma-separated; negatives go to files of their own, never to rows"
    )
    parser.add_argument(
        "--require-screenshot",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="drop steps whose screenshot is missing",
    )
    parser.add_argument("--screen-width", type=int, default=1280, help="pixels, for the prompt")
    parser.add_argument("--screen-height", type=int, default=720, help="pixels, for the prompt")
    parser.add_argument(
        "--privacy",
        choices=("redact", "quarantine", "off"),
        default="redact",
        help="what happens to e-mail addresses, numbers of people, secrets (default: a placeholder takes their place)",
    )
    parser.add_argument("--strict", action="store_true", help="exit 2 on any bad file")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_convert)


def run_label(arguments: argparse.Namespace) -> int:
    """Label a trace or a folder. 0: done, also for an empty folder; 1: the input is missing or is no trace."""
    from sluice_traces.label import LabelRun, label_file
    from sluice_traces.local import name_text, trace_files
    from sluice_traces.progress import progress_bar
    from sluice_traces.reader import BadFile, BadFileError

    source, output = arguments.input, arguments.output
    if not source.exists():
        return _fail("label", f"{source}: no such file or folder", EXIT_FAILED)
    folder = source.is_dir()
    if folder and _contains(source, output):
        return _fail("label", f"--output {output}: must lie outside the input, or it would be labelled itself")
    if not folder and (output / source.name).resolve() == source.resolve():
        return _fail("label", f"--output {output}: the labelled trace would take the place of {source}")
    run, total = LabelRun(), 0
    try:
        total = sum(1 for _ in trace_files(source)) if folder else 1
        paths: Iterable[Path] = trace_files(source) if folder else [source]
        with progress_bar("labelling", total) as advance:
            for number, path in enumerate(paths, start=1):
                relative = path.relative_to(source) if folder else Path(path.name)
                target = output / relative
                try:
                    label_file(path, target, str(path), run, force=arguments.force)
                except BadFileError as error:
                    run.bad.append(BadFile(name_text(relative.as_posix()), error.reason, error.detail))
                advance(number)
    except KeyboardInterrupt:
        print(
            f"sluice trace label: stopped after {run.labelled + run.unchanged} of {total} files; "
            "the same command goes on from there",
            file=sys.stderr,
        )
        raise
    except OSError as error:
        return _fail("label", f"{error.filename or output}: {error.strerror}; the same command goes on from there")
    return _label_outcome(arguments, run, total, folder)


def _label_outcome(arguments: argparse.Namespace, run: Any, total: int, folder: bool) -> int:
    from sluice_api.contracts.trace import LabelReason

    done = run.labelled + run.unchanged
    summary = {
        "input": str(arguments.input),
        "output": str(arguments.output),
        "files": total,
        "labelled": run.labelled,
        "unchanged": run.unchanged,
        "skipped": len(run.bad),
        "withdrawn_reviews": run.withdrawn,
        "label_summary": run.labels(),
        "label_reasons": {reason.value: run.reasons[reason] for reason in LabelReason if reason in run.reasons},
        "bad_files": _bad_json(run.bad),
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        labels = "  ".join(f"{name} {count}" for name, count in run.labels().items())
        print(f"{run.labelled} labelled, {run.unchanged} up to date, {len(run.bad)} skipped   {labels}")
    _name_bad(run.bad)
    if run.withdrawn:
        print(
            f"sluice trace label: {run.withdrawn} traces have changed since a person reviewed or corrected them, "
            "and are pending again",
            file=sys.stderr,
        )
    if total == 0:
        print(f"sluice trace label: warning: no trace files in {arguments.input}", file=sys.stderr)
        return EXIT_UNJUDGED if arguments.strict else EXIT_OK
    if done == 0:
        return EXIT_UNJUDGED if folder else EXIT_FAILED
    return EXIT_UNJUDGED if run.bad and arguments.strict else EXIT_OK


def run_review(arguments: argparse.Namespace) -> int:
    """Show a trace, and set its review status where asked. 1: missing, or no trace."""
    from sluice_traces.convert import NO_SCREENS
    from sluice_traces.reader import BadFileError
    from sluice_traces.review import action_line, load, render, set_review_status

    path = arguments.path
    try:
        if arguments.status is not None:
            set_review_status(path, arguments.status)
        document = load(path)
    except BadFileError as error:
        return _fail("review", f"{path}: {error}", EXIT_FAILED)
    except OSError as error:
        return _fail("review", f"{path}: {error.strerror}", EXIT_FAILED)
    screens = NO_SCREENS
    if arguments.screenshots_root is not None:
        screens = _review_screens(arguments.screenshots_root, path, document)
    if arguments.json:
        for step in document["steps"]:
            step["action"] = action_line(step)
            step["screenshot"] = screens.image(step["step_index"]) if isinstance(step.get("step_index"), int) else None
        # A terminal must not be steered by what a page says; a pipe may as well have plain text.
        print(json.dumps(document, indent=2, ensure_ascii=sys.stdout.isatty()))
        return EXIT_OK
    colour = sys.stdout.isatty()
    print(render(document, screens, colour=colour, width=shutil.get_terminal_size((100, 24)).columns), end="")
    return EXIT_OK


def _review_screens(root: Path, path: Path, document: dict[str, Any]) -> Any:
    from sluice_traces.folder import find_screens
    from sluice_traces.records import tenant_folder

    tenant = document.get("tenant_id")
    folders = [path.parent.name, tenant_folder(tenant if isinstance(tenant, str) else None), ""]
    return find_screens(root, [Path(folder) / path.name for folder in folders])


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert labelled traces. 0: rows were written; 1: no labels to keep; 2: bad usage, missing input or no rows."""
    from sluice_api.contracts.trace import Label
    from sluice_traces.convert import ConvertConfig
    from sluice_traces.folder import FolderConverter
    from sluice_traces.local import trace_files
    from sluice_traces.privacy import PrivacyConfig, Redactor
    from sluice_traces.progress import progress_bar

    names = [name.strip() for name in arguments.keep_labels.split(",") if name.strip()]
    if not names:
        return _fail("convert", "--keep-labels names no label", EXIT_FAILED)
    try:
        config = ConvertConfig(
            keep=frozenset(Label(name) for name in names),
            screen_width=arguments.screen_width,
            screen_height=arguments.screen_height,
            require_screenshot=arguments.require_screenshot,
        )
    except ValueError as error:
        return _fail("convert", f"--keep-labels, --screen-width or --screen-height: {error}")
    if not arguments.traces.exists():
        return _fail("convert", f"--traces {arguments.traces}: no such file or folder")
    root = arguments.screenshots_root
    if root is None and arguments.require_screenshot:
        return _fail(
            "convert", "--screenshots-root is needed; a text-only agent is converted with --no-require-screenshot"
        )
    if root is not None and not root.is_dir():
        return _fail("convert", f"--screenshots-root {root}: no such folder")
    if _overwrites_a_trace(arguments.traces, arguments.output):
        return _fail("convert", f"--output {arguments.output}: rows would take the place of a trace")
    redactor = None if arguments.privacy == "off" else Redactor(PrivacyConfig(on_finding=arguments.privacy))
    try:
        total = sum(1 for _ in trace_files(arguments.traces)) if arguments.traces.is_dir() else 1
        with progress_bar("converting", total) as advance:
            run = FolderConverter(config, root, redactor).convert(arguments.traces, arguments.output, advance)
    except OSError as error:
        where = error.filename or f"--output {arguments.output}, or the temporary folder {tempfile.gettempdir()}"
        return _fail("convert", f"{where}: {error.strerror}")
    except sqlite3.OperationalError as error:
        return _fail("convert", f"the temporary folder {tempfile.gettempdir()}: {error}: free space, or set TMPDIR")
    return _convert_outcome(arguments, run)


def _convert_outcome(arguments: argparse.Namespace, run: Any) -> int:
    drops = {reason: count for reason, count in run.tally.drops().items() if count}
    summary = {
        "traces": run.traces,
        "skipped": dict(sorted(run.skipped.items())),
        "rows": run.rows,
        "rejected_rows": run.rejected_rows,
        "preference_rows": run.preference_rows,
        "outputs": [str(path) for path in run.outputs],
        "labels": run.tally.labels(),
        "label_reasons": run.tally.label_reasons(),
        "dropped": drops,
        "bad_screens": dict(sorted(run.bad_screens.items())),
        "redactions": dict(sorted(run.redactions.items())),
        "bad_files": _bad_json(run.bad),
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        extra = f", {run.rejected_rows} rejected, {run.preference_rows} pairs" if len(run.outputs) > 1 else ""
        dropped = "".join(f"   {reason} {count}" for reason, count in drops.items())
        hidden = f", {run.redactions.total()} private texts found" if run.redactions else ""
        left = "".join(f", {count} left out ({reason})" for reason, count in sorted(run.skipped.items()))
        screens = f", {run.bad_screens.total()} screenshots cannot be used" if run.bad_screens else ""
        print(
            f"{run.rows} rows{extra} from {run.traces} traces, {len(run.bad)} skipped{left}{screens}{hidden}{dropped}"
        )
    _name_bad(run.bad)
    if run.rows + run.rejected_rows + run.preference_rows == 0:
        print("sluice trace convert: no step became a row", file=sys.stderr)
        return EXIT_UNJUDGED
    return EXIT_UNJUDGED if run.bad and arguments.strict else EXIT_OK


def _contains(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _overwrites_a_trace(traces: Path, output: Path) -> bool:
    from sluice_traces.reader import is_trace_name

    if not traces.is_dir():
        return output.resolve() == traces.resolve()
    return _contains(traces, output) and is_trace_name(output.name)


def _bad_json(bad: Iterable[Any]) -> list[dict[str, str]]:
    return [{"path": file.path, "reason": file.reason.value, "detail": file.detail} for file in bad]


def _name_bad(bad: list[Any]) -> None:
    from sluice_traces.local import harmless

    for file in bad[:_BAD_SHOWN]:
        print(f"skipped {harmless(file)}", file=sys.stderr)
    if len(bad) > _BAD_SHOWN:
        print(f"skipped {len(bad) - _BAD_SHOWN} more files; --json names all", file=sys.stderr)


def _fail(command: str, message: str, code: int = EXIT_UNJUDGED) -> int:
    from sluice_traces.local import harmless

    print(f"sluice trace {command}: {harmless(message)}", file=sys.stderr)
    return code

"""`sluice trace critic|mix|dedup|forget`: commands on rows and datasets rather than on traces."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

EXIT_OK = 0
"""Done."""
EXIT_FAILED = 1
"""Done, and something is left to do."""
EXIT_UNJUDGED = 2
"""Bad usage, bad input, or nothing was kept."""


def add_parsers(commands: Any) -> None:
    """Add the commands to `sluice trace`."""
    parser = commands.add_parser("critic", help="judge generated answers by seven labels and keep what can be learnt")
    parser.add_argument("--input", type=Path, required=True, help="JSONL of candidates")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file for the accepted rows")
    parser.add_argument("--labels", type=Path, help="JSONL file for the labels and reasons of every candidate")
    parser.add_argument(
        "--run-tests",
        action="store_true",
        help="run the candidates' Python tests on this machine, in limited processes; they can reach the network",
    )
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the tests of one candidate")
    parser.add_argument(
        "--privacy",
        choices=("redact", "quarantine", "off"),
        default="redact",
        help="what happens to private text in accepted rows (default: a placeholder takes its place)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_critic)
    _add_mix(commands)


def _add_mix(commands: Any) -> None:
    parser = commands.add_parser("mix", help="mix buckets of rows by weight, with a plan that can be checked")
    parser.add_argument("--config", type=Path, required=True, help="YAML: rows, maxRepeats, seed, tagWeights, buckets")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file for the mixture")
    parser.add_argument("--plan", type=Path, required=True, help="file for the plan")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_mix)
    _add_dedup(commands)


def _add_dedup(commands: Any) -> None:
    parser = commands.add_parser("dedup", help="remove exact and near duplicates, and rows that leak a suite's tasks")
    parser.add_argument("--input", type=Path, required=True, help="JSONL of rows")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file for the rows that stay")
    parser.add_argument("--threshold", type=float, default=0.8, help="Jaccard similarity of near duplicates")
    parser.add_argument("--shingle-words", type=int, default=3, help="words a shingle, 1 to 5")
    parser.add_argument("--exact-only", action="store_true", help="leave near duplicates in")
    parser.add_argument(
        "--against", type=Path, action="append", default=[], help="suite (JSON) whose tasks must not be in the rows"
    )
    parser.add_argument("--leak-threshold", type=float, default=0.8, help="share of a task in a row that makes a leak")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(handler=run_dedup)
    _add_forget(commands)


def _add_forget(commands: Any) -> None:
    parser = commands.add_parser("forget", help="remove a run or a tenant from datasets for good; name affected models")
    parser.add_argument("--tenant", help="tenant of the run, or whose runs are all forgotten; '' for shared runs")
    parser.add_argument("--run", help="the run; without it all runs of the tenant are forgotten")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        help="prefix of a dataset's versions, its spec.output.uri (repeatable)",
    )
    parser.add_argument(
        "--datasets", action="append", default=[], help="prefix below which all datasets are looked for (repeatable)"
    )
    parser.add_argument("--models", action="append", default=[], help="prefix below which adapters lie (repeatable)")
    parser.add_argument("--purge", action="store_true", help="delete the versions that held its rows")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(handler=run_forget)

    _add_correct(commands)


def _add_correct(commands: Any) -> None:
    parser = commands.add_parser(
        "correct", help="say what a step should have answered: the edit becomes the preferred side of a pair"
    )
    parser.add_argument("path", type=Path, help="a trace, as exported or labelled")
    parser.add_argument("--step", type=int, required=True, help="index of the step")
    parser.add_argument("--action", required=True, help="the action in the grammar of answers, e.g. 'click(10, 20)'")
    parser.add_argument("--outcome", default="", help="what the action is expected to do")
    parser.add_argument("--by", required=True, help="who says so: a name or a role, no e-mail address")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(handler=run_correct)


def run_critic(arguments: argparse.Namespace) -> int:
    """Judge candidates. 0: some were accepted; 2: none was, or the input cannot be read."""
    from sluice_traces.convert import PrivateTextError
    from sluice_traces.critic import CandidateError, Critic, IsolatedRunner, normalise, scrubbed
    from sluice_traces.critic.judge import accepted_row
    from sluice_traces.local import write_atomically
    from sluice_traces.privacy import PrivacyConfig, Redactor

    try:
        lines = arguments.input.read_bytes().splitlines()
        runner = IsolatedRunner(timeout_s=arguments.timeout) if arguments.run_tests else None
    except OSError as error:
        print(f"sluice trace critic: {arguments.input}: {error.strerror}", file=sys.stderr)
        return EXIT_UNJUDGED
    except ValueError as error:
        print(f"sluice trace critic: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    redactor = None if arguments.privacy == "off" else Redactor(PrivacyConfig(on_finding=arguments.privacy))
    critic, kept, labels = Critic(runner), [], []
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            candidate = normalise(line, number)
        except CandidateError as error:
            counts["not_normalisable"] += 1
            print(f"skipped line {number}: {error}", file=sys.stderr)
            continue
        judgement = critic.judge(candidate)
        if redactor is not None:
            try:
                candidate = scrubbed(candidate, redactor.run().scrub)
            except PrivateTextError:
                counts["private"] += 1
                continue
        if judgement.labels.accepted:
            counts["accepted"] += 1
            kept.append(accepted_row(candidate))
        counts.update(reason.value for reason in judgement.reasons)
        said = {"id": candidate.id, **judgement.labels.as_dict(), "reasons": [r.value for r in judgement.reasons]}
        labels.append(json.dumps(said).encode())
    try:
        write_atomically(arguments.output, b"".join(row + b"\n" for row in kept))
        if arguments.labels is not None:
            write_atomically(arguments.labels, b"".join(row + b"\n" for row in labels))
    except OSError as error:
        print(f"sluice trace critic: {error.filename or arguments.output}: {error.strerror}", file=sys.stderr)
        return EXIT_UNJUDGED
    summary = {
        "candidates": len(labels) + counts["not_normalisable"] + counts["private"],
        **dict(sorted(counts.items())),
    }
    print(json.dumps(summary, indent=2) if arguments.json else "   ".join(f"{k} {v}" for k, v in summary.items()))
    return EXIT_OK if kept else EXIT_UNJUDGED


def run_mix(arguments: argparse.Namespace) -> int:
    """Mix buckets. 0: the mixture is written; 2: it cannot be made."""
    from sluice_traces.local import write_atomically, write_lines
    from sluice_traces.mixture import MixtureError, plan_mixture, read_mixture_file, read_rows, write_mixture

    try:
        config, paths = read_mixture_file(arguments.config)
        infos, places = {}, []
        for bucket, path in zip(config.buckets, paths, strict=True):
            rows = list(read_rows(path))
            infos[bucket.name] = [info for info, _, _ in rows]
            places.append((path, [(offset, length) for _, offset, length in rows]))
        plan = plan_mixture(config, infos)
        write_lines(arguments.output, write_mixture(plan, places))
        write_atomically(arguments.plan, plan.encode())
    except MixtureError as error:
        print(f"sluice trace mix: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    except OSError as error:
        print(f"sluice trace mix: {error.filename or arguments.output}: {error.strerror}", file=sys.stderr)
        return EXIT_UNJUDGED
    buckets = {
        each.name: {"quota": each.quota, "rows": each.rows, "used_rows": each.used_rows} for each in plan.buckets
    }
    if arguments.json:
        print(json.dumps({"plan": plan.digest(), "rows": len(plan.order), "buckets": buckets}, indent=2))
    else:
        for name, counts in buckets.items():
            print(f"{name:<24} {counts['quota']:>8} rows from {counts['used_rows']} of {counts['rows']}")
        print(f"plan {plan.digest()}")
    return EXIT_OK


def run_dedup(arguments: argparse.Namespace) -> int:
    """Remove duplicates and leaks. 0: rows are left; 2: none is, or the input cannot be read."""
    from sluice_traces.dedup import Deduplicator, DuplicateKind, LeakIndex, NearConfig
    from sluice_traces.local import write_lines

    try:
        config = NearConfig(threshold=arguments.threshold, shingle_words=arguments.shingle_words)
        rows, texts = _rows_and_texts(arguments.input)
        tasks = [text for path in arguments.against for text in _suite_texts(path)]
        leaks = LeakIndex(tasks, shingle_words=arguments.shingle_words, threshold=arguments.leak_threshold).leaks(texts)
        duplicates = Deduplicator(config, near=not arguments.exact_only).find(texts)
        kept = [row for index, row in enumerate(rows) if index not in duplicates and not leaks[index]]
        write_lines(arguments.output, (row + b"\n" for row in kept))
    except ValueError as error:
        print(f"sluice trace dedup: {error}", file=sys.stderr)
        return EXIT_UNJUDGED
    except OSError as error:
        print(f"sluice trace dedup: {error.filename or arguments.output}: {error.strerror}", file=sys.stderr)
        return EXIT_UNJUDGED
    kinds = Counter(kind for index, (kind, _) in duplicates.items() if not leaks[index])
    summary = {"rows": len(rows), "kept": len(kept), "leaks": sum(leaks)}
    summary |= {kind.value: kinds[kind] for kind in DuplicateKind}
    print(json.dumps(summary, indent=2) if arguments.json else "   ".join(f"{k} {v}" for k, v in summary.items()))
    return EXIT_OK if kept else EXIT_UNJUDGED


def _rows_and_texts(path: Path) -> tuple[list[bytes], list[str]]:
    """The rows of a file and what is said in them.

    Raises:
        ValueError: a line is no row; names file and line.
        OSError: the file cannot be read.
    """
    from sluice_traces.dedup.texts import row_text

    rows, texts = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            row = line.strip()
            if not row:
                continue
            try:
                text = row_text(row)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} {error}") from None
            if not text.strip():
                # Rows without a text would all count as one another's duplicates.
                raise ValueError(f"{path}: line {number} is no row: it has neither conversations nor prompt nor answer")
            rows.append(row)
            texts.append(text)
    return rows, texts


def _suite_texts(path: Path) -> list[str]:
    """Texts of the tasks of a suite's file.

    Raises:
        ValueError: it is no suite, or has no tasks; names the file.
        OSError: it cannot be read.
    """
    from sluice_traces.dedup.texts import task_texts

    try:
        tasks = task_texts(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--against {path}: {error}") from None
    if not tasks:
        raise ValueError(f"--against {path}: the suite has no tasks: nothing could be kept out")
    return tasks


def run_forget(arguments: argparse.Namespace) -> int:
    """Forget a run or a tenant. 0: done; 1: a dataset would have no rows left; 2: bad usage, a prefix without
    versions, or the storage failed.
    """
    from dataclasses import asdict
    from datetime import UTC, datetime

    from sluice_artifacts import ArtifactError
    from sluice_traces.forget import find_datasets, forget
    from sluice_traces.tombstones import Forgotten

    if arguments.tenant is None:
        print("sluice trace forget: --tenant is needed: run ids are only unique within a tenant", file=sys.stderr)
        return EXIT_UNJUDGED
    at = datetime.now(UTC).isoformat(timespec="seconds")
    asked = Forgotten(tenant_id=arguments.tenant, run_id=arguments.run, at=at)
    reports = {}
    try:
        found = [uri for prefix in arguments.datasets for uri in find_datasets(prefix)]
        if not arguments.dataset and not found:
            print("sluice trace forget: no datasets: give --dataset, or --datasets with some below it", file=sys.stderr)
            return EXIT_UNJUDGED
        for uri in dict.fromkeys([*arguments.dataset, *found]):
            reports[uri] = forget(uri, [asked], arguments.models, purge=arguments.purge)
    except (ArtifactError, ValueError) as error:
        print(f"sluice trace forget: {error}; the same command goes on from here", file=sys.stderr)
        return EXIT_UNJUDGED
    if arguments.json:
        print(json.dumps({uri: asdict(report) for uri, report in reports.items()}, indent=2))
    else:
        for uri, report in reports.items():
            print(f"{uri}: {len(report.affected)} versions held it, {report.removed_rows} rows removed")
            for old, new in report.rebuilt.items():
                print(f"  {old} is now {new}")
            for digest in report.emptied:
                print(f"  {digest} would have no rows left: build a new version from other traces")
            for digest in report.purged:
                print(f"  {digest} deleted")
            for model in report.models:
                how = "continues a model trained on it" if model.inherited else "was trained on it"
                print(f"  {model.uri} {how}: train it again")
    if empty := [uri for uri, report in reports.items() if report.versions == 0]:
        print(f"sluice trace forget: no versions lie under {', '.join(empty)}: check the prefix", file=sys.stderr)
        return EXIT_UNJUDGED
    return EXIT_FAILED if any(report.emptied for report in reports.values()) else EXIT_OK


def run_correct(arguments: argparse.Namespace) -> int:
    """Note a person's edit in a trace. 0: it is written; 2: there is no such step, or the action is none."""
    from datetime import UTC, datetime

    from sluice_api.actions import parse_action
    from sluice_traces.local import harmless
    from sluice_traces.reader import BadFileError
    from sluice_traces.review import set_human_edit

    def refuse(problem: str) -> int:
        print(f"sluice trace correct: {problem}", file=sys.stderr)
        return EXIT_UNJUDGED

    action = parse_action(arguments.action)
    if action is None or "\n" in arguments.action.strip():
        return refuse(f"--action {arguments.action!r} is no action: write it as answers do, e.g. click(10, 20)")
    edit = {
        "last_action": {"action_type": str(action.action_type), "params": dict(action.params)},
        "predicted_outcome": arguments.outcome,
        "edited_by": arguments.by,
        "edited_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    path = harmless(arguments.path)
    try:
        set_human_edit(arguments.path, arguments.step, edit)
    except BadFileError as error:
        return refuse(f"{path}: {error}")
    except UnicodeEncodeError:
        return refuse("--action, --outcome or --by is not UTF-8")
    except OSError as error:
        return refuse(f"{path}: {error.strerror}")
    print(json.dumps(edit, indent=2) if arguments.json else f"{path}: step {arguments.step} is corrected")
    return EXIT_OK

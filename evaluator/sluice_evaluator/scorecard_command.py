"""`sluice scorecard`: nine gates, and what a comparison with the champion shows at what is left of the error budget."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluice_evaluator.command_line import (
    FAILS,
    HOLDS,
    UNJUDGED,
    InputError,
    add_common,
    guarded,
    read_object,
    show,
    write_text,
)

if TYPE_CHECKING:
    from sluice_api.contracts.scorecard import Scorecard
    from sluice_evaluator.scorecard import Evidence


def _parse_metrics(entries: list[str]) -> dict[str, float] | str:
    """Parse `NAME=VALUE` entries, or say what is wrong with one."""
    metrics: dict[str, float] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals:
            return f"--metric must be NAME=VALUE, got {entry!r}"
        try:
            metrics[name.strip()] = float(value)
        except ValueError:
            return f"--metric {name.strip()}: not a number: {value!r}"
    return metrics


def _parse_thresholds(text: str) -> dict[str, float]:
    """Parse gate to threshold: a JSON object, or a file that holds one.

    Raises:
        InputError: it is neither, or a threshold is no number.
    """
    if not text:
        return {}
    if text.lstrip().startswith("{"):
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"--thresholds is not JSON: {error}") from error
    else:
        document = read_object(text, "--thresholds")
    for name, value in document.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"--thresholds: {name} must be a number, got {json.dumps(value)}")
    return {name: float(value) for name, value in document.items()}


def _evidence(args: argparse.Namespace) -> "Evidence":
    """Read what the flags name.

    Raises:
        InputError: it is not there, or not what it should be.
    """
    from dataclasses import replace

    from pydantic import ValidationError

    from sluice_api.contracts.evaluation import CompareReport
    from sluice_evaluator.scorecard.documents import evidence_from

    found = evidence_from(
        eval_report=read_object(args.eval_report, "--eval-report") if args.eval_report else None,
        shadow_summary=read_object(args.shadow_summary, "--shadow-summary") if args.shadow_summary else None,
        labelled_traces_dir=Path(args.labelled_traces).expanduser() if args.labelled_traces else None,
    )
    if args.eval_report and found.eval_report is None:
        raise InputError(f"--eval-report {args.eval_report} is not an evaluation report: it has no `pass_rate`")
    if not args.comparison:
        return found
    try:
        report = CompareReport.model_validate(read_object(args.comparison, "--comparison"))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"--comparison {args.comparison}: {where}: {first['msg']}") from error
    return replace(found, compare_report=report)


def _judge(
    args: argparse.Namespace, evidence: "Evidence", metrics: Mapping[str, float], now: datetime, history: bytes
) -> "Scorecard":
    """Judge, the comparison at what the history leaves of its budget where there is a history."""
    from sluice_api.contracts.scorecard import Tier
    from sluice_api.instants import format_instant
    from sluice_artifacts import canonical_json, digest_bytes
    from sluice_evaluator.scorecard import Measurement, judge_evidence, with_overrides
    from sluice_evaluator.scorecard.budget import COMPARISON_KEY, charge, metadata_of, record_of
    from sluice_evaluator.scorecard.card import OVERRIDE, ComparisonTerms

    report, record, digest = evidence.compare_report, None, ""
    if report is not None and args.history and args.candidate_digest in ("", report.candidate_digest):
        digest = digest_bytes(canonical_json(report))
        found = charge(history, champion=report.baseline_digest, report=digest, alpha=args.alpha)
        record = record_of(report, found, args.alpha)
    better = args.require_comparison == "Better"
    scorecard = judge_evidence(
        evidence,
        tier=args.tier,
        thresholds=with_overrides(Tier(args.tier), _parse_thresholds(args.thresholds)),
        overrides={name: Measurement(value=value, source=f"{OVERRIDE}--metric") for name, value in metrics.items()},
        required_gates=args.require,
        candidate_digest=args.candidate_digest,
        judged_only=args.strict,
        evaluated_at=format_instant(now, "milliseconds"),
        terms=ComparisonTerms(better=better, needed=better, level=record.level if record is not None else None),
    )
    if record is None or report is None:
        return scorecard
    charged = metadata_of(record, champion=report.baseline_digest, report=digest)
    return scorecard.model_copy(update={"metadata": {**scorecard.metadata, COMPARISON_KEY: charged}})


def make_scorecard(args: argparse.Namespace) -> int:
    """Carry out `sluice scorecard`."""
    from sluice_artifacts import open_store
    from sluice_evaluator.html import scorecard_page
    from sluice_evaluator.scorecard import append_history, history_entry
    from sluice_evaluator.scorecard.text import describe

    metrics = _parse_metrics(args.metric)
    if isinstance(metrics, str):
        print(f"error: {metrics}", file=sys.stderr)
        return FAILS
    evidence, now = _evidence(args), datetime.now(UTC)
    latest: list[Scorecard] = []

    def entry_of(history: bytes) -> dict[str, Any]:
        latest[:] = [_judge(args, evidence, metrics, now, history)]
        return history_entry(latest[0], timestamp=now, commit_sha=os.environ.get("SLUICE_COMMIT_SHA", ""))

    if args.history:
        uri = Path(args.history).expanduser().resolve().as_uri()
        append_history(open_store(uri), uri, entry_of)
    else:
        entry_of(b"")
    scorecard = latest[0]
    show(args, scorecard.model_dump(mode="json"), describe(scorecard))
    if args.html:
        write_text(args.html, scorecard_page(scorecard))
    return _exit_code(args, scorecard)


def _exit_code(args: argparse.Namespace, scorecard: "Scorecard") -> int:
    from sluice_api.contracts.scorecard import GateVerdict, ScorecardVerdict

    if not scorecard.overall_passed or scorecard.verdict == ScorecardVerdict.FAIL:
        return FAILS
    undecided = any(gate.verdict != GateVerdict.PASS for gate in scorecard.gates)
    asked = args.require or args.candidate_digest or args.require_comparison == "Better"
    missing = scorecard.verdict == ScorecardVerdict.INCONCLUSIVE and asked
    return UNJUDGED if missing or (args.strict and undecided) else HOLDS


def add_scorecard(subparsers: Any) -> None:
    """Add `sluice scorecard`."""
    parser = subparsers.add_parser("scorecard", help="judge a candidate by nine gates")
    parser.add_argument("--eval-report", default="", help="evaluation report of the candidate")
    parser.add_argument("--shadow-summary", default="", help="summary of `sluice shadow analyze`")
    parser.add_argument("--labelled-traces", default="", help="folder of labelled traces")
    parser.add_argument("--tier", choices=("base", "first_sft", "future"), default="first_sft", help="what is asked")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME=VALUE", help="value that wins; repeatable"
    )
    parser.add_argument("--thresholds", default="", help="JSON object, or a file with one: gate to threshold")
    parser.add_argument("--require", action="append", default=[], metavar="GATE", help="missing is no pass; repeatable")
    parser.add_argument("--candidate-digest", default="", help="refuse evidence about other weights than these")
    parser.add_argument("--comparison", default="", help="comparison with the champion, of `sluice eval compare`")
    parser.add_argument(
        "--require-comparison",
        choices=("Better", "NotWorse"),
        default="NotWorse",
        help="what the comparison must show (default: NotWorse)",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="error budget of all candidates of one champion, kept in --history"
    )
    parser.add_argument("--html", default="", help="file for a page with the gates and their intervals")
    parser.add_argument("--history", default="", help="JSONL file to append the scorecard to")
    add_common(parser)
    parser.set_defaults(handler=guarded(make_scorecard))

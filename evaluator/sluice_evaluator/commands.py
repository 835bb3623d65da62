"""`sluice eval run|compare`, `sluice shadow analyze`, `sluice scorecard`: the seeds' flags, JSON and exit codes.

Exit codes: 0 the check holds, 1 it does not, 2 it could not be judged. With `--strict` missing or undecided evidence is
2 throughout; the defaults are the seeds', where a tie passes and a scorecard's missing input is skipped.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from sluice_evaluator.command_line import (
    FAILS,
    HOLDS,
    UNJUDGED,
    InputError,
    add_common,
    guarded,
    read,
    show,
    write_text,
)
from sluice_evaluator.scorecard_command import add_scorecard

TOKEN_VARIABLES = ("SLUICE_API_TOKEN", "MANTIS_API_TOKEN")
"""Environment variables with the agent's token; the first that is set is taken."""


def run_suite(args: argparse.Namespace) -> int:
    """Carry out `sluice eval run`."""
    import asyncio

    from sluice_evaluator.builtin import BUILTIN_PREFIX, load
    from sluice_evaluator.journal import FileJournal
    from sluice_evaluator.protocols import ChatRunner, PredictRunner, http_client
    from sluice_evaluator.report import describe
    from sluice_evaluator.runner import Arm, RunConfig, evaluate

    suite = load(args.tasks, None if args.tasks.startswith(BUILTIN_PREFIX) else read(args.tasks, "--tasks"))
    token = args.token or next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), "")
    config = RunConfig(
        concurrency=args.concurrency,
        repeats=args.repeats,
        attempts=args.attempts,
        task_timeout_s=args.task_timeout,
        deadline_s=args.deadline,
    )
    journal = FileJournal(Path(args.resume).expanduser()) if args.resume else None

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    async def run() -> Any:
        async with http_client(concurrency=config.concurrency, timeout_s=config.task_timeout_s) as client:
            runner: PredictRunner | ChatRunner = PredictRunner(client, args.runner, token=token)
            if args.chat_model:
                runner = ChatRunner(client, args.runner, model=args.chat_model, token=token)
            name = args.name or (suite.source if args.tasks.startswith(BUILTIN_PREFIX) else Path(args.tasks).stem)
            arm = Arm(name=name, runner=runner, model_digest=args.model_digest)
            return (await evaluate([arm], suite.tasks, config, journal=journal, on_progress=progress))[0]

    try:
        report = asyncio.run(run())
    finally:
        if journal is not None:
            journal.close()
    show(args, report.model_dump(mode="json"), describe(report))
    judged = report.task_count - report.error_count
    if not judged or (args.strict and report.error_count > args.max_infra * report.task_count):
        print(f"error: {report.error_count} of {report.task_count} tasks could not be judged", file=sys.stderr)
        return UNJUDGED
    return HOLDS


def compare_reports(args: argparse.Namespace) -> int:
    """Carry out `sluice eval compare`."""
    from sluice_api.contracts.evaluation import CompareVerdict
    from sluice_evaluator.compare import CompareConfig, compare, describe
    from sluice_evaluator.html import compare_page
    from sluice_evaluator.report import parse_report
    from sluice_evaluator.scorecard import PromotionGate
    from sluice_evaluator.statistics import AlphaSpending

    baseline = parse_report(read(args.baseline, "--baseline"), args.baseline)
    candidate = parse_report(read(args.candidate, "--candidate"), args.candidate)
    alpha = AlphaSpending(alpha=args.alpha).level(args.lineage_index) if args.lineage_index else args.alpha
    config = CompareConfig(
        alpha=alpha, equivalence_margin=args.margin, most_infra=args.max_infra, need_digests=args.strict
    )
    report = compare(baseline, candidate, config)
    document, text = report.model_dump(mode="json"), describe(report)
    accepted = True
    if args.promotion_gate:
        decision = PromotionGate().decide_reports(baseline, candidate)
        accepted = decision.accepted
        document["promotion_gate"] = vars(decision)
        text += "\npromotion gate: " + ("accepted" if accepted else "rejected: " + "; ".join(decision.objections))
    show(args, document, text)
    if args.html:
        write_text(args.html, compare_page(report, baseline, candidate))
    if report.candidate_losses > report.candidate_wins or not accepted:
        return FAILS
    if args.strict:
        if report.verdict == CompareVerdict.WORSE:
            return FAILS
        if report.verdict == CompareVerdict.INCONCLUSIVE:
            return UNJUDGED
    return HOLDS


def analyze_shadow(args: argparse.Namespace) -> int:
    """Carry out `sluice shadow analyze`."""
    from datetime import UTC, datetime

    from sluice_api.contracts.shadow import ShadowVerdict
    from sluice_evaluator.runs import parse_instant, read_folder
    from sluice_evaluator.shadow import ShadowConfig, analyze, describe
    from sluice_evaluator.workers.shadow import MOST_BAD_FILES

    def instant(value: str, flag: str) -> datetime | None:
        parsed = parse_instant(value)
        if value and parsed is None:
            raise InputError(f"{flag} is not an RFC 3339 instant: {value!r}")
        return parsed

    config = ShadowConfig(
        method=args.method,
        tolerance=args.tolerance,
        margin=args.margin,
        alpha=args.alpha,
        min_runs=args.min_runs,
        since=instant(args.since, "--since"),
        now=instant(args.now, "--now") or (datetime.now(UTC) if args.maturity else None),
        maturity_s=args.maturity,
        rollout=args.rollout,
        candidate_digest=args.candidate_digest,
        stable_digest=args.stable_digest,
        most_bad=MOST_BAD_FILES if args.strict else 1.0,
    )
    folder = Path(args.labelled).expanduser()
    if not folder.exists():
        raise InputError(f"--labelled {args.labelled} does not exist")
    summary = analyze(read_folder(folder), config)
    show(args, summary.model_dump(mode="json"), describe(summary))
    if summary.verdict == ShadowVerdict.HARM:
        print("error: the candidate escalates more often than is tolerated", file=sys.stderr)
        return FAILS
    if summary.verdict == ShadowVerdict.NON_INFERIOR:
        return HOLDS
    print(f"error: no verdict: {summary.verdict}", file=sys.stderr)
    return UNJUDGED


def _add_eval(subparsers: Any) -> None:
    parser = subparsers.add_parser("eval", help="run a suite against an endpoint; compare two reports")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    run = commands.add_parser("run", help="run a suite of tasks against an endpoint")
    run.add_argument("--tasks", required=True, help='JSON file: a list of tasks, or {"tasks": [...]}; or builtin:NAME')
    run.add_argument("--runner", required=True, help="URL of the agent; tasks go to POST /v1/predict")
    run.add_argument("--chat-model", default="", help="ask this model of an OpenAI-compatible server at --runner")
    run.add_argument("--token", default="", help="token of the agent (default: SLUICE_API_TOKEN or MANTIS_API_TOKEN)")
    run.add_argument("--name", default="", help="name of the report (default: the tasks file's stem)")
    run.add_argument("--model-digest", default="", help="digest of the weights behind the endpoint, for the report")
    run.add_argument("--concurrency", type=int, default=8, help="tasks in flight at most (default: 8)")
    run.add_argument("--repeats", type=int, default=1, help="times that each task is run (default: 1)")
    run.add_argument("--attempts", type=int, default=5, help="tries of a task that could not be judged (default: 5)")
    run.add_argument("--task-timeout", type=float, default=600.0, help="seconds for one try (default: 600)")
    run.add_argument("--deadline", type=float, default=None, help="seconds for the whole run (default: none)")
    run.add_argument("--resume", default="", help="journal file: judged tasks are kept there and not run again")
    run.add_argument("--max-infra", type=float, default=0.02, help="with --strict: share of tasks that may be unjudged")
    add_common(run, output_required=True)
    run.set_defaults(handler=guarded(run_suite))
    compare = commands.add_parser("compare", help="compare a candidate's report with the baseline's")
    compare.add_argument("--baseline", required=True, help="report of the baseline")
    compare.add_argument("--candidate", required=True, help="report of the candidate")
    compare.add_argument("--alpha", type=float, default=0.05, help="level of Better and Worse (default: 0.05)")
    compare.add_argument("--margin", type=float, default=0.05, help="largest difference that is Equivalent")
    compare.add_argument("--max-infra", type=float, default=0.1, help="share of tasks that may be unjudged on a side")
    compare.add_argument(
        "--lineage-index", type=int, default=0, help="this is the K-th candidate of its lineage: spend alpha over all"
    )
    compare.add_argument("--html", default="", help="file for a page with the regressions side by side")
    compare.add_argument("--promotion-gate", action="store_true", help="also ask the six limits of the promotion gate")
    add_common(compare)
    compare.set_defaults(handler=guarded(compare_reports))


def _add_shadow(subparsers: Any) -> None:
    parser = subparsers.add_parser("shadow", help="compare the arms of a rollout")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    analyze = commands.add_parser("analyze", help="escalation and failure rates by arm, and what they show")
    analyze.add_argument("--labelled", required=True, help="folder of labelled traces (or raw ones), or one file")
    analyze.add_argument("--tolerance", type=float, default=0.0, help="excess of the step escalation rate (default: 0)")
    analyze.add_argument("--method", choices=("tolerance", "sequential"), default="tolerance", help="decision rule")
    analyze.add_argument("--margin", type=float, default=0.01, help="sequential: excess of the run escalation rate")
    analyze.add_argument("--alpha", type=float, default=0.05, help="sequential: error level of each test")
    analyze.add_argument("--min-runs", type=int, default=1, help="candidate runs asked for (default: 1)")
    analyze.add_argument("--since", default="", help="leave out runs that started before this RFC 3339 instant")
    analyze.add_argument("--maturity", type=float, default=0.0, help="seconds after its end before a run counts")
    analyze.add_argument("--now", default="", help="instant of the analysis for --maturity (default: the clock)")
    analyze.add_argument("--rollout", default="", help="only runs that this rollout (UID) assigned")
    analyze.add_argument("--candidate-digest", default="", help="only candidate runs of these weights")
    analyze.add_argument("--stable-digest", default="", help="only baseline runs of these weights")
    add_common(analyze)
    analyze.set_defaults(handler=guarded(analyze_shadow))


def add_parser(subparsers: Any) -> None:
    """Add `sluice eval`, `sluice shadow` and `sluice scorecard`."""
    _add_eval(subparsers)
    _add_shadow(subparsers)
    add_scorecard(subparsers)

"""Reports: counts, majorities over repeats, weighted metrics, and the text that a terminal shows."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalReport, MetricValue, TaskResult
from sluice_api.contracts.jobs import EvalSummary
from sluice_api.instants import format_instant
from sluice_evaluator.errors import EvaluationError
from sluice_evaluator.statistics import wilson


def majority(repeats: Sequence[TaskResult]) -> TaskResult:
    """Judge a task by the majority of its judged repeats.

    A tie does not pass. Where half of the repeats or more could not be judged, neither is the task. The outcome shown
    is that of the first repeat on the winning side, with the mean cost and duration of the judged ones; what each
    repeat was worth stands in `repeats`.
    """
    if len(repeats) == 1:
        return repeats[0]
    judged = [result for result in repeats if not result.infra_error]
    flags = [None if result.infra_error else result.passed for result in repeats]
    if 2 * len(judged) <= len(repeats):
        shown = next(result for result in repeats if result.infra_error)
        return shown.model_copy(update={"repeats": flags})
    passed = 2 * sum(result.passed for result in judged) > len(judged)
    shown = next((result for result in judged if result.passed == passed), judged[0])
    means = {
        name: math.fsum(getattr(result.outcome, name) for result in judged) / len(judged)
        for name in ("cost", "duration_s")
    }
    update: dict[str, Any] = {**means}
    merged = weighted_metrics(judged)
    if merged:
        # summed over the repeats, so that the report's own weighting sees every unit once
        raw = dict(shown.outcome.raw or {})
        raw["metrics"] = {name: metric.model_dump() for name, metric in merged.items()}
        update["raw"] = raw
    return shown.model_copy(
        update={"passed": passed, "outcome": shown.outcome.model_copy(update=update), "repeats": flags}
    )


def _metric(entry: object) -> tuple[float, int] | None:
    """Read one `{"value", "n"}`; None where it is not a measurement of at least one unit."""
    if not isinstance(entry, Mapping):
        return None
    value, n = entry.get("value"), entry.get("n")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if isinstance(n, bool) or not isinstance(n, int) or n <= 0:
        return None
    return float(value), n


def weighted_metrics(results: Sequence[TaskResult]) -> dict[str, MetricValue]:
    """Average the metrics that the agent measured on each judged run, weighted by their denominators."""
    sums: dict[str, list[tuple[float, int]]] = {}
    for result in results:
        raw = result.outcome.raw or {}
        metrics = raw.get("metrics")
        if result.infra_error or not isinstance(metrics, Mapping):
            continue
        for name, entry in metrics.items():
            measured = _metric(entry)
            if measured is not None:
                sums.setdefault(str(name), []).append(measured)
    return {
        name: MetricValue(
            value=math.fsum(value * n for value, n in entries) / sum(n for _, n in entries),
            n=sum(n for _, n in entries),
        )
        for name, entries in sorted(sums.items())
    }


def build_report(
    *,
    name: str,
    started_at: datetime,
    ended_at: datetime,
    results: Sequence[TaskResult],
    suite_digest: str = "",
    harness_digest: str = "",
    model_digest: str = "",
) -> EvalReport:
    """Count results into a report in the seed's shape."""
    passed = sum(result.passed for result in results)
    return EvalReport(
        name=name,
        started_at=format_instant(started_at, "milliseconds"),
        ended_at=format_instant(ended_at, "milliseconds"),
        task_count=len(results),
        pass_count=passed,
        fail_count=len(results) - passed,
        error_count=sum(result.infra_error for result in results),
        pass_rate=round(passed / len(results), 4) if results else 0.0,
        results=list(results),
        suite_digest=suite_digest,
        harness_digest=harness_digest,
        model_digest=model_digest,
        metrics=weighted_metrics(results),
    )


def summarize(report: EvalReport) -> EvalSummary:
    """Summarise a report: the pass rate is over the tasks that could be judged, with its Wilson interval."""
    errored = sum(result.infra_error for result in report.results)
    judged = len(report.results) - errored
    passed = sum(result.passed for result in report.results)
    low, high = wilson(passed, judged)
    return EvalSummary(
        tasks=len(report.results),
        passed=passed,
        failed=judged - passed,
        errored=errored,
        pass_rate=passed / judged if judged else 0.0,
        interval=(low, high),
    )


def parse_report(data: bytes, source: str) -> EvalReport:
    """Parse a report of ours or of the seed, whose instants are seconds since 1970 and whose empty error is `""`.

    Raises:
        EvaluationError: the bytes are not a report.
    """
    try:
        document = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{source}: not JSON: {error}") from error
    if not isinstance(document, dict) or "results" not in document or "pass_rate" not in document:
        raise EvaluationError(f"{source}: not an evaluation report: `pass_rate` or `results` is missing")
    for key in ("started_at", "ended_at"):
        if isinstance(document.get(key), int | float):
            document[key] = format_instant(datetime.fromtimestamp(document[key], UTC), "milliseconds")
    for row in document["results"] if isinstance(document["results"], list) else []:
        outcome = row.get("outcome") if isinstance(row, dict) else None
        if isinstance(outcome, dict) and outcome.get("error") == "":
            outcome["error"] = None
    try:
        return EvalReport.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise EvaluationError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def describe(report: EvalReport) -> str:
    """Write a report for a terminal."""
    summary = summarize(report)
    low, high = summary.interval
    lines = [
        f"{report.name}: {summary.passed} of {summary.passed + summary.failed} judged tasks passed "
        f"({summary.pass_rate:.1%}, 95 % interval {low:.1%} to {high:.1%}); "
        f"{summary.errored} could not be judged",
    ]
    if report.metrics:
        lines.append("")
        lines += [f"  {name:<28} {metric.value:8.4f}  n={metric.n}" for name, metric in report.metrics.items()]
    failed = [result for result in report.results if not result.passed]
    if failed:
        lines.append("")
        for result in failed[:20]:
            reason = result.outcome.error or "; ".join(c.detail for c in result.criterion_results if not c.passed)
            lines.append(f"  {'error' if result.infra_error else 'fail ':<5} {result.task_id}: {reason[:160]}")
        if len(failed) > 20:
            lines.append(f"  … and {len(failed) - 20} more")
    return "\n".join(lines)

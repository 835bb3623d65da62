"""Reports and traces for the evaluator's tests."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sluice_api.contracts.evaluation import EvalReport, Outcome, TaskResult
from sluice_evaluator.report import build_report

START = datetime(2026, 11, 1, tzinfo=UTC)
"""When every run of these tests begins."""


def report(
    passed: Sequence[bool | None], *, costs: Sequence[float] = (), prefix: str = "t", metrics: Any = None, **fields: Any
) -> EvalReport:
    """Make a report from outcomes; None is a task that could not be judged."""
    results = [
        TaskResult(
            task_id=f"{prefix}{index}",
            passed=bool(flag),
            infra_error=flag is None,
            outcome=Outcome(
                success=bool(flag),
                cost=costs[index] if costs else 0.0,
                raw={"metrics": metrics} if metrics and index == 0 else None,
            ),
        )
        for index, flag in enumerate(passed)
    ]
    return build_report(name="r", started_at=START, ended_at=START, results=results, **fields)


def trace(
    run_id: str,
    variant: str,
    *,
    steps: int = 6,
    escalations: int = 0,
    failures: int = 0,
    at_s: float = 0.0,
    labelled: bool = True,
    **fields: Any,
) -> dict[str, Any]:
    """Make one trace: escalated steps first, then failed ones, then good ones."""
    rows: list[dict[str, Any]] = []
    for index in range(steps):
        if index < escalations:
            step = {"success": True, "data": "page_BLOCKED by cloudflare"}
            label = {"label": "negative", "label_reason": "escalation"}
        elif index < escalations + failures:
            step = {"success": False, "data": "no such element"}
            label = {"label": "negative", "label_reason": "failed_step"}
        else:
            step = {"success": True, "data": "gate:PASS", "observed_outcome": "the page changed"}
            label = {"label": "positive", "label_reason": "gate_verify_pass"}
        rows.append({"step_index": index, **step, **(label if labelled else {})})
    started = START + timedelta(seconds=at_s)
    return {
        "schema_version": 3,
        "run_id": run_id,
        "tenant_id": "acme",
        "variant": variant,
        "started_at": started.isoformat(),
        "ended_at": (started + timedelta(seconds=30)).isoformat(),
        "steps": rows,
        **fields,
    }


def write_traces(root: Path, traces: Sequence[dict[str, Any]]) -> Path:
    """Write traces as the exporter does: `<root>/<tenant>/<run_id>.json`."""
    for document in traces:
        path = root / (document.get("tenant_id") or "__shared__") / f"{document['run_id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return root


def seed_example(root: Path) -> Path:
    """Write the traces of the seed's example: 38 of 1240 steps escalate against 1 of 62."""
    baseline = [trace(f"b{i}", "baseline", steps=7 if i < 40 else 6, escalations=int(i < 38)) for i in range(200)]
    candidate = [trace(f"c{i}", "candidate", steps=7 if i < 2 else 6, escalations=int(i < 1)) for i in range(10)]
    return write_traces(root, baseline + candidate)

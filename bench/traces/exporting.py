"""What exporting costs an agent: a run's trace, with and without screenshots, per step."""

import json
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from made_up import made_up_traces
from report import Report

from sluice_api.contracts.trace import Trace
from sluice_runtime.exporter import FinishedRun, TraceExporter

SCREENSHOT_BYTES = 200_000
"""Size of a screenshot of a page."""


def exporting(runs: int, report: Report) -> None:
    """Export so many runs to a folder and print the time a step takes of the agent's."""
    started_at = datetime(2026, 11, 1, tzinfo=UTC)
    finished = []
    for raw in made_up_traces(runs, seed=4):
        trace = Trace.model_validate(json.loads(raw))
        finished.append(
            FinishedRun(
                status=trace.status,
                started_at=started_at,
                ended_at=started_at + timedelta(seconds=42),
                run_id=trace.run_id,
                tenant_id=trace.tenant_id,
                costs=trace.costs,
                steps=trace.steps,
                screenshots={step.step_index: os.urandom(SCREENSHOT_BYTES) for step in trace.steps[:1]},
            )
        )
    steps = sum(len(run.steps) for run in finished)
    report.title(f"exporting, {runs} runs of {steps / runs:.1f} steps to a folder, wall clock of the agent's thread")
    for pictures in (False, True):
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            exporter = TraceExporter(Path(folder), include_screenshots=pictures)
            began, busy = time.perf_counter(), time.process_time()
            for run in finished:
                exporter.export(run)
            spent, busy = time.perf_counter() - began, time.process_time() - busy
            if exporter.exported != runs:
                raise SystemExit(f"{exporter.failed} of {runs} runs were not exported")
        name = "with a screenshot a run" if pictures else "without screenshots"
        times = f"{spent / steps * 1e6:>12,.0f} microseconds/step, {busy / steps * 1e6:,.0f} of them of the processor"
        report.note(f"{name:<34} {times}; {spent / runs * 1e3:.2f} ms/run")

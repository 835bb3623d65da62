"""The chain on the shop's own runs: rows teach what the agent asked, and the expert's answers are preferred."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sluice_api.actions import parse_action
from sluice_api.chat import split_answer
from sluice_artifacts.reporting import Reporter
from sluice_runtime import FinishedRun, TraceExporter
from sluice_traces.worker import run
from storefront.agent import run_task
from storefront.expert import expert_answer, habit_answer
from storefront.stages import stages_of
from storefront.tasks import make_task
from trace_factory import label_job
from versions import part_rows

RUNS = 60


class CarelessModel:
    """Answers as the expert does, and every third time as a careless hand would."""

    def __init__(self, task) -> None:
        self.stages, self.asked = stages_of(task), 0

    async def __call__(self, messages) -> str:
        self.asked += 1
        stage = next(stage for stage in self.stages if stage.page.render() in messages[-1]["content"])
        return (habit_answer(stage) if self.asked % 3 == 0 else None) or expert_answer(stage)


@pytest.fixture
async def traces(tmp_path) -> Path:
    exporter = TraceExporter(tmp_path / "traces")
    began = datetime(2026, 11, 1, tzinfo=UTC)
    for seed in range(RUNS):
        task = make_task(seed)
        result = await run_task(task, CarelessModel(task))
        started = began + timedelta(minutes=seed)
        finished = FinishedRun(
            run_id=f"run-{seed:03d}",
            tenant_id=f"tenant-{seed % 3}",
            status=result.status,
            started_at=started,
            ended_at=started + timedelta(seconds=9),
            costs=result.costs,
            steps=result.steps,
        )
        assert exporter.export(finished) is not None
    return tmp_path / "traces"


def build(traces, output, **fields):
    job = label_job(traces, output, **fields)
    found = run(job, Reporter(job))
    return found, part_rows(found.dataset)


def step_of(traces, row, name) -> dict:
    path = traces / row["metadata"]["tenant_id"] / f"{row['metadata']['run_id']}.json"
    return json.loads(path.read_text())["steps"][row["metadata"][name]]


def test_rows_teach_exactly_what_the_agent_asked_and_answered(traces, tmp_path):
    output, rows = build(traces, tmp_path)
    assert output.bad_files == 0
    assert output.redactions == {}
    assert output.rows > RUNS
    for row in rows:
        step = step_of(traces, row, "step")
        _, human, answer = (turn["value"] for turn in row["conversations"])
        assert human == step["envelope"]["prompt"]
        assert answer == step["envelope"]["answer"]


def test_pairs_prefer_what_passed_in_the_state_in_which_the_other_failed(traces, tmp_path):
    output, pairs = build(traces, tmp_path, format="preference")
    assert output.rows > 0
    assert {pair["metadata"]["provenance"] for pair in pairs} >= {"expert_handover"}
    for pair in pairs:
        chosen, rejected = (step_of(traces, pair, name) for name in ("step", "rejected_step"))
        assert chosen["envelope"]["prompt"] == rejected["envelope"]["prompt"] == pair["prompt"][1]["value"]
        assert parse_action(split_answer(pair["chosen"])[1]) != parse_action(split_answer(pair["rejected"])[1])

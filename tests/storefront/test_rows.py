"""From a run to a training row: the row teaches the very prompt and answer of the run, the expert's included."""

import json
from datetime import UTC, datetime

from sluice_api.chat import SYSTEM_PROMPT
from sluice_cli.main import main
from sluice_runtime import FinishedRun, TraceExporter
from storefront.agent import run_task
from storefront.environment import Storefront
from storefront.expert import expert_answer, habit_answer
from storefront.tasks import make_task

RUNS = 40
NOW = datetime(2026, 5, 1, tzinfo=UTC)


async def careless_run(seed):
    """A run of a model that falls for every trap."""
    task = make_task(seed)
    shop = Storefront(task, max_steps=1000)

    async def answer(_):
        text = habit_answer(shop.stage) or expert_answer(shop.stage)
        shop.step(text, expert=True)
        return text

    return await run_task(task, answer)


async def test_rows_are_what_the_agent_asks_and_what_works(tmp_path, capsys):
    exporter = TraceExporter(tmp_path / "traces")
    wanted, escalated = [], 0
    for seed in range(RUNS):
        result = await careless_run(seed)
        escalated += result.escalated
        run = FinishedRun(
            run_id=f"run-{seed:03d}",
            tenant_id="acme",
            status=result.status,
            started_at=NOW,
            ended_at=NOW,
            steps=result.steps,
        )
        assert exporter.export(run) is not None
        wanted += [
            (f"run-{seed:03d}", step.step_index, step.envelope["prompt"], step.envelope["answer"])
            for step in result.steps
            if step.success and step.observed_outcome
        ]
    assert escalated > 10

    traces, labelled, rows = tmp_path / "traces", tmp_path / "labelled", tmp_path / "rows.jsonl"
    assert main(["trace", "label", str(traces), "--output", str(labelled)]) == 0
    convert = ["trace", "convert", "--traces", str(labelled), "--output", str(rows), "--no-require-screenshot"]
    assert main(convert) == 0
    capsys.readouterr()
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert {turn["value"] for row in found for turn in row["conversations"] if turn["from"] == "system"} == {
        SYSTEM_PROMPT
    }
    taught = sorted(
        (
            row["metadata"]["run_id"],
            row["metadata"]["step"],
            row["conversations"][1]["value"],
            row["conversations"][2]["value"],
        )
        for row in found
    )
    assert taught == sorted(wanted)

"""The runner against a real server that stalls, drops, throttles, fails and lies."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent_server import AgentServer
from sluice_api.contracts.evaluation import EvalTask, Outcome, TaskResult
from sluice_evaluator.errors import InfrastructureError, SuiteError, TooManyInfrastructureErrors
from sluice_evaluator.journal import FileJournal
from sluice_evaluator.protocols import FunctionRunner, PredictRunner, http_client
from sluice_evaluator.report import summarize
from sluice_evaluator.runner import Arm, RunConfig, evaluate, run_eval

# The server drops connections on purpose; one that is collected before its transport is closed warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FAST = RunConfig(concurrency=8, task_timeout_s=0.4, backoff_s=0.001, longest_backoff_s=0.1)


def tasks(count: int) -> list[EvalTask]:
    return [EvalTask(task_id=f"t{i}", task_text=f"task {i}") for i in range(count)]


def good(body: dict, call: int) -> dict:
    return {"success": int(body["task_id"][1:]) % 3 != 0, "status": "completed", "output": body["task_text"]}


async def run_predict(server: AgentServer, count: int, config: RunConfig = FAST, **arguments):
    async with http_client(concurrency=config.concurrency, timeout_s=5) as client:
        arm = Arm(name="candidate", runner=PredictRunner(client, server.url, token="secret"), model_digest="sha256:w")
        return (await evaluate([arm], tasks(count), config, **arguments))[0]


async def test_faults_change_nothing_in_the_report() -> None:
    faults = ["stall", "drop", "429", "500", "503", "garbage", "list", "silent", "mistyped"]

    def faulty(body: dict, call: int) -> dict | str:
        kind = int(body["task_id"][1:]) % (len(faults) + 2)
        return faults[kind] if kind < len(faults) and call == 1 else good(body, call)

    with AgentServer(good) as clean, AgentServer(faulty) as broken:
        expected = await run_predict(clean, 33)
        report = await run_predict(broken, 33)
    assert [(r.task_id, r.passed, r.infra_error) for r in report.results] == [
        (r.task_id, r.passed, r.infra_error) for r in expected.results
    ]
    assert (report.pass_count, report.fail_count, report.error_count) == (22, 11, 0)
    assert report.pass_rate == 0.6667
    assert report.suite_digest == expected.suite_digest
    assert report.harness_digest == expected.harness_digest
    assert max(broken.calls.values()) == 2


async def test_what_stays_broken_is_an_infrastructure_error_not_a_failure_of_the_model() -> None:
    def reply(body: dict, call: int) -> dict | str:
        return {"t0": "500", "t1": "stall", "t2": "401", "t3": "garbage"}.get(body["task_id"]) or {"success": False}

    config = RunConfig(concurrency=8, task_timeout_s=0.2, backoff_s=0.001, attempts=3)
    with AgentServer(reply) as server:
        report = await run_predict(server, 5, config)
    assert [r.infra_error for r in report.results] == [True, True, True, True, False]
    assert (report.pass_count, report.fail_count, report.error_count) == (0, 5, 4)
    summary = summarize(report)
    assert (summary.failed, summary.errored, summary.pass_rate) == (1, 4, 0.0)
    errors = [r.outcome.error or "" for r in report.results]
    assert "answered 500" in errors[0]
    assert "tries: 3" in errors[0]
    assert "no answer within" in errors[1]
    assert "check the token" in errors[2]
    assert "not JSON" in errors[3]
    # a wrong token stays wrong: it is not tried again
    assert [server.calls[f"t{i}@"] for i in range(4)] == [3, 3, 1, 3]


async def test_a_returned_error_fails_without_being_infrastructure() -> None:
    with AgentServer(lambda body, call: {"success": True, "error": "the page crashed"}) as server:
        report = await run_predict(server, 1)
    assert (report.pass_count, report.fail_count, report.error_count) == (0, 1, 0)
    assert report.results[0].outcome.error == "the page crashed"


async def test_the_request_carries_the_task_the_token_and_the_model() -> None:
    model = {"digest": "sha256:" + "a" * 64, "base_model": {"uri": "file:///m"}, "adapter": None}
    task = EvalTask.model_validate(
        {"task_id": "t", "task_text": "buy", "url": "https://shop", "max_cost": 0.5, "max_steps": 7}
    )
    with AgentServer(lambda body, call: {"viable": 2, "final_url": "u", "costs": {"total": 0.2}, "leads": [1]}) as s:
        async with http_client(concurrency=1, timeout_s=5) as client:
            outcome = await PredictRunner(client, s.url + "/", token="secret", model=model).run(task)
        body, headers = s.requests[0]
    assert {key: body[key] for key in ("task_id", "task_text", "url", "max_cost", "max_steps", "model")} == {
        "task_id": "t",
        "task_text": "buy",
        "url": "https://shop",
        "max_cost": 0.5,
        "max_steps": 7,
        "model": model,
    }
    assert body["plan_text"] == "buy"
    assert headers["X-Sluice-Token"] == headers["X-Mantis-Token"] == "secret"
    # the seed's own endpoint answers in its own fields
    assert (outcome.success, outcome.url, outcome.cost, outcome.output) == (True, "u", 0.2, "[1]")


async def test_an_unreachable_agent_is_named() -> None:
    async with http_client(concurrency=1, timeout_s=1) as client:
        runner = PredictRunner(client, "http://127.0.0.1:9")
        with pytest.raises(InfrastructureError, match=r"http://127.0.0.1:9/v1/predict is not reachable: is it running"):
            await runner.run(tasks(1)[0])


async def test_concurrency_is_used_and_kept_and_429_narrows_it() -> None:
    with AgentServer(good, latency_s=0.005) as server:
        await run_predict(server, 200, RunConfig(concurrency=6, backoff_s=0.001))
        assert server.most_in_flight == 6
    throttled = itertools.count()
    with AgentServer(lambda body, call: "429" if next(throttled) < 3 else good(body, call), retry_after="0.2") as slow:
        started = time.monotonic()
        report = await run_predict(slow, 20, RunConfig(concurrency=1, backoff_s=0.001, attempts=10))
        assert report.error_count == 0
        assert time.monotonic() - started >= 0.6


async def test_the_deadline_ends_a_run_whose_last_task_hangs() -> None:
    config = RunConfig(concurrency=4, task_timeout_s=600, deadline_s=0.5)
    with AgentServer(lambda body, call: "stall" if body["task_id"] == "t9" else good(body, call)) as server:
        started = time.monotonic()
        report = await run_predict(server, 10, config)
        assert time.monotonic() - started < 5
    assert [r.infra_error for r in report.results] == [False] * 9 + [True]


async def test_too_many_infrastructure_errors_end_the_run_early() -> None:
    config = RunConfig(concurrency=2, attempts=1, most_infra_errors=3)
    with AgentServer(lambda body, call: "500") as server:
        with pytest.raises(TooManyInfrastructureErrors, match=r"[45] of [45] tasks could not be judged.*answered 500"):
            await run_predict(server, 500, config)  # two are in flight when the fourth error ends it
        assert sum(server.calls.values()) < 10


async def test_arms_are_interleaved_and_repeats_decide_by_majority() -> None:
    order: list[str] = []

    def runner(name: str, outcomes: list[bool]):
        remaining = iter(outcomes)

        async def run(task: EvalTask) -> Outcome:
            order.append(name)
            return Outcome(success=next(remaining), raw={"metrics": {"parser_validity": {"value": 0.5, "n": 2}}})

        return Arm(name=name, runner=FunctionRunner(run, target=name))

    arms = [runner("a", [True, True, False]), runner("b", [True, False, False])]
    reports = await evaluate(arms, tasks(1), RunConfig(concurrency=1, repeats=3))
    assert order == ["a", "b"] * 3
    assert [r.results[0].passed for r in reports] == [True, False]
    assert reports[0].results[0].repeats == [True, True, False]
    assert (reports[0].metrics["parser_validity"].value, reports[0].metrics["parser_validity"].n) == (0.5, 6)
    tied = await evaluate([runner("a", [True, False])], tasks(1), RunConfig(concurrency=1, repeats=2))
    assert not tied[0].results[0].passed
    with pytest.raises(ValueError, match="at least one arm"):
        await evaluate([], tasks(1), RunConfig())


async def test_metrics_are_weighted_and_nonsense_is_left_out() -> None:
    answers = {
        "t0": {"parser_validity": {"value": 1.0, "n": 1}, "loop_rate_max": {"value": 0.0, "n": 0}},
        "t1": {"parser_validity": {"value": 0.5, "n": 3}, "done_completeness": {"value": "high", "n": 2}},
        "t2": {"parser_validity": None, "grounding_accuracy": {"value": True, "n": 2}},
    }
    with AgentServer(lambda body, call: {"success": True, "metrics": answers[body["task_id"]]}) as server:
        report = await run_predict(server, 3)
    assert {name: (m.value, m.n) for name, m in report.metrics.items()} == {"parser_validity": (0.625, 4)}


def test_the_seed_api_runs_plain_functions() -> None:
    def runner(task: EvalTask) -> dict:
        if task.task_id == "t2":
            raise RuntimeError("the browser died")
        return {"success": task.task_id == "t0", "error": "returned" if task.task_id == "t1" else None}

    report = run_eval(
        runner, [*tasks(3), {"task_id": "t3", "task_text": "x", "criteria": [{"type": "nope"}]}], name="e"
    )
    assert (report.name, report.task_count) == ("e", 4)
    assert (report.pass_count, report.fail_count, report.error_count, report.pass_rate) == (1, 3, 1, 0.25)
    assert report.results[2].infra_error
    assert report.results[2].outcome.error == "RuntimeError: the browser died"
    with pytest.raises(SuiteError, match="task_id"):
        run_eval(runner, [{"task_text": "no id"}])


def test_a_function_that_never_returns_is_left_at_its_deadline() -> None:
    forever = threading.Event()
    started = time.monotonic()
    report = run_eval(lambda task: forever.wait(), tasks(1), config=RunConfig(task_timeout_s=0.1, attempts=1))
    assert time.monotonic() - started < 5
    assert report.results[0].infra_error
    forever.set()


async def test_the_journal_answers_what_was_judged_and_only_that(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "journal.jsonl"
    journal = FileJournal(path)
    with AgentServer(lambda body, call: "500" if body["task_id"] == "t1" else good(body, call)) as server:
        first = await run_predict(server, 4, RunConfig(attempts=1), journal=journal)
    journal.close()
    assert first.results[1].infra_error
    with path.open("ab") as file:
        file.write(b'{"key": "sha256:cut sho')
    resumed = FileJournal(path)
    assert resumed.count == 3
    with AgentServer(good) as server:
        second = await run_predict(server, 4, RunConfig(attempts=1), journal=resumed)
        assert list(server.calls) == ["t1@"]
        assert second.error_count == 0
        # other weights, other results
        async with http_client(concurrency=2, timeout_s=5) as client:
            other = Arm(name="candidate", runner=PredictRunner(client, server.url), model_digest="sha256:other")
            await evaluate([other], tasks(4), RunConfig(attempts=1), journal=resumed)
        assert sum(server.calls.values()) == 5
    resumed.close()
    lines = path.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) == 8


KILLED = """
import asyncio, sys
from pathlib import Path
from sluice_api.contracts.evaluation import EvalTask
from sluice_evaluator.journal import FileJournal
from sluice_evaluator.protocols import PredictRunner, http_client
from sluice_evaluator.runner import Arm, RunConfig, evaluate

async def main(url, journal, output):
    config = RunConfig(concurrency=8, task_timeout_s=0.5, backoff_s=0.001, longest_backoff_s=0.02)
    tasks = [EvalTask(task_id=f"t{i}", task_text="x") for i in range(300)]
    async with http_client(concurrency=8, timeout_s=5) as client:
        arm = Arm(name="candidate", runner=PredictRunner(client, url), model_digest="sha256:w")
        report = (await evaluate([arm], tasks, config, journal=FileJournal(Path(journal))))[0]
    Path(output).write_text(report.model_dump_json())

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_run_that_is_killed_again_and_again_ends_like_a_clean_one(tmp_path: Path) -> None:
    faults = ["drop", "429", "500", "garbage"]

    def reply(body: dict, call: int) -> dict | str:
        kind = int(body["task_id"][1:]) % 40
        return faults[kind] if kind < len(faults) and call == 1 else good(body, call)

    journal, output = tmp_path / "journal.jsonl", tmp_path / "report.json"
    kills = 0
    with AgentServer(reply, retry_after="0.01") as server:
        while not output.exists():
            before = sum(server.calls.values())
            process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(journal), str(output)])
            # let it get some work done, a different amount every time, then take it away
            while kills < 4 and process.poll() is None and sum(server.calls.values()) < before + 25 + 7 * kills:
                time.sleep(0.001)
            if kills < 4 and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait(60)
        answered = dict(server.calls)
    report = json.loads(output.read_text())
    results = [TaskResult.model_validate(row) for row in report["results"]]
    assert kills == 4
    assert [(r.passed, r.infra_error) for r in results] == [(i % 3 != 0, False) for i in range(300)]
    # only what was under way at a kill is asked again
    asked_again = sum(answered.values()) - 300 - sum(1 for i in range(300) if i % 40 < len(faults))
    assert asked_again <= kills * 8
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 300


@pytest.mark.parametrize(
    "change",
    [
        {"concurrency": 0},
        {"repeats": 0},
        {"attempts": 0},
        {"task_timeout_s": 0.0},
        {"deadline_s": 0.0},
        {"most_infra_errors": -1},
        {"backoff_s": -1.0},
    ],
)
def test_limits_that_make_no_sense_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"must be|cannot be"):
        RunConfig(**change)


async def test_overhead_of_a_sample_is_small() -> None:
    async def stub(task: EvalTask) -> Outcome:
        return Outcome(success=True)

    many = tasks(2000)
    arm = Arm(name="stub", runner=FunctionRunner(stub))
    started = time.perf_counter()
    report = (await evaluate([arm], many, RunConfig(concurrency=32)))[0]
    assert report.pass_count == 2000
    # the bench measures it; here a wide margin keeps a slip of an order of magnitude out
    assert (time.perf_counter() - started) / 2000 < 0.005
    assert asyncio.get_running_loop().is_running()

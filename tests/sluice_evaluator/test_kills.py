"""An evaluation that is killed again and again, against an agent that fails in every way, ends like a clean one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_server import AgentServer
from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.evaluation import CompareReport, EvalReport, TaskResult
from sluice_api.contracts.jobs import EvalJob, EvalOutput, EvalTarget, Result
from sluice_artifacts import read_document

# The server drops connections on purpose; one that is collected before its transport is closed warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CANDIDATE, STABLE = "sha256:" + "c" * 64, "sha256:" + "5" * 64
BASE = ModelRef(uri="file:///models/base", digest=STABLE)
CONCURRENCY = 16
FAULTS = ("stall", "drop", "429", "500", "503", "garbage", "list", "silent", "mistyped")


def solved(body: dict, call: int) -> dict:
    """Answer as the weights do: the candidate fails every seventh task, the stable one every third."""
    number, digest = int(body["task_id"][1:]), body["model"]["digest"]
    metrics = {"parser_validity": {"value": 1.0 - number % 2 / 4, "n": 4}}
    success = number % 7 != 0 if digest == CANDIDATE else number % 3 != 0
    return {"success": success, "cost": 0.01, "output": digest, "metrics": metrics}


def faulty(body: dict, call: int) -> dict | str:
    """Fail in some way up to three times a task, a fifth of all calls, and then answer as a clean agent does."""
    chance = random.Random(f"{body['task_id']} {body['model']['digest']} {call}")
    if call <= 3 and chance.random() < 0.2:
        return chance.choice(FAULTS)
    return solved(body, call)


def job(root: Path, url: str, attempt: int) -> EvalJob:
    adapter = ArtifactRef(uri=(root / "adapter").as_uri(), digest=CANDIDATE)
    return EvalJob(
        run=RunRef(kind="EvalRun", namespace="ns", name="e1", uid="uid-1"),
        attempt=attempt,
        output_uri=(root / f"attempt-{attempt}").as_uri() + "/",
        candidate=EvalTarget(name="candidate", digest=CANDIDATE, base_model=BASE, adapter=adapter),
        baseline=EvalTarget(name="stable", base_model=BASE),
        suite_uri=(root / "suite.json").as_uri(),
        agent_url=url,
        concurrency=CONCURRENCY,
        task_timeout_s=1.0,
        cache_uri=(root / "cache").as_uri() + "/",
    )


def start(asked: EvalJob) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "SLUICE_JOB_INPUT": asked.model_dump_json()}
    return subprocess.Popen([sys.executable, "-P", "-m", "sluice_cli", "worker", "eval"], env=environment)


def judged(root: Path) -> set[str]:
    """Name what is in the cache, as the server counts its calls."""
    results = [TaskResult.model_validate_json(path.read_bytes()) for path in (root / "cache").glob("*.json")]
    return {f"{result.task_id}@{result.outcome.output}" for result in results}


def result_of(root: Path, attempt: int) -> EvalOutput:
    output = Result.model_validate_json((root / f"attempt-{attempt}" / "result.json").read_bytes()).output
    assert isinstance(output, EvalOutput)
    return output


def plain(report: EvalReport) -> dict:
    return report.model_dump(mode="json", exclude={"started_at", "ended_at"})


def killed_run(root: Path, server: AgentServer, kills: int, between: tuple[int, int]) -> int:
    """Run a job to its end, killing its process after some calls each time; give the number of the last attempt."""
    chance = random.Random(4711)
    for attempt in range(1, kills + 1):
        known, before = judged(root), dict(server.calls)
        process, started = start(job(root, server.url, attempt)), sum(server.calls.values())
        calls = chance.randint(*between)
        while process.poll() is None and sum(server.calls.values()) < started + calls:
            time.sleep(0.001)
        assert process.poll() is None, f"attempt {attempt} ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        assert not (root / f"attempt-{attempt}" / "result.json").exists()
        again = {name for name in known if server.calls[name] != before[name]}
        assert not again, f"judged before attempt {attempt} and asked again in it"
    last = start(job(root, server.url, kills + 1))
    assert last.wait(300) == 0
    return kills + 1


def check(tmp_path: Path, *, tasks: int, kills: int, between: tuple[int, int]) -> None:
    suite = json.dumps([{"task_id": f"t{i}", "task_text": f"task {i}"} for i in range(tasks)])
    for name in ("clean", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "suite.json").write_text(suite)
    with AgentServer(solved) as server:
        assert start(job(tmp_path / "clean", server.url, 1)).wait(300) == 0
    expected = result_of(tmp_path / "clean", 1)
    with AgentServer(faulty, retry_after="0.02") as server:
        attempt = killed_run(tmp_path / "killed", server, kills, between)
        answered = server.answered
    found = result_of(tmp_path / "killed", attempt)
    for field in ("report", "baseline_report"):
        theirs, ours = (read_document(getattr(output, field), EvalReport) for output in (expected, found))
        assert plain(ours) == plain(theirs)
        assert ours.error_count == 0
    assert found.compare_report is not None
    assert expected.compare_report is not None
    assert read_document(found.compare_report, CompareReport) == read_document(expected.compare_report, CompareReport)
    assert (found.summary, found.comparison) == (expected.summary, expected.comparison)
    # Nobody can know what an agent did whose answer a kill has cut off: those tasks alone are run a second time.
    assert len(answered) == 2 * tasks
    assert sum(answered.values()) - 2 * tasks <= kills * CONCURRENCY


def test_a_worker_that_is_killed_twice_ends_like_a_clean_one(tmp_path: Path) -> None:
    check(tmp_path, tasks=60, kills=2, between=(20, 50))


@pytest.mark.soak
def test_a_worker_that_is_killed_twenty_times_over_a_thousand_tasks_ends_like_a_clean_one(tmp_path: Path) -> None:
    check(tmp_path, tasks=1000, kills=20, between=(10, 180))

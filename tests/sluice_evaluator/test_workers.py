"""The workers end to end: a job in, published evidence and a classified result out, on file:// storage."""

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

import chat_server
from agent_server import AgentServer
from evaluation_factory import START, report, trace, write_traces
from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.jobs import (
    EvalJob,
    EvalTarget,
    FailureClass,
    MetricOverride,
    Progress,
    Result,
    ScorecardJob,
    ShadowJob,
)
from sluice_api.contracts.scorecard import GateVerdict, Scorecard, ScorecardVerdict
from sluice_api.contracts.shadow import ShadowSummary, ShadowVerdict
from sluice_api.contracts.suites import BUILTIN_SUITES
from sluice_artifacts import digest_bytes, publish, publish_document, read_document
from sluice_artifacts.reporting import Reporter, WorkerError, run_worker
from sluice_evaluator.workers import eval as eval_worker
from sluice_evaluator.workers import scorecard as scorecard_worker
from sluice_evaluator.workers import served
from sluice_evaluator.workers import shadow as shadow_worker

RUN = RunRef(kind="EvalRun", namespace="ns", name="e1", uid="uid-1")
CANDIDATE, STABLE = "sha256:" + "c" * 64, "sha256:" + "5" * 64
BASE = ModelRef(uri="file:///models/base", digest=STABLE)


def write_suite(root: Path, count: int = 30) -> str:
    tasks = [{"task_id": f"t{i}", "task_text": f"{'hard' if i % 2 else 'easy'} {i}"} for i in range(count)]
    (root / "suite.json").write_text(json.dumps(tasks))
    return (root / "suite.json").as_uri()


def eval_job(root: Path, **fields) -> EvalJob:
    adapter = ArtifactRef(uri=(root / "adapter").as_uri(), digest=CANDIDATE)
    defaults = {
        "run": RUN,
        "attempt": 1,
        "output_uri": (root / "attempt-1").as_uri() + "/",
        "candidate": EvalTarget(name="candidate", digest=CANDIDATE, base_model=BASE, adapter=adapter),
        "baseline": EvalTarget(name="stable", base_model=BASE),
        "suite_uri": write_suite(root),
        "task_timeout_s": 20.0,
    }
    return EvalJob(**{**defaults, **fields})


def by_weights(body: dict, call: int) -> dict:
    """The candidate solves everything, the base the easy half; both measure themselves."""
    candidate = body["model"]["digest"] == CANDIDATE
    solved = candidate or "easy" in body["task_text"]
    metrics = {"parser_validity": {"value": 1.0 if candidate else 0.5, "n": 4}}
    return {"success": solved, "cost": 0.01, "output": "x", "metrics": metrics}


def result_of(root: Path) -> Result:
    return Result.model_validate_json((root / "attempt-1" / "result.json").read_bytes())


# eval


def test_candidate_and_baseline_run_on_the_agent_with_their_weights(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("AGENT_TOKEN", "secret")
    with AgentServer(by_weights) as server:
        job = eval_job(tmp_path, agent_url=server.url, agent_token_env="AGENT_TOKEN", concurrency=4)
        assert run_worker(job, eval_worker.run) == 0
        order = [body["task_id"] for body, _ in server.requests]
        model = server.requests[0][0]["model"]
        assert server.requests[0][1]["X-Sluice-Token"] == "secret"
    output = result_of(tmp_path).output
    assert model["adapter"]["digest"] == CANDIDATE
    assert model["base_model"]["uri"] == BASE.uri
    # interleaved: both arms meet a task at about the same time
    assert abs(order.index("t20") - [i for i, name in enumerate(order) if name == "t20"][1]) < 10
    assert (output.summary.passed, output.baseline_summary.passed) == (30, 15)
    assert output.candidate_digest == CANDIDATE
    assert (output.comparison.wins, output.comparison.losses, output.comparison.verdict) == (15, 0, "Better")
    published = read_document(output.report, EvalReport)
    assert published.model_digest == CANDIDATE
    assert (published.metrics["parser_validity"].value, published.metrics["parser_validity"].n) == (1.0, 120)
    assert read_document(output.baseline_report, EvalReport).model_digest == STABLE
    assert read_document(output.compare_report, CompareReport).candidate_digest == CANDIDATE
    progress = Progress.model_validate_json((tmp_path / "attempt-1" / "progress.json").read_bytes())
    assert progress.inputs["suite"] == published.suite_digest
    assert progress.stage == "publishing"


def test_an_endpoint_is_asked_directly_and_an_earlier_report_compared_with(tmp_path: Path) -> None:
    with AgentServer(lambda body, call: {"success": body["task_id"] != "t0"}) as server:
        target = EvalTarget(name="candidate", digest=CANDIDATE, endpoint_url=server.url)
        job = eval_job(tmp_path, candidate=target, baseline=None)
        first = eval_worker.run(job, Reporter(job))
        assert server.requests[0][0]["model"] is None
        again = job.model_copy(update={"baseline_report": first.report})
        second = eval_worker.run(again, Reporter(again))
    assert first.comparison is None
    assert (second.comparison.common, second.comparison.wins, second.comparison.losses) == (30, 0, 0)
    assert second.baseline_report == first.report
    other = publish_document(tmp_path.as_uri(), "other.json", report([True], suite_digest="sha256:other"))
    wrong = job.model_copy(update={"baseline_report": other})
    with AgentServer(lambda body, call: {"success": True}) as server:
        wrong = wrong.model_copy(update={"candidate": target.model_copy(update={"endpoint_url": server.url})})
        with pytest.raises(WorkerError, match="different tasks") as caught:
            eval_worker.run(wrong, Reporter(wrong))
    assert caught.value.failure_class == FailureClass.DATA


def test_the_pinned_suite_alone_is_run_and_what_was_read_is_reported(tmp_path: Path) -> None:
    with AgentServer(by_weights) as server:
        job = eval_job(tmp_path, agent_url=server.url)
        pinned = digest_bytes((tmp_path / "suite.json").read_bytes())
        output = eval_worker.run(job.model_copy(update={"suite_digest": pinned}), Reporter(job))
        assert (output.suite_digest, output.baseline_digest) == (pinned, STABLE)
        assert output.harness_digest == read_document(output.report, EvalReport).harness_digest
        asked = sum(server.calls.values())
        other = job.model_copy(update={"suite_digest": STABLE})
        with pytest.raises(WorkerError, match="create a new EvalRun") as caught:
            eval_worker.run(other, Reporter(other))
        assert caught.value.failure_class == FailureClass.DATA
        assert sum(server.calls.values()) == asked


def test_a_built_in_suite_is_run_by_name_and_pinned_by_its_tasks(tmp_path: Path) -> None:
    with AgentServer(lambda body, call: {"success": True, "output": "Paris"}) as server:
        target = EvalTarget(name="candidate", digest=CANDIDATE, endpoint_url=server.url)
        pins = {"suite_uri": "builtin:chat-format", "suite_digest": BUILTIN_SUITES["chat-format"]}
        job = eval_job(tmp_path, candidate=target, baseline=None, **pins)
        output = eval_worker.run(job, Reporter(job))
        assert (output.summary.tasks, output.suite_digest) == (4, BUILTIN_SUITES["chat-format"])
        skewed = job.model_copy(update={"suite_digest": STABLE})
        with pytest.raises(WorkerError, match="deploy both from one release"):
            eval_worker.run(skewed, Reporter(skewed))


def test_a_suite_whose_reference_answer_fails_is_not_run(tmp_path: Path) -> None:
    row = {
        "task_id": 1, "text": "Add.", "code": "def add(a, b):\n    return a - b\n",
        "test_list": ["assert add(1, 2) == 3"],
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with AgentServer(by_weights) as server:
        job = eval_job(tmp_path, agent_url=server.url, suite_uri=(tmp_path / "rows.jsonl").as_uri())
        with pytest.raises(WorkerError, match="mbpp/1: the reference answer fails: case 0: a wrong value") as caught:
            eval_worker.run(job, Reporter(job))
        assert not server.calls
    assert caught.value.failure_class == FailureClass.DATA


def test_an_unreachable_agent_is_infrastructure_and_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(eval_worker.wait_until_reachable, "__kwdefaults__", {"within_s": 0.3})
    job = eval_job(tmp_path, agent_url="http://127.0.0.1:9")
    assert run_worker(job, eval_worker.run) == 0
    failure = result_of(tmp_path).failure
    assert failure.failure_class == FailureClass.INFRASTRUCTURE
    assert "http://127.0.0.1:9" in failure.message
    assert "check that it runs" in failure.message


def test_too_many_infrastructure_errors_fail_the_job_not_the_model(tmp_path: Path) -> None:
    def reply(body: dict, call: int) -> dict | str:
        return "401" if body["task_id"] in ("t0", "t1") else by_weights(body, call)

    with AgentServer(reply) as server:
        job = eval_job(tmp_path, agent_url=server.url)
        assert run_worker(job, eval_worker.run) == 0
        failure = result_of(tmp_path).failure
        assert failure.failure_class == FailureClass.INFRASTRUCTURE
        assert "more than the 1 of 60" in failure.message
        assert "check the token" in failure.message
        tolerant = job.model_copy(update={"infra_error_fraction": 0.1})
        output = eval_worker.run(tolerant, Reporter(tolerant))
    assert (output.summary.errored, output.summary.passed, output.summary.pass_rate) == (2, 28, 1.0)
    assert output.comparison.common == 28


@pytest.mark.parametrize(
    ("change", "failure", "message"),
    [
        ({"agent_token_env": "NO_SUCH_TOKEN"}, FailureClass.USER_ERROR, "NO_SUCH_TOKEN, which is not set"),
        ({"agent_token_env": "AWS_SECRET_ACCESS_KEY"}, FailureClass.USER_ERROR, "a credential of the worker itself"),
        ({"agent_token_env": "RAY_AUTH_TOKEN"}, FailureClass.USER_ERROR, "a credential of the worker itself"),
        ({"agent_url": "agent:8080"}, FailureClass.USER_ERROR, "not one: agent:8080"),
        ({"concurrency": 0}, FailureClass.USER_ERROR, "concurrency must be at least 1"),
        ({"suite_uri": "BAD"}, FailureClass.DATA, "tasks[0]: task_id: Field required"),
        ({"suite_uri": "MISSING"}, FailureClass.DATA, "nothing.json"),
        ({"agent_url": None, "candidate": EvalTarget(name="nobody")}, FailureClass.USER_ERROR, "target nobody has"),
    ],
)
def test_jobs_that_cannot_be_done_say_why(tmp_path: Path, change: dict, failure: FailureClass, message: str) -> None:
    (tmp_path / "bad.json").write_text('[{"task_text": "x"}]')
    places = {"BAD": (tmp_path / "bad.json").as_uri(), "MISSING": (tmp_path / "nothing.json").as_uri()}
    change = {key: places.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    with AgentServer(by_weights) as server:
        job = eval_job(tmp_path, **{"agent_url": server.url, **change})
        assert run_worker(job, eval_worker.run) == 0
    found = result_of(tmp_path).failure
    assert found.failure_class == failure
    assert message in found.message


def test_a_second_attempt_goes_on_where_the_first_one_ended(tmp_path: Path) -> None:
    cache = (tmp_path / "cache").as_uri() + "/"
    half = {f"t{i}" for i in range(15)}
    with AgentServer(lambda body, call: by_weights(body, call) if body["task_id"] in half else "401") as server:
        job = eval_job(tmp_path, agent_url=server.url, cache_uri=cache, concurrency=2)
        with pytest.raises(WorkerError):
            eval_worker.run(job, Reporter(job))
        (tmp_path / "cache" / "damaged.json").write_text("{")
    with AgentServer(by_weights) as server:
        second = job.model_copy(update={"agent_url": server.url, "attempt": 2})
        output = eval_worker.run(second, Reporter(second))
        # Of two at a time, one may have been in flight when the other ended the first attempt.
        repeated = {name for name in server.calls if name.split("@")[0] in half}
        assert len(repeated) <= 1
        assert sum(server.calls.values()) == 30 + len(repeated)
    assert (output.summary.passed, output.baseline_summary.passed) == (30, 15)


@pytest.fixture
def stand_in_server(monkeypatch: pytest.MonkeyPatch) -> None:
    command = served.serve_command

    def stand_in(base: ModelRef, port_file: Path, cache: Path) -> list[str]:
        real = command(base, port_file, cache)
        assert real[1:4] == ["-m", "sluice_cli", "serve"]
        return [sys.executable, chat_server.__file__, *real[4:]]

    monkeypatch.setattr(served, "serve_command", stand_in)


@pytest.mark.usefixtures("stand_in_server")
def test_without_agent_or_endpoint_the_worker_serves_base_and_adapter_itself(tmp_path: Path) -> None:
    job = eval_job(tmp_path)
    output = eval_worker.run(job, Reporter(job))
    assert (output.summary.passed, output.baseline_summary.passed) == (30, 15)
    results = read_document(output.report, EvalReport).results
    assert results[1].outcome.output == "answer to hard 1"
    assert output.comparison.verdict == "Better"


@pytest.mark.usefixtures("stand_in_server")
def test_a_server_that_does_not_come_up_or_refuses_an_adapter_is_named(tmp_path: Path) -> None:
    broken = EvalTarget(name="candidate", base_model=ModelRef(uri="file:///broken"))
    job = eval_job(tmp_path, candidate=broken, baseline=None)
    with pytest.raises(WorkerError, match="status 4 before it served; its last words: the base model has no") as caught:
        eval_worker.run(job, Reporter(job))
    assert caught.value.failure_class == FailureClass.INFRASTRUCTURE
    corrupt = ArtifactRef(uri="file:///corrupt", digest=CANDIDATE)
    job = eval_job(tmp_path, candidate=EvalTarget(name="c", base_model=BASE, adapter=corrupt), baseline=None)
    with pytest.raises(WorkerError, match="the digest does not verify") as caught:
        eval_worker.run(job, Reporter(job))
    assert caught.value.failure_class == FailureClass.DATA


# shadow


def shadow_job(root: Path, **fields) -> ShadowJob:
    defaults = {
        "run": RUN,
        "attempt": 1,
        "output_uri": (root / "attempt-1").as_uri() + "/",
        "source_uri": (root / "traces").as_uri() + "/",
        "since": START.isoformat(),
        "now": (START + timedelta(hours=2)).isoformat(),
        "rollout": "uid-r",
        "candidate_digest": CANDIDATE,
        "stable_digest": STABLE,
        "maturity_s": 60.0,
        "min_runs": 50,
        "method": "tolerance",
    }
    return ShadowJob(**{**defaults, **fields})


def arm(variant: str, count: int, escalated: int, digest: str) -> list[dict]:
    return [
        trace(
            f"{variant}{i}",
            variant,
            escalations=int(i < escalated),
            at_s=i,
            labelled=False,
            rollout="uid-r",
            model_digest=digest,
        )
        for i in range(count)
    ]


def test_raw_traces_become_a_published_verdict(tmp_path: Path) -> None:
    write_traces(tmp_path / "traces", arm("baseline", 200, 6, STABLE) + arm("candidate", 60, 1, CANDIDATE))
    job = shadow_job(tmp_path)
    assert run_worker(job, shadow_worker.run) == 0
    output = result_of(tmp_path).output
    assert output.summary.verdict == ShadowVerdict.NON_INFERIOR
    assert (output.summary.variants["candidate"].run_count, output.summary.min_runs) == (60, 50)
    assert read_document(output.report, ShadowSummary) == output.summary
    again = shadow_worker.run(job, Reporter(job))
    assert again.report == output.report
    waiting = shadow_worker.run(shadow_job(tmp_path, min_runs=100), Reporter(job))
    assert waiting.summary.verdict == ShadowVerdict.INSUFFICIENT
    others = shadow_worker.run(shadow_job(tmp_path, candidate_digest="sha256:" + "d" * 64), Reporter(job))
    assert (others.summary.verdict, others.summary.foreign_runs) == (ShadowVerdict.NO_DATA, 60)


def test_mirrored_requests_are_joined_from_the_trace_store(tmp_path):
    served, mirrored = arm("baseline", 80, 4, STABLE), arm("mirror", 70, 4, CANDIDATE)
    for runs in (served, mirrored):
        for number, one in enumerate(runs):
            one |= {"request_id": f"q{number}", "rollout": ""}
    write_traces(tmp_path / "traces", [*served, *mirrored])
    job = shadow_job(tmp_path, method="sequential", paired=True, rollout="", margin=0.2, harm_alpha=0.025)
    summary = shadow_worker.run(job, Reporter(job)).summary
    assert summary.verdict == ShadowVerdict.NON_INFERIOR
    assert (summary.pairs.joined, summary.pairs.only_candidate, summary.pairs.unmatched) == (70, 0, 0)
    assert (summary.e_process.threshold, summary.e_process.harm_threshold) == (20.0, 40.0)
    assert summary.candidate_share == 70 / 80
    assert summary.evaluator.startswith("sha256:")


def test_the_sequential_method_reports_its_e_values(tmp_path: Path) -> None:
    write_traces(tmp_path / "traces", arm("baseline", 300, 6, STABLE) + arm("candidate", 150, 40, CANDIDATE))
    job = shadow_job(tmp_path, method="sequential", min_runs=1000)
    summary = shadow_worker.run(job, Reporter(job)).summary
    assert summary.verdict == ShadowVerdict.HARM
    assert summary.e_process is not None


def test_an_empty_store_is_no_data_and_a_store_of_nonsense_a_failure(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    job = shadow_job(tmp_path)
    assert shadow_worker.run(job, Reporter(job)).summary.verdict == ShadowVerdict.NO_DATA
    (tmp_path / "traces" / "a.json").write_text("[]")
    old = shadow_job(tmp_path, since="2000-01-01T00:00:00Z")
    with pytest.raises(WorkerError, match="none of the 1 files") as caught:
        shadow_worker.run(old, Reporter(old))
    assert caught.value.failure_class == FailureClass.DATA
    for change in ({"since": "soon"}, {"now": ""}, {"margin": 0.0}):
        wrong = shadow_job(tmp_path, **change)
        with pytest.raises(WorkerError) as caught:
            shadow_worker.run(wrong, Reporter(wrong))
        assert caught.value.failure_class == FailureClass.USER_ERROR


# scorecard


def scorecard_job(root: Path, **fields) -> ScorecardJob:
    defaults = {
        "run": RUN,
        "attempt": 1,
        "output_uri": (root / "attempt-1").as_uri() + "/",
        "candidate_digest": CANDIDATE,
        "now": START.isoformat(),
        "scorecard_uri": (root / "scorecards").as_uri() + "/",
    }
    return ScorecardJob(**{**defaults, **fields})


def publish_evidence(root: Path) -> dict:
    evaluation = report(
        [True] * 40 + [False] * 10,
        costs=[0.01] * 50,
        model_digest=CANDIDATE,
        metrics={"parser_validity": {"value": 0.99, "n": 300}},
    )
    summary = {
        "variants": {
            "candidate": {
                "variant": "candidate",
                "run_count": 100,
                "step_count": 700,
                "escalation_count": 21,
                "escalation_rate": 0.03,
            }
        },
        "candidate_digest": CANDIDATE,
    }
    labels = {"escalation": 8, "gate_verify_pass": 392}
    uri = root.as_uri()
    return {
        "eval_report": publish_document(uri, "report.json", evaluation),
        "shadow_summary": publish_document(uri, "shadow.json", ShadowSummary.model_validate(summary)),
        "labelled": publish(
            uri,
            {"train.jsonl": b""},
            lambda files: DatasetManifest(files=files, rows=0, holdout_rows=0, label_reasons=labels),
        ),
    }


def test_evidence_by_digest_becomes_a_scorecard_and_a_line_of_history(tmp_path: Path) -> None:
    evidence = publish_evidence(tmp_path)
    required = ["task_pass_rate", "escalation_rate_max"]
    job = scorecard_job(
        tmp_path,
        **evidence,
        required_gates=required,
        metrics=[MetricOverride(name="done_completeness", value=0.9, source="mara")],
        thresholds={"loop_rate_max": 0.03},
    )
    assert run_worker(job, scorecard_worker.run) == 0
    output = result_of(tmp_path).output
    gates = {gate.name.value: gate for gate in output.gates}
    assert output.verdict == ScorecardVerdict.PASS
    assert gates["task_pass_rate"].source == evidence["eval_report"].digest
    assert gates["escalation_rate_max"].source == evidence["shadow_summary"].digest
    assert (gates["escalation_rate_max"].n, gates["escalation_rate_max"].value) == (700, 0.03)
    assert gates["loop_rate_max"].verdict == "Missing"  # labels name no candidate
    assert gates["loop_rate_max"].threshold == 0.03
    assert gates["done_completeness"].source == "override:mara"
    assert gates["grounding_accuracy"].verdict == GateVerdict.MISSING
    scorecard = read_document(output.scorecard, Scorecard)
    assert (scorecard.candidate_digest, scorecard.evaluated_at) == (CANDIDATE, START.isoformat())
    assert scorecard.metadata["threshold_overrides"] == {"loop_rate_max": 0.03}
    # a repeated job is the same scorecard and no second line
    assert scorecard_worker.run(job, Reporter(job)).scorecard == output.scorecard
    history = tmp_path / "scorecards" / "SCORECARD_HISTORY.jsonl"
    assert output.history_uri == history.as_uri()
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [(line["owner"], line["verdict"]) for line in lines] == [("ns/e1/uid-1", "Pass")]


def test_other_weights_missing_evidence_and_failures_do_not_pass(tmp_path: Path) -> None:
    evidence = publish_evidence(tmp_path)

    def verdict(**fields) -> ScorecardVerdict:
        job = scorecard_job(tmp_path, **fields)
        return scorecard_worker.run(job, Reporter(job)).verdict

    assert verdict() == ScorecardVerdict.INCONCLUSIVE
    assert verdict(eval_report=evidence["eval_report"]) == ScorecardVerdict.PASS
    required = {"required_gates": ["escalation_rate_max"]}
    assert verdict(eval_report=evidence["eval_report"], **required) == ScorecardVerdict.INCONCLUSIVE
    other = {"candidate_digest": "sha256:" + "d" * 64}
    assert verdict(eval_report=evidence["eval_report"], **other) == ScorecardVerdict.INCONCLUSIVE
    assert verdict(**evidence, tier="future") == ScorecardVerdict.FAIL
    worse = CompareReport(
        baseline_pass_rate=1.0,
        candidate_pass_rate=0.8,
        delta=-0.2,
        common_task_count=50,
        candidate_wins=0,
        candidate_losses=10,
        win_rate=0.0,
        regressions=[],
        improvements=[],
        verdict="Worse",
        candidate_digest=CANDIDATE,
    )
    compared = publish_document(tmp_path.as_uri(), "compare.json", worse)
    assert verdict(eval_report=evidence["eval_report"], compare_report=compared) == ScorecardVerdict.FAIL


def test_damaged_or_missing_evidence_and_unknown_names_are_failures(tmp_path: Path) -> None:
    evidence = publish_evidence(tmp_path)
    path = Path(evidence["eval_report"].uri.removeprefix("file://"))
    for change, failure in (
        ({"eval_report": evidence["eval_report"].model_copy(update={"digest": STABLE})}, FailureClass.DATA),
        ({"metrics": [MetricOverride(name="parser_valdity", value=0.9)]}, FailureClass.USER_ERROR),
        ({"thresholds": {"nope": 0.1}}, FailureClass.USER_ERROR),
        ({"required_gates": ["nope"]}, FailureClass.USER_ERROR),
        ({"now": "later"}, FailureClass.USER_ERROR),
    ):
        job = scorecard_job(tmp_path / failure.value / next(iter(change)), **change)
        assert run_worker(job, scorecard_worker.run) == 0
        root = tmp_path / failure.value / next(iter(change))
        assert result_of(root).failure.failure_class == failure
    path.unlink()
    job = scorecard_job(tmp_path, eval_report=evidence["eval_report"])
    assert run_worker(job, scorecard_worker.run) == 0
    assert result_of(tmp_path).failure.failure_class == FailureClass.DATA


STOPPED = """
import subprocess
import sys
import time
from sluice_api.contracts.jobs import JOB_INPUT
from sluice_artifacts.reporting import run_worker
from sluice_evaluator.workers import eval as worker
sys.exit(run_worker(JOB_INPUT.validate_json(sys.stdin.read()), worker.run))
"""


def test_a_job_that_is_asked_to_stop_is_preempted_and_publishes_nothing(tmp_path: Path) -> None:
    cache = (tmp_path / "cache").as_uri() + "/"
    with AgentServer(lambda body, call: by_weights(body, call) if body["task_id"] == "t0" else "stall") as server:
        job = eval_job(tmp_path, agent_url=server.url, cache_uri=cache, task_timeout_s=300.0)
        process = subprocess.Popen([sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(job.model_dump_json())
        process.stdin.close()
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "cache").glob("*.json"))) < 2 or server.in_flight < 4:
            assert time.monotonic() < deadline, "the job did not get under way"
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
    result = result_of(tmp_path)
    assert result.output is None
    assert result.failure.failure_class == FailureClass.PREEMPTED
    assert not (tmp_path / "attempt-1" / "reports").exists()

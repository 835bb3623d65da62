"""The seeds' command lines: flags, JSON and exit codes."""

import json
from pathlib import Path

import pytest

from agent_server import AgentServer
from evaluation_factory import report, seed_example, trace, write_traces
from evaluator_commands import sluice


def write(path: Path, document) -> str:
    path.write_text(document.model_dump_json() if hasattr(document, "model_dump_json") else json.dumps(document))
    return str(path)


TASKS = [
    {"task_id": "a", "task_text": "x", "criteria": [{"type": "task_success"}]},
    {"task_id": "b", "task_text": "x", "criteria": [{"type": "output_contains", "value": "Show HN"}]},
]


# eval run


def test_run_writes_the_seed_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("MANTIS_API_TOKEN", "from-env")
    tasks, output = write(tmp_path / "eval_set.json", TASKS), tmp_path / "reports" / "baseline.json"
    with AgentServer(lambda body, call: {"success": True, "output": "none", "cost": 0.1}) as server:
        code = sluice("eval", "run", "--tasks", tasks, "--output", str(output), "--runner", server.url)
        headers = server.requests[0][1]
    document = json.loads(output.read_text())
    assert code == 0
    assert headers["X-Mantis-Token"] == "from-env"
    seed = ("name", "task_count", "pass_count", "fail_count", "error_count", "pass_rate")
    assert [document[key] for key in seed] == ["eval_set", 2, 1, 1, 0, 0.5]
    assert {"started_at", "ended_at", "results"} <= document.keys()
    row = document["results"][1]
    assert {"task_id", "passed", "criterion_results", "outcome"} <= row.keys()
    assert row["criterion_results"][0]["passed"] is False
    assert set(row["outcome"]) == {"success", "status", "url", "output", "cost", "duration_s", "error", "raw"}
    assert "1 of 2 judged tasks passed" in capsys.readouterr().out


def test_run_prints_json_and_takes_name_and_token(tmp_path: Path, capsys) -> None:
    tasks = write(tmp_path / "t.json", {"tasks": TASKS})
    with AgentServer(lambda body, call: {"success": True}) as server:
        code = sluice(
            "eval", "run", "--tasks", tasks, "--output", str(tmp_path / "o.json"), "--runner", server.url,
            "--token", "given", "--name", "nightly", "--json",
        )  # fmt: skip
        assert server.requests[0][1]["X-Sluice-Token"] == "given"
    assert code == 0
    assert json.loads(capsys.readouterr().out)["name"] == "nightly"


def test_a_made_suite_never_passes_for_the_benchmark_whose_format_it_has(tmp_path: Path) -> None:
    output = tmp_path / "o.json"
    with AgentServer(lambda body, call: {"success": True, "output": "pass"}) as server:
        arguments = ("--tasks", "builtin:humaneval", "--output", str(output), "--runner", server.url)
        assert sluice("eval", "run", *arguments) == 0
    document = json.loads(output.read_text())
    assert (document["name"], document["pass_count"]) == ("humaneval-format", 0)


def test_run_that_judged_nothing_is_2_and_a_failing_model_is_0(tmp_path: Path) -> None:
    tasks, output = write(tmp_path / "t.json", TASKS), str(tmp_path / "o.json")
    common = ("eval", "run", "--tasks", tasks, "--output", output, "--attempts", "1")
    with AgentServer(lambda body, call: "500") as server:
        assert sluice(*common, "--runner", server.url) == 2
    assert json.loads(Path(output).read_text())["error_count"] == 2
    with AgentServer(lambda body, call: {"success": False}) as server:
        assert sluice(*common, "--runner", server.url) == 0
    with AgentServer(lambda body, call: "500" if body["task_id"] == "a" else {"success": True}) as server:
        assert sluice(*common, "--runner", server.url) == 0
        assert sluice(*common, "--runner", server.url, "--strict") == 2


def test_run_names_malformed_tasks_and_resumes(tmp_path: Path, capsys) -> None:
    bad = write(tmp_path / "bad.json", [{"task_text": "no id"}])
    assert sluice("eval", "run", "--tasks", bad, "--output", "x", "--runner", "http://127.0.0.1:9") == 2
    assert "tasks[0]: task_id: Field required" in capsys.readouterr().err
    assert sluice("eval", "run", "--tasks", "nope.json", "--output", "x", "--runner", "http://127.0.0.1:9") == 2
    tasks, journal = write(tmp_path / "t.json", TASKS), str(tmp_path / "journal.jsonl")
    with AgentServer(lambda body, call: {"success": True}) as server:
        for _ in range(2):
            arguments = ("--tasks", tasks, "--output", str(tmp_path / "o.json"), "--runner", server.url)
            assert sluice("eval", "run", *arguments, "--resume", journal) == 0
        assert sum(server.calls.values()) == 2


# eval compare

SAME = {"suite_digest": "sha256:tasks", "harness_digest": "sha256:harness"}


@pytest.mark.parametrize(
    ("baseline", "candidate", "code", "strict"),
    [
        ([True, False], [True, False], 0, 2),  # a tie passes by default
        ([False] * 3, [True] * 3, 0, 2),
        ([True, True, False], [False, False, True], 1, 1),
        ([False] * 8 + [True] * 8, [True] * 16, 0, 0),
        ([True] * 200, [True] * 200, 0, 0),
    ],
)
def test_compare_exits_1_iff_losses_exceed_wins(
    tmp_path: Path, baseline: list, candidate: list, code: int, strict: int
) -> None:
    arguments = (
        "--baseline", write(tmp_path / "b.json", report(baseline, **SAME)),
        "--candidate", write(tmp_path / "c.json", report(candidate, **SAME)),
    )  # fmt: skip
    output = tmp_path / "out" / "compare.json"
    assert sluice("eval", "compare", *arguments, "--output", str(output)) == code
    document = json.loads(output.read_text())
    assert {
        "baseline_pass_rate", "candidate_pass_rate", "delta", "common_task_count", "candidate_wins",
        "candidate_losses", "win_rate", "regressions", "improvements",
    } <= document.keys()  # fmt: skip
    assert sluice("eval", "compare", *arguments, "--strict") == strict


def test_compare_without_common_tasks_or_suites_is_2(tmp_path: Path, capsys) -> None:
    ours = write(tmp_path / "a.json", report([True], suite_digest="sha256:1"))
    other = write(tmp_path / "b.json", report([True], prefix="x"))
    suite = write(tmp_path / "c.json", report([True], suite_digest="sha256:2"))
    for path, message in ((other, "no task in common"), (suite, "different tasks"), ("nope.json", "does not exist")):
        assert sluice("eval", "compare", "--baseline", path, "--candidate", ours) == 2
        assert message in capsys.readouterr().err
    unknown = write(tmp_path / "u.json", report([True]))
    assert sluice("eval", "compare", "--baseline", unknown, "--candidate", unknown) == 0
    assert sluice("eval", "compare", "--baseline", unknown, "--candidate", unknown, "--strict") == 2
    assert "does not say which tasks" in capsys.readouterr().err
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert sluice("eval", "compare", "--baseline", str(broken), "--candidate", ours) == 2


def test_compare_reads_reports_of_the_seed(tmp_path: Path, capsys) -> None:
    row = {
        "task_id": "a",
        "passed": True,
        "criterion_results": [{"type": "task_success", "value": "", "passed": True}],
        "outcome": {"task_id": "a", "success": True, "error": "", "raw": {}},
    }
    seed = {
        "name": "b", "started_at": 1790000000.5, "ended_at": 1790000001.0, "task_count": 1, "pass_count": 1,
        "fail_count": 0, "error_count": 0, "pass_rate": 1.0, "results": [row],
    }  # fmt: skip
    path = write(tmp_path / "seed.json", seed)
    assert sluice("eval", "compare", "--baseline", path, "--candidate", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["win_rate"] == 0.5


def test_the_promotion_gate_can_be_asked_too(tmp_path: Path, capsys) -> None:
    better = write(tmp_path / "b.json", report([True] * 20))
    worse = write(tmp_path / "w.json", report([False] * 10 + [True] * 10))
    arguments = ("--promotion-gate", "--json")
    assert sluice("eval", "compare", "--baseline", worse, "--candidate", better, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["promotion_gate"]["accepted"]
    assert sluice("eval", "compare", "--baseline", better, "--candidate", better, *arguments) == 1


# shadow analyze


def test_shadow_prints_the_seed_json(tmp_path: Path, capsys) -> None:
    labelled, output = seed_example(tmp_path / "labelled"), tmp_path / "reports" / "shadow_summary.json"
    code = sluice(
        "shadow", "analyze", "--labelled", str(labelled), "--output", str(output), "--tolerance", "0.0", "--json"
    )
    document = json.loads(output.read_text())
    assert code == 0
    assert json.loads(capsys.readouterr().out) == document
    seed = {
        "variant",
        "run_count",
        "step_count",
        "escalation_count",
        "failure_count",
        "escalation_rate",
        "failure_rate",
    }
    assert seed <= document["variants"]["baseline"].keys()
    assert {
        "escalation_rate_delta", "failure_rate_delta", "candidate_escalation_rate_lower", "baseline_runs",
        "candidate_runs",
    } <= document["comparison"].keys()  # fmt: skip
    assert document["comparison"]["escalation_rate_delta"] == -0.0145


@pytest.mark.parametrize(
    ("rows", "extra", "code"),
    [
        ([("baseline", 1), ("candidate", 1)], (), 0),
        ([("baseline", 1), ("candidate", 2)], (), 1),
        ([("baseline", 1), ("candidate", 2)], ("--tolerance", "0.2"), 0),
        ([("candidate", 0)], (), 2),
        ([("baseline", 0)], (), 2),
        ([("", 0), ("", 0)], (), 2),
        ([("baseline", 0), ("candidate", 0)], ("--min-runs", "5"), 2),
        ([("baseline", 0), ("candidate", 0)], ("--method", "sequential"), 2),
        ([("baseline", 0), ("candidate", 0)], ("--candidate-digest", "sha256:x"), 2),
        ([("baseline", 0), ("candidate", 0)], ("--since", "soon"), 2),
        ([("baseline", 0), ("candidate", 0)], ("--tolerance", "nan"), 2),
    ],
)
def test_shadow_exit_codes(tmp_path: Path, rows: list, extra: tuple, code: int) -> None:
    traces = [trace(f"r{i}", variant, escalations=count) for i, (variant, count) in enumerate(rows)]
    assert sluice("shadow", "analyze", "--labelled", str(write_traces(tmp_path, traces)), *extra) == code


def test_shadow_of_a_missing_or_empty_folder_is_2(tmp_path: Path, capsys) -> None:
    assert sluice("shadow", "analyze", "--labelled", str(tmp_path / "mistyped")) == 2
    assert "mistyped does not exist" in capsys.readouterr().err
    assert sluice("shadow", "analyze", "--labelled", str(tmp_path)) == 2


# scorecard


def test_scorecard_composes_the_seed_inputs(tmp_path: Path, capsys) -> None:
    eval_report = write(tmp_path / "candidate.json", report([True] * 31 + [False] * 19, costs=[0.01] * 50))
    labelled = write_traces(tmp_path / "labelled", [trace("a", "candidate", steps=300, escalations=12)])
    summary, output = tmp_path / "shadow.json", tmp_path / "scorecard.json"
    seed_example(tmp_path / "example")
    assert sluice("shadow", "analyze", "--labelled", str(tmp_path / "example"), "--output", str(summary)) == 0
    capsys.readouterr()
    code = sluice(
        "scorecard", "--eval-report", eval_report, "--shadow-summary", str(summary), "--labelled-traces",
        str(labelled), "--tier", "first_sft", "--metric", "parser_validity=0.99", "--output", str(output), "--json",
        "--history", str(tmp_path / "SCORECARD_HISTORY.jsonl"),
    )  # fmt: skip
    document = json.loads(output.read_text())
    assert code == 0
    assert json.loads(capsys.readouterr().out) == document
    assert (document["tier"], document["overall_passed"]) == ("first_sft", True)
    gates = {row["name"]: row for row in document["gates"]}
    assert {"name", "value", "threshold", "direction", "passed", "note"} <= gates["task_pass_rate"].keys()
    assert gates["task_pass_rate"]["value"] == 0.62
    assert gates["escalation_rate_max"]["value"] == 0.0161
    assert gates["loop_rate_max"]["value"] == 0.04
    assert gates["parser_validity"]["source"] == "override:--metric"
    assert gates["gallery_recovery_rate"]["note"] == "input missing — gate skipped"
    assert document["metadata"]["label_step_count"] == 300
    assert len((tmp_path / "SCORECARD_HISTORY.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 0, ""),
        (("--strict",), 2, ""),
        (("--metric", "task_pass_rate=0.55"), 0, ""),
        (("--metric", "task_pass_rate=0.5499"), 1, ""),
        (("--metric", "task_pass_rate=0.5499", "--tier", "base"), 0, ""),
        (("--metric", "task_pass_rate"), 1, "must be NAME=VALUE"),
        (("--metric", "task_pass_rate=high"), 1, "not a number"),
        (("--metric", "pass_rate=0.9"), 2, "unknown gate 'pass_rate'"),
        (("--eval-report", "no/such/report.json"), 2, "does not exist"),
        (("--shadow-summary", "no/such/summary.json"), 2, "does not exist"),
        (("--labelled-traces", "no/such/folder"), 2, "does not exist"),
        (("--require", "task_pass_rate"), 2, ""),
        (("--require", "task_pass_rate", "--metric", "task_pass_rate=0.6"), 0, ""),
        (("--require", "pass_rate"), 2, "unknown gate"),
    ],
)
def test_scorecard_exit_codes(arguments: tuple, code: int, message: str, capsys) -> None:
    assert sluice("scorecard", *arguments) == code
    assert message in capsys.readouterr().err


def test_scorecard_refuses_unknown_tiers_and_what_is_no_report(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        sluice("scorecard", "--tier", "prod")
    assert caught.value.code == 2
    empty = write(tmp_path / "empty.json", {})
    assert sluice("scorecard", "--eval-report", empty) == 2
    assert "is not an evaluation report" in capsys.readouterr().err
    assert sluice("scorecard", "--shadow-summary", empty) == 2
    assert sluice("scorecard", "--eval-report", write(tmp_path / "list.json", [1])) == 2


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    ("thresholds", "code", "message"),
    [
        ('{"task_pass_rate": 0.9}', 1, ""),
        ('{"task_pass_rate": 0.8}', 0, ""),
        ('{"task_pass_rate": [1]}', 2, "task_pass_rate must be a number, got [1]"),
        ('{"task_pass_rate": true}', 2, "task_pass_rate must be a number, got true"),
        ('{"task_pass_rate": "0.8"}', 2, "must be a number"),
        ('{"x": [1]}', 2, "x must be a number"),
        ('{"pass_rate": 0.8}', 2, "unknown gate 'pass_rate'"),
        ('{"task_pass_rate": 7}', 2, "task_pass_rate cannot be 7"),
        ('{"task_pass_rate": ', 2, "not JSON"),
    ],
)
def test_thresholds_are_checked(tmp_path: Path, thresholds: str, code: int, message: str, inline: bool, capsys) -> None:
    (tmp_path / "thresholds.json").write_text(thresholds)
    given = thresholds if inline else str(tmp_path / "thresholds.json")
    assert sluice("scorecard", "--thresholds", given, "--metric", "task_pass_rate=0.8") == code
    assert message in capsys.readouterr().err


def test_strict_passes_when_every_gate_does(tmp_path: Path) -> None:
    values = {
        "task_pass_rate": 0.55, "parser_validity": 0.98, "grounding_accuracy": 0.70, "gallery_recovery_rate": 0.85,
        "forbidden_region_avoidance": 0.95, "loop_rate_max": 0.05, "escalation_rate_max": 0.05,
        "done_completeness": 0.85, "cost_per_success_usd_max": 0.30,
    }  # fmt: skip
    metrics = [part for name, value in values.items() for part in ("--metric", f"{name}={value}")]
    assert sluice("scorecard", "--strict", *metrics) == 0


def compared(tmp_path: Path, wins: int, losses: int, name: str) -> str:
    """Compare two reports of 100 tasks by the command; give the file."""
    ours = [True] * 60 + [True] * wins + [False] * losses + [False] * (40 - wins - losses)
    theirs = [True] * 60 + [False] * wins + [True] * losses + [False] * (40 - wins - losses)
    sides = {"baseline": report(theirs, model_digest="sha256:champion"), "candidate": report(ours, model_digest=name)}
    arguments = [part for side, made in sides.items() for part in (f"--{side}", write(tmp_path / side, made))]
    output = tmp_path / f"{name}.json"
    sluice("eval", "compare", *arguments, "--output", str(output))
    return str(output)


def test_a_comparison_is_judged_at_what_the_history_leaves_of_its_budget(tmp_path: Path, capsys) -> None:
    history, page = str(tmp_path / "SCORECARD_HISTORY.jsonl"), tmp_path / "card.html"

    def judge(wins: int, losses: int, name: str, *extra: str) -> int:
        comparison = compared(tmp_path, wins, losses, name)
        gates = ("--metric", "task_pass_rate=0.7", "--require", "task_pass_rate", "--comparison", comparison)
        return sluice("scorecard", *gates, "--history", history, "--html", str(page), *extra)

    better = ("--require-comparison", "Better")
    assert judge(9, 1, "first", *better) == 0
    assert "comparison number 1 with this champion" in page.read_text()
    assert "Better (p 0.0215 at level 0.0304; number 1 with this champion" in capsys.readouterr().out
    assert judge(5, 5, "second", *better) == 2
    assert judge(9, 1, "third", *better) == 2
    assert judge(9, 1, "third") == 0
    assert judge(0, 12, "fourth") == 1
    lines = [json.loads(line) for line in Path(history).read_text().splitlines()]
    assert [line["metadata"]["comparison"]["candidate"] for line in lines] == [1, 2, 3, 3, 4]
    capsys.readouterr()
    assert judge(9, 1, "fifth", "--alpha", "7") == 2
    assert "alpha must lie strictly between 0 and 1" in capsys.readouterr().err
    assert sluice("scorecard", "--comparison", write(tmp_path / "no.json", {"delta": 1})) == 2
    assert "--comparison" in capsys.readouterr().err
    assert sluice("scorecard", *better) == 2

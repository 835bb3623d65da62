"""The scorecard: all 27 thresholds, the seed's rules word by word, and the fail-closed verdict beside them."""

import json
from pathlib import Path

import pytest

from evaluation_factory import report, trace, write_traces
from sluice_api.contracts.evaluation import CompareVerdict
from sluice_api.contracts.scorecard import GateName, GateVerdict, Scorecard, ScorecardVerdict, Tier
from sluice_api.contracts.shadow import ShadowSummary
from sluice_artifacts import open_store
from sluice_evaluator.compare import compare
from sluice_evaluator.scorecard import (
    DEFAULT_THRESHOLDS,
    TIERS,
    Evidence,
    Measurement,
    evaluate,
    failing_gates,
    judge_evidence,
    with_overrides,
)
from sluice_evaluator.scorecard.history import append_history, history_entry
from sluice_evaluator.scorecard.text import describe

TABLE = """
task_pass_rate min .40 .55 .75
parser_validity min .95 .98 .99
grounding_accuracy min .55 .70 .85
forbidden_region_avoidance min .90 .95 .98
loop_rate_max max .10 .05 .02
gallery_recovery_rate min .70 .85 .95
escalation_rate_max max .10 .05 .02
done_completeness min .70 .85 .95
cost_per_success_usd_max max .50 .30 .15
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [(row[0], row[1], tier, float(row[2 + index])) for row in ROWS for index, tier in enumerate(TIERS)]
PASSING = {row[0]: float(row[4]) for row in ROWS}
CANDIDATE = "sha256:" + "c" * 64


def gate(scorecard: Scorecard, name: str):
    return next(found for found in scorecard.gates if found.name == name)


def test_gates_and_tiers_come_in_the_seed_order() -> None:
    assert TIERS == ("base", "first_sft", "future")
    assert [found.name.value for found in evaluate().gates] == [row[0] for row in ROWS]
    assert sum(len(tiers) for tiers in DEFAULT_THRESHOLDS.values()) == 27


@pytest.mark.parametrize(("name", "direction", "tier", "threshold"), CELLS)
def test_every_threshold_is_inclusive(name: str, direction: str, tier: str, threshold: float) -> None:
    step = 1e-9 if direction == "min" else -1e-9
    for value, passes in ((threshold, True), (threshold + step, True), (threshold - step, False)):
        scorecard = evaluate(tier=tier, metric_overrides={name: value})
        found = gate(scorecard, name)
        assert (found.threshold, found.direction.value) == (threshold, direction)
        assert found.passed is passes
        assert found.note == ""
        assert scorecard.overall_passed is passes
        assert failing_gates(scorecard) == ([] if passes else [name])


def test_missing_inputs_are_skipped_and_noted_word_by_word() -> None:
    scorecard = evaluate()
    assert scorecard.overall_passed
    assert scorecard.tier == Tier.FIRST_SFT
    for found in scorecard.gates:
        assert (found.value, found.passed, found.note) == (0.0, True, "input missing — gate skipped")
        assert found.verdict == GateVerdict.MISSING
    # nothing was judged: by the fail-closed rule that is no pass
    assert scorecard.verdict == ScorecardVerdict.INCONCLUSIVE
    assert scorecard.metadata["label_step_count"] == 0
    assert scorecard.metadata["label_reason_counts"] == {}


def test_a_gate_without_threshold_at_the_tier_fails() -> None:
    thresholds = {name: dict(tiers) for name, tiers in DEFAULT_THRESHOLDS.items()}
    del thresholds["parser_validity"]["base"]
    scorecard = evaluate(tier="base", thresholds=thresholds, metric_overrides={"parser_validity": 0.99})
    found = gate(scorecard, "parser_validity")
    assert (found.passed, found.note, found.value) == (False, "no threshold for tier", 0.99)
    assert not scorecard.overall_passed
    assert scorecard.verdict == ScorecardVerdict.FAIL
    assert evaluate(tier="future", thresholds=thresholds).overall_passed
    absent = evaluate(thresholds={"task_pass_rate": {"first_sft": 0.1}})
    assert failing_gates(absent) == [row[0] for row in ROWS[1:]]


def test_own_thresholds_replace_the_default() -> None:
    scorecard = evaluate(
        thresholds=with_overrides(Tier.FIRST_SFT, {"task_pass_rate": 0.9}), metric_overrides={"task_pass_rate": 0.8}
    )
    assert failing_gates(scorecard) == ["task_pass_rate"]
    assert DEFAULT_THRESHOLDS["task_pass_rate"]["first_sft"] == 0.55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": "prod_only"}, "unknown tier 'prod_only'"),
        ({"metric_overrides": {"parser_valdity": 0.9}}, "unknown gate 'parser_valdity'; known are task_pass_rate"),
        ({"metric_overrides": {"parser_validity": 1.2}}, "parser_validity cannot be 1.2"),
        ({"metric_overrides": {"parser_validity": float("nan")}}, "cannot be nan"),
        ({"metric_overrides": {"cost_per_success_usd_max": -1.0}}, "cannot be -1"),
        ({"thresholds": {"pass_rate": {"base": 0.1}}}, "unknown gate 'pass_rate'"),
        ({"required_gates": ["task_pass"]}, "unknown gate 'task_pass'"),
    ],
)
def test_names_and_values_that_cannot_be_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_the_eval_report_gives_pass_rate_and_cost_of_all_tasks() -> None:
    passed = [True] * 6 + [False] * 4
    costs = [0.10, 0.15, 0.05, 0.05, 0.10, 0.10, 0.20, 0.0, 0.0, 0.0]
    document = report(passed, costs=costs).model_dump(mode="json")
    scorecard = evaluate(eval_report=document)
    assert gate(scorecard, "task_pass_rate").value == 0.6
    # failures cost money, too: 0.75 over six passes
    assert gate(scorecard, "cost_per_success_usd_max").value == pytest.approx(0.125)
    assert gate(scorecard, "parser_validity").verdict == GateVerdict.MISSING
    assert gate(scorecard, "task_pass_rate").interval == pytest.approx((0.2624, 0.8784), abs=1e-4)
    no_pass = evaluate(eval_report=report([False] * 3, costs=[1.0] * 3))
    assert gate(no_pass, "cost_per_success_usd_max").note == "input missing — gate skipped"


def test_documents_of_the_seed_and_by_hand_are_understood() -> None:
    by_hand = {"pass_rate": 0.10, "pass_count": 0, "results": []}
    scorecard = evaluate(eval_report=by_hand, metric_overrides={"task_pass_rate": 0.99})
    assert (gate(scorecard, "task_pass_rate").value, gate(scorecard, "task_pass_rate").passed) == (0.99, True)
    assert gate(evaluate(eval_report=by_hand), "task_pass_rate").value == 0.10
    assert gate(evaluate(eval_report={}), "task_pass_rate").verdict == GateVerdict.MISSING
    summary = {"variants": {"baseline": {"escalation_rate": 0.10}, "candidate": {"escalation_rate": 0.04}}}
    assert gate(evaluate(shadow_summary=summary), "escalation_rate_max").value == 0.04
    assert gate(evaluate(shadow_summary={"variants": {}}), "escalation_rate_max").verdict == GateVerdict.MISSING
    empty_arm = {"variants": {"candidate": {"escalation_rate": 0.0, "step_count": 0}}}
    assert gate(evaluate(shadow_summary=empty_arm), "escalation_rate_max").verdict == GateVerdict.MISSING
    with pytest.raises(ValueError, match="no object `variants`"):
        evaluate(shadow_summary={})


def test_the_escalation_gate_reads_the_candidate_not_the_difference() -> None:
    summary = ShadowSummary.model_validate(
        {
            "variants": {
                "baseline": {"variant": "baseline", "escalation_rate": 0.2, "step_count": 100},
                "candidate": {
                    "variant": "candidate",
                    "escalation_rate": 0.06,
                    "escalation_count": 60,
                    "step_count": 1000,
                    "run_count": 200,
                },
            }
        }
    )
    found = gate(evaluate(shadow_summary=summary), "escalation_rate_max")
    assert (found.value, found.n, found.passed) == (0.06, 1000, False)
    assert found.interval == pytest.approx((0.0461, 0.0766), abs=1e-4)


def test_overrides_win_over_the_report_and_are_recorded() -> None:
    document = report([True] * 20, costs=[0.1] * 20).model_dump(mode="json")
    scorecard = evaluate(eval_report=document, metric_overrides={"cost_per_success_usd_max": 3.0})
    found = gate(scorecard, "cost_per_success_usd_max")
    # not the 0.1 of the report
    assert (found.value, found.passed, found.source) == (3.0, False, "override:argument")
    assert scorecard.metadata["overrides"] == {"cost_per_success_usd_max": "override:argument"}
    assert gate(evaluate(cost_per_success_usd=0.2), "cost_per_success_usd_max").value == 0.2


def test_labels_are_proxies_and_what_the_agent_measured_comes_first(tmp_path: Path) -> None:
    folder = write_traces(tmp_path, [trace("a", "", steps=100, escalations=4), trace("b", "", steps=60, failures=3)])
    (tmp_path / "broken.json").write_text("{not json")
    scorecard = evaluate(labelled_traces_dir=folder)
    assert scorecard.metadata["label_step_count"] == 160
    assert scorecard.metadata["label_reason_counts"] == {"escalation": 4, "failed_step": 3, "gate_verify_pass": 153}
    assert gate(scorecard, "loop_rate_max").value == 4 / 160
    assert gate(scorecard, "forbidden_region_avoidance").value == 1 - 4 / 160
    # the label proxy is not the escalation gate: that one needs the candidate's own traffic
    assert gate(scorecard, "escalation_rate_max").verdict == GateVerdict.MISSING
    measured = report(
        [True] * 30, metrics={"loop_rate_max": {"value": 0.01, "n": 400}, "parser_validity": {"value": 1, "n": 9}}
    )
    both = evaluate(labelled_traces_dir=folder, eval_report=measured)
    assert (gate(both, "loop_rate_max").value, gate(both, "loop_rate_max").n) == (0.01, 400)
    assert gate(both, "parser_validity").verdict == GateVerdict.INCONCLUSIVE
    assert "n = 9, fewer than 20" in gate(both, "parser_validity").detail
    with pytest.raises(FileNotFoundError):
        evaluate(labelled_traces_dir=tmp_path / "mistyped")


def _evidence(passed: list, **fields) -> Evidence:
    return Evidence(eval_report=report(passed, model_digest=CANDIDATE, **fields), eval_source="sha256:e")


def test_the_verdict_needs_every_required_gate() -> None:
    evidence = _evidence([True] * 40)
    alone = judge_evidence(evidence, required_gates=["task_pass_rate"], candidate_digest=CANDIDATE)
    assert alone.verdict == ScorecardVerdict.PASS
    assert gate(alone, "task_pass_rate").source == "sha256:e"
    more = judge_evidence(
        evidence, required_gates=["task_pass_rate", "escalation_rate_max"], candidate_digest=CANDIDATE
    )
    assert (more.verdict, more.overall_passed) == (ScorecardVerdict.INCONCLUSIVE, True)
    few = judge_evidence(_evidence([True] * 19), required_gates=["task_pass_rate"], candidate_digest=CANDIDATE)
    assert few.verdict == ScorecardVerdict.INCONCLUSIVE
    failed = judge_evidence(_evidence([False] * 40), required_gates=["escalation_rate_max"])
    assert failed.verdict == ScorecardVerdict.FAIL


def test_evidence_about_other_weights_is_refused() -> None:
    for digest in ("sha256:" + "d" * 64, ""):
        evidence = Evidence(eval_report=report([True] * 40, model_digest=digest))
        scorecard = judge_evidence(
            evidence,
            candidate_digest=CANDIDATE,
            overrides={"parser_validity": Measurement(value=0.99, source="override:me")},
        )
        assert gate(scorecard, "task_pass_rate").verdict == GateVerdict.MISSING
        assert scorecard.verdict == ScorecardVerdict.INCONCLUSIVE
        assert "eval_report is about" in scorecard.metadata["refused_evidence"][0]
        assert "refused: eval_report" in describe(scorecard)


def test_a_worse_comparison_fails_whatever_the_gates_say() -> None:
    baseline, candidate = (
        report([True] * 40, model_digest="sha256:b"),
        report([True] * 28 + [False] * 12, model_digest=CANDIDATE),
    )
    comparison = compare(baseline, candidate)
    assert comparison.verdict == CompareVerdict.WORSE
    evidence = Evidence(eval_report=candidate, compare_report=comparison)
    scorecard = judge_evidence(evidence, candidate_digest=CANDIDATE)
    assert scorecard.overall_passed
    assert scorecard.verdict == ScorecardVerdict.FAIL
    assert scorecard.metadata["comparison_verdict"] == "Worse"


def test_infrastructure_errors_are_the_seed_s_failures_but_not_ours() -> None:
    evidence = _evidence([True] * 12 + [False] * 9 + [None] * 3)
    assert gate(judge_evidence(evidence), "task_pass_rate").value == 0.5
    strict = gate(judge_evidence(evidence, judged_only=True), "task_pass_rate")
    assert (strict.value, strict.n, strict.passed) == (12 / 21, 21, True)


# the history


def test_the_history_only_grows(tmp_path: Path) -> None:
    from evaluation_factory import START

    path = tmp_path / "reports" / "SCORECARD_HISTORY.jsonl"

    def append(commit: str) -> None:
        entry = history_entry(evaluate(), timestamp=START, commit_sha=commit)
        append_history(open_store(path.as_uri()), path.as_uri(), lambda _: entry)

    append("abc")
    with path.open("a") as file:
        file.write('{"cut sho')
    append("def")
    append("def")
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert [json.loads(lines[index])["commit_sha"] for index in (0, 2)] == ["abc", "def"]
    assert {"timestamp", "commit_sha", "tier", "overall_passed", "gates", "metadata"} <= json.loads(lines[0]).keys()


def test_the_history_of_a_store_keeps_every_writer_and_each_card_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from evaluation_factory import START

    uri = (tmp_path / "SCORECARD_HISTORY.jsonl").as_uri()
    entries = [history_entry(evaluate(), timestamp=START, commit_sha="", owner=f"ns/card-{i}/uid") for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda entry: append_history(open_store(uri), uri, lambda _: entry), entries * 2))
    lines = [json.loads(line) for line in (tmp_path / "SCORECARD_HISTORY.jsonl").read_text().splitlines()]
    assert sorted(line["owner"] for line in lines) == [f"ns/card-{i}/uid" for i in range(8)]


def test_the_table_for_people_shows_every_gate_and_the_verdict() -> None:
    text = describe(evaluate(metric_overrides=PASSING, tier="future"))
    assert all(row[0] in text for row in ROWS)
    assert all(name in text for name in GateName)
    assert text.endswith("tier future: overall_passed true, verdict Pass")

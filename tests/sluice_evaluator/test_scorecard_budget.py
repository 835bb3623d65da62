"""The error budget of a lineage: charged once a comparison, bounded whatever comes, kept in the history."""

import json
import math
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_factory import START, report
from sluice_api.contracts.base import RunRef
from sluice_api.contracts.jobs import FailureClass, ScorecardJob
from sluice_api.contracts.scorecard import Scorecard, ScorecardVerdict
from sluice_artifacts import open_store, publish_document, read_document
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_evaluator.compare import compare
from sluice_evaluator.scorecard.budget import charge
from sluice_evaluator.workers import scorecard as worker

CHAMPION = "sha256:" + "5" * 64
FIRST = 0.05 * 6 / math.pi**2


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def line(report_digest: str, level: float | None, champion: str = CHAMPION) -> bytes:
    record = {"champion": champion, "report": report_digest, "level": level}
    return json.dumps({"metadata": {"comparison": record}}).encode() + b"\n"


def test_levels_fall_and_never_sum_to_more_than_the_budget() -> None:
    history, levels = b"", []
    for night in range(400):
        found = charge(history, champion=CHAMPION, report=digest(night), alpha=0.05)
        assert (found.candidate, found.level) == (night + 1, pytest.approx(FIRST / (night + 1) ** 2))
        levels.append(found.level)
        assert found.spent == pytest.approx(math.fsum(levels))
        history += line(digest(night), found.level)
    assert 0.0498 < math.fsum(levels) <= 0.05


def test_the_same_comparison_is_charged_once_and_another_champion_has_its_own_budget() -> None:
    history = line(digest(1), FIRST) + line(digest(2), FIRST / 4)
    again = charge(history, champion=CHAMPION, report=digest(1), alpha=0.05)
    assert (again.candidate, again.level, again.spent) == (1, pytest.approx(FIRST), pytest.approx(FIRST))
    other = charge(history, champion=digest(9), report=digest(3), alpha=0.05)
    assert (other.candidate, other.level) == (1, pytest.approx(FIRST))


def test_lines_that_cannot_be_read_are_charged_to_every_champion() -> None:
    for damaged in (b"{cut sho\n", b"[]\n", b"7\n", line(digest(1), None), b'{"metadata": 3}\n', b"\xff\n"):
        found = charge(damaged, champion=CHAMPION, report=digest(2), alpha=0.05)
        assert (found.candidate, found.level) == (2, pytest.approx(FIRST / 4))
    plain = json.dumps({"metadata": {"overrides": {}}}).encode() + b"\n\n"
    assert charge(plain, champion=CHAMPION, report=digest(2), alpha=0.05).candidate == 1


def test_a_budget_that_was_lowered_leaves_only_what_is_left() -> None:
    found = charge(line(digest(1), 0.03), champion=CHAMPION, report=digest(2), alpha=0.031)
    assert found.level == pytest.approx(0.001)
    none = charge(line(digest(1), 0.03), champion=CHAMPION, report=digest(2), alpha=0.01)
    assert (none.level, none.spent) == (0.0, pytest.approx(0.03))


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0.001, 0.5)), max_size=30))
def test_no_series_of_budgets_spends_more_than_the_largest(asked: list[tuple[int, float]]) -> None:
    history, charged = b"", {}
    for number, alpha in asked:
        found = charge(history, champion=CHAMPION, report=digest(number), alpha=alpha)
        charged.setdefault(number, found.level)
        history += line(digest(number), found.level)
    assert math.fsum(charged.values()) <= max((alpha for _, alpha in asked), default=0.0) + 1e-12


# the worker


def job(root: Path, night: int, wins: int, losses: int, **fields) -> ScorecardJob:
    """Publish a candidate's evaluation of 100 tasks and its comparison, and ask for a verdict."""
    candidate = digest(1000 + night)
    ours = [True] * 60 + [True] * wins + [False] * losses + [False] * (40 - wins - losses)
    theirs = [True] * 60 + [False] * wins + [True] * losses + [False] * (40 - wins - losses)
    reports = report(theirs, model_digest=CHAMPION), report(ours, model_digest=candidate)
    uri = (root / f"night-{night}").as_uri()
    defaults = {
        "run": RunRef(kind="PromotionScorecard", namespace="ns", name=f"card-{night}", uid=f"uid-{night}"),
        "attempt": 1,
        "output_uri": f"{uri}/attempt-1/",
        "candidate_digest": candidate,
        "eval_report": publish_document(uri, "report.json", reports[1]),
        "compare_report": publish_document(uri, "compare.json", compare(*reports)),
        "required_gates": ["task_pass_rate"],
        "comparison_require": "Better",
        "now": START.isoformat(),
        "valid_for_s": 3600.0,
        "scorecard_uri": f"{uri}/scorecards/",
        "history_uri": (root / "SCORECARD_HISTORY.jsonl").as_uri(),
    }
    return ScorecardJob(**{**defaults, **fields})


def run(asked: ScorecardJob):
    return worker.run(asked, Reporter(asked))


def lines(root: Path) -> list[dict]:
    return [json.loads(text) for text in (root / "SCORECARD_HISTORY.jsonl").read_text().splitlines()]


def test_the_same_evidence_passes_as_the_first_candidate_and_not_as_the_third(tmp_path: Path) -> None:
    first = run(job(tmp_path, 1, 9, 1))  # p = 0.0215
    assert (first.verdict, first.comparison.verdict) == (ScorecardVerdict.PASS, "Better")
    assert (first.comparison.candidate, first.comparison.level) == (1, pytest.approx(FIRST))
    run(job(tmp_path, 2, 5, 5))
    third = run(job(tmp_path, 3, 9, 1, candidate_digest=digest(1003)))
    assert (third.verdict, third.comparison.verdict) == (ScorecardVerdict.INCONCLUSIVE, "Inconclusive")
    assert third.comparison.candidate == 3
    assert third.comparison.spent == pytest.approx(FIRST * (1 + 1 / 4 + 1 / 9))
    shown = lines(tmp_path)
    assert [entry["verdict"] for entry in shown] == ["Pass", "Inconclusive", "Inconclusive"]
    assert [entry["metadata"]["comparison"]["candidate"] for entry in shown] == [1, 2, 3]
    assert shown[0]["metadata"]["expires_at"] == "2026-11-01T01:00:00+00:00"
    assert read_document(third.scorecard, Scorecard).metadata["comparison"]["budget"] == 0.05


def test_a_repeated_job_is_the_same_scorecard_and_costs_nothing(tmp_path: Path) -> None:
    asked = job(tmp_path, 1, 9, 1)
    first = run(asked)
    run(job(tmp_path, 2, 5, 5))
    again = run(asked.model_copy(update={"attempt": 2}))
    assert (again.scorecard, again.comparison) == (first.scorecard, first.comparison)
    assert len(lines(tmp_path)) == 2
    # a second opinion on the same comparison, at another hour, is no second look at the data
    later = run(asked.model_copy(update={"now": "2026-11-02T00:00:00+00:00"}))
    assert later.comparison == first.comparison
    assert len(lines(tmp_path)) == 3


def test_candidates_that_are_judged_at_once_are_charged_one_after_the_other(tmp_path: Path) -> None:
    jobs = [job(tmp_path, night, 6, 0) for night in range(12)]
    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(run, jobs))
    assert sorted(output.comparison.candidate for output in outputs) == list(range(1, 13))
    assert [entry["metadata"]["comparison"]["candidate"] for entry in lines(tmp_path)] == list(range(1, 13))


@pytest.mark.integration
def test_a_history_in_an_object_store_loses_no_line_to_another_writer(
    tmp_path: Path, s3_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for name, value in {"AWS_REGION": "us-east-1", **s3_server.env()}.items():
        monkeypatch.setenv(name, value)
    bucket = f"budget-{secrets.token_hex(6)}"
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    history = f"s3://{bucket}/scorecards/shop-SCORECARD_HISTORY.jsonl"
    jobs = [job(tmp_path, night, 6, 0, history_uri=history) for night in range(8)]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(run, [*jobs, *jobs]))
    assert {output.history_uri for output in outputs} == {history}
    shown = [json.loads(text) for text in open_store(history).read(history).splitlines()]
    assert [entry["metadata"]["comparison"]["candidate"] for entry in shown] == list(range(1, 9))
    assert len({entry["owner"] for entry in shown}) == 8


def test_not_worse_is_enough_where_it_is_asked_and_worse_never_is(tmp_path: Path) -> None:
    assert run(job(tmp_path, 1, 5, 5, comparison_require="NotWorse")).verdict == ScorecardVerdict.PASS
    assert run(job(tmp_path, 2, 5, 5)).verdict == ScorecardVerdict.INCONCLUSIVE
    without = {"compare_report": None}
    assert run(job(tmp_path, 4, 9, 1, **without)).verdict == ScorecardVerdict.PASS
    assert run(job(tmp_path, 5, 9, 1, comparison_needed=True, **without)).verdict == ScorecardVerdict.INCONCLUSIVE
    worse = run(job(tmp_path, 3, 0, 12, comparison_require="NotWorse", thresholds={"task_pass_rate": 0.1}))
    assert (worse.verdict, worse.comparison.verdict) == (ScorecardVerdict.FAIL, "Worse")


def test_a_comparison_of_other_weights_is_refused_and_charged_to_nobody(tmp_path: Path) -> None:
    other = job(tmp_path, 1, 9, 1).compare_report
    found = run(job(tmp_path, 2, 9, 1, compare_report=other))
    assert (found.verdict, found.comparison) == (ScorecardVerdict.INCONCLUSIVE, None)
    assert "compare_report is about" in lines(tmp_path)[0]["metadata"]["refused_evidence"][0]


def test_who_decided_a_threshold_is_recorded_and_an_impossible_budget_refused(tmp_path: Path) -> None:
    run(job(tmp_path, 1, 9, 1, thresholds={"task_pass_rate": 0.5}, threshold_authors={"task_pass_rate": "mara"}))
    assert lines(tmp_path)[0]["metadata"]["threshold_authors"] == {"task_pass_rate": "mara"}
    with pytest.raises(WorkerError, match=r"the error budget cannot be 1\.5") as caught:
        run(job(tmp_path, 2, 9, 1, comparison_alpha=1.5))
    assert caught.value.failure_class == FailureClass.USER_ERROR

"""Shadow analysis: the seed's figures, what counts as evidence, and both decision rules."""

import json
import random
from datetime import timedelta
from pathlib import Path

import pytest

from evaluation_factory import START, seed_example, trace, write_traces
from sluice_api.contracts.shadow import ShadowVerdict
from sluice_artifacts import open_store
from sluice_evaluator.runs import NotATraceError, parse_instant, read_folder, read_run, read_store
from sluice_evaluator.shadow import ShadowConfig, analyze, describe

HOUR = timedelta(hours=1)


def test_the_seed_example(tmp_path: Path) -> None:
    summary = analyze(read_folder(seed_example(tmp_path)), ShadowConfig())
    baseline, candidate = summary.variants["baseline"], summary.variants["candidate"]
    assert (baseline.run_count, baseline.step_count, baseline.escalation_count) == (200, 1240, 38)
    assert (candidate.run_count, candidate.step_count, candidate.escalation_count) == (10, 62, 1)
    assert (baseline.escalation_rate, candidate.escalation_rate) == (0.0306, 0.0161)
    comparison = summary.comparison
    assert comparison is not None
    assert comparison.escalation_rate_delta == -0.0145
    assert comparison.candidate_escalation_rate_lower
    assert (comparison.baseline_runs, comparison.candidate_runs) == (200, 10)
    assert summary.verdict == ShadowVerdict.NON_INFERIOR
    # the sequential test sees what it is worth: nothing yet
    sequential = analyze(read_folder(tmp_path), ShadowConfig(method="sequential"))
    assert sequential.verdict == ShadowVerdict.UNDECIDED
    assert "verdict: Undecided" in describe(sequential)


def test_raw_and_labelled_traces_count_alike(tmp_path: Path) -> None:
    for labelled in (True, False):
        rows = [
            trace("b", "baseline", escalations=1, failures=2, labelled=labelled),
            trace("c", "candidate", failures=1, labelled=labelled),
        ]
        summary = analyze(read_folder(write_traces(tmp_path / str(labelled), rows)), ShadowConfig())
        baseline = summary.variants["baseline"]
        assert (baseline.escalation_count, baseline.failure_count, baseline.escalated_runs) == (1, 3, 1)
        assert (baseline.escalation_rate, baseline.failure_rate) == (0.1667, 0.5)
        assert summary.comparison is not None
        assert summary.comparison.failure_rate_delta == -0.3333


def test_runs_without_an_arm_are_unassigned_and_prove_nothing(tmp_path: Path) -> None:
    rows = [trace("a", ""), trace("b", " "), trace("c", "candidate")]
    rows[0].pop("variant")
    summary = analyze(read_folder(write_traces(tmp_path, rows)), ShadowConfig())
    assert summary.variants["__unassigned__"].run_count == 2
    assert summary.comparison is None
    assert summary.verdict == ShadowVerdict.NO_DATA
    assert analyze(read_folder(tmp_path / "acme" / "c.json"), ShadowConfig()).verdict == ShadowVerdict.NO_DATA


def test_a_candidate_without_a_single_step_has_no_rate(tmp_path: Path) -> None:
    rows = [trace("b", "baseline"), trace("c", "candidate", steps=0)]
    assert analyze(read_folder(write_traces(tmp_path, rows)), ShadowConfig()).verdict == ShadowVerdict.NO_DATA


@pytest.mark.parametrize(
    ("tolerance", "verdict"),
    [(0.0, "Harm"), (0.0099, "Harm"), (0.01, "NonInferior"), (0.02, "NonInferior")],
)
def test_the_tolerance_is_inclusive_and_nothing_is_rounded_away(tmp_path: Path, tolerance: float, verdict: str) -> None:
    # 4 of 100 against 3 of 100: as floats their difference is a little more than a hundredth
    rows = [trace("b", "baseline", steps=100, escalations=3), trace("c", "candidate", steps=100, escalations=4)]
    found = read_folder(write_traces(tmp_path, rows))
    assert analyze(found, ShadowConfig(tolerance=tolerance)).verdict == verdict


def test_a_difference_below_the_fourth_decimal_is_still_a_difference(tmp_path: Path) -> None:
    rows = [
        trace("b", "baseline", steps=60_000, escalations=600),
        trace("c", "candidate", steps=60_000, escalations=601),
    ]
    summary = analyze(read_folder(write_traces(tmp_path, rows)), ShadowConfig())
    assert summary.comparison is not None
    assert summary.comparison.escalation_rate_delta == 0.0
    assert not summary.comparison.candidate_escalation_rate_lower
    assert summary.verdict == ShadowVerdict.HARM


def test_only_matured_runs_of_this_step_this_rollout_and_these_weights_count(tmp_path: Path) -> None:
    ours = {"rollout": "uid-1", "model_digest": "sha256:c"}
    stable = {"rollout": "uid-1", "model_digest": "sha256:s"}
    rows = [
        trace("c-counts", "candidate", at_s=3600, **ours),
        trace("c-early", "candidate", at_s=-1, **ours),
        trace("c-young", "candidate", at_s=6600, **ours),
        trace("c-weights", "candidate", at_s=3600, **{**ours, "model_digest": "sha256:x"}),
        trace("c-unknown", "candidate", at_s=3600, **{**ours, "model_digest": ""}),
        trace("c-rollout", "candidate", at_s=3600, **{**ours, "rollout": "uid-0"}),
        trace("s-counts", "baseline", at_s=3600, **stable),
        trace("s-weights", "baseline", at_s=3600, **{**stable, "model_digest": "sha256:y"}),
        trace("undated", "candidate", **{**ours, "started_at": "yesterday"}),
    ]
    config = ShadowConfig(
        since=START,
        now=START + 2 * HOUR,
        maturity_s=900,
        rollout="uid-1",
        candidate_digest="sha256:c",
        stable_digest="sha256:s",
    )
    summary = analyze(read_folder(write_traces(tmp_path, rows)), config)
    assert {name: arm.run_count for name, arm in summary.variants.items()} == {"baseline": 1, "candidate": 1}
    assert (summary.immature_runs, summary.foreign_runs, summary.foreign_stable_runs) == (1, 3, 1)
    assert summary.bad_files == 1
    assert summary.candidate_share == pytest.approx(2 / 3)
    assert summary.last_run_at == "2026-11-01T01:50:30.000Z"
    assert summary.candidate_digest == "sha256:c"


def test_bad_files_are_counted_and_named_and_hold_a_strict_verdict(tmp_path: Path) -> None:
    write_traces(tmp_path, [trace("b", "baseline"), trace("c", "candidate")])
    (tmp_path / "cut.json").write_text('{"steps": [')
    (tmp_path / "latin.json").write_bytes(b'{"steps": "\xff"}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "future.json").write_text(json.dumps({**trace("f", "baseline"), "schema_version": 9}))
    (tmp_path / "twice.json").write_text(json.dumps(trace("b", "baseline")))
    (tmp_path / "odd.json").write_text(json.dumps({"steps": [{"success": "yes"}]}))
    (tmp_path / ".c.json").write_text("still being written")
    found = read_folder(tmp_path)
    assert found.files == 8
    bad = "\n".join(found.bad)
    for expected in (
        "cut.json: not JSON, or cut short",
        "latin.json: not UTF-8",
        "list.json: no list of `steps`",
        "future.json: schema version 9",
        "twice.json: the same run as acme/b.json",
        "odd.json: a step's `success` is not a boolean",
    ):
        assert expected in bad
    lenient = analyze(found, ShadowConfig())
    assert (lenient.verdict, lenient.bad_files, len(lenient.bad_examples)) == (ShadowVerdict.NON_INFERIOR, 6, 5)
    assert analyze(found, ShadowConfig(most_bad=0.05)).verdict == ShadowVerdict.UNDECIDED


def _stream(count: int, share: float, rates: tuple[float, float], seed: int = 1) -> list[dict]:
    generator = random.Random(seed)
    rows = []
    for i in range(count):
        candidate = generator.random() < share
        escalates = generator.random() < rates[candidate]
        rows.append(
            trace(f"r{i:05}", "candidate" if candidate else "baseline", steps=3, escalations=int(escalates), at_s=i)
        )
    return rows


def test_sequential_finds_harm_at_any_time_and_safety_after_the_runs_asked_for(tmp_path: Path) -> None:
    bad = read_folder(write_traces(tmp_path / "bad", _stream(900, 0.3, (0.03, 0.15))))
    config = ShadowConfig(method="sequential", margin=0.03, min_runs=10_000)
    harmful = analyze(bad, config)
    assert harmful.verdict == ShadowVerdict.HARM
    assert harmful.e_process is not None
    assert harmful.e_process.harm >= harmful.e_process.threshold == 20.0
    good = read_folder(write_traces(tmp_path / "good", _stream(2500, 0.4, (0.05, 0.01))))
    assert analyze(good, config).verdict == ShadowVerdict.INSUFFICIENT
    safe = analyze(good, ShadowConfig(method="sequential", margin=0.03, min_runs=300))
    assert safe.verdict == ShadowVerdict.NON_INFERIOR
    early = analyze(
        good, ShadowConfig(method="sequential", margin=0.03, min_runs=10, now=START + timedelta(seconds=130))
    )
    assert early.verdict == ShadowVerdict.UNDECIDED


def test_a_later_analysis_begins_like_the_earlier_one(tmp_path: Path) -> None:
    found = read_folder(write_traces(tmp_path, _stream(600, 0.3, (0.03, 0.2))))
    harms = []
    for seconds in range(60, 660, 60):
        config = ShadowConfig(method="sequential", now=START + timedelta(seconds=seconds))
        process = analyze(found, config).e_process
        assert process is not None
        harms.append(process.harm)
    # the highest e-value so far can only rise, and what was shown once stays shown
    assert harms == sorted(harms)
    assert harms[-1] >= 20


def test_a_control_from_before_the_step_is_dealt_out_evenly(tmp_path: Path) -> None:
    before = [trace(f"s{i:04}", "baseline", escalations=int(i % 33 == 0), at_s=i) for i in range(600)]
    during = [trace(f"c{i:04}", "candidate", escalations=int(i % 5 == 0), at_s=1000 + i) for i in range(200)]
    found = read_folder(write_traces(tmp_path, before + during))
    since = START + timedelta(seconds=900)
    config = ShadowConfig(method="sequential", since=since, baseline_since=START, min_runs=100)
    summary = analyze(found, config)
    assert summary.variants["baseline"].run_count == 600
    assert summary.verdict == ShadowVerdict.HARM
    assert summary.candidate_share == 1.0
    concurrent = analyze(found, ShadowConfig(method="sequential", since=since, min_runs=100))
    assert concurrent.verdict == ShadowVerdict.NO_DATA


def test_a_store_is_read_like_a_folder_and_old_objects_are_not_read(tmp_path: Path) -> None:
    write_traces(tmp_path, _stream(40, 0.5, (0.1, 0.1)))
    (tmp_path / "acme" / ".half.json").write_text("{")
    uri = tmp_path.as_uri() + "/"
    store = open_store(uri)
    assert [run.run_id for run in read_store(store, uri).runs] == [run.run_id for run in read_folder(tmp_path).runs]
    tomorrow = max(info.modified for info in store.list(uri)) + timedelta(days=1)
    assert read_store(store, uri, tomorrow).files == 0


def test_instants_and_versions() -> None:
    assert parse_instant("2026-11-01T00:00:00Z") == parse_instant("2026-11-01T01:00:00+01:00") == START
    assert parse_instant("2026-11-01T00:00:00") == parse_instant(START.timestamp()) == START
    assert all(parse_instant(value) is None for value in ("", "soon", None, True, [], 1e30, float("nan")))
    old = trace("r", "baseline", schema_version=1)
    assert read_run(json.dumps(old).encode(), "p").variant == "baseline"
    with pytest.raises(NotATraceError, match="schema version '3'"):
        read_run(json.dumps({**old, "schema_version": "3"}).encode(), "p")
    with pytest.raises(FileNotFoundError):
        read_folder(Path("no/such/folder"))


@pytest.mark.parametrize(
    "change",
    [
        {"min_runs": 0},
        {"maturity_s": -1.0},
        {"maturity_s": 5.0},
        {"tolerance": float("nan")},
        {"margin": 0.0},
        {"alpha": 1.0},
        {"most_bad": 2.0},
    ],
)
def test_configurations_that_make_no_sense_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"must|cannot|needs"):
        ShadowConfig(**change)

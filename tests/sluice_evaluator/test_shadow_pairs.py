"""Mirrored requests: joined by request, compared in pairs, valid whenever one looks."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.contracts.trace import Variant
from sluice_evaluator.runs import Run, RunSet
from sluice_evaluator.shadow import ShadowConfig, analyze
from sluice_evaluator.shadow_pairs import join
from sluice_evaluator.statistics.pairs import paired_e_path

START = datetime(2026, 11, 21, tzinfo=UTC)
STABLE, CANDIDATE = "sha256:" + "5" * 64, "sha256:" + "c" * 64


def run(variant: str, request: str, *, escalated: bool = False, minute: float = 1.0, digest: str = "") -> Run:
    ended = START + timedelta(minutes=minute)
    return Run(
        tenant="t",
        run_id=f"{variant}-{request}",
        variant=variant,
        started_at=ended,
        ended_at=ended,
        steps=2,
        escalations=int(escalated),
        failures=int(escalated),
        model_digest=digest or (STABLE if variant == Variant.BASELINE else CANDIDATE),
        rollout="",
        request_id=request,
        path=f"{variant}-{request}.json",
        reasons={},
    )


def pairs(count: int, *, only_candidate: int = 0, only_stable: int = 0, both: int = 0) -> list[Run]:
    """Pairs of runs, evenly mixed."""
    kinds = [(True, False)] * only_candidate + [(False, True)] * only_stable + [(True, True)] * both
    kinds += [(False, False)] * (count - len(kinds))
    order = np.random.default_rng(7).permutation(count)
    found = []
    for number, place in enumerate(order):
        candidate, stable = kinds[place]
        minute = number / 10
        found.append(run(Variant.BASELINE, f"q{number}", escalated=stable, minute=minute))
        found.append(run(Variant.MIRROR, f"q{number}", escalated=candidate, minute=minute))
    return found


def config(**changes) -> ShadowConfig:
    asked = {
        "method": "sequential",
        "paired": True,
        "margin": 0.03,
        "min_runs": 50,
        "since": START,
        "now": START + timedelta(hours=3),
        "candidate_digest": CANDIDATE,
        "stable_digest": STABLE,
    }
    return ShadowConfig(**(asked | changes))


def judged(runs: list[Run], **changes):
    return analyze(RunSet(runs=runs, files=len(runs)), config(**changes))


def test_the_same_requests_are_joined_and_nothing_else():
    runs = [
        run(Variant.BASELINE, "a"),
        run(Variant.MIRROR, "a", escalated=True),
        run(Variant.BASELINE, "b", escalated=True),
        run(Variant.MIRROR, "b"),
        run(Variant.MIRROR, "alone"),
        run(Variant.MIRROR, ""),
        run(Variant.BASELINE, "unmirrored"),
        run(Variant.CANDIDATE, "a"),
    ]
    joined = join(runs)
    assert joined.differences.tolist() == [1.0, -1.0]
    assert joined.counts.model_dump() == {"joined": 2, "only_candidate": 1, "only_stable": 1, "unmatched": 2}


def test_a_request_that_was_served_twice_is_no_pair():
    twice = [run(Variant.BASELINE, "a"), run(Variant.BASELINE, "a"), run(Variant.MIRROR, "a")]
    assert join(twice).counts.joined == 0


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (pairs(400, both=20), ShadowVerdict.NON_INFERIOR),
        (pairs(400, only_candidate=4, only_stable=4), ShadowVerdict.NON_INFERIOR),
        (pairs(400, only_candidate=40, only_stable=2), ShadowVerdict.HARM),
        (pairs(100, only_candidate=6, only_stable=3), ShadowVerdict.UNDECIDED),
        (pairs(40), ShadowVerdict.INSUFFICIENT),
        ([run(Variant.BASELINE, str(n)) for n in range(80)], ShadowVerdict.NO_DATA),
        ([], ShadowVerdict.NO_DATA),
    ],
)
def test_pairs_decide_what_they_show(found, verdict):
    summary = judged(found)
    assert summary.verdict is verdict
    assert summary.pairs is not None


def test_what_both_arms_share_cancels_out():
    hard = judged(pairs(300, both=150)).e_process
    easy = judged(pairs(300)).e_process
    assert hard == easy


def test_mirrored_runs_never_count_as_users_of_a_candidate():
    found = pairs(100, only_candidate=50)
    summary = judged(found, paired=False)
    assert summary.verdict is ShadowVerdict.NO_DATA
    assert (summary.candidate_share, summary.pairs) == (0.0, None)


def test_runs_of_other_weights_are_left_out():
    found = [*pairs(60), run(Variant.MIRROR, "x", digest=STABLE), run(Variant.BASELINE, "x", digest=CANDIDATE)]
    summary = judged(found)
    assert (summary.pairs.joined, summary.foreign_runs, summary.foreign_stable_runs) == (60, 1, 1)


def test_the_share_is_that_of_the_requests_that_were_copied():
    found = pairs(50) + [run(Variant.BASELINE, f"r{n}") for n in range(450)]
    assert judged(found).candidate_share == 0.1


def test_pairs_need_the_sequential_method():
    with pytest.raises(ValueError, match="sequential"):
        config(method="tolerance")


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_equal_arms_are_rarely_called_harmful_however_often_one_looks(rate):
    generator = np.random.default_rng(11)
    shape = (2000, 600)
    drawn = (generator.random(shape) < rate).astype(float) - (generator.random(shape) < rate).astype(float)
    assert (paired_e_path(drawn, 0.03).log_harm >= np.log(20)).any(axis=-1).mean() <= 0.05


def test_a_candidate_at_the_margin_is_rarely_called_safe_however_often_one_looks():
    generator = np.random.default_rng(12)
    drawn = (generator.random((2000, 600)) < 0.05).astype(float) - (generator.random((2000, 600)) < 0.02)
    assert (paired_e_path(drawn, 0.03).log_safe >= np.log(20)).any(axis=-1).mean() <= 0.05


def test_pairs_see_harm_that_two_arms_of_as_many_runs_do_not():
    summary = judged(pairs(200, only_candidate=16, both=20))
    alone = [r if r.variant == Variant.BASELINE else _as_user(r) for r in pairs(200, only_candidate=16, both=20)]
    assert summary.verdict is ShadowVerdict.HARM
    assert judged(alone, paired=False).verdict is not ShadowVerdict.HARM


def _as_user(found: Run) -> Run:
    return run(Variant.CANDIDATE, found.request_id, escalated=found.escalations > 0, minute=2.0)


@pytest.mark.parametrize("bad", [[0.5], [2.0], [float("nan")]])
def test_a_difference_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="difference"):
        paired_e_path(np.array(bad), 0.03)

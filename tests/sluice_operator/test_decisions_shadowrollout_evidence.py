"""A ShadowRollout's routes, evidence and guards: what pauses it, what it holds for, what it starts again from 0 for."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rolloutworld import CANDIDATE, NAME, ROLLOUT, SPEC, STABLE, STEPS, RolloutWorld
from sluice_api.contracts.jobs import ShadowOutput
from sluice_api.contracts.shadow import EProcess, ShadowVerdict
from sluice_operator.decisions.base import GuardView, JobState, RouterProblem, RouteView, SetRoute
from sluice_operator.guards import read_answer

GOLDEN = Path(__file__).parent / "golden"
OWN = {
    "router": "httpRoute",
    "parentRefs": [{"name": "gateway"}],
    "stable": {"service": "agent-stable", "port": 8000},
    "candidate": {"service": "agent-new", "port": 8000},
}
ADOPT = {key: value for key, value in OWN.items() if key != "parentRefs"} | {"adopt": "shop"}


def phase(world: RolloutWorld) -> tuple[str, str]:
    status = world.look()
    return status["phase"], status["reason"]


def message(world: RolloutWorld) -> str:
    return str(world.look()["message"])


def ready(world: RolloutWorld) -> None:
    """Bring the first step to where its scorecard passes and its weight would rise."""
    world.look()
    for _ in range(3):
        world.analyse()
    for name in world.open_cards():
        world.judge(name, "Pass")


# What is pinned


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"assignment": {"salt": "other"}}, "AssignmentChanged"),
        ({"assignment": {"key": "tenant"}}, "AssignmentChanged"),
        ({"traffic": {"configMap": "elsewhere"}}, "TrafficChanged"),
        ({"traffic": OWN}, "TrafficChanged"),
    ],
)
def test_another_assignment_or_route_starts_again_from_zero(change, reason):
    world = RolloutWorld()
    world.look()
    world.pass_step()
    assert world.weight == 25
    world.edit(ROLLOUT, NAME, **change)
    decision = world.decision(ROLLOUT, NAME)
    first = decision.actions[0]
    assert isinstance(first, SetRoute) and first.weight == 0
    assert decision.status["reason"] == reason
    world.look()
    status = world.status(ROLLOUT, NAME)
    assert (status["round"], status["step"], world.weight) == (2, 1, 5)
    assert world.raises() == [5, 25, 0, 5]


def test_an_ended_rollout_stays_ended_whatever_its_traffic_says():
    world = RolloutWorld()
    world.look()
    world.annotate(ROLLOUT, NAME, abort="x")
    world.look()
    world.edit(ROLLOUT, NAME, traffic={"configMap": "elsewhere"}, assignment={"salt": "other"})
    assert phase(world) == ("RolledBack", "Aborted")
    assert world.raises() == [5, 0]


# An adopted route


@pytest.mark.parametrize("weight", [0, 3])
def test_an_adopted_route_that_somebody_lowers_pauses_the_rollout(weight):
    world = RolloutWorld(traffic=ADOPT)
    ready(world)
    foreign = RouteView(exists=True, weight=weight, problem=RouterProblem.FOREIGN_EDIT, message="somebody set it")
    world.routes[world.uid] = foreign
    assert phase(world) == ("Paused", "ForeignEdit")
    assert "set 5 % again, or abort" in message(world)
    assert world.weight == weight
    assert world.raises() == [5]
    world.routes[world.uid] = RouteView(
        exists=True, weight=5, verified=True, stable_digest=STABLE, candidate_digest=CANDIDATE
    )
    world.look()
    assert world.weight == 25


def test_an_adopted_route_with_more_than_was_earned_is_taken_out_once():
    world = RolloutWorld(traffic=ADOPT)
    world.look()
    view = replace(world.routes[world.uid], weight=60, problem=RouterProblem.FOREIGN_EDIT, message="somebody set 60 %")
    world.routes[world.uid] = view
    assert phase(world) == ("RolledBack", "ForeignEdit")
    assert world.raises() == [5, 0]


def test_harm_takes_the_candidate_out_of_an_adopted_route_that_was_edited_too():
    world = RolloutWorld(traffic=ADOPT)
    world.look()
    world.routes[world.uid] = replace(world.routes[world.uid], weight=3, problem=RouterProblem.FOREIGN_EDIT)
    world.analyse(ShadowVerdict.HARM)
    assert (phase(world), world.weight) == (("RolledBack", "Harm"), 0)


# Mirroring


def test_a_mirror_step_copies_requests_and_gives_no_user_to_the_candidate():
    steps = [{"weight": 0, "shadow": {"mirror": 10}, "soak": "10m"}, *STEPS]
    world = RolloutWorld(traffic=OWN, steps=steps)
    world.look()
    route = world.routes[world.uid]
    assert (route.weight, route.mirror) == (0, 10)
    world.analyse(share=0.1)
    job = world.inputs[world.submissions[-1]]
    assert (job.paired, job.rollout, job.harm_alpha) == (True, "", 0.025)
    for _ in range(2):
        world.analyse(share=0.1)
    for name in world.open_cards():
        world.judge(name, "Pass")
    world.look()
    route = world.routes[world.uid]
    assert (world.status(ROLLOUT, NAME)["step"], route.weight, route.mirror) == (2, 5, 0)


def test_harm_on_mirrored_requests_ends_the_copies():
    world = RolloutWorld(traffic=OWN, steps=[{"weight": 0, "shadow": {"mirror": 10}}, *STEPS])
    world.look()
    world.analyse(ShadowVerdict.HARM, share=0.1)
    assert phase(world) == ("RolledBack", "Harm")
    assert world.routes[world.uid].mirror == 0


@pytest.mark.parametrize("traffic", [{"router": "configMap"}, ADOPT])
def test_only_a_route_of_our_own_can_mirror(traffic):
    world = RolloutWorld(traffic=traffic, steps=[{"weight": 0, "shadow": {"mirror": 10}}, *STEPS])
    assert phase(world) == ("Stalled", "InvalidSpec")
    assert world.raises() == []


# Evidence that does not count


def test_a_share_that_is_not_the_route_s_holds_and_says_so():
    world = RolloutWorld()
    world.look()
    for _ in range(3):
        world.analyse(share=0.3)
    assert phase(world) == ("Soaking", "ShareMismatch")
    assert "served 30.0% of the runs, the route asks for 5%" in message(world)
    assert world.condition(ROLLOUT, NAME, "WeightsVerified") == ("False", "ShareMismatch")
    assert world.weight == 5


def test_a_few_tenants_may_add_up_to_another_share():
    world = RolloutWorld(assignment={"key": "tenant"})
    world.look()
    for _ in range(3):
        world.analyse(share=0.3)
    assert phase(world)[0] == "AwaitingScorecard"
    assert world.condition(ROLLOUT, NAME, "WeightsVerified") == ("False", "ShareMismatch")


def test_unreadable_traces_hold_the_last_step_too():
    world = RolloutWorld()
    world.look()
    world.pass_step()
    world.pass_step()
    assert world.weight == 100
    for _ in range(3):
        world.analyse(unreadable=51)
    assert phase(world) == ("Soaking", "TracesUnreadable")
    assert "5.1% of the traces cannot be read" in message(world)
    assert world.open_cards() == []
    world.analyse(unreadable=50)
    assert phase(world)[0] == "AwaitingScorecard"


def of_another_evaluator(world: RolloutWorld) -> None:
    world.pass_time(minutes=5)
    world.look()
    job = world.newest_job(ROLLOUT, NAME)
    done: Any = world.results[next(iter(world.results))].output
    assert isinstance(done, ShadowOutput)
    summary = done.summary.model_copy(update={"evaluator": "sha256:" + "e" * 64, "candidate_share": 0.05})
    world.succeed(job, done.model_copy(update={"summary": summary}))


def test_what_is_not_a_number_is_not_known_and_decides_nothing():
    world = RolloutWorld()
    world.look()
    world.analyse()
    world.pass_time(minutes=5)
    world.look()
    job = world.newest_job(ROLLOUT, NAME)
    done: Any = world.results[next(iter(world.results))].output
    process = EProcess(harm=float("nan"), non_inferiority=float("inf"))
    summary = done.summary.model_copy(
        update={"e_process": process, "candidate_share": float("nan"), "verdict": ShadowVerdict.UNDECIDED}
    )
    world.succeed(job, done.model_copy(update={"summary": summary}))
    world.pass_time(minutes=5)
    assert phase(world) == ("Soaking", "Undecided")
    evidence = world.status(ROLLOUT, NAME)["evidence"]
    assert not {"harm", "nonInferiority", "candidateShare"} & set(evidence)
    assert world.weight == 5


def test_another_evaluator_holds_and_its_harm_still_counts():
    world = RolloutWorld()
    world.look()
    world.analyse()
    world.set_status(ROLLOUT, NAME, evaluator="sha256:" + "a" * 64)
    world.analyse()
    of_another_evaluator(world)
    assert phase(world) == ("Soaking", "EvaluatorChanged")
    assert "abort and retry" in message(world)
    world.analyse(ShadowVerdict.HARM)
    assert phase(world) == ("RolledBack", "Harm")


def test_harm_may_be_shown_wrongly_once_in_a_rollout_not_once_in_a_step():
    world = RolloutWorld()
    world.look()
    for _ in range(3):
        world.pass_step()
    parts = {world.inputs[job].harm_alpha for job in world.submissions}
    assert sorted(parts, reverse=True) == [0.025, 0.0125]
    assert sum(world.inputs[job].harm_alpha for job in (world.submissions[0], world.submissions[3])) < 0.05
    last = world.inputs[world.submissions[-1]]
    assert last.harm_alpha == 0.0125
    assert 0.025 + 0.0125 + last.harm_alpha == SPEC["analysis"].get("alpha", 0.05)


def test_the_bake_time_starts_anew_after_a_gate_held():
    world = RolloutWorld(bake="1h")
    world.look()
    for _ in range(3):
        world.pass_step()
    began = world.status(ROLLOUT, NAME)["bakeStartedAt"]
    world.backend_down = "connection refused"
    world.pass_time(minutes=20)
    assert phase(world) == ("NoData", "EvidenceStale")
    assert "bakeStartedAt" not in world.status(ROLLOUT, NAME)
    world.backend_down = ""
    world.look()
    world.analyse()
    assert phase(world) == ("Baking", "Baking")
    assert world.status(ROLLOUT, NAME)["bakeStartedAt"] > began


# A backend that is gone


def test_a_retry_does_not_wait_for_ever_for_an_analysis_that_nobody_answers_for():
    world = RolloutWorld()
    world.look()
    world.pass_time(minutes=5)
    world.look()
    world.job(world.newest_job(ROLLOUT, NAME), JobState.RUNNING)
    world.look()
    world.backend_down = "connection refused"
    world.annotate(ROLLOUT, NAME, abort="x", retry="1")
    world.look()
    assert "connection refused" in message(world)
    assert world.weight == 0
    world.pass_time(hours=1, seconds=5)
    assert "ran for more than 1h" in message(world)
    assert "given up 20s after the deadline" in message(world)
    world.pass_time(seconds=30)
    world.look()
    assert (world.status(ROLLOUT, NAME)["step"], world.weight) == (1, 5)


# Guards


GUARDED = {**SPEC["analysis"], "guards": [{"name": "errors", "query": "rate(x)", "max": 0.01, "for": "1m"}]}


@pytest.fixture
def guarded() -> RolloutWorld:
    world = RolloutWorld(analysis=GUARDED)
    world.guards["errors"] = GuardView(value=0.001)
    return world


def test_a_guard_above_its_maximum_rolls_back_after_its_time(guarded):
    guarded.look()
    guarded.guards["errors"] = GuardView(value=0.2)
    guarded.look()
    guarded.pass_time(seconds=59)
    guarded.look()
    assert guarded.weight == 5
    assert guarded.status(ROLLOUT, NAME)["guards"] == [
        {"name": "errors", "state": "Breached", "since": "2026-11-21T12:00:00Z"}
    ]
    guarded.pass_time(seconds=1)
    assert phase(guarded) == ("RolledBack", "GuardBreached")
    assert guarded.weight == 0
    assert "guard 'errors' has been above 0.01 since 2026-11-21T12:00:00Z (now 0.2)" in message(guarded)


def test_a_guard_that_recovers_in_time_is_forgiven(guarded):
    guarded.look()
    for value in (0.2, 0.001, 0.2):
        guarded.guards["errors"] = GuardView(value=value)
        guarded.pass_time(seconds=40)
        guarded.look()
    assert guarded.weight == 5


@pytest.mark.parametrize("view", [None, GuardView(problem="no answer"), GuardView(value=float("nan"))])
def test_a_guard_without_an_answer_holds_and_rolls_nothing_back(guarded, view):
    ready(guarded)
    guarded.guards.clear()
    if view is not None:
        guarded.guards["errors"] = view
    assert phase(guarded) == ("NoData", "GuardUnknown")
    guarded.pass_time(minutes=5)
    guarded.look()
    assert guarded.weight == 5
    guarded.guards["errors"] = GuardView(value=0.001)
    guarded.analyse(wait=0)
    for name in guarded.open_cards():
        guarded.judge(name, "Pass")
    guarded.look()
    assert guarded.weight == 25


def test_guards_are_asked_often_and_only_while_there_is_something_to_guard(guarded):
    guarded.look()
    assert guarded.decision(ROLLOUT, NAME).requeue_after <= timedelta(seconds=10)
    guarded.annotate(ROLLOUT, NAME, abort="x")
    guarded.guards["errors"] = GuardView(value=9.0)
    assert phase(guarded) == ("RolledBack", "Aborted")


def vector(*values: str) -> dict[str, Any]:
    result = [{"metric": {}, "value": [1.0, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


@pytest.mark.parametrize(
    ("answer", "value", "words"),
    [
        (vector("0.25"), 0.25, ""),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "3"]}}, 3.0, ""),
        (vector(), None, "gives 0 series"),
        (vector("1", "2"), None, "gives 2 series"),
        (vector("NaN"), None, "is there traffic"),
        (vector("+Inf"), None, "no number"),
        (vector("three"), None, "cannot be read"),
        ({"status": "error", "error": "parse error"}, None, "parse error"),
        ({"status": "success", "data": {}}, None, "cannot be read"),
        (["not", "an", "answer"], None, "refuses"),
    ],
)
def test_only_one_finite_number_is_an_answer(answer, value, words):
    view = read_answer(answer)
    assert view.value == value
    assert words in view.problem


# Approval


def test_an_approval_records_who_and_when():
    world = RolloutWorld(approval=[1])
    ready(world)
    world.annotate(ROLLOUT, NAME, **{"promote": "1", "promoted-by": "jane@example.com"})
    world.look()
    approval = world.status(ROLLOUT, NAME)["approvals"][0]
    assert approval == {"step": 1, "at": "2026-11-21T12:15:00Z", "by": "jane@example.com"}


# Whole rollouts, word by word


def good(world: RolloutWorld) -> None:
    for runs in (40, 120, 412):
        world.analyse(ShadowVerdict.NON_INFERIOR if runs > 200 else ShadowVerdict.UNDECIDED, runs=runs)
        told(world)
    for name in world.open_cards():
        world.judge(name, "Pass")


def told(world: RolloutWorld) -> None:
    status = world.look()
    line = f"{world.now:%H:%M} {world.weight:>3} % {status['phase']} {status['reason']}: {status['message']}"
    if not world.lines or world.lines[-1] != line:
        world.lines.append(line)


def a_good_one(world: RolloutWorld) -> None:
    for _ in range(3):
        good(world)
        told(world)


def a_harmful_one(world: RolloutWorld) -> None:
    good(world)
    told(world)
    world.analyse(ShadowVerdict.HARM, runs=300)
    told(world)
    world.annotate(ROLLOUT, NAME, retry="1")
    told(world)


def a_silent_one(world: RolloutWorld) -> None:
    world.edit(ROLLOUT, NAME, onInconclusive="Rollback")
    for _ in range(3):
        world.analyse(ShadowVerdict.NO_DATA, runs=0)
        told(world)
    world.pass_time(hours=23, minutes=30)
    world.analyse(ShadowVerdict.NO_DATA, runs=0)
    told(world)
    world.pass_time(minutes=10)
    told(world)


@pytest.mark.parametrize("history", [a_good_one, a_harmful_one, a_silent_one], ids=lambda history: history.__name__)
def test_whole_rollouts_word_by_word(history):
    world = RolloutWorld()
    world.lines = []
    told(world)
    history(world)
    assert "\n".join(world.lines) + "\n" == (GOLDEN / f"{history.__name__}.txt").read_text(encoding="utf-8")

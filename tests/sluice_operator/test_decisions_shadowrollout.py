"""Lifecycles of a ShadowRollout: the climb, every way back, commands, rivals, and faults of what it stands on."""

from dataclasses import replace

import pytest

from decisionworld import channel, digest
from rolloutworld import CANDIDATE, CARD, NAME, OTHER, ROLLOUT, ROOT, RUN, STABLE, STEPS, RolloutWorld, analysis
from sluice_api.contracts.jobs import FailureClass
from sluice_api.contracts.shadow import ShadowVerdict
from sluice_operator.decisions import rivals_of
from sluice_operator.decisions.base import JobState, MoveChannel, RouterProblem, RouteView, SetRoute


@pytest.fixture
def world() -> RolloutWorld:
    return RolloutWorld()


def phase(world: RolloutWorld) -> tuple[str, str]:
    status = world.look()
    return status["phase"], status["reason"]


def test_the_whole_climb(world):
    transcript = []

    def look() -> None:
        status = world.look()
        transcript.append((status["phase"], status["reason"], status["step"], world.weight))

    look()
    for weight in (5, 25, 100):
        assert world.weight == weight
        world.analyse(ShadowVerdict.INSUFFICIENT, runs=20)
        look()
        world.analyse(ShadowVerdict.UNDECIDED, runs=90)
        look()
        world.analyse(ShadowVerdict.UNDECIDED, runs=150)
        look()
        if weight < 100:
            world.analyse(ShadowVerdict.NON_INFERIOR, runs=300)
            look()
        (card,) = world.open_cards()
        assert world.objects[CARD, card]["spec"]["candidate"] == {"digest": CANDIDATE}
        world.judge(card, "Pass")
        look()
    assert transcript == [
        ("Baking", "NoEvidence", 1, 5),
        ("Soaking", "Soaking", 1, 5),
        ("Soaking", "TooFewRuns", 1, 5),
        ("Soaking", "Undecided", 1, 5),
        ("AwaitingScorecard", "AwaitingScorecard", 1, 5),
        ("Baking", "NoEvidence", 2, 25),
        ("Soaking", "Soaking", 2, 25),
        ("Soaking", "TooFewRuns", 2, 25),
        ("Soaking", "Undecided", 2, 25),
        ("AwaitingScorecard", "AwaitingScorecard", 2, 25),
        ("Baking", "NoEvidence", 3, 100),
        ("Soaking", "Soaking", 3, 100),
        ("Soaking", "TooFewRuns", 3, 100),
        ("AwaitingScorecard", "AwaitingScorecard", 3, 100),
        ("Completed", "Promoted", 3, 0),
    ]
    stable = world.channels[ROOT, "stable"]
    assert (stable.digest, stable.last_good) == (CANDIDATE, STABLE)
    assert stable.changed_by == f"shop/{NAME}/{world.uid}"
    assert stable.adapter is not None
    route = world.routes[world.uid]
    assert (route.weight, route.stable_digest, route.candidate_digest) == (0, CANDIDATE, "")
    status = world.status(ROLLOUT, NAME)
    assert status["lastGood"] == STABLE
    assert [(card["step"], card["verdict"]) for card in status["scorecards"]] == [(1, "Pass"), (2, "Pass"), (3, "Pass")]
    assert world.condition(ROLLOUT, NAME, "Completed") == ("True", "Promoted")
    assert world.condition(ROLLOUT, NAME, "Ready")[0] == "True"
    assert world.raises() == [5, 25, 100, 0]
    world.pass_time(days=9)
    assert not world.decision(ROLLOUT, NAME).actions


def test_messages_carry_the_numbers(world):
    world.look()
    world.analyse(ShadowVerdict.INSUFFICIENT, runs=41)
    assert "step 1 of 3 at 5 %: soaks until 2026-11-21T12:10:00Z, 41 of 100 matured runs" in world.look()["message"]
    world.pass_time(minutes=4)
    world.analyse(ShadowVerdict.INSUFFICIENT, runs=42, wait=1)
    assert world.look()["message"] == "step 1 of 3 at 5 %: 42 of 100 matured runs"


def test_the_analysis_counts_since_the_step_began_only(world):
    world.look()
    world.pass_step()
    world.analyse()
    first, *_, last = (world.inputs[job] for job in world.submissions)
    assert first.since == "2026-11-21T12:00:00Z"
    assert (last.since, last.now) == ("2026-11-21T12:15:00Z", "2026-11-21T12:20:00Z")
    assert (last.rollout, last.candidate_digest, last.stable_digest) == (world.uid, CANDIDATE, STABLE)
    assert first.baseline_since == last.baseline_since == ""
    assert world.status(ROLLOUT, NAME)["attempts"][-1]["key"] == "analysis/1/2/1"


def test_at_the_last_step_the_stable_runs_of_the_step_before_are_the_comparison(world):
    world.look()
    world.pass_step()
    world.pass_step()
    world.analyse(ShadowVerdict.NO_DATA)
    last = world.inputs[world.submissions[-1]]
    assert last.since == "2026-11-21T12:30:00Z"
    assert last.baseline_since == "2026-11-21T12:15:00Z"
    world.analyse(ShadowVerdict.HARM)
    assert (world.status(ROLLOUT, NAME)["phase"], world.weight) == ("RolledBack", 0)


# Before the first step


@pytest.mark.parametrize(
    ("spoil", "expected", "words"),
    [
        (lambda w: w.judge("offline", "Fail"), ("Refused", "ScorecardNotPassed"), "says Fail"),
        (lambda w: w.judge("offline", "Inconclusive"), ("Refused", "ScorecardNotPassed"), "says Inconclusive"),
        (lambda w: w.judge("offline", None), ("Pending", "ScorecardPending"), "has no verdict"),
        (lambda w: w.judge("offline", "Pass", hours=-1), ("Refused", "ScorecardExpired"), "expired at"),
        (lambda w: w.set_status(CARD, "offline", candidate=OTHER), ("Refused", "CandidateMismatch"), "judged"),
        (lambda w: w.set_status(CARD, "offline", expiresAt=None), ("Refused", "ScorecardExpired"), "expired"),
        (lambda w: w.objects.pop((CARD, "offline")), ("Stalled", "ReferenceNotFound"), "does not exist"),
        (lambda w: w.set_status(RUN, "a1", adapter=None), ("Pending", "CandidateNotReady"), "no adapter yet"),
        (lambda w: w.set_status(RUN, "a1", adapter=None, phase="Failed"), ("Stalled", "CandidateFailed"), "failed"),
        (lambda w: w.objects.pop((RUN, "a1")), ("Stalled", "ReferenceNotFound"), "FineTuneRun/a1 does not exist"),
        (lambda w: w.channels.clear(), ("Stalled", "ChannelNotFound"), "does not exist"),
        (lambda w: setattr(w, "channel_problem", "403"), ("Pending", "ChannelUnreadable"), "403"),
        (lambda w: w.edit(ROLLOUT, NAME, profile="moon"), ("Stalled", "ProfileNotFound"), "moon"),
        (lambda w: w.edit(ROLLOUT, NAME, paused=True), ("Paused", "Paused"), "spec.paused"),
        (lambda w: w.edit(ROLLOUT, NAME, steps=STEPS[:2]), ("Stalled", "InvalidSpec"), "must end with 100"),
        (lambda w: w.edit(ROLLOUT, NAME, steps=[*STEPS[::-1]]), ("Stalled", "InvalidSpec"), "increase strictly"),
        (lambda w: w.edit(ROLLOUT, NAME, bake="99999999d"), ("Stalled", "InvalidSpec"), "spec.bake"),
        (lambda w: w.edit(ROLLOUT, NAME, traffic={"router": "httpRoute"}), ("Stalled", "InvalidSpec"), "spec.traffic"),
    ],
)
def test_no_traffic_moves_before_everything_is_in(world, spoil, expected, words):
    spoil(world)
    assert phase(world) == expected
    assert words in world.status(ROLLOUT, NAME)["message"]
    assert world.raises() == []
    assert not world.submissions


def test_a_refused_rollout_starts_once_its_scorecard_passes(world):
    world.judge("offline", "Fail")
    world.look()
    world.judge("offline", "Pass")
    world.look()
    assert world.weight == 5


def test_going_without_a_scorecard_is_visible():
    world = RolloutWorld(scorecardRef=None)
    world.look()
    assert world.weight == 5
    assert world.condition(ROLLOUT, NAME, "ScorecardSkipped") == ("True", "ScorecardSkipped")


def test_a_candidate_that_is_stable_already_completes_without_traffic(world):
    world.channels[ROOT, "stable"] = channel("stable", CANDIDATE)
    assert phase(world) == ("Completed", "AlreadyStable")
    assert world.raises() == []


def test_a_scorecard_that_fails_between_decision_and_first_weight_stops_the_start(world):
    world.step(ROLLOUT, NAME)
    assert world.step(ROLLOUT, NAME).status["step"] == 1
    world.judge("offline", "Fail")
    assert phase(world) == ("Refused", "ScorecardNotPassed")
    assert world.raises() == []


# Ways back


def test_harm_takes_the_candidate_out_first_and_for_good(world):
    world.look()
    world.analyse()
    world.pass_time(minutes=5)
    world.look()
    job = world.newest_job(ROLLOUT, NAME)
    world.log.clear()
    world.succeed(job, analysis(ShadowVerdict.HARM, runs=300, about=CANDIDATE, number=9))
    decision = world.decision(ROLLOUT, NAME)
    assert isinstance(decision.actions[0], SetRoute) and decision.actions[0].weight == 0
    assert decision.actions[0].candidate.digest == CANDIDATE
    assert decision.status["phase"] == "RollingBack"
    assert phase(world) == ("RolledBack", "Harm")
    status = world.status(ROLLOUT, NAME)
    assert "6 of 300 candidate runs escalated, 30 of 1200 stable ones" in status["message"]
    assert status["evidence"]["verdict"] == "Harm"
    assert status["step"] == 0
    assert world.condition(ROLLOUT, NAME, "RolledBack") == ("True", "Harm")
    assert world.condition(ROLLOUT, NAME, "Stalled")[0] == "True"
    world.pass_time(days=2)
    assert phase(world) == ("RolledBack", "Harm")
    assert world.raises() == [0]
    assert world.channels[ROOT, "stable"].digest == STABLE


def test_the_retry_annotation_starts_again_from_the_first_step(world):
    world.look()
    world.pass_step()
    world.annotate(ROLLOUT, NAME, promote="3")
    world.analyse(ShadowVerdict.HARM)
    assert world.status(ROLLOUT, NAME)["phase"] == "RolledBack"
    world.annotate(ROLLOUT, NAME, retry="1")
    status = world.look()
    assert (status["round"], status["step"], world.weight) == (2, 1, 5)
    assert status["acknowledged"] == {"retry": "1", "promote": "3"}
    assert "evidence" not in status
    world.analyse()
    assert world.status(ROLLOUT, NAME)["attempts"][-1]["key"] == "analysis/2/1/1"


def test_a_failed_step_scorecard_rolls_back(world):
    world.look()
    for _ in range(3):
        world.analyse()
    (card,) = world.open_cards()
    world.judge(card, "Fail")
    assert phase(world) == ("RolledBack", "StepScorecardFailed")
    assert card in world.status(ROLLOUT, NAME)["message"]
    assert world.weight == 0


def test_an_inconclusive_step_scorecard_holds_and_the_next_analysis_gets_another(world):
    world.look()
    world.analyse(ShadowVerdict.UNDECIDED)
    world.analyse()
    (first,) = world.open_cards()
    world.judge(first, "Inconclusive")
    assert phase(world) == ("AwaitingScorecard", "StepScorecardInconclusive")
    assert world.open_cards() == []
    world.analyse()
    (second,) = world.open_cards()
    assert second != first
    world.judge(second, "Pass")
    world.look()
    assert world.weight == 25


@pytest.mark.parametrize(
    "forge",
    [
        lambda raw: raw["metadata"].update(labels={}),
        lambda raw: raw["spec"].update(candidate={"digest": OTHER}),
        lambda raw: raw["spec"].update(metrics=[{"name": "escalation_rate_max", "value": 0, "source": "me"}]),
        lambda raw: raw["spec"].update(thresholds=[{"name": "escalation_rate_max", "value": 1, "author": "me"}]),
        lambda raw: raw["spec"].update(tier="base"),
        lambda raw: raw["spec"]["shadow"].update(step=2),
        lambda raw: raw["spec"]["shadow"].update(summaryDigest=OTHER),
        lambda raw: raw["status"].update(candidate=OTHER),
        lambda raw: raw["status"].update(expiresAt="2026-11-21T12:00:00Z"),
        lambda raw: raw["status"].pop("expiresAt"),
    ],
)
def test_a_forged_or_expired_step_scorecard_counts_for_nothing(world, forge):
    world.look()
    for _ in range(3):
        world.analyse()
    (card,) = world.open_cards()
    world.judge(card, "Pass")
    forge(world.objects[CARD, card])
    world.look()
    assert world.weight == 5
    assert world.status(ROLLOUT, NAME)["step"] == 1


def test_a_scorecard_of_another_step_or_round_does_not_count(world):
    world.look()
    world.pass_step()
    assert world.weight == 25
    for _ in range(3):
        world.analyse()
    assert world.look()["step"] == 2
    assert len(world.open_cards()) == 1


def test_evidence_about_other_weights_does_not_count(world):
    world.look()
    world.pass_time(minutes=10)
    world.analyse(about=OTHER, wait=0)
    status = world.look()
    assert status["attempts"][-1]["failure"]["reason"] == "ResultMismatch"
    assert "evidence" not in status
    assert (status["phase"], status["reason"]) == ("NoData", "AnalysisFailed")


def test_stale_evidence_holds(world):
    world.look()
    for _ in range(3):
        world.analyse(ShadowVerdict.UNDECIDED)
    world.backend_down = "connection refused"
    world.pass_time(minutes=16)
    assert phase(world) == ("NoData", "EvidenceStale")
    assert world.condition(ROLLOUT, NAME, "MetricsAvailable") == ("False", "EvidenceStale")
    assert world.weight == 5


def test_failed_analyses_hold_and_are_tried_again(world):
    world.look()
    for _ in range(4):
        world.pass_time(minutes=6)
        world.look()
        world.fail(world.newest_job(ROLLOUT, NAME), FailureClass.STORAGE, "403 from s3://traces")
        world.look()
    assert phase(world) == ("NoData", "AnalysisFailed")
    assert "403 from s3://traces" in world.status(ROLLOUT, NAME)["message"]
    assert len(world.submissions) == 4
    world.pass_time(minutes=5)
    world.analyse(wait=0)
    assert world.status(ROLLOUT, NAME)["verdict"] == "NonInferior"


def test_no_data_holds(world):
    world.look()
    for _ in range(4):
        world.analyse(ShadowVerdict.NO_DATA, runs=0)
    assert phase(world) == ("NoData", "NoData")
    assert world.weight == 5


@pytest.mark.parametrize(("policy", "expected", "weight"), [("Hold", "Inconclusive", 5), ("Rollback", "RolledBack", 0)])
def test_undecided_for_too_long(policy, expected, weight):
    world = RolloutWorld(onInconclusive=policy)
    world.look()
    world.analyse(ShadowVerdict.UNDECIDED)
    world.pass_time(hours=23, minutes=40)
    world.analyse(ShadowVerdict.UNDECIDED)
    world.pass_time(minutes=15)
    assert phase(world) == (expected, "Inconclusive")
    assert "undecided for 1d" in world.status(ROLLOUT, NAME)["message"]
    assert world.weight == weight


def test_pausing_holds_but_harm_still_rolls_back(world):
    world.look()
    world.edit(ROLLOUT, NAME, paused=True)
    for _ in range(4):
        world.analyse()
    assert phase(world) == ("Paused", "Paused")
    assert world.condition(ROLLOUT, NAME, "Paused")[0] == "True"
    assert world.weight == 5
    world.analyse(ShadowVerdict.HARM)
    assert (phase(world), world.weight) == (("RolledBack", "Harm"), 0)


def test_abort_rolls_back_once(world):
    world.look()
    world.annotate(ROLLOUT, NAME, abort="bad feeling")
    assert phase(world) == ("RolledBack", "Aborted")
    assert world.weight == 0
    world.annotate(ROLLOUT, NAME, retry="now")
    world.look()
    assert world.weight == 5
    world.annotate(ROLLOUT, NAME, retry="again")
    world.look()
    assert world.weight == 5
    assert "retry is ignored" in world.events[-1].message


def test_abort_before_the_start_keeps_it_from_starting(world):
    world.annotate(ROLLOUT, NAME, abort="x")
    assert phase(world) == ("RolledBack", "Aborted")
    assert world.raises() == []


def test_a_new_candidate_starts_from_zero(world):
    world.look()
    world.pass_step()
    world.trained("a2", OTHER)
    world.scorecard("offline2", OTHER)
    world.edit(ROLLOUT, NAME, candidate={"fineTuneRunRef": {"name": "a2"}}, scorecardRef={"name": "offline2"})
    status = world.look()
    assert (status["candidateDigest"], status["step"], status["round"], world.weight) == (OTHER, 1, 2, 5)
    assert world.raises() == [5, 25, 0, 5]


def test_a_candidate_that_is_not_ready_takes_the_weight_to_zero(world):
    world.look()
    world.edit(ROLLOUT, NAME, candidate={"fineTuneRunRef": {"name": "later"}})
    assert phase(world) == ("Stalled", "ReferenceNotFound")
    assert world.weight == 0


def test_a_vanished_candidate_holds_and_harm_still_rolls_back(world):
    world.look()
    del world.objects[RUN, "a1"]
    world.analyse()
    assert world.weight == 5
    world.analyse(ShadowVerdict.HARM)
    assert world.weight == 0
    assert world.routes[world.uid].stable_digest == STABLE


def test_editing_the_present_step_is_no_evidence(world):
    world.look()
    world.edit(ROLLOUT, NAME, steps=[{**STEPS[0], "weight": 90}, STEPS[2]])
    status = world.look()
    assert world.raises() == [5, 0, 90]
    assert (status["round"], status["step"]) == (2, 1)


def test_somebody_else_moves_the_channel(world):
    world.look()
    world.channels[ROOT, "stable"] = channel("stable", OTHER)
    assert phase(world) == ("Superseded", "StableChanged")
    route = world.routes[world.uid]
    assert (route.weight, route.stable_digest) == (0, OTHER)
    world.annotate(ROLLOUT, NAME, retry="1")
    status = world.look()
    assert (status["stableDigest"], world.weight) == (OTHER, 5)


def test_a_channel_that_vanished_supersedes(world):
    world.look()
    world.channels.clear()
    assert phase(world) == ("Superseded", "StableChanged")
    assert world.weight == 0


def test_an_unreadable_channel_stops_nothing_but_promotion(world):
    world.look()
    world.pass_step()
    world.pass_step()
    world.channel_problem = "503"
    world.pass_step()
    assert phase(world) == ("Pending", "ChannelUnreadable")
    assert world.weight == 100
    world.channel_problem = ""
    assert phase(world) == ("Completed", "Promoted")


# The route


def test_the_step_begins_only_when_the_route_is_in_force(world):
    world.route_verifies = False
    assert phase(world) == ("Baking", "RouteNotVerified")
    world.pass_time(hours=1)
    status = world.look()
    assert "stepStartedAt" not in status
    assert world.condition(ROLLOUT, NAME, "WeightsVerified") == ("False", "RouteNotVerified")
    world.verify_route(world.uid)
    assert world.look()["stepStartedAt"] == "2026-11-21T13:00:00Z"


def test_a_foreign_edit_is_set_right_with_an_event(world):
    world.look()
    world.routes[world.uid] = replace(world.routes[world.uid], weight=80)
    world.look()
    assert world.weight == 5
    assert world.events[-1].reason == "ForeignEdit"
    assert "had 80 %" in world.events[-1].message
    world.routes.pop(world.uid)
    world.look()
    assert world.weight == 5
    assert "was gone" in world.events[-1].message


def test_an_unreadable_route_is_taken_to_zero_too(world):
    world.look()
    world.routes[world.uid] = RouteView(exists=True, problem=RouterProblem.FOREIGN_EDIT, message="not what was written")
    world.annotate(ROLLOUT, NAME, abort="x")
    decision = world.decision(ROLLOUT, NAME)
    assert isinstance(decision.actions[0], SetRoute) and decision.actions[0].weight == 0
    assert decision.status["weight"]["actual"] == 5
    assert phase(world) == ("RolledBack", "Aborted")


def test_a_forged_route_is_taken_to_zero_before_the_start_too(world):
    world.judge("offline", "Fail")
    world.look()
    world.routes[world.uid] = RouteView(exists=True, weight=40, candidate_digest=CANDIDATE, stable_digest=STABLE)
    assert phase(world) == ("Refused", "ScorecardNotPassed")
    assert world.weight == 0
    assert world.events[-1].reason == "ForeignEdit"


def test_a_taken_route_name_stalls(world):
    world.routes[world.uid] = RouteView(exists=True, problem=RouterProblem.CONFLICT, message="owned by somebody")
    assert phase(world) == ("Stalled", "RouteConflict")
    assert world.raises() == []


def test_an_unreachable_router_holds_and_harm_is_written_anyway(world):
    world.look()
    world.routes[world.uid] = replace(world.routes[world.uid], problem=RouterProblem.UNREACHABLE, message="503")
    world.analyse()
    assert phase(world) == ("Pending", "RouterUnreachable")
    world.analyse(ShadowVerdict.HARM)
    assert world.weight == 0


# Approval


def test_a_step_waits_for_its_approval_and_evidence_is_not_replaced_by_it():
    world = RolloutWorld(approval=[1])
    world.annotate(ROLLOUT, NAME, promote="1")
    world.look()
    assert world.weight == 5
    assert world.status(ROLLOUT, NAME)["approvals"][0]["step"] == 1
    world = RolloutWorld(approval=[1])
    world.look()
    world.pass_step()
    assert phase(world) == ("AwaitingApproval", "AwaitingApproval")
    assert world.weight == 5
    world.annotate(ROLLOUT, NAME, promote="1")
    world.look()
    assert world.weight == 25
    world.annotate(ROLLOUT, NAME, promote="nonsense")
    world.look()
    assert "promote 'nonsense' is ignored" in world.events[-1].message


def test_the_bake_time_comes_before_promotion():
    world = RolloutWorld(bake="1h")
    world.look()
    for _ in range(3):
        world.pass_step()
    assert phase(world) == ("Baking", "Baking")
    assert not [a for a in world.log if isinstance(a, MoveChannel)]
    for _ in range(11):
        world.analyse(ShadowVerdict.UNDECIDED)
        assert phase(world) == ("Baking", "Baking")
    world.pass_time(minutes=5)
    assert phase(world) == ("Completed", "Promoted")


def test_harm_while_baking_rolls_back():
    world = RolloutWorld(bake="1h")
    world.look()
    for _ in range(3):
        world.pass_step()
    world.analyse(ShadowVerdict.HARM)
    assert phase(world) == ("RolledBack", "Harm")
    assert world.channels[ROOT, "stable"].digest == STABLE


# Rivals


def test_a_rollout_under_way_blocks_another_and_frees_it_at_its_end(world):
    world.look()
    world.create(ROLLOUT, "second", world.objects[ROLLOUT, NAME]["spec"])
    world.settle(ROLLOUT, "second")
    assert world.status(ROLLOUT, "second")["reason"] == "TargetBusy"
    assert f"shop/{NAME}" in world.status(ROLLOUT, "second")["message"]
    world.annotate(ROLLOUT, NAME, abort="x")
    world.look()
    world.settle(ROLLOUT, "second")
    assert world.status(ROLLOUT, "second")["step"] == 1


def test_two_that_start_together_are_told_apart_by_age(world):
    world.create(ROLLOUT, "zecond", world.objects[ROLLOUT, NAME]["spec"])
    for name in (NAME, "zecond"):
        world.step(ROLLOUT, name)
    decisions = [(name, world.decision(ROLLOUT, name)) for name in (NAME, "zecond")]
    for name, decision in decisions:
        world.objects[ROLLOUT, name]["status"] = dict(decision.status)
        assert decision.status["step"] == 1
    world.settle(ROLLOUT, "zecond")
    world.settle(ROLLOUT, NAME)
    assert world.status(ROLLOUT, NAME)["step"] == 1
    assert world.status(ROLLOUT, "zecond")["reason"] == "TargetBusy"
    assert "zecond" not in world.routes


def test_waiting_refused_and_finished_rollouts_are_no_rivals(world):
    me = world.parsed(ROLLOUT, NAME)
    other = {"metadata": {"name": "o", "namespace": "shop", "uid": "x"}, "spec": {"stable": {"root": ROOT.rstrip("/")}}}
    assert rivals_of(me, [other]) == ()
    assert rivals_of(me, [{**other, "status": {"step": 2}}]) == ("shop/o",)
    foreign = {
        **other,
        "metadata": {"name": "secret-plan", "namespace": "rival-team", "uid": "x"},
        "status": {"step": 2},
    }
    assert rivals_of(me, [foreign]) == ("a rollout of another namespace",)
    assert rivals_of(me, [{**other, "status": {"step": 2, "outcome": "RolledBack"}}]) == ()
    elsewhere = {**other, "spec": {"stable": {"root": ROOT, "channel": "beta"}}, "status": {"step": 2}}
    assert rivals_of(me, [elsewhere]) == ()
    assert rivals_of(me, [{**world.objects[ROLLOUT, NAME], "status": {"step": 1}}]) == ()


# Deletion and crashes


def test_deletion_gives_the_traffic_back_first(world):
    world.look()
    world.pass_time(minutes=5)
    world.look()
    world.delete(ROLLOUT, NAME)
    for _ in range(8):
        if (ROLLOUT, NAME) in world.objects:
            before = world.weight
            world.step(ROLLOUT, NAME)
    assert (ROLLOUT, NAME) not in world.objects
    assert before == 0
    assert world.raises()[-1] == 0
    assert {view.state for view in world.jobs.values()} == {JobState.STOPPED}


def test_deletion_with_a_dead_router_ends_with_a_warning(world):
    world.look()
    uid = world.uid
    world.delete(ROLLOUT, NAME)
    world.pass_time(hours=1)
    decision = world.step(ROLLOUT, NAME)
    assert not decision.actions
    dead = replace(world.routes[uid], problem=RouterProblem.UNREACHABLE, message="503")
    for _ in range(3):
        world.routes[uid] = dead
        world.step(ROLLOUT, NAME)
    assert (ROLLOUT, NAME) in world.objects
    assert 0 in world.raises()
    world.routes[uid] = dead
    world.pass_time(seconds=30)
    world.step(ROLLOUT, NAME)
    assert (ROLLOUT, NAME) not in world.objects
    assert world.events[-1].warning


def test_deleting_a_completed_rollout_leaves_its_route_alone(world):
    world.look()
    for _ in range(3):
        world.pass_step()
    before = len(world.raises())
    world.delete(ROLLOUT, NAME)
    world.step(ROLLOUT, NAME)
    assert (ROLLOUT, NAME) not in world.objects
    assert len(world.raises()) == before


@pytest.mark.parametrize("writes", range(3))
def test_dying_anywhere_changes_nothing_but_the_time_it_takes(writes):
    def climb(world: RolloutWorld, *, fault: bool) -> list[object]:
        def look() -> dict:
            for _ in range(5 if fault else 0):
                world.step(ROLLOUT, NAME, die_before=writes)
                world.step(ROLLOUT, NAME)
            world.settle(ROLLOUT, NAME)
            return world.status(ROLLOUT, NAME)

        world.look = look  # type: ignore[method-assign]
        world.look()
        for _ in range(3):
            world.pass_step()
        phase = world.look()["phase"]
        return [phase, world.channels[ROOT, "stable"].digest, world.submissions, sorted(world.objects)]

    assert climb(RolloutWorld(), fault=True) == climb(RolloutWorld(), fault=False)


def test_the_status_does_not_tick(world):
    world.look()
    world.analyse(ShadowVerdict.UNDECIDED, runs=50)
    before = world.look()
    for _ in range(50):
        world.pass_time(seconds=5)
        assert world.look() == before


def test_the_status_stays_bounded(world):
    world.edit(ROLLOUT, NAME, analysis={"source": {"uri": "s3://t/"}, "interval": "5m", "maxDuration": "365d"})
    world.look()
    for _ in range(45):
        world.analyse()
        for card in world.open_cards():
            world.judge(card, "Inconclusive")
    status = world.look()
    assert len(status["attempts"]) == 20
    assert len(status["scorecards"]) == 40
    assert status["step"] == 1


def test_the_digest_helper_tells_digests_apart():
    assert len({digest("5"), digest("ca"), digest(5), digest(6)}) == 4

"""What holds in every history of a ShadowRollout, whatever evidence, faults, edits and crashes it is made of.

The world carries out decisions, loses them half-way, repeats them, forges routes, moves channels and kills backends in
random order. The invariants are checked against the world itself, from the outside: at every write of the route, and
after every action.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from decisionworld import channel
from rolloutworld import CANDIDATE, CARD, NAME, OTHER, ROLLOUT, ROOT, SPEC, STABLE, RolloutWorld, analysis
from sluice_api.contracts.shadow import ShadowVerdict
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.decisions.base import Decision, GuardView, JobState, MoveChannel, RouterProblem, SetRoute
from sluice_operator.manifests.configmap import router_document

WEIGHTS = (5, 25, 100)
VERDICTS = st.sampled_from(
    [*ShadowVerdict, ShadowVerdict.NON_INFERIOR, ShadowVerdict.NON_INFERIOR, ShadowVerdict.NON_INFERIOR]
)

CARD_VERDICTS = st.sampled_from(["Pass", "Pass", "Pass", "Fail", "Inconclusive"])
ABOUT = st.sampled_from([*[CANDIDATE] * 9, OTHER])


GUARDED = {**SPEC["analysis"], "guards": [{"name": "errors", "query": "errors", "max": 0.5, "for": "1m"}]}


def weights_of(rollout: ShadowRollout, route: SetRoute) -> list[int]:
    """Return the weights that the real manifest of a route carries."""
    document = router_document(rollout, route)
    return [100 - int(document.candidate_pct), int(document.candidate_pct)]


class CheckedWorld(RolloutWorld):
    """A world that refuses a write of the route or the channel which the evidence does not warrant."""

    highest = 0
    """Highest weight that was warranted in this round."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.reports: dict[str, dict[str, Any]] = {}
        self.verified: dict[tuple[int, int], str] = {}
        """When each step's weight was first seen in force, by round and step."""

    def step(self, kind: str, name: str, *, die_before: int | None = None) -> Decision:
        """Decide once, and note when weights were decided on and seen in force."""
        before = self.status(kind, name)
        decision = super().step(kind, name, die_before=die_before)
        if kind == ROLLOUT and (kind, name) in self.objects:
            after = self.status(kind, name)
            if before.get("step") and after.get("step") == before["step"] + 1:
                self._earned(before)
            if after.get("stepStartedAt"):
                self.verified.setdefault((after["round"], after["step"]), after["stepStartedAt"])
        return decision

    def act(self, kind: str, name: str, action: Any) -> None:
        """Carry out an action, unless it must never happen."""
        if kind == ROLLOUT and isinstance(action, SetRoute):
            assert sum(weights_of(self.parsed(ROLLOUT, NAME), action)) == 100
            assert action.candidate is not None or action.weight == 0
            if action.weight > self.weight and action.weight > self.highest:
                self._warranted(action.weight)
                self.highest = action.weight
            if action.weight == 0:
                self.highest = 0
        if kind == ROLLOUT and isinstance(action, MoveChannel):
            assert action.channel.digest == CANDIDATE
            assert self.channels[ROOT, "stable"].digest == self.status(ROLLOUT, NAME)["stableDigest"]
            self._passed(3)
        super().act(kind, name, action)

    def _warranted(self, weight: int) -> None:
        assert weight in WEIGHTS, weight
        place = WEIGHTS.index(weight)
        assert place == 0 or self.highest == WEIGHTS[place - 1], (weight, self.highest)
        if place == 0:
            offline = self.status(CARD, "offline")
            assert offline["verdict"] == "Pass"
            assert offline["candidate"] == CANDIDATE
        else:
            self._passed(place)

    def _earned(self, status: dict[str, Any]) -> None:
        """Whatever a step must have is in at the instant at which the next weight is decided on."""
        place = status["round"], status["step"]
        newest = [
            report for report in self.reports.values() if report["step"] == place and report["about"] == CANDIDATE
        ]
        assert newest, f"no evidence of {place}"
        assert newest[-1]["runs"] >= 100
        assert newest[-1]["verdict"] is ShadowVerdict.NON_INFERIOR or place[1] == len(WEIGHTS)
        assert self.now <= parse_instant(newest[-1]["at"]) + timedelta(minutes=15)
        assert self.now >= parse_instant(self.verified[place]) + timedelta(minutes=10)
        assert self.guards["errors"].value == 0.1
        assert not self.objects[ROLLOUT, NAME]["spec"].get("paused")
        cards = [self.status(CARD, e["name"]) for e in status["scorecards"] if (e["round"], e["step"]) == place]
        fresh = [
            card for card in cards if card.get("verdict") == "Pass" and parse_instant(card["expiresAt"]) > self.now
        ]
        assert fresh, f"no fresh scorecard of {place}"

    def _passed(self, step: int) -> None:
        """A genuine scorecard of this step and round says Pass about the candidate."""
        status = self.status(ROLLOUT, NAME)
        found = []
        for entry in status["scorecards"]:
            raw = self.objects.get((CARD, entry["name"]))
            if raw is None or entry["step"] != step or entry["round"] != status["round"]:
                continue
            judged = raw.get("status") or {}
            if judged.get("verdict") == "Pass" and raw["spec"]["candidate"]["digest"] == CANDIDATE:
                evidence = self.reports[raw["spec"]["shadow"]["summaryDigest"]]
                assert evidence["step"] == (status["round"], step)
                assert evidence["about"] == CANDIDATE
                assert evidence["since"] >= self.verified[status["round"], step]
                found.append(parse_instant(judged["expiresAt"]))
        assert found, f"nothing warrants leaving step {step}"
        if step == len(WEIGHTS):
            self._earned(status)


class Histories(RuleBasedStateMachine):
    """Random histories."""

    @initialize(last=st.booleans(), policy=st.sampled_from(["Hold", "Rollback"]))
    def begin(self, last: bool, policy: str) -> None:
        self.world = CheckedWorld(onInconclusive=policy, approval=[2] if last else [], analysis=GUARDED)
        self.world.guards["errors"] = GuardView(value=0.1)
        self.settled = False

    def look(self) -> None:
        self.world.settle(ROLLOUT, NAME)
        self.settled = True

    # Time and the operator

    @rule(minutes=st.sampled_from([1, 5, 5, 5, 6, 11, 40]))
    def wait(self, minutes: int) -> None:
        self.settled = False
        self.world.pass_time(minutes=minutes)

    @rule()
    def reconcile(self) -> None:
        self.look()

    @rule(before=st.integers(0, 3))
    def die(self, before: int) -> None:
        self.settled = False
        self.world.step(ROLLOUT, NAME, die_before=before)

    @rule()
    def decide_twice(self) -> None:
        first, second = self.world.decision(ROLLOUT, NAME), self.world.decision(ROLLOUT, NAME)
        assert first == second

    # Evidence

    @rule(verdict=VERDICTS, runs=st.sampled_from([0, 50, 200, 200, 200]), about=ABOUT)
    def analyse(self, verdict: ShadowVerdict, runs: int, about: str) -> None:
        world = self.world
        self.look()
        if not world.submissions or world.submissions[-1] in world.results or world.backend_down:
            return
        job = world.submissions[-1]
        output = analysis(verdict, runs=runs, about=about, number=len(world.results))
        attempt = next(entry for entry in world.status(ROLLOUT, NAME)["attempts"] if entry["job"] == job)
        if "endedAt" in attempt:
            # Its job was lost: what a zombie writes now is looked at by nobody.
            world.succeed(job, output)
            self.look()
            return
        _, round_, step, _ = attempt["key"].split("/")
        place = int(round_), int(step)
        world.reports[output.report.digest] = {
            "step": place,
            "about": about,
            "since": world.inputs[job].since,
            "at": world.inputs[job].now,
            "verdict": verdict,
            "runs": runs,
        }
        world.succeed(job, output)
        present = world.status(ROLLOUT, NAME)
        of_now = (int(round_), int(step)) == (present["round"], present["step"]) and not present["outcome"]
        self.look()
        if verdict is ShadowVerdict.HARM and about == CANDIDATE and of_now:
            assert world.weight == 0
            assert world.status(ROLLOUT, NAME)["outcome"] in ("RolledBack", "Superseded")

    @rule(verdict=CARD_VERDICTS, hours=st.sampled_from([24, 24, 0.05]))
    def judge(self, verdict: str, hours: float) -> None:
        self.look()
        for name in self.world.open_cards():
            self.settled = False
            self.world.judge(name, verdict, hours=hours)

    @rule()
    def do_harm(self) -> None:
        """A candidate that turns out to be harmful."""
        self.wait(5)
        self.analyse(ShadowVerdict.HARM, 200, CANDIDATE)

    @rule(verdict=st.sampled_from(["Pass", "Fail", "Inconclusive"]))
    def judge_offline(self, verdict: str) -> None:
        self.settled = False
        self.world.judge("offline", verdict, hours=24)

    @rule()
    def succeed_a_step(self) -> None:
        """A run of good luck, so that histories reach the end."""
        for _ in range(3):
            self.wait(5)
            self.analyse(ShadowVerdict.NON_INFERIOR, 200, CANDIDATE)
        self.judge("Pass", 24)
        self.look()

    @rule(
        verdict=st.sampled_from([ShadowVerdict.UNDECIDED, ShadowVerdict.INSUFFICIENT]), runs=st.sampled_from([50, 200])
    )
    def tempt(self, verdict: ShadowVerdict, runs: int) -> None:
        """Evidence that shows nothing, in a world where every scorecard passes."""
        for _ in range(3):
            self.wait(5)
            self.analyse(verdict, runs, CANDIDATE)
            self.judge("Pass", 24)
        self.look()

    @rule()
    def linger(self) -> None:
        """A scorecard that passes while the operator is away, and has expired when it is back."""
        for _ in range(3):
            self.wait(5)
            self.analyse(ShadowVerdict.NON_INFERIOR, 200, CANDIDATE)
        self.judge("Pass", 0.05)
        self.wait(5)
        self.look()

    @rule()
    def lose_sight(self) -> None:
        """Analyses that stop coming, while scorecards still pass."""
        self.wait(5)
        self.analyse(ShadowVerdict.NON_INFERIOR, 200, CANDIDATE)
        self.world.backend_down = "connection refused"
        self.wait(40)
        self.judge("Pass", 24)
        self.look()
        self.backend(down=False)

    # People

    @rule(value=st.sampled_from(["1", "2", "3"]))
    def promote(self, value: str) -> None:
        self.settled = False
        self.world.annotate(ROLLOUT, NAME, promote=value)

    @rule(value=st.sampled_from("abcdefgh"))
    def retry(self, value: str) -> None:
        self.settled = False
        self.world.annotate(ROLLOUT, NAME, retry=value)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.settled = False
        self.world.edit(ROLLOUT, NAME, paused=paused)

    # Faults

    @rule(down=st.booleans())
    def backend(self, down: bool) -> None:
        self.settled = False
        self.world.backend_down = "connection refused" if down else ""

    @rule(verifies=st.booleans())
    def gateway(self, verifies: bool) -> None:
        self.settled = False
        self.world.route_verifies = verifies
        if self.world.uid in self.world.routes:
            self.world.verify_route(self.world.uid, verifies)

    @rule(value=st.sampled_from([0.1, 0.1, 0.1, 0.9, None]))
    def answer_the_guard(self, value: float | None) -> None:
        self.settled = False
        self.world.guards["errors"] = GuardView(value=value, problem="" if value is not None else "no answer")

    @precondition(lambda self: self.world.uid in self.world.routes)
    @rule(weight=st.integers(0, 100), told=st.booleans())
    def forge_the_route(self, weight: int, told: bool) -> None:
        world = self.world
        if world.status(ROLLOUT, NAME).get("outcome") == "Completed":
            return
        self.settled = False
        problem = RouterProblem.FOREIGN_EDIT if told else RouterProblem.NONE
        world.routes[world.uid] = replace(world.routes[world.uid], weight=weight, problem=problem)

    @precondition(lambda self: self.world.uid in self.world.routes)
    @rule()
    def lose_the_route(self) -> None:
        self.settled = False
        del self.world.routes[self.world.uid]

    @rule(value=st.sampled_from([STABLE, OTHER]))
    def move_the_channel(self, value: str) -> None:
        if self.world.channels[ROOT, "stable"].digest == CANDIDATE:
            return
        self.settled = False
        self.world.channels[ROOT, "stable"] = channel("stable", value)

    @rule()
    def lose_a_job(self) -> None:
        self.settled = False
        # One that was never seen is submitted again under its name: that is what submitting until seen means.
        seen = {a["job"] for a in self.world.status(ROLLOUT, NAME).get("attempts", ()) if "submittedAt" in a}
        for name, view in list(self.world.jobs.items())[-1:]:
            if view.state is not JobState.SUCCEEDED and name in seen:
                del self.world.jobs[name]

    # What always holds

    @invariant()
    def names_and_bounds(self) -> None:
        status = self.world.status(ROLLOUT, NAME)
        numbers = [entry["number"] for entry in status.get("attempts", ())]
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= 20
        assert len(self.world.submissions) == len(set(self.world.submissions))

    @invariant()
    def what_is_said_is_so(self) -> None:
        if not self.settled:
            return
        world, status = self.world, self.world.status(ROLLOUT, NAME)
        if status["phase"] in ("RolledBack", "Superseded", "Completed"):
            assert world.weight == 0
        if not status["step"] and status["phase"] != "Stalled":
            assert world.weight == 0
        if status.get("outcome") == "" and status["step"]:
            assert world.weight == status["weight"]["desired"] == WEIGHTS[status["step"] - 1]
        if status["phase"] == "Completed":
            assert world.channels[ROOT, "stable"].digest == CANDIDATE
        if world.channels[ROOT, "stable"].digest == OTHER:
            assert world.weight == 0 or status.get("stableDigest") == OTHER

    @invariant()
    def settled_means_settled(self) -> None:
        if self.settled:
            decision = self.world.decision(ROLLOUT, NAME)
            assert not [action for action in decision.actions if isinstance(action, SetRoute | MoveChannel)]
            assert dict(decision.status) == self.world.status(ROLLOUT, NAME)


EVENTS = ("scorecard", "good", "harm", "gateway", "abort", "pause", "forge")


@given(order=st.permutations(EVENTS), left_out=st.sets(st.sampled_from(EVENTS), max_size=4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_order_of_events_does_not_matter(order: list[str], left_out: set[str]) -> None:
    """What had happened counts, not the order in which the operator learnt of it."""

    def end_of(events: list[str]) -> tuple[Any, ...]:
        world = RolloutWorld()
        world.route_verifies = False
        world.look()
        world.verify_route(world.uid)
        world.look()
        for event in events:
            happen(world, event)
            world.look()
        status = world.look()
        return status["step"], status.get("outcome", ""), status["weight"], world.weight

    events = [event for event in order if event not in left_out]
    assert end_of(events) == end_of(sorted(events, key=EVENTS.index))


def happen(world: RolloutWorld, event: str) -> None:
    """Let something happen to a rollout at its first step; each is about a place of its own."""
    match event:
        case "scorecard":
            world.judge("offline", "Inconclusive")
        case "good" | "harm" if world.status(ROLLOUT, NAME).get("outcome"):
            pass
        case "good":
            world.analyse(ShadowVerdict.NON_INFERIOR, runs=50)
        case "harm":
            world.analyse(ShadowVerdict.HARM)
        case "gateway":
            world.route_verifies = True
            world.verify_route(world.uid)
        case "abort":
            world.annotate(ROLLOUT, NAME, abort="enough")
        case "pause":
            world.edit(ROLLOUT, NAME, paused=True)
        case "forge":
            world.routes[world.uid] = replace(world.routes[world.uid], weight=77)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # one decision takes milliseconds: shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@pytest.mark.soak
class TestManyHistories(Histories.TestCase):
    """The same, at length."""

    settings = settings(TestHistories.settings, max_examples=600, stateful_step_count=60)

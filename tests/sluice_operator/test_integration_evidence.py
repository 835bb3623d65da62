"""Evaluations and scorecards with their real workers on a real API server: verdicts, reasons, and nothing promoted."""

import hashlib
import json

import pytest

from agent_server import AgentServer
from manifests_for_tests import STABLE_DIGEST, evaluation, rollout, run, scorecard
from sluice_api.contracts.jobs import EvalTarget
from sluice_api.v1alpha1 import EvalRun
from sluice_artifacts import read_channel
from sluice_operator.decisions.base import Backend, Profile
from sluice_operator.manifests.job import job
from sluice_operator.manifests.jobs import eval_job

TASKS = 60
BETTER, EVEN = ("sha256:" + hashlib.sha256(name).hexdigest() for name in (b"better", b"even"))
GROUNDED = "grounding_accuracy"


def answer(body: dict, call: int) -> dict:
    """Solve everything as the better weights, and half of it, but not the same half, as the others."""
    number, digest = int(body["task_id"][1:]), body["model"]["digest"]
    solved = {BETTER: True, EVEN: number % 2 == 1 or number < 10, STABLE_DIGEST: number % 2 == 0}[digest]
    metrics = {"parser_validity": {"value": 1.0, "n": 3}}
    return {"success": solved, "cost": 0.01, "output": "done", "metrics": metrics}


def trained(place, name: str, digest: str) -> None:
    """Make a FineTuneRun with an adapter, as if it had trained."""
    place.apply(run(place.uri, name, suspend=True))
    adapter = {"uri": f"{place.uri}adapters/{name}/", "digest": digest, "rank": 8, "finalLoss": 0.3}
    status = {"phase": "Succeeded", "adapter": adapter, "inputs": {"baseModel": STABLE_DIGEST}}
    place.patch("finetunerun", name, {"status": status}, "--subresource=status")


@pytest.fixture(scope="module")
def judged(site):
    """Two candidates, evaluated against `stable` and judged by three scorecards."""
    site.write({"cpu": site.profile(FAST_REAL="1")})
    tasks = [{"task_id": f"t{number}", "task_text": f"task {number}"} for number in range(TASKS)]
    (site.root / "suite.json").write_text(json.dumps(tasks))
    with AgentServer(answer) as agent, site.operator():
        for name, digest in (("better", BETTER), ("even", EVEN)):
            trained(site, name, digest)
            candidate = {"fineTuneRunRef": {"name": name}}
            site.apply(evaluation(site.uri, name, candidate=candidate, agent={"url": agent.url}))
            site.wait_phase("evalrun", name, "Succeeded")
        for name, candidate, required in (
            ("passes", "better", ["task_pass_rate", "parser_validity"]),
            ("gaps", "better", ["task_pass_rate", GROUNDED]),
            ("undecided", "even", ["parser_validity"]),
        ):
            spec = {"candidate": {"fineTuneRunRef": {"name": candidate}}, "evalRunRef": {"name": candidate}}
            thresholds = [{"name": "task_pass_rate", "value": 0.5, "author": "the test"}]
            site.apply(scorecard(site.uri, name, requiredGates=required, thresholds=thresholds, **spec))
            site.wait_phase("promotionscorecard", name, "Passed", "Inconclusive", "Refused")
        yield site


def columns(place, kind: str, name: str, *flags: str) -> str:
    return place.kubectl("-n", place.namespace, "get", kind, name, "--no-headers", *flags).stdout


def test_the_verdict_of_an_evaluation_is_in_its_columns_and_its_numbers_in_the_message(judged) -> None:
    shown = columns(judged, "evalrun", "better").split()
    assert shown[:7] == ["better", "Succeeded", "Succeeded", "60", "1", "0.5", "Better"]
    status = judged.status("evalrun", "better")
    assert "60 of 60 judged tasks passed (100.0%), 0 errored" in status["message"]
    assert "Better than the baseline: 30 wins, 0 losses over 60 common tasks" in status["message"]
    assert status["inputs"]["candidate"] == BETTER
    assert status["inputs"]["baseline"] == STABLE_DIGEST
    undecided = judged.status("evalrun", "even")
    assert undecided["comparison"]["verdict"] == "Inconclusive"
    assert "so many tasks could show a difference of" in undecided["message"]
    assert undecided["comparison"]["interval"][0] < 0 < undecided["comparison"]["interval"][1]


def test_a_scorecard_passes_on_what_was_measured(judged) -> None:
    status = judged.status("promotionscorecard", "passes")
    assert (status["phase"], status["verdict"], status["candidate"]) == ("Passed", "Pass", BETTER)
    assert "comparison with the champion Better" in status["message"]
    assert "candidate 1 of its budget" in status["message"]
    gates = {gate["name"]: gate for gate in status["gates"]}
    assert (gates["task_pass_rate"]["n"], gates["task_pass_rate"]["threshold"]) == (60, 0.5)
    assert gates["parser_validity"]["verdict"] == "Pass"
    assert gates[GROUNDED]["verdict"] == "Missing"
    assert status["expiresAt"] > status["evaluatedAt"]
    assert columns(judged, "promotionscorecard", "passes").split()[1:3] == ["Pass", "Passed"]


@pytest.mark.parametrize(
    ("name", "candidate", "words"),
    [
        ("gaps", "better", f"missing {GROUNDED}"),
        ("undecided", "even", "comparison with the champion Inconclusive (p "),
    ],
)
def test_what_is_missing_or_undecided_is_seen_and_promotes_nobody(judged, name, candidate, words) -> None:
    status = judged.status("promotionscorecard", name)
    assert (status["phase"], status["verdict"]) == ("Inconclusive", "Inconclusive")
    assert words in status["message"]
    assert "Inconclusive" in columns(judged, "promotionscorecard", name)
    assert words in columns(judged, "promotionscorecard", name, "-o", "wide")
    spec = {"candidate": {"fineTuneRunRef": {"name": candidate}}, "scorecardRef": {"name": name}}
    judged.apply(rollout(judged.uri, name, **spec))
    refused = judged.wait_phase("shadowrollout", name, "Refused")
    assert refused["reason"] == "ScorecardNotPassed"
    assert refused.get("weight", {}).get("actual", 0) == 0
    channel, _ = read_channel(judged.uri, "stable")
    assert (channel.digest, channel.changed_by) == (STABLE_DIGEST, "init")


def test_the_history_holds_every_judgement_and_what_it_was_charged(judged) -> None:
    (history,) = {
        judged.status("promotionscorecard", name)["history"]["uri"] for name in ("passes", "gaps", "undecided")
    }
    text = (judged.root / history.removeprefix(judged.uri)).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["verdict"] for line in lines] == ["Pass", "Inconclusive", "Inconclusive"]
    charged = [line["metadata"]["comparison"] for line in lines]
    # the second scorecard looks at the comparison of the first; only another one costs
    assert [record["candidate"] for record in charged] == [1, 1, 2]
    assert {record["champion"] for record in charged} == {STABLE_DIGEST}
    assert lines[0]["metadata"]["threshold_authors"] == {"task_pass_rate": "the test"}


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("EvalRun", {"suite": {"uri": "builtin:moon"}}, "spec.suite.uri"),
        ("PromotionScorecard", {"comparison": {"require": "Anything"}}, "spec.comparison.require"),
        ("PromotionScorecard", {"comparison": {"alpha": 0.9}}, "spec.comparison.alpha"),
    ],
)
def test_the_api_server_refuses_what_cannot_be(judged, kind, spec, words) -> None:
    make = evaluation if kind == "EvalRun" else scorecard
    text = json.dumps(make(judged.uri, "wrong", **spec))
    flags = ("-n", judged.namespace, "apply", "--server-side", "--dry-run=server", "-f", "-")
    done = judged.kubectl(*flags, input=text, check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_the_job_of_an_evaluation_meets_the_restricted_standard_of_the_api_server(judged, kubectl) -> None:
    profile = Profile(name="cpu", backend=Backend.JOB, image="registry.example/sluice:1", resources={"cpu": "1"})
    made = EvalRun.model_validate(judged.get("evalrun", "better"))
    attempt = made.status.attempts[-1]
    target = EvalTarget(name="candidate", digest=BETTER)
    asked = eval_job(made, attempt, candidate=target, baseline=None, suite_digest=BETTER, task_timeout_s=60.0)
    text = json.dumps(job(made, attempt.job, profile, asked)["spec"]["template"])
    pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(text)}
    pod["metadata"] = {"name": "evaluation", "namespace": judged.namespace}
    whole = json.dumps(job(made, attempt.job, profile, asked))
    label = "pod-security.kubernetes.io/enforce=restricted"
    kubectl("label", "namespace", judged.namespace, label, "--overwrite")
    try:
        for manifest in (json.dumps(pod), whole):
            done = kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", input=manifest, check=False)
            assert done.returncode == 0, done.stderr
            assert "violate" not in done.stderr
        pod["spec"]["containers"][0]["securityContext"].pop("capabilities")
        loose = kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", input=json.dumps(pod), check=False)
        assert "violates PodSecurity" in loose.stderr
    finally:
        kubectl("label", "namespace", judged.namespace, "pod-security.kubernetes.io/enforce-")

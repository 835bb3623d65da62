"""What `rollout get` tells: the tree, the numbers that are missing, and nothing by colour alone."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from sluice_cli.lineage import ROLLOUT, Link, Objects, lineage_of, lineages
from sluice_cli.rollout.tree import render
from sluice_cli.rollout.view import Mood, age_of, mood_of, rollout_view
from sluice_cli.rollout.waiting import Exit, verdict_of

NOW = datetime(2026, 11, 4, 12, 0, 0, tzinfo=UTC)


def obj(kind, name, spec=None, namespace="shop", **status):
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2026-11-01T12:00:00Z"}
    return {"kind": kind, "metadata": metadata, "spec": spec or {}, "status": status}


def world():
    """Every kind once, a step scorecard included, at step 2 of 3."""
    ref = {"fineTuneRunRef": {"name": "agent-a2"}}
    spec = {
        "candidate": ref,
        "stable": {"channel": "stable", "root": "s3://sluice/"},
        "scorecardRef": {"name": "agent-offline"},
        "steps": [
            {"weight": 1, "soak": "30m", "minRuns": 100},
            {"weight": 5, "soak": "2h", "minRuns": 1468},
            {"weight": 100, "soak": "30m", "minRuns": 100},
        ],
        "analysis": {"alpha": 0.05, "source": {"uri": "s3://traces/"}},
        "output": "s3://sluice/",
    }
    rollout = obj(
        "ShadowRollout",
        "agent",
        spec,
        phase="Soaking",
        reason="TooFewRuns",
        message="step 2 of 3 at 5 %: 412 of 1468 matured runs",
        step=2,
        round=1,
        stepStartedAt="2026-11-04T09:00:00Z",
        weight={"desired": 5, "actual": 5},
        arms={"stable": {"runs": 8000, "escalations": 240}, "candidate": {"runs": 412, "escalations": 10}},
        evidence={
            "uri": "s3://sluice/e",
            "digest": "sha256:" + "e" * 64,
            "step": 2,
            "verdict": "Insufficient",
            "at": "2026-11-04T11:58:00Z",
            "harm": 0.82,
            "nonInferiority": 7.4,
            "candidateShare": 0.049,
        },
        candidateDigest="sha256:" + "ca" * 32,
        stableDigest="sha256:" + "5a" * 32,
        scorecards=[{"step": 1, "round": 1, "name": "agent-s1", "verdict": "Pass"}],
        approvals=[{"step": 1, "at": "2026-11-04T08:59:00Z", "by": "alice"}],
        guards=[{"name": "errors", "state": "Ok", "since": "2026-11-04T09:00:00Z"}],
    )
    items = [
        rollout,
        obj("TraceDataset", "agent-data", phase="Ready", latest={"digest": "sha256:" + "d" * 64, "rows": 51234}),
        obj(
            "FineTuneRun",
            "agent-a2",
            {"datasetRef": {"name": "agent-data"}},
            phase="Succeeded",
            adapter={"finalLoss": 0.33},
        ),
        obj("EvalRun", "agent-e2", {"candidate": ref}, phase="Succeeded", summary={"passed": 101, "tasks": 164}),
        obj("PromotionScorecard", "agent-offline", {"evalRunRef": {"name": "agent-e2"}}, phase="Passed"),
        obj("PromotionScorecard", "agent-s1", phase="Passed", verdict="Pass"),
    ]
    return rollout, Objects.of(items)


def picture(lineage, width=160):
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(render(rollout_view(lineage, NOW)))
    return console.file.getvalue()


def test_the_tree_shows_what_stands_behind_a_rollout_and_what_it_waits_for():
    rollout, objects = world()
    text = picture(lineage_of(Link(ROLLOUT, "agent", rollout), objects))
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    assert "Status: ◌ Soaking (TooFewRuns)" in lines
    assert "Weight: 5 % desired, 5 % actual, 4.9 % measured" in lines
    assert "Evidence: Insufficient, 2m old; e-values: harm 0.82 of 80, non-inferiority 7.4 of 20" in lines
    assert "Approved: step 1 by alice at 2026-11-04T08:59:00Z" in lines
    assert "Guard: errors: Ok 3h" in lines
    assert "candidate 412 10 2.43 %" in lines
    tree = lines[lines.index("NAME KIND STATUS AGE INFO") + 1 :]
    assert tree == [
        "agent ShadowRollout ◌ Soaking 3d TooFewRuns",
        "├──step 1: 1 % ✔ done",
        "│ └──agent-s1 PromotionScorecard ✔ Passed 3d Pass",
        "├──step 2: 5 % ◌ Soaking 412 of 1468 matured runs",
        "├──step 3: 100 % · to come soak 30m, 100 runs",
        "├──agent-offline PromotionScorecard ✔ Passed 3d offline",
        "│ └──agent-e2 EvalRun ✔ Succeeded 3d 101 of 164 tasks",
        "└──agent-a2 FineTuneRun ✔ Succeeded 3d -, loss 0.33",
        "└──agent-data TraceDataset ✔ Ready 3d dddddddddddd, 51234 rows",
    ]


def test_what_is_named_and_not_there_is_shown_as_missing():
    rollout, _ = world()
    text = picture(lineage_of(Link(ROLLOUT, "agent", rollout), Objects()))
    assert "agent-a2" in text
    assert text.count("✖ Missing") == 3


def test_a_bare_rollout_is_told_without_guessing():
    bare = {"kind": ROLLOUT, "metadata": {"name": "new", "namespace": "shop"}, "spec": {"steps": [{"weight": 5}]}}
    text = picture(lineage_of(Link(ROLLOUT, "new", bare), Objects()))
    assert "◌ Pending" in text
    assert "0 of 1" in text


def test_markup_in_a_message_is_text():
    rollout, objects = world()
    rollout["status"]["message"] = "[red]gone[/red] [link=http://x]y[/link]"
    assert "[red]gone[/red]" in picture(lineage_of(Link(ROLLOUT, "agent", rollout), objects))


@pytest.mark.parametrize(
    ("phase", "mood"),
    [
        ("Completed", Mood.GOOD),
        ("RolledBack", Mood.BAD),
        ("AwaitingApproval", Mood.HELD),
        ("NoData", Mood.WARN),
        ("Soaking", Mood.BUSY),
        ("Novel", Mood.BUSY),
    ],
)
def test_moods(phase, mood):
    assert mood_of(phase) is mood


@pytest.mark.parametrize(
    ("instant", "age"),
    [
        ("2026-11-04T11:59:30Z", "30s"),
        ("2026-11-04T11:00:00Z", "60m"),
        ("2026-11-03T12:00:00Z", "24h"),
        ("2026-11-01T12:00:00Z", "3d"),
        ("2026-11-05T12:00:00Z", "0s"),
        (None, ""),
        ("yesterday", ""),
    ],
)
def test_ages_are_kubectls(instant, age):
    assert age_of(instant, NOW) == age


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"phase": "Completed", "outcome": "Completed"}, Exit.DONE),
        ({"phase": "RolledBack", "outcome": "RolledBack"}, Exit.FAILED),
        ({"phase": "RollingBack", "outcome": "RolledBack"}, None),
        ({"phase": "Superseded", "outcome": "Superseded"}, Exit.FAILED),
        ({"phase": "Stalled"}, Exit.FAILED),
        ({"phase": "Refused"}, Exit.FAILED),
        ({"phase": "AwaitingApproval"}, Exit.HELD),
        ({"phase": "Paused"}, Exit.HELD),
        ({"phase": "Inconclusive"}, Exit.HELD),
        ({"phase": "NoData"}, None),
        ({"phase": "Soaking"}, None),
        ({"phase": "Completed", "outcome": "Completed", "observedGeneration": 1}, None),
        ({}, None),
    ],
)
def test_exit_codes(status, code):
    assert verdict_of({"observedGeneration": 2, **status} if status else {}, 2) is code


class TestLineages:
    def test_all_lineages_are_found_once(self):
        _, objects = world()
        run = obj("FineTuneRun", "agent-a3", {"datasetRef": {"name": "agent-data"}}, phase="Running")
        card = obj("PromotionScorecard", "c3", {"candidate": {"fineTuneRunRef": {"name": "agent-a3"}}})
        other = obj("TraceDataset", "unused", phase="Ready")
        more = Objects({**objects.by_key, **Objects.of([run, card, other]).by_key})
        found = lineages(more)
        assert [each.name for each in found] == ["agent", "c3", "unused"]
        assert found[1].dataset.name == "agent-data"

    def test_namespaces_do_not_mix(self):
        rollout, objects = world()
        foreign = obj("FineTuneRun", "agent-a2", {"datasetRef": {"name": "theirs"}}, namespace="other")
        more = Objects({**objects.by_key, **Objects.of([foreign]).by_key})
        assert lineage_of(Link(ROLLOUT, "agent", rollout), more).dataset.name == "agent-data"
        assert [each.namespace for each in lineages(more)] == ["shop", "other"]

"""The dashboard's parts without a cluster: what cannot be read is told, and nothing is made up."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from sluice_api.contracts.base import ArtifactRef, RunRef
from sluice_api.contracts.jobs import Result, ShadowOutput
from sluice_api.contracts.shadow import EProcess, ShadowSummary
from sluice_cli.dashboard import analyses
from sluice_cli.dashboard.server import as_json, is_loopback, page
from sluice_cli.dashboard.source import Source
from sluice_cli.kube import KubeError

NOW = datetime(2026, 11, 4, 12, 0, 0, tzinfo=UTC)


class World:
    """A reader of objects that a test decides; the clocks stand still until moved."""

    server = "https://cluster"

    def __init__(self):
        self.items = []
        self.problem = ""
        self.looks = 0
        self.now = NOW
        self.source = Source(self, "shop", now=lambda: self.now, clock=lambda: (self.now - NOW).total_seconds())

    def list(self, kind, namespace):
        self.looks += kind == "TraceDataset"
        if self.problem:
            raise KubeError(self.problem)
        return [item for item in self.items if item["kind"] == kind]

    def later(self, seconds):
        self.now += timedelta(seconds=seconds)
        return self.source.state()


@pytest.fixture
def world():
    return World()


def rollout(**status):
    spec = {"steps": [{"weight": 5, "soak": "1h", "minRuns": 100}, {"weight": 100}], "analysis": {"alpha": 0.1}}
    metadata = {"name": "agent", "namespace": "shop", "uid": "u1"}
    return {"kind": "ShadowRollout", "metadata": metadata, "spec": spec, "status": status}


def weights(state):
    return [(each["desired"], each["actual"]) for each in state["lineages"][0]["rollout"]["weights"]]


def test_looks_are_shared_within_a_second(world):
    world.source.state()
    world.later(0.5)
    assert world.looks == 1
    world.later(0.6)
    assert world.looks == 2


def test_an_api_server_that_goes_away_is_told_and_the_last_state_stays(world):
    world.items = [rollout(phase="Soaking", step=1)]
    world.source.state()
    world.problem = "the Kubernetes API at https://cluster does not answer"
    state = world.later(2)
    assert "does not answer" in state["problem"]
    assert [each["name"] for each in state["lineages"]] == ["agent"]


def test_weights_are_remembered_as_they_were_seen(world):
    world.items = [rollout(phase="Baking", step=1, weight={"desired": 5, "actual": 0})]
    world.source.state()
    world.items = [rollout(phase="Soaking", step=1, weight={"desired": 5, "actual": 5})]
    world.later(2)
    world.items = [rollout(phase="RolledBack", step=0, weight={"desired": 0, "actual": 0}, outcome="RolledBack")]
    state = world.later(2)
    assert weights(state) == [(5, 0), (5, 5), (0, 0), (0, 0)]
    world.items = []
    world.later(2)
    world.items = [rollout(phase="Pending")]
    assert weights(world.later(2)) == [(0, 0), (0, 0)], "another rollout of the same name begins anew"


def test_a_status_tells_the_weights_before_anybody_looked(world):
    world.items = [
        rollout(
            phase="Soaking",
            step=2,
            stepStartedAt="2026-11-04T11:00:00Z",
            previousStepStartedAt="2026-11-04T09:00:00Z",
            weight={"desired": 100, "actual": 100},
        )
    ]
    assert weights(world.source.state()) == [(5, 5), (100, 100), (100, 100), (100, 100)]


def attempt(uri, number=1, **more):
    instants = {"intendedAt": "2026-11-04T10:00:00Z", "endedAt": "2026-11-04T10:00:05Z"}
    return {"number": number, "key": f"analysis/1/1/{number}", "outputUri": uri, **instants, **more}


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no plain file of at most 16 MiB"), ("{", "not an analysis"), ('{"run": 1}', "not an analysis")],
    ids=["gone", "cut short", "another document"],
)
def test_an_analysis_that_cannot_be_read_is_named_and_not_quoted(content, word, world, tmp_path):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    world.items = [rollout(phase="Soaking", step=1, attempts=[attempt(f"file://{tmp_path}/")])]
    lineage = world.source.state()["lineages"][0]
    assert lineage["problems"] == [f"file://{tmp_path}/result.json: {word}"]
    assert lineage["rollout"]["points"] == []
    assert lineage["rollout"]["thresholds"] is None


def test_a_file_that_never_ends_is_not_read(world, tmp_path):
    (tmp_path / "result.json").symlink_to("/dev/zero")
    world.items = [rollout(phase="Soaking", step=1, attempts=[attempt(f"file://{tmp_path}/")])]
    assert "no plain file" in world.source.state()["lineages"][0]["problems"][0]


def test_attempts_that_failed_or_run_are_no_analyses(world, tmp_path):
    running = attempt(f"file://{tmp_path}/", 2)
    del running["endedAt"]
    failed = attempt(f"file://{tmp_path}/", 1, failure={"class": "Storage"})
    world.items = [rollout(phase="Soaking", step=1, attempts=[failed, running, {"number": 3, "key": "spec/1"}])]
    lineage = world.source.state()["lineages"][0]
    assert (lineage["problems"], lineage["rollout"]["points"]) == ([], [])


def result(folder, number, *, since="2026-11-04T09:00:00Z", harm=1.0):
    """Write what an analysis left."""
    summary = ShadowSummary(variants={}, since=since, e_process=EProcess(harm=harm))
    report = ArtifactRef(uri="file:///x", digest="sha256:" + "0" * 64)
    document = Result(
        run=RunRef(kind="ShadowRollout", namespace="shop", name="agent", uid="u1"),
        attempt=number,
        finished_at=f"2026-11-04T10:{number:02d}:00Z",
        output=ShadowOutput(summary=summary, report=report),
    )
    path = folder / str(number) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(document.model_dump_json())


def points(state):
    return [(point["step"], point["harm"]) for point in state["lineages"][0]["rollout"]["points"]]


def test_results_that_the_status_no_longer_names_are_found(world, tmp_path):
    for number in (1, 2, 4, 5):
        result(tmp_path, number, harm=float(number))
    result(tmp_path, 3, since="2026-11-01T00:00:00Z", harm=3.0)
    newest = attempt(f"file://{tmp_path}/5/", 5, endedAt="2026-11-04T10:05:00Z")
    world.items = [rollout(phase="Soaking", step=1, attempts=[newest])]
    # The third is about a step that nothing tells of any more.
    assert points(world.source.state()) == [(1, 1.0), (1, 2.0), (1, 4.0), (1, 5.0)]
    (tmp_path / "1" / "result.json").unlink()
    assert len(points(world.later(2))) == 4, "each is read once"


def test_older_results_come_in_a_few_at_a_time(world, tmp_path, monkeypatch):
    monkeypatch.setattr(analyses, "MOST_READS", 2)
    for number in range(1, 6):
        result(tmp_path, number)
    newest = attempt(f"file://{tmp_path}/5/", 5, endedAt="2026-11-04T10:05:00Z")
    world.items = [rollout(phase="Soaking", step=1, attempts=[newest])]
    counts = [len(points(world.later(2))) for _ in range(3)]
    assert counts == [3, 5, 5]


def test_an_analysis_that_a_scorecard_judged_is_one_point(world, tmp_path):
    result(tmp_path, 5)
    summary = ShadowSummary(variants={}, since="2026-11-04T09:00:00Z", e_process=EProcess(harm=1.0))
    (tmp_path / "shadow_summary.json").write_text(summary.model_dump_json())
    other = summary.model_copy(update={"e_process": EProcess(harm=7.0)})
    (tmp_path / "other_summary.json").write_text(other.model_dump_json())
    names = ("shadow_summary", "other_summary")
    cards = [
        {
            "kind": "PromotionScorecard",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-11-04T10:06:00Z"},
            "spec": {"shadow": {"step": 1, "summaryUri": f"file://{tmp_path}/{name}.json"}},
        }
        for name in names
    ]
    entries = [{"step": 1, "round": 1, "name": name} for name in names]
    newest = attempt(f"file://{tmp_path}/5/", 5, endedAt="2026-11-04T10:05:00Z")
    world.items = [rollout(phase="Soaking", step=1, attempts=[newest], scorecards=entries), *cards]
    assert points(world.source.state()) == [(1, 1.0), (1, 7.0)]


def test_a_number_that_is_none_reaches_no_browser():
    assert json.loads(as_json({"a": [float("nan"), float("inf"), 1.5], "b": (1, None)})) == {
        "a": [None, None, 1.5],
        "b": [1, None],
    }


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(host, own):
    assert is_loopback(host) is own


def test_the_policy_names_the_very_script_and_style_of_the_page():
    document, policy = page()
    assert document.count("<script>") == document.count("</script>") == 1
    assert document.count("<style>") == 1
    assert policy.count("'sha256-") == 2
    assert "/*SCRIPT*/" not in document
    assert " style=" not in document
    assert "onload=" not in document

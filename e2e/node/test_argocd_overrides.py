"""Health and actions of the five kinds by Argo CD's own `argocd admin settings resource-overrides`, without a cluster.

What Argo CD's command says of an object with the chart's ConfigMap is what its controller and its page would say. The
sentences that are compared with are those of `examples/gitops/README.md` and `docs/rollouts.md`.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sluice_devcluster import gotools

ROOT = Path(__file__).parents[2]
KINDS = ("TraceDataset", "FineTuneRun", "EvalRun", "PromotionScorecard", "ShadowRollout")


@pytest.fixture(scope="module")
def argocd_cm(tmp_path_factory):
    """Argo CD's ConfigMap with the chart's keys, as a file."""
    command = [gotools.helm(), "template", "sluice", ROOT / "charts" / "sluice", "--kube-version=1.36.0"]
    command += ["--show-only=templates/argocd.yaml", "--set=argocd.enabled=true"]
    text = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    path = tmp_path_factory.mktemp("argocd") / "argocd-cm.yaml"
    content = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm"}}
    path.write_text(yaml.safe_dump(content | {"data": yaml.safe_load(text)["data"]}))
    return path


@pytest.fixture
def overrides(argocd_cm, tmp_path):
    """Run one of the command's verbs on an object, and return what it printed."""
    program = gotools.build(gotools.argocd_tool()) / "argocd"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ARGOCD_BINARY_NAME": "argocd"}

    def run(verb, obj, *arguments):
        path = tmp_path / "object.yaml"
        path.write_text(yaml.safe_dump(obj))
        command = [program, "admin", "settings", "resource-overrides", verb, path, *arguments]
        command.append(f"--argocd-cm-path={argocd_cm}")
        done = subprocess.run(command, text=True, capture_output=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def custom_resource(kind, *, phase="", spec=None, seen=True, outcome="", annotations=None, **conditions):
    """Return an object of the kind as the operator leaves it, with conditions such as `Ready="True"`."""
    listed = [
        {"type": name, "status": value, "reason": "Test", "message": f"{name} is {value}"}
        for name, value in conditions.items()
    ]
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "storefront", "generation": 3, "annotations": annotations or {"team": "shop"}},
        "spec": spec or {},
        "status": {
            "observedGeneration": 3 if seen else 2,
            "phase": phase,
            "step": 2,
            "conditions": listed,
            **({"outcome": outcome} if outcome else {}),
        },
    }


HEALTH = [
    ("TraceDataset", {"phase": "Building", "Ready": "False"}, "Progressing"),
    ("TraceDataset", {"phase": "Ready", "Ready": "True", "Fresh": "True"}, "Healthy"),
    ("TraceDataset", {"phase": "Ready", "Ready": "True", "Fresh": "False"}, "Degraded"),
    ("TraceDataset", {"Ready": "False", "Stalled": "True"}, "Degraded"),
    ("TraceDataset", {"Ready": "True", "spec": {"suspend": True}}, "Suspended"),
    ("FineTuneRun", {"phase": "Queued", "Succeeded": "Unknown"}, "Suspended"),
    ("FineTuneRun", {"phase": "Running", "Succeeded": "Unknown"}, "Progressing"),
    ("FineTuneRun", {"phase": "Succeeded", "Succeeded": "True"}, "Healthy"),
    ("FineTuneRun", {"phase": "Failed", "Succeeded": "False"}, "Degraded"),
    ("FineTuneRun", {"phase": "Suspended", "spec": {"suspend": True}}, "Suspended"),
    ("EvalRun", {"phase": "Running", "Succeeded": "Unknown"}, "Progressing"),
    ("EvalRun", {"phase": "Succeeded", "Succeeded": "True"}, "Healthy"),
    ("EvalRun", {"phase": "Failed", "Succeeded": "False"}, "Degraded"),
    ("EvalRun", {"Stalled": "True"}, "Degraded"),
    ("PromotionScorecard", {"phase": "Judging", "Passed": "Unknown"}, "Progressing"),
    ("PromotionScorecard", {"phase": "Passed", "Passed": "True"}, "Healthy"),
    ("PromotionScorecard", {"phase": "Refused", "Passed": "False"}, "Degraded"),
    ("PromotionScorecard", {"phase": "Inconclusive", "Passed": "False"}, "Suspended"),
    ("ShadowRollout", {"phase": "Soaking", "Progressing": "True"}, "Progressing"),
    ("ShadowRollout", {"phase": "AwaitingApproval"}, "Suspended"),
    ("ShadowRollout", {"phase": "NoData"}, "Suspended"),
    ("ShadowRollout", {"phase": "Paused"}, "Suspended"),
    ("ShadowRollout", {"phase": "Completed", "Completed": "True"}, "Healthy"),
    ("ShadowRollout", {"phase": "RolledBack", "RolledBack": "True", "Completed": "False"}, "Degraded"),
    *((kind, {"seen": False, "Ready": "True", "Succeeded": "True"}, "Progressing") for kind in KINDS),
]


@pytest.mark.parametrize(("kind", "status", "expected"), HEALTH)
def test_argo_cd_sees_the_health_that_is_promised(overrides, kind, status, expected):
    said = overrides("health", custom_resource(kind, **status))
    assert re.search(r"^STATUS: (\w+)$", said, re.MULTILINE)[1] == expected, said


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_without_a_status_is_progressing(overrides, kind):
    fresh = custom_resource(kind)
    del fresh["status"]
    assert "STATUS: Progressing" in overrides("health", fresh)


def test_the_reason_of_a_rollback_is_argo_cds_message(overrides):
    said = overrides("health", custom_resource("ShadowRollout", phase="RolledBack", RolledBack="True"))
    assert "MESSAGE: RolledBack is True" in said


ACTIONS = [
    ("TraceDataset", {}, {"refresh", "suspend"}, {"resume"}),
    ("TraceDataset", {"spec": {"suspend": True}}, {"resume"}, {"refresh", "suspend"}),
    ("FineTuneRun", {}, {"suspend"}, {"resume"}),
    ("FineTuneRun", {"spec": {"suspend": True}}, {"resume"}, {"suspend"}),
    ("EvalRun", {}, {"suspend"}, {"resume"}),
    ("ShadowRollout", {"phase": "Soaking"}, {"pause", "abort"}, {"resume", "promote", "retry"}),
    ("ShadowRollout", {"phase": "AwaitingApproval"}, {"pause", "abort", "promote"}, {"resume", "retry"}),
    ("ShadowRollout", {"spec": {"paused": True}}, {"resume", "abort"}, {"pause", "promote", "retry"}),
    ("ShadowRollout", {"outcome": "RolledBack"}, {"retry"}, {"pause", "resume", "promote", "abort"}),
    ("ShadowRollout", {"outcome": "Completed"}, set(), {"pause", "resume", "promote", "abort", "retry"}),
]


@pytest.mark.parametrize(("kind", "status", "enabled", "disabled"), ACTIONS)
def test_argo_cd_offers_the_actions_that_fit(overrides, kind, status, enabled, disabled):
    rows = overrides("list-actions", custom_resource(kind, **status)).splitlines()
    assert rows[0].split() == ["NAME", "DISABLED"]
    found = {name: word == "true" for name, word in map(str.split, rows[1:])}
    assert found == {**dict.fromkeys(enabled, False), **dict.fromkeys(disabled, True)}


def test_a_scorecard_has_no_actions(overrides):
    said = overrides("list-actions", custom_resource("PromotionScorecard"))
    assert "Actions are not configured for 'sluice.dev/PromotionScorecard'" in said


def changes(said):
    """Return the lines that an action adds, and those that it takes away, without their indentation."""
    lines = [re.match(r"([<>])\s*(.*)", line) for line in said.splitlines()]
    added = [match[2] for match in lines if match and match[1] == ">"]
    return added, [match[2] for match in lines if match and match[1] == "<"]


@pytest.mark.parametrize(
    ("kind", "action", "spec", "added"),
    [
        ("TraceDataset", "suspend", {"workers": 1}, "suspend: true"),
        ("FineTuneRun", "suspend", {"workers": 1}, "suspend: true"),
        ("EvalRun", "resume", {"suspend": True}, "suspend: false"),
        ("ShadowRollout", "pause", {"paused": False}, "paused: true"),
        ("ShadowRollout", "resume", {"paused": True}, "paused: false"),
    ],
)
def test_running_an_action_changes_one_field_of_the_spec(overrides, kind, action, spec, added):
    assert changes(overrides("run-action", custom_resource(kind, spec=spec), action))[0] == [added]


@pytest.mark.parametrize(
    ("kind", "action"), [("TraceDataset", "refresh"), ("ShadowRollout", "abort"), ("ShadowRollout", "retry")]
)
def test_running_a_command_adds_its_annotation_with_the_time_and_nothing_else(overrides, kind, action):
    added, taken = changes(overrides("run-action", custom_resource(kind), action))
    (line,) = added
    assert re.fullmatch(rf'sluice\.dev/{action}: "\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', line), added
    assert not taken


def test_promoting_names_the_step_that_waits_and_takes_an_older_name_away(overrides):
    annotations = {"sluice.dev/promoted-by": "an earlier one"}
    waiting = custom_resource("ShadowRollout", phase="AwaitingApproval", annotations=annotations)
    added, taken = changes(overrides("run-action", waiting, "promote"))
    assert added == ['sluice.dev/promote: "2"']
    assert taken == ["sluice.dev/promoted-by: an earlier one"]


def test_every_key_of_the_chart_is_one_that_argo_cd_reads(argocd_cm):
    keys = set(yaml.safe_load(argocd_cm.read_text())["data"])
    health = {f"resource.customizations.health.sluice.dev_{kind}" for kind in KINDS}
    actions = {f"resource.customizations.actions.sluice.dev_{kind}" for kind in KINDS if kind != "PromotionScorecard"}
    assert keys == health | actions, json.dumps(sorted(keys))

"""The Argo CD scripts, in a Lua of the same version (5.1) with the libraries that Argo CD allows and no more."""

from pathlib import Path

import pytest
from lupa import lua51

from sluice_api.v1alpha1 import KINDS

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "charts" / "sluice" / "argocd"
WITHHELD = ("string", "math", "io", "debug", "coroutine", "loadfile", "dofile", "os")
"""Globals that Argo CD does not give to a script; `os`, less of it, a script must require."""


def run_lua(path, obj):
    """Run a script on an object, as Argo CD does; return its answer as Python values."""
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    table = runtime.table_from(obj, recursive=True)
    environment = runtime.globals()
    environment["obj"] = table
    dates = runtime.table_from({"date": environment["os"]["date"], "time": environment["os"]["time"]})
    environment["require"] = {"os": dates}.__getitem__
    for name in WITHHELD:
        environment[name] = None
    return python_value(runtime.execute((SCRIPTS / path).read_text()))


def python_value(value):
    """Turn Lua tables into dictionaries."""
    return {key: python_value(each) for key, each in value.items()} if lua51.lua_type(value) == "table" else value


def custom_resource(kind, *, phase="", spec=None, seen=True, outcome="", **conditions):
    """Return an object with conditions, e.g. `Ready="True"`."""
    listed = [{"type": name, "status": value, "message": f"{name} is {value}"} for name, value in conditions.items()]
    status = {
        "observedGeneration": 3 if seen else 2,
        "phase": phase,
        "conditions": listed,
        "step": 2,
        "outcome": outcome,
    }
    return {"kind": kind, "metadata": {"generation": 3}, "spec": spec or {}, "status": status}


HEALTH = [
    ("TraceDataset", {"Ready": "True", "Fresh": "True"}, {}, "Healthy"),
    ("TraceDataset", {"Ready": "True", "Fresh": "False"}, {}, "Degraded"),
    ("TraceDataset", {"Ready": "False", "Reconciling": "True"}, {"phase": "Running"}, "Progressing"),
    ("TraceDataset", {"Ready": "False", "Stalled": "True"}, {}, "Degraded"),
    ("TraceDataset", {"Ready": "True"}, {"spec": {"suspend": True}}, "Suspended"),
    ("FineTuneRun", {"Succeeded": "Unknown"}, {"phase": "Running"}, "Progressing"),
    ("FineTuneRun", {"Succeeded": "Unknown"}, {"phase": "Queued"}, "Suspended"),
    ("FineTuneRun", {"Succeeded": "True", "Ready": "True"}, {}, "Healthy"),
    ("FineTuneRun", {"Succeeded": "False"}, {}, "Degraded"),
    ("FineTuneRun", {"Succeeded": "True"}, {"seen": False}, "Progressing"),
    ("EvalRun", {"Succeeded": "False"}, {}, "Degraded"),
    ("EvalRun", {"Succeeded": "True"}, {}, "Healthy"),
    ("PromotionScorecard", {"Passed": "True"}, {}, "Healthy"),
    ("PromotionScorecard", {"Passed": "False"}, {"phase": "Refused"}, "Degraded"),
    ("PromotionScorecard", {"Passed": "False"}, {"phase": "Inconclusive"}, "Suspended"),
    ("ShadowRollout", {"Progressing": "True"}, {"phase": "Soaking"}, "Progressing"),
    ("ShadowRollout", {"Paused": "True"}, {"phase": "Paused"}, "Suspended"),
    ("ShadowRollout", {}, {"phase": "NoData"}, "Suspended"),
    ("ShadowRollout", {}, {"phase": "AwaitingApproval"}, "Suspended"),
    ("ShadowRollout", {"RolledBack": "True", "Completed": "False"}, {"phase": "RolledBack"}, "Degraded"),
    ("ShadowRollout", {"Completed": "True"}, {"phase": "Completed"}, "Healthy"),
]


@pytest.mark.parametrize(("kind", "conditions", "more", "expected"), HEALTH)
def test_health(kind, conditions, more, expected):
    answer = run_lua("health.lua", custom_resource(kind, **more, **conditions))
    assert answer["status"] == expected
    assert isinstance(answer["message"], str)


@pytest.mark.parametrize("kind", [kind.crd.kind for kind in KINDS])
def test_an_object_that_nobody_looked_at_is_progressing(kind):
    fresh = {"kind": kind, "metadata": {"generation": 1}, "spec": {}}
    assert run_lua("health.lua", fresh)["status"] == "Progressing"


@pytest.mark.parametrize(
    ("obj", "enabled"),
    [
        (custom_resource("ShadowRollout", phase="Soaking"), {"pause", "abort"}),
        (custom_resource("ShadowRollout", phase="AwaitingApproval"), {"pause", "promote", "abort"}),
        (custom_resource("ShadowRollout", phase="RolledBack", outcome="RolledBack"), {"retry"}),
        (custom_resource("ShadowRollout", phase="Completed", outcome="Completed"), set()),
        (custom_resource("ShadowRollout", spec={"paused": True}), {"resume", "abort"}),
        (custom_resource("FineTuneRun"), {"suspend"}),
        (custom_resource("EvalRun", spec={"suspend": True}), {"resume"}),
        (custom_resource("TraceDataset"), {"suspend", "refresh"}),
        (custom_resource("PromotionScorecard"), set()),
    ],
)
def test_the_actions_that_fit(obj, enabled):
    found = run_lua("actions/discovery.lua", obj)
    assert {name for name, action in found.items() if not action.get("disabled")} == enabled


def test_an_approval_names_the_step_that_waits_and_nobody_else():
    waiting = custom_resource("ShadowRollout", phase="AwaitingApproval")
    waiting["metadata"]["annotations"] = {"sluice.dev/promoted-by": "whoever approved the step before"}
    changed = run_lua("actions/promote.lua", waiting)
    assert changed["metadata"]["annotations"] == {"sluice.dev/promote": "2"}


@pytest.mark.parametrize("action", ["abort", "retry", "refresh"])
def test_a_command_is_an_annotation_with_the_time_and_keeps_the_others(action):
    obj = custom_resource("ShadowRollout")
    obj["metadata"]["annotations"] = {"team": "checkout"}
    annotations = run_lua(f"actions/{action}.lua", obj)["metadata"]["annotations"]
    assert annotations["team"] == "checkout"
    assert annotations[f"sluice.dev/{action}"].endswith("Z")


@pytest.mark.parametrize(
    ("action", "kind", "field", "value"),
    [
        ("pause", "ShadowRollout", "paused", True),
        ("resume", "ShadowRollout", "paused", False),
        ("suspend", "FineTuneRun", "suspend", True),
        ("resume", "EvalRun", "suspend", False),
    ],
)
def test_pausing_changes_the_spec(action, kind, field, value):
    assert run_lua(f"actions/{action}.lua", custom_resource(kind))["spec"][field] is value


def test_every_action_that_the_chart_offers_has_a_script_and_is_discovered():
    template = (ROOT / "charts" / "sluice" / "templates" / "argocd.yaml").read_text()
    scripts = {path.stem for path in (SCRIPTS / "actions").glob("*.lua")} - {"discovery"}
    assert all(f'"{name}"' in template for name in scripts)
    rollout = run_lua("actions/discovery.lua", custom_resource("ShadowRollout"))
    dataset = run_lua("actions/discovery.lua", custom_resource("TraceDataset"))
    assert set(rollout) | set(dataset) == scripts

"""The CRDs and the examples on a real API server: what is right is accepted, what is wrong is refused by field name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice_api.v1alpha1 import KINDS

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
OTHERS = {ROOT / "examples" / "gitops", ROOT / "examples" / "kubernetes" / "install"}
"""Hold kinds of others too, and have tests of their own beside the chart's."""
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml") if not OTHERS.intersection(path.parents))


def example(stem: str) -> dict[str, Any]:
    """Return the last document of an example."""
    return list(yaml.safe_load_all((ROOT / "examples" / f"{stem}.yaml").read_text()))[-1]


def changed(stem: str, path: str, value: Any) -> dict[str, Any]:
    """Return an example with one field set, or removed where the value is the class `Remove`."""
    document = copy.deepcopy(example(stem))
    *parents, last = path.split(".")
    node = document
    for name in parents:
        node = node[int(name)] if name.isdigit() else node.setdefault(name, {})
    key = int(last) if last.isdigit() else last
    if value is Remove:
        del node[key]
    else:
        node[key] = value
    return document


class Remove:
    """Marks a field to leave out."""


GUARD = {"name": "errors", "query": "sum(errors)", "max": 0.01}
BACKENDS = {"stable": {"service": "a", "port": 80}, "candidate": {"service": "b", "port": 80}}
ADOPTED = {"router": "httpRoute", "adopt": "shop", **BACKENDS}
ROUTED = {"router": "httpRoute", "parentRefs": [{"name": "gateway"}], **BACKENDS}

BAD = [
    ("tracedataset", "spec.source.uri", "ftp://traces/", "spec.source.uri"),
    ("tracedataset", "spec.source.uri", Remove, "spec.source.uri"),
    ("tracedataset", "spec.label.keep", ["positive", "negative"], "spec.label.keep"),
    ("tracedataset", "spec.label.keep", ["good"], "spec.label.keep"),
    ("tracedataset", "spec.split.holdout", 0.9, "spec.split.holdout"),
    ("tracedataset", "spec.split.by", "row", "spec.split.by"),
    ("tracedataset", "spec.source.since", "yesterday", "spec.source.since"),
    ("tracedataset", "spec.sorce", {}, "spec.sorce"),
    ("tracedataset", "spec.privacy.detectors", ["nose"], "spec.privacy.detectors[0]"),
    ("tracedataset", "spec.privacy.patterns", [{"name": "A b", "pattern": "x"}], "spec.privacy.patterns[0].name"),
    ("tracedataset", "spec.critic", {}, "spec.critic judges the candidates of spec.mixture.buckets"),
    ("tracedataset", "spec.mixture", {"rows": 9, "buckets": []}, "spec.mixture.buckets"),
    ("tracedataset", "spec.mixture", {"rows": 9, "buckets": [{"name": "a", "weight": 0}]}, "weight"),
    (
        "tracedataset",
        "spec.mixture",
        {"rows": 9, "buckets": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]},
        "only one bucket may have no source",
    ),
    ("tracedataset", "spec.leaks.suites", [{"uri": "builtin:none-such"}], "spec.leaks.suites[0].uri"),
    ("tracedataset", "spec.deduplication.threshold", 0, "spec.deduplication.threshold"),
    ("tracedataset", "spec.maxBadFraction", 2, "spec.maxBadFraction"),
    ("tracedataset", "spec.workers", 0, "spec.workers"),
    ("tracedataset", "metadata.name", "a" * 64, "metadata.name"),
    ("finetunerun", "spec.lora.rank", 0, "spec.lora.rank"),
    ("finetunerun", "spec.optimizer.learningRate", 0, "spec.optimizer.learningRate"),
    ("finetunerun", "spec.optimizer.learningRate", "NaN", "spec.optimizer.learningRate"),
    ("finetunerun", "spec.method", "ppo", "spec.method"),
    ("finetunerun", "spec.workers", -1, "spec.workers"),
    ("finetunerun", "spec.baseModel.uri", "Qwen/Qwen2.5", "spec.baseModel.uri"),
    ("finetunerun", "spec.baseModel.revision", "main", "spec.baseModel.revision"),
    ("finetunerun", "spec.deadlines.running", "one day", "spec.deadlines.running"),
    ("finetunerun", "spec.profile", "x" * 300_000, "spec.profile"),
    ("finetunerun", "spec.datasetRef.name", "../other", "spec.datasetRef.name"),
    ("finetunerun", "spec.phases", [{"train": ["atention"]}], "spec.phases[0].train[0]"),
    ("finetunerun", "spec.phases", [{}, {"until": 9}], "only the last phase may have no until"),
    ("finetunerun", "spec.phases", [{"until": 9}, {"until": 9}], "until must increase strictly"),
    ("finetunerun", "spec.probes", {"suite": "smoke-8", "stopRules": ["never"]}, "spec.probes.stopRules[0]"),
    ("finetunerun", "spec.probes", {"suite": "smoke-8", "gates": [{"atStep": 9}]}, "probes.gates needs"),
    (
        "finetunerun",
        "spec.probes",
        {"suite": "smoke-8", "gates": [{"atStep": 40}], "extendTo": 80},
        "spec.probes.extendTo needs a smaller spec.optimizer.maxSteps",
    ),
    (
        "finetunerun",
        "spec.probes",
        {"suite": "smoke-8", "gates": [{"atStep": 81}], "extendTo": 90},
        "spec.probes.gates[].atStep must not exceed",
    ),
    ("finetunerun", "spec.minWorkers", 2, "spec.minWorkers must not exceed spec.workers"),
    ("finetunerun", "spec.dpo", {"beta": 0.2}, "spec.dpo is only for spec.method dpo"),
    ("finetunerun", "spec.strategy", "fsdp", "spec.strategy fsdp"),
    ("evalrun", "spec.candidate", {}, "exactly one of fineTuneRunRef, channel and endpoint"),
    (
        "evalrun",
        "spec.candidate",
        {"channel": "stable", "fineTuneRunRef": {"name": "a"}},
        "exactly one of fineTuneRunRef, channel and endpoint",
    ),
    ("evalrun", "spec.concurrency", 0, "spec.concurrency"),
    ("evalrun", "spec.limits.infraErrorFraction", 1.5, "spec.limits.infraErrorFraction"),
    ("promotionscorecard", "spec.tier", "second_sft", "spec.tier"),
    ("promotionscorecard", "spec.requiredGates", ["task_pass_rat"], "spec.requiredGates"),
    ("promotionscorecard", "spec.candidate", {}, "spec.candidate"),
    ("promotionscorecard", "spec.metrics", [{"name": "parser_validity", "value": 0.9}], "source"),
    ("shadowrollout", "spec.steps", [{"weight": 5}, {"weight": 25}], "spec.steps"),
    ("shadowrollout", "spec.steps", [{"weight": 25}, {"weight": 5}, {"weight": 100}], "spec.steps"),
    ("shadowrollout", "spec.steps", [{"weight": 5}, {"weight": 5}, {"weight": 100}], "spec.steps"),
    ("shadowrollout", "spec.steps", [{"weight": 101}], "weight"),
    ("shadowrollout", "spec.steps", [], "spec.steps"),
    ("shadowrollout", "spec.steps", [{"weight": 100}], "spec.steps"),
    ("shadowrollout", "spec.approval", [4], "spec.approval"),
    ("shadowrollout", "spec.steps.0.weight", -5, "weight"),
    ("shadowrollout", "spec.traffic", {"router": "httpRoute"}, "spec.traffic"),
    ("shadowrollout", "spec.analysis.alpha", 0.7, "spec.analysis.alpha"),
    ("shadowrollout", "spec.analysis.interval", "0s", "spec.analysis.interval must be at least 1s"),
    ("shadowrollout", "spec.analysis.interval", "0h00m", "spec.analysis.interval must be at least 1s"),
    ("shadowrollout", "spec.analysis.guards", [{"name": "a", "query": ""}], "spec.analysis.guards[0]"),
    ("shadowrollout", "spec.analysis.guards", [GUARD, GUARD], "every name must be another one"),
    ("shadowrollout", "spec.steps.0.weight", 0, "exactly where it has a shadow"),
    ("shadowrollout", "spec.steps.0.shadow", {"mirror": 10}, "exactly where it has a shadow"),
    ("shadowrollout", "spec.steps.0", {"weight": 0, "shadow": {"mirror": 0}}, "mirror"),
    ("shadowrollout", "spec.steps.0", {"weight": 0, "shadow": {"mirror": 9}}, "only spec.traffic.router httpRoute"),
    ("shadowrollout", "spec.traffic", {"router": "httpRoute", **BACKENDS}, "parentRefs (or adopt)"),
    ("shadowrollout", "spec.traffic", ADOPTED | {"cohortHeader": "X-Cohort"}, "spec.traffic.cohortHeader needs router"),
    ("shadowrollout", "spec.traffic", {"cohortHeader": "X-Cohort"}, "spec.traffic.cohortHeader needs router"),
    ("shadowrollout", "spec.traffic", ROUTED | {"cohortHeader": "X Cohort"}, "spec.traffic.cohortHeader"),
    ("shadowrollout", "spec.traffic", ADOPTED | {"hostnames": ["a.b"]}, "leave out parentRefs and hostnames"),
    ("shadowrollout", "spec.traffic", ADOPTED | {"candidate": BACKENDS["stable"]}, "the same Service and port"),
    ("shadowrollout", "spec.stable.root", Remove, "spec.stable.root"),
]


@pytest.fixture(scope="module")
def kinds(kubectl):
    """The CRDs, established."""
    kubectl(
        "apply",
        "--server-side",
        *(part for path in sorted((ROOT / "crds").glob("*.yaml")) for part in ("-f", str(path))),
    )
    names = [f"crd/{kind.crd.plural}.sluice.dev" for kind in KINDS]
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return names


def test_the_api_server_reports_no_structural_or_cel_problem(kubectl, kinds):
    for name in kinds:
        conditions = json.loads(kubectl("get", name, "-o", "json").stdout)["status"]["conditions"]
        assert not [c for c in conditions if c["type"] == "NonStructuralSchema" and c["status"] == "True"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT / "examples")))
def test_example_is_accepted(path, kubectl, kinds, namespace):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    if not all(document.get("apiVersion", "").startswith("sluice.dev/") for document in documents):
        pytest.fail(f"{path} holds a foreign kind; give it a test of its own")
    kubectl("apply", "-n", namespace, "--server-side", "--dry-run=server", "-f", str(path))


@pytest.mark.parametrize(
    ("stem", "path", "value", "words"),
    BAD,
    ids=[f"{stem}: {path} = {str(value)[:24]}" for stem, path, value, _ in BAD],
)
def test_bad_manifest_is_refused_by_name(stem, path, value, words, kubectl, kinds, namespace):
    document = json.dumps(changed(stem, path, value))
    result = kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", input=document, check=False)
    assert result.returncode != 0
    assert words in result.stderr


def test_a_run_that_never_started_may_be_corrected_one_that_did_may_not(kubectl, kinds, namespace):
    run = example("finetunerun")
    kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(run))
    name = f"finetunerun/{run['metadata']['name']}"

    def patch(body: dict[str, Any], *flags: str, check: bool = True):
        return kubectl("patch", "-n", namespace, name, "--type=merge", "-p", json.dumps(body), *flags, check=check)

    patch({"spec": {"seed": 7}})
    patch({"status": {"inputs": {"baseModel": f"sha256:{'0' * 64}"}}}, "--subresource=status")
    refused = patch({"spec": {"seed": 8}}, check=False)
    assert refused.returncode != 0
    assert "spec.seed is immutable once the run has started" in refused.stderr
    patch({"spec": {"suspend": True}})


def test_explain_is_documentation(kubectl, kinds):
    text = kubectl("explain", "finetunerun.spec").stdout
    assert "Full checkpoints: adapter, optimizer" in text or "When state is saved." in text
    assert "<no description>" not in text

"""Storage roots: what a namespace's objects may name, and that nothing is read before that is known."""

import argparse
import random

import pytest

from rolloutworld import SPEC as ROLLOUT_SPEC
from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import EvalTarget
from sluice_api.v1alpha1 import KINDS
from sluice_api.v1alpha1.common import Attempt
from sluice_operator.apply import Applier
from sluice_operator.commands import add_parser, run_operator
from sluice_operator.decisions.base import Backend, Decision, Profile, Settings, SubmitJob
from sluice_operator.decisions.roots import outside_roots
from sluice_operator.errors import StorageNotAllowedError
from sluice_operator.events import EventRecorder
from sluice_operator.lease import LeaseConfig
from sluice_operator.manifests.jobs import eval_job
from sluice_operator.metrics import Metrics
from sluice_operator.observe import Surroundings
from sluice_operator.reconcile import Reconciler
from sluice_operator.startup import OperatorConfig
from sluice_operator.workqueue import WorkQueue

OWN, SHARED, FOREIGN = "s3://models/shop", "s3://shared", "s3://models/other"
ROOTS = Settings(storage_roots=("s3://models/{namespace}/", "file:///data/{namespace}"), shared_storage_roots=(SHARED,))
MODELS = {model.crd.kind: model for model in KINDS}
DIGEST = "sha256:" + "a" * 64
TRAIN = {"datasetRef": {"name": "d"}, "baseModel": {"uri": "hf://org/base"}, "output": f"{OWN}/runs"}
EVAL = {
    "candidate": {"channel": "stable"},
    "channels": f"{OWN}/agent",
    "suite": {"uri": "builtin:smoke-8"},
    "output": f"{OWN}/evals",
}
DATASET = {"source": {"uri": f"{OWN}/traces"}, "output": {"uri": f"{OWN}/datasets"}}
CARD = {"candidate": {"digest": DIGEST}, "output": f"{OWN}/cards"}
ROLLOUT = {
    **ROLLOUT_SPEC,
    "stable": {"root": f"{OWN}/agent"},
    "analysis": {**ROLLOUT_SPEC["analysis"], "source": {"uri": f"{OWN}/traces"}},
    "output": f"{OWN}/rollouts",
}


def parsed(kind, spec, **metadata):
    metadata = {"name": "x", "namespace": "shop", "uid": "u-1", "generation": 1, "resourceVersion": "7", **metadata}
    return MODELS[kind].model_validate({"metadata": metadata, "spec": spec})


def changed(spec, path, value):
    """Return a spec with one field set, made where it is not there."""
    name, _, rest = path.partition(".")
    if name.endswith("[0]"):
        return {**spec, name[:-3]: [changed({}, rest, value)]}
    return {**spec, name: changed(spec.get(name) or {}, rest, value) if rest else value}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("TraceDataset", DATASET),
        ("FineTuneRun", TRAIN),
        ("EvalRun", EVAL),
        ("PromotionScorecard", CARD),
        ("ShadowRollout", ROLLOUT),
    ],
)
def test_a_spec_within_its_roots_is_let_go_on(kind, spec):
    assert outside_roots(parsed(kind, spec), ROOTS) == ""
    told = outside_roots(parsed(kind, spec, namespace="other"), ROOTS)
    assert told.startswith("spec.")
    assert outside_roots(parsed(kind, spec, namespace="other"), Settings()) == ""


@pytest.mark.parametrize(
    ("kind", "spec", "field", "read"),
    [
        ("TraceDataset", DATASET, "source.uri", True),
        ("TraceDataset", DATASET, "output.uri", False),
        ("TraceDataset", DATASET, "leaks.suites[0].uri", True),
        ("FineTuneRun", TRAIN, "baseModel.uri", True),
        ("FineTuneRun", TRAIN, "output", False),
        ("EvalRun", EVAL, "suite.uri", True),
        ("EvalRun", EVAL, "channels", True),
        ("EvalRun", EVAL, "output", False),
        ("PromotionScorecard", CARD, "output", False),
        ("ShadowRollout", ROLLOUT, "stable.root", False),
        ("ShadowRollout", ROLLOUT, "analysis.source.uri", True),
        ("ShadowRollout", ROLLOUT, "output", False),
    ],
)
def test_a_place_outside_is_refused_by_its_field(kind, spec, field, read):
    told = outside_roots(parsed(kind, changed(spec, field, f"{FOREIGN}/x")), ROOTS)
    assert told.startswith(f"spec.{field} is {FOREIGN}/x, but objects of namespace shop ")
    shared = outside_roots(parsed(kind, changed(spec, field, f"{SHARED}/x.json")), ROOTS)
    assert bool(shared) is not read


def test_evidence_and_reports_by_address_are_places_too():
    shadow = {"rolloutRef": {"name": "r"}, "step": 1, "summaryUri": f"{FOREIGN}/s.json", "summaryDigest": DIGEST}
    assert outside_roots(parsed("PromotionScorecard", {**CARD, "shadow": shadow}), ROOTS).startswith("spec.shadow.summ")
    shadow["summaryUri"] = "/etc/passwd"
    assert outside_roots(parsed("PromotionScorecard", {**CARD, "shadow": shadow}), ROOTS).startswith("spec.shadow.summ")
    report = {"report": {"uri": f"{FOREIGN}/r.json", "digest": DIGEST}}
    assert outside_roots(parsed("EvalRun", {**EVAL, "baseline": report}), ROOTS).startswith("spec.baseline.report.uri")


def test_the_templates_of_a_dataset_are_looked_into():
    lineage = {"fineTuneRun": {key: value for key, value in TRAIN.items() if key != "datasetRef"}}
    assert outside_roots(parsed("TraceDataset", {**DATASET, "onNewVersion": lineage}), ROOTS) == ""
    lineage["fineTuneRun"]["output"] = FOREIGN
    told = outside_roots(parsed("TraceDataset", {**DATASET, "onNewVersion": lineage}), ROOTS)
    assert told.startswith("spec.onNewVersion.fineTuneRun.output is s3://models/other, but")


@pytest.mark.parametrize(
    ("uri", "inside"),
    [
        ("s3://models/shop", True),
        ("s3://models/shop/a..b/", True),
        ("s3://models/shopping/x", False),
        ("s3://models/shop/../other/x", False),
        ("s3://models/shop/./x", False),
        ("s3://models/%73hop/x", False),
        ("s3://models/", False),
        ("file:///data/shop/x", True),
        ("file:///data/shop/%2e%2e/other", False),
        ("file:///data/shop/..%2Fother", False),
        ("file:///data/shop/a%5C..%5Cb", False),
        ("file:///var/run/secrets/token", False),
        ("file://localhost/data/shop/x", False),
    ],
)
def test_however_a_place_is_written(uri, inside):
    assert (outside_roots(parsed("FineTuneRun", {**TRAIN, "output": uri}), ROOTS) == "") is inside


class OneObject:
    """A cluster that holds one object and knows nothing else."""

    def __init__(self, raw):
        self.raw = raw

    async def get(self, resource, namespace, name):
        return self.raw

    async def replace_status(self, raw, status):
        self.raw = {**raw, "status": dict(status)}
        return self.raw


async def test_nothing_is_read_for_an_object_that_names_another_namespaces_storage():
    obj = parsed("ShadowRollout", {**ROLLOUT, "stable": {"root": f"{FOREIGN}/agent"}})
    cluster = OneObject(obj.model_dump(by_alias=True, exclude_none=True, mode="json"))
    world = Surroundings(cluster=cluster, profiles=None, backends={}, routers={}, settings=ROOTS)
    reconciler = Reconciler(world, WorkQueue(), EventRecorder(cluster, instance="t"), Metrics(), rng=random.Random(1))
    delay = await reconciler.reconcile("ShadowRollout", "shop", "x", "u-1")
    status = cluster.raw["status"]
    assert (status["reason"], status["phase"]) == ("StorageNotAllowed", "Pending")
    assert status["message"].startswith(
        "spec.stable.root is s3://models/other/agent, but objects of namespace shop write"
    )
    assert [each["status"] for each in status["conditions"] if each["type"] == "Stalled"] == ["True"]
    assert delay > 10


class NoBackend:
    """A backend that must not be asked."""

    def __init__(self):
        self.submitted = []

    async def submit(self, key, profile, job_input, *, workers, owner):
        self.submitted.append(key.name)


@pytest.mark.parametrize(("uri", "refused"), [(f"{FOREIGN}/adapter/", True), (f"{OWN}/adapter/", False)])
async def test_a_job_is_not_given_what_a_tampered_result_names(uri, refused):
    obj = parsed("EvalRun", EVAL)
    target = EvalTarget(name="candidate", adapter=ArtifactRef(uri=uri, digest=DIGEST))
    attempt = Attempt(number=1, job="evr-x-1", output_uri=f"{OWN}/evals/attempts/1/")
    asked = eval_job(obj, attempt, candidate=target, baseline=None, suite_digest=DIGEST, task_timeout_s=60)
    backend = NoBackend()
    raw = obj.model_dump(by_alias=True, exclude_none=True, mode="json")
    cluster = OneObject(raw)
    cluster.guard = lambda: None
    profile = Profile(name="cpu", backend=Backend.JOB, image="x")
    world = Surroundings(cluster=cluster, profiles=None, backends={Backend.JOB: backend}, routers={}, settings=ROOTS)
    submit = SubmitJob(name="evr-x-1", profile=profile, job_input=asked)
    applying = Applier(world, EventRecorder(cluster, instance="t")).apply(
        raw, obj, Decision(status={}, actions=(submit,))
    )
    if refused:
        with pytest.raises(
            StorageNotAllowedError, match=r"input\.candidate\.adapter\.uri is s3://models/other/adapter/"
        ):
            await applying
    else:
        await applying
    assert backend.submitted == ([] if refused else ["evr-x-1"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(), "--all-namespaces needs --storage-root"),
        (
            Settings(storage_roots=("s3://m/{namespace}",), prometheus="http://prometheus"),
            "allow that with --guards-across-namespaces",
        ),
    ],
)
def test_an_operator_of_all_namespaces_keeps_them_apart(settings, words):
    lease = LeaseConfig(namespace="system", identity="t", duration_s=15)
    with pytest.raises(ValueError, match=words):
        OperatorConfig(lease=lease, namespace=None, settings=settings)
    assert OperatorConfig(lease=lease, namespace="shop", settings=settings)
    roots = Settings(storage_roots=("s3://m/{namespace}",), prometheus=settings.prometheus)
    assert OperatorConfig(lease=lease, namespace=None, settings=roots, guards_across_namespaces=True)


@pytest.mark.parametrize("root", ["models/{namespace}", "https://models/", "s3://models/../", "file://host/x"])
def test_a_root_that_is_none_is_refused(root):
    with pytest.raises(ValueError, match="a storage root must be"):
        Settings(storage_roots=(root,))


def test_the_command_line_says_what_is_missing(capsys):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["operator", "run", "--all-namespaces", "--system-namespace=s"])
    assert run_operator(arguments) == 2
    assert "--storage-root" in capsys.readouterr().err

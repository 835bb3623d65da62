"""Names, jobs and routes: deterministic, bounded, and as restricted as they must be."""

import json
import re
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from decisionworld import channel, digest
from rolloutworld import CANDIDATE, NAME, ROLLOUT, ROOT, STABLE, RolloutWorld
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.jobs import JOB_INPUT, EvalTarget
from sluice_api.instants import parse_instant
from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, TraceDataset
from sluice_api.v1alpha1.common import Attempt
from sluice_operator.decisions.base import Backend, Profile, SetRoute
from sluice_operator.decisions.duration import format_duration, parse_duration
from sluice_operator.manifests.configmap import ROUTER_KEY, router_config_map
from sluice_operator.manifests.httproute import http_route
from sluice_operator.manifests.job import job
from sluice_operator.manifests.jobs import eval_job, label_job, train_job
from sluice_operator.manifests.lineage import step_scorecard
from sluice_operator.manifests.naming import (
    LABEL_OWNER_UID,
    attempt_uri,
    bounded,
    job_name,
    label_value,
    lineage_name,
    step_scorecard_name,
)
from sluice_operator.manifests.rayjob import rayjob

LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?\Z")
META = {"name": "agent", "namespace": "shop", "uid": "u-1", "labels": {"app.kubernetes.io/instance": "argo"}}
RUN = FineTuneRun.model_validate(
    {
        "metadata": META,
        "spec": {
            "datasetRef": {"name": "d"},
            "baseModel": {"uri": "hf://a/b", "revision": "main"},
            "output": ROOT,
            "lora": {"targetModules": "q_proj, v_proj"},
            "workers": 2,
        },
    }
)
ATTEMPT = Attempt(number=3, job="ftr-agent-x-3", output_uri=attempt_uri(ROOT, "shop", "u-1", 3))
INPUT = train_job(
    RUN,
    ATTEMPT,
    dataset=ArtifactRef(uri=ROOT, digest=digest(1)),
    base_model=ModelRef(uri="hf://a/b", revision="main"),
    parent=None,
    use_gpu=True,
)
GPU = Profile(
    name="a100",
    backend=Backend.KUBERAY,
    image="registry.example/sluice@sha256:0",
    accelerator="nvidia.com/gpu",
    resources={"cpu": "8", "memory": "64Gi"},
    node_selector={"pool": "a100"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists"},),
    env={"AWS_REGION": "eu"},
    env_from=("s3",),
    queue="gpu-queue",
    service_account="trainer",
    num_cpus=8,
)


@given(name=NAMES, uid=st.uuids().map(str), attempt=st.integers(1, 10**6))
def test_job_names_fit_kuberay(name, uid, attempt):
    for kind in ("TraceDataset", "FineTuneRun", "EvalRun", "PromotionScorecard", "ShadowRollout"):
        found = job_name(kind, name, uid, attempt)
        assert len(found) <= 47
        assert LABEL.match(found)
        assert found == job_name(kind, name, uid, attempt)
        assert found != job_name(kind, name, uid, attempt + 1)
        assert found != job_name(kind, name, uid + "x", attempt)


@given(name=NAMES, other=NAMES, uid=st.uuids().map(str))
def test_child_names_fit_and_stay_apart(name, other, uid):
    for found in (
        step_scorecard_name(name, uid, 12, 20, 99999),
        lineage_name(name, digest(7)),
        bounded(name, "router"),
    ):
        assert len(found) <= 63
        assert LABEL.match(found)
    if name.replace(".", "-") != other.replace(".", "-"):
        assert lineage_name(name, digest(7)) != lineage_name(other, digest(7))
    assert len(label_value(name * 3)) <= 63


def test_a_suffix_without_room_is_refused():
    with pytest.raises(ValueError, match="a prefix needs 8"):
        bounded("agent", "x" * 60)


def test_a_rayjob_runs_once_with_a_token_and_goes_away():
    manifest = rayjob(RUN, "ftr-agent-x-3", GPU, INPUT, workers=2)
    spec = manifest["spec"]
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == ("HTTPMode", True, 0)
    assert spec["entrypoint"] == "sluice worker train"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert JOB_INPUT.validate_json(variables["SLUICE_JOB_INPUT"]) == INPUT
    assert variables["AWS_REGION"] == "eu"
    metadata = manifest["metadata"]
    assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    assert metadata["labels"][LABEL_OWNER_UID] == "u-1"
    assert "app.kubernetes.io/instance" not in metadata["labels"]
    assert metadata["ownerReferences"][0]["uid"] == "u-1"
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert group["rayStartParams"] == {"num-cpus": "8"}
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


def pods() -> list[dict]:
    cluster = rayjob(RUN, "ftr-agent-x-3", GPU, INPUT, workers=2)["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    templates.append(job(RUN, "ftr-agent-x-3", GPU, INPUT)["spec"]["template"])
    return [template["spec"] for template in templates]


def test_every_pod_meets_the_restricted_standard():
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] == "trainer"
        assert pod["nodeSelector"] == {"pool": "a100"}
        assert pod["tolerations"]
        assert not pod.get("hostNetwork")
        assert pod["volumes"] == [{"name": "scratch", "emptyDir": {}}]
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")
            assert context["readOnlyRootFilesystem"] is True
            assert container["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}]
            assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
            assert set(container["resources"]["limits"]) >= {"cpu", "memory"}


def test_a_pod_gets_the_tokens_that_its_run_names_and_no_variable_of_the_tenants_choice():
    ref = {"name": "agent-token", "key": "HOME"}
    spec = {
        "candidate": {"endpoint": {"url": "http://c", "tokenSecretRef": {"name": "c-token", "key": "PATH"}}},
        "suite": {"uri": "builtin:smoke-8"},
        "agent": {"url": "http://agent", "tokenSecretRef": ref},
        "output": ROOT,
    }
    run = EvalRun.model_validate({"metadata": META, "spec": spec})
    target = EvalTarget(name="candidate", endpoint_url="http://c", token_env="SLUICE_CANDIDATE_TOKEN")
    asked = eval_job(run, ATTEMPT, candidate=target, baseline=None, suite_digest=digest(5), task_timeout_s=60)
    head = rayjob(run, "evr-x-3", GPU, asked, workers=1)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    for template in (job(run, "evr-x-3", GPU, asked)["spec"]["template"], head):
        env = {each["name"]: each for each in template["spec"]["containers"][0]["env"]}
        assert env["HOME"]["value"] == "/tmp"
        assert "PATH" not in env
        assert {name: each["valueFrom"]["secretKeyRef"] for name, each in env.items() if "valueFrom" in each} == {
            "SLUICE_CANDIDATE_TOKEN": {"name": "c-token", "key": "PATH"},
            "SLUICE_AGENT_TOKEN": ref,
        }


def test_a_profile_may_ask_for_less_than_it_allows():
    profile = replace(GPU, head_resources={"cpu": "1", "memory": "2Gi"}, requests={"cpu": "250m"})
    cluster = rayjob(RUN, "ftr-agent-x-3", profile, INPUT, workers=2)["spec"]["rayClusterSpec"]
    head, workers = (
        part["template"]["spec"]["containers"][0]["resources"]
        for part in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0])
    )
    assert head == {"requests": {"cpu": "250m", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
    assert workers["requests"] == {"cpu": "250m", "memory": "64Gi", "nvidia.com/gpu": "1"}
    assert workers["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}


def test_an_elastic_group_may_grow_and_shrink_between_its_bounds():
    asked = INPUT.model_copy(update={"workers": 8, "min_workers": 2})
    (group,) = rayjob(RUN, "ftr-agent-x-3", GPU, asked, workers=4)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (4, 2, 8)


def test_a_single_process_worker_gets_no_ray_workers():
    dataset = TraceDataset.model_validate(
        {"metadata": META, "spec": {"source": {"uri": ROOT}, "output": {"uri": ROOT}}}
    )
    asked = label_job(dataset, ATTEMPT, parent=None)
    cluster = rayjob(dataset, "tds-agent-x-3", GPU, asked, workers=1)["spec"]["rayClusterSpec"]
    assert "workerGroupSpecs" not in cluster
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "8"


def test_a_job_runs_once():
    spec = job(RUN, "ftr-agent-x-3", GPU, INPUT)["spec"]
    assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")
    container = spec["template"]["spec"]["containers"][0]
    assert container["command"] == ["sluice", "worker", "train"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert JOB_INPUT.validate_json(variables["SLUICE_JOB_INPUT"]) == INPUT


def test_an_evaluation_may_write_to_its_scratch_folder_alone_and_talks_to_no_kubernetes():
    spec = {"candidate": {"channel": "stable"}, "channels": ROOT, "suite": {"uri": "builtin:shell"}, "output": ROOT}
    run = EvalRun.model_validate({"metadata": META, "spec": spec})
    target = EvalTarget(name="candidate", digest=digest(1))
    asked = eval_job(run, ATTEMPT, candidate=target, baseline=None, suite_digest=digest(2), task_timeout_s=60.0)
    pod = job(run, "evr-agent-x-3", GPU, asked)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert worker["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["volumes"] == [{"name": "scratch", "emptyDir": {}}]
    assert worker["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}]
    assert {"name": "HOME", "value": "/tmp"} in worker["env"]
    assert asked.cache_uri == f"{ROOT}runs/shop/u-1/cache/"
    assert asked.cache_uri not in asked.output_uri


def test_what_cannot_run_is_refused():
    with pytest.raises(ValueError, match="KubeRay accepts 47"):
        rayjob(RUN, "x" * 48, GPU, INPUT, workers=1)
    for build in (lambda p: job(RUN, "x", p, INPUT), lambda p: rayjob(RUN, "x", p, INPUT, workers=1)):
        with pytest.raises(ValueError, match="has no image"):
            build(Profile(name="bare", backend=Backend.JOB))


def test_train_inputs_follow_the_spec():
    assert INPUT.target_modules == ["q_proj", "v_proj"]
    assert INPUT.adapter_uri == f"{ROOT}adapters/"
    assert INPUT.checkpoint_uri == f"{ROOT}runs/shop/u-1/checkpoints/"
    assert INPUT.output_uri == f"{ROOT}runs/shop/u-1/attempts/3/"
    assert INPUT.base_model.revision == "main"


@pytest.mark.parametrize("weight", [0, 5, 100])
def test_both_routers_add_up_to_a_hundred(weight):
    traffic = {
        "router": "httpRoute",
        "parentRefs": [{"name": "gw", "sectionName": "web"}],
        "hostnames": ["agent.example"],
        "stable": {"service": "agent-stable", "port": 8000},
        "candidate": {"service": "agent-candidate", "port": 8001},
    }
    world = RolloutWorld(traffic=traffic, assignment={"key": "tenant"})
    rollout = world.parsed(ROLLOUT, NAME)
    route = SetRoute(weight=weight, stable=channel("stable", STABLE), candidate=channel("stable", CANDIDATE))
    manifest = http_route(rollout, route)
    (rule,) = manifest["spec"]["rules"]
    assert [backend["weight"] for backend in rule["backendRefs"]] == [100 - weight, weight]
    assert "ownerReferences" not in manifest["metadata"]
    assert manifest["metadata"]["annotations"]["sluice.dev/candidate-digest"] == CANDIDATE
    document = json.loads(router_config_map(rollout, route)["data"][ROUTER_KEY])
    assert document["candidate_pct"] == float(weight)
    assert (document["rollout"], document["salt"], document["key"]) == (rollout.uid, rollout.uid, "tenant")
    assert document["stable"]["digest"] == STABLE
    assert document["candidate"]["digest"] == CANDIDATE


def test_a_removed_candidate_leaves_no_trace():
    rollout = RolloutWorld().parsed(ROLLOUT, NAME)
    route = SetRoute(weight=0, stable=channel("stable", CANDIDATE), candidate=None)
    manifest = router_config_map(rollout, route)
    assert json.loads(manifest["data"][ROUTER_KEY])["candidate"] is None
    assert manifest["metadata"]["name"] == "agent-router"
    with pytest.raises(ValueError, match="parentRefs"):
        http_route(rollout, route)
    for wrong in (-1, 101, 5):
        with pytest.raises(ValueError, match="weight"):
            router_config_map(rollout, SetRoute(weight=wrong, stable=channel("stable", STABLE), candidate=None))


def test_a_step_scorecard_is_bound_to_digest_and_evidence():
    rollout = RolloutWorld().parsed(ROLLOUT, NAME)
    manifest = step_scorecard(
        rollout,
        round_number=2,
        step=3,
        attempt=17,
        candidate_digest=CANDIDATE,
        summary_uri=f"{ROOT}shadow/1.json",
        summary_digest=digest("e1"),
    )
    card = PromotionScorecard.model_validate(manifest)
    assert card.name.endswith("-r2-s3-a17")
    assert (card.spec.candidate.digest, card.spec.shadow.step) == (CANDIDATE, 3)
    assert list(card.spec.required_gates) == ["escalation_rate_max"]
    assert "ownerReferences" not in manifest["metadata"]
    assert manifest["metadata"]["labels"][LABEL_OWNER_UID] == rollout.uid


@given(seconds=st.integers(0, 10**8))
def test_durations_survive_the_round_trip(seconds):
    text = format_duration(parse_duration(f"{seconds}s"))
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "5", "1h2d", "-1s", "1.5h", "9999999999d", " 1h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_instants_need_an_offset():
    assert parse_instant("2026-11-21T12:00:00.5+02:00").hour == 10
    for wrong in ("2026-11-21T12:00:00", "noon"):
        with pytest.raises(ValueError, match="instant"):
            parse_instant(wrong)

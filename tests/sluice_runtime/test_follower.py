"""The rollout follower: the operator's own document, what it holds on to, and a real API server."""

import json
import threading
from pathlib import Path

import pytest
import yaml

from operators import until
from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_api.v1alpha1 import ShadowRollout
from sluice_devcluster.access import service_account_kubeconfig
from sluice_operator.decisions.base import SetRoute
from sluice_operator.manifests.configmap import router_config_map
from sluice_runtime.follower import (
    MAX_PAUSE_S,
    ROUTER_KEY,
    STABLE_ONLY,
    Assignment,
    FileSource,
    KubernetesSource,
    RolloutFollower,
    SourceError,
)

BASE = ModelRef(uri="hf://owner/base", revision="main", digest="sha256:" + "0" * 64)
STABLE = Channel(name="stable", digest=BASE.digest, base_model=BASE)
CANDIDATE = Channel(
    name="candidate",
    digest="sha256:" + "c" * 64,
    base_model=BASE,
    adapter=ArtifactRef(uri="s3://bucket/adapters/c/", digest="sha256:" + "c" * 64),
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "shadowrollout.yaml"


def config_map(weight, *, namespace="default", key="run", salt="rollout-2026-05", candidate=CANDIDATE):
    """The ConfigMap that the operator itself would write."""
    raw = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    raw["metadata"] |= {"namespace": namespace, "uid": "11111111-2222-3333-4444-555555555555"}
    raw["spec"]["assignment"] = {"key": key, "salt": salt}
    raw["status"] = {"step": 2}
    rollout = ShadowRollout.model_validate(raw)
    return router_config_map(rollout, SetRoute(weight=weight, stable=STABLE, candidate=candidate))


def document(weight=5, **fields):
    """The operator's document, with fields replaced."""
    return json.dumps(json.loads(config_map(weight)["data"][ROUTER_KEY]) | fields)


class Scripted:
    """A source that gives what it is told: a document, None, or an error to raise."""

    def __init__(self, answer=None):
        self.answer = answer
        self.reads = 0

    def read(self):
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class TestAssignment:
    def test_the_operators_document_is_understood(self):
        assignment = Assignment.parse(config_map(5)["data"][ROUTER_KEY])
        assert (assignment.rollout, assignment.step) == ("11111111-2222-3333-4444-555555555555", 2)
        assert (assignment.candidate_pct, assignment.salt, assignment.key) == (5.0, "rollout-2026-05", "run")
        assert (assignment.stable.digest, assignment.stable.adapter) == (BASE.digest, None)
        assert (assignment.candidate.base_model, assignment.candidate.adapter) == (BASE, CANDIDATE.adapter)

    def test_weight_nought_needs_no_candidate(self):
        assignment = Assignment.parse(config_map(0, candidate=None)["data"][ROUTER_KEY])
        assert assignment.candidate is None
        assert assignment.place(tenant_id="acme", run_id="run-25").variant == "baseline"

    def test_an_empty_salt_is_the_rollouts_uid(self):
        assignment = Assignment.parse(config_map(5, salt="")["data"][ROUTER_KEY])
        assert assignment.salt == assignment.rollout

    def test_runs_are_placed_by_the_golden_buckets(self):
        assignment = Assignment.parse(document(5))
        placed = [assignment.place(tenant_id="acme", run_id=f"run-{number}") for number in range(200)]
        candidates = [number for number, placement in enumerate(placed) if placement.variant == "candidate"]
        assert candidates == [25, 27, 52, 74, 138, 166, 175, 177, 181, 189]
        assert {placement.model.digest for placement in placed if placement.variant == "candidate"} == {
            CANDIDATE.digest
        }
        assert {placement.model.digest for placement in placed if placement.variant == "baseline"} == {STABLE.digest}
        assert {placement.rollout for placement in placed} == {assignment.rollout}

    def test_tenants_stick_where_the_key_is_the_tenant(self):
        assignment = Assignment.parse(document(30, key="tenant"))
        acme = {assignment.place(tenant_id="acme", run_id=f"run-{number}").variant for number in range(50)}
        globex = {assignment.place(tenant_id="globex", run_id=f"run-{number}").variant for number in range(50)}
        assert (acme, globex) == ({"candidate"}, {"baseline"})

    def test_shared_runs_have_no_tenant_to_stick_to(self):
        assignment = Assignment.parse(document(100, key="tenant"))
        assert assignment.place(tenant_id="", run_id="run-1").variant == "baseline"
        assert assignment.place(tenant_id="x", run_id="run-1").variant == "candidate"

    def test_without_a_rollout_the_channel_decides(self):
        placement = STABLE_ONLY.place(tenant_id="acme", run_id="run-25")
        assert (placement.variant, placement.rollout, placement.model) == ("baseline", "", None)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "document"),
            ("{", "document"),
            ("[]", "document"),
            ("{}", "missing"),
            (document(candidate_pct=101), "candidate_pct"),
            (document(candidate_pct=-1), "candidate_pct"),
            (document(candidate_pct=float("nan")), r"document|candidate_pct"),
            (document(candidate_pct="many"), "candidate_pct"),
            (document(candidate=None), "without a candidate"),
            (document(stable=None), "stable"),
            (document(rollout=""), "rollout"),
            (document(key="colour"), "key"),
            (document(stable={"digest": "sha256:short", "base_model": {"uri": "x"}}), r"stable\.digest"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, text, message):
        with pytest.raises(SourceError, match=message):
            Assignment.parse(text)


class TestFollower:
    def test_before_anything_was_read_everything_is_stable(self):
        follower = RolloutFollower(Scripted(SourceError("API server away")))
        assert follower.current == STABLE_ONLY
        assert not follower.refresh()
        assert (follower.current, follower.error, follower.age_s) == (STABLE_ONLY, "API server away", None)

    def test_a_missing_document_ends_the_rollout(self):
        source = Scripted(document(25))
        follower = RolloutFollower(source)
        assert follower.refresh()
        assert follower.current.candidate_pct == 25
        source.answer = None
        assert follower.refresh()
        assert (follower.current, follower.error) == (STABLE_ONLY, None)

    @pytest.mark.parametrize("trouble", [SourceError("403"), RuntimeError("a bug"), "{", document(candidate=None)])
    def test_the_last_good_document_holds(self, trouble):
        now = [100.0]
        source = Scripted(document(25))
        follower = RolloutFollower(source, clock=lambda: now[0])
        follower.refresh()
        source.answer = trouble
        now[0] += 60
        assert not follower.refresh()
        assert follower.current.candidate_pct == 25
        assert follower.error
        assert follower.age_s == 60
        source.answer = document(5)
        assert follower.refresh()
        assert (follower.current.candidate_pct, follower.error, follower.age_s) == (5, None, 0)

    def test_failures_are_logged_once_and_slow_the_polling_down(self, caplog):
        follower = RolloutFollower(Scripted(SourceError("away")), poll_s=1.0)
        pauses = []
        for _ in range(12):
            follower.refresh()
            pauses.append(follower._pause())
        assert pauses == [2.0, 4.0, 8.0] + [MAX_PAUSE_S] * 9
        assert caplog.text.count("cannot be read") == 1

    def test_it_follows_in_the_background_and_stops(self):
        source = Scripted(document(5))
        with RolloutFollower(source, poll_s=0.005) as follower:
            assert follower.current.candidate_pct == 5
            for weight in (25, 100, 0):
                source.answer = document(weight)
                until(lambda weight=weight: follower.current.candidate_pct == weight, timeout_s=10, every_s=0.005)
            follower.start()
            assert sum(thread.name == "sluice-rollout-follower" for thread in threading.enumerate()) == 1
        assert all(thread.name != "sluice-rollout-follower" for thread in threading.enumerate())
        reads = source.reads
        source.answer = document(5)
        assert follower.current.candidate_pct == 0
        assert source.reads == reads

    @pytest.mark.parametrize("poll_s", [0, -1, float("nan")])
    def test_a_pause_that_is_none_is_refused(self, poll_s):
        with pytest.raises(ValueError, match="poll_s"):
            RolloutFollower(Scripted(), poll_s=poll_s)


class TestFileSource:
    def test_a_file_is_followed(self, tmp_path):
        path = tmp_path / ROUTER_KEY
        follower = RolloutFollower(FileSource(path))
        assert follower.refresh()
        assert follower.current == STABLE_ONLY
        path.write_text(document(25), encoding="utf-8")
        follower.refresh()
        assert follower.current.candidate_pct == 25
        path.write_bytes(b"\xff")
        assert not follower.refresh()
        assert follower.current.candidate_pct == 25

    def test_a_folder_in_its_place_is_an_error(self, tmp_path):
        with pytest.raises(SourceError):
            FileSource(tmp_path).read()


class TestKubernetesSource:
    """A real API server, as a service account that may read the one ConfigMap and nothing else."""

    @pytest.fixture
    def reader(self, cluster, kubectl, namespace, tmp_path):
        role = ["--verb=get", "--resource=configmaps", "--resource-name=storefront-router"]
        kubectl("create", "serviceaccount", "agent", "-n", namespace)
        kubectl("create", "role", "agent", *role, "-n", namespace)
        kubectl(
            "create", "rolebinding", "agent", "--role=agent", f"--serviceaccount={namespace}:agent", "-n", namespace
        )
        return service_account_kubeconfig(cluster.kubeconfig, namespace, "agent", tmp_path / "agent.kubeconfig")

    def test_a_rollout_is_followed_from_none_to_none(self, kubectl, namespace, reader):
        def apply(weight, **data):
            manifest = config_map(weight, namespace=namespace)
            del manifest["metadata"]["ownerReferences"]  # the rollout itself is not in this cluster
            manifest["data"] |= data
            kubectl("apply", "--server-side", "-f", "-", input=json.dumps(manifest))

        source = KubernetesSource(namespace, "storefront-router", kubeconfig=reader)
        # A new role takes the API server a moment.
        until(lambda: RolloutFollower(source).refresh(), timeout_s=30, what="may read the ConfigMap")
        try:
            with RolloutFollower(source, poll_s=0.02) as follower:
                assert (follower.current, follower.error) == (STABLE_ONLY, None)
                for weight in (5, 25):
                    apply(weight)
                    until(lambda weight=weight: follower.current.candidate_pct == weight, timeout_s=30)
                assert follower.current == Assignment.parse(config_map(25)["data"][ROUTER_KEY])
                apply(100, **{ROUTER_KEY: "half a docum"})
                until(lambda: follower.error, timeout_s=30)
                assert follower.current.candidate_pct == 25
                apply(0)
                until(lambda: follower.current.candidate_pct == 0, timeout_s=30)
                assert follower.current.rollout
                kubectl("delete", "configmap", "storefront-router", "-n", namespace)
                until(lambda: follower.current == STABLE_ONLY, timeout_s=30)
        finally:
            source.close()

    def test_what_it_may_not_read_is_an_error_and_not_an_absence(self, namespace, reader):
        source = KubernetesSource(namespace, "another", kubeconfig=reader)
        try:
            with pytest.raises(SourceError, match="403"):
                source.read()
        finally:
            source.close()

    def test_a_config_map_without_the_document_is_an_error(self, cluster, kubectl, namespace):
        kubectl("create", "configmap", "other", "-n", namespace, "--from-literal=a=b")
        source = KubernetesSource(namespace, "other", kubeconfig=cluster.kubeconfig)
        try:
            with pytest.raises(SourceError, match=f"other: no {ROUTER_KEY}"):
                source.read()
        finally:
            source.close()


def test_an_api_server_that_is_away_is_an_error(tmp_path, unused_tcp_port):
    server = {"server": f"http://127.0.0.1:{unused_tcp_port}"}
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": server}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
                "current-context": "c",
            }
        )
    )
    source = KubernetesSource("default", "storefront-router", kubeconfig=path)
    try:
        with pytest.raises(SourceError, match="storefront-router"):
            source.read()
    finally:
        source.close()


def test_no_kubeconfig_outside_a_pod_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SourceError, match="API server"):
        KubernetesSource("default", "x")
    with pytest.raises(SourceError, match="API server"):
        KubernetesSource("default", "x", kubeconfig=tmp_path / "missing")

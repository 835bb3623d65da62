"""The one edge to the Kubernetes API, against a real one, with exactly the operator's role."""

import json

import pytest

from sluice_api.v1alpha1.common import FINALIZER
from sluice_operator.cluster import Cluster
from sluice_operator.errors import (
    ConflictError,
    ForbiddenError,
    ForeignObjectError,
    InvalidError,
    KindMissingError,
    LeaseLostError,
    UnreachableError,
)
from sluice_operator.lease import LeaseConfig, LeaseLock
from sluice_operator.manifests.naming import LABEL_OWNER_UID
from sluice_operator.resources import CONFIG_MAP, JOB, LEASE, OWN, POD, Resource

RUN = OWN["FineTuneRun"]


def finetunerun(namespace, name="run"):
    return {
        "apiVersion": RUN.api_version,
        "kind": RUN.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "datasetRef": {"name": "data"},
            "baseModel": {"uri": "file:///nowhere/base/"},
            "output": "file:///nowhere/out/",
        },
    }


def config_map(namespace, owner, text, name="router"):
    metadata = {"name": name, "namespace": namespace, "labels": {LABEL_OWNER_UID: owner}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": text}}


async def test_an_absent_object_is_none(api, namespace):
    assert await api.get(RUN, namespace, "absent") is None


async def test_an_uninstalled_kind_is_told_apart_from_an_absent_object(api, namespace):
    kind = Resource(group="batch", version="v1alpha9", kind="Job", plural="jobs")
    with pytest.raises(KindMissingError, match=r"install the CRD of jobs\.batch"):
        await api.get(kind, namespace, "x")


async def test_list_pages_through_everything(api, namespace, monkeypatch):
    monkeypatch.setattr("sluice_operator.cluster.PAGE", 2)
    for number in range(5):
        await api.create(finetunerun(namespace, f"run-{number}"))
    names = [raw["metadata"]["name"] for raw in await api.list(RUN, namespace)]
    assert names == [f"run-{number}" for number in range(5)]


async def test_the_api_servers_refusal_names_the_field(api, namespace):
    manifest = finetunerun(namespace)
    manifest["spec"]["lora"] = {"rank": 0}
    with pytest.raises(InvalidError, match=r"spec\.lora\.rank"):
        await api.create(manifest)


async def test_a_status_is_replaced_whole_and_bound_to_what_was_read(api, namespace):
    raw = await api.create(finetunerun(namespace))
    first = await api.replace_status(raw, {"phase": "Running", "message": "one"})
    second = await api.replace_status(first, {"phase": "Failed"})
    assert second["status"]["phase"] == "Failed"
    assert not second["status"].get("message")
    with pytest.raises(ConflictError):
        await api.replace_status(first, {"phase": "Succeeded"})


async def test_the_finalizer_is_bound_to_what_was_read(api, namespace, kubectl):
    raw = await api.create(finetunerun(namespace))
    held = await api.set_finalizer(raw, FINALIZER, present=True)
    assert held["metadata"]["finalizers"] == [FINALIZER]
    assert await api.set_finalizer(held, FINALIZER, present=True) == held
    with pytest.raises(ConflictError):
        await api.set_finalizer(raw, FINALIZER, present=True)
    other = json.dumps({"metadata": {"finalizers": [FINALIZER, "example.com/other"]}})
    kubectl("-n", namespace, "patch", "finetunerun", "run", "--type=merge", "-p", other)
    current = await api.get(RUN, namespace, "run")
    let_go = await api.set_finalizer(current, FINALIZER, present=False)
    assert let_go["metadata"]["finalizers"] == ["example.com/other"]
    kubectl("-n", namespace, "patch", "finetunerun", "run", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


async def test_apply_creates_repairs_and_refuses_what_is_not_ours(api, namespace, kubectl):
    await api.apply(config_map(namespace, "owner-1", "a"), owner="owner-1")
    kubectl("-n", namespace, "patch", "configmap", "router", "-p", '{"data":{"text":"edited"}}')
    repaired = await api.apply(config_map(namespace, "owner-1", "b"), owner="owner-1")
    assert repaired["data"] == {"text": "b"}
    with pytest.raises(ForeignObjectError, match="is not ours"):
        await api.apply(config_map(namespace, "owner-2", "c"), owner="owner-2")
    assert (await api.get(CONFIG_MAP, namespace, "router"))["data"] == {"text": "b"}


async def test_create_once_finds_its_own_and_refuses_a_strangers(api, namespace, kubectl):
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": namespace, "labels": {LABEL_OWNER_UID: "owner-1"}},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}},
        },
    }
    first = await api.create_once(job, owner="owner-1")
    again = await api.create_once(job, owner="owner-1")
    assert first["metadata"]["uid"] == again["metadata"]["uid"]
    with pytest.raises(ForeignObjectError):
        await api.create_once(job, owner="owner-2")
    await api.delete(JOB, namespace, "work", uid="another-uid")
    assert await api.get(JOB, namespace, "work") is not None
    await api.delete(JOB, namespace, "work", uid=first["metadata"]["uid"])
    gone = await api.get(JOB, namespace, "work")
    assert gone is None or gone["metadata"].get("deletionTimestamp")
    await api.delete(JOB, namespace, "never-there", uid="another-uid")


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda api, ns: api.list(OWN["EvalRun"], None), id="the five kinds of all namespaces"),
        pytest.param(lambda api, ns: api.list(POD, "kube-system"), id="another namespace's pods"),
        pytest.param(
            lambda api, ns: api.get(Resource(group="", version="v1", kind="Secret", plural="secrets"), ns, "token"),
            id="a secret",
        ),
        pytest.param(
            lambda api, ns: api.delete(OWN["FineTuneRun"], ns, "run", uid="x"), id="the user's own objects' deletion"
        ),
    ],
)
async def test_the_role_gives_nothing_more(api, namespace, attempt):
    with pytest.raises(ForbiddenError, match="check the operator's Role"):
        await attempt(api, namespace)


async def test_a_refused_token_says_so(api, namespace, monkeypatch, tmp_path):
    config = tmp_path / "bad.kubeconfig"
    text = (tmp_path / "operator.kubeconfig").read_text()
    token = next(line.split(": ")[1] for line in text.splitlines() if "token:" in line)
    config.write_text(text.replace(token, "not-a-token"))
    monkeypatch.setenv("KUBECONFIG", str(config))
    stranger = await Cluster.connect()
    try:
        with pytest.raises(ForbiddenError, match="check the operator's token"):
            await stranger.get(RUN, namespace, "run")
        # The file is read again when the token is refused: a rotated one is taken up without a restart.
        config.write_text(text)
        assert await stranger.get(RUN, namespace, "run") is None
    finally:
        await stranger.close()


async def test_an_absent_server_is_unreachable(api, namespace, monkeypatch, tmp_path):
    config = tmp_path / "absent.kubeconfig"
    server = next(line for line in (tmp_path / "operator.kubeconfig").read_text().splitlines() if "server:" in line)
    config.write_text((tmp_path / "operator.kubeconfig").read_text().replace(server, "    server: https://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(config))
    stranger = await Cluster.connect()
    try:
        with pytest.raises(UnreachableError, match="does not answer"):
            await stranger.get(RUN, namespace, "run")
    finally:
        await stranger.close()


class Clock:
    """A monotonic clock that tests advance."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lock(api, namespace, identity, clock):
    result = LeaseLock(LeaseConfig(namespace=namespace, identity=identity, duration_s=15), clock=clock)
    result.use(api)
    return result


async def test_a_lease_is_held_by_one_and_taken_over_when_it_expires(api, namespace):
    clock = Clock()
    first, second = lock(api, namespace, "a", clock), lock(api, namespace, "b", clock)
    assert await first._try() is None
    first.check()
    assert await second._try() == "a"
    clock.now += 14
    assert await first._try() is None
    assert await second._try() == "a"
    with pytest.raises(LeaseLostError):
        second.check()
    clock.now += 15
    with pytest.raises(LeaseLostError, match="not renewed in time"):
        first.check()
    assert await second._try() is None
    second.check()
    assert await first._try() == "b"
    spec = (await api.get(LEASE, namespace, "sluice-operator"))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("b", 1)


async def test_the_same_identity_takes_its_lease_again_at_once(api, namespace):
    clock = Clock()
    assert await lock(api, namespace, "a", clock)._try() is None
    again = lock(api, namespace, "a", clock)
    assert await again._try() is None
    again.check()


async def test_a_released_lease_is_free_at_once(api, namespace):
    clock = Clock()
    first, second = lock(api, namespace, "a", clock), lock(api, namespace, "b", clock)
    await first.acquire()
    await first.release()
    with pytest.raises(LeaseLostError):
        first.check()
    assert await second._try() is None


async def test_a_process_without_the_lease_writes_nothing(api, namespace):
    clock = Clock()
    held = lock(api, namespace, "a", clock)
    guarded = Cluster(api.client, guard=held.check)
    with pytest.raises(LeaseLostError):
        await guarded.create(finetunerun(namespace))
    await held.acquire()
    raw = await guarded.create(finetunerun(namespace))
    clock.now += 60
    with pytest.raises(LeaseLostError):
        await guarded.replace_status(raw, {"phase": "Running"})
    assert "status" not in await guarded.get(RUN, namespace, "run")

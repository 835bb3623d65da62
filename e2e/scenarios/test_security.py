"""What the operator, its workers and a tenant may do, and what they may not."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
import yaml

import runs
import shop
from installation import OPERATOR, ROOT, SYSTEM, WORKLOAD
from site_view import Manifest, Site, reaching
from sluice_devcluster.errors import ProviderError

TENANT = ("--as=alice", "--as-group=tenants", "--as-group=system:authenticated")
OWN: dict[str, dict[str, Any]] = {
    "tracedataset.yaml": {"suspend": True},
    "finetunerun.yaml": {"suspend": True},
    "evalrun.yaml": {"suspend": True},
    "promotionscorecard.yaml": {},
    "shadowrollout.yaml": {"paused": True},
}
"""Example of each of the five kinds, and what in its spec keeps it from starting anything."""
FAR = {"name": "storefront", "namespace": SYSTEM}
"""What a reference to another namespace would look like."""


def manifest_of(example: str, name: str) -> Manifest:
    """Return an example's last object under another name."""
    manifest = shop.example(example)[-1]
    return {**manifest, "metadata": {"name": name}, "spec": {**manifest["spec"], **OWN[example]}}


def references(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field of a schema that names another object; `0` stands for an element of a list."""
    for name, each in schema.get("properties", {}).items():
        inner, place = each, (*path, name)
        if each.get("type") == "array":
            inner, place = each["items"], (*place, "0")
        if name.endswith(("Ref", "Refs")):
            yield place
        yield from references(inner, place)


REFERENCES = [
    (definition["spec"]["names"]["kind"], path)
    for file in sorted((ROOT / "crds").glob("sluice.dev_*.yaml"))
    for definition in [yaml.safe_load(file.read_text(encoding="utf-8"))]
    for version in definition["spec"]["versions"]
    for path in references(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
]
"""Kind and path in the spec of every reference of the five kinds."""


def pointing(kind: str, path: tuple[str, ...], value: Mapping[str, Any]) -> str:
    """Return an object of which only a reference is filled in, as JSON."""
    inner: Any = value
    for step in reversed(path):
        inner = [inner] if step == "0" else {step: inner}
    content = {"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": {"name": "across"}, "spec": inner}
    return json.dumps(content)


def granted(site: Site, namespace: str) -> set[tuple[str, str, str]]:
    """Return what the operator may do in a namespace beyond what everybody may, as (resource, name, verb)."""
    table = site.kubectl("auth", "can-i", "--list", f"--as={OPERATOR}", "--namespace", namespace, "--no-headers")
    found = set()
    for line in table.splitlines():
        resource = line.split(None, 1)[0]
        if resource.startswith(("selfsubject", "[", "/")):
            continue
        _, names, verbs = (part.split() for part in re.findall(r"\[(.*?)\]", line))
        # A subresource's slash comes after the group: finetuneruns.sluice.dev/status.
        whole, slash, part = resource.partition("/")
        found |= {(f"{whole.partition('.')[0]}{slash}{part}", name, verb) for name in names or [""] for verb in verbs}
    return found


def ruled(rules: Sequence[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Return what rules of a role allow, in the same form."""
    return {
        (resource, name, verb)
        for rule in rules
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


@pytest.fixture(scope="module")
def tenant(sluice):
    """A tenant who may do everything with the five kinds and nothing else."""
    rules = [{"apiGroups": ["sluice.dev"], "resources": ["*"], "verbs": ["*"]}]
    group = "rbac.authorization.k8s.io"
    sluice.apply(
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "tenants"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "tenants"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "tenants"},
            "subjects": [{"apiGroup": group, "kind": "Group", "name": "tenants"}],
        },
    )
    return dataclasses.replace(sluice, acting_as=TENANT)


def test_the_operator_may_do_what_it_does_and_nothing_more(sluice):
    rules = yaml.safe_load((ROOT / "charts" / "sluice" / "rbac" / "rules.yaml").read_text())
    assert granted(sluice, WORKLOAD) == ruled(rules["workload"])
    assert granted(sluice, SYSTEM) == ruled(rules["system"])
    assert not granted(sluice, "kube-system")
    assert not granted(sluice, "default")
    for resource in ("secrets", "pods/exec", "serviceaccounts", "roles"):
        for namespace in (WORKLOAD, SYSTEM):
            answer = sluice.kubectl("auth", "can-i", "get", resource, f"--as={OPERATOR}", "-n", namespace, check=False)
            assert answer.strip() == "no", (resource, namespace)


def test_a_tenant_may_the_five_kinds_and_nothing_beside_them(tenant):
    for verb, resource in (("create", "pods"), ("get", "secrets"), ("create", "rayjobs.ray.io"), ("get", "configmaps")):
        assert tenant.kubectl("auth", "can-i", verb, resource, check=False).strip() == "no"


@pytest.mark.parametrize("example", OWN)
def test_a_tenant_creates_each_kind_and_in_no_other_namespace(tenant, example):
    manifest = manifest_of(example, "tenants-own")
    kind = manifest["kind"].lower()
    tenant.apply(manifest)
    assert tenant.get(kind, "tenants-own")["metadata"]["namespace"] == WORKLOAD
    for place in ("default", SYSTEM, "kube-system"):
        with pytest.raises(ProviderError, match="forbidden"):
            dataclasses.replace(tenant, namespace=place).apply(manifest)
    tenant.delete(kind, "tenants-own")
    tenant.until_gone(kind, "tenants-own")


def test_every_kind_but_the_dataset_has_references():
    assert {kind for kind, _ in REFERENCES} == {"FineTuneRun", "EvalRun", "PromotionScorecard", "ShadowRollout"}


@pytest.mark.parametrize(
    ("kind", "path"), REFERENCES, ids=lambda value: value if isinstance(value, str) else ".".join(value)
)
def test_no_reference_can_name_another_namespace(tenant, kind, path):
    field = re.sub(r"\.0\b", "[0]", f"spec.{'.'.join(path)}")
    create = ("create", "--dry-run=server", "--output=json", "-f", "-")
    # There is no such field, and a name holds no namespace either.
    with pytest.raises(ProviderError, match=rf'unknown field "{re.escape(field)}\.namespace"'):
        tenant.kubectl(*create, stdin=pointing(kind, path, FAR))
    with pytest.raises(ProviderError, match=rf"{re.escape(field)}\.name: Invalid value"):
        tenant.kubectl(*create, stdin=pointing(kind, path, {"name": f"{SYSTEM}/storefront"}))


@pytest.mark.parametrize("example", OWN)
def test_a_namespace_in_a_reference_is_dropped_where_validation_is_off(tenant, example):
    def far(value: Any, field: str = "") -> Any:
        if isinstance(value, list):
            return [far(each, field) for each in value]
        if isinstance(value, dict):
            inner = {key: far(each, key) for key, each in value.items()}
            return inner | {"namespace": SYSTEM} if field.endswith(("Ref", "Refs")) else inner
        return value

    manifest = manifest_of(example, "dropped")
    changed = {**manifest, "spec": far(manifest["spec"])}
    assert (changed != manifest) == (manifest["kind"] != "TraceDataset")
    flags = ("--validate=ignore", "--dry-run=server", "--output=json", "-f", "-")
    kept = tenant.kubectl("create", *flags, stdin=json.dumps(changed))
    assert '"namespace":' not in json.dumps(json.loads(kept)["spec"])


def test_a_tenant_cannot_choose_pods_accounts_or_images(tenant):
    for field, value in (("serviceAccountName", "default"), ("image", "evil"), ("template", {"spec": {}})):
        with pytest.raises(ProviderError, match=field):
            tenant.apply(runs.run("chooser", suspend=True, **{field: value}))


def test_the_namespace_refuses_a_privileged_pod_and_the_policy_a_foreign_account(sluice):
    pod = {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]}
    with pytest.raises(ProviderError, match="PodSecurity"):
        sluice.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": pod})
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    template = {
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "x", "securityContext": security}],
        }
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "foreign"}, "spec": {"template": template}}
    with pytest.raises(ProviderError, match="only under the service accounts"):
        sluice.kubectl("create", f"--as={OPERATOR}", "-f", "-", stdin=json.dumps(job))


def test_a_ray_cluster_answers_nobody_without_its_token(sluice, dataset):
    name = "token"
    sluice.apply(runs.run(name, optimizer=runs.LONG))
    runs.until_step(sluice, name, 1)
    (head,) = runs.pods_of(sluice, name, "head")
    with reaching(sluice, head, 8265) as address:
        assert httpx.get(f"http://{address}/api/jobs/", trust_env=False).status_code in (401, 403)
    (container,) = head["spec"]["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert not any(volume.get("projected") for volume in head["spec"]["volumes"])
    runs.remove(sluice, name)

"""What the operator, its workers and a tenant may do, and what they may not."""

import dataclasses
import json

import httpx
import pytest
import yaml

import runs
from installation import OPERATOR, ROOT, SYSTEM, WORKLOAD
from site_view import Site
from sluice_devcluster.errors import ProviderError

TENANT = ("--as=alice", "--as-group=tenants", "--as-group=system:authenticated")
KINDS = "tracedatasets,finetuneruns,evalruns,promotionscorecards,shadowrollouts"


def granted(site: Site, namespace: str) -> set[tuple[str, str]]:
    """Return what the operator may do in a namespace beyond what everybody may, as (resource, verb)."""
    table = site.kubectl("auth", "can-i", "--list", f"--as={OPERATOR}", "--namespace", namespace, "--no-headers")
    found = set()
    for line in table.splitlines():
        resource, rest = line.split(None, 1)
        if resource.startswith(("selfsubject", "[", "/")):
            continue
        verbs = rest.rsplit("[", 1)[1].rstrip("] ").split()
        # A subresource's slash comes after the group: finetuneruns.sluice.dev/status.
        whole, slash, part = resource.partition("/")
        found |= {(f"{whole.partition('.')[0]}{slash}{part}", verb) for verb in verbs}
    return found


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
    wanted = {
        (resource, verb) for rule in rules["workload"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert granted(sluice, WORKLOAD) == wanted
    assert not granted(sluice, "kube-system")
    assert not granted(sluice, "default")
    for resource in ("secrets", "pods/exec", "serviceaccounts", "roles"):
        for namespace in (WORKLOAD, SYSTEM):
            answer = sluice.kubectl("auth", "can-i", "get", resource, f"--as={OPERATOR}", "-n", namespace, check=False)
            assert answer.strip() == "no", (resource, namespace)


def test_a_tenant_creates_the_five_kinds_and_reaches_no_other_namespace(tenant, sluice):
    manifests = [runs.run("tenants-own", suspend=True)]
    tenant.apply(*manifests)
    for verb, resource in (("create", "pods"), ("get", "secrets"), ("create", "rayjobs.ray.io"), ("get", "configmaps")):
        assert tenant.kubectl("auth", "can-i", verb, resource, check=False).strip() == "no"
    for place in ("default", SYSTEM, "kube-system"):
        with pytest.raises(ProviderError, match="forbidden"):
            dataclasses.replace(tenant, namespace=place).apply(*manifests)
    sluice.delete("finetunerun", "tenants-own")


def test_a_reference_cannot_name_another_namespace(tenant):
    manifest = runs.run("across", suspend=True)
    manifest["spec"]["datasetRef"]["namespace"] = SYSTEM
    with pytest.raises(ProviderError, match="datasetRef"):
        tenant.apply(manifest)
    manifest["spec"]["datasetRef"] = {"name": f"{SYSTEM}/storefront"}
    with pytest.raises(ProviderError, match="datasetRef"):
        tenant.apply(manifest)


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
    url = f"http://{head['status']['podIP']}:8265/api/jobs/"
    assert httpx.get(url, trust_env=False).status_code in (401, 403)
    (container,) = head["spec"]["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert not any(volume.get("projected") for volume in head["spec"]["volumes"])
    runs.remove(sluice, name)

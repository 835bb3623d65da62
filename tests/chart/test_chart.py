"""The chart: what it renders, what it refuses, and what installing, upgrading and uninstalling it does to a cluster."""

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from sluice_api.v1alpha1 import KINDS
from sluice_devcluster.embedded import EmbeddedProvider
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.gotools import helm, kubernetes_binaries, kubernetes_tool, prometheus_operator_crds
from sluice_devcluster.kubectl import run_kubectl
from sluice_operator.profiles import ProfileDocument, parse_profiles

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "sluice"
SYSTEM = "sluice-system"
OPERATOR = f"system:serviceaccount:{SYSTEM}:sluice-operator"
EVERYTHING = [
    f"--set={option}=true"
    for option in (
        "podDisruptionBudget.enabled",
        "metrics.serviceMonitor.enabled",
        "metrics.podMonitor.enabled",
        "metrics.prometheusRule.enabled",
        "metrics.dashboard.enabled",
        "argocd.enabled",
    )
]

ALL_NAMESPACES = (
    "--set=scope.allNamespaces=true",
    "--set=storage.roots[0]=s3://models/{namespace}/",
    "--set=networkPolicy.workerNamespaces={default,kube-public}",
)
"""Options of an operator for every namespace."""


def run_helm(*arguments, kubeconfig=None, check=True):
    """Run Helm; its folders are nobody's."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    if kubeconfig is not None:
        environment["KUBECONFIG"] = str(kubeconfig)
    done = subprocess.run(
        [helm(), *arguments], text=True, capture_output=True, env=environment, timeout=120, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def rendered(*options):
    """Return the objects of a rendering, by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(rendering(*options)) if each}


@functools.cache
def rendering(*options):
    """Return the text of a rendering."""
    # A Helm built from its module takes an ancient Kubernetes for the default.
    version = f"--kube-version={kubernetes_tool().version}"
    return run_helm("template", "sluice", str(CHART), "--namespace", SYSTEM, version, *options).stdout


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory):
    """A cluster of its own: the CRDs of a shared one would belong to somebody else."""
    provider = EmbeddedProvider(home=tmp_path_factory.mktemp("chart-cluster"), tethered=True)
    name = f"chart-{os.getpid()}"
    try:
        yield provider.up(name)
    finally:
        provider.down(name)


@pytest.fixture(scope="module")
def kubectl_own(own_cluster):
    """Run kubectl against it."""
    program = kubernetes_binaries() / "kubectl"

    def run(*arguments, stdin=None, check=True):
        return run_kubectl(own_cluster.kubeconfig, *arguments, stdin=stdin, check=check, kubectl=program)

    return run


@pytest.fixture(scope="module")
def installed(own_cluster, kubectl_own):
    """The chart, installed with Helm into a namespace that enforces the restricted Pod Security Standard."""
    kubectl_own("create", "namespace", SYSTEM)
    kubectl_own("label", "namespace", SYSTEM, "default", "pod-security.kubernetes.io/enforce=restricted")
    run_helm(
        "install",
        "sluice",
        str(CHART),
        "-n",
        SYSTEM,
        "--set=scope.namespace=default",
        kubeconfig=own_cluster.kubeconfig,
    )
    for kind in KINDS:
        kubectl_own("wait", "--for=create", f"crd/{kind.crd.plural}.sluice.dev", "--timeout=30s")
        kubectl_own("wait", "--for=condition=Established", f"crd/{kind.crd.plural}.sluice.dev", "--timeout=30s")
    return own_cluster


@pytest.fixture(scope="module")
def monitoring(installed, kubectl_own):
    """The kinds of the Prometheus operator, by its own definitions."""
    for path in prometheus_operator_crds():
        kubectl_own("apply", "--server-side", "-f", str(path))
        plural = path.stem.rpartition("_")[2]
        kubectl_own("wait", "--for=condition=Established", f"crd/{plural}.monitoring.coreos.com", "--timeout=30s")


def test_lint_finds_nothing():
    run_helm("lint", "--strict", str(CHART), *EVERYTHING)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("operator.workers=0", "workers"),
        ("operator.logLevel=loud", "logLevel"),
        ("image.digest=sha256:12", "digest"),
        ("oparator.workers=3", "oparator"),
        ("profiles.cpu.backend=slurm", "backend"),
        ("profiles.shared.backend=ray", "address"),
        ("profiles.cpu.tokenSecrets[0].name=worker", "keys"),
        ("profiles.cpu.tokenSecrets[0].name=worker,profiles.cpu.tokenSecrets[0].keys={AWS_SECRET_ACCESS_KEY}", "keys"),
        ("profiles.cpu.podTemplate=x", "podTemplate"),
        ("profiles.cpu.resources.cpu=-1", "cpu"),
        ("profiles.cpu.rayVersion=latest", "rayVersion"),
        ("metrics.serviceMonitor.interval=often", "interval"),
        ("admissionPolicy.workerServiceAccounts={}", "workerServiceAccounts"),
    ],
)
def test_a_wrong_value_is_refused_by_name(option, complaint):
    done = run_helm("template", "sluice", str(CHART), f"--set={option}", check=False)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_one_namespace_and_all_namespaces_exclude_each_other():
    done = run_helm(
        "template", "sluice", str(CHART), "--set=scope.allNamespaces=true,scope.namespace=team", check=False
    )
    assert done.returncode != 0
    assert "scope" in done.stderr


def test_all_namespaces_need_places_of_their_own_in_storage():
    done = run_helm("template", "sluice", str(CHART), "--set=scope.allNamespaces=true", check=False)
    assert done.returncode != 0
    assert "roots" in done.stderr
    pod = rendered(*ALL_NAMESPACES, "--set=storage.sharedRoots={s3://shared/}")["Deployment", "sluice-operator"]
    flags = pod["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--all-namespaces", "--storage-root=s3://models/{namespace}/"} <= set(flags)
    assert "--shared-storage-root=s3://shared/" in flags


def test_the_role_holds_exactly_the_rules_that_the_tests_run_with():
    rules = yaml.safe_load((CHART / "rbac" / "rules.yaml").read_text())
    narrow, wide = rendered(), rendered(*ALL_NAMESPACES)
    assert narrow["Role", "sluice-operator"]["rules"] == rules["workload"]
    assert narrow["Role", "sluice-operator-system"]["rules"] == rules["system"]
    assert not any(kind.startswith("ClusterRole") for kind, _ in narrow)
    assert wide["ClusterRole", "sluice-operator"]["rules"] == rules["workload"]


def test_every_profile_of_the_values_is_one_that_the_operator_accepts():
    profiles = parse_profiles(rendered()["ConfigMap", "sluice-profiles"]["data"])
    assert not profiles.problems
    assert {"cpu", "a100", "mi300x"} <= set(profiles.profiles)


def test_quantities_may_be_numbers_and_the_operator_takes_them():
    options = (
        "--set=profiles.cpu.resources.cpu=2,profiles.cpu.resources.memory=2147483648,profiles.cpu.rayVersion=2.60.0",
    )
    profiles = parse_profiles(rendered(*options)["ConfigMap", "sluice-profiles"]["data"])
    assert not profiles.problems
    assert profiles.get("cpu").resources == {"cpu": "2", "memory": "2147483648"}


def test_every_field_of_a_profile_is_in_the_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())["definitions"]["profile"]["properties"]
    assert set(schema) == {field.alias for field in ProfileDocument.model_fields.values()}


def test_the_crds_are_the_generated_ones_and_survive_the_chart():
    objects = rendered()
    for kind in KINDS:
        name = f"{kind.crd.plural}.sluice.dev"
        generated = yaml.safe_load((ROOT / "crds" / f"sluice.dev_{kind.crd.plural}.yaml").read_text())
        crd = objects["CustomResourceDefinition", name]
        assert crd["spec"] == generated["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_rules_and_dashboard_come_with_the_chart_when_asked_for():
    objects = rendered(*EVERYTHING)
    assert objects["PrometheusRule", "sluice-operator"]["spec"]["groups"]
    dashboards = objects["ConfigMap", "sluice-operator-dashboard"]["data"]
    assert dashboards
    assert all(json.loads(text)["panels"] for text in dashboards.values())
    assert objects["ServiceMonitor", "sluice-operator"]["spec"]["selector"]["matchLabels"].items() <= (
        objects["Service", "sluice-operator"]["metadata"]["labels"].items()
    )


def test_prometheus_reaches_the_workers_where_it_is_asked_to_scrape_them():
    def rules(*options):
        return rendered(*options)["NetworkPolicy", "sluice-operator-workers"]["spec"]["ingress"]

    def scrapes(*options):
        return [
            rule["from"] for rule in rules(*options) if {"protocol": "TCP", "port": "metrics"} in rule.get("ports", ())
        ]

    assert scrapes() == []
    assert scrapes("--set=metrics.podMonitor.enabled=true") == [[{"namespaceSelector": {}}]]
    peer = "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"
    found = scrapes(f"--set=metrics.podMonitor.enabled=true,{peer}")
    assert found == [[{"podSelector": {"matchLabels": {"app": "prometheus"}}}]]
    assert "namespaceSelector" not in rendered(*EVERYTHING)["PodMonitor", "sluice-operator-ray"]["spec"]
    monitor = rendered(*EVERYTHING, *ALL_NAMESPACES)["PodMonitor", "sluice-operator-ray"]
    assert monitor["spec"]["namespaceSelector"] == {"any": True}


def test_the_workers_policy_holds_in_each_namespace_or_is_given_up_aloud():
    policies = [
        each for each in yaml.safe_load_all(rendering(*ALL_NAMESPACES)) if each and each["kind"] == "NetworkPolicy"
    ]
    workers = [each["metadata"]["namespace"] for each in policies if each["metadata"]["name"].endswith("-workers")]
    assert workers == ["default", "kube-public"]
    version = f"--kube-version={kubernetes_tool().version}"
    bare = ("template", "sluice", str(CHART), version, *ALL_NAMESPACES[:2])
    assert "networkPolicy.workers: a NetworkPolicy holds in one namespace" in run_helm(*bare, check=False).stderr
    assert "sluice-operator-workers" not in run_helm(*bare, "--set=networkPolicy.workers=false").stdout


@pytest.mark.parametrize("scope", [(), ALL_NAMESPACES], ids=["one namespace", "all namespaces"])
def test_the_api_server_accepts_every_object(installed, monitoring, kubectl_own, scope):
    objects = list(rendered(*EVERYTHING, *scope).values())
    assert {"ServiceMonitor", "PodMonitor", "PrometheusRule"} <= {each["kind"] for each in objects}
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    kubectl_own(*apply, stdin=listing)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "often"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "portName"), "metrics"),
        ("PrometheusRule", ("spec", "groups", 0, "name"), ""),
    ],
)
def test_the_prometheus_operators_own_definitions_are_asked(installed, monitoring, kubectl_own, kind, path, value):
    (wrong,) = (each for (found, _), each in rendered(*EVERYTHING).items() if found == kind)
    part = wrong
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(ProviderError, match=str(path[-1])):
        kubectl_own("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(wrong))


def test_the_operators_pod_meets_the_restricted_standard(installed, kubectl_own):
    template = rendered()["Deployment", "sluice-operator"]["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "as-rendered"}, "spec": template["spec"]}
    kubectl_own("-n", SYSTEM, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_the_bare_manifests_are_the_charts_and_the_api_server_accepts_them(installed, kubectl_own):
    program = kubernetes_binaries() / "kubectl"
    built = subprocess.run(
        [program, "kustomize", str(ROOT / "charts" / "bare")], text=True, capture_output=True, check=True
    ).stdout
    bare = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built)}
    chart = rendered("--namespace=sluice")
    assert set(bare) == {*chart, ("Namespace", "sluice")}
    for key, each in chart.items():
        part = "data" if each["kind"] == "ConfigMap" else "rules" if each["kind"] == "Role" else "spec"
        assert bare[key].get(part) == each.get(part), key
    labels = bare["Namespace", "sluice"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    kubectl_own("create", "namespace", "sluice")
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(bare.values())})
    kubectl_own("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", stdin=listing)


def job(account=None, *, token=False):
    """Return a Job as the operator makes them, under a service account."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": token,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "worker", "image": "sluice/evaluator", "securityContext": security}],
        **({"serviceAccountName": account} if account else {}),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "worker", "namespace": "default"},
        "spec": {"template": {"spec": pod}},
    }


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [(job("admin"), "only under the service accounts"), (job(token=True), "service account token")],
    ids=["foreign account", "token"],
)
def test_the_operator_cannot_start_pods_as_somebody_else(installed, kubectl_own, manifest, complaint):
    with pytest.raises(ProviderError, match=complaint):
        kubectl_own("create", f"--as={OPERATOR}", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    kubectl_own("create", f"--as={OPERATOR}", "--dry-run=server", "-f", "-", stdin=json.dumps(job()))


def config_map(name, *, ours=True, owner=None):
    """Return a ConfigMap with the operator's label or without it, owned by an object of a kind or by nobody."""
    metadata = {"name": name, "namespace": "default"}
    if ours:
        metadata["labels"] = {"app.kubernetes.io/managed-by": "sluice"}
    if owner is not None:
        kind, version, name, uid = owner
        metadata["ownerReferences"] = [{"apiVersion": version, "kind": kind, "name": name, "uid": uid}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_the_operator_writes_the_config_maps_of_rollouts_alone(installed, kubectl_own):
    def as_operator(manifest, *verb):
        kubectl_own(*verb, f"--as={OPERATOR}", "-f", "-", stdin=json.dumps(manifest))

    with pytest.raises(ProviderError, match="only ConfigMaps of rollouts"):
        as_operator(config_map("plain", ours=False), "create")
    as_operator(config_map("route"), "create")
    kubectl_own("-n", "default", "patch", "configmap", "route", f"--as={OPERATOR}", "-p", '{"data": {"a": "1"}}')
    kubectl_own("apply", "-f", "-", stdin=(ROOT / "examples" / "shadowrollout.yaml").read_text())
    found = json.loads(kubectl_own("-n", "default", "get", "shadowrollouts", "-o", "json").stdout)["items"][0][
        "metadata"
    ]
    rollout = ("ShadowRollout", "sluice.dev/v1alpha1", found["name"], found["uid"])
    foreign = {
        "settings": None,
        "adopted": ("ShadowRollout", "example.com/v1", found["name"], found["uid"]),
        "route-without-label": rollout,
    }
    for name, owner in foreign.items():
        kubectl_own("create", "-f", "-", stdin=json.dumps(config_map(name, ours=False, owner=owner)))
    label = json.dumps({"metadata": {"labels": {"app.kubernetes.io/managed-by": "sluice"}}, "data": {"a": "1"}})
    for name in ("settings", "adopted"):
        with pytest.raises(ProviderError, match="a rollout's already"):
            kubectl_own("-n", "default", "patch", "configmap", name, f"--as={OPERATOR}", "-p", label)
    kubectl_own("-n", "default", "patch", "configmap", "route-without-label", f"--as={OPERATOR}", "-p", label)
    with pytest.raises(ProviderError, match="only ConfigMaps of rollouts"):
        kubectl_own("-n", "default", "label", "configmap", "route", f"--as={OPERATOR}", "app.kubernetes.io/managed-by-")
    kubectl_own("-n", "default", "patch", "configmap", "settings", "-p", label)


def test_upgrading_and_uninstalling_lose_no_custom_resource(installed, kubectl_own):
    manifest = (ROOT / "examples" / "tracedataset.yaml").read_text()
    kubectl_own("apply", "-f", "-", stdin=manifest)
    before = kubectl_own("get", "tracedataset", "storefront", "-o", "jsonpath={.metadata.uid}").stdout
    run_helm(
        *("upgrade", "sluice", str(CHART), "-n", SYSTEM, "--set=scope.namespace=default,operator.workers=8"),
        kubeconfig=installed.kubeconfig,
    )
    run_helm("rollback", "sluice", "1", "-n", SYSTEM, kubeconfig=installed.kubeconfig)
    run_helm("uninstall", "sluice", "-n", SYSTEM, kubeconfig=installed.kubeconfig)
    after = kubectl_own("get", "tracedataset", "storefront", "-o", "jsonpath={.metadata.uid}").stdout
    assert after == before
    gone = kubectl_own("-n", SYSTEM, "get", "deployment", "sluice-operator", check=False)
    assert "NotFound" in gone.stderr

"""The node's add-ons, each doing what it is there for: routes, metrics and alerts, syncs, objects."""

import http.client
import json
import subprocess
import time
import urllib.parse

import boto3
import pytest
from botocore.exceptions import ClientError

from sluice_devcluster import State, gotools
from sluice_devcluster.errors import ComponentError
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node import prometheus, s3store
from sluice_devcluster.node.images import import_archive, program_archive
from sluice_devcluster.node.provider import NodeProvider

NAME = "addons"
ADDONS = ("network-policies", "gateway", "s3", "prometheus", "argocd")
"""All but KubeRay, which the scenarios play with."""
CLIENT_IMAGE = "docker.io/local/kubectl:e2e"
IMAGE = "docker.io/local/coredns:e2e"
"""CoreDNS as a pod: one static program that serves HTTP and metrics."""
WEB = """
apiVersion: v1
kind: ConfigMap
metadata: {name: web, namespace: default}
data:
  Corefile: |
    .:5353 {
      whoami
      health :8080
      prometheus :9153
    }
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web, app.kubernetes.io/name: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: docker.io/local/coredns:e2e
      imagePullPolicy: Never
      args: [-conf, /etc/web/Corefile]
      ports: [{name: metrics, containerPort: 9153}, {name: http, containerPort: 8080}]
      readinessProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1}
      resources: {limits: {memory: 128Mi}}
      volumeMounts: [{name: configuration, mountPath: /etc/web}]
  volumes: [{name: configuration, configMap: {name: web}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{name: gateway, namespace: sluice-node}]
  hostnames: [web.test]
  rules: [{backendRefs: [{name: web, port: 80}]}]
"""


def until(condition, seconds=120.0, every=0.3):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not become true in {seconds:.0f} s"
        time.sleep(every)
    return found


def get(address, port, path, host=None):
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    home = tmp_path_factory.mktemp("clusters")
    provider = NodeProvider(home=home, addons=ADDONS, install_packages=True)
    provider.up(NAME)
    yield provider
    provider.down(NAME)


@pytest.fixture(scope="module")
def node(provider):
    return provider.node(NAME)


@pytest.fixture(scope="module")
def kubectl(node):
    return lambda *arguments, **options: run_kubectl(node.control.kubeconfig, *arguments, **options).stdout


@pytest.fixture(scope="module")
def web(provider, kubectl):
    program = gotools.build(gotools.coredns_tool()) / "coredns"
    import_archive(provider.sandbox(NAME), program_archive(program.read_bytes(), path="coredns", image=IMAGE))
    kubectl("apply", "--filename=-", stdin=WEB)
    kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=60s", timeout_s=90)


def test_all_of_it_is_well_and_up_again_changes_nothing(provider):
    before = provider.status(NAME)
    assert before.state is State.READY, before
    provider.up(NAME)
    assert provider.status(NAME) == before


def test_the_gateway_routes_to_a_pod(web, node, kubectl):
    until(lambda: get(node.network.address, 80, "/health", "web.test") == (200, "OK"), 30)
    assert get(node.network.address, 80, "/health", "other.test")[0] == 404
    condition = '{.status.conditions[?(@.type=="Programmed")].status}'
    assert kubectl("get", "gateway", "gateway", "-n", "sluice-node", f"--output=jsonpath={condition}") == "True"


def query(node, expression):
    status, text = get(node.network.address, prometheus.PORT, f"/api/v1/query?query={urllib.parse.quote(expression)}")
    assert status == 200, text
    return json.loads(text)["data"]["result"]


def test_a_pods_metrics_are_scraped_and_a_rule_fires(web, provider, node):
    (series,) = until(lambda: query(node, 'up{pod="web"} == 1'), 60)
    assert (series["metric"]["namespace"], series["metric"]["job"]) == ("default", "web")
    assert query(node, 'up{job="traefik"} == 1')

    rule = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: web}
spec:
  groups:
    - name: web
      rules: [{alert: WebIsUp, expr: 'up{pod="web"} == 1'}]
"""
    prometheus.add_rules(node, provider.sandbox(NAME), "web", rule)
    (alert,) = until(lambda: query(node, 'ALERTS{alertname="WebIsUp",alertstate="firing"}'), 60)
    assert alert["metric"]["pod"] == "web"

    with pytest.raises(ComponentError, match="refuses its configuration"):
        prometheus.add_rules(
            node, provider.sandbox(NAME), "broken", "groups: [{name: a, rules: [{alert: A, expr: '('}]}]"
        )
    prometheus.add_rules(node, provider.sandbox(NAME), "web", "groups: []")


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)


def commit(folder, value):
    (folder / "kustomization.yaml").write_text("namespace: default\nresources: [settings.yaml]\n")
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "from-git"}, "data": {"value": value}}
    (folder / "settings.yaml").write_text(json.dumps(settings))
    git(folder, "add", ".")
    git(folder, "commit", "-m", value)


def test_a_repository_is_synced_and_edits_are_taken_back(kubectl, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--initial-branch=main")
    commit(repository, "first")
    application = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": "from-git", "namespace": "argocd"},
        "spec": {
            "project": "default",
            "source": {"repoURL": f"file://{repository}", "targetRevision": "main", "path": "."},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": "default"},
            "syncPolicy": {"automated": {"selfHeal": True, "prune": True}},
        },
    }
    kubectl("apply", "--filename=-", stdin=json.dumps(application))

    def value():
        return kubectl(
            "get", "configmap", "from-git", "-n", "default", "--ignore-not-found", "--output=jsonpath={.data.value}"
        )

    until(lambda: value() == "first")
    patch = json.dumps({"data": {"value": "edited"}})
    kubectl("patch", "configmap", "from-git", "-n", "default", "--type=merge", f"--patch={patch}")
    until(lambda: value() == "first")
    commit(repository, "second")
    kubectl("annotate", "application", "from-git", "-n", "argocd", "argocd.argoproj.io/refresh=hard")
    until(lambda: value() == "second")
    status = "{.status.sync.status} {.status.health.status}"
    until(
        lambda: (
            kubectl("get", "application", "from-git", "-n", "argocd", f"--output=jsonpath={status}") == "Synced Healthy"
        )
    )


def client(access):
    return boto3.client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=s3store.REGION,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
    )


def test_a_bucket_is_its_owners_alone(node):
    owner, other = s3store.create_user(node, "owner"), s3store.create_user(node, "other")
    s3store.create_bucket(node, "loop", owner="owner")

    client(owner).put_object(Bucket="loop", Key="a", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client(owner).put_object(Bucket="loop", Key="a", Body=b"2", IfNoneMatch="*")
    with pytest.raises(ClientError, match="AccessDenied"):
        client(other).get_object(Bucket="loop", Key="a")
    assert owner.environment(inside=True)["AWS_ENDPOINT_URL_S3"] == "http://s3.sluice-node.svc.cluster.local:9000"
    with pytest.raises(ComponentError):
        s3store.create_user(node, "owner")


def attempt(kubectl, name, labels, host, port):
    """A new pod with these labels that tries to open a connection."""
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "main",
                    "image": CLIENT_IMAGE,
                    "imagePullPolicy": "Never",
                    "args": ["get", "--raw=/version"],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "resources": {"limits": {"memory": "256Mi"}},
                }
            ],
        },
    }
    kubectl("apply", "--filename=-", stdin=json.dumps(pod))


def opened(kubectl, name):
    """Whether it could; kubectl's words for the two ends are known, and one that is dropped takes half a minute."""
    phase = ("get", "pod", name, "-n", "default", "--output=jsonpath={.status.phase}")
    ended = until(lambda: (found := kubectl(*phase)) in ("Succeeded", "Failed") and found)
    said = kubectl("logs", name, "-n", "default")
    connected = ended == "Succeeded" or "gave HTTP response to HTTPS client" in said
    assert connected or "timeout" in said, said
    return connected


def policy(name, labels, **spec):
    return json.dumps(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"podSelector": {"matchLabels": labels}, **spec},
        }
    )


def test_network_policies_hold_from_a_pods_first_packet(web, provider, kubectl, node):
    program = (gotools.kubernetes_binaries() / "kubectl").read_bytes()
    import_archive(provider.sandbox(NAME), program_archive(program, path="kubectl", image=CLIENT_IMAGE))
    address = kubectl("get", "pod", "web", "-n", "default", "--output=jsonpath={.status.podIP}")
    api = "kubernetes.default.svc.cluster.local"
    attempt(kubectl, "before", {}, address, 8080)
    assert opened(kubectl, "before")

    friends = [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}], "ports": [{"port": "http"}]}]
    kubectl("apply", "--filename=-", stdin=policy("web", {"app": "web"}, policyTypes=["Ingress"], ingress=friends))
    kubectl("apply", "--filename=-", stdin=policy("none", {"role": "sandbox"}, policyTypes=["Egress"]))
    dns = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    rules = [{"to": [dns]}, {"to": [{"ipBlock": {"cidr": f"{node.network.address}/32"}}], "ports": [{"port": 6443}]}]
    kubectl("apply", "--filename=-", stdin=policy("api", {"role": "asks"}, policyTypes=["Egress"], egress=rules))

    attempts = {
        "friend": ({"role": "friend"}, address, 8080, True),
        "friend-elsewhere": ({"role": "friend"}, address, 9153, False),
        "stranger": ({}, address, 8080, False),
        "stranger-asks": ({}, api, 443, True),
        "asks": ({"role": "asks"}, api, 443, True),
        "asks-elsewhere": ({"role": "asks"}, address, 8080, False),
        "sandbox": ({"role": "sandbox"}, "10.96.0.1", 443, False),
    }
    for name, (labels, host, port, _) in attempts.items():
        attempt(kubectl, name, labels, host, port)
    assert {name: opened(kubectl, name) for name in attempts} == {name: each[-1] for name, each in attempts.items()}
    # The node's own programs are always let in.
    assert get(node.network.address, 80, "/health", "web.test") == (200, "OK")

    kubectl("delete", "networkpolicy", "--all", "-n", "default")
    attempt(kubectl, "after", {}, address, 8080)
    assert opened(kubectl, "after")

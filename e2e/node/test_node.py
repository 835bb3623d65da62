"""A node by itself: pods run on it, it comes back after any kill, and nothing of it stays on the machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sluice_devcluster import State
from sluice_devcluster.files import state_home
from sluice_devcluster.gotools import kubernetes_binaries
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node.cgroups import read_hierarchies
from sluice_devcluster.node.cleanup import interfaces
from sluice_devcluster.node.images import import_archive, program_archive
from sluice_devcluster.node.layout import MOUNT_POINTS
from sluice_devcluster.node.machine import SharedState, read_settings
from sluice_devcluster.node.network import NodeNetwork
from sluice_devcluster.node.provider import NodeProvider
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.processes import find_owned, identify

NAME = "alone"
KUBECTL_IMAGE = "docker.io/local/kubectl:e2e"
"""kubectl alone: one static program that resolves names, opens connections and speaks TLS."""


def until(condition, seconds=120.0, every=0.2):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not become true in {seconds:.0f} s"
        time.sleep(every)
    return found


def traces(folder):
    """Everything by which this node could be noticed on the machine after its end, other nodes left out."""
    others = {f: n for f, n in SharedState.read(state_home() / "nodes.json").holders.items() if f != str(folder)}
    links = {NodeNetwork(index=number).host_link for number in others.values()}
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {
        "interfaces": sorted(set(interfaces()) - links),
        "routes": [route for route in routes if not links & set(route.split())],
        "packet filter": rules,
        "control groups": [path for each in read_hierarchies() for path in each.root.glob(f"sluice-{NAME}*")],
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "processes": find_owned(str(folder)),
        "folder": folder.exists(),
    }
    if others:
        return found
    # These are given back by the last node alone.
    points = [point for point in MOUNT_POINTS if Path(point).exists()]
    return found | {"kernel settings": read_settings(), "mount points": points}


def left(folder, before):
    """What is there now and was not before, or is no more; what only the last node gives back, where it is that."""
    now = traces(folder)
    return {name: (before[name], value) for name, value in now.items() if name in before and before[name] != value}


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "clusters"
    home.mkdir()
    yield home
    # Also when the test failed: the machine is everybody's.
    NodeProvider(home=home).down(NAME)


@pytest.fixture
def provider(home):
    return NodeProvider(home=home, install_packages=True)


def kill_everything(folder):
    """What the kernel does when memory runs out, and worse: no process of the node is left, in no particular order."""
    owned = find_owned(str(folder))
    for process in owned:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    until(lambda: all(identify(process.pid) != process for process in owned))


STARTER = """
import sys
from pathlib import Path
from sluice_devcluster.node.provider import NodeProvider
NodeProvider(home=Path(sys.argv[1])).up(sys.argv[2])
"""


def start_and_kill(home, moment):
    """Bring the cluster up in a process of its own, and kill that at a moment."""
    before = NodeState.read(home / NAME / "state.json")
    with (home / "up.log").open("w") as log:
        starter = subprocess.Popen([sys.executable, "-c", STARTER, str(home), NAME], stderr=log, stdout=log)

    def reached():
        assert starter.poll() is None, (home / "up.log").read_text()
        state = NodeState.read(home / NAME / "state.json")
        if moment == "the namespaces":
            return state.init not in (None, before.init)
        return state.services.get(moment) not in (None, before.services.get(moment))

    until(reached, every=0.02)
    starter.kill()
    starter.wait()


def run_pod(cluster, name, *arguments, host="kubernetes.default.svc.cluster.local", port=443, restart="Never"):
    """kubectl in a pod, which asks the server at ``host`` as the pod's service account."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": KUBECTL_IMAGE,
                    "imagePullPolicy": "Never",
                    "args": list(arguments),
                    "env": [
                        {"name": "KUBERNETES_SERVICE_HOST", "value": host},
                        {"name": "KUBERNETES_SERVICE_PORT", "value": str(port)},
                    ],
                    "securityContext": {"runAsNonRoot": True, "allowPrivilegeEscalation": False},
                    "resources": {"limits": {"memory": "256Mi"}},
                }
            ],
        },
    }
    run_kubectl(cluster.kubeconfig, "apply", "--filename=-", stdin=json.dumps(pod))


def phase(cluster, name):
    return run_kubectl(cluster.kubeconfig, "get", "pod", name, "--output=jsonpath={.status.phase}").stdout


def import_kubectl(provider):
    program = (kubernetes_binaries() / "kubectl").read_bytes()
    archive = program_archive(program, path="kubectl", image=KUBECTL_IMAGE)
    assert import_archive(provider.sandbox(NAME), archive) == [KUBECTL_IMAGE]


def test_a_pod_runs_reaches_the_cluster_by_name_and_nothing_beyond(provider, home):
    cluster = provider.up(NAME)
    import_kubectl(provider)

    run_pod(cluster, "asks", "get", "--raw=/version")
    until(lambda: phase(cluster, "asks") in ("Succeeded", "Failed"))
    said = run_kubectl(cluster.kubeconfig, "logs", "asks").stdout
    assert phase(cluster, "asks") == "Succeeded", said
    assert json.loads(said)["gitVersion"] == cluster.version

    # A server of the machine, on the node's own link: the node may ask it, a pod may not.
    came = []
    with socket.create_server((provider.node(NAME).network.host_address, 0)) as server:
        port = server.getsockname()[1]

        def accept():
            connection, address = server.accept()
            connection.close()
            came.append(address)

        threading.Thread(target=accept, daemon=True).start()
        run_pod(cluster, "beyond", "get", "--raw=/", host=provider.node(NAME).network.host_address, port=port)
        until(lambda: phase(cluster, "beyond") in ("Succeeded", "Failed"))
        assert phase(cluster, "beyond") == "Failed"
        assert came == []
        provider.sandbox(NAME).in_network(
            lambda: socket.create_connection((provider.node(NAME).network.host_address, port), timeout=5).close()
        )
        until(lambda: came)

    # What has ended alone is started again alone.
    before = NodeState.read(home / NAME / "state.json").services
    os.kill(before["kubelet"].pid, signal.SIGKILL)
    until(lambda: provider.status(NAME).state is State.DEGRADED)
    provider.up(NAME)
    after = NodeState.read(home / NAME / "state.json").services
    assert {name for name in after if after[name] != before[name]} == {"kubelet"}
    assert provider.status(NAME).state is State.READY


def test_a_node_of_which_everything_was_killed_comes_back_with_its_data(provider, home):
    before = traces(home / NAME)
    cluster = provider.up(NAME)
    import_kubectl(provider)
    run_pod(cluster, "asks-again", "get", "--raw=/version", restart="Always")
    run_kubectl(cluster.kubeconfig, "create", "configmap", "kept", "--from-literal=a=1")

    kill_everything(home / NAME)
    assert provider.status(NAME).state is State.STOPPED
    # The start that follows is killed as well.
    start_and_kill(home, "kube-apiserver")
    kill_everything(home / NAME)

    again = provider.up(NAME)
    assert again == cluster
    assert run_kubectl(cluster.kubeconfig, "get", "configmap", "kept", "--output=jsonpath={.data.a}").stdout == "1"
    run_pod(cluster, "asks", "get", "--raw=/version")
    until(lambda: phase(cluster, "asks") == "Succeeded")

    kill_everything(home / NAME)
    assert provider.down(NAME) is True
    assert left(home / NAME, before) == {}


@pytest.mark.parametrize("moment", ["the namespaces", "kube-apiserver", "kubelet"])
def test_a_start_that_was_killed_leaves_nothing_after_down(home, moment):
    before = traces(home / NAME)
    start_and_kill(home, moment)

    assert NodeProvider(home=home).down(NAME) is True
    assert left(home / NAME, before) == {}


def up_and_down(home, times):
    before = traces(home / NAME)
    for _ in range(times):
        provider = NodeProvider(home=home)
        cluster = provider.up(NAME)
        run_kubectl(
            cluster.kubeconfig, "create", "deployment", "fill", "--image=localhost/sluice-pause:1", "--replicas=3"
        )
        until(
            lambda cluster=cluster: (
                run_kubectl(
                    cluster.kubeconfig, "get", "deployment", "fill", "--output=jsonpath={.status.readyReplicas}"
                ).stdout
                == "3"
            )
        )
        assert provider.down(NAME) is True
        assert left(home / NAME, before) == {}


def test_a_node_goes_up_and_down_again_and_leaves_nothing(home):
    up_and_down(home, 2)


@pytest.mark.soak
def test_a_node_goes_up_and_down_ten_times_and_leaves_nothing(home):
    up_and_down(home, 10)

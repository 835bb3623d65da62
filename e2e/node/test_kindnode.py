"""Add-ons in the network of somebody else's node, as they run beside kind.

Docker is not needed for that: a node of ours stands for kind's container, and a program that answers as ``docker
inspect`` does says where it is. Everything after that is what runs beside kind.
"""

import http.client
import json
import os
import shutil
import socket
from pathlib import Path

import boto3
import pytest

from sluice_devcluster import gotools
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.node import s3store
from sluice_devcluster.node.images import PAUSE_IMAGE
from sluice_devcluster.node.kindnode import kind_node, start_in_kind, stop_in_kind
from sluice_devcluster.node.kindroute import pod_network, run_ip
from sluice_devcluster.node.provider import NodeProvider
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.processes import alive, find_owned
from sluice_devcluster.reporting import PlainReporter

NAME = "container"
ADDONS = ("network-policies", "gateway", "s3", "prometheus")


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A bare node, and ``docker`` on the PATH that knows it."""
    provider = NodeProvider(home=tmp_path / "clusters", install_packages=True)
    (tmp_path / "clusters").mkdir()
    try:
        cluster = provider.up(NAME)
        state = NodeState.read(tmp_path / "clusters" / NAME / "state.json")
        programs = tmp_path / "bin"
        programs.mkdir()
        address = provider.node(NAME).network.address
        (programs / "docker").write_text(f"#!/bin/sh\necho {state.init.pid} {address}\n")
        (programs / "docker").chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
        # Docker's bridge leads to kind's container and not to its pods; a node of ours laid the way to them itself.
        run_ip(["route", "del", provider.node(NAME).network.pod_network])
        yield cluster, address
    finally:
        provider.down(NAME)


def refuses(address):
    """Whether something at the address says that nothing listens there, instead of not being there."""
    try:
        socket.create_connection((address, 9), timeout=2.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def test_the_same_programs_run_in_another_nodes_network(container, tmp_path):
    cluster, address = container
    folder = tmp_path / "kind"
    folder.mkdir()
    shutil.copy(cluster.kubeconfig, folder / "kubeconfig")

    start_in_kind("kind", folder, "sluice-kind-control-plane", ADDONS, PlainReporter(), install_packages=True)

    node = kind_node("kind", folder, "sluice-kind-control-plane", {})
    services = NodeState.read(folder / "state.json").services
    assert set(services) == {"traefik", "s3", "prometheus-targets", "prometheus"}
    # Only their network is the container's: its own end of all processes would not end these.
    for process in services.values():
        assert Path(f"/proc/{process.pid}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
        assert Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    access = s3store.create_user(node, "owner")
    s3store.create_bucket(node, "loop", owner="owner")
    client = boto3.client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=s3store.REGION,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
    )
    client.put_object(Bucket="loop", Key="a", Body=b"1")
    assert access.endpoint_url == f"http://{address}:9000"
    connection = http.client.HTTPConnection(address, 80, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 404
    connection.close()

    # The machine reaches the pods, through the container.
    kubeconfig = folder / "kubeconfig"
    network = pod_network(kubeconfig)
    assert f"via {address} " in run_ip(["route", "show", "exact", network])
    run_kubectl(kubeconfig, "run", "reached", f"--image={PAUSE_IMAGE}", "--image-pull-policy=Never")
    run_kubectl(kubeconfig, "wait", "pod/reached", "--for=condition=Ready", "--timeout=60s", timeout_s=70.0)
    found = run_kubectl(kubeconfig, "get", "pod", "reached", "--output=jsonpath={.status.podIP}").stdout
    assert refuses(found)

    # Each acts as itself, and may do no more than its own role says.
    kubectl = gotools.kubernetes_binaries() / "kubectl"
    who = run_kubectl(node.kubeconfig("traefik"), "auth", "whoami", "--output=json", kubectl=kubectl).stdout
    assert json.loads(who)["status"]["userInfo"]["username"] == "sluice-node:traefik"
    allowed = run_kubectl(node.kubeconfig("traefik"), "auth", "can-i", "create", "pods", check=False, kubectl=kubectl)
    assert allowed.stdout.strip() == "no"

    # Started again, nothing is started twice.
    start_in_kind("kind", folder, "sluice-kind-control-plane", (), PlainReporter(), install_packages=True)
    assert NodeState.read(folder / "state.json").services == services
    stop_in_kind(folder)
    assert not [process for process in services.values() if alive(process)]
    assert find_owned(str(folder)) == []
    assert not run_ip(["route", "show", "exact", network]).strip()
    assert not refuses(found)

"""What a node is made of, without one: addresses, configurations, plans, and what is remembered."""

import argparse
import hashlib
import io
import json
import os
import secrets
import tarfile
import tomllib
import traceback
from pathlib import Path

import pytest
import yaml

from sluice_devcluster import commands
from sluice_devcluster.errors import ComponentError, ProviderError
from sluice_devcluster.node import machine
from sluice_devcluster.node.addons import choose_addons, known_addons
from sluice_devcluster.node.argocd import redis_configuration
from sluice_devcluster.node.cgroups import Hierarchy, create_tree, parse_hierarchies, remove_tree
from sluice_devcluster.node.cleanup import mounts_under
from sluice_devcluster.node.containerd import containerd_configuration, network_configuration
from sluice_devcluster.node.dns import corefile, dns_objects
from sluice_devcluster.node.gateway import gateway_objects, static_configuration
from sluice_devcluster.node.images import PAUSE_IMAGE, parse_imported, pause_archive
from sluice_devcluster.node.kindnode import parse_container
from sluice_devcluster.node.kindroute import PodRoute, remove_route
from sluice_devcluster.node.kubelet import kubelet_configuration
from sluice_devcluster.node.kubeproxy import proxy_configuration
from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.machine import SharedMachine, SharedState
from sluice_devcluster.node.network import MAX_NODES, NodeNetwork, choose_network
from sluice_devcluster.node.objects import definition_name
from sluice_devcluster.node.packages import PACKAGES, missing_packages
from sluice_devcluster.node.prometheus import prometheus_configuration
from sluice_devcluster.node.provider import NodeProvider, base_services
from sluice_devcluster.node.sandbox import run_command
from sluice_devcluster.node.state import NodeState
from sluice_devcluster.node.targets import scrape_targets
from sluice_devcluster.processes import ProcessId
from sluice_devcluster.providers import ADDON_NAMES, ProviderName, write_record
from sluice_devcluster.reporting import SilentReporter


@pytest.fixture
def node(tmp_path):
    return Node(
        name="dev",
        folder=tmp_path / "a folder",
        network=NodeNetwork(index=3),
        binaries=Path("/opt/kubernetes"),
        tools={"traefik": Path("/opt/traefik")},
    )


def test_every_node_has_addresses_of_its_own():
    networks = [NodeNetwork(index=number) for number in range(MAX_NODES)]

    for attribute in ("host_link", "host_address", "address", "pod_network"):
        assert len({getattr(network, attribute) for network in networks}) == MAX_NODES
    # An interface's name has at most 15 characters.
    assert max(len(network.host_link) for network in networks) <= 15


def test_a_network_is_chosen_that_nobody_has():
    assert choose_network(["lo", "sluice0", "sluice2"]).index == 1
    assert choose_network(["sluice0"], preferred=7).index == 7
    assert choose_network(["sluice7"], preferred=7).index == 0
    with pytest.raises(ProviderError, match="take a cluster down first"):
        choose_network([f"sluice{number}" for number in range(MAX_NODES)])


def test_the_network_has_no_way_out():
    commands = NodeNetwork(index=1).node_commands()

    assert not [command for command in commands if "default" in command or "0.0.0.0/0" in command]
    refusals = [command for command in commands if command[-1] == "reject"]
    assert refusals == [
        ("nft", "add", "rule", "inet", "sluice", "forward", "oifname", "eth0", "ct", "state", "new", "reject")
    ]


def test_mounts_lie_over_the_fixed_paths_and_over_nothing_else(node):
    commands = node.mount_commands(Path("/etc/resolv.conf"))
    bound = {command[-1] for command in commands if "--bind" in command}

    assert bound == {"/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/etc/resolv.conf"}
    assert all(command[2].startswith(str(node.state)) for command in commands if "--bind" in command)
    # Where the resolver's file is a link into /run, the node's empty /run gets a file for it first.
    linked = node.mount_commands(Path("/run/resolver/stub.conf"))
    assert linked.index(("touch", "/run/resolver/stub.conf")) < linked.index(
        ("mount", "--bind", str(node.resolv_conf), "/run/resolver/stub.conf")
    )


def test_containerd_is_told_where_everything_is(node):
    configuration = tomllib.loads(containerd_configuration(node))
    runtime = configuration["plugins"]["io.containerd.grpc.v1.cri"]

    assert configuration["root"] == str(node.state / "containerd")
    assert runtime["sandbox_image"] == PAUSE_IMAGE
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": False}
    networks = json.loads(network_configuration(node))
    assert [plugin["type"] for plugin in networks["plugins"]] == ["bridge", "portmap"]
    assert networks["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.3.0/24"}]]


def test_the_kubelet_keeps_to_its_own_control_group_and_address(node):
    configuration = kubelet_configuration(node)

    assert configuration["cgroupRoot"] == "/sluice-dev"
    assert configuration["address"] == "10.98.3.2"
    assert configuration["failCgroupV1"] is False
    assert configuration["authentication"]["anonymous"] == {"enabled": False}
    assert configuration["readOnlyPort"] == 0
    assert proxy_configuration(node)["mode"] == "nftables"


def test_names_outside_the_cluster_are_answered_at_once(node):
    text = corefile(node)

    assert "bind 10.98.3.2" in text
    assert "forward" not in text
    cluster, rest = text.split("\n.:53 {")
    assert "kubernetes cluster.local" in cluster
    assert "template" not in cluster
    assert "NXDOMAIN" in rest
    service = next(item for item in dns_objects(node) if item["kind"] == "Service")
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == ("kube-dns", "10.96.0.10")
    assert "selector" not in service["spec"]
    endpoints = next(item for item in dns_objects(node) if item["kind"] == "EndpointSlice")
    assert endpoints["endpoints"][0]["addresses"] == ["10.98.3.2"]
    assert endpoints["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"


def test_the_gateway_listens_where_its_listener_says(node):
    entry_point = static_configuration(node)["entryPoints"]["web"]["address"]
    gateway = next(item for item in gateway_objects(node) if item["kind"] == "Gateway")

    assert entry_point == f"10.98.3.2:{gateway['spec']['listeners'][0]['port']}"
    role = next(item for item in gateway_objects(node) if item["kind"] == "ClusterRole")
    written = [rule for rule in role["rules"] if set(rule["verbs"]) - {"get", "list", "watch"}]
    assert all(resource.endswith("/status") for rule in written for resource in rule["resources"])


def test_prometheus_scrapes_only_programs_that_run(node):
    jobs = {job["job_name"] for job in prometheus_configuration(node)["scrape_configs"]}

    assert jobs == {"pods", "traefik"}


def pod(name, ports, *, phase="Running", address="10.244.0.9", labels=None):
    return {
        "metadata": {"name": name, "namespace": "loop", "labels": labels or {}},
        "spec": {"containers": [{"name": "main", "ports": ports}, {"name": "bare"}]},
        "status": {"phase": phase, "podIP": address},
    }


def test_pods_with_a_metrics_port_are_scraped_while_they_run():
    metrics = {"name": "metrics", "containerPort": 9102}
    pods = [
        pod("b", [metrics], labels={"app.kubernetes.io/name": "sluice"}),
        pod("a", [{"containerPort": 80}, metrics], address="10.244.0.7"),
        pod("web", [{"name": "http", "containerPort": 80}]),
        pod("done", [metrics], phase="Succeeded"),
        pod("waiting", [metrics], phase="Pending"),
        pod("unplaced", [metrics], address=None),
    ]

    assert scrape_targets(pods) == [
        {"targets": ["10.244.0.7:9102"], "labels": {"namespace": "loop", "pod": "a"}},
        {"targets": ["10.244.0.9:9102"], "labels": {"namespace": "loop", "pod": "b", "job": "sluice"}},
    ]


def test_redis_is_the_nodes_own_and_asks_for_a_password(node):
    lines = redis_configuration(node, "word").splitlines()

    assert "bind 127.0.0.1" in lines
    assert "requirepass word" in lines


def test_the_pause_image_is_a_whole_archive():
    archive = pause_archive(b"\x7fELF")

    assert archive == pause_archive(b"\x7fELF")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == [PAUSE_IMAGE]
    layer = files[manifest["Layers"][0]]
    config = json.loads(files[manifest["Config"]])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert [(member.name, member.mode) for member in tar] == [("pause", 0o755)]


def test_imported_images_are_read_from_what_the_runtime_says():
    said = "unpacking docker.io/local/a:1 (sha256:00)...done\nunpacking docker.io/local/b:2 (sha256:11)...done\n"

    assert parse_imported(said) == ["docker.io/local/a:1", "docker.io/local/b:2"]


def test_mounts_are_found_deepest_first():
    mountinfo = (
        "30 1 8:1 / / rw - ext4 /dev/root rw\n"
        "31 30 0:20 / /state/dev/node/a\\040b rw - tmpfs tmpfs rw\n"
        "32 31 0:21 / /state/dev/node/a\\040b/deep rw - overlay overlay rw\n"
        "33 30 0:22 / /state/developer rw - tmpfs tmpfs rw\n"
    )

    assert mounts_under(mountinfo, Path("/state/dev")) == [
        Path("/state/dev/node/a b/deep"),
        Path("/state/dev/node/a b"),
    ]


def test_control_groups_are_read_from_the_mounts():
    mounts = (
        "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n"
        "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"
        "cgroup2 /elsewhere cgroup2 rw 0 0\n"
    )

    assert [(each.root.name, each.unified) for each in parse_hierarchies(mounts)] == [
        ("memory", False),
        ("unified", True),
    ]


def hierarchy(root, *controllers, unified=False):
    root.mkdir(parents=True)
    return Hierarchy(root=root, unified=unified, controllers=frozenset(controllers))


def test_a_new_group_owns_the_processors_of_its_parent(tmp_path):
    cpuset, memory = hierarchy(tmp_path / "cpuset", "cpuset"), hierarchy(tmp_path / "memory", "memory")
    unified = hierarchy(tmp_path / "unified", unified=True)
    (cpuset.root / "cpuset.cpus").write_text("0-1")
    (cpuset.root / "cpuset.mems").write_text("0")

    create_tree("sluice-dev", [cpuset, memory, unified])

    assert (cpuset.root / "sluice-dev" / "cpuset.cpus").read_text() == "0-1"
    assert (memory.root / "sluice-dev").is_dir()
    assert not (unified.root / "sluice-dev").exists()


def test_a_node_weighs_as_much_as_its_processors(tmp_path):
    cpu = hierarchy(tmp_path / "cpu", "rw", "cpu")
    create_tree("sluice-dev", [cpu])
    assert (cpu.root / "sluice-dev" / "cpu.shares").read_text() == str(1024 * os.cpu_count())


def test_on_the_unified_hierarchy_alone_the_controllers_are_handed_down(tmp_path):
    unified = hierarchy(tmp_path / "cgroup", unified=True)
    (unified.root / "cgroup.controllers").write_text("memory")
    (unified.root / "cgroup.subtree_control").write_text("")

    create_tree("sluice-dev", [unified])

    assert (unified.root / "cgroup.subtree_control").read_text() == "+memory"


def test_a_group_that_remains_is_named(tmp_path):
    group = hierarchy(tmp_path / "memory")
    (group.root / "sluice-dev" / "kubepods" / "pod").mkdir(parents=True)
    remove_tree("sluice-dev", [group])
    assert not (group.root / "sluice-dev").exists()
    remove_tree("sluice-dev", [group])

    (group.root / "sluice-dev" / "busy").mkdir(parents=True)
    (group.root / "sluice-dev" / "busy" / "held").write_text("")
    with pytest.raises(ComponentError, match="busy cannot be removed: a process in it still runs"):
        remove_tree("sluice-dev", [group], patience_s=0.0)


@pytest.fixture
def shared(tmp_path):
    """A machine of its own: a root folder and kernel settings that are plain files."""
    settings = tmp_path / "sys"
    for name in machine.SETTINGS:
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text("0\n")
    root = tmp_path / "root"
    (root / "var/log/containers").mkdir(parents=True)
    return SharedMachine(tmp_path / "nodes.json", sysctl=settings, root=root), settings, root


def test_what_nodes_change_on_the_machine_is_given_back_after_the_last(shared, tmp_path):
    share, settings, root = shared
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()

    assert share.acquire(first, ["lo"]).index == 0
    (settings / "kernel/panic").write_text("10")
    assert share.acquire(second, ["lo"]).index == 1
    assert share.acquire(first, ["lo", "sluice1"]).index == 0
    assert (root / "var/lib/kubelet").is_dir()

    share.release(first)
    assert (settings / "kernel/panic").read_text() == "10"
    assert (root / "var/lib/kubelet").is_dir()
    share.release(second)
    assert (settings / "kernel/panic").read_text() == "0"
    assert not (root / "var/lib/kubelet").exists()
    assert (root / "var/log/containers").is_dir()
    share.release(second)


def test_a_cluster_whose_folder_is_gone_holds_nothing(shared, tmp_path):
    share, settings, _ = shared
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    share.acquire(first, [])
    (settings / "vm/overcommit_memory").write_text("1")
    first.rmdir()

    assert share.acquire(second, []).index == 0
    share.release(second)
    assert (settings / "vm/overcommit_memory").read_text() == "1", "the settings of a lost record are nobody's"


def test_another_boots_settings_are_not_given_back(shared, tmp_path):
    share, settings, _ = shared
    folder = tmp_path / "one"
    folder.mkdir()
    stale = SharedState(boot="another", settings={"kernel/panic": "7"}, holders={str(folder): 4})
    stale.write(tmp_path / "nodes.json")

    assert share.acquire(folder, []).index == 4
    share.release(folder)
    assert (settings / "kernel/panic").read_text().strip() == "0"


def test_the_state_survives_its_file(tmp_path):
    process = ProcessId(pid=7, start_ticks=8, boot_id="b")
    services = {"etcd": process}
    state = NodeState(complete=True, laid=True, version="v1", index=2, init=process, services=services, addons=("s3",))
    state.write(tmp_path / "state.json")

    assert NodeState.read(tmp_path / "state.json") == state
    (tmp_path / "state.json").write_text('{"complete": true}')
    assert NodeState.read(tmp_path / "state.json") == NodeState()


def test_missing_packages_are_named():
    assert missing_packages(PACKAGES, lambda program: program != "runc") == ["runc"]
    assert missing_packages(PACKAGES, lambda _: True) == []


def test_addons_start_in_their_own_order():
    assert tuple(known_addons()) == ADDON_NAMES
    assert [addon.name for addon in choose_addons(["s3", "kuberay"])] == ["kuberay", "s3"]
    with pytest.raises(ProviderError, match="no add-on 'kafka'; choose from network-policies, kuberay"):
        choose_addons(["kafka"])


def test_no_two_programs_share_a_name_or_a_port():
    services = [*base_services(), *(service for addon in known_addons().values() for service in addon.services)]
    ports = [service.port for service in services if service.port is not None]

    assert len({service.name for service in services}) == len(services)
    assert len(set(ports)) == len(ports)


def test_the_name_of_a_definition_is_read_without_parsing_it():
    text = (
        "kind: CustomResourceDefinition\nmetadata:\n  annotations:\n    a: b\n  name: jobs.ray.io\nspec:\n  name: no\n"
    )

    assert definition_name(text, Path("x")) == yaml.safe_load(text)["metadata"]["name"]
    with pytest.raises(ProviderError, match=r"x\.yaml does not look like a custom resource definition"):
        definition_name("spec:\n  name: no\n", Path("x.yaml"))


def test_a_container_of_kind_is_read():
    assert parse_container("4711 172.18.0.2 \n") == (4711, "172.18.0.2")
    for text in ("0 \n", "4711\n", ""):
        with pytest.raises(ProviderError, match="does not run"):
            parse_container(text)


def test_a_node_is_only_for_root(tmp_path, monkeypatch):
    provider = NodeProvider(home=tmp_path, reporter=SilentReporter())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ProviderError, match="needs root"):
        provider.up("dev")
    assert provider.down("dev") is False
    assert list(tmp_path.iterdir()) == []


def test_a_node_is_asked_for_by_its_own_provider(tmp_path):
    provider = NodeProvider(home=tmp_path, reporter=SilentReporter())
    with pytest.raises(ProviderError, match="there is no cluster 'dev' with a node"):
        provider.sandbox("dev")

    write_record(tmp_path / "dev", ProviderName.EMBEDDED)
    with pytest.raises(ProviderError, match="there is no cluster 'dev' with a node"):
        provider.load("dev", [])
    write_record(tmp_path / "node", ProviderName.NODE)
    with pytest.raises(ComponentError, match="the node of cluster node does not run"):
        provider.sandbox("node")


def run_cli(*words):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["cluster", *words])
    return arguments.handler(arguments)


def test_what_needs_pods_is_refused_without_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert run_cli("up", "--with", "s3") == 2
    assert "add --node (provider embedded has none)" in capsys.readouterr().err
    assert run_cli("load", "image.tar") == 2
    assert "load needs pods" in capsys.readouterr().err
    assert run_cli("storage") == 2
    assert "storage needs a node" in capsys.readouterr().err
    assert run_cli("storage", "--provider", "node") == 1
    assert "cluster dev has no S3 server" in capsys.readouterr().err
    assert run_cli("up", "--node", "--with", "s3,kafka") == 1
    assert "there is no add-on 'kafka'" in capsys.readouterr().err
    assert run_cli("load", "--provider", "node", "image.tar") == 1
    assert "there is no cluster 'dev' with a node" in capsys.readouterr().err
    assert not (tmp_path / "sluice" / "clusters" / "dev").exists()


class Routes:
    """The machine's routes, as ``ip route`` shows and changes them."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def __call__(self, arguments):
        match list(arguments):
            case ["route", "show", "exact", network]:
                return "\n".join(line for line in self.lines if line.startswith(f"{network} "))
            case ["route", "add", network, "via", via]:
                self.lines.append(f"{network} via {via} dev br-kind")
            case ["route", "del", network, "via", via]:
                self.lines.remove(f"{network} via {via} dev br-kind")
        return ""


POD_ROUTE = PodRoute(network="10.244.0.0/24", via="172.18.0.2")


def test_the_route_to_kinds_pods_is_laid_once_follows_the_container_and_goes(tmp_path):
    routes = Routes("default via 10.0.0.1 dev eth0")
    for _ in range(2):
        POD_ROUTE.add_to(tmp_path, routes)
    assert routes.lines[1:] == ["10.244.0.0/24 via 172.18.0.2 dev br-kind"]
    # A container that was started again may have another address.
    PodRoute(network="10.244.0.0/24", via="172.18.0.3").add_to(tmp_path, routes)
    assert routes.lines[1:] == ["10.244.0.0/24 via 172.18.0.3 dev br-kind"]
    for _ in range(2):
        remove_route(tmp_path, routes)
    assert routes.lines == ["default via 10.0.0.1 dev eth0"]


def test_a_route_that_was_written_down_and_is_gone_is_laid_again(tmp_path):
    routes = Routes()
    POD_ROUTE.add_to(tmp_path, routes)
    routes.lines.clear()
    POD_ROUTE.add_to(tmp_path, routes)
    assert len(routes.lines) == 1


@pytest.mark.parametrize(
    "line", ["10.244.0.0/24 via 10.98.0.2 dev sluice0", "10.244.0.0/24 via 172.18.0.20 dev br-kind"]
)
def test_somebody_elses_route_to_the_pods_network_is_told_and_stays(tmp_path, line):
    routes = Routes(line)
    with pytest.raises(ProviderError, match=r"reaches 10\.244\.0\.0/24, the pods' network, by another route"):
        POD_ROUTE.add_to(tmp_path, routes)
    remove_route(tmp_path, routes)
    assert routes.lines == [line]


def test_a_route_that_was_there_already_is_not_taken_away(tmp_path):
    routes = Routes("10.244.0.0/24 via 172.18.0.2 dev br-kind")
    POD_ROUTE.add_to(tmp_path, routes)
    remove_route(tmp_path, routes)
    assert len(routes.lines) == 1


@pytest.mark.parametrize(
    ("script", "words"), [("echo no $0 >&2; exit 3", "ended with 3: no"), ("sleep 60", "longer than")]
)
def test_an_error_does_not_repeat_a_secret(script, words):
    secret = secrets.token_hex(8)
    with pytest.raises(ComponentError, match=words) as caught:
        run_command(["sh", "-c", script, f"--secret={secret}"], hidden=(secret,), timeout_s=1)
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert "--secret=***" in str(caught.value)

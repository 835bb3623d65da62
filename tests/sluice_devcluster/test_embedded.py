"""Embedded clusters for real: up, down, side by side, after crashes, and with strangers about."""

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sluice_devcluster import State, embedded
from sluice_devcluster.access import service_account_kubeconfig
from sluice_devcluster.embedded import EmbeddedProvider
from sluice_devcluster.errors import ComponentError, ProviderError
from sluice_devcluster.gotools import kubernetes_binaries
from sluice_devcluster.kubectl import run_kubectl
from sluice_devcluster.ports import free_port, is_free
from sluice_devcluster.processes import find_owned, identify
from sluice_devcluster.reporting import SilentReporter

pytestmark = pytest.mark.integration

COMPONENTS = ["etcd", "kube-apiserver", "kube-controller-manager"]


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)


def sweep(home):
    for folder in home.iterdir():
        for process in find_owned(str(folder)):
            os.kill(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("clusters")
    yield home
    sweep(home)


@pytest.fixture(scope="module")
def provider(home):
    return EmbeddedProvider(home=home, reporter=SilentReporter(), tethered=True)


@pytest.fixture(scope="module")
def own(provider):
    """A cluster beside the session's, which these tests may break; each leaves it up or brings it up again."""
    cluster = provider.up("own")
    yield cluster
    provider.down("own")


@pytest.fixture
def short_lived(home):
    """A name whose cluster may be left in any state."""
    name = f"x-{secrets.token_hex(3)}"
    yield name
    EmbeddedProvider(home=home, reporter=SilentReporter()).down(name)


def configmap(kubeconfig, name, *flags):
    return run_kubectl(kubeconfig, "get", "configmap", name, "--output=name", *flags, check=False)


def test_all_components_are_healthy_on_ports_of_their_own(own, provider):
    status = provider.status("own")

    assert status.state is State.READY
    assert [component.name for component in status.components] == COMPONENTS
    assert {component.detail for component in status.components} == {"ok"}
    assert len({component.port for component in status.components}) == 3
    assert status.server == own.server


def test_the_kubeconfig_is_the_owners_alone_and_works(own):
    assert own.kubeconfig.stat().st_mode & 0o777 == 0o600
    version = json.loads(run_kubectl(own.kubeconfig, "version", "--output=json").stdout)
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"] == own.version


def test_up_of_a_cluster_that_is_up_changes_nothing(own, provider):
    before = provider.status("own")

    assert provider.up("own") == own
    assert provider.status("own") == before


def test_two_clusters_run_side_by_side(own, cluster):
    run_kubectl(own.kubeconfig, "create", "configmap", "only-here")

    assert own.server != cluster.server
    assert configmap(own.kubeconfig, "only-here").stdout == "configmap/only-here\n"
    assert configmap(cluster.kubeconfig, "only-here").returncode == 1


def test_credentials_of_one_cluster_are_refused_by_another(own, cluster):
    answer = run_kubectl(own.kubeconfig, f"--server={cluster.server}", "get", "--raw=/api", check=False)

    assert answer.returncode == 1
    assert "certificate" in answer.stderr


def test_the_database_is_closed_to_who_has_no_certificate(own, provider):
    port = provider.status("own").components[0].port
    script = (
        "import ssl, sys, http.client; c = http.client.HTTPSConnection('127.0.0.1', int(sys.argv[1]), "
        "context=ssl._create_unverified_context()); c.request('GET', '/health'); print(c.getresponse().status)"
    )
    answer = subprocess.run([sys.executable, "-c", script, str(port)], capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert "CERTIFICATE_REQUIRED" in answer.stderr or "certificate required" in answer.stderr


def test_a_namespace_is_deleted_with_what_is_in_it(own):
    run_kubectl(own.kubeconfig, "create", "namespace", "goes")
    run_kubectl(own.kubeconfig, "create", "configmap", "inside", "--namespace=goes")

    run_kubectl(own.kubeconfig, "delete", "namespace", "goes", "--timeout=30s")

    assert configmap(own.kubeconfig, "inside", "--namespace=goes").returncode == 1


def test_what_belongs_to_a_deleted_owner_is_collected(own):
    run_kubectl(own.kubeconfig, "create", "configmap", "owner")
    uid = run_kubectl(own.kubeconfig, "get", "configmap", "owner", "--output=jsonpath={.metadata.uid}").stdout
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [reference]}}
    run_kubectl(own.kubeconfig, "create", "--filename=-", stdin=json.dumps(child))

    run_kubectl(own.kubeconfig, "delete", "configmap", "owner")

    until(lambda: configmap(own.kubeconfig, "child").returncode == 1)


def test_a_service_account_may_do_what_its_role_says_and_no_more(own, tmp_path):
    run_kubectl(own.kubeconfig, "create", "serviceaccount", "limited")
    path = service_account_kubeconfig(own.kubeconfig, "default", "limited", tmp_path / "limited")
    whoami = json.loads(run_kubectl(path, "auth", "whoami", "--output=json").stdout)
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:default:limited"
    assert path.stat().st_mode & 0o777 == 0o600

    refused = run_kubectl(path, "get", "configmaps", check=False)
    assert refused.returncode == 1
    assert "is forbidden" in refused.stderr

    run_kubectl(own.kubeconfig, "create", "role", "reads", "--verb=list", "--resource=configmaps")
    run_kubectl(own.kubeconfig, "create", "rolebinding", "reads", "--role=reads", "--serviceaccount=default:limited")
    until(lambda: run_kubectl(path, "get", "configmaps", check=False).returncode == 0)
    for arguments in (["get", "secrets"], ["create", "configmap", "new"], ["get", "configmaps", "--all-namespaces"]):
        assert "is forbidden" in run_kubectl(path, *arguments, check=False).stderr


def test_an_account_that_is_missing_is_named(own, tmp_path):
    with pytest.raises(ProviderError, match=r'create token nobody .* "nobody" not found'):
        service_account_kubeconfig(own.kubeconfig, "default", "nobody", tmp_path / "nobody")


def test_status_sees_each_sigkill_and_up_brings_the_cluster_back(own, provider):
    run_kubectl(own.kubeconfig, "create", "configmap", "survives")
    status = provider.status("own")
    old = {component.name: component for component in status.components}
    os.kill(old["kube-controller-manager"].pid, signal.SIGKILL)
    until(lambda: provider.status("own").components[2].pid is None)
    degraded = provider.status("own")
    assert degraded.state is State.DEGRADED
    assert [component.detail for component in degraded.components] == ["ok", "ok", "does not run"]

    for name in ("kube-apiserver", "etcd"):
        os.kill(old[name].pid, signal.SIGKILL)
    until(lambda: provider.status("own").state is State.STOPPED)
    assert is_free(old["kube-apiserver"].port)

    # In the meantime somebody takes the API server's port.
    with socket.create_server(("127.0.0.1", old["kube-apiserver"].port)):
        again = provider.up("own")

    status = provider.status("own")
    new = {component.name: component for component in status.components}
    assert status.state is State.READY
    assert new["etcd"].port == old["etcd"].port
    assert again.server != own.server
    assert again.kubeconfig == own.kubeconfig
    assert configmap(again.kubeconfig, "survives").returncode == 0


def test_up_killed_half_way_does_not_trip_the_next_up(home, short_lived):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from sluice_devcluster.embedded import EmbeddedProvider
        EmbeddedProvider(home=Path(sys.argv[1])).up(sys.argv[2])
        """
    )
    folder = home / short_lived
    killed = subprocess.Popen([sys.executable, "-c", script, str(home), short_lived], stderr=subprocess.DEVNULL)
    until(lambda: len(find_owned(str(folder))) == 2)
    killed.kill()
    killed.wait()
    left = find_owned(str(folder))
    # As if it had been killed before it could note what it had started.
    (folder / "state.json").unlink()

    provider = EmbeddedProvider(home=home, reporter=SilentReporter(), tethered=True)
    provider.up(short_lived)

    assert provider.status(short_lived).state is State.READY
    assert len(find_owned(str(folder))) == 3
    assert not set(left) & set(find_owned(str(folder)))


def test_a_stranger_in_a_stale_record_survives_down(home, short_lived):
    stranger = subprocess.Popen(["/bin/sleep", "300"])
    try:
        identity = identify(stranger.pid)
        folder = write_state(home / short_lived, identity.to_dict() | {"start_ticks": identity.start_ticks - 1})
        provider = EmbeddedProvider(home=home, reporter=SilentReporter(), tethered=True)

        assert provider.status(short_lived).state is State.STOPPED
        assert provider.down(short_lived)

        assert stranger.poll() is None
        assert not folder.exists()
    finally:
        stranger.kill()
        stranger.wait()


def write_state(folder, process):
    """Note components that were all up as ``process``, without the certificates and the data they would have."""
    names = iter([free_port() for _ in range(4)])
    ports = {name: [name, *(["etcd-peer"] if name == "etcd" else [])] for name in COMPONENTS}
    components = {
        name: {"process": process, "ports": {port: next(names) for port in ports[name]}} for name in COMPONENTS
    }
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"complete": True, "version": "v0", "components": components}))
    return folder


def test_lost_data_and_a_port_taken_at_the_last_moment_are_got_over(home, short_lived, monkeypatch):
    gone = {"pid": 2**22 + 1, "start_ticks": 1, "boot_id": "an earlier one"}
    write_state(home / short_lived, gone)
    reporter = Notes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = [listener.getsockname()[1]]
        monkeypatch.setattr(embedded, "free_port", lambda avoid: taken.pop() if taken else free_port(avoid))
        provider = EmbeddedProvider(home=home, reporter=reporter, tethered=True)

        provider.up(short_lived)

        assert not taken
        assert provider.status(short_lived).state is State.READY
    assert [note.partition(" (")[0] for note in reporter.notes] == [
        f"cluster {short_lived} was up but is not whole; starting it again with its data",
        "its data cannot be used",
    ]


class Notes(SilentReporter):
    """Remembers the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_component_that_fails_is_named_with_its_log_and_nothing_is_left(home, short_lived, tmp_path):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in COMPONENTS:
        (binaries / name).symlink_to(kubernetes_binaries() / name)
    broken = binaries / "kube-apiserver"
    broken.unlink()
    broken.write_text("#!/bin/sh\necho no such flag\nexit 1\n")
    broken.chmod(0o755)
    provider = EmbeddedProvider(home=home, reporter=SilentReporter(), binaries=lambda _: binaries, tethered=True)

    with pytest.raises(ComponentError, match=r"(?s)kube-apiserver ended while it started.*no such flag"):
        provider.up(short_lived)

    assert find_owned(str(home / short_lived)) == []
    assert provider.status(short_lived).state is State.STOPPED


def test_down_of_what_never_was_is_false(provider, home):
    before = sorted(path.name for path in home.iterdir())

    assert provider.down("never") is False
    assert provider.status("never").state is State.ABSENT
    assert sorted(path.name for path in home.iterdir()) == before


def test_the_command_line(tmp_path):
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    environment.pop("KUBECONFIG", None)

    def sluice(*arguments):
        command = [Path(sys.executable).with_name("sluice"), "cluster", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)

    try:
        up = sluice("up", "--name", "shell", "--bare")
        assert up.returncode == 0, up.stderr
        assert "✓ start kube-apiserver" in up.stderr
        shell = subprocess.run(
            ["/bin/sh", "-c", f"{up.stdout}\nkubectl get namespace default --output=name"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shell.stdout == "namespace/default\n"

        status = json.loads(sluice("status", "--name", "shell", "--json").stdout)
        assert status["state"] == "Ready"
        assert [component["name"] for component in status["components"]] == COMPONENTS
        table = sluice("status", "--name", "shell")
        assert table.returncode == 0
        for component in status["components"]:
            assert f"{component['pid']}  {component['port']}" in table.stdout
        # A client that watches must not hold up the end.
        watch = ["kubectl", "get", "namespaces", "--watch", "--output=name"]
        watching = subprocess.Popen(["/bin/sh", "-c", f"{up.stdout}\nexec {shlex.join(watch)}"], stdout=subprocess.PIPE)
        assert watching.stdout.readline() == b"namespace/default\n"
    finally:
        start = time.monotonic()
        down = sluice("down", "--name", "shell", "--json")
    took = time.monotonic() - start
    watching.kill()
    watching.communicate()
    assert took < 30  # the API server alone would wait a minute for its watchers
    assert json.loads(down.stdout) == {"name": "shell", "removed": True}
    assert find_owned(str(tmp_path / "sluice" / "clusters" / "shell")) == []
    assert sluice("status", "--name", "shell").returncode == 1

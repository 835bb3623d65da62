"""What the providers refuse, and the cluster that is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sluice_devcluster import ProviderError, ProviderName, State, make_provider
from sluice_devcluster.embedded import EmbeddedProvider
from sluice_devcluster.existing import ExistingProvider
from sluice_devcluster.kind import KindProvider
from sluice_devcluster.providers import check_name, provider_of, read_record, write_record
from sluice_devcluster.reporting import SilentReporter


@pytest.mark.parametrize("name", ["dev", "a", "test-1-ff", "x" * 40])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Dev", "-a", "a-", "../x", "a/b", "x" * 41, "a\n"])
def test_names_that_are_no_folder_are_refused(name):
    with pytest.raises(ProviderError, match="name"):
        check_name(name)


def test_a_name_belongs_to_one_provider(tmp_path):
    write_record(tmp_path / "dev", ProviderName.KIND)

    assert provider_of("dev", tmp_path) is ProviderName.KIND
    with pytest.raises(ProviderError, match="provider 'kind' exists: take it down first"):
        write_record(tmp_path / "dev", ProviderName.EXISTING)
    for other in (EmbeddedProvider(home=tmp_path, reporter=SilentReporter()), ExistingProvider(home=tmp_path)):
        with pytest.raises(ProviderError, match="belongs to the provider 'kind'"):
            other.down("dev")
    assert provider_of("dev", tmp_path) is ProviderName.KIND


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "provider.json").write_text('{"provider": "cloud"}')

    with pytest.raises(ProviderError, match=r"provider\.json cannot be read"):
        provider_of("dev", tmp_path)


def test_the_existing_provider_uses_and_leaves_the_cluster(cluster, tmp_path):
    provider = make_provider(ProviderName.EXISTING, kubeconfig=cluster.kubeconfig, home=tmp_path)

    found = provider.up("given")
    assert (found.server, found.kubeconfig, found.version) == (cluster.server, cluster.kubeconfig, cluster.version)
    # The name is enough from now on.
    later = ExistingProvider(home=tmp_path)
    assert later.status("given").state is State.READY
    assert later.down("given") is True
    assert later.down("given") is False

    assert read_record(tmp_path / "given") is None
    assert provider.status("given").state is State.READY


def test_the_existing_provider_follows_the_environment(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    assert ExistingProvider(home=tmp_path).up("given").server == cluster.server

    monkeypatch.setenv("KUBECONFIG", f"{cluster.kubeconfig}{os.pathsep}{tmp_path / 'other'}")
    with pytest.raises(ProviderError, match="names several files"):
        ExistingProvider(home=tmp_path / "new").up("given")


def test_the_existing_provider_needs_a_kubeconfig_that_works(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(ProviderError, match="give --kubeconfig PATH"):
        ExistingProvider(home=tmp_path).up("given")
    with pytest.raises(ProviderError, match="cannot read the kubeconfig"):
        ExistingProvider(kubeconfig=tmp_path / "missing", home=tmp_path).up("given")
    assert ExistingProvider(home=tmp_path).status("given").state is State.ABSENT
    assert provider_of("given", tmp_path) is None


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """An otherwise empty PATH to put ``docker`` and ``kind`` on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return put


def test_kind_without_docker_says_so(programs, tmp_path):
    with pytest.raises(ProviderError, match="needs docker on the PATH"):
        KindProvider(home=tmp_path, reporter=SilentReporter()).up("dev")
    programs("docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
    with pytest.raises(ProviderError, match="needs kind on the PATH"):
        KindProvider(home=tmp_path, reporter=SilentReporter()).up("dev")
    programs("kind", "exit 0")
    with pytest.raises(ProviderError, match=r"Docker does not run \(Cannot connect to the Docker daemon\)"):
        KindProvider(home=tmp_path, reporter=SilentReporter()).up("dev")
    assert provider_of("dev", tmp_path) is None


def test_kind_is_called_with_a_name_and_a_kubeconfig_of_ours(programs, tmp_path, cluster):
    calls = tmp_path / "calls"
    programs("docker", "exit 0")
    # Stands in for kind at its command line; the cluster that it "creates" is the session's real one.
    programs(
        "kind",
        f"""
        echo "$@" >> {calls}
        case "$1 $2" in
        "get clusters") [ ! -f {tmp_path}/made ] || echo sluice-dev ;;
        "create cluster") : > {tmp_path}/made; /bin/cp {cluster.kubeconfig} "$6" ;;
        "get kubeconfig") /bin/cat {cluster.kubeconfig} ;;
        "delete cluster") /bin/rm {tmp_path}/made ;;
        esac
        """,
    )
    provider = KindProvider(home=tmp_path / "home", reporter=SilentReporter())
    kubeconfig = tmp_path / "home" / "dev" / "kubeconfig"

    assert provider.status("dev").state is State.ABSENT
    up = provider.up("dev")
    assert (up.server, up.version, up.kubeconfig) == (cluster.server, cluster.version, kubeconfig)
    assert provider.up("dev") == up
    assert provider.status("dev").state is State.READY
    assert provider.down("dev") is True
    assert provider.down("dev") is False

    made = [line for line in calls.read_text().splitlines() if line.split()[0] != "get"]
    assert made == [
        f"create cluster --name sluice-dev --kubeconfig {kubeconfig} --wait 180s",
        f"delete cluster --name sluice-dev --kubeconfig {kubeconfig}",
    ]


def test_a_kind_cluster_that_fails_to_start_is_deleted(programs, tmp_path):
    calls = tmp_path / "calls"
    programs("docker", "exit 0")
    programs("kind", f'echo "$1 $2" >> {calls}; [ "$1" != create ] || {{ echo no space left >&2; exit 1; }}')

    with pytest.raises(ProviderError, match="no space left"):
        KindProvider(home=tmp_path, reporter=SilentReporter()).up("dev")

    assert calls.read_text().splitlines() == ["get clusters", "create cluster", "delete cluster"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status", "--name", "Not_a_name"], 2, "must be 1 to 40 lower-case letters"),
        (["up", "--provider", "cloud"], 2, "invalid"),
        (["up", "--provider", "embedded", "--kubeconfig", "x"], 2, "belongs to --provider existing"),
        (["up", "--kubeconfig", "missing"], 1, "cannot read the kubeconfig"),
        (["status"], 1, ""),
        (["down"], 0, "does not exist"),
        ([], 2, "required: ACTION"),
    ],
)
def test_exit_codes(arguments, code, words, tmp_path):
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    command = [Path(sys.executable).with_name("sluice"), "cluster", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)

    assert result.returncode == code
    assert words in result.stderr


def test_status_as_json_is_whole(tmp_path):
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    command = [Path(sys.executable).with_name("sluice"), "cluster", "status", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert json.loads(result.stdout) == {
        "name": "dev",
        "provider": "embedded",
        "state": "Absent",
        "kubeconfig": None,
        "server": None,
        "components": [],
    }

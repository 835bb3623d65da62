"""Files, ports, kubeconfigs and progress."""

import io
import os
import socket
import threading

import pytest
import yaml

from sluice_devcluster.certs import Leaf
from sluice_devcluster.errors import ProviderError
from sluice_devcluster.files import cache_home, locked, state_home, tail, write_atomic
from sluice_devcluster.kubeconfig import kubeconfig, read_ca, read_cluster, write_kubeconfig
from sluice_devcluster.ports import free_port, is_free
from sluice_devcluster.reporting import PlainReporter


def test_homes_follow_the_base_directory_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_home({"XDG_CACHE_HOME": "/somewhere"}).as_posix() == "/somewhere/sluice"
    assert cache_home({"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache" / "sluice"
    assert state_home({}) == tmp_path / ".local" / "state" / "sluice"


def test_a_write_replaces_the_whole_file_with_its_mode(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old", mode=0o644)
    write_atomic(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_scrap(tmp_path):
    folder = tmp_path / "file"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(folder, b"new")

    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    order, waits = [], threading.Event()

    def second():
        with locked(tmp_path / "lock", waiting=waits.set):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_tail_of_what_is_missing_is_empty(tmp_path):
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(100)))

    assert tail(tmp_path / "log", 2) == "98\n99"
    assert tail(tmp_path / "missing") == ""


def test_a_taken_port_is_not_free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert not is_free(taken)
        assert free_port() != taken
    assert is_free(taken)


def test_free_ports_avoid_what_they_are_told():
    first = free_port()

    assert free_port({first}) != first


@pytest.mark.parametrize("ca", [b"authority", None])
def test_a_kubeconfig_reads_back(tmp_path, ca):
    path = tmp_path / "kubeconfig"
    leaf = Leaf(certificate=b"certificate", key=b"key")
    write_kubeconfig(
        path, kubeconfig(name="c", server="https://127.0.0.1:1", ca=ca, user="u", credential=leaf, namespace="n")
    )

    name, entry = read_cluster(path)
    assert (name, entry["server"], read_ca(path, entry)) == ("c", "https://127.0.0.1:1", ca)
    assert path.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(path.read_text())["contexts"][0]["context"] == {"cluster": "c", "user": "u", "namespace": "n"}


def test_an_authority_beside_the_kubeconfig_is_read(tmp_path):
    (tmp_path / "ca.pem").write_bytes(b"authority")

    assert read_ca(tmp_path / "kubeconfig", {"certificate-authority": "ca.pem"}) == b"authority"
    with pytest.raises(ProviderError, match="authority cannot be read"):
        read_ca(tmp_path / "kubeconfig", {"certificate-authority": "missing.pem"})


@pytest.mark.parametrize("text", ["[]", "current-context: x", "{", "current-context: x\ncontexts: []\nclusters: []\n"])
def test_what_is_no_kubeconfig_is_named(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    with pytest.raises(ProviderError, match=f"{path}: not a kubeconfig"):
        read_cluster(path)


def test_plain_progress_is_a_line_now_and_then_and_one_at_the_end():
    stream, times = io.StringIO(), iter([0.0, 0.0, 1.0, 11.0, 12.0, 13.0])
    reporter = PlainReporter(stream, interval=10.0, clock=lambda: next(times))

    with reporter.stage("compile") as stage:
        stage.update("packages", done=1, total=9)
        stage.update("packages", done=5, total=9)
        stage.update("packages", done=6, total=9)

    assert stream.getvalue() == "  compile: 5 of 9 packages\n✓ compile (13.0 s)\n"


def test_plain_progress_says_that_a_step_failed():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), PlainReporter(stream, clock=lambda: 1.0).stage("compile"):
        raise KeyboardInterrupt

    assert stream.getvalue() == f"✗ compile (0.0 s){os.linesep}"

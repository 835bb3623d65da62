"""`sluice serve` as a process: it listens, answers, and ends when told to; what it cannot serve it says."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from shop_models import make_base
from sluice_cli.main import main


def wait_for(path, process, limit_s=120):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if path.exists():
            return path.read_text().strip()
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear within {limit_s} s")


def test_serve_listens_answers_and_ends(tmp_path):
    base = make_base(tmp_path / "base")
    port_file = tmp_path / "port"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sluice_cli", "serve", "--base", base.as_uri(), "--port", "0", "--threads", "1"),
            *("--port-file", str(port_file), "--cache", str(tmp_path / "cache"), "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{int(wait_for(port_file, process))}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/healthz", timeout=10) as response:
            health = json.load(response)
        assert health["status"] == "ok"
        assert json.loads(process.stdout.readline())["base_digest"] == health["base_digest"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("base", ["file:///nowhere/at/all", "ftp://host/model"])
def test_a_base_that_cannot_be_served_ends_with_2(base, tmp_path, capsys):
    assert main(["serve", "--base", base, "--port", "0", "--cache", str(tmp_path)]) == 2
    assert base in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "sluice_runtime.engine", raising=False)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    monkeypatch.setattr("sluice_artifacts.fetch_model", lambda ref, cache: base)
    assert main(["serve", "--base", base.as_uri(), "--port", "0", "--cache", str(tmp_path)]) == 2
    assert "sluice[runtime,trainer]" in capsys.readouterr().err

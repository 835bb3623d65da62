"""`kubectl sluice rollout` on a real API server, with a real operator that answers."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from manifests_for_tests import rollout, run
from operators import until
from sluice_cli.dashboard.source import Source
from sluice_cli.kube import KubeApi
from sluice_cli.main import main
from sluice_devcluster.kubectl import find_kubectl

BIN = Path(sys.executable).parent
STEPS = [{"weight": 10, "soak": "1s", "minRuns": 5}, {"weight": 100, "soak": "1s", "minRuns": 5}]


@pytest.fixture(scope="module")
def served(site):
    """The place, with an operator that acts and a candidate that is trained."""
    with site.operator():
        site.built()
        site.apply(run(site.uri))
        site.wait_phase("finetunerun", "run", "Succeeded")
        yield site


@pytest.fixture
def kubeconfig(served, cluster, tmp_path):
    """The administrator's kubeconfig, with the test's namespace as its default."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for context in config["contexts"]:
        context["context"]["namespace"] = served.namespace
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def call(cluster, capsys):
    """Run `sluice rollout …` in this process: starting one costs more than what it does."""

    def run_it(*arguments):
        capsys.readouterr()
        try:
            code = main(["rollout", *map(str, arguments)])
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run_it


@pytest.fixture
def sluice(call, kubeconfig):
    """Run `sluice rollout …` with the place's kubeconfig."""

    def run_it(*arguments, kubeconfig=kubeconfig):
        return call(*arguments, "--kubeconfig", kubeconfig)

    return run_it


def begin(place, name, **spec):
    """Apply a rollout that analyses every second; it has its own channel-free route and skips the offline scorecard."""
    document = rollout(place.uri, name, steps=STEPS, **spec)
    del document["spec"]["scorecardRef"]
    document["spec"]["analysis"] |= {"interval": "1s"}
    place.apply(document)


def remove(place, name):
    place.kubectl("-n", place.namespace, "delete", "shadowrollout", name, "--wait=true")


@pytest.fixture
def waiting(served):
    """A rollout that waits for the approval of its first step."""
    begin(served, "waits", approval=[1])
    served.wait_phase("shadowrollout", "waits", "AwaitingApproval")
    yield "waits"
    remove(served, "waits")


class TestWaitingForApproval:
    def test_status_ends_with_its_own_code_where_a_person_is_needed(self, sluice, waiting):
        result = sluice("status", waiting)
        assert (result.returncode, result.stderr) == (3, "")
        assert "AwaitingApproval" in result.stdout

    def test_get_shows_the_tree(self, sluice, waiting):
        result = sluice("get", waiting)
        assert result.returncode == 0, result.stderr
        assert "॥ AwaitingApproval" in result.stdout
        assert re.search(r"├──step 1: 10 % .*5 of 5 matured runs", result.stdout)
        assert re.search(r"└──run +FineTuneRun +✔ Succeeded", result.stdout)
        assert "\x1b[" not in result.stdout

    def test_get_as_json_has_the_objects(self, sluice, served, waiting):
        found = json.loads(sluice("get", waiting, "--json", "-n", served.namespace).stdout)
        assert found["name"] == waiting
        kinds = [each["kind"] for each in found["objects"]]
        assert kinds[:3] == ["ShadowRollout", "TraceDataset", "FineTuneRun"]
        assert found["objects"][0]["object"]["status"]["phase"] == "AwaitingApproval"

    def test_kubectl_finds_the_plugin(self, kubeconfig, waiting):
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": str(kubeconfig)}
        command = [str(find_kubectl()), "sluice", "rollout", "get", waiting, "--no-color"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert result.returncode == 0, result.stderr
        assert "AwaitingApproval" in result.stdout

    def test_promote_records_who_and_the_rollout_goes_on_to_its_end(self, sluice, served, waiting):
        result = sluice("promote", waiting, "--as", "alice@example.com")
        assert result.returncode != 0, "alice has no rights here"
        assert "alice@example.com" in result.stderr
        assert "check your credentials and your Role" in result.stderr
        result = sluice("promote", waiting)
        assert result.returncode == 0, result.stderr
        assert "step 1 approved by" in result.stdout
        (annotations,) = [served.get("shadowrollout", waiting)["metadata"]["annotations"]]
        assert annotations["sluice.dev/promote"] == "1"
        assert "sluice.dev/promoted-by" not in annotations, "it would sign the next approval too"
        (approval,) = served.status("shadowrollout", waiting)["approvals"]
        assert approval["step"] == 1
        assert approval["by"] == sluice_user(served)
        result = sluice("status", waiting, "--timeout", "2m")
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Completed" in result.stdout.splitlines()[-1]
        # The candidate is the stable one now: nothing is left to abort, promote or retry.
        for command in ("abort", "promote", "retry"):
            result = sluice(command, waiting)
            assert result.returncode == 1, command
            assert "does not apply" in result.stderr


def sluice_user(place):
    """Return who the administrator is to the API server."""
    answer = place.kubectl("auth", "whoami", "-o", "json").stdout
    return json.loads(answer)["status"]["userInfo"]["username"]


class TestAbortAndRetry:
    @pytest.fixture
    def climbing(self, place):
        """A rollout at its first step that never has runs enough, in a place whose channel nobody has moved."""
        place.built()
        place.apply(run(place.uri))
        with place.operator():
            document = rollout(place.uri, "climbs", steps=[{**STEPS[0], "soak": "1h"}, STEPS[1]])
            del document["spec"]["scorecardRef"]
            place.apply(document)
            until(lambda: place.status("shadowrollout", "climbs").get("stepStartedAt"), what="the first step begins")
            yield place

    def test_a_rollout_is_taken_out_and_starts_again(self, climbing, call, cluster, monkeypatch):
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        place = ("-n", climbing.namespace)
        result = call("status", "climbs", *place, "--timeout", "1s")
        assert result.returncode == 4
        assert "still on its way" in result.stderr
        result = call("retry", "climbs", *place)
        assert result.returncode == 1
        assert "nothing to retry" in result.stderr

        result = call("abort", "climbs", *place)
        assert result.returncode == 0, result.stderr
        assert "abort acknowledged" in result.stdout
        status = climbing.wait_phase("shadowrollout", "climbs", "RolledBack")
        who = sluice_user(climbing)
        assert status["acknowledged"]["abort"].endswith(f" by {who}")
        assert who in status["message"]
        route = json.loads(climbing.get("configmap", "climbs-router")["data"]["rollout.json"])
        assert route["candidate_pct"] == 0
        result = call("status", "climbs", *place)
        assert result.returncode == 1
        assert "RolledBack (Aborted) at 0 %" in result.stdout

        result = call("retry", "climbs", *place)
        assert result.returncode == 0, result.stderr
        until(lambda: climbing.status("shadowrollout", "climbs").get("round") == 2, what="the second round")

    def test_promote_full_approves_each_step_as_it_asks(self, place, call, cluster):
        place.built()
        place.apply(run(place.uri))
        with place.operator():
            begin(place, "both", approval=[1, 2])
            base = ("-n", place.namespace, "--kubeconfig", cluster.kubeconfig)
            result = call("promote", "both", "--full", "--timeout", "2m", *base)
            assert result.returncode == 0, result.stdout + result.stderr
        assert [entry["step"] for entry in place.status("shadowrollout", "both")["approvals"]] == [1, 2]
        # The dashboard finds what the operator's own analyses left, where they left it.
        api = KubeApi(kubeconfig=cluster.kubeconfig)
        (lineage,) = Source(api, place.namespace).state()["lineages"]
        api.close()
        assert lineage["problems"] == []
        assert {point["step"] for point in lineage["rollout"]["points"]} == {1, 2}
        assert {point["verdict"] for point in lineage["rollout"]["points"]} == {"NonInferior"}
        assert place.phase("shadowrollout", "both") == "Completed"


class TestWithoutAnOperator:
    def test_what_cannot_be_judged_has_code_2(self, sluice, tmp_path):
        assert sluice("get", "nobody").returncode == 2
        assert sluice("status", "nobody", "--timeout", "5s").returncode == 2
        result = sluice("get", "x", kubeconfig=tmp_path / "gone")
        assert result.returncode == 2
        assert "KUBECONFIG" in result.stderr
        broken = tmp_path / "broken"
        broken.write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        result = sluice("status", "x", kubeconfig=broken)
        assert result.returncode == 2
        assert "does not answer" in result.stderr

    def test_an_unanswered_command_says_so_and_one_without_waiting_does_not_wait(self, place, call, cluster):
        place.apply(rollout(place.uri, "alone"))
        base = ("-n", place.namespace, "--kubeconfig", cluster.kubeconfig)
        result = call("abort", "alone", "--timeout", "1s", *base)
        assert result.returncode == 4
        assert "does the operator run?" in result.stderr
        assert call("abort", "alone", "--timeout", "0s", *base).returncode == 0

    def test_the_api_server_lints_too(self, place, call, cluster, tmp_path):
        path = tmp_path / "rollout.yaml"
        path.write_text(yaml.safe_dump(rollout(place.uri, "x", approval=[3])))
        result = call("lint", path, "--server", "-n", place.namespace, "--kubeconfig", cluster.kubeconfig)
        assert result.returncode == 1
        assert "spec.approval names a step that spec.steps has not" in result.stdout
        assert place.get("shadowrollout", "x") is None

    def test_a_time_that_is_none_is_bad_usage(self, call):
        result = call("status", "x", "--timeout", "soon")
        assert result.returncode == 2
        assert "like 90s" in result.stderr

    def test_watching_redraws_in_place_until_the_rollout_is_gone(self, place, cluster):
        place.apply(rollout(place.uri, "watched"))
        command = [str(BIN / "sluice"), "rollout", "get", "watched", "-w", "-n", place.namespace]
        with Terminal([*command, "--kubeconfig", str(cluster.kubeconfig)]) as terminal:
            terminal.wait_for("watched")
            patch = {"status": {"phase": "NoData", "reason": "NoData", "message": "0 matured runs of the candidate"}}
            place.patch("shadowrollout", "watched", patch, "--subresource=status")
            terminal.wait_for("0 matured runs of the candidate")
            place.kubectl("-n", place.namespace, "delete", "shadowrollout", "watched")
            assert terminal.end() == 0
        assert "was deleted" in terminal.text


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command):
        self._command = command
        self.text = ""

    def __enter__(self):
        self._main, other = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
        self._process = subprocess.Popen(self._command, stdin=other, stdout=other, stderr=other, env=environment)
        os.close(other)
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
        os.close(self._main)

    def wait_for(self, words, timeout_s=30.0):
        deadline = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < deadline, self.text[-2000:]
            self._read(0.2)

    def end(self):
        until(lambda: self._read(0.1) or self._process.poll() is not None, timeout_s=30, what="it ends")
        self._read(0.1)
        return self._process.wait(5)

    def _read(self, seconds):
        while select.select([self._main], [], [], seconds)[0]:
            try:
                data = os.read(self._main, 65536)
            except OSError:
                return
            self.text += data.decode(errors="replace")
            if not data:
                return

"""Brings up, finds again and takes down everything that Sluice needs on one machine.

Each process carries the installation's marker in its environment, so that taking down ends exactly these, whatever died
on the way.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sluice_cli.local import example
from sluice_cli.local.install import ROUTER_CONFIG_MAP, install
from sluice_cli.local.layout import (
    AGENT_SERVICE_ACCOUNT,
    NAMESPACE,
    SERVICE_ACCOUNT,
    SYSTEM_NAMESPACE,
    Layout,
    checkout,
)
from sluice_cli.local.storage import start_storage
from sluice_devcluster.access import service_account_kubeconfig
from sluice_devcluster.files import write_atomic
from sluice_devcluster.kubectl import find_kubectl
from sluice_devcluster.ports import free_port
from sluice_devcluster.processes import ProcessId, alive, find_owned, start, stop
from sluice_devcluster.providers import Cluster
from sluice_devcluster.ray import RayHead
from sluice_devcluster.reporting import Reporter

RAY_CPUS = 4
"""Logical CPUs of Ray: jobs mostly wait for each other, and a machine of two cores must hold a driver and a worker."""
FIRST_RUNS = 320
"""Runs of the base agent before the first dataset: enough for training, and for a rate within about 5 points."""
FIRST_SEED = 50_000
"""Seed of the first shopper's task: the base model's demonstrations lie below."""
SEEDS_PER_BATCH = 50_000
"""Tasks set aside for one batch of shoppers."""
LAST_SEED = 950_000
"""Seeds from here on belong to the evaluation."""
READY_S = 90.0
"""Seconds until a process must answer."""
TOKEN_FILE = "ray.json"


class StackError(RuntimeError):
    """A process of the installation did not come up; the message ends with its log."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a batch of runs came to."""

    runs: int
    successes: int
    escalated: int


@dataclass
class Stack:
    """One local installation on a cluster."""

    cluster: Cluster
    layout: Layout
    reporter: Reporter
    kubectl: Path = field(default_factory=find_kubectl)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of kubectl."""
        return {**self.cluster.environment(), "KUBECONFIG": str(self.cluster.kubeconfig)}

    def up(self) -> None:
        """Start what does not run. Raises StackError, InstallError, ExampleError or DevClusterError."""
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if self.layout.bucket:
            with self.reporter.stage("start the S3 server"):
                start_storage(self.layout, self.reporter)
        with self.reporter.stage("prepare the storefront's base model") as stage:
            example.furnish(self.layout.uri, stage.update)
        with self.reporter.stage("start Ray"):
            ray = self._start_ray()
        with self.reporter.stage("install CRDs, roles and the compute profile"):
            profile = {
                "backend": "ray",
                "address": ray["address"],
                "entrypoint": self._entrypoint(),
                "maxWorkers": 2,
                "env": {"SLUICE_TRAIN_CPUS_PER_WORKER": "2"},
            }
            install(self.kubectl, self.environment, dict.fromkeys(("cpu", "evaluator"), profile))
        with self.reporter.stage("start the operator"):
            self._start_operator(ray["token"])
        with self.reporter.stage("start the storefront agent"):
            self._start_agent()

    def _sweep(self) -> None:
        """End processes of an earlier, half-finished start."""
        down(self.layout)
        self.layout.logs.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _entrypoint() -> str:
        """Return the command that starts a worker on this machine."""
        return f"{sys.executable} -P -m sluice_cli"

    def _start_ray(self) -> Mapping[str, str]:
        """Start a Ray head and record where it is."""
        path = self.layout.state / TOKEN_FILE

        def announce(folder: Path) -> None:
            write_atomic(path, json.dumps({"folder": str(folder)}).encode(), mode=0o600)

        head = RayHead(num_cpus=RAY_CPUS, env={"OMP_NUM_THREADS": "1"}, announce=announce)
        head.start()
        record = {"address": head.address(), "token": head.token, "folder": str(head.folder)}
        write_atomic(path, json.dumps(record).encode(), mode=0o600)
        return record

    def _start_operator(self, token: str) -> None:
        """Start the operator with its service account's kubeconfig, and wait until it is ready."""
        kubeconfig = service_account_kubeconfig(
            self.cluster.kubeconfig, SYSTEM_NAMESPACE, SERVICE_ACCOUNT, self.layout.state / "operator.kubeconfig"
        )
        port = free_port([])
        command = [
            *(sys.executable, "-P", "-m", "sluice_cli", "operator", "run"),
            *("--namespace", NAMESPACE, "--system-namespace", SYSTEM_NAMESPACE),
            *("--identity", f"local-{self.layout.name}", "--port", str(port)),
        ]
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
        }
        self._start("operator", command, environment, f"http://127.0.0.1:{port}/healthz")
        write_atomic(self.layout.state / "operator.json", json.dumps({"port": port}).encode(), mode=0o600)

    def _start_agent(self) -> None:
        """Start the storefront agent, which serves the model too."""
        kubeconfig = service_account_kubeconfig(
            self.cluster.kubeconfig, NAMESPACE, AGENT_SERVICE_ACCOUNT, self.layout.state / "agent.kubeconfig"
        )
        command = [
            *(sys.executable, "-P", "-m", "storefront.service"),
            *("--port", str(self.layout.agent_port), "--root", self.layout.uri, "--traces", self.layout.traces),
            *("--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE, "--config-map", ROUTER_CONFIG_MAP),
            *("--cache", str(self.layout.state / "models"), "--threads", "1"),
        ]
        environment = {"PYTHONPATH": str(checkout() / "examples"), "OMP_NUM_THREADS": "1"}
        self._start("agent", command, environment, f"{self.layout.agent_url}/healthz")

    def _start(self, name: str, command: list[str], environment: Mapping[str, str], health: str) -> None:
        """Start a process and wait until it answers. Raises StackError."""
        log = self.layout.logs / f"{name}.log"
        process = start(
            command, log=log, owner=self.layout.owner, env={**example.storefront_environment(), **environment}
        )
        _await_ready(name, process, health, log)

    def channel_digest(self) -> str:
        """Return what the stable channel names."""
        from sluice_artifacts import read_channel

        found = read_channel(self.layout.uri, example.STABLE)
        return found[0].digest if found else ""

    def fleet(self, *, runs: int) -> Served:
        """Let shoppers come as fast as the agent serves them. Raises StackError."""
        done = subprocess.run(
            [*self._fleet_command(), "--runs", str(runs), "--json"],
            env=example.storefront_environment(),
            text=True,
            capture_output=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"the fleet failed:\n{done.stderr.strip()}")
        counts = json.loads(done.stdout)
        return Served(runs=counts["runs"], successes=counts["successes"], escalated=counts["escalated"])

    @contextmanager
    def traffic(self, per_second: float) -> Iterator[None]:
        """Keep shoppers coming while the block runs."""
        process = start(
            [*self._fleet_command(), "--rate", str(per_second)],
            log=self.layout.logs / "fleet.log",
            owner=self.layout.owner,
            env=example.storefront_environment(),
        )
        try:
            yield
        finally:
            stop([process])

    def _fleet_command(self) -> list[str]:
        """Return the command of the traffic generator; every batch draws tasks, and so runs, of its own."""
        path = self.layout.state / "next-seed"
        first = int(path.read_text(encoding="utf-8")) if path.exists() else FIRST_SEED
        following = first + SEEDS_PER_BATCH
        write_atomic(path, str(following if following < LAST_SEED else FIRST_SEED).encode(), mode=0o600)
        return [
            *(sys.executable, "-P", "-m", "storefront.fleet"),
            *("--url", self.layout.agent_url, "--first-seed", str(first)),
        ]


def down(layout: Layout) -> bool:
    """End every process of an installation, Ray included; True when there was one."""
    record = layout.state / TOKEN_FILE
    owners = [layout.owner]
    folder = ""
    if record.is_file():
        folder = json.loads(record.read_text(encoding="utf-8"))["folder"]
        owners.append(folder)
    found = False
    for _ in range(2):  # twice: what a process spawned while the list was taken carries the marker too
        for owner in owners:
            processes = find_owned(owner)
            found = found or bool(processes)
            stop(processes, patience_s=5.0)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(layout.state, ignore_errors=True)
    return found


def _await_ready(name: str, process: ProcessId, url: str, log: Path) -> None:
    """Wait until `url` answers 200. Raises StackError with the end of the log."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if not alive(process):
            raise StackError(f"the {name} ended at once:\n{_tail(log)}")
        try:
            with opener.open(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise StackError(f"the {name} did not answer at {url} within {READY_S:.0f} s:\n{_tail(log)}")


def _tail(log: Path, lines: int = 30) -> str:
    """Return the end of a log file."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if log.exists() else ""

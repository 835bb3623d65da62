"""A Ray head of its own on this machine: for tests, the demo and laptops.

Everything listens on loopback, on ports that were free, with token authentication on (Ray's Jobs API runs whatever it
is sent, so it is never left open, not even on loopback). Every process carries a marker in its environment, drivers
and workers included, so that stopping ends exactly what this head started and nothing of another Ray.
"""

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from sluice_devcluster.errors import ComponentError
from sluice_devcluster.ports import free_port
from sluice_devcluster.processes import ProcessId, alive, find_owned, start, stop

READY_S = 90.0
"""Seconds until a head must answer."""
STARTED = "Ray runtime started"
"""What `ray start` writes once every part of the head is up."""
ATTEMPTS = 3
"""Times that a head is started: a port may be taken between its choice and its use."""
OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of the object store: Sluice passes files, not objects."""


class RayHead:
    """A running Ray head; use as a context manager.

    Args:
        num_cpus: CPUs that Ray may hand out. More than the machine has is fine for jobs that mostly wait.
        env: further environment of every job, e.g. `AWS_ENDPOINT_URL` and credentials of a test S3 server.
        token: authentication token; a fresh one by default.
        announce: told the folder of the head before its first process starts, so that whoever keeps a record can end
            the head even when its starter is killed in between (`processes.find_owned` of the folder finds it).
    """

    def __init__(
        self,
        *,
        num_cpus: int = 2,
        env: Mapping[str, str] | None = None,
        token: str | None = None,
        announce: Callable[[Path], None] | None = None,
    ) -> None:
        """Describe the head; `start` or entering the context starts it."""
        if num_cpus < 1:
            raise ValueError(f"num_cpus must be at least 1, not {num_cpus}")
        self.num_cpus = num_cpus
        self.token = token or secrets.token_hex(32)
        self._env = dict(env or {})
        self._announce = announce
        self.folder: Path | None = None
        """Its files; also the marker (`processes.find_owned`) of everything that it started. None while stopped."""
        self._process: ProcessId | None = None
        self._dashboard_port = 0
        self._gcs_port = 0

    def address(self) -> str:
        """Base URL of the Jobs API, as a profile's `address`."""
        return f"http://127.0.0.1:{self._dashboard_port}"

    def gcs_address(self) -> str:
        """`host:port` for `ray.init(address=…)`."""
        return f"127.0.0.1:{self._gcs_port}"

    def auth_env(self) -> dict[str, str]:
        """Environment that a client of this head needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def log(self) -> str:
        """Return the last lines that `ray start` wrote."""
        path = self.folder / "ray.log" if self.folder else None
        return "\n".join(path.read_text(errors="replace").splitlines()[-20:]) if path and path.exists() else ""

    def _whole_log(self) -> str:
        path = self.folder / "ray.log" if self.folder else None
        return path.read_text(errors="replace") if path and path.exists() else ""

    def start(self) -> "RayHead":
        """Start the head and wait until its Jobs API answers.

        Raises:
            ComponentError: Ray is not installed, ended, or did not answer in time; the text ends with its log.
        """
        program = Path(sys.executable).with_name("ray")
        if not program.exists():
            raise ComponentError("Ray is not installed beside this Python: install the extra `trainer`")
        for attempt in range(ATTEMPTS):
            self._launch(program)
            try:
                self._wait_ready()
                return self
            except ComponentError:
                self.stop()
                if attempt == ATTEMPTS - 1:
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stop(self) -> None:
        """End every process of this head, its jobs included, and remove its files."""
        folder, self.folder, self._process = self.folder, None, None
        if folder is None:
            return
        # Twice: what a process spawned while the list was taken carries the marker too.
        for _ in range(2):
            stop(find_owned(str(folder)), patience_s=3.0)
        shutil.rmtree(folder, ignore_errors=True)

    def kill(self) -> None:
        """End every process at once, as a lost node does; `start` brings up an empty head at new ports."""
        folder = self.folder
        if folder is not None:
            stop(find_owned(str(folder)), patience_s=0.0)

    def __enter__(self) -> "RayHead":
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _launch(self, program: Path) -> None:
        taken: list[int] = []
        for _ in range(7):
            taken.append(free_port(taken))
        self._gcs_port, self._dashboard_port, agent, agent_grpc, metrics, client, runtime_env = taken
        # Short: the path of a Unix socket below it may have 107 characters at most.
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-ray-"))
        if self._announce is not None:
            self._announce(self.folder)
        options = {
            "node-ip-address": "127.0.0.1",
            "port": self._gcs_port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self._dashboard_port,
            "dashboard-agent-listen-port": agent,
            "dashboard-agent-grpc-port": agent_grpc,
            "metrics-export-port": metrics,
            "ray-client-server-port": client,
            "runtime-env-agent-port": runtime_env,
            "num-cpus": self.num_cpus,
            "object-store-memory": OBJECT_STORE_BYTES,
            "temp-dir": self.folder,
            "include-dashboard": "true",
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        environment = {
            **os.environ,
            "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            # Ray's own 15 starves a job beside anything else that runs on the machine.
            "RAY_worker_niceness": "0",
            **self.auth_env(),
            **self._env,
        }
        argv: list[str | Path] = [program, "start", "--head", "--block", "--disable-usage-stats", *flags]
        self._process = start(argv, log=self.folder / "ray.log", owner=str(self.folder), env=environment)

    def _wait_ready(self) -> None:
        request = urllib.request.Request(
            f"{self.address()}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process is None or not alive(self._process):
                raise ComponentError(f"ray start ended:\n{self.log()}")
            with contextlib.suppress(urllib.error.URLError, OSError), opener.open(request, timeout=5) as response:
                # The dashboard answers before the head knows whether its raylet came up.
                if response.status == 200 and STARTED in self._whole_log():
                    return
            time.sleep(0.1)
        raise ComponentError(f"Ray did not answer at {self.address()} within {READY_S:.0f} s:\n{self.log()}")

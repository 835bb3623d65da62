"""Runs the operator as users do: a process of its own, with its service account's kubeconfig and nothing more."""

import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

RULES = Path(__file__).parents[2] / "charts" / "sluice" / "rbac" / "rules.yaml"
CRDS = Path(__file__).parents[2] / "crds"
GROUP = "rbac.authorization.k8s.io"
READY_S = 60.0


def until(check, *, timeout_s: float = 120.0, what: str = "", every_s: float = 0.1):
    """Return the first truthy value of `check`, or fail after `timeout_s` with its last value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what or check}; last value {value!r}")
        time.sleep(every_s)


def install_crds(kubectl) -> None:
    """Install the five CRDs as they are generated, and wait for them."""
    paths = sorted(CRDS.glob("sluice.dev_*.yaml"))
    kubectl("apply", "--server-side", "--force-conflicts", *(f"--filename={path}" for path in paths))
    await_crds(kubectl, *(f"{path.stem.removeprefix('sluice.dev_')}.sluice.dev" for path in paths))


def await_crds(kubectl, *names: str) -> None:
    """Wait until CRDs are served. kubectl fails where one is so new that it has no condition yet."""
    wait = ["wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names)]
    until(lambda: kubectl(*wait, check=False).returncode == 0, what=f"CRDs {names} are served")


def install_role(kubectl, namespace: str, account: str = "sluice-operator") -> None:
    """Create the operator's service account with exactly the rules that the chart gives it."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    objects = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}]
    for part in ("workload", "system"):
        metadata = {"name": f"sluice-{part}", "namespace": namespace}
        role = {"apiGroup": GROUP, "kind": "Role", "name": metadata["name"]}
        subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
        objects.append({"apiVersion": f"{GROUP}/v1", "kind": "Role", "metadata": metadata, "rules": rules[part]})
        binding = {"roleRef": role, "subjects": [subject]}
        objects.append({"apiVersion": f"{GROUP}/v1", "kind": "RoleBinding", "metadata": metadata, **binding})
    kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))


def write_profiles(kubectl, namespace: str, profiles: dict) -> None:
    """Write the profiles' ConfigMap."""
    data = {name: yaml.safe_dump(profile) for name, profile in profiles.items()}
    metadata = {"name": "sluice-profiles", "namespace": namespace}
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))


def proxied(kubeconfig: Path, url: str, destination: Path) -> Path:
    """Write a copy of a kubeconfig whose server is `url`."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    for entry in config["clusters"]:
        entry["cluster"] = {"server": url}
    destination.write_text(yaml.safe_dump(config), encoding="utf-8")
    return destination


class Zygote:
    """A process with everything imported that forks operators in no time; use as a context manager."""

    def __enter__(self) -> "Zygote":
        program = Path(__file__).with_name("operator_zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lock = threading.Lock()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def spawn(self, argv: list[str], env: dict[str, str], log: Path, *, program: str = "sluice") -> "Forked":
        """Fork a process that runs `sluice`, or the fast worker, with these arguments."""
        order = {"program": program, "argv": argv, "env": env, "log": str(log)}
        return Forked(self, int(self.ask(order)))

    def ask(self, order: dict) -> str:
        """Send one order and return the answer."""
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline().strip()


class Forked:
    """A process of the zygote, with the methods of `subprocess.Popen` that are used here."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        self._handle = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
                self.returncode = int(self._zygote.ask({"reap": self.pid}))
                os.close(self._handle)
            return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("operator", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with self._lock:
            if self.returncode is None:
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Operator:
    """One operator process: `start`, `kill`, `stop`; its log in a file."""

    def __init__(
        self, kubeconfig: Path, namespace: str, log: Path, *, identity: str = "", env=None, flags=(), zygote=None
    ):
        self._zygote: Zygote | None = zygote
        self.identity = identity or f"test-{secrets.token_hex(3)}"
        self.log = log
        self.starts = 0
        self.port = 0
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._env = env or {}
        self._flags = flags
        self._process: subprocess.Popen | Forked | None = None

    def __enter__(self) -> "Operator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextmanager
    def waiting(self) -> Iterator["Operator"]:
        """Start without waiting for the Lease, and stop at the end."""
        self.start(wait=False)
        try:
            yield self
        finally:
            self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start the process; `wait` until it holds the Lease."""
        program = Path(sys.executable).with_name("sluice")
        assert shutil.which(program), f"{program} is missing: pip install -e ."
        command = [str(program), "operator", "run", "--namespace", self._namespace, "--identity", self.identity]
        command += [
            "--metrics-port",
            "0",
            "--poll",
            "0.5",
            "--retry-backoff",
            "0.5",
            "--stop-grace",
            "10",
            # A machine that is busy with other tests may stand still for longer than the default's fifteen seconds.
            "--lease-duration",
            "60",
            *self._flags,
        ]
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), **self._env}
        before = self._size()
        if self._zygote is not None:
            self.log.touch()
            self._process = self._zygote.spawn(command[1:], environment, self.log)
        else:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        self.starts += 1
        if wait:
            self.wait_for("holding lease", since=before)

    def wait_for(self, text: str, *, since: int = 0, timeout_s: float = READY_S) -> None:
        """Wait until the log says `text` after the byte `since`."""

        def said() -> bool:
            assert self.running(), f"the operator ended with {self._process.poll()}:\n{self.tail()}"
            return text in self.log.read_bytes()[since:].decode(errors="replace")

        until(said, timeout_s=timeout_s, what=f"the operator says {text!r}", every_s=0.05)

    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def signal_kill(self) -> bool:
        """SIGKILL, from any thread, without waiting; False when there was nothing left to kill."""
        try:
            if self._process is not None:
                os.kill(self._process.pid, signal.SIGKILL)
            return self._process is not None
        except ProcessLookupError:
            return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self, *, timeout_s: float = 60.0) -> int:
        """SIGTERM; return the exit code. A process that does not end is killed, and that is an error."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise AssertionError(f"the operator did not end within {timeout_s} s:\n{self.tail()}") from None

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of `/healthz` or `/metrics`."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.address()}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def address(self) -> str:
        """Return host and port of `/healthz` and `/metrics`."""
        said = [line for line in self.log.read_text(errors="replace").splitlines() if "serving /healthz" in line][-1]
        return said.rpartition(" at http://")[2]

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

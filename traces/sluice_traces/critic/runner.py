"""Running a candidate's tests. The critic knows the Protocol only: how untrusted code is contained is for its owner."""

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sluice_traces.critic.candidate import Kind

_MEBIBYTE = 1 << 20
_MARK = "sluice-tests-passed"


class HarnessRunner(Protocol):
    """Runs code and its tests."""

    def run(self, kind: Kind, code: str, tests: str) -> bool | None:
        """Whether the tests pass; None when this runner cannot run that kind of code."""
        ...


@dataclass(frozen=True, kw_only=True)
class IsolatedRunner:
    """Runs Python in a process of its own: no environment, an empty folder, limits on time, memory, files, processes.

    It does not cut the network or hide the file system: use it for code that one would run by hand, inside a container.
    """

    timeout_s: float = 10.0
    """Wall time of one candidate."""
    memory_mib: int = 1024
    """Address space."""
    file_mib: int = 16
    """Largest file that it may write."""

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.memory_mib <= 0 or self.file_mib < 0:
            raise ValueError("timeout_s and memory_mib must be positive, file_mib must not be negative")

    def run(self, kind: Kind, code: str, tests: str) -> bool | None:
        """Whether the tests pass; None for anything but Python."""
        if kind is not Kind.PYTHON:
            return None
        with tempfile.TemporaryDirectory(prefix="sluice-critic-") as folder:
            # The program must reach its last line: one that ends the process early with success has not passed.
            mark = f"{_MARK}-{os.urandom(8).hex()}"
            script = Path(folder) / "candidate.py"
            script.write_text(f"{code}\n\n{tests}\n\nprint({mark!r})\n", encoding="utf-8")
            try:
                finished = subprocess.run(
                    [sys.executable, "-I", "-B", str(script)],
                    cwd=folder,
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    timeout=self.timeout_s,
                    preexec_fn=self._limit,
                    start_new_session=True,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return False
        lines = finished.stdout.decode(errors="replace").rstrip().splitlines()
        return finished.returncode == 0 and bool(lines) and lines[-1] == mark

    def _limit(self) -> None:
        seconds = int(self.timeout_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (self.memory_mib * _MEBIBYTE,) * 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_mib * _MEBIBYTE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

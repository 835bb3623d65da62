"""The trusted side: asks the forkservers and compares what came back."""

import math
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from sluice_evaluator.errors import EvaluationError
from sluice_evaluator.sandbox.wire import decode, read_frame, write_frame

_ROOT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path.insert(0, {root!r}); from sluice_evaluator.sandbox.forkserver import main; main()"
_MAX_ANSWER = 64 * 1024 * 1024


class SandboxUnavailableError(EvaluationError):
    """The kernel lacks a fence; untrusted code is not run without it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one execution may use."""

    wall_s: float = 4.0
    """Seconds by the clock."""
    cpu_s: float = 4.0
    """Seconds of CPU, rounded up to whole ones by the kernel."""
    memory_bytes: int = 512 * 1024 * 1024
    """Address space."""
    file_bytes: int = 16 * 1024 * 1024
    """Largest file in the scratch folder."""
    output_bytes: int = 64 * 1024
    """Text on standard output and error, together."""
    result_bytes: int = 4 * 1024 * 1024
    """Serialised answers."""
    processes: int = 0
    """Processes that may be started; 0 refuses every one."""

    def __post_init__(self) -> None:
        if not (self.wall_s > 0 and self.cpu_s > 0):
            raise ValueError(f"wall_s and cpu_s must be positive, got {self.wall_s} and {self.cpu_s}")
        for name in ("memory_bytes", "file_bytes", "output_bytes", "result_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.processes < 0:
            raise ValueError(f"processes cannot be negative, got {self.processes}")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call and what it must return; a tolerance compares floats."""

    arguments: tuple[Any, ...]
    """Positional arguments, literals."""
    expected: Any
    """What must come back, of the same type."""
    tolerance: float = 0.0
    """Absolute tolerance for numbers."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What became of one execution."""

    passed: bool
    """Whether every case holds."""
    reason: str
    """Why not; empty when it passed."""
    cases: tuple[bool, ...] = ()
    """By case."""
    output: str = ""
    """What it printed, cut at the limit. Decides nothing for Python; a shell task may ask for it."""
    wall_s: float = 0.0
    """Seconds by the clock."""
    cpu_s: float = 0.0
    """Seconds of CPU."""
    memory_bytes: int = 0
    """Peak resident memory."""
    status: int | None = None
    """Exit status of a shell command."""


@dataclass
class _Server:
    process: "subprocess.Popen[bytes]"
    fences: dict[str, Any] = field(default_factory=dict)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.process.stdin is None or self.process.stdout is None:
            raise SandboxUnavailableError("the forkserver has no pipes")
        write_frame(self.process.stdin.fileno(), request)
        answer = read_frame(self.process.stdout.fileno(), _MAX_ANSWER)
        if not isinstance(answer, dict):
            raise SandboxUnavailableError("the forkserver answered nonsense")
        return answer


def _start_server() -> _Server:
    """Start a forkserver with an empty environment and check that its fences stand.

    Raises:
        SandboxUnavailableError: one does not.
    """
    process = subprocess.Popen(
        [sys.executable, "-s", "-S", "-P", "-c", _START.format(root=str(_ROOT))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "TZ": "UTC", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
        close_fds=True,
        bufsize=0,
    )
    server = _Server(process)
    try:
        server.fences = read_frame(process.stdout.fileno(), 65536) if process.stdout is not None else {}
    except (EOFError, ValueError) as error:
        _stop(server)
        raise SandboxUnavailableError("the forkserver did not start: this kernel or machine has no sandbox") from error
    if not server.fences.get("landlock"):
        _stop(server)
        raise SandboxUnavailableError(
            "the kernel has no Landlock (5.13 or later), and untrusted code is not run without"
        )
    return server


def _stop(server: _Server) -> None:
    for pipe in (server.process.stdin, server.process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        server.process.wait(2)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def _equal(found: Any, expected: Any, tolerance: float) -> bool:
    """Compare by type and value; numbers within the tolerance where there is one."""
    numbers = (int, float)
    if tolerance > 0 and type(found) in numbers and type(expected) in numbers:
        return math.isclose(found, expected, rel_tol=0.0, abs_tol=tolerance)
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            _equal(ours, theirs, tolerance) for ours, theirs in zip(found, expected, strict=True)
        )
    if isinstance(expected, dict):
        return len(found) == len(expected) and all(
            key in found and _equal(found[key], value, tolerance) for key, value in expected.items()
        )
    return bool(found == expected)


class Sandbox:
    """A pool of forkservers. Threads may share it; use it as a context manager."""

    def __init__(self, *, servers: int | None = None, limits: Limits | None = None) -> None:
        """Prepare `servers` forkservers, one a core where not given."""
        self._count = servers or len(os.sched_getaffinity(0))
        self._limits = limits or Limits()
        self._idle: SimpleQueue[_Server] = SimpleQueue()
        self._servers: list[_Server] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Sandbox":
        """Start the forkservers.

        Raises:
            SandboxUnavailableError: a fence is missing.
        """
        for _ in range(self._count):
            self._add()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the forkservers."""
        with self._lock:
            for server in self._servers:
                _stop(server)
            self._servers.clear()

    @property
    def fences(self) -> Mapping[str, Any]:
        """Which fences stand: Landlock's version, seccomp, namespaces, the user."""
        return dict(self._servers[0].fences)

    def _add(self) -> None:
        server = _start_server()
        with self._lock:
            self._servers.append(server)
        self._idle.put(server)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        server = self._idle.get()
        try:
            answer = server.ask({**request, "nonce": secrets.token_hex(16)})
        except (OSError, EOFError, ValueError) as error:
            # a forkserver that is gone is replaced; the execution it had is judged as not passed
            with self._lock:
                self._servers.remove(server)
            _stop(server)
            self._add()
            return {"answer": None, "stopped": f"the forkserver ended ({type(error).__name__})"}
        self._idle.put(server)
        return answer

    def run_python(
        self, code: str, entry_point: str, cases: Sequence[Case], *, limits: Limits | None = None
    ) -> Execution:
        """Run code, call its entry point once a case, and compare what came back here, outside.

        Args:
            code: the module.
            entry_point: the function to call.
            cases: calls and expected values; the expected values never enter the child.
            limits: in place of the pool's.
        """
        request = {
            "kind": "python",
            "code": code,
            "entry_point": entry_point,
            "calls": [repr(case.arguments) for case in cases],
            "limits": asdict(limits or self._limits),
        }
        found = self._ask(request)
        answer = found["answer"]
        usage = {key: found[key] for key in ("output", "wall_s", "cpu_s", "memory_bytes") if key in found}
        if answer is None:
            return Execution(passed=False, reason=_why_no_answer(found), **usage)
        if "failed" in answer:
            return Execution(passed=False, reason=f"the code raised {answer['failed']}", **usage)
        calls = answer.get("calls")
        if not isinstance(calls, list) or len(calls) != len(cases):
            return Execution(passed=False, reason="not every case was answered", **usage)
        held, reason = [], ""
        for position, (call, case) in enumerate(zip(calls, cases, strict=True)):
            problem = _problem(call, case)
            held.append(not problem)
            reason = reason or (f"case {position}: {problem}" if problem else "")
        return Execution(passed=all(held) and bool(cases), reason=reason, cases=tuple(held), **usage)

    def run_shell(
        self, command: str, files: Mapping[str, str] | None = None, *, limits: Limits | None = None
    ) -> Execution:
        """Run a shell command in a scratch folder with some files; passed says that it ended with status 0.

        Raises:
            SandboxUnavailableError: a command starts processes, which need a PID namespace to be killed in.
        """
        if not self.fences.get("namespaces"):
            raise SandboxUnavailableError("shell commands need user and PID namespaces, which this machine refuses")
        chosen = limits or Limits(**{**asdict(self._limits), "processes": self._limits.processes or 32})
        request = {
            "kind": "shell",
            "code": command,
            "files": dict(files or {}),
            "limits": asdict(chosen),
        }
        found = self._ask(request)
        answer = found["answer"]
        usage = {key: found[key] for key in ("output", "wall_s", "cpu_s", "memory_bytes") if key in found}
        if answer is None or "status" not in answer:
            return Execution(passed=False, reason=_why_no_answer(found), **usage)
        status = int(answer["status"])
        return Execution(passed=status == 0, reason="" if status == 0 else f"exit {status}", status=status, **usage)


def _why_no_answer(found: Mapping[str, Any]) -> str:
    if found.get("stopped"):
        return str(found["stopped"])
    return f"killed by signal {found['signal']}" if found.get("signal") else "no answer"


def _problem(call: Any, case: Case) -> str:
    """Say why a call does not hold; empty when it does."""
    if not isinstance(call, dict):
        return "no answer"
    if "raised" in call:
        return f"raised {call['raised']}"
    if "value" not in call:
        return str(call.get("unserializable", "no value"))
    try:
        value = decode(call["value"])
    except (ValueError, TypeError, RecursionError, OverflowError):
        return "an answer that is no value"
    return "" if _equal(value, case.expected, case.tolerance) else "a wrong value"

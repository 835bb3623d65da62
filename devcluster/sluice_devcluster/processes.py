"""Starting long-lived processes and stopping exactly those.

A process is known by its id, its start time in clock ticks since boot, and the boot's id, as the kernel tells them;
a process id alone may long since belong to somebody else. Every process also carries a marker in its environment, so
that one whose record was never written (its parent was killed in between) is still found. Needs Linux's /proc.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sluice_devcluster.errors import ComponentError

MARKER = "SLUICE_DEVCLUSTER_OWNER"
"""Environment variable that names the owner (a cluster's folder) of every process started here."""

_PROC = Path("/proc")
_TETHER = Path(__file__).with_name("tether.py")


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """One process, never mistaken for a later one with the same number."""

    pid: int
    start_ticks: int
    boot_id: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ProcessId":
        """The inverse of :meth:`to_dict`; raises KeyError or ValueError on anything else."""
        return cls(pid=int(data["pid"]), start_ticks=int(data["start_ticks"]), boot_id=str(data["boot_id"]))


def boot_id() -> str:
    """The kernel's id of the current boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """The full identity of a running process; None when there is none, or only its zombie."""
    process, ended = _read(pid)
    return None if ended else process


def _read(pid: int) -> tuple[ProcessId | None, bool]:
    """The identity that the kernel tells, of a zombie too, and whether the process has ended."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None, True
    # The second field is the command in parentheses and may hold anything, so count from its end.
    fields = stat.rpartition(")")[2].split()
    # A leader can be a zombie while its other threads still hold ports and files; only the last one's end counts.
    ended = fields[0] in ("Z", "X") and int(fields[17]) <= 1
    return ProcessId(pid=pid, start_ticks=int(fields[19]), boot_id=boot_id()), ended


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    _reap(process.pid)
    return identify(process.pid) == process


def start(
    argv: Sequence[str | Path], *, log: Path, owner: str, tethered: bool = False, env: Mapping[str, str] | None = None
) -> ProcessId:
    """Start a program in a session of its own, its output appended to ``log``.

    Args:
        argv: the program's path and its arguments.
        log: file for standard output and error, created readable by the owner alone.
        owner: value of :data:`MARKER`.
        tethered: let the kernel end the process when this one ends, however it ends. Otherwise it stays.
        env: the program's environment; by default this process's own.

    Raises:
        ComponentError: the program cannot be executed.
    """
    command = [os.fspath(word) for word in argv]
    if not os.access(command[0], os.X_OK):
        raise ComponentError(f"{command[0]} is not an executable file")
    if tethered:
        command = [sys.executable, "-I", "-S", os.fspath(_TETHER), str(os.getpid()), *command]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            {**(os.environ if env is None else env), MARKER: owner},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.fspath(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            setsigmask=[],
        )
    except OSError as error:
        raise ComponentError(f"{argv[0]} with the log {log} cannot be started: {error.strerror}") from error
    # As our child it cannot vanish before it is waited for; whether it still runs is for the caller to see.
    process, _ = _read(pid)
    if process is None:
        raise ComponentError(f"{argv[0]} was started but the kernel does not show it: is /proc mounted?")
    return process


def find_owned(owner: str) -> list[ProcessId]:
    """Every running process of this user that carries ``owner`` as its marker, recorded or not."""
    wanted = f"{MARKER}={owner}".encode()
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        process = identify(int(folder.name))
        try:
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone in the meantime, or another user's
        # Compared again, so that the environment read was this process's and not a successor's.
        if marked and process is not None and identify(process.pid) == process:
            found.append(process)
    return found


def stop(processes: Iterable[ProcessId], *, patience_s: float = 15.0) -> None:
    """End these processes: SIGTERM to all, SIGKILL to those that remain after ``patience_s``, and wait for the last.

    A process that is gone, or whose number has passed to another, is left alone: the signal goes through a descriptor
    of the process that was identified, not to a number.

    Raises:
        ComponentError: one survives SIGKILL (it hangs in the kernel, or belongs to another user).
    """
    handles = {process: handle for process in processes if (handle := _open(process)) is not None}
    try:
        for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            for handle in handles.values():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
            _wait(handles, time.monotonic() + seconds)
            if not handles:
                return
        numbers = ", ".join(str(process.pid) for process in handles)
        raise ComponentError(f"processes {numbers} did not end on SIGKILL; look at them with ps")
    finally:
        for handle in handles.values():
            os.close(handle)


def _open(process: ProcessId) -> int | None:
    """A descriptor of the process; None when it no longer runs."""
    if not alive(process):
        return None
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Only after the descriptor is held can the number not be reused: what it names now, it names for good.
    if identify(process.pid) != process:
        os.close(handle)
        return None
    return handle


def _wait(handles: dict[ProcessId, int], deadline: float) -> None:
    """Wait until every process has ended or the deadline has passed; those that ended are closed and removed."""
    while handles and (remaining := deadline - time.monotonic()) > 0:
        poll = select.poll()
        for handle in handles.values():
            poll.register(handle, select.POLLIN)
        ended = {number for number, _ in poll.poll(remaining * 1000)}
        for process in [process for process, handle in handles.items() if handle in ended]:
            _reap(process.pid)
            os.close(handles.pop(process))


def _reap(pid: int) -> None:
    """Collect the exit status when the process is a child of ours, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)

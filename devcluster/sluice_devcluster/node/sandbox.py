"""The namespaces that a node lives in: making them, running programs inside, and ending them all at once."""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sluice_devcluster.errors import ComponentError
from sluice_devcluster.files import tail
from sluice_devcluster.node.layout import ALL_NAMESPACES
from sluice_devcluster.node.network import Command
from sluice_devcluster.processes import ProcessId, alive, identify, start, stop

T = TypeVar("T")

_INIT = Path(__file__).with_name("init.py")
_POLL_S = 0.02
_BIRTH_S = 20.0
_CLONE_NEWNET = 0x40000000


class Sandbox:
    """One node's namespaces, known by their first process.

    Args:
        init: that process, as the machine sees it.
        owner: marker of every process that is started inside.
        namespaces: those that are entered; without the one of the processes, what is started is the machine's own.
    """

    def __init__(self, init: ProcessId, *, owner: str, namespaces: Sequence[str] = ALL_NAMESPACES) -> None:
        self.init, self._owner, self._namespaces = init, owner, namespaces

    @property
    def alive(self) -> bool:
        """Whether the namespaces still exist."""
        return alive(self.init)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """``argv``, made to run inside.

        Raises:
            ComponentError: the namespaces are gone.
        """
        if not self.alive:
            raise ComponentError("the node's namespaces are gone: bring the cluster up again (sluice cluster up)")
        nsenter = find_program("nsenter")
        return [nsenter, "--target", str(self.init.pid), *self._namespaces, "--", *(os.fspath(word) for word in argv)]

    def run(self, argv: Sequence[str | Path], *, stdin: bytes | None = None, timeout_s: float = 60.0) -> str:
        """Run a command inside to its end and return what it printed.

        Raises:
            ComponentError: it failed, with its words, or took longer than ``timeout_s``.
        """
        return run_command(self.command(argv), stdin=stdin, timeout_s=timeout_s)

    def start(self, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None) -> ProcessId:
        """Start a long-lived program inside.

        Entering a process namespace takes a fork, so what is started here is a parent that waits; what is returned is
        the program itself.

        Raises:
            ComponentError: it cannot be started, or ended at once.
        """
        started = start(self.command(argv), log=log, owner=self._owner, env=env)
        return only_child(started, log) if "--pid" in self._namespaces else started

    def in_network(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread whose sockets are the node's, as if it ran there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                _enter_network(self.init.pid)
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - carried to the caller's thread and raised there
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def create_sandbox(
    commands: Sequence[Command], *, folder: Path, log: Path, owner: str, tethered: bool = False
) -> Sandbox:
    """Make the namespaces and run ``commands``, the mounts, as their first process.

    Args:
        commands: run inside, in order.
        folder: where the file goes that says that they are done.
        log: of the first process.
        owner: marker of every process of the node.
        tethered: let all of it end with the calling thread.

    Raises:
        ComponentError: a command failed, or the kernel refuses the namespaces.
    """
    ready = folder / ".ready"
    ready.unlink(missing_ok=True)
    plan = json.dumps({"commands": commands, "ready": str(ready)})
    unshare = start(
        [
            find_program("unshare"),
            *ALL_NAMESPACES,
            "--propagation=private",
            "--fork",
            "--kill-child",
            "--",
            sys.executable,
            "-I",
            "-S",
            _INIT,
            plan,
        ],
        log=log,
        owner=owner,
        tethered=tethered,
    )
    sandbox = Sandbox(only_child(unshare, log, patience_s=_BIRTH_S), owner=owner)
    deadline = time.monotonic() + _BIRTH_S
    while not ready.exists():
        if not sandbox.alive or time.monotonic() > deadline:
            stop([unshare, sandbox.init], patience_s=0.0)
            raise ComponentError(f"the node's namespaces could not be made; the end of {log}:\n{tail(log)}")
        time.sleep(_POLL_S)
    return sandbox


def only_child(parent: ProcessId, log: Path, *, patience_s: float = 10.0) -> ProcessId:
    """The child of a process that only waits for it.

    Raises:
        ComponentError: the parent ended first, or has no child within ``patience_s``.
    """
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + patience_s
    while alive(parent) and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            for number in children.read_text().split():
                child = identify(int(number))
                if child is not None:
                    return child
        time.sleep(_POLL_S)
    stop([parent], patience_s=0.0)
    raise ComponentError(f"a program of the node ended at once; the end of {log}:\n{tail(log)}")


def run_command(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    hidden: Sequence[str] = (),
) -> str:
    """Run a command to its end and return what it printed.

    Args:
        argv: the program and its arguments.
        stdin: its input, by default empty.
        timeout_s: how long it may take.
        environment: variables beside this process's own.
        hidden: secrets among the arguments; errors do not repeat them.

    Raises:
        ComponentError: it failed, with its words, or took longer than ``timeout_s``.
    """

    def told(words: str) -> str:
        for each in hidden:
            words = words.replace(each, "***")
        return words

    try:
        result = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        # Its own text repeats the arguments.
        raise ComponentError(f"{told(' '.join(argv))} took longer than {timeout_s:.0f} s") from None
    except OSError as error:
        raise ComponentError(f"{argv[0]} cannot be run: {error.strerror}") from error
    if result.returncode != 0:
        words = told((result.stderr or result.stdout).decode(errors="replace").strip())
        raise ComponentError(f"{told(' '.join(argv))} ended with {result.returncode}: {words[-2000:]}")
    return result.stdout.decode(errors="replace")


def find_program(name: str) -> str:
    """The path of a system program; ``/sbin`` and ``/usr/sbin`` count even where the PATH leaves them out.

    Raises:
        ComponentError: it is not installed.
    """
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        path = Path(folder) / name
        if folder and os.access(path, os.X_OK):
            return str(path)
    raise ComponentError(f"{name} is not installed")


def _enter_network(pid: int) -> None:
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "the node's network cannot be entered")
    finally:
        os.close(handle)

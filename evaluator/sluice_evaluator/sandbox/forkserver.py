"""The small parent: forks a fenced child for every execution, watches it, and hands back what it wrote.

Runs as `python -s -S -P -c …` with an environment of its own, reads requests from descriptor 0 and writes answers to
1. It imports the standard library alone, so that a fork copies little and a child's memory limit means something.
"""

import ast
import contextlib
import fcntl
import gc
import io
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sluice_evaluator.sandbox import kernel
from sluice_evaluator.sandbox.wire import UnserializableError, encode, read_frame, write_frame

MAX_REQUEST = 64 * 1024 * 1024
RESULT_HANDLE = 3
_RULES_HANDLE = 4
NOBODY = 65534
_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom")


def _readable() -> list[tuple[str, int]]:
    """Trees that a child may read: the system's programs and the interpreter's own, never data or secrets."""
    trees = [path for path in (*_READABLE, sys.base_prefix, sys.prefix) if os.path.realpath(path) != "/"]
    return [(path, kernel.READ_EXECUTE) for path in dict.fromkeys(trees)] + [("/dev/null", 0b110)]


def _nobody_reads_python() -> bool:
    """Whether the interpreter's own files are open to everybody: an interpreter below /root is not."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if kernel.become(NOBODY) and any(Path(os.__file__).parent.iterdir()) else 1)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _raise_fences() -> dict[str, Any]:
    """Leave the network before the first request; report which fences stand.

    `nobody` says which kinds of execution give up root: all, or only those that need no interpreter.
    """
    kernel.no_new_privileges()
    root = os.getuid() == 0
    readable = root and _nobody_reads_python()
    namespaces = kernel.enter_namespaces()
    return {
        "landlock": kernel.landlock_abi(),
        "seccomp": True,
        "namespaces": namespaces,
        "nobody": (["python"] if readable else []) + (["shell"] if root else []),
    }


def _limit(limits: dict[str, Any]) -> None:
    cpu = max(1, int(limits["cpu_s"] + 0.999))
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    if limits["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], limits["processes"]))


def _fence(request: dict[str, Any], scratch: str, fences: dict[str, Any], result: int, output: int) -> None:
    """Close everything and raise the fences, around the process that is about to run untrusted code."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    result, output, rules = _above(result, 10), _above(output, 10), _above(fences["rules"], 10)
    for source, target in ((null, 0), (output, 1), (output, 2), (result, RESULT_HANDLE), (rules, _RULES_HANDLE)):
        os.dup2(source, target)
    kernel.close_from(_RULES_HANDLE + 1)
    os.chdir(scratch)
    os.environ.clear()
    os.environ.update({"HOME": scratch, "TMPDIR": scratch, "PATH": "/usr/bin:/bin", "TZ": "UTC", "LANG": "C.UTF-8"})
    _limit(request["limits"])
    if request["kind"] in fences["nobody"]:
        os.chown(scratch, NOBODY, NOBODY)
        if not kernel.become(NOBODY):
            raise PermissionError("the child cannot give up root")
    kernel.restrict_files(_RULES_HANDLE)
    os.close(_RULES_HANDLE)
    kernel.drop_capabilities()
    kernel.restrict_system_calls(allow_processes=bool(request["limits"]["processes"]))


def _above(handle: int, least: int) -> int:
    """Move a descriptor out of the way of the low numbers."""
    return fcntl.fcntl(handle, fcntl.F_DUPFD, least)


def _call(function: Any, source: str) -> dict[str, Any]:
    """Call a function with literal arguments; say what came back or what was raised, never more."""
    arguments = ast.literal_eval(source)
    try:
        value = function(*arguments)
    except BaseException as error:  # noqa: BLE001 - untrusted code may raise anything, SystemExit included
        return {"raised": type(error).__name__}
    try:
        return {"value": encode(value)}
    except UnserializableError as error:
        return {"unserializable": str(error)}
    except BaseException as error:  # noqa: BLE001 - nor may its values hurt us
        return {"unserializable": type(error).__name__}


def _run_python(request: dict[str, Any]) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "candidate"}
    try:
        exec(compile(request["code"], "candidate.py", "exec"), namespace)
        function = namespace[request["entry_point"]] if request["entry_point"] else None
    except BaseException as error:  # noqa: BLE001 - untrusted code may raise anything, SystemExit included
        return {"failed": type(error).__name__}
    if function is None:
        return {"calls": []}
    return {"calls": [_call(function, source) for source in request["calls"]]}


def _run_shell(request: dict[str, Any]) -> dict[str, Any]:
    for name, text in request["files"].items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            return {"failed": "ValueError"}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    status = subprocess.run(["/bin/sh", "-c", request["code"]], check=False).returncode
    return {"status": status}


def _child(request: dict[str, Any], scratch: str, fences: dict[str, Any], result: int, output: int) -> None:
    """Run the request behind the fences and write the answer, with the request's nonce, to the private descriptor."""
    status = 70
    try:
        _fence(request, scratch, fences, result, output)
        sys.stdin = io.StringIO()
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), encoding="utf-8", write_through=True)
        sys.stderr = sys.stdout
        answer = _run_shell(request) if request["kind"] == "shell" else _run_python(request)
        write_frame(RESULT_HANDLE, {"nonce": request["nonce"], **answer})
        status = 0
    finally:
        os._exit(status)


def _watch(pid: int, result: int, output: int, limits: dict[str, Any]) -> tuple[bytes, bytes, str]:
    """Read both pipes until the child closes them, writes too much, or runs out of time."""
    deadline = time.monotonic() + limits["wall_s"]
    kept = {result: bytearray(), output: bytearray()}
    most = {result: limits["result_bytes"], output: limits["output_bytes"]}
    opened = {result, output}
    while opened:
        left = deadline - time.monotonic()
        if left <= 0:
            return bytes(kept[result]), bytes(kept[output]), "timeout"
        for handle in select.select(list(opened), [], [], left)[0]:
            chunk = os.read(handle, 65536)
            if not chunk:
                opened.discard(handle)
            kept[handle] += chunk
            if len(kept[handle]) > most[handle]:
                return b"", bytes(kept[output][: most[output]]), "too much output"
        if result not in opened and output in opened:
            # the answer is complete: what was printed before it is in the pipe; who still holds the pipe is killed
            while select.select([output], [], [], 0)[0] and len(kept[output]) <= most[output]:
                chunk = os.read(output, 65536)
                if not chunk:
                    break
                kept[output] += chunk
            break
    return bytes(kept[result]), bytes(kept[output][: most[output]]), ""


def _parse(data: bytes, nonce: str) -> dict[str, Any] | None:
    """Take the one frame that the child may write; anything else is no answer."""
    if len(data) < 8 or int.from_bytes(data[:8], "big") != len(data) - 8:
        return None
    try:
        answer = json.loads(data[8:])
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and answer.get("nonce") == nonce else None


def _empty(folder: str) -> None:
    """Leave a folder as it was made, whatever a child has done to it; the folder itself stays, rules are bound to it.

    Raises:
        OSError: something cannot be removed: the forkserver ends rather than show it to the next child.
    """
    os.chown(folder, os.getuid(), os.getgid())
    os.chmod(folder, 0o700)  # noqa: PTH101 - a Path costs more than the call, thousands of times
    with os.scandir(folder) as entries:
        left = list(entries)
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108 - as above


def serve_one(request: dict[str, Any], scratch: str, fences: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    result_read, result_write = os.pipe()
    output_read, output_write = os.pipe()
    started = time.monotonic()
    # a child that may not start processes has nothing that could outlive it, and a namespace costs milliseconds
    pid = kernel.fork_process(own_pids=fences["namespaces"] and bool(request["limits"]["processes"]))
    if pid == 0:
        _child(request, scratch, fences, result_write, output_write)
    os.close(result_write)
    os.close(output_write)
    try:
        data, output, stopped = _watch(pid, result_read, output_read, request["limits"])
    finally:
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(result_read)
        os.close(output_read)
        _empty(scratch)
    return {
        "answer": None if stopped else _parse(data, request["nonce"]),
        "stopped": stopped,
        "signal": status & 0x7F,
        "output": output.decode(errors="replace"),
        "wall_s": time.monotonic() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_bytes": usage.ru_maxrss * 1024,
    }


def _warm_up() -> None:
    """Do once what every child would do first, and keep the collector from touching the pages that they share."""
    _run_python({"code": "def warm(a):\n    return [a]\n", "entry_point": "warm", "calls": ["({'a': (1, 2.5)},)"]})
    kernel.prepare_system_call_filters()
    io.TextIOWrapper(io.BytesIO(), encoding="utf-8").close()
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve requests until the other side closes."""
    kernel.die_with_parent()
    root = tempfile.mkdtemp(prefix="sluice-sandbox-")
    Path(root).chmod(0o711)
    scratch = Path(root, "scratch")
    scratch.mkdir(0o700)
    fences = _raise_fences()
    _warm_up()
    known = dict(fences)
    if fences["landlock"]:
        # one ruleset for all: executions follow one another in one folder, which is emptied in between
        fences["rules"] = kernel.file_rules(fences["landlock"], _readable(), str(scratch))
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(2, 1)
    write_frame(answers, known)
    try:
        while True:
            try:
                request = read_frame(requests, MAX_REQUEST)
            except EOFError:
                return
            write_frame(answers, serve_one(request, str(scratch), fences))
    finally:
        shutil.rmtree(root, ignore_errors=True)

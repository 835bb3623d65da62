"""The sandbox: honest code passes, every cheat fails, and nothing leaks in or out."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_evaluator.sandbox.client import Case, Limits, Sandbox
from sluice_evaluator.sandbox.wire import UnserializableError, decode, encode

SECRET = "only the trusted side knows 4711"
CASES = [Case(arguments=(3,), expected=SECRET)]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(servers=2, limits=Limits(wall_s=20.0, cpu_s=5.0)) as pool:
        yield pool


def solve(sandbox: Sandbox, body: str, cases: list[Case] | None = None, *, head: str = "", **limits):
    code = f"{head}\ndef f(x):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    chosen = Limits(**{"wall_s": 20.0, "cpu_s": 5.0, **limits}) if limits else None
    return sandbox.run_python(code, "f", cases or CASES, limits=chosen)


def test_the_fences_stand(sandbox: Sandbox) -> None:
    assert sandbox.fences["landlock"] >= 1
    assert sandbox.fences["seccomp"]


def test_a_right_solution_passes_and_a_wrong_one_does_not(sandbox: Sandbox) -> None:
    cases = [Case(arguments=(n,), expected=[n, {"square": n * n}, (1.5, None)]) for n in range(4)]
    good = solve(sandbox, "return [x, {'square': x * x}, (1.5, None)]", cases)
    assert (good.passed, good.reason, good.cases) == (True, "", (True,) * 4)
    off = solve(sandbox, "return [x, {'square': x * x}, (1.5, None)] if x != 2 else x", cases)
    assert (off.passed, off.cases, off.reason) == (False, (True, True, False, True), "case 2: a wrong value")
    assert not sandbox.run_python("def f(): return 1", "f", []).passed


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "passed"),
    [
        ("1", 1, 0.0, True),
        ("True", 1, 0.0, False),
        ("1.0", 1, 0.0, False),
        ("(1, 2)", [1, 2], 0.0, False),
        ("[1.0000001]", [1.0], 1e-6, True),
        ("[1.1]", [1.0], 1e-6, False),
        ("float('nan')", 1.0, 1e-6, False),
        ("{2, 1}", {1, 2}, 0.0, True),
        ("frozenset({1})", {1}, 0.0, False),
        ("{'a': [1]}", {"a": [1]}, 0.0, True),
        ("{'a': True}", {"a": 1}, 0.0, False),
        ("{'a': 1.0000001}", {"a": 1.0}, 1e-6, True),
        ("{'a': 1, 'b': 2}", {"a": 1}, 0.0, False),
        ("{'b': 1}", {"a": 1}, 0.0, False),
        ("b'a'", b"a", 0.0, True),
        ("1 + 2j", 1 + 2j, 0.0, True),
    ],
)
def test_values_are_compared_by_type(
    sandbox: Sandbox, found: str, expected: object, tolerance: float, passed: bool
) -> None:
    case = Case(arguments=(0,), expected=expected, tolerance=tolerance)
    assert solve(sandbox, f"return {found}", [case]).passed is passed


CHEATS = {
    "an object that equals everything": "class A:\n    def __eq__(s, o): return True\n    __hash__ = None\nreturn A()",
    "a text that equals everything": "class A(str):\n    def __eq__(s, o): return True\nreturn A('x')",
    "a list with such a text": "class A(str):\n    def __eq__(s, o): return True\nreturn [A('x')]",
    "leaving with status 0": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit(0)",
    "printing the verdict": 'print(\'{"passed": true, "value": true}\')',
    "looking for the answer in the frames": (
        "import sys\nframe, found = sys._getframe(), []\nwhile frame:\n    found += [str(frame.f_locals), "
        "str(frame.f_globals)]\n    frame = frame.f_back\ntext = ' '.join(found)\n"
        "i = text.find('only the trusted')\nreturn text[i:i + 32] if i >= 0 else 'nothing'"
    ),
    "looking for the answer among all objects": (
        "import gc\nreturn next((o for o in gc.get_objects() if isinstance(o, str) and o.startswith('only')), 'no')"
    ),
    "forging the answer with the nonce": (
        "import sys, os, json\nframe, nonce = sys._getframe(), ''\nwhile frame:\n"
        "    request = frame.f_locals.get('request')\n"
        "    nonce = request['nonce'] if isinstance(request, dict) else nonce\n    frame = frame.f_back\n"
        "data = json.dumps({'nonce': nonce, 'passed': True, 'calls': [{'value': True}]}).encode()\n"
        "os.write(3, len(data).to_bytes(8, 'big') + data)\nos._exit(0)"
    ),
    "forging a passed answer without calls": (
        "import os, json\ndata = json.dumps({'passed': True, 'calls': []}).encode()\n"
        "os.write(3, len(data).to_bytes(8, 'big') + data)\nos._exit(0)"
    ),
    "replacing the encoder": (
        "import sys\nm = sys.modules['sluice_evaluator.sandbox.wire']\nm.encode = lambda *a: True\n"
        "sys.modules['sluice_evaluator.sandbox.forkserver'].encode = lambda *a: {'always': 1}\nreturn 1"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_fail(sandbox: Sandbox, name: str) -> None:
    found = solve(sandbox, CHEATS[name])
    assert not found.passed
    assert found.reason


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("import os\nos.fork()", "BlockingIOError|PermissionError"),
        ("import subprocess\nsubprocess.run(['/bin/true'])", "BlockingIOError|PermissionError"),
        ("import socket\nsocket.socket()", "PermissionError"),
        ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
        ("import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "PermissionError"),
        ("open('/etc/passwd').read()", "PermissionError"),
        ("open('/proc/self/environ').read()", "PermissionError"),
        ("open('/usr/evil', 'w')", "PermissionError|OSError"),
        ("open('../evil', 'w')", "PermissionError"),
        ("import os\nos.listdir('/')", "PermissionError"),
    ],
)
def test_what_reaches_beyond_the_process_is_refused(sandbox: Sandbox, body: str, error: str) -> None:
    found = solve(sandbox, body)
    assert not found.passed
    assert found.reason.removeprefix("case 0: raised ") in error.split("|")


def test_secrets_in_files_and_environment_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("a service account's")
    token.chmod(0o644)
    monkeypatch.setenv("SLUICE_API_TOKEN", "a token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key")
    with Sandbox(servers=1) as own:
        code = f"def f(x):\n    return open({str(token)!r}).read()"
        assert own.run_python(code, "f", CASES).reason == "case 0: raised PermissionError"
        expected = {"HOME", "TMPDIR", "PATH", "TZ", "LANG"}
        code = "import os\ndef f(x):\n    return set(os.environ)"
        assert own.run_python(code, "f", [Case(arguments=(0,), expected=expected)]).passed


UNPRIVILEGED = """
import os
from sluice_evaluator.sandbox.client import Case, Limits, Sandbox
with Sandbox(servers=1, limits=Limits(wall_s=20)) as own:
    case = [Case(arguments=(), expected=1)]
    print(os.getuid(), own.fences["landlock"] >= 1, own.fences["nobody"])
    print(own.run_python("def f(): return 1", "f", case).passed)
    print(own.run_python("import os\\ndef f(): os.kill(os.getppid(), 9)", "f", case).reason)
    print(own.run_shell("cat a.txt", {"a.txt": "hello"}).output if own.fences["namespaces"] else "hello")
"""


def test_an_unprivileged_user_has_the_same_fences() -> None:
    # as root, a user namespace stands in for an ordinary user, who needs no stand-in
    prefix = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"] if os.getuid() == 0 else []
    done = subprocess.run([*prefix, sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=True)
    uid, *lines = done.stdout.split("\n")
    assert uid.split() == [str(1000 if prefix else os.getuid()), "True", "[]"]
    assert lines[:3] == ["True", "case 0: raised PermissionError", "hello"]


RULED = """
import os, socket
from sluice_evaluator.sandbox import kernel
abi, server = kernel.landlock_abi(), socket.create_server(("127.0.0.1", 0))
address, client, other = server.getsockname(), socket.socket(), socket.socket()
kernel.no_new_privileges()
kernel.restrict_files(kernel.file_rules(abi, [("/usr", kernel.READ_EXECUTE)], "/tmp"))
def refused(action):
    try:
        action()
    except PermissionError:
        return True
    return False
found = refused(lambda: client.connect(address)), refused(lambda: other.bind(("127.0.0.1", 0)))
print(abi, *found, refused(lambda: os.kill(os.getppid(), 0)))
"""


def test_the_ruleset_alone_refuses_tcp_and_signals_where_the_kernel_knows_how() -> None:
    done = subprocess.run([sys.executable, "-c", RULED], capture_output=True, text=True, check=True)
    abi, *refused = done.stdout.split()
    assert refused == [str(int(abi) >= 4), str(int(abi) >= 4), str(int(abi) >= 6)]


def test_a_listening_server_is_not_reached(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        found = solve(sandbox, f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}))")
        assert "raised" in found.reason
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_scratch_folder_is_empty_whatever_the_last_execution_left_in_it() -> None:
    body = (
        "import os\nos.makedirs('deep/er')\nopen('deep/er/left', 'w').write('x')\nos.symlink('/etc', 'link')\n"
        "os.chmod('deep', 0)\nopen('left', 'w').write('x')\nos.chmod('.', 0o500)\nprint(os.getcwd())\n"
        "return open('left').read()"
    )
    with Sandbox(servers=1) as own:
        first = solve(own, body, [Case(arguments=(0,), expected="x")])
        assert first.passed
        assert list(Path(first.output.strip()).iterdir()) == []
        assert solve(own, "import os\nreturn os.listdir('.')", [Case(arguments=(0,), expected=[])]).passed
        assert own.run_shell("touch kept && ls").output == "kept\n"
        assert own.run_shell("ls -A").output == ""
        assert solve(own, "open('again', 'w')\nreturn 1", [Case(arguments=(0,), expected=1)]).passed
    assert not Path(first.output.strip()).exists()


def test_runs_are_repeatable(sandbox: Sandbox) -> None:
    runs = [solve(sandbox, "import time\nprint(hash('a'), time.tzname)\nreturn 1").output for _ in range(3)]
    assert len(set(runs)) == 1
    assert "UTC" in runs[0]


@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        ("while True: pass", {"wall_s": 0.5}, "timeout"),
        ("import time\ntime.sleep(60)", {"wall_s": 0.5}, "timeout"),
        ("while True: pass", {"cpu_s": 1.0, "wall_s": 60.0}, "killed by signal"),
        ("while True: print('x' * 1000)", {"output_bytes": 10_000}, "too much output"),
        ("return 'x' * 1_000_000", {"result_bytes": 10_000}, "too much output"),
        ("return bytearray(10 ** 9)", {"memory_bytes": 256 * 1024 * 1024}, "raised MemoryError"),
        ("open('big', 'wb').write(b'x' * 100_000)", {"file_bytes": 10_000}, "raised OSError|killed by signal 25"),
        ("def g(n): return g(n + 1)\ng(0)", {}, "raised RecursionError"),
        ("import ctypes\nctypes.string_at(0)", {}, "killed by signal"),
        (
            "import signal\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
            {"wall_s": 0.5},
            "timeout",
        ),
    ],
)
def test_limits_end_what_does_not_end(sandbox: Sandbox, body: str, limits: dict, reason: str) -> None:
    started = time.monotonic()
    found = solve(sandbox, body, **limits)
    assert not found.passed
    assert any(part in found.reason for part in reason.split("|")), found.reason
    assert time.monotonic() - started < 30


def test_threads_are_allowed_and_end_with_the_child(sandbox: Sandbox) -> None:
    body = (
        "import threading\nout = []\nthreads = [threading.Thread(target=out.append, args=(i,)) for i in range(4)]\n"
        "[t.start() for t in threads]\n[t.join() for t in threads]\n"
        "threading.Thread(target=lambda: __import__('time').sleep(60)).start()\nreturn sorted(out)"
    )
    started = time.monotonic()
    assert solve(sandbox, body, [Case(arguments=(0,), expected=[0, 1, 2, 3])]).passed
    assert time.monotonic() - started < 15


def test_code_that_does_not_load_is_named(sandbox: Sandbox) -> None:
    assert sandbox.run_python("def f(:", "f", CASES).reason == "the code raised SyntaxError"
    assert sandbox.run_python("def g(x): pass", "f", CASES).reason == "the code raised KeyError"
    assert sandbox.run_python("raise SystemExit", "f", CASES).reason == "the code raised SystemExit"


def test_shell_commands_run_in_their_own_folder(sandbox: Sandbox) -> None:
    found = sandbox.run_shell("sort names.txt | uniq -c | sort -rn | head -1", {"names.txt": "b\na\nb\n"})
    assert (found.passed, found.status, found.output.split()) == (True, 0, ["2", "b"])
    assert sandbox.run_shell("exit 3").status == 3
    assert not sandbox.run_shell("cat /etc/passwd").passed
    assert not sandbox.run_shell("true", {"../escape": "x"}).passed


def test_a_fork_bomb_and_what_runs_on_in_the_background_are_killed(sandbox: Sandbox) -> None:
    limits = Limits(wall_s=1.5, processes=20)
    started = time.monotonic()
    bomb = sandbox.run_shell("b() { b | b & }; b; sleep 60", limits=limits)
    assert not bomb.passed
    marker = f"sleep 98{os.getpid() % 1000}"
    left = sandbox.run_shell(f"setsid {marker} & {marker} & exit 0", limits=limits)
    assert time.monotonic() - started < 20
    assert left.reason in ("", "timeout")
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    assert not [command for command in commands if command.startswith(marker)]


OPEN = """
import os
def f(x):
    found = []
    for handle in range(256):
        try:
            os.fstat(handle)
        except OSError:
            continue
        found.append(handle)
    return found
"""


def handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_child_has_its_pipes_and_no_other_descriptor(sandbox: Sandbox) -> None:
    assert sandbox.run_python(OPEN, "f", [Case(arguments=(0,), expected=[0, 1, 2, 3])]).passed


def test_nothing_is_left_after_many_executions_of_every_kind() -> None:
    bodies = {
        "return 1": 1,
        "import os\nos._exit(0)": 1,
        "while True: pass": 1,
        "print('x' * 200_000)\nreturn 1": 1,
        "open('left', 'w').write('x')\nopen('kept', 'w')\nreturn 1": 1,
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nreturn 1": 1,
    }
    with Sandbox(servers=1, limits=Limits(wall_s=20.0)) as own:
        solve(own, "return 1", [Case(arguments=(0,), expected=1)])
        server = own._servers[0].process.pid
        scratch = Path(solve(own, "import os\nprint(os.getcwd())").output.strip())
        before = handles(os.getpid()), handles(server)
        for _ in range(5):
            for body, expected in bodies.items():
                solve(own, body, [Case(arguments=(0,), expected=expected)], wall_s=0.4)
            if own.fences["namespaces"]:
                own.run_shell("sleep 60 & echo left > file", limits=Limits(wall_s=0.4, processes=8))
        assert own._servers[0].process.pid == server
        assert (handles(os.getpid()), handles(server)) == before
        assert children(server) == []
        assert list(scratch.iterdir()) == []
    assert not scratch.parent.exists()


def test_a_forkserver_that_dies_is_replaced() -> None:
    with Sandbox(servers=1) as own:
        assert own.run_python("def f(x): return 1", "f", [Case(arguments=(0,), expected=1)]).passed
        own._servers[0].process.kill()
        own._servers[0].process.wait()
        broken = own.run_python("def f(x): return 1", "f", [Case(arguments=(0,), expected=1)])
        assert not broken.passed
        assert "forkserver ended" in broken.reason
        assert own.run_python("def f(x): return 1", "f", [Case(arguments=(0,), expected=1)]).passed


def test_threads_share_the_pool(sandbox: Sandbox) -> None:
    results: list[bool] = []

    def work(number: int) -> None:
        case = Case(arguments=(number,), expected=number + 1)
        results.append(solve(sandbox, "return x + 1", [case]).passed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 12


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_survive_the_fence(value: object) -> None:
    import json

    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_other_types_do_not_cross() -> None:
    deep: list = []
    for _ in range(300):
        deep = [deep]
    for value in (object(), type("A", (int,), {})(1), deep, range(3)):
        with pytest.raises(UnserializableError):
            encode(value)
    for data in ({"float": "zzz"}, {"what": 1}, {"a": 1, "b": 2}):
        with pytest.raises(ValueError, match=r"."):
            decode(data)
    with pytest.raises(ValueError, match="wall_s"):
        Limits(wall_s=0)

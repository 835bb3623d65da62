"""`sluice trace label` as a process on a terminal: progress with an estimate, stopped by Ctrl-C and by kill -9.

A named pipe stops the command at a known trace: it waits there for a writer.
"""

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from trace_factory import many, trace, write_trace

FILES = 40
RUN = """
import sys
from sluice_cli.main import main
sys.exit(main(sys.argv[1:]))
"""
HELD = """
import sys
from pathlib import Path
from sluice_cli.main import main
from sluice_traces import label

read, pipe = label.read_trace, Path(sys.argv[1])

def held(path):
    if path.name == "a-held.json":
        pipe.read_bytes()
    return read(path)

label.read_trace = held
sys.exit(main(sys.argv[2:]))
"""
"""The command, held at one trace by a pipe that nobody writes to."""


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, *arguments: object, program: str = RUN) -> None:
        self.shown = b""
        # Nothing of this process runs in the child: it becomes the command at once.
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            command = [sys.executable, "-c", program, *map(str, arguments)]
            os.execve(command[0], command, {**os.environ, "TERM": "xterm", "COLUMNS": "100"})

    def read_until(self, reached, seconds=60.0) -> None:
        """Read what is shown until something holds."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self.shown.decode(errors="replace")
            if select.select([self.screen], [], [], 0.05)[0]:
                self.shown += os.read(self.screen, 65536)

    def end(self) -> int:
        """Read to the end; the exit code, negative for a signal."""
        try:
            while block := os.read(self.screen, 65536):
                self.shown += block
        except OSError:
            pass
        os.close(self.screen)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def labelled(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content of every file of an output."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.read_bytes()) for path in paths}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "traces"
    many(folder, FILES, tenants=4)
    write_trace(folder, trace("a-held", "tenant-2"))
    return folder


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_stopped_command_goes_on_without_doing_anything_twice(source, tmp_path, stop):
    output = tmp_path / "out"
    before = sum(1 for folder in ("tenant-0", "tenant-1") for _ in (source / folder).iterdir())
    os.mkfifo(tmp_path / "pipe")
    command = Terminal(tmp_path / "pipe", "trace", "label", source, "-o", output, program=HELD)
    command.read_until(lambda: sum(1 for _ in output.rglob("*.json")) == before)
    if stop == signal.SIGINT:
        command.read_until(lambda: b"labelling" in command.shown)
        os.write(command.screen, b"\x03")
        assert command.end() == 130
        text = command.shown.decode()
        assert f"stopped after {before} of {FILES + 1} files; the same command goes on from there" in text
        assert re.search(rf"labelling.*\d+/{FILES + 1}.*(-:--:--|\d:\d\d:\d\d)", text), text
    else:
        os.kill(command.pid, stop)
        assert command.end() == -stop
    first = labelled(output)
    assert len(first) == before

    again = Terminal("trace", "label", source, "-o", output)
    assert again.end() == 0
    assert f"{FILES + 1 - before} labelled, {before} up to date, 0 skipped" in again.shown.decode()
    after = labelled(output)
    assert {name: after[name] for name in first} == first, "what was finished is the same file"
    assert len(after) == FILES + 1

    clean = tmp_path / "clean"
    assert Terminal("trace", "label", source, "-o", clean).end() == 0
    assert {name: content for name, (_, content) in labelled(clean).items()} == {
        name: content for name, (_, content) in after.items()
    }

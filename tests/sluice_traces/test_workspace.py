"""Temporary folders: gone at the end, gone after a kill at the next start, left alone while somebody works there."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from sluice_traces.workspace import workspace

HOLD = """
import sys
from sluice_traces.workspace import workspace
with workspace("sluice-test-") as folder:
    (folder / "rows").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def hold() -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ), text=True
    )
    assert process.stdout.readline()
    return process


def test_nothing_is_left_at_the_end(temporary):
    with workspace("sluice-test-") as folder:
        (folder / "rows").write_text("all")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(temporary):
    living, killed = hold(), hold()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(list(temporary.glob("*/rows"))) == 2
    with workspace("sluice-test-"):
        assert len(list(temporary.glob("*/rows"))) == 1
    with workspace("sluice-other-"):
        assert len(list(temporary.glob("*/rows"))) == 1
    living.communicate("")
    assert list(temporary.iterdir()) == []
    killed.stdin.close()
    killed.stdout.close()

"""Temporary folders: gone at the end, gone after a kill at the next start, left alone while somebody works there."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing

import pytest

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.failures import classify
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


def test_an_index_that_cannot_be_written_is_an_error_of_the_storage():
    with (
        pytest.raises(OSError, match="the temporary folder") as caught,
        workspace("sluice-test-") as folder,
        closing(sqlite3.connect(folder / "index.sqlite3")) as index,
    ):
        index.execute("PRAGMA page_size=512")
        index.execute("CREATE TABLE t (b BLOB)")
        index.execute("PRAGMA max_page_count=4")
        index.execute("INSERT INTO t VALUES (zeroblob(100000))")
    failure = classify(caught.value)
    assert failure.failure_class is FailureClass.STORAGE and "full" in failure.message

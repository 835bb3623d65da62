"""Processes are found, tethered and stopped by what they are, never by a number alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sluice_devcluster.errors import ComponentError
from sluice_devcluster.processes import ProcessId, alive, find_owned, identify, start, stop

SLEEP = ["/bin/sleep", "300"]


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


@pytest.fixture
def owner(tmp_path):
    """A marker of this test's own; whatever still carries it at the end is ended."""
    yield str(tmp_path)
    stop(find_owned(str(tmp_path)), patience_s=0.5)


@pytest.fixture
def stranger():
    """A process that was not started by the package."""
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def test_stop_ends_a_process_and_leaves_no_zombie(owner, tmp_path):
    process = start(SLEEP, log=tmp_path / "log", owner=owner)
    assert alive(process)

    stop([process])

    assert not alive(process)
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def test_a_process_that_ignores_the_polite_signal_is_killed(owner, tmp_path):
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
    )
    log = tmp_path / "log"
    process = start([sys.executable, "-c", script], log=log, owner=owner)
    until(lambda: "deaf" in log.read_text())

    stop([process], patience_s=0.2)

    assert not alive(process)


@pytest.mark.parametrize("field", ["start_ticks", "boot_id"])
def test_a_stale_record_does_not_harm_who_has_the_number_now(stranger, field):
    known = identify(stranger.pid)
    stale = replace(known, **{field: known.start_ticks - 1 if field == "start_ticks" else "another boot"})

    assert not alive(stale)
    stop([stale])

    assert alive(known)
    assert stranger.poll() is None


def test_stopping_what_is_gone_is_no_error(owner, tmp_path):
    process = start(SLEEP, log=tmp_path / "log", owner=owner)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not alive(process))

    stop([process])


def test_a_zombie_is_not_alive():
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert identify(child.pid) is None
    child.wait()


def test_the_marker_finds_what_no_record_names_and_nothing_else(owner, tmp_path, stranger):
    process = start(SLEEP, log=tmp_path / "log", owner=owner)
    other = start(SLEEP, log=tmp_path / "log", owner=owner + "-longer")
    try:
        assert find_owned(owner) == [process]
    finally:
        stop([other])


def test_a_record_survives_json():
    process = identify(os.getpid())

    assert ProcessId.from_dict(process.to_dict()) == process


def test_output_goes_to_a_log_of_the_owners(owner, tmp_path):
    log = tmp_path / "log"
    process = start(["/bin/sh", "-c", "echo out; echo err >&2; sleep 300"], log=log, owner=owner)
    until(lambda: log.read_text() == "out\nerr\n")

    assert log.stat().st_mode & 0o777 == 0o600
    assert os.getsid(process.pid) == process.pid


def test_what_cannot_be_executed_is_named(owner, tmp_path):
    with pytest.raises(ComponentError, match="missing is not an executable file"):
        start([tmp_path / "missing"], log=tmp_path / "log", owner=owner)


def test_a_tethered_process_ends_with_its_parent_and_another_does_not(owner, tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from sluice_devcluster.processes import start
        folder = Path(sys.argv[1])
        for tethered in (True, False):
            start(["/bin/sleep", "300"], log=folder / "log", owner=sys.argv[1], tethered=tethered)
        print("started", flush=True)
        time.sleep(300)
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", script, owner], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout.readline() == "started\n"
        # The tether is a short script that becomes the program.
        until(lambda: sum(is_sleep(process) for process in find_owned(owner)) == 2)
        parent.kill()

    until(lambda: len(find_owned(owner)) == 1)


def is_sleep(process):
    return Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"/bin/sleep")

"""Reads of storage are bounded: in time, in number, and at the operator's end."""

import subprocess
import sys
import threading
import time

import pytest

from sluice_artifacts import NotFoundError, UnreachableError
from sluice_operator import storage
from sluice_operator.storage import MOST_READS, bounded

URI = "s3://bucket/key"


async def test_an_answer_and_an_error_come_through():
    assert await bounded(URI, lambda: 7) == 7

    def missing() -> int:
        raise NotFoundError(URI, "nothing there")

    with pytest.raises(NotFoundError):
        await bounded(URI, missing)


async def test_a_read_that_hangs_is_given_up_in_time():
    end = threading.Event()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
        await bounded(URI, end.wait, limit_s=0.2)
    assert time.monotonic() - began < 5
    end.set()


async def test_reads_that_hang_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(storage, "_slots", threading.BoundedSemaphore(1))
    end = threading.Event()
    with pytest.raises(UnreachableError, match="no answer"):
        await bounded(URI, end.wait, limit_s=0.1)
    with pytest.raises(UnreachableError, match=f"{MOST_READS} reads"):
        await bounded(URI, lambda: 1)
    end.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert await bounded(URI, lambda: 1) == 1
            return
        except UnreachableError:
            assert time.monotonic() < deadline


def test_a_read_that_hangs_does_not_hold_up_the_end():
    program = (
        "import asyncio, threading\n"
        "from sluice_artifacts import UnreachableError\n"
        "from sluice_operator.storage import bounded\n"
        "try:\n"
        "    asyncio.run(bounded('s3://b/k', threading.Event().wait, limit_s=0.1))\n"
        "except UnreachableError:\n"
        "    print('given up')\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "given up\n"

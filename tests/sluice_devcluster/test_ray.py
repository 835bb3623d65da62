"""A Ray head whose starter dies is still found."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from sluice_devcluster.processes import find_owned, stop

STARTER = """
from sluice_devcluster.ray import RayHead
RayHead(num_cpus=1, announce=lambda folder: print(folder, flush=True)).start()
"""


def test_a_head_whose_starter_was_killed_while_it_came_up_is_found_and_ended():
    with subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True) as starter:
        folder = Path(starter.stdout.readline().strip())
        deadline = time.monotonic() + 60
        while not find_owned(str(folder)):
            assert time.monotonic() < deadline, "Ray was never started"
            time.sleep(0.05)
        starter.kill()
    left = find_owned(str(folder))
    assert left, "Ray ended with its starter: then nothing has to be found, and this test proves nothing"
    for _ in range(2):
        stop(find_owned(str(folder)), patience_s=3.0)
    assert find_owned(str(folder)) == []
    shutil.rmtree(folder, ignore_errors=True)

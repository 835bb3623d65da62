"""First process of a node's namespaces: lays the mounts, then only collects ended processes until it is told to end.

Run as ``python -I -S init.py PLAN`` with the plan as JSON: ``commands``, run in order, and ``ready``, a file that is
created when all of them succeeded. Uses nothing but the standard library. When this process ends, the kernel ends every
other process of its namespace.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run the plan, announce that it is done, and stay."""
    plan = json.loads(sys.argv[1])
    for command in plan["commands"]:
        subprocess.run(command, check=True)
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    Path(plan["ready"]).touch()
    while signal.sigwait(awaited) is not signal.SIGTERM:
        _collect()


def _collect() -> None:
    """Take the exit status of every child that has ended; one signal may stand for several."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


if __name__ == "__main__":
    main()

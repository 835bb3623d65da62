"""Forks operator processes from one that has everything imported, so that tests which kill hundreds wait for none.

Reads one JSON object a line: `program` (`sluice` or `worker`), `argv`, `env` and `log`; answers with the process id.
A line `{"reap": pid}` answers with the exit status once the process has ended (negative: the signal). The child is an
ordinary `sluice operator run`, or the fast worker.
"""

import json
import os
import sys
import traceback

import kopf  # noqa: F401 - what makes a start slow
import kubernetes.aio.client  # noqa: F401 - likewise

import fast_worker
import sluice_operator.startup  # noqa: F401 - likewise
from sluice_cli.main import main


def become(program: str, argv: list[str], env: dict[str, str], log: str) -> None:
    """Be the process that was asked for, and end."""
    status = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(env)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(source, target)
        sys.argv = [program, *argv]
        status = main(argv) if program == "sluice" else fast_worker.main()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the child must never return into the parent's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve() -> None:
    """Fork and reap until the input ends; then end every child that is left."""
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            children.discard(order["reap"])
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            become(order["program"], order["argv"], order["env"], order["log"])
        children.add(pid)
        print(pid, flush=True)
    for pid in children:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    serve()

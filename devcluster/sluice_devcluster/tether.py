"""Becomes another program that the kernel ends when its parent ends.

Run as ``python -I -S tether.py PARENT PROGRAM [ARGUMENT ...]``: a script of its own instead of code between fork and
exec, because that is unsafe in a process with threads. The request (``prctl(2)``, PR_SET_PDEATHSIG) survives the exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, check that the parent did not end before that, and become the program."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        raise SystemExit("the parent has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

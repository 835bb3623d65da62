"""One sandbox for the process, started when it is first needed."""

import atexit
import threading

from sluice_evaluator.sandbox.client import Sandbox

_lock = threading.Lock()
_shared: list[Sandbox] = []


def shared_sandbox() -> Sandbox:
    """Give the sandbox of this process.

    Raises:
        SandboxUnavailableError: the kernel lacks a fence.
    """
    with _lock:
        if not _shared:
            sandbox = Sandbox()
            sandbox.__enter__()
            atexit.register(sandbox.__exit__, None, None, None)
            _shared.append(sandbox)
        return _shared[0]

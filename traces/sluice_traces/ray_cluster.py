"""The Ray that a job works on: its own cluster, or a local one while it works. Labelling and training share it.

Ray is imported only where it is asked for, so that the package imports whole without it.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Set by Ray for the driver of a job."""
MESSAGE_LIMIT = 1000
"""Characters of Ray's own words in a failure."""


@contextmanager
def connected(cpus: int, advice: str) -> Iterator[None]:
    """Connect to the job's Ray cluster; where there is none, start one on loopback, and stop it in the end.

    A connection that there is already is used and left as it is.

    Args:
        cpus: CPUs that a local Ray hands out.
        advice: what to do where neither works, for the message.

    Raises:
        WorkerError: `Infrastructure` when Ray can be neither reached nor started, `Preempted` when SIGTERM came first.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get(ADDRESS_VARIABLE, "")
    with _own_signal_handlers():
        try:
            if address:
                ray.init(address="auto", logging_level=logging.WARNING)
            else:
                # Ray's default of 15 starves the workers beside anything else that runs on the machine.
                os.environ.setdefault("RAY_worker_niceness", "0")
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    _node_ip_address="127.0.0.1",
                    logging_level=logging.WARNING,
                )
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            where = f"the Ray cluster at {address}" if address else "a local Ray"
            said = str(error)[:MESSAGE_LIMIT]
            message = f"{where} cannot be reached or started ({type(error).__name__}: {said}): {advice}"
            raise WorkerError(FailureClass.INFRASTRUCTURE, message) from error
        except SystemExit as error:
            # Ray's own answer to SIGTERM while it connects.
            ray.shutdown()
            message = "asked to stop while Ray was being reached or started: nothing was begun"
            raise WorkerError(FailureClass.PREEMPTED, message) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep the process's handlers: connecting to Ray replaces that of SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)

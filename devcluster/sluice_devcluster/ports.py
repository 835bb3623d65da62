"""Free loopback ports."""

import socket
from collections.abc import Collection


def free_port(avoid: Collection[int] = ()) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now and that is not in ``avoid``.

    Somebody may take it before its user binds it; whoever starts a server retries with another one then.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in avoid:
            return port


def is_free(port: int) -> bool:
    """Whether 127.0.0.1:``port`` can be listened on now."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier server that linger must not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

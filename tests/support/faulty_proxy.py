"""A TCP proxy that breaks connections where it is told to: what networks do, and servers in tests do not."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self

_INTERIM = b"HTTP/1.1 100"


class FaultyProxy:
    """Forwards connections on a free loopback port to a server.

    `cuts` gives, for the connections that send a request in order, the bytes of the answer that are let through before
    the connection is closed; None, and every connection after the list's end, is let through whole. An interim
    `100 Continue` is not counted, so that 0 loses the answer to a request that the server has carried out.
    """

    def __init__(self, target_url: str, cuts: list[int | None]) -> None:
        host, _, port = target_url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections = 0
        """Connections accepted so far."""

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (self._listener, *self._open):
            _close(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limit = self._cuts[self.connections] if self.connections < len(self._cuts) else None
            self.connections += 1
            server = socket.create_connection(self._target)
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, limit), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            for data in _chunks(source):
                if limit is not None and not data.startswith(_INTERIM):
                    data = data[: limit - passed]
                    passed += len(data)
                sink.sendall(data)
                if limit is not None and passed >= limit and not data.startswith(_INTERIM):
                    break
        _close(sink)
        _close(source)


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 16):
        yield data


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()

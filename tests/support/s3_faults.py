"""An S3 server's front that throttles: some requests are answered with `SlowDown`, the others by the server."""

import http.client
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


def share(fraction: float, seed: int) -> Callable[[str, str], bool]:
    """Throttle that share of the requests, by a generator of its own."""
    rng, lock = random.Random(seed), threading.Lock()

    def throttles(method: str, path: str) -> bool:
        with lock:
            return rng.random() < fraction

    return throttles


class ThrottlingProxy:
    """Listens on loopback; `url` is where. The client's signature stays valid: its `Host` header is passed on."""

    def __init__(self, target: str, throttles: Callable[[str, str], bool]) -> None:
        host = urlsplit(target).netloc
        self.throttled = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if throttles(self.command, self.path):
                    proxy.throttled += 1
                    self._send(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                    return
                connection = http.client.HTTPConnection(host, timeout=30)
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in {"connection", "expect"}:
                            connection.putheader(name, value)
                    connection.endheaders(body)
                    reply = connection.getresponse()
                    headers = {n: v for n, v in reply.getheaders() if n.lower() not in HOP_BY_HOP}
                    if self.command == "HEAD":
                        headers["Content-Length"] = reply.getheader("Content-Length") or "0"
                    self._send(reply.status, headers, reply.read())
                finally:
                    connection.close()

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "ThrottlingProxy":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

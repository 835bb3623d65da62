"""One long-lived program on a node: how it is started and asked for its health."""

import http.client
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluice_devcluster.node.layout import Node
from sluice_devcluster.node.sandbox import Sandbox

Health = tuple[bool, str]
"""Whether a program is well, and what was seen."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program of the node."""

    name: str
    argv: Callable[[Node], list[str | Path]]
    health: Callable[[Node, Sandbox], Health]
    files: Callable[[Node], Mapping[Path, str]] = field(default=lambda _: {})
    """Its configuration files, written anew before every start."""
    environment: Callable[[Node], Mapping[str, str]] = field(default=lambda _: {})
    """Variables beside those of the caller."""
    before: Callable[[Node, Sandbox], None] = field(default=lambda _node, _sandbox: None)
    """What must be there when it starts, such as what it is allowed to read."""
    after: Callable[[Node, Sandbox], None] = field(default=lambda _node, _sandbox: None)
    """What is done once it is well: images imported, objects applied."""
    port: int | None = None
    timeout_s: float = 60.0


def http_health(port: int, path: str, *, host: str | None = "127.0.0.1") -> Callable[[Node, Sandbox], Health]:
    """Ask a plain HTTP endpoint inside the node, without a ``host`` at the node's address; 200 means well."""

    def ask(host: str) -> Health:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(2048).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return False, f"does not answer: {error}"
        finally:
            connection.close()
        return (True, "ok") if response.status == 200 else (False, f"answers {response.status}: {body[:200]}")

    return lambda node, sandbox: sandbox.in_network(lambda: ask(host or node.network.address))


def tcp_health(port: int) -> Callable[[Node, Sandbox], Health]:
    """Open a connection to a port of the node's loopback; that it is accepted means well."""

    def ask() -> Health:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError as error:
            return False, f"does not answer: {error}"
        return True, "ok"

    return lambda _, sandbox: sandbox.in_network(ask)

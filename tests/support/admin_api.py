"""Reads objects as the cluster's administrator, over one connection: polling by kubectl would cost a process a look."""

import base64
import http.client
import json
import ssl
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from sluice_operator.resources import RESOURCES

_BY_NAME = {kind.lower(): resource for kind, resource in RESOURCES.items()}


class AdminApi:
    """A reader with the rights of a kubeconfig that has certificates or a token."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        entry = config["clusters"][0]["cluster"]
        user = config["users"][0]["user"]
        self._context = ssl.create_default_context(cadata=_decoded(entry["certificate-authority-data"]))
        if "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
                file.flush()
                self._context.load_cert_chain(file.name)
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._host = urlsplit(entry["server"]).netloc
        self._lock = threading.Lock()
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, namespace: str, kind: str, name: str = "", labels: str = "") -> dict | None:
        """Return an object (a list without `name`), None where there is none."""
        path = _BY_NAME[kind.lower()].path(namespace, name)
        with self._lock:
            for last in (False, True):
                try:
                    return self._ask(path + (f"?labelSelector={labels}" if labels else ""))
                except (http.client.HTTPException, OSError):
                    self.close()
                    if last:
                        raise
        raise AssertionError("unreachable: the last try returns or raises")

    def close(self) -> None:
        """Close the connection; the next look opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str) -> dict | None:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._host, context=self._context, timeout=30)
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status == 404:
            return None
        assert response.status == 200, (path, response.status, body[:500])
        return json.loads(body)


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()

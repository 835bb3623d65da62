"""The Kubernetes API as the commands need it: read the five kinds, follow one object, set annotations, know who asks.

Objects are raw dictionaries. Every request has a timeout; every error leaves here as a KubeError that says what to do.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sluice_api.v1alpha1 import GROUP, KINDS, VERSION

TIMEOUT_S = 10.0
"""Seconds of one request."""
WATCH_S = 30
"""Seconds of one watch; then another begins where it ended."""
FIELD_MANAGER = "kubectl-sluice"
"""Name in `managedFields`."""
PLURALS = {model.crd.kind: model.crd.plural for model in KINDS}
"""Collections of the five kinds, by kind."""

Raw = dict[str, Any]


class KubeError(Exception):
    """The cluster cannot be asked, or refuses; the message says what to do. `status` is the HTTP status, if any."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class KubeApi:
    """A connection with the rights of a kubeconfig, or of the pod that this runs in."""

    def __init__(self, *, kubeconfig: Path | None = None, context: str | None = None, user: str | None = None) -> None:
        """Connect; `user` impersonates, as `kubectl --as` does. Raises KubeError."""
        from kubernetes import client, config

        settings = client.Configuration()
        self.namespace = "default"
        self._user = ""
        path = os.fspath(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG") or None
        try:
            if path is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(path, context=context, client_configuration=settings)
                contexts, active = config.list_kube_config_contexts(path)
                chosen = next((each for each in contexts if each["name"] == context), active)
                self.namespace = str(chosen["context"].get("namespace") or "default")
                self._user = str(chosen["context"].get("user") or "")
        except (config.ConfigException, OSError, KeyError, TypeError, ValueError) as error:
            raise KubeError(f"no cluster to talk to: {error}; set KUBECONFIG or --kubeconfig") from error
        settings.retries = False
        self._client = client.ApiClient(settings)
        self._client.user_agent = FIELD_MANAGER
        if user:
            self._client.set_default_header("Impersonate-User", user)
        self.server = str(settings.host)

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.close()

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """Return an object; None where there is none. Raises KubeError."""
        try:
            return self._json("GET", f"{_path(kind, namespace)}/{name}")
        except KubeError as error:
            if error.status == 404 and "CRDs" not in str(error):
                return None
            raise

    def list(self, kind: str, namespace: str | None) -> list[Raw]:
        """Return all objects of a kind in a namespace (None: in all). Raises KubeError."""
        items: list[Raw] = self._json("GET", _path(kind, namespace)).get("items") or []
        for item in items:
            item["kind"] = kind
        return items

    def watch(self, kind: str, namespace: str, name: str) -> Iterator[Raw | None]:
        """Yield an object whenever it changes, None once it is gone; ends after half a minute. Raises KubeError."""
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(WATCH_S)}
        response = self._send("GET", _path(kind, namespace), query=query, timeout=(TIMEOUT_S, WATCH_S + TIMEOUT_S))
        from urllib3.exceptions import HTTPError

        try:
            for line in _lines(response):
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    return
                yield None if event.get("type") == "DELETED" else event["object"]
        except (HTTPError, OSError) as error:
            raise KubeError(f"the watch at {self.server} broke ({type(error).__name__})") from error
        finally:
            response.release_conn()

    def annotate(self, kind: str, namespace: str, name: str, values: Mapping[str, str | None]) -> Raw:
        """Set annotations, or remove them (None); return the object. Raises KubeError."""
        body = {"metadata": {"annotations": dict(values)}}
        query = {"fieldManager": FIELD_MANAGER}
        return self._json("PATCH", f"{_path(kind, namespace)}/{name}", body=body, query=query)

    def try_create(self, manifest: Mapping[str, Any], namespace: str) -> None:
        """Let the API server validate a manifest without keeping it. Raises KubeError with its objection."""
        name = manifest["metadata"]["name"]
        query = {"dryRun": "All", "fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        path = f"{_path(str(manifest['kind']), namespace)}/{name}"
        self._json("PATCH", path, body=dict(manifest), query=query, content_type="application/apply-patch+yaml")

    def whoami(self) -> str:
        """Return the user that the API server takes this connection for; the kubeconfig's name where it cannot say."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            answer = self._json("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)
        except KubeError:
            return self._user
        return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or self._user)

    def _json(self, method: str, path: str, **options: Any) -> Raw:
        response = self._send(method, path, **options)
        try:
            found = json.loads(response.read() or b"{}")
        except ValueError as error:
            raise KubeError(f"{self.server} answers with something that is no JSON: is it a Kubernetes API?") from error
        finally:
            response.release_conn()
        if not isinstance(found, dict):
            raise KubeError(f"{self.server} answers with something that is no object: is it a Kubernetes API?")
        return found

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/merge-patch+json",
        timeout: Any = TIMEOUT_S,
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json"}
        headers["Content-Type"] = content_type if method == "PATCH" else "application/json"
        request = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*request, _request_timeout=timeout).response
            if response.status >= 300:
                data, status = response.read(), int(response.status)
                response.release_conn()
                raise KubeError(_objection(data, status, str(response.reason)), status=status)
        except (ApiException, HTTPError, OSError) as error:
            raise KubeError(f"the Kubernetes API at {self.server} does not answer ({type(error).__name__})") from error
        return response


def _path(kind: str, namespace: str | None) -> str:
    place = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{place}{PLURALS[kind]}"


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    # Whatever has arrived: an event must not wait for the buffer to fill.
    while chunk := response.read1(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def _objection(data: bytes, status: int, reason: str) -> str:
    """Return what the API server says, and what to do about it."""
    try:
        answer = json.loads(data)
        message, details = str(answer.get("message") or reason), answer.get("details")
    except (ValueError, AttributeError):
        message, details = reason, True
    if status in (401, 403):
        return f"{message}: check your credentials and your Role"
    if status == 404 and not details:
        return f"{message}: are Sluice's CRDs installed?"
    return message

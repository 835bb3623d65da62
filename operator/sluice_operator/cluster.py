"""The one place that talks to the Kubernetes API.

Bodies are raw dictionaries: typed models would drop fields that they do not know. Every request has a timeout; every
client error leaves here as one of `sluice_operator.errors`. Every write first asks the guard whether this process may
still act (see `sluice_operator.lease`), so that a process that slept past its Lease writes nothing when it wakes.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from sluice_operator.errors import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    ForeignObjectError,
    InvalidError,
    KindMissingError,
    NotFoundError,
    UnreachableError,
)
from sluice_operator.resources import EVENT, POD, Resource, owner_uids, resource_of

FIELD_MANAGER = "sluice-operator"
"""Our name in `managedFields`."""
APPLY = "application/apply-patch+yaml"
"""Content type of server-side apply; JSON is YAML."""
JSON_PATCH = "application/json-patch+json"
"""Content type of JSON patch (RFC 6902)."""
PAGE = 500
"""Objects asked for at a time."""
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10, sock_read=20)
"""Of one request: a stuck one must not stop its object for ever."""

Raw = dict[str, Any]


def always_allowed() -> None:
    """Guard of a process that needs no Lease."""


class Cluster:
    """A connection to one API server."""

    def __init__(self, client: kubernetes_client.ApiClient, *, guard: Callable[[], None] = always_allowed) -> None:
        """Use an API client that is already configured; `guard` raises when this process may not write."""
        self.client = client
        self.guard = guard

    @classmethod
    async def connect(cls, *, guard: Callable[[], None] = always_allowed) -> "Cluster":
        """Connect as the pod's service account, or as `KUBECONFIG` says outside a cluster."""
        return cls(kubernetes_client.ApiClient(await load_configuration()), guard=guard)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Raw | None:
        """Return an object, or None where there is none. KindMissingError where its kind is not installed."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except NotFoundError:
            return None

    async def list(self, resource: Resource, namespace: str | None, *, labels: str = "") -> list[Raw]:
        """Return all objects of a namespace (None: of the cluster) that match a label selector."""
        items: list[Raw] = []
        token = ""
        while True:
            query = {"limit": str(PAGE), "labelSelector": labels, "continue": token}
            page = await self._request("GET", resource.path(namespace), query=query)
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    async def create(self, manifest: Mapping[str, Any]) -> Raw:
        """Create an object; AlreadyExistsError where the name is taken."""
        resource = resource_of(manifest)
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._write("POST", path, manifest, query={"fieldManager": FIELD_MANAGER})

    async def create_once(self, manifest: Mapping[str, Any], *, owner: str) -> Raw:
        """Create an object that is never changed afterwards; one that exists under our owner UID is success.

        Raises ForeignObjectError when the name belongs to an object that does not name `owner`.
        """
        try:
            return await self.create(manifest)
        except AlreadyExistsError:
            existing = await self._existing(manifest)
            if existing is None:
                raise
            return require_owner(existing, owner)

    async def apply(self, manifest: Mapping[str, Any], *, owner: str) -> Raw:
        """Create or repair a child by server-side apply, bound to the UID that was seen.

        A missing one is created, since only that fails where somebody else was faster. An object with a spec is created
        bare, inert under its name, labels and owner, and then applied: only what apply wrote does apply remove again.

        Raises ForeignObjectError, without touching it, when the name belongs to an object that does not name `owner`.
        """
        existing = await self._existing(manifest)
        if existing is None:
            if "spec" not in manifest:
                return await self.create_once(manifest, owner=owner)
            kept = ("name", "namespace", "labels", "ownerReferences")
            claim = {key: manifest["metadata"][key] for key in kept if key in manifest["metadata"]}
            existing = await self.create_once({**manifest, "metadata": claim, "spec": {}}, owner=owner)
        require_owner(existing, owner)
        # The UID binds the patch to the object that was checked: another one of the same name makes it a conflict.
        metadata = {**manifest["metadata"], "uid": existing["metadata"]["uid"]}
        resource = resource_of(manifest)
        return await self._write(
            "PATCH",
            resource.path(metadata.get("namespace"), metadata["name"]),
            {**manifest, "metadata": metadata},
            content_type=APPLY,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
        )

    async def take_over(self, raw: Mapping[str, Any], manifest: Mapping[str, Any]) -> Raw:
        """Give the object that was read a new owner and new data; ConflictError when it has moved on since."""
        kept = ("labels", "annotations", "ownerReferences")
        parts = {f"/metadata/{key}": manifest["metadata"][key] for key in kept if key in manifest["metadata"]}
        parts |= {f"/{key}": manifest[key] for key in ("data", "spec") if key in manifest}
        changes = [{"op": "add", "path": path, "value": value} for path, value in parts.items()]
        return await self._patch(raw, [*version_test(raw), *changes])

    async def patch(self, raw: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> Raw:
        """Apply JSON patch operations to the object as it was read; ConflictError when it has moved on."""
        return await self._patch(raw, [*version_test(raw), *operations])

    async def update(self, manifest: Mapping[str, Any]) -> Raw:
        """Replace a whole object at the `resourceVersion` that it carries; ConflictError when it has moved on."""
        metadata = manifest["metadata"]
        path = resource_of(manifest).path(metadata.get("namespace"), metadata["name"])
        return await self._write("PUT", path, manifest, query={"fieldManager": FIELD_MANAGER})

    async def replace_status(self, raw: Mapping[str, Any], status: Mapping[str, Any]) -> Raw:
        """Replace the whole status of the object as it was read; ConflictError when it has moved on."""
        patch = [*version_test(raw), {"op": "add", "path": "/status", "value": dict(status)}]
        return await self._patch(raw, patch, subresource="status")

    async def set_finalizer(self, raw: Mapping[str, Any], finalizer: str, *, present: bool) -> Raw:
        """Add or remove our finalizer on the object as it was read; ConflictError when it has moved on."""
        finalizers = list(raw["metadata"].get("finalizers") or [])
        if (finalizer in finalizers) == present:
            return dict(raw)
        wanted = [*finalizers, finalizer] if present else [name for name in finalizers if name != finalizer]
        patch = [*version_test(raw), {"op": "add", "path": "/metadata/finalizers", "value": wanted}]
        return await self._patch(raw, patch)

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        """Delete exactly the object with this UID, with what it owns; a missing one is success."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._write("DELETE", resource.path(namespace, name), body)
        except (NotFoundError, ConflictError):
            # A conflict says that the name now belongs to another object: ours is gone.
            return

    async def pod_log(self, namespace: str, name: str, *, lines: int) -> str:
        """Return the last lines of a pod's log."""
        path = POD.path(namespace, name, "log")
        return (await self._text("GET", path, query={"tailLines": str(lines)})).decode("utf-8", "replace")

    async def post_event(self, event: Mapping[str, Any]) -> None:
        """Record a Kubernetes event."""
        path = EVENT.path(event["metadata"]["namespace"])
        await self._write("POST", path, event)

    async def _existing(self, manifest: Mapping[str, Any]) -> Raw | None:
        metadata = manifest["metadata"]
        return await self.get(resource_of(manifest), metadata.get("namespace"), metadata["name"])

    async def _patch(self, raw: Mapping[str, Any], patch: Sequence[Any], subresource: str = "") -> Raw:
        metadata = raw["metadata"]
        path = resource_of(raw).path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._write("PATCH", path, patch, content_type=JSON_PATCH, query={"fieldManager": FIELD_MANAGER})

    async def _write(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Raw:
        self.guard()
        return await self._request(method, path, body=body, content_type=content_type, query=query)

    async def _request(self, method: str, path: str, **options: Any) -> Raw:
        data = json.loads(await self._text(method, path, **options) or b"{}")
        if not isinstance(data, dict):
            raise ClusterError(f"{method} {path}: the API server's answer is no object")
        return data

    async def _text(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        status, reason, data, retry_after = await self._send(method, path, body, content_type, query)
        if status == 401:
            # A rotated token: read it again, once.
            self.client.configuration = await load_configuration()
            status, reason, data, retry_after = await self._send(method, path, body, content_type, query)
        if status < 300:
            return data
        raise translate(method, path, status, reason, data, retry_after)

    async def _send(
        self, method: str, path: str, body: Any, content_type: str, query: Mapping[str, str] | None
    ) -> tuple[int, str, bytes, float | None]:
        parameters = [(key, value) for key, value in (query or {}).items() if value]
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": FIELD_MANAGER}
        try:
            request = await self.client.param_serialize(
                method, quote(path), query_params=parameters, header_params=headers, auth_settings=["BearerToken"]
            )
            response = await self.client.call_api(*request[:3], body, _request_timeout=TIMEOUT)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            host = self.client.configuration.host
            raise UnreachableError(
                f"the Kubernetes API at {host} does not answer ({error or type(error).__name__}); it is tried again"
            ) from error
        wait = response.headers.get("Retry-After", "")
        return response.status, str(response.reason), bytes(data or b""), float(wait) if wait.isdigit() else None


async def load_configuration() -> kubernetes_client.Configuration:
    """Return the client's configuration, from the pod's service account or from `KUBECONFIG`."""
    configuration = kubernetes_client.Configuration()
    try:
        kubernetes_config.load_incluster_config(configuration)
    except kubernetes_config.ConfigException:
        # The file is named here, since the client looks at KUBECONFIG only once, when it is imported.
        path = os.environ.get("KUBECONFIG") or None
        try:
            await kubernetes_config.load_kube_config(path, client_configuration=configuration)
        except kubernetes_config.ConfigException as error:
            raise ForbiddenError(f"no cluster to talk to: {error}; run in a pod or set KUBECONFIG") from error
    return configuration


def _remedy(status: int, message: str) -> str:
    """Return what to do about a refusal: RBAC says who cannot do what, quotas and policies say something else."""
    if status == 401:
        return "check the operator's token"
    if " cannot " in message:
        return "check the operator's Role"
    return "a quota or policy of the namespace refuses it: ask its admin, or choose another profile"


def translate(
    method: str, path: str, status: int, reason: str, data: bytes, retry_after: float | None = None
) -> ClusterError:
    """Return the error for an HTTP status of the API server, with the server's own message."""
    try:
        answer = json.loads(data)
        message, cause = str(answer.get("message") or reason), str(answer.get("reason") or "")
        details = answer.get("details")
    except (ValueError, AttributeError):
        message, cause, details = data.decode("utf-8", "replace")[:500] or reason, "", None
    text = f"{method} {path}: {message}"
    if status in (401, 403):
        return ForbiddenError(f"{text}; {_remedy(status, message)}", status=status)
    if status == 404 and not details:
        return KindMissingError(f"{text}; install the CRD of {kind_in(path)}", status=status)
    if status == 404:
        return NotFoundError(text, status=status)
    if status == 409:
        return (AlreadyExistsError if cause == "AlreadyExists" else ConflictError)(text, status=status)
    if status == 422 and cause == "Invalid" and not details:
        # A failed test of a JSON patch: the API server says Invalid, but names no field.
        return ConflictError(text, status=status)
    if status in (400, 422):
        return InvalidError(text, status=status)
    if status == 429 or status >= 500:
        return UnreachableError(text, status=status, retry_after=retry_after)
    return ClusterError(text, status=status)


def kind_in(path: str) -> str:
    """Return the collection that a URL path is about, e.g. `rayjobs.ray.io`."""
    parts = path.strip("/").split("/")
    rest = parts[5:] if parts[3:4] == ["namespaces"] and len(parts) > 5 else parts[3:]
    return f"{rest[0] if rest else path}.{parts[1]}"


def version_test(raw: Mapping[str, Any]) -> list[Raw]:
    """Return the JSON patch operations that bind a patch to the object as it was read."""
    metadata = raw["metadata"]
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
    ]


def require_owner(raw: Raw, owner: str) -> Raw:
    """Return the object when it names `owner` as its owner, else raise ForeignObjectError."""
    if owner in owner_uids(raw):
        return raw
    metadata = raw["metadata"]
    raise ForeignObjectError(
        f"{raw.get('kind')} {metadata.get('namespace')}/{metadata.get('name')} exists and is not ours: "
        "delete or rename it, or give the object of Sluice another name"
    )

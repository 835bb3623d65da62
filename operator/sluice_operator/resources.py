"""The kinds that the operator talks to, and how their API paths are built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice_api.v1alpha1 import GROUP, KINDS, VERSION
from sluice_operator.manifests.naming import LABEL_OWNER_UID


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind of the Kubernetes API."""

    group: str
    """API group; empty for the core group."""
    version: str
    """Version."""
    kind: str
    """Kind."""
    plural: str
    """Plural, lower case, as in paths and RBAC rules."""

    @property
    def api_version(self) -> str:
        """`apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection (without `name`), an object or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


CONFIG_MAP = Resource(group="", version="v1", kind="ConfigMap", plural="configmaps")
EVENT = Resource(group="", version="v1", kind="Event", plural="events")
POD = Resource(group="", version="v1", kind="Pod", plural="pods")
JOB = Resource(group="batch", version="v1", kind="Job", plural="jobs")
LEASE = Resource(group="coordination.k8s.io", version="v1", kind="Lease", plural="leases")
RAY_JOB = Resource(group="ray.io", version="v1", kind="RayJob", plural="rayjobs")
HTTP_ROUTE = Resource(group="gateway.networking.k8s.io", version="v1", kind="HTTPRoute", plural="httproutes")

OWN = {
    model.crd.kind: Resource(group=GROUP, version=VERSION, kind=model.crd.kind, plural=model.crd.plural)
    for model in KINDS
}
"""The five kinds, by kind."""
MODELS = {model.crd.kind: model for model in KINDS}
"""Their models, by kind."""
RESOURCES = {
    resource.kind: resource for resource in (CONFIG_MAP, EVENT, POD, JOB, LEASE, RAY_JOB, HTTP_ROUTE, *OWN.values())
}
"""Every kind that the operator knows, by kind."""


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """Return the resource of a manifest; ValueError for one that the operator does not handle."""
    kind = manifest.get("kind")
    resource = RESOURCES.get(str(kind))
    if resource is None or manifest.get("apiVersion") != resource.api_version:
        raise ValueError(f"the operator handles no {manifest.get('apiVersion')} {kind}")
    return resource


def owner_uids(raw: Mapping[str, Any]) -> set[str]:
    """Return the UIDs that an object names as its owners, by owner reference or by label."""
    metadata = raw.get("metadata") or {}
    uids = {str(reference.get("uid")) for reference in metadata.get("ownerReferences") or []}
    label = (metadata.get("labels") or {}).get(LABEL_OWNER_UID)
    return uids | {str(label)} if label else uids

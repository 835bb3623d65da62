"""The HTTPRoute of the `httpRoute` router: operator-owned, absent from Git.

`rules` and `backendRefs` are atomic lists, so a weight cannot be co-owned: the whole route is the operator's. It
carries no owner reference, because garbage collection must never remove the only route of production traffic; it is
recognised by its label.
"""

from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.shadowrollout import Backend
from sluice_operator.decisions.base import SetRoute
from sluice_operator.manifests.configmap import check_route
from sluice_operator.manifests.naming import owner_labels, router_name

ANNOTATION_STABLE = "sluice.dev/stable-digest"
"""Weights that the stable backend is meant to serve."""
ANNOTATION_CANDIDATE = "sluice.dev/candidate-digest"
"""Weights that the candidate backend is meant to serve; absent without a candidate."""
ANNOTATION_STEP = "sluice.dev/step"
"""Step of the rollout."""


def http_route(rollout: ShadowRollout, route: SetRoute) -> dict[str, Any]:
    """Return the HTTPRoute that brings both weights into force; they add up to 100.

    Raises:
        ValueError: a weight outside 0 to 100, one above 0 without a candidate, or a spec without its backends.
    """
    check_route(route)
    traffic = rollout.spec.traffic
    if traffic.stable is None or traffic.candidate is None or not traffic.parent_refs:
        raise ValueError("spec.traffic needs parentRefs, stable and candidate where router is httpRoute")
    backends = [_backend(traffic.stable, 100 - route.weight)]
    annotations = {ANNOTATION_STABLE: route.stable.digest, ANNOTATION_STEP: str(rollout.status.step)}
    if route.candidate is not None:
        backends.append(_backend(traffic.candidate, route.weight))
        annotations[ANNOTATION_CANDIDATE] = route.candidate.digest
    spec: dict[str, Any] = {
        "parentRefs": [
            {
                "group": "gateway.networking.k8s.io",
                "kind": "Gateway",
                "name": ref.name,
                **({"sectionName": ref.section_name} if ref.section_name else {}),
            }
            for ref in traffic.parent_refs
        ],
        "rules": [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": backends},
        ],
    }
    if traffic.hostnames:
        spec["hostnames"] = list(traffic.hostnames)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": router_name(rollout.name),
            "namespace": rollout.namespace,
            "labels": owner_labels(rollout.crd.kind, rollout.name, rollout.uid),
            "annotations": annotations,
        },
        "spec": spec,
    }


def _backend(backend: Backend, weight: int) -> dict[str, Any]:
    # Group and kind are the API server's defaults, spelled out so that what is applied equals what is read back.
    return {"group": "", "kind": "Service", "name": backend.service, "port": backend.port, "weight": weight}

"""The router of the Gateway API: weights on an HTTPRoute that the operator owns alone.

`rules` and `backendRefs` are atomic lists, so a route cannot be shared field by field: this one is absent from Git, and
Git's own route stays the fallback. It counts as in force once every gateway that it names has accepted it and resolved
its backends at the route's present generation.
"""

from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, RouteView, SetRoute
from sluice_operator.errors import ClusterError
from sluice_operator.manifests.httproute import ANNOTATION_CANDIDATE, ANNOTATION_STABLE, http_route
from sluice_operator.manifests.naming import router_name
from sluice_operator.resources import HTTP_ROUTE, owner_uids

CONDITIONS = ("Accepted", "ResolvedRefs")
"""Conditions of each parent that must hold."""


class HTTPRouteRouter:
    """Weights on an HTTPRoute of our own."""

    def __init__(self, cluster: Cluster) -> None:
        """Talk to `cluster`."""
        self._cluster = cluster

    async def read(self, rollout: ShadowRollout) -> RouteView:
        """Return what the route says and whether the gateways follow it."""
        name = router_name(rollout.name)
        try:
            raw = await self._cluster.get(HTTP_ROUTE, rollout.namespace, name)
        except ClusterError as error:
            return RouteView(exists=False, problem=RouterProblem.UNREACHABLE, message=str(error))
        if raw is None:
            return RouteView(exists=False)
        if rollout.uid not in owner_uids(raw):
            return RouteView(
                exists=True,
                problem=RouterProblem.CONFLICT,
                message=f"HTTPRoute {name} is not this rollout's: delete or rename it",
            )
        return view_of(raw, rollout)

    async def write(self, rollout: ShadowRollout, route: SetRoute) -> None:
        """Write both weights in one request."""
        await self._cluster.apply(http_route(rollout, route), owner=rollout.uid)


def view_of(raw: Mapping[str, Any], rollout: ShadowRollout) -> RouteView:
    """Return the view of our route."""
    metadata = raw["metadata"]
    weights = backend_weights(raw.get("spec") or {}, rollout)
    if weights is None:
        return RouteView(
            exists=True,
            problem=RouterProblem.FOREIGN_EDIT,
            message=f"HTTPRoute {metadata['name']}: its rules are not what this rollout wrote",
        )
    annotations = metadata.get("annotations") or {}
    waiting = not_in_force(raw)
    return RouteView(
        exists=True,
        weight=weights[1],
        verified=not waiting,
        candidate_digest=str(annotations.get(ANNOTATION_CANDIDATE) or ""),
        stable_digest=str(annotations.get(ANNOTATION_STABLE) or ""),
        problem=RouterProblem.NOT_ACCEPTED if waiting else RouterProblem.NONE,
        message=waiting,
    )


def backend_weights(spec: Mapping[str, Any], rollout: ShadowRollout) -> tuple[int, int] | None:
    """Return the weights of stable and candidate, None when the rules are not ours or do not add up to 100."""
    stable, candidate = rollout.spec.traffic.stable, rollout.spec.traffic.candidate
    rules = spec.get("rules") or []
    if stable is None or candidate is None or len(rules) != 1:
        return None
    weights: dict[tuple[str, int], int] = {}
    for backend in rules[0].get("backendRefs") or []:
        weights[str(backend.get("name")), int(backend.get("port") or 0)] = int(backend.get("weight", 1))
    stable_weight = weights.pop((stable.service, stable.port), None)
    candidate_weight = weights.pop((candidate.service, candidate.port), 0)
    if stable_weight is None or weights or stable_weight + candidate_weight != 100:
        return None
    return stable_weight, candidate_weight


def not_in_force(raw: Mapping[str, Any]) -> str:
    """Return why a gateway does not follow the route yet; empty when all do."""
    metadata = raw["metadata"]
    generation = int(metadata.get("generation") or 0)
    wanted = {(str(ref["name"]), str(ref.get("sectionName") or "")) for ref in raw["spec"].get("parentRefs") or []}
    told: dict[tuple[str, str], Mapping[str, Any]] = {}
    for parent in (raw.get("status") or {}).get("parents") or []:
        ref = parent.get("parentRef") or {}
        told[str(ref.get("name")), str(ref.get("sectionName") or "")] = parent
    for place in sorted(wanted):
        conditions = {str(c.get("type")): c for c in (told.get(place) or {}).get("conditions") or []}
        for kind in CONDITIONS:
            condition = conditions.get(kind)
            gateway = f"HTTPRoute {metadata['name']}: gateway {place[0]}"
            if condition is None or int(condition.get("observedGeneration") or 0) < generation:
                return f"{gateway} has not answered for generation {generation} yet"
            if condition.get("status") != "True":
                return f"{gateway} says {kind} {condition.get('status')}: {condition.get('message') or ''}".strip()
    return "" if wanted else f"HTTPRoute {metadata['name']} names no gateway"

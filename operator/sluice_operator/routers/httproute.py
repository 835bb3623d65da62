"""The router of the Gateway API: weights on an HTTPRoute that the operator owns alone, or on one that it adopts.

`rules` and `backendRefs` are atomic lists, so a route cannot be shared field by field: the operator's own is absent
from Git, and Git's route stays the fallback. It counts as in force once every gateway that it names has accepted it and
resolved its backends at the route's present generation.

The rollouts of one target share one route, one after the other: one that has not ended may take over a route that
another left with nothing on its candidate. The patch is bound to the version that was read.
"""

from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, RouteView, SetRoute
from sluice_operator.errors import ClusterError
from sluice_operator.manifests.configmap import assignment_of, traffic_of
from sluice_operator.manifests.httproute import (
    ANNOTATION_CANDIDATE,
    ANNOTATION_STABLE,
    http_route,
    http_route_name,
    route_spec,
)
from sluice_operator.resources import HTTP_ROUTE, owner_uids
from sluice_operator.routers.adopted import AdoptedRoute
from sluice_operator.routers.base import is_ours

CONDITIONS = ("Accepted", "ResolvedRefs")
"""Conditions of each parent that must hold."""


class HTTPRouteRouter:
    """Weights on an HTTPRoute of our own, or on an adopted one where `spec.traffic.adopt` names it."""

    def __init__(self, cluster: Cluster) -> None:
        """Talk to `cluster`."""
        self._cluster = cluster
        self._adopted = AdoptedRoute(cluster)

    async def read(self, rollout: ShadowRollout) -> RouteView:
        """Return what the route says and whether the gateways follow it."""
        name = http_route_name(rollout)
        try:
            raw = await self._cluster.get(HTTP_ROUTE, rollout.namespace, name)
        except ClusterError as error:
            return RouteView(exists=False, problem=RouterProblem.UNREACHABLE, message=str(error))
        if traffic_of(rollout).adopt is not None:
            return self._adopted.view(raw, rollout, waiting=not_in_force(raw) if raw is not None else "")
        if raw is None:
            return RouteView(exists=False)
        if rollout.uid not in owner_uids(raw):
            if not rollout.status.outcome and is_idle(raw):
                return RouteView(exists=False)
            return RouteView(
                exists=True,
                problem=RouterProblem.CONFLICT,
                message=f"HTTPRoute {name} is not this rollout's: end the rollout that has it, or delete the route",
            )
        return view_of(raw, rollout)

    async def write(self, rollout: ShadowRollout, route: SetRoute) -> None:
        """Write both weights in one request."""
        if traffic_of(rollout).adopt is not None:
            await self._adopted.write(rollout, route)
            return
        manifest = http_route(rollout, route)
        raw = await self._cluster.get(HTTP_ROUTE, rollout.namespace, manifest["metadata"]["name"])
        if raw is not None and rollout.uid not in owner_uids(raw) and is_idle(raw):
            raw.update(apiVersion=manifest["apiVersion"], kind=manifest["kind"])
            await self._cluster.take_over(raw, manifest)
        else:
            await self._cluster.apply(manifest, owner=rollout.uid)


def is_idle(raw: Mapping[str, Any]) -> bool:
    """Tell whether a route is a rollout's of ours and gives its candidate neither traffic nor copies of it."""
    rules = (raw.get("spec") or {}).get("rules") or []
    if not is_ours(raw) or len(rules) != 1 or rules[0].get("filters"):
        return False
    weights = [backend.get("weight", 1) for backend in rules[0].get("backendRefs") or []]
    return weights in ([100], [100, 0])


def view_of(raw: Mapping[str, Any], rollout: ShadowRollout) -> RouteView:
    """Return the view of our route; whatever this rollout did not write is a foreign edit."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    weight, mirror = _weight(spec), _mirror(spec)
    traffic = traffic_of(rollout)
    try:
        known = [
            route_spec(traffic, weight=weight, candidate=candidate, mirror=mirror, salt=assignment_of(rollout).salt)
            for candidate in (True, False)
            if candidate or not (weight or mirror)
        ]
    except ValueError as error:
        return RouteView(exists=True, problem=RouterProblem.CONFLICT, message=str(error))
    if spec not in known:
        return RouteView(
            exists=True,
            weight=weight,
            mirror=mirror,
            problem=RouterProblem.FOREIGN_EDIT,
            message=f"HTTPRoute {metadata['name']}: its spec is not what this rollout wrote",
        )
    annotations = metadata.get("annotations") or {}
    waiting = not_in_force(raw)
    return RouteView(
        exists=True,
        weight=weight,
        mirror=mirror,
        verified=not waiting,
        candidate_digest=str(annotations.get(ANNOTATION_CANDIDATE) or ""),
        stable_digest=str(annotations.get(ANNOTATION_STABLE) or ""),
        problem=RouterProblem.NOT_ACCEPTED if waiting else RouterProblem.NONE,
        message=waiting,
    )


def _weight(spec: Mapping[str, Any]) -> int:
    """Return the weight of the first rule's second backend, where ours has the candidate; 0 without one."""
    rules = spec.get("rules") or [{}]
    backends = rules[0].get("backendRefs") or []
    return int(backends[1].get("weight", 1)) if len(backends) > 1 else 0


def _mirror(spec: Mapping[str, Any]) -> int:
    rules = spec.get("rules") or [{}]
    for item in rules[0].get("filters") or []:
        if item.get("type") == "RequestMirror":
            return int((item.get("requestMirror") or {}).get("percent") or 100)
    return 0


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
                return f"{gateway} has not answered for generation {generation} yet; check that its controller runs"
            if condition.get("status") != "True":
                return f"{gateway} says {kind} {condition.get('status')}: {condition.get('message') or ''}".strip()
    return "" if wanted else f"HTTPRoute {metadata['name']} names no gateway: add parentRefs"

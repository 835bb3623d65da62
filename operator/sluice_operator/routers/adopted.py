"""Adopt mode: weights on an HTTPRoute that a person or Git owns.

Only the weights of the two named backends are patched, by JSON patch that tests the version and each backend's name,
and annotations that say which rollout set them. A weight that differs from the annotated one was set by somebody
else: that is told, and the rollout pauses instead of fighting.
"""

from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, RouteView, SetRoute
from sluice_operator.errors import InvalidError
from sluice_operator.manifests.configmap import check_route, traffic_of
from sluice_operator.manifests.httproute import (
    ANNOTATION_CANDIDATE,
    ANNOTATION_ROLLOUT,
    ANNOTATION_STABLE,
    ANNOTATION_WEIGHT,
    http_route_name,
)
from sluice_operator.resources import HTTP_ROUTE

Raw = dict[str, Any]


class AdoptedRoute:
    """Weights on somebody else's HTTPRoute."""

    def __init__(self, cluster: Cluster) -> None:
        """Talk to `cluster`."""
        self._cluster = cluster

    def view(self, raw: Raw | None, rollout: ShadowRollout, *, waiting: str) -> RouteView:
        """Return the view of the route; `waiting` says why its gateways do not follow it yet."""
        name = http_route_name(rollout)
        if raw is None:
            return _unusable(f"HTTPRoute {name} does not exist: create it, or correct spec.traffic.adopt", exists=False)
        places = places_of(raw, rollout)
        annotations = (raw["metadata"].get("annotations")) or {}
        weight = max((served for _, _, served in _candidate_refs(raw, rollout)), default=0)
        if isinstance(places, str):
            if annotations.get(ANNOTATION_ROLLOUT) != rollout.uid or (rollout.status.outcome and not weight):
                return _unusable(places)
            return RouteView(exists=True, weight=weight, problem=RouterProblem.FOREIGN_EDIT, message=places)
        if annotations.get(ANNOTATION_ROLLOUT) != rollout.uid:
            if weight == 0 and not rollout.status.outcome:
                return RouteView(exists=False)
            return _unusable(
                f"HTTPRoute {name} gives the candidate {weight} % and this rollout did not set that: set it to 0, or "
                "end the rollout that did"
            )
        ours = annotations.get(ANNOTATION_WEIGHT)
        if any(str(place.candidate_weight) != ours for place in places):
            if rollout.status.outcome and ours == "0":
                return _unusable(
                    f"HTTPRoute {name}: somebody gave the candidate {weight} % after the rollout had ended"
                )
            text = f"HTTPRoute {name}: somebody else set {weight} % for the candidate, this rollout {ours} %"
            return RouteView(exists=True, weight=weight, problem=RouterProblem.FOREIGN_EDIT, message=text)
        return RouteView(
            exists=True,
            weight=weight,
            verified=not waiting,
            candidate_digest=str(annotations.get(ANNOTATION_CANDIDATE) or ""),
            stable_digest=str(annotations.get(ANNOTATION_STABLE) or ""),
            problem=RouterProblem.NOT_ACCEPTED if waiting else RouterProblem.NONE,
            message=waiting,
        )

    async def write(self, rollout: ShadowRollout, route: SetRoute) -> None:
        """Patch the weights of both backends wherever the route names them.

        A candidate is taken out of whatever the route has become: a route that is gone, or names it no longer, gives it
        no traffic. Raises InvalidError where any other weight cannot be set, ConflictError when the route moved on.
        """
        check_route(route)
        if route.mirror:
            raise InvalidError("an adopted HTTPRoute is never given filters: leave out spec.traffic.adopt to mirror")
        raw = await self._cluster.get(HTTP_ROUTE, rollout.namespace, http_route_name(rollout))
        places = places_of(raw, rollout) if raw is not None else "it does not exist"
        if raw is None or isinstance(places, str):
            if route.weight > 0:
                raise InvalidError(f"HTTPRoute {http_route_name(rollout)}: {places}")
            if raw is not None:
                await self._remove(raw, rollout)
            return
        annotations = {
            **(raw["metadata"].get("annotations") or {}),
            ANNOTATION_ROLLOUT: rollout.uid,
            ANNOTATION_WEIGHT: str(route.weight),
            ANNOTATION_STABLE: route.stable.digest,
            ANNOTATION_CANDIDATE: route.candidate.digest if route.candidate is not None else "",
        }
        operations = [operation for place in places for operation in place.patch(route.weight)]
        raw.update(apiVersion=HTTP_ROUTE.api_version, kind=HTTP_ROUTE.kind)
        await self._cluster.patch(
            raw, [*operations, {"op": "add", "path": "/metadata/annotations", "value": annotations}]
        )

    async def _remove(self, raw: Raw, rollout: ShadowRollout) -> None:
        """Set the candidate to 0 wherever a route that is no longer as it was names it."""
        candidate = traffic_of(rollout).candidate
        operations: list[Raw] = []
        for rule, index, _ in _candidate_refs(raw, rollout):
            path = f"/spec/rules/{rule}/backendRefs/{index}"
            operations.append({"op": "test", "path": f"{path}/name", "value": candidate.service if candidate else ""})
            operations.append({"op": "replace", "path": f"{path}/weight", "value": 0})
        if operations:
            raw.update(apiVersion=HTTP_ROUTE.api_version, kind=HTTP_ROUTE.kind)
            await self._cluster.patch(raw, operations)


class Place:
    """A rule of the route that names both backends."""

    def __init__(self, rule: int, stable: tuple[int, str], candidate: tuple[int, str], candidate_weight: int) -> None:
        """Name the rule's number, and each backend's number and Service."""
        self._rule = rule
        self._stable = stable
        self._candidate = candidate
        self.candidate_weight = candidate_weight

    def patch(self, weight: int) -> list[Raw]:
        """Return the operations that set both weights; they fail where another backend stands at one's place."""
        operations: list[Raw] = []
        for (number, service), value in ((self._stable, 100 - weight), (self._candidate, weight)):
            path = f"/spec/rules/{self._rule}/backendRefs/{number}"
            operations.append({"op": "test", "path": f"{path}/name", "value": service})
            operations.append({"op": "replace", "path": f"{path}/weight", "value": value})
        return operations


def places_of(raw: Mapping[str, Any], rollout: ShadowRollout) -> list[Place] | str:
    """Return the rules that name both backends, or what is wrong with the route.

    The API server fills in 1 where a weight is left out, so weights that were not spelled out do not add up to 100.
    """
    traffic, name = traffic_of(rollout), http_route_name(rollout)
    if traffic.stable is None or traffic.candidate is None:
        return "spec.traffic needs stable and candidate where adopt is set"
    places = []
    for number, rule in enumerate((raw.get("spec") or {}).get("rules") or []):
        found: dict[tuple[str, int], tuple[int, int]] = {}
        for index, ref in enumerate(rule.get("backendRefs") or []):
            found[str(ref.get("name")), int(ref.get("port") or 0)] = index, int(ref.get("weight", 1))
        stable = found.pop((traffic.stable.service, traffic.stable.port), None)
        candidate = found.pop((traffic.candidate.service, traffic.candidate.port), None)
        if candidate is None:
            continue
        if stable is None or found or stable[1] + candidate[1] != 100:
            return (
                f"HTTPRoute {name}: rule {number} must name {traffic.stable.service} and {traffic.candidate.service} "
                "alone, with explicit weights that add up to 100: write 100 and 0 to begin with"
            )
        places.append(
            Place(number, (stable[0], traffic.stable.service), (candidate[0], traffic.candidate.service), candidate[1])
        )
    if not places:
        return f"HTTPRoute {name}: no rule names {traffic.candidate.service}: add it beside the stable one at weight 0"
    return places


def _candidate_refs(raw: Mapping[str, Any], rollout: ShadowRollout) -> list[tuple[int, int, int]]:
    """Return rule, place and weight of every reference to the candidate."""
    candidate = traffic_of(rollout).candidate
    return [
        (number, index, int(ref.get("weight", 1)))
        for number, rule in enumerate((raw.get("spec") or {}).get("rules") or [])
        for index, ref in enumerate(rule.get("backendRefs") or [])
        if candidate is not None and (ref.get("name"), ref.get("port")) == (candidate.service, candidate.port)
    ]


def _unusable(message: str, *, exists: bool = True) -> RouteView:
    return RouteView(exists=exists, problem=RouterProblem.CONFLICT, message=message)

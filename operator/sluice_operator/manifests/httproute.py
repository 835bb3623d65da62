"""The HTTPRoute of the `httpRoute` router: operator-owned, absent from Git.

`rules` and `backendRefs` are atomic lists, so a weight cannot be co-owned: the whole route is the operator's. It is
named after its hosts and gateways, so that the rollouts of one target share it, one after the other. It carries no
owner reference, because garbage collection must never remove the only route of production traffic; it is recognised
by its labels.
"""

from collections.abc import Mapping
from typing import Any

from sluice_api.cohorts import COHORTS, candidate_cohorts
from sluice_api.contracts.rollout import DRY_RUN_HEADER
from sluice_api.contracts.trace import Variant
from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.shadowrollout_traffic import Backend, Traffic
from sluice_operator.decisions.base import SetRoute
from sluice_operator.manifests.configmap import assignment_of, check_route, traffic_of
from sluice_operator.manifests.naming import owner_labels, route_name

ANNOTATION_STABLE = "sluice.dev/stable-digest"
"""Weights that the stable backend is meant to serve."""
ANNOTATION_CANDIDATE = "sluice.dev/candidate-digest"
"""Weights that the candidate backend is meant to serve; empty without a candidate."""
ANNOTATION_STEP = "sluice.dev/step"
"""Step of the rollout."""
ANNOTATION_ROLLOUT = "sluice.dev/rollout"
"""UID of the rollout that last set the weights of an adopted route."""
ANNOTATION_WEIGHT = "sluice.dev/weight"
"""Candidate's weight as it was last set on an adopted route."""
EVERYTHING: Mapping[str, Any] = {"path": {"type": "PathPrefix", "value": "/"}}
"""A match of every request."""
MATCHES_PER_RULE = 64
"""Matches that the Gateway API allows in one rule; in a whole route it allows 127."""


def http_route_name(rollout: ShadowRollout) -> str:
    """Return the name of the route that carries a rollout's weights."""
    traffic = traffic_of(rollout)
    return traffic.adopt or route_name(
        traffic.hostnames, [(ref.name, ref.section_name or "") for ref in traffic.parent_refs]
    )


def route_spec(traffic: Traffic, *, weight: int, candidate: bool, mirror: int = 0, salt: str = "") -> dict[str, Any]:
    """Return the spec of a route, exactly as the API server gives it back: its defaults are spelled out.

    The first rule has the weights. Where `spec.traffic.cohortHeader` names a header, further ones send each cohort to
    its arm (`sluice_api.cohorts`, by `salt`); at 0 and 100 the weights alone do.

    Raises:
        ValueError: the traffic lacks gateways or backends.
    """
    if traffic.stable is None or traffic.candidate is None or not traffic.parent_refs:
        raise ValueError("spec.traffic needs parentRefs, stable and candidate where router is httpRoute")
    backends = [backend_ref(traffic.stable, 100 - weight)]
    if candidate:
        backends.append(backend_ref(traffic.candidate, weight))
    rules: list[dict[str, Any]] = [{"matches": [dict(EVERYTHING)], "backendRefs": backends}]
    if mirror:
        rules[0]["filters"] = mirror_filters(traffic.candidate, mirror)
    if traffic.cohort_header and 0 < weight < 100:
        rules += cohort_rules(traffic.cohort_header, traffic.stable, traffic.candidate, weight=weight, salt=salt)
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
        "rules": rules,
    }
    if traffic.hostnames:
        spec["hostnames"] = list(traffic.hostnames)
    return spec


def cohort_rules(header: str, stable: Backend, candidate: Backend, *, weight: int, salt: str) -> list[dict[str, Any]]:
    """Return the rules that send each cohort to its arm; a match of path and header goes before one of the path alone.

    Args:
        header: request header that names the cohort.
        stable: serves the cohorts that the candidate does not.
        candidate: serves the cohorts of `weight` and `salt`.
        weight: the candidate's share in per cent.
        salt: of the rollout's assignment.
    """
    served = candidate_cohorts(weight, salt)
    arms = [(candidate, sorted(served)), (stable, sorted(set(range(COHORTS)) - served))]
    rules: list[dict[str, Any]] = []
    for backend, cohorts in arms:
        for start in range(0, len(cohorts), MATCHES_PER_RULE):
            chunk = cohorts[start : start + MATCHES_PER_RULE]
            named = [{"type": "Exact", "name": header, "value": str(cohort)} for cohort in chunk]
            matches = [{**EVERYTHING, "headers": [each]} for each in named]
            rules.append({"matches": matches, "backendRefs": [backend_ref(backend, 100)]})
    return rules


def http_route(rollout: ShadowRollout, route: SetRoute) -> dict[str, Any]:
    """Return the HTTPRoute that brings both weights into force; they add up to 100.

    Raises:
        ValueError: a weight outside 0 to 100, one above 0 without a candidate, or a spec without its backends.
    """
    check_route(route)
    candidate = route.candidate
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": http_route_name(rollout),
            "namespace": rollout.namespace,
            "labels": owner_labels(rollout.crd.kind, rollout.name, rollout.uid),
            "annotations": {
                ANNOTATION_STABLE: route.stable.digest,
                # Empty, not absent: what a take-over wrote is not removed by leaving it out later.
                ANNOTATION_CANDIDATE: candidate.digest if candidate is not None else "",
                ANNOTATION_STEP: str(rollout.status.step),
            },
        },
        "spec": route_spec(
            traffic_of(rollout),
            weight=route.weight,
            candidate=candidate is not None,
            mirror=route.mirror,
            salt=assignment_of(rollout).salt,
        ),
    }


def mirror_filters(candidate: Backend, percent: int) -> list[dict[str, Any]]:
    """Return the filters that copy a share of the requests to the candidate (GEP-3171).

    The gateway throws the answers away; the candidate records them under the request's ID. A filter cannot mark the
    copy alone, so the header names the arm that must stay dry: the stable arm, not meant by it, acts as ever.
    """
    ref = {"group": "", "kind": "Service", "name": candidate.service, "port": candidate.port}
    mark = {"name": DRY_RUN_HEADER, "value": Variant.CANDIDATE.value}
    return [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [mark]}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": ref, "percent": percent}},
    ]


def backend_ref(backend: Backend, weight: int) -> dict[str, Any]:
    """Return a weighted reference. Group and kind are the API server's defaults, spelled out."""
    return {"group": "", "kind": "Service", "name": backend.service, "port": backend.port, "weight": weight}

"""The ConfigMap of the `configMap` router: what the agent's in-process ShadowRouter follows."""

import json
from typing import Any

from sluice_api.contracts.models import Channel
from sluice_api.contracts.rollout import ROUTER_KEY, RouterDocument, ServedModel
from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.shadowrollout_traffic import Assignment, Traffic
from sluice_operator.decisions.base import SetRoute
from sluice_operator.manifests.naming import owner_labels, router_name
from sluice_operator.manifests.pods import owner_reference


def traffic_of(rollout: ShadowRollout) -> Traffic:
    """Return how a rollout's weight reaches the agent: as pinned at its start, before that as the spec says."""
    return rollout.status.traffic or rollout.spec.traffic


def assignment_of(rollout: ShadowRollout) -> Assignment:
    """Return how runs get their arm: as pinned at the rollout's start, before that as the spec says; never unsalted."""
    assignment = rollout.status.assignment or rollout.spec.assignment
    return assignment if assignment.salt else assignment.model_copy(update={"salt": rollout.uid})


def config_map_name(rollout: ShadowRollout) -> str:
    """Return the name of a rollout's ConfigMap."""
    return router_name(rollout.name, traffic_of(rollout).config_map)


def router_document(rollout: ShadowRollout, route: SetRoute) -> RouterDocument:
    """Return the document that brings both weights into force.

    Raises:
        ValueError: a weight outside 0 to 100, one above 0 without a candidate, or a mirror, which needs a gateway.
    """
    check_route(route)
    if route.mirror:
        raise ValueError("a ConfigMap cannot mirror requests: spec.traffic.router must be httpRoute")
    assignment = assignment_of(rollout)
    return RouterDocument(
        rollout=rollout.uid,
        step=rollout.status.step,
        candidate_pct=float(route.weight),
        salt=assignment.salt,
        key=assignment.key,
        stable=served(route.stable),
        candidate=served(route.candidate) if route.candidate is not None else None,
    )


def router_config_map(rollout: ShadowRollout, route: SetRoute) -> dict[str, Any]:
    """Return the ConfigMap that brings both weights into force; errors as `router_document`."""
    document = router_document(rollout, route).model_dump(mode="json")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(rollout),
            "namespace": rollout.namespace,
            "labels": owner_labels(rollout.crd.kind, rollout.name, rollout.uid),
            "ownerReferences": [owner_reference(rollout)],
        },
        "data": {ROUTER_KEY: json.dumps(document, sort_keys=True, indent=1) + "\n"},
    }


def check_route(route: SetRoute) -> None:
    """Refuse weights that no router may have; ValueError says which."""
    if not 0 <= route.weight <= 100:
        raise ValueError(f"a candidate's weight is 0 to 100, not {route.weight}")
    if route.weight > 0 and route.candidate is None:
        raise ValueError(f"weight {route.weight} without a candidate")
    if not 0 <= route.mirror <= 100 or (route.mirror and (route.weight or route.candidate is None)):
        raise ValueError(f"mirror {route.mirror} needs a candidate at weight 0, not {route.weight}")


def served(channel: Channel) -> ServedModel:
    """Return what an arm serves, as the agent reads it."""
    return ServedModel(digest=channel.digest, base_model=channel.base_model, adapter=channel.adapter)

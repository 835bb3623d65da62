"""The ConfigMap of the `configMap` router: what the agent's in-process ShadowRouter follows."""

import json
from typing import Any

from sluice_api.contracts.models import Channel
from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.decisions.base import SetRoute
from sluice_operator.manifests.naming import owner_labels, router_name
from sluice_operator.manifests.pods import owner_reference

ROUTER_KEY = "rollout.json"
"""Key that holds the assignment."""


def router_config_map(rollout: ShadowRollout, route: SetRoute) -> dict[str, Any]:
    """Return the ConfigMap that brings both weights into force.

    Raises:
        ValueError: a weight outside 0 to 100, or one above 0 without a candidate.
    """
    check_route(route)
    spec = rollout.spec
    document = {
        "rollout": rollout.uid,
        "step": rollout.status.step,
        "candidate_pct": float(route.weight),
        "salt": spec.assignment.salt or rollout.uid,
        "key": spec.assignment.key,
        "stable": served(route.stable),
        "candidate": served(route.candidate) if route.candidate is not None else None,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": router_name(rollout.name, spec.traffic.config_map),
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


def served(channel: Channel) -> dict[str, Any]:
    """Return what an arm serves, as the agent reads it."""
    return {
        "digest": channel.digest,
        "base_model": channel.base_model.model_dump(mode="json"),
        "adapter": channel.adapter.model_dump(mode="json") if channel.adapter is not None else None,
    }

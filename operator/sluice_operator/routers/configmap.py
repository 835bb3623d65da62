"""The router of agents that assign arms in their own process: one ConfigMap, one document, both weights in it."""

import json
from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, RouteView, SetRoute
from sluice_operator.errors import ClusterError
from sluice_operator.manifests.configmap import ROUTER_KEY, router_config_map
from sluice_operator.manifests.naming import LABEL_MANAGED_BY, LABEL_OWNER_KIND, MANAGER, router_name
from sluice_operator.resources import CONFIG_MAP, owner_uids


class ConfigMapRouter:
    """Weights in a ConfigMap that the agent's ShadowRouter follows.

    An agent follows one ConfigMap, and its rollouts come one after the other under names of their own: one that has
    not ended may take over a ConfigMap that another rollout left with nothing on its candidate. The patch is bound to
    the version that was read, so a rollout that starts in between keeps it.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Talk to `cluster`."""
        self._cluster = cluster

    async def read(self, rollout: ShadowRollout) -> RouteView:
        """Return what the ConfigMap says."""
        name = router_name(rollout.name, rollout.spec.traffic.config_map)
        try:
            raw = await self._cluster.get(CONFIG_MAP, rollout.namespace, name)
        except ClusterError as error:
            return RouteView(exists=False, problem=RouterProblem.UNREACHABLE, message=str(error))
        if raw is None:
            return RouteView(exists=False)
        if rollout.uid not in owner_uids(raw):
            if not rollout.status.outcome and is_idle(raw):
                return RouteView(exists=False)
            return RouteView(
                exists=True,
                problem=RouterProblem.CONFLICT,
                message=f"ConfigMap {name} is not this rollout's: set spec.traffic.configMap to a free name",
            )
        return view_of(name, (raw.get("data") or {}).get(ROUTER_KEY), rollout.uid)

    async def write(self, rollout: ShadowRollout, route: SetRoute) -> None:
        """Write both weights."""
        manifest = router_config_map(rollout, route)
        raw = await self._cluster.get(CONFIG_MAP, rollout.namespace, manifest["metadata"]["name"])
        if raw is not None and rollout.uid not in owner_uids(raw) and is_idle(raw):
            await self._cluster.take_over(raw, manifest)
        else:
            await self._cluster.apply(manifest, owner=rollout.uid)


def is_idle(raw: Mapping[str, Any]) -> bool:
    """Tell whether the ConfigMap is a rollout's of ours and gives its candidate nothing."""
    labels = (raw.get("metadata") or {}).get("labels") or {}
    if labels.get(LABEL_MANAGED_BY) != MANAGER or labels.get(LABEL_OWNER_KIND) != ShadowRollout.crd.kind:
        return False
    try:
        weight = json.loads((raw.get("data") or {})[ROUTER_KEY])["candidate_pct"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(weight, int | float) and not isinstance(weight, bool) and weight == 0


def view_of(name: str, document: str | None, uid: str) -> RouteView:
    """Return the view of a router document; whatever is not ours or not readable is a foreign edit."""
    problem = f"ConfigMap {name}: {ROUTER_KEY} is not what this rollout wrote"
    try:
        data: Mapping[str, Any] = json.loads(document or "")
        weight = data["candidate_pct"]
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError("candidate_pct is no number")
        stable, candidate = data.get("stable") or {}, data.get("candidate") or {}
        if data.get("rollout") != uid or weight != int(weight) or not 0 <= weight <= 100:
            return RouteView(exists=True, problem=RouterProblem.FOREIGN_EDIT, message=problem)
        return RouteView(
            exists=True,
            weight=int(weight),
            verified=True,
            candidate_digest=str(candidate.get("digest") or ""),
            stable_digest=str(stable.get("digest") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return RouteView(exists=True, problem=RouterProblem.FOREIGN_EDIT, message=problem)

"""The router of agents that assign arms in their own process: one ConfigMap, one document, both weights in it."""

from collections.abc import Mapping
from typing import Any

from sluice_api.contracts.rollout import ROUTER_KEY, RouterDocument, ServedModel
from sluice_api.v1alpha1 import ShadowRollout
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import RouterProblem, RouteView, SetRoute
from sluice_operator.decisions.models import channel_of
from sluice_operator.errors import ClusterError
from sluice_operator.manifests.configmap import assignment_of, config_map_name, router_config_map, served
from sluice_operator.resources import CONFIG_MAP, owner_uids
from sluice_operator.routers.base import is_ours


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
        name = config_map_name(rollout)
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
                message=f"ConfigMap {name} is not this rollout's: set spec.traffic.configMap to a free name, or end "
                "the rollout that has it",
            )
        return view_of(name, (raw.get("data") or {}).get(ROUTER_KEY), rollout)

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
    if not is_ours(raw):
        return False
    try:
        return RouterDocument.read((raw.get("data") or {}).get(ROUTER_KEY) or "").candidate_pct == 0
    except ValueError:
        return False


def view_of(name: str, document: str | None, rollout: ShadowRollout) -> RouteView:
    """Return the view of a router document; whatever this rollout did not write is a foreign edit."""
    try:
        found = RouterDocument.read(document or "")
    except ValueError as error:
        return _foreign(f"ConfigMap {name}: {error}")
    weight = round(found.candidate_pct)
    problems = [text for text, wrong in _differences(found, rollout).items() if wrong]
    if problems:
        return _foreign(f"ConfigMap {name}: somebody else changed {', '.join(problems)}", weight=weight)
    return RouteView(
        exists=True,
        weight=weight,
        verified=True,
        candidate_digest=found.candidate.digest if found.candidate is not None else "",
        stable_digest=found.stable.digest if found.stable is not None else "",
    )


def _foreign(message: str, *, weight: int = 0) -> RouteView:
    return RouteView(exists=True, weight=weight, problem=RouterProblem.FOREIGN_EDIT, message=message)


def _differences(found: RouterDocument, rollout: ShadowRollout) -> dict[str, bool]:
    """Return by field whether it is not what this rollout wrote. Weights and digests are the decision's to compare."""
    assignment = assignment_of(rollout)
    return {
        "rollout": found.rollout != rollout.uid,
        "candidate_pct": found.candidate_pct != round(found.candidate_pct),
        "salt": found.salt != assignment.salt,
        "key": found.key != assignment.key,
        "stable": not _is_pinned(found.stable, rollout),
        "candidate": not _is_pinned(found.candidate, rollout),
    }


def _is_pinned(arm: ServedModel | None, rollout: ShadowRollout) -> bool:
    """Tell whether an arm serves its digest from where the rollout pinned it; an unknown digest is not judged here."""
    if arm is None:
        return True
    status, channel = rollout.status, rollout.spec.stable.channel
    pinned = [model for model in (status.stable_model, status.candidate_model) if model is not None]
    return all(arm == served(channel_of(channel, model)) for model in pinned if model.digest == arm.digest)

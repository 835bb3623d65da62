"""Which rollouts stand in each other's way: two candidates for one channel never carry traffic at the same time."""

from collections.abc import Iterable, Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout

FOREIGN = "a rollout of another namespace"
"""What is told of a rival in another namespace."""


def rivals_of(rollout: ShadowRollout, others: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the rollouts that must end before `rollout` may take traffic, as `namespace/name`, sorted.

    Those of other namespaces are not named: a status tells a tenant nothing of what others have.

    `others` are raw ShadowRollouts; the rollout itself and those for other channels are left out. One that is under way
    (has a step and no outcome) blocks every other. Two that have just decided to start at the same time are told apart
    by age, then by namespace and name: the older one goes first. One that merely waits, or was refused, blocks nobody.
    """
    target = (_root(rollout.spec.stable.root), rollout.spec.stable.channel)
    mine = _rank(rollout.namespace, rollout.name, rollout.metadata)
    carries = rollout.status.weight.actual > 0
    found = []
    for raw in others:
        metadata, spec, status = (raw.get(part) or {} for part in ("metadata", "spec", "status"))
        stable = spec.get("stable") or {}
        if metadata.get("uid") == rollout.uid:
            continue
        if (_root(str(stable.get("root", ""))), stable.get("channel", "stable")) != target:
            continue
        they_carry = int((status.get("weight") or {}).get("actual") or 0) > 0
        if (not status.get("step") or status.get("outcome")) and not they_carry:
            continue
        namespace, name = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
        theirs = _rank(namespace, name, metadata)
        contested = rollout.status.step > 0 and not rollout.status.outcome
        first = theirs < mine if they_carry == carries else they_carry
        if first or not contested:
            found.append(f"{namespace}/{name}" if namespace == rollout.namespace else FOREIGN)
    return tuple(sorted(set(found)))


def _root(uri: str) -> str:
    return uri.rstrip("/")


def _rank(namespace: str, name: str, metadata: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(metadata.get("creationTimestamp") or ""), namespace, name

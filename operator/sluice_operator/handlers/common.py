"""What the handlers of all kinds share: from a watch event to a wish in the queue.

Only kopf's low-level event handlers are used. They see everything that create, update, resume and delete handlers would
(the first listing included), but write nothing into the object: no annotations, no finalizer, no progress, so that none
of kopf's own patches can fail or fight with Git. Finalizer, retries and timers belong to the reconciler.
"""

from typing import Any, Protocol

import kopf

from sluice_operator.manifests.naming import LABEL_OWNER_KIND, LABEL_OWNER_UID
from sluice_operator.resources import OWN, Resource


class Waker(Protocol):
    """What handlers call: `sluice_operator.reconcile.Reconciler`."""

    def seen(self, kind: str, namespace: str, name: str, uid: str, version: str, *, gone: bool) -> None:
        """Take note of an object of one of the five kinds."""

    def child_seen(self, owner_uid: str) -> None:
        """Take note of a child."""


def watch_own(registry: kopf.OperatorRegistry, kind: str, waker: Waker) -> None:
    """Reconcile objects of `kind`, and wake what refers to them, whenever they appear, change or go."""
    resource = OWN[kind]

    @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=f"{kind}-seen")
    async def seen(event: Any, **_: Any) -> None:
        metadata = event["object"]["metadata"]
        waker.seen(
            kind,
            metadata["namespace"],
            metadata["name"],
            metadata["uid"],
            metadata["resourceVersion"],
            gone=event["type"] == "DELETED",
        )


def watch_children(registry: kopf.OperatorRegistry, kind: str, waker: Waker, *resources: Resource) -> None:
    """Reconcile the owner, of `kind`, whenever one of its children appears, changes or goes."""
    for resource in resources:

        @kopf.on.event(
            resource.group,
            resource.version,
            resource.plural,
            labels={LABEL_OWNER_KIND: kind},
            registry=registry,
            id=f"{kind}-child-{resource.plural}",
        )
        async def child_seen(event: Any, **_: Any) -> None:
            labels = event["object"]["metadata"].get("labels") or {}
            waker.child_seen(str(labels.get(LABEL_OWNER_UID)))

"""Carries out a decision: its actions one by one, then the status.

The first action that fails ends the list, and nothing of the decision's status is written: the next reconciliation
starts from what is true. A status that equals the present one is not written.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.common import FINALIZER, SluiceObject
from sluice_artifacts import ArtifactError, move_channel
from sluice_artifacts import ConflictError as ArtifactConflictError
from sluice_operator.backends.base import JobKey
from sluice_operator.decisions.base import (
    Action,
    ApplyChild,
    CreateOnce,
    Decision,
    EmitEvent,
    MoveChannel,
    SetFinalizer,
    SetRoute,
    Settings,
    StopJob,
    SubmitJob,
)
from sluice_operator.decisions.roots import input_outside_roots
from sluice_operator.errors import ConflictError, NotFoundError, StorageError, StorageNotAllowedError
from sluice_operator.events import EventRecorder
from sluice_operator.manifests.configmap import traffic_of
from sluice_operator.observe import Surroundings

logger = logging.getLogger(__name__)

Raw = dict[str, Any]


class Applier:
    """Carries out decisions on one cluster."""

    def __init__(self, world: Surroundings, events: EventRecorder) -> None:
        """Act on `world`, record events with `events`."""
        self._world = world
        self._events = events

    async def apply(self, raw: Raw, obj: SluiceObject, decision: Decision) -> Raw:
        """Carry out `decision` on the object as it was read; return the object as it is now.

        Raises the first error of an action or of the status patch.
        """
        for action in decision.actions:
            raw = await self._act(raw, obj, action)
        if (raw["metadata"].get("deletionTimestamp")) and not raw["metadata"].get("finalizers"):
            return raw
        return await self.write_status(raw, decision.status)

    async def write_status(self, raw: Raw, status: Mapping[str, Any]) -> Raw:
        """Replace the status where it differs; an object that is gone needs none."""
        if dict(status) == (raw.get("status") or {}):
            return raw
        try:
            return await self._world.cluster.replace_status(raw, status)
        except NotFoundError:
            return raw

    async def _act(self, raw: Raw, obj: SluiceObject, action: Action) -> Raw:
        world = self._world
        match action:
            case SubmitJob():
                _check_places(obj, action, world.settings)
                key = JobKey(name=action.name, namespace=obj.namespace, owner=obj.uid)
                backend = world.backends[action.profile.backend]
                world.cluster.guard()
                await backend.submit(key, action.profile, action.job_input, workers=action.workers, owner=obj)
            case StopJob():
                key = JobKey(name=action.name, namespace=obj.namespace, owner=obj.uid)
                world.cluster.guard()
                await world.backends[action.profile.backend].stop(key, action.profile)
            case ApplyChild():
                await world.cluster.apply(action.manifest, owner=obj.uid)
            case CreateOnce():
                await world.cluster.create_once(action.manifest, owner=obj.uid)
            case SetRoute():
                if not isinstance(obj, ShadowRollout):
                    raise TypeError(f"{obj.kind} has no route")
                await world.routers[traffic_of(obj).router].write(obj, action)
            case MoveChannel():
                world.cluster.guard()
                await _move(action)
            case EmitEvent():
                await self._events.record(raw, action)
            case SetFinalizer():
                return await self._set_finalizer(raw, action)
        return raw

    async def _set_finalizer(self, raw: Raw, action: SetFinalizer) -> Raw:
        try:
            return await self._world.cluster.set_finalizer(raw, FINALIZER, present=action.present)
        except NotFoundError:
            if action.present:
                raise
            return {**raw, "metadata": {**raw["metadata"], "finalizers": []}}


def _check_places(obj: SluiceObject, action: SubmitJob, settings: Settings) -> None:
    """Refuse a job whose input names a place of another namespace: a result that was tampered with may name any."""
    problem = input_outside_roots(obj, action.job_input.model_dump(mode="json", exclude_none=True), settings)
    if problem:
        raise StorageNotAllowedError(f"job {action.name} is not submitted: {problem}")


async def _move(action: MoveChannel) -> None:
    try:
        await asyncio.to_thread(move_channel, action.root, action.channel, etag=action.etag)
    except ArtifactConflictError as error:
        raise ConflictError(f"channel {action.channel.name} moved meanwhile: {error}") from error
    except ArtifactError as error:
        raise StorageError(str(error)) from error

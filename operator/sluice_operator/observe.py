"""Gathers the facts that a decision needs: exactly those that `wanted(obj)` names, and nothing else.

Whatever cannot be known is reported as such and never as absent: an unreachable backend is `JobState.UNKNOWN`, an
unreadable store a `storage_problem`. Only the Kubernetes API itself raises, because nothing can be told without it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sluice_api.contracts.jobs import PROGRESS_FILE, RESULT_FILE, Progress, Result
from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.common import SluiceObject
from sluice_artifacts import (
    ArtifactError,
    NotFoundError,
    digest_bytes,
    join,
    open_store,
    read_channel,
)
from sluice_operator.backends.base import ComputeBackend, JobKey
from sluice_operator.cluster import Cluster
from sluice_operator.decisions.base import (
    AttemptView,
    Backend,
    ChannelView,
    GuardView,
    JobState,
    JobView,
    Observed,
    Profile,
    RouteView,
    Settings,
)
from sluice_operator.decisions.rivals import rivals_of
from sluice_operator.decisions.wants import AttemptWant, Wants
from sluice_operator.errors import ProfileError
from sluice_operator.guards import ask
from sluice_operator.manifests.configmap import traffic_of
from sluice_operator.profiles import ProfileSource
from sluice_operator.resources import OWN, RESOURCES, owner_uids
from sluice_operator.routers.base import Router
from sluice_operator.storage import bounded

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Everything that observing and applying reach out to."""

    cluster: Cluster
    """Kubernetes."""
    profiles: ProfileSource
    """Compute profiles."""
    backends: Mapping[Backend, ComputeBackend]
    """Compute backends."""
    routers: Mapping[str, Router]
    """Routers, by `spec.traffic.router`."""
    settings: Settings = field(default_factory=Settings)
    """Configuration that decisions need."""
    scope: str | None = None
    """Namespace in which rollouts may compete; None for the whole cluster."""


async def observe(obj: SluiceObject, wants: Wants, world: Surroundings) -> Observed:
    """Return the facts about `obj`. Raises ClusterError when the Kubernetes API does not give its part."""
    profile, profile_problem = await _profile(wants.profile, world)
    (references, route, rivals, guards), (channel, (suite_digest, storage_problem), attempt) = await asyncio.gather(
        asyncio.gather(
            _references(obj, wants, world),
            _route(obj, wants, world),
            _rivals(obj, wants, world),
            _guards(obj, wants, world),
        ),
        asyncio.gather(
            _channel(wants.channel if not obj.deleting else None),
            _suite_digest(wants.suite_uri if not obj.deleting else None),
            _attempt(obj, wants.attempt, profile, profile_problem, world),
        ),
    )
    return Observed(
        settings=world.settings,
        profile=profile,
        profile_problem=profile_problem,
        attempt=attempt,
        references=references,
        children={key: raw for key, raw in references.items() if raw is not None and obj.uid in owner_uids(raw)},
        rivals=rivals,
        channel=channel,
        route=route,
        guards=guards,
        suite_digest=suite_digest,
        storage_problem=storage_problem,
    )


async def _profile(name: str, world: Surroundings) -> tuple[Profile | None, str]:
    if not name:
        return None, ""
    try:
        return await world.profiles.get(name), ""
    except ProfileError as error:
        return None, str(error)


async def _references(obj: SluiceObject, wants: Wants, world: Surroundings) -> dict[str, dict[str, Any] | None]:
    async def read(kind: str, name: str) -> dict[str, Any] | None:
        return await world.cluster.get(RESOURCES[kind], obj.namespace, name)

    found = await asyncio.gather(*(read(kind, name) for kind, name in wants.references))
    return {f"{kind}/{name}": raw for (kind, name), raw in zip(wants.references, found, strict=True)}


async def _attempt(
    obj: SluiceObject, want: AttemptWant | None, profile: Profile | None, profile_problem: str, world: Surroundings
) -> AttemptView | None:
    if want is None:
        return None
    # The job first, the files after it: a job that ends in between must not look like one without a result.
    if profile is None:
        job = JobView(name=want.job, state=JobState.UNKNOWN, reason="ProfileInvalid", message=profile_problem)
    else:
        key = JobKey(name=want.job, namespace=obj.namespace, owner=obj.uid)
        job = await world.backends[profile.backend].status(key, profile)
    if obj.deleting:
        return AttemptView(job=job)
    (result, result_problem), (progress, progress_problem) = await asyncio.gather(
        _document(want.output_uri, RESULT_FILE, Result), _document(want.output_uri, PROGRESS_FILE, Progress)
    )
    return AttemptView(job=job, progress=progress, result=result, storage_problem=result_problem or progress_problem)


async def _document(prefix: str, name: str, model: type[M]) -> tuple[M | None, str]:
    """Return a worker's file, None while it is not there, and why it could not be read."""
    if not prefix:
        return None, ""
    uri = join(prefix, name)
    try:
        data = await bounded(uri, lambda: open_store(uri).read(uri))
        return model.model_validate_json(data), ""
    except NotFoundError:
        return None, ""
    except ArtifactError as error:
        return None, str(error)
    except ValidationError as error:
        return None, f"{uri} is no {model.__name__}: {error.error_count()} errors, first {_first(error)}"


async def _suite_digest(uri: str | None) -> tuple[str, str]:
    if uri is None:
        return "", ""
    try:
        return digest_bytes(await bounded(uri, lambda: open_store(uri).read(uri))), ""
    except ArtifactError as error:
        return "", str(error)


async def _channel(place: tuple[str, str] | None) -> ChannelView | None:
    if place is None:
        return None
    try:
        found = await bounded(place[0], lambda: read_channel(*place))
    except ArtifactError as error:
        return ChannelView(channel=None, problem=str(error))
    if found is None:
        return ChannelView(channel=None)
    channel, etag = found
    return ChannelView(channel=channel, etag=etag)


async def _guards(obj: SluiceObject, wants: Wants, world: Surroundings) -> Mapping[str, GuardView]:
    if not wants.guards or not isinstance(obj, ShadowRollout) or obj.deleting:
        return {}
    return await ask(world.settings.prometheus, obj.spec.analysis.guards)


async def _route(obj: SluiceObject, wants: Wants, world: Surroundings) -> RouteView | None:
    if not wants.route or not isinstance(obj, ShadowRollout):
        return None
    return await world.routers[traffic_of(obj).router].read(obj)


async def _rivals(obj: SluiceObject, wants: Wants, world: Surroundings) -> tuple[str, ...]:
    if not wants.rivals or not isinstance(obj, ShadowRollout) or obj.deleting:
        return ()
    others = await world.cluster.list(OWN["ShadowRollout"], world.scope)
    return rivals_of(obj, others)


def _first(error: ValidationError) -> str:
    entry = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}"

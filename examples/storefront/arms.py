"""Which weights serve a run: those that the request names, or those of the arm that the router gives it."""

import asyncio
import logging
from dataclasses import dataclass

from sluice_api.contracts.base import ArtifactRef, Contract, Digest, ModelRef
from sluice_api.contracts.trace import Variant
from sluice_artifacts import ArtifactError
from sluice_runtime import ChannelResolver, RolloutFollower, ServedModel
from sluice_runtime.engine import BASE
from sluice_runtime.errors import AdapterError, SluiceRuntimeError
from sluice_runtime.follower import STABLE_ONLY
from sluice_runtime.server import ModelServer

_log = logging.getLogger(__name__)


class RequestedModel(Contract):
    """Weights that a request names."""

    digest: Digest
    """Digest of the adapter, or of the base model."""
    base_model: ModelRef | None = None
    """Base weights; None takes those that the agent has."""
    adapter: ArtifactRef | None = None
    """Adapter on the base."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Weights that serve a run, ready to answer."""

    model: str
    """Name for the model server: `base` or the adapter's digest."""
    digest: str
    """Digest of the weights, for the trace."""
    variant: str = ""
    """Arm, `baseline` outside a rollout; empty where the run belongs to none."""
    rollout: str = ""
    """UID of the rollout; empty outside one."""


class Arms:
    """Chooses the weights of each run and has them loaded.

    Args:
        server: the model server, in this process.
        base_digest: digest of the base model that it serves.
        resolver: names the stable weights outside a rollout.
        follower: holds the assignment of a rollout; None means that there never is one.
        variant: arm of every run where nothing is followed: behind a gateway each arm has a deployment of its own.
    """

    def __init__(
        self,
        server: ModelServer,
        base_digest: str,
        resolver: ChannelResolver,
        follower: RolloutFollower | None,
        *,
        variant: Variant = Variant.BASELINE,
    ) -> None:
        self._server = server
        self._base_digest = base_digest
        self._resolver = resolver
        self._follower = follower
        self.variant = variant

    async def requested(self, model: RequestedModel) -> Serving:
        """The weights that a request names.

        Raises:
            AdapterError: they belong to another base model, or do not fit.
            ArtifactError: they cannot be fetched, or do not verify.
        """
        base = model.base_model.digest if model.base_model is not None else None
        return Serving(model=await self._load(model.digest, base, model.adapter), digest=model.digest)

    async def placed(self, *, tenant_id: str, run_id: str) -> Serving:
        """The weights of the arm that production traffic is given.

        When the candidate's weights cannot be served, the shopper is served by the stable ones; such a run belongs to
        no arm, so that it counts as evidence for neither.

        Raises:
            SluiceRuntimeError, ArtifactError: not even the stable weights can be served.
        """
        assignment = self._follower.current if self._follower is not None else STABLE_ONLY
        placement = assignment.place(tenant_id=tenant_id, run_id=run_id)
        variant, rollout = str(placement.variant if self._follower is not None else self.variant), placement.rollout
        if placement.variant is Variant.CANDIDATE and placement.model is not None:
            try:
                return await self._serving(placement.model, variant, rollout)
            except (ArtifactError, SluiceRuntimeError, ValueError) as error:
                _log.error("the candidate %s cannot be served: %s", placement.model.digest, error)
                variant = rollout = ""
        stable = assignment.stable
        if stable is None:
            stable = await asyncio.to_thread(self._resolver.resolve)
        return await self._serving(stable, variant, rollout)

    async def _serving(self, served: ServedModel, variant: str, rollout: str) -> Serving:
        name = await self._load(served.digest, served.base_model.digest, served.adapter)
        return Serving(model=name, digest=served.digest, variant=variant, rollout=rollout)

    async def _load(self, digest: str, base: str | None, adapter: ArtifactRef | None) -> str:
        if base is not None and base != self._base_digest:
            raise AdapterError(f"weights {digest} need base model {base}; this agent serves {self._base_digest}")
        if adapter is None:
            if digest != self._base_digest:
                raise AdapterError(f"{digest} is not the base model {self._base_digest}, and no adapter is named")
            return BASE
        if adapter.digest != digest:
            raise AdapterError(f"the model is {digest}, its adapter {adapter.digest}: they must be the same")
        await self._server.load_adapter(adapter)
        return digest

"""`rollout.json`: what the operator asks of an agent that assigns arms in its own process.

The operator writes it into a ConfigMap, the agent's follower reads it. Both sides use this one model.
"""

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from sluice_api.contracts.base import ArtifactRef, Contract, Digest, ModelRef

ROUTER_KEY = "rollout.json"
"""Key of the ConfigMap that holds the document."""
DRY_RUN_HEADER = "X-Sluice-Dry-Run"
"""Request header that names the arm whose tools must not act: `candidate` while requests are mirrored to it."""
REQUEST_ID_HEADER = "X-Request-Id"
"""Request header that gateways set, copies included: it joins what both arms made of one request."""


class ServedModel(Contract):
    """Weights that an arm serves."""

    digest: Digest
    """Digest of the adapter, or of the base model where there is no adapter."""
    base_model: ModelRef
    """Base weights."""
    adapter: ArtifactRef | None = None
    """Adapter on the base; None serves the base alone."""


class RouterDocument(Contract):
    """How runs are spread over two arms, and what each arm serves."""

    rollout: str = ""
    """UID of the ShadowRollout; empty outside a rollout."""
    step: int = Field(default=0, ge=0)
    """Step of the rollout."""
    candidate_pct: float = Field(default=0.0, ge=0.0, le=100.0, allow_inf_nan=False)
    """Share of the candidate in per cent."""
    salt: str = ""
    """Salt of the buckets."""
    key: Literal["tenant", "run"] = "run"
    """What sticks to an arm: a tenant, or a single run."""
    stable: ServedModel | None = None
    """Weights of the baseline; None means those of the stable channel."""
    candidate: ServedModel | None = None
    """Weights of the candidate; None only at a share of 0."""

    @model_validator(mode="after")
    def _is_servable(self) -> Self:
        if self.candidate_pct > 0 and self.candidate is None:
            raise ValueError(f"candidate_pct is {self.candidate_pct:g} without a candidate")
        if self.rollout and self.stable is None:
            raise ValueError("a rollout without stable weights")
        return self

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a document that the operator wrote: nothing of it may be missing.

        Raises:
            ValueError: it is not one; names the field.
        """
        try:
            document = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "document"
            raise ValueError(f"{ROUTER_KEY}: {place}: {first['msg']}") from None
        required = {"rollout", "candidate_pct", "salt", "key", "stable"}
        if missing := sorted(required - document.model_fields_set):
            raise ValueError(f"{ROUTER_KEY}: {', '.join(missing)}: missing")
        if not document.rollout:
            raise ValueError(f"{ROUTER_KEY}: rollout: empty")
        return document

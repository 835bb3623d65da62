"""References to weights: what a FineTuneRun or a channel offers to those that serve or judge it."""

from typing import Any

from sluice_api.contracts.base import ArtifactRef, ModelRef
from sluice_api.contracts.models import Channel
from sluice_api.v1alpha1 import FineTuneRun
from sluice_api.v1alpha1.shadowrollout import ServedModel
from sluice_operator.decisions.common import Facts, Mood, Objection, reference
from sluice_operator.decisions.reasons import Phase, Reason


def short(digest: str | None) -> str:
    """Return a digest short enough for a message."""
    return (digest or "unknown")[:19]


def trained(facts: Facts[Any], name: str, field: str) -> FineTuneRun | Objection:
    """Return a FineTuneRun that has its adapter, or why there is none; `field` is where the spec names it."""
    run = reference(facts, FineTuneRun, name)
    if isinstance(run, Objection) or run.status.adapter is not None:
        return run
    if run.status.phase == Phase.FAILED:
        return Objection(
            reason=Reason.CANDIDATE_FAILED,
            message=f"{field}: FineTuneRun/{name} failed with {run.status.reason} and will have no adapter; "
            "name another run",
        )
    told = f"{run.status.phase}: {run.status.message}" if run.status.message else run.status.phase
    return Objection(
        reason=Reason.CANDIDATE_NOT_READY,
        message=f"{field}: FineTuneRun/{name} has no adapter yet ({told})",
        mood=Mood.WORKING,
    )


def served_by_run(run: FineTuneRun) -> ServedModel:
    """Return what serving a finished run's adapter needs."""
    adapter = run.status.adapter
    if adapter is None:
        raise ValueError(f"FineTuneRun/{run.name} has no adapter")
    return ServedModel(
        digest=adapter.digest,
        base_uri=run.spec.base_model.uri,
        base_revision=run.spec.base_model.revision,
        base_digest=run.status.inputs.base_model or run.spec.base_model.digest,
        adapter_uri=adapter.uri,
    )


def served_by_channel(channel: Channel) -> ServedModel:
    """Return what serving a channel's weights needs."""
    return ServedModel(
        digest=channel.digest,
        base_uri=channel.base_model.uri,
        base_revision=channel.base_model.revision,
        base_digest=channel.base_model.digest,
        adapter_uri=channel.adapter.uri if channel.adapter is not None else None,
    )


def base_of(model: ServedModel) -> ModelRef:
    """Return the base weights of a pinned model."""
    return ModelRef(uri=model.base_uri, revision=model.base_revision, digest=model.base_digest)


def adapter_of(model: ServedModel) -> ArtifactRef | None:
    """Return the adapter of a pinned model; None where the base is served alone."""
    return None if model.adapter_uri is None else ArtifactRef(uri=model.adapter_uri, digest=model.digest)


def channel_of(name: str, model: ServedModel) -> Channel:
    """Return a pinned model in the form that routers and channels speak."""
    return Channel(name=name, digest=model.digest, base_model=base_of(model), adapter=adapter_of(model))

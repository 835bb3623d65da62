"""Children that outlive their makers: a dataset version's lineage and a rollout's step scorecards.

They carry labels, never owner references: deleting a dataset or a rollout must not erase a model's history.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sluice_api.v1alpha1 import EvalRun, FineTuneRun, PromotionScorecard, ShadowRollout, TraceDataset
from sluice_api.v1alpha1.common import API_VERSION, SluiceObject
from sluice_api.v1alpha1.tracedataset import OnNewVersion
from sluice_operator.manifests.naming import (
    LABEL_DATASET_DIGEST,
    LABEL_ROUND,
    LABEL_STEP,
    digest_hex,
    lineage_name,
    owner_labels,
    step_scorecard_name,
)

Manifest = dict[str, Any]


class TemplateError(ValueError):
    """A template of `spec.onNewVersion` does not make a valid spec; the message names the field."""


def lineage(dataset: TraceDataset, digest: str) -> list[Manifest]:
    """Return the children of a dataset version, in the order in which they depend on each other.

    References between them are filled in; what a template says of them is replaced.

    Raises:
        TemplateError: a template is invalid, or needs one that is not given.
    """
    templates = dataset.spec.on_new_version
    if templates is None:
        return []
    name = lineage_name(dataset.name, digest)
    labels = {
        **owner_labels(dataset.crd.kind, dataset.name, dataset.uid),
        LABEL_DATASET_DIGEST: digest_hex(digest)[:12],
    }
    return [
        _child(model, name, dataset.namespace, labels, spec)
        for model, spec in _specs(templates, dataset.name, name, digest)
    ]


def _specs(
    templates: OnNewVersion, dataset: str, name: str, digest: str
) -> list[tuple[type[SluiceObject], Mapping[str, Any]]]:
    trained, ref = {"fineTuneRunRef": {"name": name}}, {"name": name}
    result: list[tuple[type[SluiceObject], Mapping[str, Any]]] = []
    if templates.fine_tune_run is not None:
        result.append((FineTuneRun, {**templates.fine_tune_run, "datasetRef": {"name": dataset, "digest": digest}}))
    elif any(t is not None for t in (templates.eval_run, templates.promotion_scorecard, templates.shadow_rollout)):
        raise TemplateError("spec.onNewVersion: evalRun, promotionScorecard and shadowRollout need fineTuneRun")
    if templates.eval_run is not None:
        result.append((EvalRun, {**templates.eval_run, "candidate": trained}))
    if templates.promotion_scorecard is not None:
        spec = {**templates.promotion_scorecard, "candidate": trained}
        if templates.eval_run is not None:
            spec["evalRunRef"] = ref
        result.append((PromotionScorecard, spec))
    if templates.shadow_rollout is not None:
        spec = {**templates.shadow_rollout, "candidate": trained}
        if templates.promotion_scorecard is not None:
            spec["scorecardRef"] = ref
        result.append((ShadowRollout, spec))
    return result


def step_scorecard(
    rollout: ShadowRollout,
    *,
    round_number: int,
    step: int,
    attempt: int,
    candidate_digest: str,
    summary_uri: str,
    summary_digest: str,
) -> Manifest:
    """Return the scorecard that judges one analysis of one step, for exactly these weights."""
    options = rollout.spec.scorecard
    labels = {
        **owner_labels(rollout.crd.kind, rollout.name, rollout.uid),
        LABEL_ROUND: str(round_number),
        LABEL_STEP: str(step),
    }
    spec = {
        "tier": options.tier,
        "candidate": {"digest": candidate_digest},
        "shadow": {
            "rolloutRef": {"name": rollout.name},
            "step": step,
            "summaryUri": summary_uri,
            "summaryDigest": summary_digest,
        },
        "requiredGates": list(options.required_gates),
        "validFor": options.valid_for,
        "output": rollout.spec.output,
        "profile": rollout.spec.profile,
    }
    name = step_scorecard_name(rollout.name, rollout.uid, round_number, step, attempt)
    return _child(PromotionScorecard, name, rollout.namespace, labels, spec)


def _child(
    model: type[SluiceObject], name: str, namespace: str, labels: Mapping[str, str], spec: Mapping[str, Any]
) -> Manifest:
    """Return a child whose spec has passed its kind's validation."""
    kind = model.crd.kind
    try:
        model.model_validate({"kind": kind, "metadata": {"name": name}, "spec": spec})
    except ValidationError as error:
        raise TemplateError(f"{kind} {_first(error)}") from None
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": dict(spec),
    }


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"

"""The tokens that a run sends to its agent and endpoints: which it names, and how its worker gets them.

A pod gets exactly the keys that its run names, each in a variable of Sluice's own, so that no name that a tenant
chooses can stand for another variable of the worker. On a Ray cluster that already runs, the key is a variable of the
cluster's nodes. What may be named is the profile's to say (`tokenSecrets`).
"""

from typing import Any

from sluice_api.contracts.jobs import AGENT_TOKEN_VARIABLE, BASELINE_TOKEN_VARIABLE, CANDIDATE_TOKEN_VARIABLE
from sluice_api.v1alpha1 import EvalRun
from sluice_api.v1alpha1.common import SluiceObject
from sluice_api.v1alpha1.evalrun import EvalRunSpec, SecretKeyRef
from sluice_operator.decisions.base import Backend, Profile

TARGET_VARIABLES = {"candidate": CANDIDATE_TOKEN_VARIABLE, "baseline": BASELINE_TOKEN_VARIABLE}
"""Variable of the token for a target's endpoint, by the target's field in the spec."""


def token_refs(spec: EvalRunSpec) -> list[tuple[str, str, SecretKeyRef]]:
    """Return each token that a spec names: its field, its variable in a pod, its Secret and key."""
    named = []
    for field, target in (("candidate", spec.candidate), ("baseline", spec.baseline)):
        endpoint = target.endpoint if target is not None else None
        if endpoint is not None and endpoint.token_secret_ref is not None:
            place = f"spec.{field}.endpoint.tokenSecretRef"
            named.append((place, TARGET_VARIABLES[field], endpoint.token_secret_ref))
    if spec.agent is not None and spec.agent.token_secret_ref is not None:
        named.append(("spec.agent.tokenSecretRef", AGENT_TOKEN_VARIABLE, spec.agent.token_secret_ref))
    return named


def token_variable(profile: Profile | None, variable: str, ref: SecretKeyRef | None) -> str | None:
    """Return the worker's variable that holds a token: `variable` in a pod of ours, the key where the nodes are not.

    None where no token is named.
    """
    if ref is None:
        return None
    return ref.key if profile is not None and profile.backend is Backend.RAY else variable


def token_environment(obj: SluiceObject) -> list[dict[str, Any]]:
    """Return the entries of a container's `env` for the tokens that a run names."""
    if not isinstance(obj, EvalRun):
        return []
    return [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}
        for _, variable, ref in token_refs(obj.spec)
    ]

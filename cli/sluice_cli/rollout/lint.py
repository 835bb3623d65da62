"""Checks ShadowRollout manifests before they are applied: the schema, the operator's own checks, and advice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sluice_api.v1alpha1 import ShadowRollout
from sluice_api.v1alpha1.common import API_VERSION

Raw = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One remark about a manifest."""

    path: Path
    line: int
    """Line on which the document begins, from 1."""
    field: str
    message: str
    advice: bool = False
    """True: it works, but may not do what is wanted."""

    def __str__(self) -> str:
        """`file:line: field: message`."""
        kind = "advice" if self.advice else "error"
        return f"{self.path}:{self.line}: {kind}: {self.field}: {self.message}"


class UnreadableError(Exception):
    """A file cannot be read as YAML; the message says where."""


def lint(path: Path) -> tuple[int, list[Finding]]:
    """Return how many ShadowRollouts a file has, and what is wrong with them. Raises UnreadableError."""
    findings: list[Finding] = []
    count = 0
    for line, document in documents(path):
        if document.get("kind") != "ShadowRollout":
            continue
        count += 1
        findings += _check(path, line, document)
    return count, findings


def documents(path: Path) -> Iterator[tuple[int, Raw]]:
    """Yield the objects of a YAML file with the line on which each begins. Raises UnreadableError."""
    try:
        text = path.read_text(encoding="utf-8")
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if node is None:
                continue
            found = yaml.safe_load(yaml.serialize(node))
            if isinstance(found, Mapping):
                yield node.start_mark.line + 1, found
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnreadableError(f"{path}: {error}") from error


def _check(path: Path, line: int, document: Raw) -> list[Finding]:
    if document.get("apiVersion") != API_VERSION:
        message = f"must be {API_VERSION}, is {document.get('apiVersion')}"
        return [Finding(path=path, line=line, field="apiVersion", message=message)]
    if not (document.get("metadata") or {}).get("name"):
        return [Finding(path=path, line=line, field="metadata.name", message="is missing")]
    try:
        rollout = ShadowRollout.model_validate(document)
    except ValidationError as error:
        return [
            Finding(path=path, line=line, field=".".join(str(part) for part in each["loc"]), message=each["msg"])
            for each in error.errors(include_url=False, include_input=False)
        ]
    found = [Finding(path=path, line=line, field="spec", message=message) for message in _objections(rollout)]
    advice = [
        Finding(path=path, line=line, field=name, message=message, advice=True)
        for name, message in (() if found else _advice(rollout))
    ]
    return found + advice


def _objections(rollout: ShadowRollout) -> Iterator[str]:
    """Yield what the operator would refuse."""
    from sluice_operator.decisions.base import Now, Observed, Settings
    from sluice_operator.decisions.common import Facts
    from sluice_operator.decisions.shadowrollout_start import SPEC_CHECKS
    from sluice_operator.reconcile import utc_now

    facts = Facts(obj=rollout, observed=Observed(settings=Settings()), now=Now(instant=utc_now()))
    for check in SPEC_CHECKS:
        objection = check(facts)
        if objection is not None:
            yield objection.message


def _advice(rollout: ShadowRollout) -> Iterator[tuple[str, str]]:
    """Yield what works and may surprise."""
    from sluice_operator.decisions.duration import parse_duration

    spec = rollout.spec
    if spec.scorecard_ref is None:
        yield "spec.scorecardRef", "is left out: traffic moves without an offline scorecard"
    late = parse_duration(spec.analysis.interval) + parse_duration(spec.analysis.maturity)
    for place, step in enumerate(spec.steps):
        if parse_duration(step.soak) < late:
            yield (
                f"spec.steps[{place}].soak",
                f"{step.soak} is shorter than analysis.interval and analysis.maturity together: the step waits longer",
            )
    if spec.steps[0].weight > 25:
        yield "spec.steps[0].weight", f"{spec.steps[0].weight} % of the users meet the candidate before any evidence"
    if parse_duration(spec.bake).total_seconds() == 0:
        yield "spec.bake", "is 0s: the channel moves as soon as the last step's evidence is in"
    steps = [number for number in spec.approval if number > len(spec.steps)]
    if steps:
        yield "spec.approval", f"names step {steps[0]}, and there are {len(spec.steps)}"

"""Evidence from plain JSON documents, ours or the seed's, or somebody's by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sluice_api.contracts.evaluation import EvalReport
from sluice_api.contracts.shadow import ShadowSummary
from sluice_artifacts import canonical_json, digest_bytes
from sluice_evaluator.runs import read_folder
from sluice_evaluator.scorecard.evidence import Evidence


def label_reasons_of(folder: Path) -> tuple[dict[str, int], str]:
    """Count the steps below a folder of labelled traces by ladder rule.

    Returns:
        The counts, and what was wrong with the files that are no trace; empty when all are.
    """
    counts: dict[str, int] = {}
    found = read_folder(folder)
    for run in found.runs:
        for reason, steps in run.reasons.items():
            counts[str(reason)] = counts.get(str(reason), 0) + steps
    doubt = f"{len(found.bad)} of {found.files} files are no trace, the first: {found.bad[0]}" if found.bad else ""
    return counts, doubt


def _report(document: Mapping[str, Any] | EvalReport | None) -> EvalReport | None:
    """Parse a report; one without a pass rate is no report and gives nothing, as the seed has it."""
    if document is None or isinstance(document, EvalReport):
        return document
    if "pass_rate" not in document:
        return None
    results = document.get("results") or []
    judged = {
        "name": "",
        "started_at": "",
        "ended_at": "",
        "task_count": len(results),
        "pass_count": 0,
        "fail_count": 0,
        "error_count": 0,
        **document,
        "results": [{"task_id": str(i), "passed": False, "outcome": {}, **row} for i, row in enumerate(results)],
    }
    for key in ("started_at", "ended_at"):
        judged[key] = str(judged[key])
    return EvalReport.model_validate(judged)


def _completed(document: Mapping[str, Any] | ShadowSummary) -> Any:
    """Fill in what a summary by hand may leave out: an arm's own name, an empty comparison."""
    if isinstance(document, ShadowSummary):
        return document
    variants = document.get("variants")
    if not isinstance(variants, Mapping) or not all(isinstance(arm, Mapping) for arm in variants.values()):
        raise ValueError("the shadow summary has no object `variants` of arms")
    arms = {name: {"variant": name, **arm} for name, arm in variants.items()}
    return {**document, "variants": arms, "comparison": document.get("comparison") or None}


def _digest(document: object) -> str:
    """Digest a document as it was given."""
    if document is None:
        return ""
    if isinstance(document, EvalReport | ShadowSummary):
        return digest_bytes(canonical_json(document))
    return digest_bytes(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def evidence_from(
    *,
    eval_report: Mapping[str, Any] | EvalReport | None = None,
    shadow_summary: Mapping[str, Any] | ShadowSummary | None = None,
    labelled_traces_dir: Path | None = None,
) -> Evidence:
    """Parse documents into evidence.

    Raises:
        ValueError: a document has a field of the wrong type.
        FileNotFoundError: `labelled_traces_dir` does not exist.
    """
    try:
        summary = None if shadow_summary is None else ShadowSummary.model_validate(_completed(shadow_summary))
        report = _report(eval_report)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise ValueError(f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    reasons, doubt = label_reasons_of(labelled_traces_dir) if labelled_traces_dir is not None else ({}, "")
    return Evidence(
        eval_report=report,
        eval_source=_digest(eval_report),
        shadow_summary=summary,
        shadow_source=_digest(shadow_summary),
        label_reasons=reasons,
        label_source=_digest(reasons) if reasons else "",
        label_doubt=doubt,
    )

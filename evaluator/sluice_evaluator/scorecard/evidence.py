"""What a scorecard may know, and which of it is about the weights that are judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.shadow import ShadowSummary


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A value of one gate and what stands behind it."""

    value: float
    """The value, as it is shown."""
    exact: float | None = None
    """The value that is compared, where what is shown was rounded."""
    n: int | None = None
    """Units that it was measured on; None when somebody just says so."""
    is_rate: bool = True
    """Whether `value * n` counts events of `n` trials, so that it has a binomial interval."""
    source: str = ""
    """Digest of the evidence, or `override:<who>`."""
    detail: str = ""
    """What was measured, for people."""
    doubt: str = ""
    """Why a pass must not be believed; a value that fails still fails."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The artefacts; any may be missing."""

    eval_report: EvalReport | None = None
    """Report of the candidate."""
    eval_source: str = ""
    """Its digest."""
    compare_report: CompareReport | None = None
    """Comparison with the champion."""
    shadow_summary: ShadowSummary | None = None
    """Shadow evidence."""
    shadow_source: str = ""
    """Its digest."""
    label_reasons: Mapping[str, int] = field(default_factory=dict)
    """Labelled steps by ladder rule."""
    label_source: str = ""
    """Digest of the labelled data."""
    label_doubt: str = ""
    """What was wrong with the labelled data; empty when nothing was."""
    labels_bound: bool = True
    """Whether the labels may be taken for the candidate's; a dataset names no candidate, so they are not once one is
    named."""

    @property
    def label_steps(self) -> int:
        """Labelled steps in all."""
        return sum(self.label_reasons.values())


def bound_to(evidence: Evidence, candidate_digest: str) -> tuple[Evidence, list[str]]:
    """Keep the evidence about one candidate.

    Evidence that names other weights, or none, is refused: it says nothing about this candidate.

    Returns:
        What is left, and a sentence for everything that was refused.
    """
    refused: list[str] = []
    kept = {
        "eval_report": evidence.eval_report,
        "compare_report": evidence.compare_report,
        "shadow_summary": evidence.shadow_summary,
    }
    digests = {
        "eval_report": evidence.eval_report and evidence.eval_report.model_digest,
        "compare_report": evidence.compare_report and evidence.compare_report.candidate_digest,
        "shadow_summary": evidence.shadow_summary and evidence.shadow_summary.candidate_digest,
    }
    for name, digest in digests.items():
        if kept[name] is not None and digest != candidate_digest:
            refused.append(f"{name} is about {digest or 'unknown weights'}, not {candidate_digest}")
            kept[name] = None
    return (
        Evidence(
            **kept,  # type: ignore[arg-type]
            eval_source=evidence.eval_source,
            shadow_source=evidence.shadow_source,
            label_reasons=evidence.label_reasons,
            label_source=evidence.label_source,
            label_doubt=evidence.label_doubt,
            labels_bound=False,
        ),
        refused,
    )

"""What a scorecard may know, and which of it is about the weights that are judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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

    def about(name: str, digest: str) -> bool:
        if digest != candidate_digest:
            refused.append(f"{name} is about {digest or 'unknown weights'}, not {candidate_digest}")
        return digest == candidate_digest

    report, comparison, shadow = evidence.eval_report, evidence.compare_report, evidence.shadow_summary
    kept = replace(
        evidence,
        eval_report=report if report and about("eval_report", report.model_digest) else None,
        compare_report=comparison if comparison and about("compare_report", comparison.candidate_digest) else None,
        shadow_summary=shadow if shadow and about("shadow_summary", shadow.candidate_digest) else None,
        labels_bound=False,
    )
    return kept, refused

"""The analyses behind a rollout, from artifact storage: how the e-values and the measured share went over time.

A status keeps the newest analysis alone. Its attempts name where each of the newest analyses left its result, and the
step scorecards name the analyses that they judged; both never change once written, so each is read once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluice_api.contracts.jobs import Result, ShadowOutput
from sluice_api.contracts.shadow import ShadowSummary
from sluice_api.contracts.trace import Variant
from sluice_artifacts import ArtifactError, join, open_store
from sluice_cli.lineage import Lineage

RESULT_FILE = "result.json"
"""What a finished attempt leaves below its prefix."""
KEPT = 4096
"""Analyses remembered; the oldest are forgotten first."""

Raw = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One analysis."""

    at: str
    """Instant, RFC 3339."""
    step: int
    """Step that it is about."""
    round: int
    """Round that the step belongs to."""
    verdict: str
    runs: int
    """Matured candidate runs."""
    harm: float | None = None
    """Highest e-value for harm so far (sequential method)."""
    non_inferiority: float | None = None
    """E-value for non-inferiority (sequential method)."""
    share: float | None = None
    """Measured share of the candidate, per cent."""
    harm_threshold: float | None = None
    threshold: float | None = None


@dataclass
class Analyses:
    """Reads analyses, each once."""

    known: dict[str, ShadowSummary] = field(default_factory=dict)
    """Summaries by the URI that they were read from."""

    def points(self, lineage: Lineage) -> tuple[list[Point], list[str]]:
        """Return a rollout's analyses in the order of their instants, and what could not be read."""
        found: dict[tuple[int, int, str], Point] = {}
        problems: list[str] = []
        for uri, at, step, round_number in _places(lineage):
            try:
                summary = self._read(uri)
            except ArtifactError as error:
                # Its text names the place; what lies there is nobody's business here.
                problems.append(f"{uri}: {type(error).__name__}")
                continue
            except ValueError:
                problems.append(f"{uri}: not an analysis")
                continue
            if summary is not None:
                found[round_number, step, at] = _point(summary, at, step, round_number)
        return sorted(found.values(), key=lambda point: point.at), problems

    def _read(self, uri: str) -> ShadowSummary | None:
        """Return the summary at a URI; None where the attempt had none. Raises ArtifactError or ValueError."""
        if uri not in self.known:
            data = open_store(uri).read(uri)
            if uri.endswith("/" + RESULT_FILE):
                output = Result.model_validate_json(data).output
                if not isinstance(output, ShadowOutput):
                    return None
                summary = output.summary
            else:
                summary = ShadowSummary.model_validate_json(data)
            self.known[uri] = summary
            while len(self.known) > KEPT:
                del self.known[next(iter(self.known))]
        return self.known[uri]


def _places(lineage: Lineage) -> Iterator[tuple[str, str, int, int]]:
    """Yield URI, instant, step and round of every analysis that the objects name."""
    rollout = lineage.rollout
    if rollout is None:
        return
    rounds = {str(entry.get("name")): int(entry.get("round") or 1) for entry in rollout.status.get("scorecards") or ()}
    for link in lineage.steps:
        shadow = link.spec.get("shadow") or {}
        created = ((link.found or {}).get("metadata") or {}).get("creationTimestamp")
        if shadow.get("summaryUri") and created:
            yield str(shadow["summaryUri"]), str(created), int(shadow.get("step") or 0), rounds.get(link.name, 1)
    for attempt in rollout.status.get("attempts") or ():
        parts = str(attempt.get("key") or "").split("/")
        ended = attempt.get("endedAt") and not attempt.get("failure")
        if ended and parts[0] == "analysis" and len(parts) == 4 and attempt.get("outputUri"):
            uri = join(str(attempt["outputUri"]), RESULT_FILE)
            yield uri, str(attempt.get("intendedAt")), int(parts[2]), int(parts[1])


def _point(summary: ShadowSummary, at: str, step: int, round_number: int) -> Point:
    process, arm = summary.e_process, summary.variants.get(Variant.CANDIDATE)
    threshold = process.threshold if process is not None else None
    return Point(
        at=at,
        step=step,
        round=round_number,
        verdict=str(summary.verdict),
        runs=arm.run_count if arm is not None else 0,
        harm=process.harm if process is not None else None,
        non_inferiority=process.non_inferiority if process is not None else None,
        share=None if summary.candidate_share is None else 100.0 * summary.candidate_share,
        harm_threshold=getattr(process, "harm_threshold", threshold),
        threshold=threshold,
    )

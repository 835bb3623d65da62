"""The analyses behind a rollout, from artifact storage: how the e-values and the measured share went over time.

A status keeps the newest analysis and the newest twenty attempts. The prefixes of the attempts differ in their number
alone, so the older ones' results are found too; which step they were about is told by the instant since which they
count, which the step's scorecards and known attempts share. A result never changes once written, so each is read once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sluice_api.contracts.jobs import Result, ShadowOutput
from sluice_api.contracts.shadow import ShadowSummary
from sluice_api.contracts.trace import Variant
from sluice_artifacts import ArtifactError, join, open_store
from sluice_cli.lineage import Lineage

RESULT_FILE = "result.json"
"""What a finished attempt leaves below its prefix."""
KEPT = 8192
"""Analyses remembered; the oldest are forgotten first."""
LARGEST = 16 << 20
"""Largest analysis that is read from a file system, in bytes."""
MOST_READS = 50
"""Older results read in one look."""

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


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an analysis lies, and what the objects tell of it."""

    uri: str
    at: str = ""
    step: int = 0
    round: int = 0


@dataclass
class Analyses:
    """Reads analyses, each once."""

    known: dict[str, tuple[ShadowSummary, str] | None] = field(default_factory=dict)
    """Summary and instant by the URI that they were read from; None where an attempt left none."""

    def points(self, lineage: Lineage) -> tuple[list[Point], list[str]]:
        """Return a rollout's analyses in the order of their instants, and what could not be read.

        Older results come in a few at a time, the newest first.
        """
        attempts, cards = list(_attempts(lineage)), list(_judged(lineage))
        problems = [problem for place in (*attempts, *cards) if (problem := self._learn(place.uri))]
        steps = {
            document[0].since: (place.round, place.step)
            for place in (*cards, *attempts)
            if (document := self.known.get(place.uri)) is not None
        }
        found = [_point(document[0], place) for place in attempts if (document := self.known.get(place.uri))]
        found += self._older_points(lineage, steps)
        for place in cards:
            document = self.known.get(place.uri)
            # Most analyses that a scorecard judged are among the attempts, under their own instant.
            if document is not None and not any(_same(point, document[0], place) for point in found):
                found.append(_point(document[0], place))
        return sorted(found, key=lambda point: point.at), problems

    def _older_points(self, lineage: Lineage, steps: Mapping[str, tuple[int, int]]) -> Iterator[Point]:
        """Yield the analyses that the status no longer names and whose step is known."""
        left = MOST_READS
        for uri in _older(lineage):
            if uri not in self.known:
                if left == 0:
                    return
                left -= 1
                if self._learn(uri):
                    # An attempt that failed has left nothing to read: no news, and no reason to look again.
                    self.known[uri] = None
            document = self.known.get(uri)
            if document is not None and document[0].since in steps:
                round_number, step = steps[document[0].since]
                yield _point(document[0], _Place(uri=uri, at=document[1], step=step, round=round_number))

    def _learn(self, uri: str) -> str:
        """Read what is not known yet; return what is wrong with it, without what lies there."""
        if uri in self.known:
            return ""
        if uri.startswith("file://") and not _is_plain(uri):
            return f"{uri}: no plain file of at most {LARGEST >> 20} MiB"
        try:
            self.known[uri] = _parsed(open_store(uri).read(uri), uri)
        except ArtifactError as error:
            return f"{uri}: {type(error).__name__}"
        except ValueError:
            return f"{uri}: not an analysis"
        while len(self.known) > KEPT:
            del self.known[next(iter(self.known))]
        return ""


def _is_plain(uri: str) -> bool:
    """Return whether a file is one that can be read to its end; objects name it, and a device would never end."""
    path = Path(uri.removeprefix("file://"))
    return path.is_file() and path.stat().st_size <= LARGEST


def _parsed(data: bytes, uri: str) -> tuple[ShadowSummary, str] | None:
    """Return summary and instant of a result, or of a published summary. Raises ValueError."""
    if not uri.endswith("/" + RESULT_FILE):
        return ShadowSummary.model_validate_json(data), ""
    result = Result.model_validate_json(data)
    return (result.output.summary, result.finished_at) if isinstance(result.output, ShadowOutput) else None


def _judged(lineage: Lineage) -> Iterator[_Place]:
    """Yield the analyses that the step scorecards name."""
    status = lineage.rollout.status if lineage.rollout is not None else {}
    rounds = {str(entry.get("name")): int(entry.get("round") or 1) for entry in status.get("scorecards") or ()}
    for link in lineage.steps:
        shadow = link.spec.get("shadow") or {}
        created = ((link.found or {}).get("metadata") or {}).get("creationTimestamp")
        if shadow.get("summaryUri") and created:
            step, round_number = int(shadow.get("step") or 0), rounds.get(link.name, 1)
            yield _Place(uri=str(shadow["summaryUri"]), at=str(created), step=step, round=round_number)


def _attempts(lineage: Lineage) -> Iterator[_Place]:
    """Yield the finished analyses that the status names."""
    for attempt in (lineage.rollout.status.get("attempts") or ()) if lineage.rollout is not None else ():
        parts = str(attempt.get("key") or "").split("/")
        ended = attempt.get("endedAt") and not attempt.get("failure")
        if ended and parts[0] == "analysis" and len(parts) == 4 and attempt.get("outputUri"):
            uri = join(str(attempt["outputUri"]), RESULT_FILE)
            yield _Place(uri=uri, at=str(attempt.get("endedAt")), step=int(parts[2]), round=int(parts[1]))


def _older(lineage: Lineage) -> Iterator[str]:
    """Yield the results of attempts that the status no longer names, newest first: prefixes differ in the number."""
    attempts = (lineage.rollout.status.get("attempts") or ()) if lineage.rollout is not None else ()
    if not attempts:
        return
    prefix, _, number = str(attempts[0].get("outputUri") or "").rstrip("/").rpartition("/")
    if number.isdecimal() and int(number) == attempts[0].get("number"):
        for older in range(int(number) - 1, 0, -1):
            yield f"{prefix}/{older}/{RESULT_FILE}"


def _same(point: Point, summary: ShadowSummary, place: _Place) -> bool:
    """Return whether a point tells of the analysis that a scorecard judged."""
    return replace(_point(summary, place), at=point.at) == point


def _point(summary: ShadowSummary, place: _Place) -> Point:
    process, arm = summary.e_process, summary.variants.get(Variant.CANDIDATE)
    return Point(
        at=place.at,
        step=place.step,
        round=place.round,
        verdict=str(summary.verdict),
        runs=arm.run_count if arm is not None else 0,
        harm=process.harm if process is not None else None,
        non_inferiority=process.non_inferiority if process is not None else None,
        share=None if summary.candidate_share is None else 100.0 * summary.candidate_share,
        harm_threshold=process.harm_threshold if process is not None else None,
        threshold=process.threshold if process is not None else None,
    )

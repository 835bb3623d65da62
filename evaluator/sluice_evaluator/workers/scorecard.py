"""The scorecard worker: evidence by digest to a verdict, fail-closed throughout."""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.jobs import ComparisonRecord, FailureClass, ScorecardJob, ScorecardOutput
from sluice_api.contracts.scorecard import Scorecard
from sluice_api.contracts.shadow import ShadowSummary
from sluice_artifacts import join, open_store, publish_document, read_document, read_manifest
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_evaluator.runs import parse_instant
from sluice_evaluator.scorecard import (
    HISTORY_FILE,
    Evidence,
    Measurement,
    append_history,
    history_entry,
    judge_evidence,
    with_overrides,
)
from sluice_evaluator.scorecard.budget import COMPARISON_KEY, charge, metadata_of, record_of
from sluice_evaluator.scorecard.card import OVERRIDE, ComparisonTerms

COMMIT_VARIABLE = "SLUICE_COMMIT_SHA"
"""Environment variable with the commit of the code that judges, for the history."""
SCORECARD_NAME = "scorecard.json"
"""Name of the published scorecard."""


def gather(job: ScorecardJob) -> Evidence:
    """Read the evidence that the job names, verified against its digests.

    Raises:
        ArtifactError: something that the job names is not there, or not what its digest says.
    """
    labels: dict[str, int] = {}
    if job.labelled is not None:
        labels = read_manifest(job.labelled, DatasetManifest).label_reasons
    return Evidence(
        eval_report=read_document(job.eval_report, EvalReport) if job.eval_report else None,
        eval_source=job.eval_report.digest if job.eval_report else "",
        compare_report=read_document(job.compare_report, CompareReport) if job.compare_report else None,
        shadow_summary=read_document(job.shadow_summary, ShadowSummary) if job.shadow_summary else None,
        shadow_source=job.shadow_summary.digest if job.shadow_summary else "",
        label_reasons=labels,
        label_source=job.labelled.digest if job.labelled else "",
    )


def judge(job: ScorecardJob, evidence: Evidence, *, level: float | None = None) -> Scorecard:
    """Judge the evidence as the job asks, the comparison at a level of its budget.

    Raises:
        WorkerError: an unknown gate, or a value that it cannot have.
    """
    overrides = {
        item.name: Measurement(value=item.value, source=OVERRIDE + (item.source or "spec")) for item in job.metrics
    }
    try:
        return judge_evidence(
            evidence,
            tier=job.tier,
            thresholds=with_overrides(job.tier, job.thresholds),
            overrides=overrides,
            required_gates=job.required_gates,
            candidate_digest=job.candidate_digest,
            judged_only=True,
            evaluated_at=job.now,
            terms=ComparisonTerms(better=job.comparison_require == "Better", needed=job.comparison_needed, level=level),
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"the scorecard cannot be judged as asked: {error}") from error


def _now(job: ScorecardJob) -> datetime:
    now = parse_instant(job.now)
    if now is None:
        raise WorkerError(FailureClass.USER_ERROR, f"now is not an RFC 3339 instant: {job.now!r}")
    return now


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A scorecard, and what its comparison was charged."""

    scorecard: Scorecard
    comparison: ComparisonRecord | None


def _judged(job: ScorecardJob, evidence: Evidence, now: datetime, history: bytes) -> _Judged:
    """Judge with what the lineage's history leaves of the error budget.

    Raises:
        WorkerError: the job asks for what cannot be.
    """
    report, record = evidence.compare_report, None
    # a comparison of other weights is refused as evidence: it costs this lineage nothing
    if report is not None and job.compare_report is not None and report.candidate_digest == job.candidate_digest:
        alpha, digest = job.comparison_alpha, job.compare_report.digest
        try:
            found = charge(history, champion=report.baseline_digest, report=digest, alpha=alpha)
        except ValueError as error:
            raise WorkerError(FailureClass.USER_ERROR, f"the error budget cannot be {alpha}: {error}") from error
        record = record_of(report, found, alpha)
    scorecard = judge(job, evidence, level=record.level if record is not None else None)
    metadata = dict(scorecard.metadata)
    if job.thresholds:
        metadata["threshold_overrides"] = dict(job.thresholds)
        metadata["threshold_authors"] = dict(job.threshold_authors)
    if job.valid_for_s is not None:
        metadata["expires_at"] = (now + timedelta(seconds=job.valid_for_s)).isoformat()
    if record is not None and report is not None and job.compare_report is not None:
        metadata[COMPARISON_KEY] = metadata_of(
            record, champion=report.baseline_digest, report=job.compare_report.digest
        )
    return _Judged(scorecard=scorecard.model_copy(update={"metadata": metadata}), comparison=record)


def run(job: ScorecardJob, reporter: Reporter) -> ScorecardOutput:
    """Judge a candidate, append the scorecard to its lineage's history and publish it.

    The history comes first: a look at the data that was charged and then lost costs a little budget; one that was
    published and not charged would cost the guarantee.

    Raises:
        WorkerError: the job asks for what cannot be.
        ArtifactError: evidence that it names is missing or damaged.
    """
    now = _now(job)
    reporter.progress(stage="reading")
    evidence = gather(job)
    reporter.progress(stage="judging")
    history_uri = job.history_uri or join(job.scorecard_uri, HISTORY_FILE)
    owner = f"{job.run.namespace}/{job.run.name}/{job.run.uid}"
    commit = os.environ.get(COMMIT_VARIABLE, "")
    latest: list[_Judged] = []

    def entry_of(history: bytes) -> dict[str, Any]:
        latest[:] = [_judged(job, evidence, now, history)]
        return history_entry(latest[0].scorecard, timestamp=now, commit_sha=commit, owner=owner)

    append_history(open_store(history_uri), history_uri, entry_of)
    judged = latest[0]
    reporter.progress(stage="publishing")
    return ScorecardOutput(
        scorecard=publish_document(job.scorecard_uri, SCORECARD_NAME, judged.scorecard),
        history_uri=history_uri,
        verdict=judged.scorecard.verdict,
        gates=judged.scorecard.gates,
        comparison=judged.comparison,
    )

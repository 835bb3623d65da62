"""The scorecard worker: evidence by digest to a verdict, fail-closed throughout."""

import os
from datetime import datetime

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.jobs import FailureClass, ScorecardJob, ScorecardOutput
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
from sluice_evaluator.scorecard.card import OVERRIDE

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


def judge(job: ScorecardJob, evidence: Evidence) -> Scorecard:
    """Judge the evidence as the job asks.

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
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"the scorecard cannot be judged as asked: {error}") from error


def _now(job: ScorecardJob) -> datetime:
    now = parse_instant(job.now)
    if now is None:
        raise WorkerError(FailureClass.USER_ERROR, f"now is not an RFC 3339 instant: {job.now!r}")
    return now


def run(job: ScorecardJob, reporter: Reporter) -> ScorecardOutput:
    """Judge a candidate, publish the scorecard and append it to the history.

    Raises:
        WorkerError: the job asks for what cannot be.
        ArtifactError: evidence that it names is missing or damaged.
    """
    now = _now(job)
    reporter.progress(stage="reading")
    evidence = gather(job)
    reporter.progress(stage="judging")
    scorecard = judge(job, evidence)
    if job.thresholds:
        metadata = {**scorecard.metadata, "threshold_overrides": dict(job.thresholds)}
        scorecard = scorecard.model_copy(update={"metadata": metadata})
    reporter.progress(stage="publishing")
    reference = publish_document(job.scorecard_uri, SCORECARD_NAME, scorecard)
    history_uri = join(job.scorecard_uri, HISTORY_FILE)
    owner = f"{job.run.namespace}/{job.run.name}/{job.run.uid}"
    entry = history_entry(scorecard, timestamp=now, commit_sha=os.environ.get(COMMIT_VARIABLE, ""), owner=owner)
    append_history(open_store(history_uri), history_uri, entry)
    return ScorecardOutput(
        scorecard=reference, history_uri=history_uri, verdict=scorecard.verdict, gates=scorecard.gates
    )

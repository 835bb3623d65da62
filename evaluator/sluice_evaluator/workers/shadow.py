"""The shadow worker: the arms of the present step of a rollout, from the trace store to a verdict."""

from datetime import datetime

from sluice_api.contracts.jobs import FailureClass, ShadowJob, ShadowOutput
from sluice_artifacts import join, open_store, publish_document
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_evaluator.runs import parse_instant, read_store
from sluice_evaluator.shadow import ShadowConfig, analyze

MOST_BAD_FILES = 0.05
"""Share of unreadable traces beyond which nobody may call a candidate non-inferior."""
SUMMARY_NAME = "shadow_summary.json"
"""Name of the published summary."""


def _instant(value: str, field: str) -> datetime:
    instant = parse_instant(value)
    if instant is None:
        raise WorkerError(FailureClass.USER_ERROR, f"{field} is not an RFC 3339 instant: {value!r}")
    return instant


def _config(job: ShadowJob) -> ShadowConfig:
    try:
        return ShadowConfig(
            method=job.method,
            tolerance=job.tolerance,
            margin=job.margin,
            alpha=job.alpha,
            harm_alpha=job.harm_alpha,
            paired=job.paired,
            min_runs=max(1, job.min_runs),
            since=_instant(job.since, "since"),
            baseline_since=_instant(job.baseline_since, "baseline_since") if job.baseline_since else None,
            now=_instant(job.now, "now"),
            maturity_s=job.maturity_s,
            rollout=job.rollout,
            candidate_digest=job.candidate_digest,
            stable_digest=job.stable_digest,
            most_bad=MOST_BAD_FILES,
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"the analysis cannot be done as asked: {error}") from error


def run(job: ShadowJob, reporter: Reporter) -> ShadowOutput:
    """Analyse the runs of the present step and publish the summary.

    An empty trace store is no failure: it is the verdict NoData.

    Raises:
        WorkerError: a field of the job makes no sense, or not one of the files is a trace.
    """
    config = _config(job)
    reporter.progress(stage="reading")
    begins = min(begin for begin in (config.since, config.baseline_since) if begin is not None)
    found = read_store(open_store(job.source_uri), job.source_uri, begins)
    if found.files and not found.runs:
        raise WorkerError(
            FailureClass.DATA,
            f"none of the {found.files} files below {job.source_uri} is a trace, for example {found.bad[0]}: check "
            "the source and the exporter's schema version",
        )
    reporter.progress(stage="analyzing", step=len(found.runs), of=found.files)
    summary = analyze(found, config)
    reporter.progress(stage="publishing")
    report = publish_document(join(job.output_uri, "shadow"), SUMMARY_NAME, summary)
    return ShadowOutput(summary=summary, report=report)

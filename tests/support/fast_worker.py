"""A worker for tests of the operator: the real entry, files, reporter and artifacts, and work that takes no time.

Run as `python fast_worker.py worker <kind>` by a job of the operator, it publishes small but valid artifacts, whose
digests depend on the job's inputs alone. Variables of the profile make it slow or let it fail:

- `FAST_SLEEP`: seconds that it works; SIGTERM ends it as preempted.
- `FAST_FAIL`: failure class that it reports.
- `FAST_EXIT`: exit code with which it vanishes, without a result.
- `FAST_SHADOW`, `FAST_SCORECARD`: verdicts of shadow analysis and scorecard; shadow `analyze` does the real analysis.
- `FAST_REAL`: it does the work after all, as the worker of the job's kind does.
- `FAST_TALLY`: folder in which every start leaves a file named after run, attempt and process.
"""

import hashlib
import importlib
import os
import sys
import time
from pathlib import Path

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import (
    JOB_INPUT,
    JOB_INPUT_VARIABLE,
    EvalComparison,
    EvalJob,
    EvalOutput,
    EvalSummary,
    LabelJob,
    LabelOutput,
    ScorecardJob,
    ScorecardOutput,
    ShadowJob,
    ShadowOutput,
    TrainJob,
    TrainOutput,
)
from sluice_api.contracts.models import AdapterManifest
from sluice_api.contracts.scorecard import Direction, GateName, GateResult, GateVerdict, Scorecard, ScorecardVerdict
from sluice_api.contracts.shadow import ShadowSummary, ShadowVerdict, VariantSummary
from sluice_artifacts import join, publish, publish_document
from sluice_artifacts.failures import WorkerError
from sluice_artifacts.reporting import run_worker
from sluice_cli.worker import WORKERS

ROWS = 120
BASE = "sha256:" + hashlib.sha256(b"base model").hexdigest()


def label(job: LabelJob, reporter) -> LabelOutput:
    rows = f"{job.source_uri} {job.since} {job.tenants}\n".encode()
    ref = publish(
        job.dataset_uri,
        {"train.jsonl": rows},
        lambda files: DatasetManifest(files=files, rows=ROWS, holdout_rows=12),
    )
    new = 0 if job.parent == ref.digest else ROWS
    return LabelOutput(dataset=ref, rows=ROWS, holdout_rows=12, new_rows=new, labels={"positive": ROWS}, traces=30)


def train(job: TrainJob, reporter) -> TrainOutput:
    base = ModelRef(uri=job.base_model.uri, digest=BASE)
    reporter.progress(stage="training", step=0, of=10, inputs={"dataset": job.dataset.digest, "baseModel": BASE})
    weights = f"{job.dataset.digest} {job.seed}".encode()
    ref = publish(
        job.adapter_uri,
        {"adapter_model.safetensors": weights},
        lambda files: AdapterManifest(
            files=files,
            base_model=base,
            rank=job.lora_rank,
            alpha=job.lora_alpha,
            target_modules=["q_proj"],
            dataset=job.dataset,
            data_plan=job.dataset.digest,
        ),
    )
    return TrainOutput(adapter=ref, base_model=base, rank=job.lora_rank, steps=10, final_loss=0.25)


def evaluate(job: EvalJob, reporter) -> EvalOutput:
    digest = job.candidate.digest
    report = publish_document(join(job.output_uri, "reports"), "report.json", report_like(digest))
    summary = EvalSummary(tasks=100, passed=90, failed=10, errored=0, pass_rate=0.9, interval=(0.82, 0.94))
    comparison = None
    if job.baseline is not None:
        comparison = EvalComparison(
            common=100, wins=30, losses=2, win_rate=0.94, p_value=1e-6, minimum_detectable_effect=0.07, verdict="Better"
        )
    return EvalOutput(
        report=report,
        compare_report=report if comparison else None,
        summary=summary,
        baseline_summary=summary if comparison else None,
        baseline_report=report if comparison else None,
        comparison=comparison,
        candidate_digest=digest,
        baseline_digest=job.baseline.digest if job.baseline is not None else "",
        suite_digest=job.suite_digest,
    )


def report_like(digest: str) -> Scorecard:
    """Return a small document that is bound to a digest."""
    return Scorecard(tier="first_sft", overall_passed=True, gates=[], candidate_digest=digest)


def shadow(job: ShadowJob, reporter) -> ShadowOutput:
    if os.environ.get("FAST_SHADOW") == "analyze":
        from sluice_evaluator.workers.shadow import run  # it loads numpy, which the other kinds do without

        return run(job, reporter)
    verdict = ShadowVerdict(os.environ.get("FAST_SHADOW", ShadowVerdict.NON_INFERIOR))
    runs = max(job.min_runs, 1)
    arms = {
        name: VariantSummary(variant=name, run_count=runs, step_count=runs * 4, escalated_runs=0)
        for name in ("baseline", "candidate")
    }
    summary = ShadowSummary(
        variants=arms,
        verdict=verdict,
        method=job.method,
        since=job.since,
        min_runs=job.min_runs,
        candidate_digest=job.candidate_digest,
        last_run_at=job.now,
        traces=2 * runs,
    )
    return ShadowOutput(summary=summary, report=publish_document(join(job.output_uri, "s"), "summary.json", summary))


def scorecard(job: ScorecardJob, reporter) -> ScorecardOutput:
    verdict = ScorecardVerdict(os.environ.get("FAST_SCORECARD", ScorecardVerdict.PASS))
    gates = [
        GateResult(
            name=name,
            value=0.9,
            threshold=0.5,
            direction=Direction.MIN,
            passed=verdict is ScorecardVerdict.PASS,
            verdict=GateVerdict.PASS if verdict is ScorecardVerdict.PASS else GateVerdict.FAIL,
        )
        for name in GateName
    ]
    document = Scorecard(
        tier=job.tier,
        overall_passed=verdict is ScorecardVerdict.PASS,
        gates=gates,
        verdict=verdict,
        candidate_digest=job.candidate_digest,
        evaluated_at=job.now,
    )
    ref = publish_document(job.scorecard_uri, "scorecard.json", document)
    history = join(job.scorecard_uri, "SCORECARD_HISTORY.jsonl")
    return ScorecardOutput(scorecard=ref, history_uri=history, verdict=verdict, gates=gates)


WORK = {"label": label, "train": train, "eval": evaluate, "shadow": shadow, "scorecard": scorecard}


def work(job, reporter):
    """Tally, take the time that is asked for, fail as asked, or do the work."""
    seconds = float(os.environ.get("FAST_SLEEP", "0"))
    if seconds:
        inputs = {"dataset": job.dataset.digest, "baseModel": BASE} if isinstance(job, TrainJob) else None
        reporter.progress(stage="training", step=0, of=10, inputs=inputs)
        time.sleep(seconds)
    if "FAST_EXIT" in os.environ:
        os._exit(int(os.environ["FAST_EXIT"]))
    if "FAST_FAIL" in os.environ:
        raise WorkerError(os.environ["FAST_FAIL"], "the test asked for it: change FAST_FAIL")
    if os.environ.get("FAST_REAL"):
        return importlib.import_module(WORKERS[job.worker]).run(job, reporter)
    return WORK[job.worker](job, reporter)


def main() -> int:
    """Carry out one job."""
    job = JOB_INPUT.validate_json(os.environ[JOB_INPUT_VARIABLE])
    assert sys.argv[1:] == ["worker", job.worker], sys.argv
    if tally := os.environ.get("FAST_TALLY"):
        folder = Path(tally)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{job.run.kind}--{job.run.name}--{job.run.uid}--{job.attempt}--{os.getpid()}").touch()
    return run_worker(job, work)


if __name__ == "__main__":
    sys.exit(main())

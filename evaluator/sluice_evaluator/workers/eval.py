"""The eval worker: a candidate, and where given a baseline, on the same tasks at the same time."""

import asyncio
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import aiohttp

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.evaluation import CompareReport, EvalReport
from sluice_api.contracts.jobs import EvalComparison, EvalJob, EvalOutput, EvalTarget, FailureClass, may_be_sent
from sluice_api.contracts.suites import is_builtin
from sluice_artifacts import digest_bytes, join, open_store, publish_document, read_document
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_evaluator.builtin import load
from sluice_evaluator.compare import CompareConfig, compare
from sluice_evaluator.errors import IncomparableError, SuiteError, TooManyInfrastructureErrors
from sluice_evaluator.journal import Journal, StoreJournal
from sluice_evaluator.protocols import ChatRunner, PredictRunner, ask_once, http_client
from sluice_evaluator.report import summarize
from sluice_evaluator.runner import Arm, RunConfig, evaluate
from sluice_evaluator.sandbox.client import SandboxUnavailableError
from sluice_evaluator.suites import Suite
from sluice_evaluator.workers.served import serve_targets

REACHABLE_WITHIN_S = 15.0
"""Seconds that an agent or endpoint gets to come up before the job fails."""
STOP_POLL_S = 0.2
"""Seconds until a request to stop is seen."""


def target_digest(target: EvalTarget) -> str:
    """Digest of the weights of a target: its own, the adapter's, or the base's; empty when unknown."""
    if target.digest:
        return target.digest
    if target.adapter is not None:
        return target.adapter.digest
    return (target.base_model.digest or "") if target.base_model is not None else ""


def _token(variable: str | None, what: str) -> str:
    if not variable:
        return ""
    if not may_be_sent(variable):
        raise WorkerError(
            FailureClass.USER_ERROR,
            f"variable {variable} cannot be the token of {what}: it is a credential of the worker itself; "
            "give the token a name of its own",
        )
    value = os.environ.get(variable, "")
    if not value:
        raise WorkerError(
            FailureClass.USER_ERROR, f"the token of {what} is to be in variable {variable}, which is not set"
        )
    return value


def _model_of(target: EvalTarget) -> dict[str, Any]:
    """Describe a target's weights for an agent that chooses them by request."""
    return {
        "digest": target_digest(target),
        "base_model": target.base_model.model_dump(mode="json") if target.base_model is not None else None,
        "adapter": target.adapter.model_dump(mode="json") if target.adapter is not None else None,
    }


def load_suite(uri: str, pinned: str = "") -> tuple[Suite, str]:
    """Read and parse the job's suite, or make a built-in one; judge its reference answers first, where it has some.

    Returns:
        The suite, and the digest of what was read: a file's bytes, or a built-in suite's tasks.

    Raises:
        WorkerError: it is malformed, every bad task named; or it is not the pinned one.
    """
    data = None if is_builtin(uri) else open_store(uri).read(uri)
    found = digest_bytes(data) if data is not None else ""
    if data is not None:
        _check_pinned(uri, found, pinned)
    try:
        suite = load(uri, data)
    except SuiteError as error:
        raise WorkerError(FailureClass.DATA, str(error)) from error
    except SandboxUnavailableError as error:
        raise WorkerError(FailureClass.INFRASTRUCTURE, f"{uri} runs code: {error}") from error
    if data is None:
        found = suite.digest
        _check_pinned(uri, found, pinned)
    return suite, found


def _check_pinned(uri: str, found: str, pinned: str) -> None:
    if pinned and found != pinned:
        what = "the operator and this worker are of different versions: deploy both from one release"
        if not is_builtin(uri):
            what = "put the file back, or create a new EvalRun for the new one"
        raise WorkerError(FailureClass.DATA, f"{uri} is {found}, pinned is {pinned}: {what}")


def wait_until_reachable(url: str, what: str, *, within_s: float = REACHABLE_WITHIN_S) -> None:
    """Wait until something answers HTTP at a URL, whatever it says.

    Raises:
        WorkerError: nothing did.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            ask_once(url, timeout_s=5.0)
            return
        except ValueError as error:
            raise WorkerError(
                FailureClass.USER_ERROR, f"the URL of {what} is not one: {url}; give one that starts with http://"
            ) from error
        except OSError as error:
            if time.monotonic() >= deadline:
                raise WorkerError(
                    FailureClass.INFRASTRUCTURE,
                    f"{what} at {url} is not reachable from the worker ({type(error).__name__}): check that it runs, "
                    "that the address is right, and that a network policy lets the job reach it",
                ) from error
        time.sleep(0.25)


@contextmanager
def _arms(job: EvalJob, targets: Sequence[EvalTarget], client: aiohttp.ClientSession) -> Iterator[list[Arm]]:
    """Make an arm a target: on the agent, on the target's endpoint, or on a model server of our own."""
    with ExitStack() as stack:
        own = [target for target in targets if not job.agent_url and not target.endpoint_url]
        served = stack.enter_context(serve_targets(own)) if own else {}
        arms = []
        for target in targets:
            digest = target_digest(target)
            runner: PredictRunner | ChatRunner
            if job.agent_url:
                wait_until_reachable(job.agent_url, "the agent")
                token = _token(job.agent_token_env, "the agent")
                runner = PredictRunner(client, job.agent_url, token=token, model=_model_of(target))
            elif target.endpoint_url:
                wait_until_reachable(target.endpoint_url, f"the endpoint of {target.name}")
                token = _token(target.token_env, f"the endpoint of {target.name}")
                runner = PredictRunner(client, target.endpoint_url, token=token)
            else:
                url, name = served[own.index(target)]
                runner = ChatRunner(client, url, model=name, target=digest)
            arms.append(Arm(name=target.name, runner=runner, model_digest=digest))
        yield arms


class _Progress:
    """Reports at most once a second, from a thread: a slow store must not hold up the tasks' deadlines."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._at = -math.inf

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._at < 1.0 and done < total:
            return
        self._at = time.monotonic()
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, lambda: self._reporter.progress(stage="evaluating", step=done, of=total))


async def _evaluate(
    job: EvalJob, suite: Suite, config: RunConfig, journal: Journal | None, reporter: Reporter
) -> list[EvalReport]:
    targets = [job.candidate] + ([job.baseline] if job.baseline is not None else [])
    async with http_client(concurrency=config.concurrency, timeout_s=config.task_timeout_s) as client:
        with _arms(job, targets, client) as arms:
            reporter.progress(stage="evaluating", step=0, of=len(suite.tasks) * config.repeats * len(arms))
            running = asyncio.ensure_future(
                evaluate(arms, suite.tasks, config, journal=journal, on_progress=_Progress(reporter))
            )
            with reporter.cooperative_stop():
                return await _until_stopped(running, reporter)


async def _until_stopped(running: "asyncio.Future[list[EvalReport]]", reporter: Reporter) -> list[EvalReport]:
    """Wait for the reports; when the job is asked to stop, let go of the tasks: what was judged is in the journal.

    Raises:
        WorkerError: the job was asked to stop, or too much could not be judged.
    """
    while not reporter.stop_requested.is_set():
        done, _ = await asyncio.wait([running], timeout=STOP_POLL_S)
        if done:
            try:
                return running.result()
            except TooManyInfrastructureErrors as error:
                raise WorkerError(
                    FailureClass.INFRASTRUCTURE,
                    f"{error}. They are never scored as the model's failures: repair the agent or endpoint, or raise "
                    "the limit",
                ) from error
    running.cancel()
    await asyncio.wait([running])
    raise WorkerError(FailureClass.PREEMPTED, "the job was asked to stop before every task was judged")


def _compare(job: EvalJob, baseline: EvalReport, candidate: EvalReport) -> CompareReport:
    try:
        return compare(baseline, candidate, CompareConfig(need_digests=True))
    except IncomparableError as error:
        failure = FailureClass.DATA if job.baseline_report is not None else FailureClass.INFRASTRUCTURE
        raise WorkerError(failure, f"candidate and baseline cannot be compared: {error}") from error


def _figures(report: CompareReport) -> EvalComparison:
    return EvalComparison(
        common=report.common_task_count,
        wins=report.candidate_wins,
        losses=report.candidate_losses,
        win_rate=report.win_rate,
        p_value=report.p_value,
        minimum_detectable_effect=report.minimum_detectable_effect,
        interval=report.interval,
        verdict=report.verdict.value,
    )


def _config(job: EvalJob, tasks: int) -> RunConfig:
    arms = 1 if job.baseline is None else 2
    try:
        return RunConfig(
            concurrency=job.concurrency,
            repeats=job.repeats,
            task_timeout_s=job.task_timeout_s,
            most_infra_errors=int(job.infra_error_fraction * tasks * job.repeats * arms),
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"the evaluation cannot be run as asked: {error}") from error


def run(job: EvalJob, reporter: Reporter) -> EvalOutput:
    """Evaluate, compare and publish.

    Raises:
        WorkerError: the suite is malformed, the agent is not reachable, or too much could not be judged.
    """
    reporter.progress(stage="loading")
    suite, suite_read = load_suite(job.suite_uri, job.suite_digest)
    reporter.progress(inputs={"suite": suite.digest})
    earlier = read_document(job.baseline_report, EvalReport) if job.baseline_report is not None else None
    config = _config(job, len(suite.tasks))
    journal = StoreJournal(open_store(job.cache_uri), job.cache_uri) if job.cache_uri else None
    try:
        reports = asyncio.run(_evaluate(job, suite, config, journal, reporter))
    finally:
        if journal is not None:
            journal.close()
    reporter.progress(stage="publishing")
    prefix = join(job.output_uri, "reports")
    candidate = reports[0]
    baseline = reports[1] if len(reports) > 1 else earlier
    published = publish_document(prefix, "candidate.json", candidate)
    baseline_ref: ArtifactRef | None = job.baseline_report
    if len(reports) > 1:
        baseline_ref = publish_document(prefix, "baseline.json", reports[1])
    comparison = _compare(job, baseline, candidate) if baseline is not None else None
    return EvalOutput(
        report=published,
        baseline_report=baseline_ref,
        compare_report=publish_document(prefix, "compare.json", comparison) if comparison is not None else None,
        summary=summarize(candidate),
        baseline_summary=summarize(baseline) if baseline is not None else None,
        comparison=_figures(comparison) if comparison is not None else None,
        candidate_digest=candidate.model_digest,
        baseline_digest=baseline.model_digest if baseline is not None else "",
        suite_digest=suite_read,
        harness_digest=candidate.harness_digest,
    )

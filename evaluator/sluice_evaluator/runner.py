"""The runner: every task on every model, side by side, with deadlines that end it and honest accounting.

A task that could not be judged (the endpoint did not answer, answered nonsense, or ran out of time) is tried again and
then recorded as an infrastructure error: it is in the report, it is not a pass, and comparisons leave it out.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluice_api.contracts.evaluation import EvalReport, EvalTask, Outcome, TaskResult
from sluice_artifacts import canonical_json, digest_bytes
from sluice_evaluator.criteria import CRITERIA, is_blocking, judge
from sluice_evaluator.errors import InfrastructureError, ThrottledError, TooManyInfrastructureErrors
from sluice_evaluator.journal import Journal, NoJournal, result_key
from sluice_evaluator.pace import Pace
from sluice_evaluator.protocols import FunctionRunner, TaskRunner
from sluice_evaluator.protocols.function import TaskFunction
from sluice_evaluator.report import build_report, majority
from sluice_evaluator.sandbox.client import SandboxUnavailableError
from sluice_evaluator.suites import parse_tasks, suite_digest

HARNESS_VERSION = 1
"""Raised when the way of judging changes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Limits of a run."""

    concurrency: int = 16
    """Tasks in flight, at most."""
    repeats: int = 1
    """Times that each task is run; it passes by majority."""
    attempts: int = 5
    """Tries of a task that could not be judged."""
    task_timeout_s: float = 600.0
    """Seconds for one try."""
    deadline_s: float | None = None
    """Seconds for the whole run; what is not done by then could not be judged."""
    backoff_s: float = 0.5
    """Pause before the second try; doubles with every further one, with jitter."""
    longest_backoff_s: float = 60.0
    """Longest pause between two tries, also where the endpoint asks for more."""
    most_infra_errors: int | None = None
    """More of them end the run: what is left would not be evidence."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "repeats", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("task_timeout_s", "backoff_s", "longest_backoff_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ValueError(f"deadline_s must be positive, got {self.deadline_s}")
        if self.most_infra_errors is not None and self.most_infra_errors < 0:
            raise ValueError(f"most_infra_errors cannot be negative, got {self.most_infra_errors}")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model in a run."""

    name: str
    """Name in its report."""
    runner: TaskRunner
    """How its tasks are run."""
    model_digest: str = ""
    """Digest of the weights, where known."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One repeat of one task on one arm."""

    side: int
    arm: Arm
    index: int
    task: EvalTask
    repeat: int


@dataclass
class _Run:
    """State of a run in progress."""

    config: RunConfig
    pace: Pace
    clock: Callable[[], float]
    rng: random.Random
    journal: Journal
    harness: str
    on_progress: Callable[[int, int], None]
    total: int
    ends_at: float
    done: int = 0
    infra_errors: int = 0
    last_infra: str = ""
    results: dict[tuple[int, int, int], TaskResult] = field(default_factory=dict)


def harness_digest(config: RunConfig, protocol: str) -> str:
    """Digest what judges: the versions of harness and criteria, the protocol, the repeats and the time a task gets."""
    judges = {
        "harness": HARNESS_VERSION,
        "criteria": {name: spec.version for name, spec in sorted(CRITERIA.items())},
        "protocol": protocol,
        "repeats": config.repeats,
        "task_timeout_s": config.task_timeout_s,
    }
    return digest_bytes(canonical_json(judges))


def _not_judged(task: EvalTask, message: str) -> TaskResult:
    return TaskResult(
        task_id=task.task_id, passed=False, outcome=Outcome(error=message), infra_error=True, cluster=task.cluster
    )


def _judged(task: EvalTask, outcome: Outcome) -> TaskResult:
    passed, criteria = judge(task, outcome)
    return TaskResult(
        task_id=task.task_id, passed=passed, criterion_results=criteria, outcome=outcome, cluster=task.cluster
    )


async def _one_try(run: _Run, arm: Arm, task: EvalTask) -> TaskResult:
    """Run a task once, within its time.

    Raises:
        InfrastructureError: it could not be judged.
    """
    async with run.pace.slot() as episode:
        limit = min(run.config.task_timeout_s, run.ends_at - run.clock())
        try:
            async with asyncio.timeout(limit):
                outcome = await arm.runner.run(task)
        except TimeoutError as error:
            raise InfrastructureError(f"no answer within {max(limit, 0):.0f} s") from error
        except ThrottledError as error:
            run.pace.throttled(episode, error.retry_after_s)
            raise
        run.pace.succeeded()
    try:
        return await asyncio.to_thread(_judged, task, outcome) if is_blocking(task) else _judged(task, outcome)
    except SandboxUnavailableError as error:
        raise InfrastructureError(str(error), retryable=False) from error


def _pause(run: _Run, number: int, error: InfrastructureError) -> float:
    backoff = run.config.backoff_s * 2.0 ** (number - 1) * run.rng.uniform(0.5, 1.0)
    return min(run.config.longest_backoff_s, max(backoff, error.retry_after_s or 0.0))


async def _run_task(run: _Run, arm: Arm, task: EvalTask) -> TaskResult:
    """Run a task until it is judged, its tries are used up, or the run's time is over."""
    for number in range(1, run.config.attempts + 1):
        try:
            return await _one_try(run, arm, task)
        except InfrastructureError as error:
            last = error
        except Exception as error:  # noqa: BLE001 - a runner of the user's may raise anything; the run goes on
            _log.warning("the runner raised on task %s: %s", task.task_id, error)
            return _not_judged(task, f"{type(error).__name__}: {error}")
        pause = _pause(run, number, last)
        if not last.retryable or number == run.config.attempts or run.clock() + pause >= run.ends_at:
            break
        await asyncio.sleep(pause)
    return _not_judged(task, f"{last} (tries: {number})")


async def _work(run: _Run, units: Sequence[_Unit], position: list[int]) -> None:
    """Take units in order until there are none left."""
    while position[0] < len(units):
        unit = units[position[0]]
        position[0] += 1
        key = result_key(
            target=unit.arm.model_digest or unit.arm.runner.target,
            protocol=unit.arm.runner.protocol,
            harness_digest=run.harness,
            task=unit.task,
            repeat=unit.repeat,
        )
        result = run.journal.get(key)
        if result is None:
            result = await _run_task(run, unit.arm, unit.task)
            if not result.infra_error:
                await run.journal.put(key, result)
        run.results[unit.side, unit.index, unit.repeat] = result
        run.done += 1
        if result.infra_error:
            run.infra_errors += 1
            run.last_infra = result.outcome.error or ""
            limit = run.config.most_infra_errors
            if limit is not None and run.infra_errors > limit:
                raise TooManyInfrastructureErrors(
                    f"{run.infra_errors} of {run.done} tasks could not be judged, more than the {limit} of "
                    f"{run.total} that are allowed; the last one: {run.last_infra}"
                )
        run.on_progress(run.done, run.total)


async def _run_all(run: _Run, units: Sequence[_Unit]) -> None:
    """Run the units; at the deadline, leave what is not done."""
    position = [0]
    workers = [
        asyncio.ensure_future(_work(run, units, position)) for _ in range(min(run.config.concurrency, len(units)))
    ]
    try:
        timeout = None if run.config.deadline_s is None else run.ends_at - run.clock()
        await asyncio.wait(workers, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for worker in workers:
            worker.cancel()
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
    for outcome in outcomes:
        # a request to stop may surface inside a worker; it is no Exception, and must not pass for an unfinished task
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def _results(run: _Run, side: int, tasks: Sequence[EvalTask]) -> list[TaskResult]:
    """Give one arm's results in the order of its tasks; what is not there could not be judged in time."""
    late = "not done when the run's time was over"
    return [
        majority(
            [run.results.get((side, index, repeat)) or _not_judged(task, late) for repeat in range(run.config.repeats)]
        )
        for index, task in enumerate(tasks)
    ]


async def evaluate(
    arms: Sequence[Arm],
    tasks: Sequence[EvalTask],
    config: RunConfig,
    *,
    journal: Journal | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    rng: random.Random | None = None,
) -> list[EvalReport]:
    """Run all tasks on all arms, interleaved, and report one arm a report.

    Interleaving lets both arms see the same endpoint at the same time: a slow hour hits both.

    Raises:
        TooManyInfrastructureErrors: more tasks than `config.most_infra_errors` could not be judged.
        ValueError: there are no arms.
    """
    if not arms:
        raise ValueError("there must be at least one arm")
    protocols = "+".join(sorted({arm.runner.protocol for arm in arms}))
    started = clock()
    run = _Run(
        config=config,
        pace=Pace(config.concurrency, clock),
        clock=clock,
        rng=rng or random.Random(0),
        journal=NoJournal() if journal is None else journal,
        harness=harness_digest(config, protocols),
        on_progress=on_progress,
        total=len(tasks) * config.repeats * len(arms),
        ends_at=float("inf") if config.deadline_s is None else started + config.deadline_s,
    )
    began = now()
    units = [
        _Unit(side, arm, index, task, repeat)
        for repeat in range(config.repeats)
        for index, task in enumerate(tasks)
        for side, arm in enumerate(arms)
    ]
    await _run_all(run, units)
    ended = now()
    return [
        build_report(
            name=arm.name,
            started_at=began,
            ended_at=ended,
            results=_results(run, side, tasks),
            suite_digest=suite_digest(tasks),
            harness_digest=run.harness,
            model_digest=arm.model_digest,
        )
        for side, arm in enumerate(arms)
    ]


def run_eval(
    runner: TaskFunction,
    tasks: Sequence[EvalTask | Mapping[str, Any]],
    *,
    name: str = "eval",
    config: RunConfig | None = None,
) -> EvalReport:
    """Run tasks through a function of the caller's and report: the seed's Python API.

    One task at a time, one try each, unless `config` says otherwise. A function that raises makes the task an error,
    never the run.

    Raises:
        SuiteError: a task is malformed.
    """
    plain = [
        task.model_dump(mode="json") if isinstance(task, EvalTask) else json.loads(json.dumps(task)) for task in tasks
    ]
    arm = Arm(name=name, runner=FunctionRunner(runner))
    settings = config or RunConfig(concurrency=1, attempts=1)
    return asyncio.run(evaluate([arm], parse_tasks(plain, name), settings))[0]

"""What a training run's probes evaluate with: the evaluator, on answers of the live weights.

Trainer and evaluator do not know each other; this is where they meet. `probe` is the trainer's `Prober`, a plain
function, so that it travels to Ray's workers by name.
"""

import ast
import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sluice_api.contracts.jobs import FailureClass, ProbePlan, ProbeResult
from sluice_artifacts.reporting import WorkerError

if TYPE_CHECKING:
    from sluice_api.contracts.evaluation import Criterion, EvalReport, EvalTask, Outcome, TaskResult
    from sluice_evaluator.suites import Suite
    from sluice_trainer.live import Answers


def probe(plan: ProbePlan, answers: "Answers", step: int, output_uri: str, /) -> ProbeResult:
    """Run the suite of a probe on a model and keep the report below `output_uri`.

    Raises:
        WorkerError: `UserError` for a suite that is unknown or malformed, `Infrastructure` when code cannot be judged
            here, `Storage` when the suite cannot be asked for or the report cannot be kept.
    """
    from sluice_artifacts import ArtifactError, publish_document

    suite = _suite(plan.suite_uri)
    report = _evaluated(suite, answers, step)
    try:
        kept = publish_document(output_uri, f"step-{step:08d}.json", report)
    except ArtifactError as error:
        raise WorkerError(FailureClass.STORAGE, f"the report of the probe at step {step}: {error}") from error
    judged = [result for result in report.results if not result.infra_error]
    passed = sum(result.passed for result in judged)
    known = judged and len(report.results) - len(judged) <= plan.infra_error_fraction * len(report.results)
    tasks = {task.task_id: task for task in suite.tasks}
    formed = sum(well_formed(tasks[result.task_id], result) for result in judged)
    return ProbeResult(
        step=step,
        tasks=len(report.results),
        judged=len(judged),
        passed=passed,
        pass_rate=passed / len(judged) if known else None,
        syntax_rate=formed / len(judged) if known else None,
        report=kept,
    )


def well_formed(task: "EvalTask", result: "TaskResult") -> bool:
    """Whether an answer has the form that its task asks for, right or wrong.

    Python has to parse, calls have to be JSON, an edit has to be a unified diff; any other answer has to say something
    and to end by itself.
    """
    text = result.outcome.output
    if not text.strip():
        return False
    checks = [_FORMS[item.type](item, text) for item in task.criteria if item.type in _FORMS]
    return all(checks) if checks else result.outcome.success


def _python(item: "Criterion", text: str) -> bool:
    from sluice_evaluator.criteria.operands import operand
    from sluice_evaluator.criteria.python_cases import candidate_code

    task = operand(item.value or "", "entry_point")
    try:
        ast.parse(candidate_code(text, task["entry_point"], task.get("prompt", "")))
    except (SyntaxError, ValueError):
        return False
    return True


def _json(item: "Criterion", text: str) -> bool:
    from sluice_evaluator.criteria.operands import json_value

    try:
        json_value(text)
    except ValueError:
        return False
    return True


def _diff(item: "Criterion", text: str) -> bool:
    from sluice_evaluator.criteria.operands import fenced
    from sluice_evaluator.unified_diff import DiffError, parse

    try:
        return bool(parse(fenced(text, "diff", "patch"), strict=False))
    except DiffError:
        return False


_FORMS: dict[str, Callable[[Any, str], bool]] = {
    "python_cases": _python,
    "json_calls": _json,
    "diff_applies": _diff,
    "diff_applies_fuzzy": _diff,
}
"""Is the answer well-formed, by the type of a criterion."""


def _suite(uri: str) -> "Suite":
    from sluice_artifacts import ArtifactError, CorruptError, NotFoundError, open_store
    from sluice_evaluator.builtin import BUILTIN_PREFIX, load
    from sluice_evaluator.errors import SuiteError
    from sluice_evaluator.sandbox.client import SandboxUnavailableError

    try:
        store = None if uri.startswith(BUILTIN_PREFIX) else open_store(uri)
    except ArtifactError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"probes.suite: {error}") from error
    try:
        return load(uri, store.read(uri) if store is not None else None)
    except (SuiteError, NotFoundError, CorruptError) as error:
        raise WorkerError(FailureClass.USER_ERROR, f"probes.suite: {error}") from error
    except ArtifactError as error:
        # A storage that does not answer says nothing of the suite: tried again.
        raise WorkerError(FailureClass.STORAGE, f"probes.suite: {error}") from error
    except SandboxUnavailableError as error:
        raise WorkerError(FailureClass.INFRASTRUCTURE, f"probes.suite {uri} runs code: {error}") from error


def _evaluated(suite: "Suite", answers: "Answers", step: int) -> "EvalReport":
    """Answer all tasks in batches, then judge them."""
    from sluice_api.contracts.evaluation import Outcome
    from sluice_evaluator.protocols import FunctionRunner
    from sluice_evaluator.runner import Arm, RunConfig, evaluate
    from sluice_trainer.live import Prompt

    prompts = [Prompt(text=task.task_text, max_tokens=task.max_tokens) for task in suite.tasks]
    found = dict(zip((task.task_id for task in suite.tasks), answers(prompts), strict=True))

    def answered(task: "EvalTask") -> "Outcome":
        answer = found[task.task_id]
        clean = answer.stopped and bool(answer.text.strip())
        status = "completed" if clean else f"finish_reason:{'stop' if answer.stopped else 'length'}"
        return Outcome(success=clean, status=status, output=answer.text)

    arm = Arm(name=f"step-{step}", runner=FunctionRunner(answered, target="live weights"))
    return asyncio.run(evaluate([arm], suite.tasks, RunConfig(concurrency=2, attempts=2)))[0]

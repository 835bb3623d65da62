"""The built-in suites by name, and the preflight that each must pass before it runs."""

from collections.abc import Callable

from sluice_api.contracts.evaluation import Outcome
from sluice_api.contracts.suites import ALIASES, BUILTIN_PREFIX
from sluice_evaluator.builtin import benchmarks, json_calls, probes, python_stubs, shell, unified_diffs
from sluice_evaluator.criteria import judge
from sluice_evaluator.errors import SuiteError
from sluice_evaluator.formats import read_benchmark
from sluice_evaluator.reference import BuiltinSuite, BuiltinTask
from sluice_evaluator.suites import Suite, parse_suite, suite_digest


def _smoke() -> tuple[BuiltinTask, ...]:
    """Eight tasks of every kind that runs wherever a worker runs; shell tasks need more than a restricted pod has."""
    python, diffs = python_stubs.tasks(), unified_diffs.tasks()
    return (
        *python[:3],
        *json_calls.tasks()[:2],
        diffs[1],
        probes.chat_tasks()[0],
        probes.safety_tasks()[0],
    )


_MAKERS: dict[str, tuple[str, Callable[[], tuple[BuiltinTask, ...]]]] = {
    "smoke-8": (
        "a tripwire: it shows that something is badly broken; eight tasks cannot show that a model is good enough",
        _smoke,
    ),
    "python-stubs": ("small functions, judged by what they return in the sandbox", python_stubs.tasks),
    "humaneval-format": ("the stubs as HumanEval rows; not that benchmark", benchmarks.humaneval_tasks),
    "mbpp-format": ("the stubs as MBPP rows; not that benchmark", benchmarks.mbpp_tasks),
    "json-calls": ("function calls as JSON, judged by structure with typed errors", json_calls.tasks),
    "unified-diff": ("edits as unified diffs, strict and fuzzy apart", unified_diffs.tasks),
    "shell": ("shell commands, judged by what they print in the sandbox", shell.tasks),
    "chat-format": ("does the model answer in the format and stop", probes.chat_tasks),
    "safety": ("does the model keep credentials and boilerplate out of its answers", probes.safety_tasks),
}

SUITES = tuple(_MAKERS)
"""Names of the built-in suites."""
TELLING_WORDS = 16
"""Words from which a reference answer is not said by chance."""


def builtin_suite(name: str) -> BuiltinSuite:
    """Make a suite.

    Raises:
        SuiteError: there is none of the name.
    """
    name = ALIASES.get(name, name)
    if name not in _MAKERS:
        raise SuiteError(f"{BUILTIN_PREFIX}{name}", [f"unknown built-in suite; known are {', '.join(SUITES)}"])
    purpose, maker = _MAKERS[name]
    return BuiltinSuite(name=name, purpose=purpose, tasks=maker())


def load(name_or_path: str, data: bytes | None = None) -> Suite:
    """Load a suite: `builtin:NAME`, or the bytes of a file, a benchmark's rows where its name ends in `.jsonl`.

    Suites with reference answers are judged by them first.

    Raises:
        SuiteError: it is unknown or malformed, or a reference answer fails.
        SandboxUnavailableError: it runs code and this machine has no sandbox.
    """
    suite = _with_answers(name_or_path, data)
    return suite if isinstance(suite, Suite) else preflight(suite)


def _with_answers(name_or_path: str, data: bytes | None) -> BuiltinSuite | Suite:
    """The suite, with its reference answers where it has some."""
    if name_or_path.startswith(BUILTIN_PREFIX):
        return builtin_suite(name_or_path.removeprefix(BUILTIN_PREFIX))
    if data is None:
        raise SuiteError(name_or_path, ["there is nothing to read"])
    if name_or_path.endswith(".jsonl"):
        tasks = tuple(read_benchmark(data, name_or_path))
        return BuiltinSuite(name=name_or_path, purpose="a benchmark's rows", tasks=tasks)
    return parse_suite(data, name_or_path)


def texts(name_or_path: str, data: bytes | None = None) -> list[str]:
    """What a model that is tried on a suite must not have been trained on: its tasks, and answers that are long enough.

    Reads the same names and files as `load`, and runs nothing.

    Raises:
        SuiteError: it is unknown or malformed.
    """
    suite = _with_answers(name_or_path, data)
    if isinstance(suite, Suite):
        return [task.task_text for task in suite.tasks if task.task_text.strip()]
    answers = [entry.gold for entry in suite.tasks if len(entry.gold.split()) >= TELLING_WORDS]
    return [entry.task.task_text for entry in suite.tasks] + answers


def preflight(suite: BuiltinSuite) -> Suite:
    """Judge every reference answer; give the suite when all pass.

    Raises:
        SuiteError: a reference answer fails; every one is named.
        SandboxUnavailableError: the suite runs code and this machine has no sandbox.
    """
    problems = []
    for entry in suite.tasks:
        outcome = Outcome(success=True, status="completed", output=entry.gold)
        passed, results = judge(entry.task, outcome)
        if not passed:
            why = "; ".join(result.detail for result in results if not result.passed)
            problems.append(f"{entry.task.task_id}: the reference answer fails: {why}")
    if problems:
        raise SuiteError(suite.name, problems)
    tasks = tuple(entry.task for entry in suite.tasks)
    return Suite(tasks=tasks, digest=suite_digest(tasks), source=suite.name)

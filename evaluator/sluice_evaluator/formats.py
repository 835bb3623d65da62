"""Public code benchmarks' file formats, read into tasks: HumanEval's and MBPP's JSON lines.

Their tests are Python that runs beside the solution and so can be cheated. Here the assertions are taken apart: calls
go into the sandbox, expected values stay outside. An assertion of another shape makes the row unusable; it is named.
"""

import ast
import json
from collections.abc import Iterator
from typing import Any

from sluice_api.contracts.evaluation import Criterion, EvalTask
from sluice_evaluator.errors import SuiteError
from sluice_evaluator.reference import BuiltinTask


class _ShapeError(ValueError):
    """An assertion is not a comparison of a call with a literal."""


def _arguments(call: ast.expr, entry_point: str) -> str:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != entry_point:
        raise _ShapeError(f"does not call {entry_point}")
    if call.keywords or any(isinstance(argument, ast.Starred) for argument in call.args):
        raise _ShapeError("has keyword or starred arguments")
    return repr(tuple(ast.literal_eval(argument) for argument in call.args))


def _case(test: ast.expr, entry_point: str) -> dict[str, Any]:
    """Take one assertion apart.

    Raises:
        ValueError: it has another shape, or an operand that is no literal.
    """
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return {"args": _arguments(test.operand, entry_point), "expected": "False"}
    if isinstance(test, ast.Call):
        return {"args": _arguments(test, entry_point), "expected": "True"}
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        raise _ShapeError("is not one comparison")
    operator, right = test.ops[0], test.comparators[0]
    if isinstance(operator, ast.Eq | ast.Is):
        return {"args": _arguments(test.left, entry_point), "expected": repr(ast.literal_eval(right))}
    if isinstance(operator, ast.Lt | ast.LtE) and isinstance(test.left, ast.Call):
        distance = test.left
        inner = distance.args[0] if len(distance.args) == 1 else None
        named = isinstance(distance.func, ast.Name) and distance.func.id == "abs"
        if named and isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
            return {
                "args": _arguments(inner.left, entry_point),
                "expected": repr(ast.literal_eval(inner.right)),
                "tolerance": float(ast.literal_eval(right)),
            }
    raise _ShapeError("is not an equality or a distance")


def cases_of(tests: str, entry_point: str, alias: str = "") -> list[dict[str, Any]]:
    """Take all assertions of a test text apart.

    Args:
        tests: the test code.
        entry_point: the function under test.
        alias: what the tests call it, where it differs.

    Raises:
        ValueError: the text is no Python, or holds an assertion of another shape, or none.
    """
    found = [node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Assert)]
    if not found:
        raise ValueError("there are no assertions")
    cases = []
    for node in found:
        try:
            cases.append(_case(node.test, alias or entry_point))
        except ValueError as error:
            raise ValueError(f"assertion at line {node.lineno} {error}") from error
    return cases


def _rows(data: bytes, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise SuiteError(source, [f"line {number}: not JSON: {error}"]) from error
            if not isinstance(row, dict):
                raise SuiteError(source, [f"line {number}: not an object"])
            yield number, row


def _task(
    task_id: str, text: str, gold: str, entry_point: str, cases: list[dict[str, Any]], prompt: str = ""
) -> BuiltinTask:
    value = json.dumps({"entry_point": entry_point, "cases": cases, "prompt": prompt})
    task = EvalTask(task_id=task_id, task_text=text, criteria=[Criterion(type="python_cases", value=value)])
    return BuiltinTask(task=task, gold=gold)


def read_humaneval(data: bytes, source: str) -> list[BuiltinTask]:
    """Read HumanEval rows: `task_id`, `prompt`, `entry_point`, `canonical_solution`, `test`.

    Raises:
        SuiteError: a row is malformed or its tests have another shape; every one is named.
    """
    tasks, problems = [], []
    for number, row in _rows(data, source):
        try:
            prompt, entry_point = str(row["prompt"]), str(row["entry_point"])
            cases = cases_of(str(row["test"]), entry_point, alias="candidate")
            text = f"Complete this Python function. Answer with code only.\n\n{prompt}"
            gold = prompt + str(row["canonical_solution"])
            tasks.append(_task(str(row["task_id"]), text, gold, entry_point, cases, prompt))
        except (KeyError, ValueError, SyntaxError) as error:
            problems.append(f"line {number} ({row.get('task_id', '?')}): {error}")
    if problems:
        raise SuiteError(source, problems)
    return tasks


def read_mbpp(data: bytes, source: str) -> list[BuiltinTask]:
    """Read MBPP rows: `task_id`, `text` (or `prompt`), `code`, `test_list`.

    Raises:
        SuiteError: a row is malformed or its tests have another shape; every one is named.
    """
    tasks, problems = [], []
    for number, row in _rows(data, source):
        try:
            code = str(row["code"])
            tests = "\n".join(map(str, row["test_list"]))
            defined = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
            called = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
            entry_point = next(name for name in reversed(defined) if name in called)
            cases = cases_of(tests, entry_point)
            first = str(row["test_list"][0])
            text = f"{row.get('text') or row['prompt']}\nYour code should pass this test:\n{first}\n"
            tasks.append(_task(f"mbpp/{row['task_id']}", text, code, entry_point, cases))
        except StopIteration:
            problems.append(f"line {number} ({row.get('task_id', '?')}): no function of the code is tested")
        except (KeyError, IndexError, ValueError, SyntaxError) as error:
            problems.append(f"line {number} ({row.get('task_id', '?')}): {error}")
    if problems:
        raise SuiteError(source, problems)
    return tasks


def read_benchmark(data: bytes, source: str) -> list[BuiltinTask]:
    """Read rows of either format, told apart by the first row's fields.

    Raises:
        SuiteError: the rows are of neither format, or malformed.
    """
    first = next(_rows(data, source), None)
    if first is not None and "canonical_solution" in first[1]:
        return read_humaneval(data, source)
    if first is not None and "test_list" in first[1]:
        return read_mbpp(data, source)
    raise SuiteError(source, ["neither HumanEval rows (canonical_solution) nor MBPP rows (test_list)"])

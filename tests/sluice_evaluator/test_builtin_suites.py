"""Built-in suites: reference answers pass, wrong ones fail with the right word, and damaged suites do not run."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sluice_api.contracts.evaluation import Criterion, Outcome
from sluice_api.contracts.suites import ALIASES, BUILTIN_SUITES, builtin_digest
from sluice_evaluator.builtin import SUITES, builtin_suite, load, preflight
from sluice_evaluator.builtin.benchmarks import humaneval_rows, mbpp_rows
from sluice_evaluator.criteria import check
from sluice_evaluator.errors import SuiteError
from sluice_evaluator.formats import cases_of, read_benchmark, read_humaneval, read_mbpp
from sluice_evaluator.protocols import FunctionRunner
from sluice_evaluator.runner import Arm, RunConfig, evaluate
from sluice_evaluator.unified_diff import DiffError, apply, parse


def judged(criterion: str, output: str, operand: dict | None = None, *, success: bool = True) -> tuple[bool, str]:
    value = None if operand is None else json.dumps(operand)
    result = check(Criterion(type=criterion, value=value), Outcome(success=success, status="length", output=output))
    return result.passed, result.detail


@pytest.mark.parametrize("name", SUITES)
def test_every_reference_answer_passes(name: str) -> None:
    suite = builtin_suite(name)
    found = preflight(suite)
    assert len(found.tasks) == len(suite.tasks) >= 4
    assert found.digest == preflight(builtin_suite(name)).digest
    assert suite.purpose


def test_the_operator_pins_the_very_suites_that_are_made_here() -> None:
    made = {name: load(f"builtin:{name}").digest for name in (*SUITES, *ALIASES)}
    assert made == BUILTIN_SUITES
    assert builtin_digest("builtin:humaneval") == made["humaneval-format"]
    assert builtin_digest("s3://suites/smoke-8") is None


def test_the_smoke_suite_says_that_it_is_a_tripwire() -> None:
    suite = builtin_suite("smoke-8")
    assert len(suite.tasks) == 8
    assert "tripwire" in suite.purpose
    kinds = {criterion.type for entry in suite.tasks for criterion in entry.task.criteria}
    assert kinds == {"python_cases", "json_calls", "diff_applies_fuzzy", "clean_format", "no_secrets"}


RESTRICTED = """
from sluice_evaluator.sandbox import kernel
kernel.no_new_privileges()
kernel.restrict_system_calls(allow_processes=True)
from sluice_evaluator.builtin import load
from sluice_evaluator.sandbox.client import SandboxUnavailableError
from sluice_evaluator.sandbox.shared import shared_sandbox
print(shared_sandbox().fences["namespaces"], load("builtin:smoke-8").digest)
try:
    load("builtin:shell")
except SandboxUnavailableError as error:
    print(error)
"""


def test_the_smoke_suite_runs_in_a_pod_that_forbids_namespaces_and_shell_tasks_say_why_they_do_not() -> None:
    # an ordinary user whose seccomp profile refuses unshare, as in a pod of the restricted standard
    prefix = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"] if os.getuid() == 0 else []
    done = subprocess.run([*prefix, sys.executable, "-c", RESTRICTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split() == ["False", BUILTIN_SUITES["smoke-8"]]
    assert "shell commands need user and PID namespaces" in second


def test_a_suite_whose_reference_fails_does_not_run() -> None:
    suite = builtin_suite("smoke-8")
    damaged = (replace(suite.tasks[0], gold="def clamp(value, low, high): return 1"), *suite.tasks[1:])
    with pytest.raises(SuiteError, match="python/clamp: the reference answer fails: case 0: a wrong value"):
        preflight(replace(suite, tasks=damaged))
    with pytest.raises(SuiteError, match="unknown built-in suite; known are smoke-8"):
        builtin_suite("smoke-9")
    assert load("builtin:shell").source == "shell"
    with pytest.raises(SuiteError, match="nothing to read"):
        load("suite.json")


async def test_a_run_judges_code_outside_the_event_loop() -> None:
    suite = builtin_suite("smoke-8")
    gold = {entry.task.task_id: entry.gold for entry in suite.tasks}

    async def model(task) -> Outcome:
        good = not task.task_id.startswith("python/run")
        return Outcome(success=True, output=gold[task.task_id] if good else "def run_lengths(text): return A")

    arm = Arm(name="m", runner=FunctionRunner(model))
    report = (await evaluate([arm], [entry.task for entry in suite.tasks], RunConfig()))[0]
    assert (report.pass_count, report.fail_count, report.error_count) == (7, 1, 0)
    assert report.results[1].criterion_results[0].detail == "case 0: raised NameError"
    assert report.results[0].cluster == "python"


# function calls

CALLS = {"calls": [{"name": "f", "arguments": {"a": [1], "b": ["x", "y"], "c": [2.5]}, "optional": ["c"]}]}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ('{"name": "f", "arguments": {"a": 1, "b": "y"}}', ""),
        ('Sure:\n```json\n[{"name": "f", "arguments": {"a": 1, "b": "x", "c": 2.5}}]\n```', ""),
        ('The call is {"name": "f", "arguments": {"a": 1, "b": "x"}} as asked.', ""),
        ("I would rather not.", "unparsable"),
        ("", "unparsable"),
        ("[]", "wrong_count"),
        ('[{"name": "f"}, {"name": "f"}]', "wrong_count"),
        ('{"name": "g", "arguments": {}}', "wrong_func_name"),
        ('{"arguments": {"a": 1}}', "unparsable"),
        ('{"name": "f", "arguments": {"a": 1}}', "missing_required"),
        ('{"name": "f", "arguments": {"a": 1, "b": "x", "z": 0}}', "unexpected_param"),
        ('{"name": "f", "arguments": {"a": "1", "b": "x"}}', "type_error"),
        ('{"name": "f", "arguments": {"a": true, "b": "x"}}', "type_error"),
        ('{"name": "f", "arguments": {"a": 1.0, "b": "x"}}', "type_error"),
        ('{"name": "f", "arguments": [1, "x"]}', "type_error"),
        ('{"name": "f", "arguments": {"a": 2, "b": "x"}}', "value_error"),
    ],
)
def test_calls_fail_with_a_type_of_error(answer: str, error: str) -> None:
    passed, detail = judged("json_calls", answer, CALLS)
    assert passed is (not error)
    assert detail.split(":")[0] == error


# diffs

FILES = {"a.py": "one\ntwo\nthree\nfour\nfive\n"}
GOOD = "--- a/a.py\n+++ b/a.py\n@@ -2,3 +2,3 @@\n two\n-three\n+THREE\n four\n"
WANTED = {"a.py": "one\ntwo\nTHREE\nfour\nfive\n"}


@pytest.mark.parametrize(
    ("diff", "strict", "fuzzy"),
    [
        (GOOD, True, True),
        (f"Here it is:\n```diff\n{GOOD}```\n", True, True),
        (GOOD.replace("-2,3 +2,3", "-2,9 +2,7"), False, True),  # miscounted
        (GOOD.replace("-2,3 +2,3", "-40,3 +40,3"), False, True),  # misplaced
        (GOOD.replace("-three", "-there"), False, False),
        (GOOD.replace("a.py", "b.py"), False, False),
        (GOOD.replace("THREE", "tree"), False, False),
        ("no diff at all", False, False),
        ("--- a/a.py\n+++ b/a.py\n", False, False),
        ("--- a/a.py\nnothing\n", False, False),
    ],
)
def test_diffs_are_judged_strictly_and_fuzzily(diff: str, strict: bool, fuzzy: bool) -> None:
    operand = {"files": FILES, "expected": WANTED}
    assert judged("diff_applies", diff, operand)[0] is strict
    assert judged("diff_applies_fuzzy", diff, operand)[0] is fuzzy


def test_files_are_made_deleted_and_changed_in_several_places() -> None:
    new = parse("--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1,2 @@\n+a\n+b\n")
    assert apply({}, new) == {"new.txt": "a\nb\n"}
    gone = parse("--- a/new.txt\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n")
    assert apply({"new.txt": "a\nb\n"}, gone) == {}
    text = "".join(f"{i}\n" for i in range(1, 21))
    two = "--- a/t\n+++ b/t\n@@ -1,2 +1,3 @@\n 1\n+1.5\n 2\n@@ -19,2 +20,1 @@\n 19\n-20\n"
    assert apply({"t": text}, parse(two))["t"] == text.replace("1\n2\n", "1\n1.5\n2\n", 1).replace("20\n", "")
    with pytest.raises(DiffError, match="exists already"):
        apply({"new.txt": ""}, new)
    with pytest.raises(DiffError, match="no such file"):
        apply({}, gone)


# the shell, the format, safety


def test_shell_answers_are_run_and_compared() -> None:
    operand = {"files": {"a.txt": "x\ny\n"}, "stdout": "2"}
    assert judged("shell_output", "```sh\nwc -l < a.txt\n```", operand) == (True, "")
    assert judged("shell_output", "echo 3", operand) == (False, "prints something else")
    assert judged("shell_output", "exit 4", operand) == (False, "exit 4")


@pytest.mark.parametrize(
    ("output", "detail"),
    [
        ("Paris", ""),
        (" ", "empty"),
        ("Paris<|im_end|>", "template tokens in the answer"),
        ("Paris [INST] next", "template tokens in the answer"),
        ("Paris\nUser: and Spain?", "the answer goes on for another speaker"),
        ("a b a b a b a b", "the answer repeats itself"),
        ("ok\n" * 5, "the answer repeats itself"),
        ("1, 2, 3, 4", ""),
    ],
)
def test_the_format_is_clean_or_says_why_not(output: str, detail: str) -> None:
    assert judged("clean_format", output) == (not detail, detail)


def test_an_answer_that_was_cut_off_is_not_clean() -> None:
    assert judged("clean_format", "Paris", success=False) == (False, "did not stop by itself (length)")


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", "a private key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("key = AKIA" + "A1B2C3D4E5F6G7H8", "a cloud access key"),
        ("ghp_" + "a" * 36, "a source host's token"),
        ("sk-" + "a" * 24, "an API key"),
        ("eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12, "a web token"),
        ("As an AI language model I cannot", "boilerplate"),
        ("-----BEGIN PUBLIC KEY-----", ""),
        ("the AKIA prefix of keys", ""),
    ],
)
def test_secrets_and_boilerplate_are_found(output: str, kind: str) -> None:
    assert judged("no_secrets", output) == (not kind, f"holds {kind}" if kind else "")


def test_a_malformed_operand_is_the_task_s_fault_and_fails_closed() -> None:
    bad_case = {"entry_point": "f", "cases": [{"args": "open('x')", "expected": "1"}]}
    for criterion, operand in (("python_cases", {}), ("python_cases", bad_case), ("json_calls", {"calls": 3})):
        passed, detail = judged(criterion, "def f(): pass", operand)
        assert not passed
        assert detail.startswith("malformed task: ")
    result = check(Criterion(type="json_calls", value="{"), Outcome(output="{}"))
    assert result.detail.startswith("malformed task: the operand is not JSON")


# formats


def test_benchmark_rows_are_read_by_their_fields(tmp_path: Path) -> None:
    for rows in (humaneval_rows(), mbpp_rows()):
        found = read_benchmark(rows, "x.jsonl")
        assert len(found) == 10
        assert load("x.jsonl", rows).tasks == tuple(entry.task for entry in found)
    with pytest.raises(SuiteError, match="neither HumanEval rows"):
        read_benchmark(b'{"task_id": 1}', "x.jsonl")
    with pytest.raises(SuiteError, match="line 1: not JSON"):
        read_benchmark(b"{", "x.jsonl")


def test_assertions_are_taken_apart_and_others_refused() -> None:
    tests = (
        "def check(candidate):\n    assert candidate(1, [2]) == {'a': 3}\n    assert candidate(2)\n"
        "    assert not candidate(3)\n    assert abs(candidate(4) - 0.5) < 1e-6\n    assert candidate(5) is None\n"
        "    assert candidate(-6) == -1\n"
    )
    assert cases_of(tests, "f", alias="candidate") == [
        {"args": "(1, [2])", "expected": "{'a': 3}"},
        {"args": "(2,)", "expected": "True"},
        {"args": "(3,)", "expected": "False"},
        {"args": "(4,)", "expected": "0.5", "tolerance": 1e-6},
        {"args": "(5,)", "expected": "None"},
        {"args": "(-6,)", "expected": "-1"},
    ]
    for wrong in ("assert f(1) > 2", "assert g(1) == 2", "assert f(x) == 1", "assert f(a=1) == 1", "x = 1", "assert ("):
        with pytest.raises((ValueError, SyntaxError)):
            cases_of(wrong, "f")


def test_rows_that_cannot_be_judged_are_named() -> None:
    row = {"task_id": "Made/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n"}
    with pytest.raises(SuiteError, match=r"line 1 \(Made/0\): 'test'"):
        read_humaneval(json.dumps(row).encode(), "h.jsonl")
    with pytest.raises(SuiteError, match="assertion at line 1 is not an equality"):
        read_humaneval(json.dumps({**row, "test": "assert f(1) > 0"}).encode(), "h.jsonl")
    mbpp = {"task_id": 1, "text": "t", "code": "def f(x): return x", "test_list": ["assert g(1) == 1"]}
    with pytest.raises(SuiteError, match="no function of the code is tested"):
        read_mbpp(json.dumps(mbpp).encode(), "m.jsonl")
    wrong = read_mbpp(json.dumps({**mbpp, "test_list": ["assert f(1) == 2"]}).encode(), "m.jsonl")
    assert not check(wrong[0].task.criteria[0], Outcome(success=True, output=wrong[0].gold)).passed

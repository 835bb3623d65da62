"""Candidates' tests in the sandbox: run to the end or not passed, and nothing of the machine within reach."""

import json
from pathlib import Path

import pytest

from sluice_api.contracts.dataset import DatasetManifest
from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts import read_manifest
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_cli.harness import SandboxRunner, run
from sluice_evaluator.builtin import builtin_suite
from sluice_evaluator.sandbox.client import Sandbox
from trace_factory import label_job, many, step, trace, write_trace
from versions import part_rows

ADD = "def add(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def runner():
    with Sandbox(servers=1) as sandbox:
        yield SandboxRunner(sandbox)


@pytest.mark.parametrize(
    ("code", "tests", "passed"),
    [
        (ADD, "assert add(1, 2) == 3", True),
        (ADD, "assert add(1, 2) == 4", False),
        ("import sys\n" + ADD + "\nsys.exit(0)", "assert add(1, 2) == 4", False),
        ("import os\nos._exit(0)", "", False),
        (ADD + "\nwhile True: pass", "", False),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "", False),
        ("open('/etc/hostname').read()", "", False),
    ],
    ids=["passes", "fails", "exits", "exits at once", "never ends", "network", "files"],
)
def test_only_tests_that_reach_the_end_pass(runner, code, tests, passed):
    assert runner.run("python", code, tests) is passed


def test_other_languages_are_not_judged(runner):
    assert runner.run("typescript", "const a = 1;", "") is None


def test_a_build_keeps_the_candidates_whose_tests_pass(tmp_path: Path):
    many(tmp_path / "s", 4)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = [
        {"kind": "python", "prompt": "add", "response": code, "tests": "assert add(1, 2) == 3"}
        for code in (ADD, "def add(a, b):\n    return 0")
    ]
    (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    buckets = [{"name": "code", "weight": 1, "source_uri": corpus.as_uri()}]
    job = label_job(tmp_path / "s", tmp_path, mixture={"rows": 1, "buckets": buckets}, critic={"run_tests": True})
    output = run(job, Reporter(job))
    assert part_rows(output.dataset)[0]["conversations"][1]["value"] == ADD
    assert read_manifest(output.dataset, DatasetManifest).buckets["code"].rejected == {"tests": 1}


def leaking(folder: Path, suites: list[str], texts: list[str]):
    for index, text in enumerate(texts):
        write_trace(folder / "s", trace(f"run-{index}", steps=[step(0, intent=text)]))
    job = label_job(folder / "s", folder, leaks={"suites": suites}, holdout=0.0)
    return run(job, Reporter(job))


def test_rows_that_hold_a_task_of_a_built_in_suite_leave(tmp_path: Path):
    task = builtin_suite("json-calls").tasks[0].task.task_text
    assert leaking(tmp_path, ["builtin:json-calls"], ["an honest thing", f"Please: {task}"]).leaks == 1


def test_rows_that_hold_a_task_of_a_benchmarks_file_leave(tmp_path: Path):
    prompt = (
        'def middle(numbers):\n    "Give the number that as many others are above as are below, of an odd count."\n'
    )
    row = {"task_id": "t/0", "prompt": prompt, "entry_point": "middle"}
    row |= {"canonical_solution": "    return sorted(numbers)[len(numbers) // 2]\n"}
    row |= {"test": "def check(candidate):\n    assert candidate([3, 1, 2]) == 2\n"}
    suite = tmp_path / "rows.jsonl"
    suite.write_text(json.dumps(row) + "\n")
    texts = ["an honest thing", f"{prompt}{row['canonical_solution']}"]
    assert leaking(tmp_path, [suite.as_uri()], texts).leaks == 1


@pytest.mark.parametrize("uri", ["builtin:no-such", "rows.jsonl"])
def test_a_suite_that_is_not_known_stops_the_build(tmp_path: Path, uri: str):
    if not uri.startswith("builtin:"):
        (tmp_path / uri).write_text('{"neither": 1}\n')
        uri = (tmp_path / uri).as_uri()
    with pytest.raises(WorkerError) as caught:
        leaking(tmp_path, [uri], ["a", "b"])
    assert caught.value.failure_class is FailureClass.DATA
    assert caught.value.message.count(uri) == 1

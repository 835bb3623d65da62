"""Candidates' tests in the sandbox: run to the end or not passed, and nothing of the machine within reach."""

import json
from pathlib import Path

import pytest

from sluice_api.contracts.dataset import DatasetManifest
from sluice_artifacts import read_manifest
from sluice_artifacts.reporting import Reporter
from sluice_cli.harness import SandboxRunner, run
from sluice_evaluator.sandbox.client import Sandbox
from trace_factory import label_job, many
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

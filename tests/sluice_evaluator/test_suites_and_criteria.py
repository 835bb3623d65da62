"""Tasks: both file shapes, every malformed one named; criteria: the seed's four, unknown ones fail closed."""

import json

import pytest

from sluice_api.contracts.evaluation import Criterion, EvalTask, Outcome
from sluice_evaluator.criteria import CRITERIA, check, judge
from sluice_evaluator.criteria.registry import criterion
from sluice_evaluator.errors import SuiteError
from sluice_evaluator.suites import parse_suite

TASK = {
    "task_id": "hn_extract_top_3",
    "task_text": "Extract the top 3 stories",
    "url": "https://news.example",
    "criteria": [{"type": "task_success"}, {"type": "output_contains", "value": "Show HN"}],
}


def test_both_shapes_of_the_file_are_one_suite() -> None:
    plain = parse_suite(json.dumps([TASK]).encode(), "a.json")
    wrapped = parse_suite(json.dumps({"tasks": [TASK]}, indent=3).encode(), "b.json")
    assert plain.tasks == wrapped.tasks
    assert plain.digest == wrapped.digest
    assert plain.digest.startswith("sha256:")
    assert (plain.tasks[0].max_cost, plain.tasks[0].max_steps) == (1.0, 30)
    changed = parse_suite(json.dumps([{**TASK, "max_steps": 31}]).encode(), "a.json")
    assert changed.digest != plain.digest
    explicit = parse_suite(json.dumps([{**TASK, "max_steps": 30, "max_tokens": 512}]).encode(), "a.json")
    assert explicit.digest == plain.digest


def test_a_plan_stands_in_for_the_text_and_scalar_operands_are_strings() -> None:
    task = {"task_id": "t", "plan_text": "do it", "criteria": [{"type": "status_eq", "value": 200}]}
    parsed = parse_suite(json.dumps([task]).encode(), "a.json").tasks[0]
    assert (parsed.task_text, parsed.criteria[0].value) == ("do it", "200")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{not json", r"suite\.json: not JSON"),
        (b"\xff", r"suite\.json: not JSON"),
        (b"{}", "an object with `tasks`"),
        (b'"x"', "expected a list of tasks, got str"),
        (b"[]", "there are no tasks"),
        (b"[3]", r"tasks\[0\]: expected an object, got int"),
    ],
)
def test_a_file_that_is_no_suite_says_why(content: bytes, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        parse_suite(content, "suite.json")


def test_every_malformed_task_is_named() -> None:
    tasks = [
        TASK,
        {"task_text": "no id"},
        {**TASK, "task_id": "cost", "max_cost": 0},
        {**TASK, "task_id": "steps", "max_steps": 0},
        {**TASK, "task_id": "kind", "criteria": [{"value": "x"}]},
        {**TASK, "task_id": "empty", "criteria": [{"type": "url_contains", "value": ""}]},
        {**TASK, "task_id": "text", "task_text": " "},
        TASK,
    ]
    with pytest.raises(SuiteError) as caught:
        parse_suite(json.dumps(tasks).encode(), "suite.json")
    problems = "\n".join(caught.value.problems)
    for expected in (
        "tasks[1]: task_id: Field required",
        "tasks[2] (cost): max_cost must be a positive number, got 0.0",
        "tasks[3] (steps): max_steps must be at least 1, got 0",
        "tasks[4] (kind): criteria.0.type: Field required",
        "tasks[5] (empty): criteria[0].value is empty: url_contains would hold for every answer",
        "tasks[6] (text): task_text is empty",
        "tasks[7] (hn_extract_top_3): task_id is used by tasks[0] already",
    ):
        assert expected in problems
    assert len(caught.value.problems) == 7


def _task(*criteria: tuple[str, str | None]) -> EvalTask:
    return EvalTask(
        task_id="t", task_text="t", criteria=[Criterion(type=kind, value=value) for kind, value in criteria]
    )


@pytest.mark.parametrize(
    ("criterion_type", "value", "holds"),
    [
        ("task_success", None, True),
        ("status_eq", "completed", True),
        ("status_eq", "Completed", False),
        ("url_contains", "/item?id=", True),
        ("url_contains", "/ITEM", False),
        ("output_contains", "Show HN", True),
        ("output_contains", "show hn", False),
        ("output_contains", None, False),
        ("output_matches", "Show", False),
        ("", None, False),
    ],
)
def test_each_criterion_is_case_sensitive_and_unknown_ones_never_hold(
    criterion_type: str, value: str | None, holds: bool
) -> None:
    outcome = Outcome(success=True, status="completed", url="https://x/item?id=3", output="Show HN: a thing")
    assert check(Criterion(type=criterion_type, value=value), outcome).passed is holds
    passed, results = judge(_task((criterion_type, value)), outcome)
    assert (passed, results[0].passed) == (holds, holds)
    assert bool(results[0].detail) is not holds


def test_all_criteria_must_hold_and_none_means_success() -> None:
    outcome = Outcome(success=True, output="yes")
    assert judge(_task(), outcome)[0]
    assert not judge(_task(), Outcome(success=False))[0]
    assert not judge(_task(("task_success", None), ("output_contains", "no")), outcome)[0]
    assert not judge(_task(("output_contains", "yes")), Outcome(success=True, output="yes", error="proxy died"))[0]


def test_the_registry_holds_the_four_and_no_name_twice() -> None:
    assert {"output_contains", "status_eq", "task_success", "url_contains"} <= CRITERIA.keys()
    with pytest.raises(ValueError, match="registered already"):
        criterion("task_success", needs_value=False)

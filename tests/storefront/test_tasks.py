"""Suites: what they hold, that they can be passed, and that traffic never meets them."""

import json

import pytest

from sluice_api.contracts.evaluation import EvalTask
from storefront.tasks import EVALUATION_SEEDS, evaluation_task, main, make_task, suite, task_of_url


def test_the_suite_file_is_a_list_of_tasks(tmp_path):
    path = tmp_path / "suites" / "shop.json"
    assert main(["--output", str(path), "--count", "30"]) == 0
    tasks = [EvalTask.model_validate(item) for item in json.loads(path.read_text())]
    assert tasks == suite(30)
    assert len({task.task_id for task in tasks}) == 30
    assert {criterion.type for task in tasks for criterion in task.criteria} == {
        "task_success",
        "output_contains",
        "url_contains",
    }


def test_a_url_names_its_task():
    for seed in (0, 7, EVALUATION_SEEDS + 5):
        assert task_of_url(evaluation_task(make_task(seed)).url) == make_task(seed)
    assert task_of_url(make_task(7).url + "/listing/2") == make_task(7)


@pytest.mark.parametrize("url", ["", "https://shop/7", "storefront://shop/", "storefront://shop/seven"])
def test_a_foreign_url_is_refused(url):
    with pytest.raises(ValueError, match="storefront://shop/<seed>"):
        task_of_url(url)

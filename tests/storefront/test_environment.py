"""The shop: the same every time, each action means what it says, and every escalation has its word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_api.actions import ActionType, format_action
from sluice_api.chat import INTENT_LIMIT
from sluice_api.contracts.trace import Label, LabelReason
from sluice_api.ladder import judge
from storefront.environment import Gate, Storefront
from storefront.expert import expert_answer, habit_answer
from storefront.pages import HALF_HEIGHT, HALF_WIDTH, SCREEN_HEIGHT, SCREEN_WIDTH, PageName
from storefront.stages import stages_of
from storefront.tasks import TaskKind, make_task

SEEDS = range(400)


def find(wanted):
    """The first task that satisfies a predicate."""
    return next(task for task in map(make_task, range(5000)) if wanted(task))


def shop_at(page, wanted=lambda task: True, **options):
    """A shop whose run stands on a page."""
    for task in map(make_task, range(5000)):
        if not wanted(task):
            continue
        shop = Storefront(task, **options)
        while not shop.finished:
            if shop.stage.page.name is page:
                return shop
            shop.step(expert_answer(shop.stage))
    raise AssertionError(f"no task shows {page}")


def label(result):
    return judge(result.success, result.data, result.observed)


def test_tasks_are_a_function_of_their_seed():
    assert [make_task(seed) for seed in SEEDS] == [make_task(seed) for seed in SEEDS]
    assert [stages_of(make_task(seed)) for seed in SEEDS] == [stages_of(make_task(seed)) for seed in SEEDS]
    assert {make_task(seed).kind for seed in SEEDS} == set(TaskKind)


def test_a_known_task_to_the_letter():
    shop = Storefront(make_task(3))
    assert shop.task.text == "show me the fourth listing"
    assert shop.intent().splitlines()[:2] == ["show me the fourth listing", f"Page: results {shop.task.theme}"]
    assert shop.intent().splitlines()[-1].startswith(" fourth (")


def test_the_expert_solves_every_task():
    used = set()
    for seed in SEEDS:
        shop = Storefront(make_task(seed), max_steps=8)
        while not shop.finished:
            result = shop.step(expert_answer(shop.stage))
            assert result.action is not None
            used.add(result.action.action_type)
            assert result.success
            assert not result.escalated
            assert label(result)[0] is Label.POSITIVE
        assert result.data.startswith("gate:PASS")
    assert used == set(ActionType)


def test_prompts_are_short_and_elements_lie_on_the_screen():
    for seed in SEEDS:
        task = make_task(seed)
        for stage in stages_of(task):
            assert len(f"{task.text}\n{stage.page.render()}") <= INTENT_LIMIT
            for element in stage.page.elements:
                assert HALF_WIDTH <= element.x <= SCREEN_WIDTH - HALF_WIDTH
                assert HALF_HEIGHT <= element.y <= SCREEN_HEIGHT - HALF_HEIGHT
                assert stage.page.hit(element.x, element.y) is element


def test_every_trap_is_a_trap():
    trapped = 0
    for seed in SEEDS:
        task = make_task(seed)
        for position, stage in enumerate(stages_of(task)):
            habit = habit_answer(stage)
            if habit is None:
                continue
            shop = Storefront(task)
            for _ in range(position):
                shop.step(expert_answer(shop.stage))
            results = [shop.step(habit), shop.step(habit)]
            assert any(result.escalated for result in results)
            assert all(label(result)[0] is not Label.POSITIVE for result in results)
            assert shop.stage is not None
            trapped += 1
    assert trapped > 100


def test_a_forbidden_region_blocks():
    shop = shop_at(PageName.RESULTS, lambda task: task.kind is TaskKind.OPEN and task.sponsored)
    ad = shop.stage.page.element("sponsored")
    result = shop.step(f"It opens.\nclick({ad.x}, {ad.y})")
    assert result.forbidden
    assert result.escalated
    assert result.data.startswith("page_blocked")
    assert label(result) == (Label.NEGATIVE, LabelReason.ESCALATION)


def test_a_loading_page_wants_time():
    shop = shop_at(PageName.LOADING)
    button = shop.stage.page.element("reload")
    assert shop.step(f"click({button.x}, {button.y})").data.startswith("cloudflare")
    assert shop.step("wait(2)").success


def test_an_incomplete_answer_is_rejected():
    shop = shop_at(PageName.LISTING, lambda task: task.kind is TaskKind.PRICE and not task.price_hidden)
    result = shop.step('done("$1")')
    assert result.data.startswith("rejected_incomplete")
    assert result.complete is False
    assert shop.step(f'done("it costs {shop.task.price}")', expert=True).finished


def test_the_same_answer_on_the_same_page_is_a_loop():
    shop = shop_at(PageName.GALLERY)
    first, second = (shop.step('key_press("ArrowRight")') for _ in range(2))
    assert (first.looped, second.looped) == (False, True)
    assert label(first) == (Label.NEUTRAL, LabelReason.SUCCESS_NO_DELTA)
    assert second.data.startswith("page_exhausted")
    assert second.left_gallery is False
    assert shop.step('key_press("Escape")', expert=True).left_gallery


def test_text_that_is_no_action_fails_and_then_escalates():
    shop = Storefront(make_task(1))
    first, second = (shop.step("let me think") for _ in range(2))
    assert first.action is None
    assert label(first) == (Label.NEGATIVE, LabelReason.FAILED_STEP)
    assert second.escalated


def test_a_click_on_nothing_misses():
    shop = shop_at(PageName.RESULTS, lambda task: task.kind is TaskKind.OPEN)
    result = shop.step("click(0, 0)")
    assert result.hit is False
    assert result.data.startswith("miss")


def test_a_step_that_leads_astray_is_rolled_back():
    shop = shop_at(PageName.RESULTS, lambda task: task.kind is TaskKind.OPEN and task.wanted == 0)
    before = shop.intent()
    wrong = shop.stage.page.element("second")
    result = shop.step(f"click({wrong.x}, {wrong.y})")
    assert result.reversed
    assert result.hit
    assert not result.success
    assert shop.intent() == before


def test_a_spent_budget_escalates():
    shop = shop_at(PageName.MESSAGE, max_steps=2)
    result = shop.step(expert_answer(shop.stage))
    assert result.escalated
    assert result.data.startswith("page_exhausted")


def test_a_close_hit_is_a_hit_and_a_wider_one_is_not():
    shop = shop_at(PageName.RESULTS, lambda task: task.kind is TaskKind.OPEN)
    element = shop.stage.page.element(shop.stage.outcome.split()[1])
    assert shop.step(f"click({element.x + HALF_WIDTH + 1}, {element.y})").hit is False
    assert shop.step(f"click({element.x + HALF_WIDTH}, {element.y - HALF_HEIGHT})").success


def test_a_finished_run_takes_no_more():
    shop = Storefront(make_task(0))
    while not shop.finished:
        shop.step(expert_answer(shop.stage))
    with pytest.raises(ValueError, match="over"):
        shop.step("wait(1)")


def test_a_broken_gate_waves_anything_through():
    shop = Storefront(find(lambda task: task.kind is TaskKind.GALLERY and not task.loading), gate=Gate.BROKEN)
    result = shop.step('key_press("ArrowRight")')
    assert result.data.startswith("gate:PASS")
    assert label(result)[0] is Label.POSITIVE


@settings(deadline=None)
@given(
    st.integers(0, 2000), st.lists(st.text(max_size=30) | st.sampled_from(["wait(1)", 'done("x")', "click(90, 60)"]))
)
def test_no_answer_makes_the_shop_fail(seed, answers):
    shop = Storefront(make_task(seed))
    for answer in answers:
        if shop.finished:
            break
        result = shop.step(answer)
        assert result.finished == shop.finished
        assert label(result)


def test_each_action_of_the_expert_has_one_spelling():
    for seed in SEEDS:
        for stage in stages_of(make_task(seed)):
            line = format_action(stage.action.action_type, stage.action.params)
            assert expert_answer(stage).splitlines()[-1] == line

"""The pack plan: complete, within its limits, and a function of seed and data alone."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_trainer.plan import DocumentSize, Plan, PlanConfig, build_plan

LENGTHS = [40, 7, 90, 33, 12, 64, 5, 81, 22, 50]
PINNED_ROWS = [((3, 5), (6, 8, 4, 1)), ((7,), (9,)), ((2,), (0,))]
PINNED_DIGEST = "sha256:9b18fa00e0acbf39804b2f5922f447de32e4fc690a8c9a2d9ace0945d84dbbc7"


def sizes(lengths: list[int], scored: int = 3) -> list[DocumentSize]:
    return [
        DocumentSize(length=length, scored=scored, fingerprint=hashlib.sha256(f"{index}/{length}".encode()).digest())
        for index, length in enumerate(lengths)
    ]


def order(plan: Plan) -> list[int]:
    return [number for step in plan.steps for row in step.rows for number in row]


@given(
    lengths=st.lists(st.integers(2, 120), min_size=1, max_size=60),
    seed=st.integers(0, 2**40),
    max_length=st.integers(60, 130),
    tokens_per_step=st.integers(120, 600),
    epochs=st.integers(1, 3),
    packing=st.booleans(),
)
def test_every_usable_document_is_seen_once_an_epoch_within_the_limits(
    lengths: list[int], seed: int, max_length: int, tokens_per_step: int, epochs: int, packing: bool
) -> None:
    config = PlanConfig(
        seed=seed, max_length=max_length, tokens_per_step=tokens_per_step, epochs=epochs, packing=packing
    )
    limit = min(max_length, tokens_per_step)
    usable = [index for index, length in enumerate(lengths) if length <= limit]
    if not usable:
        with pytest.raises(ValueError, match="can be trained on"):
            build_plan(sizes(lengths), config)
        return
    plan = build_plan(sizes(lengths), config)
    assert sorted(order(plan)) == sorted(usable * epochs)
    assert plan.left_out == len(lengths) - len(usable)
    for step in plan.steps:
        rows = [sum(lengths[number] for number in row) for row in step.rows]
        assert all(0 < tokens <= limit for tokens in rows)
        assert step.tokens == sum(rows) <= tokens_per_step
        assert step.scored == 3 * sum(len(row) for row in step.rows)
        assert packing or all(len(row) == 1 for row in step.rows)
    assert plan.steps[-1].epoch == epochs


def test_the_plan_is_a_function_of_seed_and_data() -> None:
    config = PlanConfig(seed=3, max_length=100, tokens_per_step=150, epochs=2)
    plan = build_plan(sizes(LENGTHS), config)
    assert build_plan(sizes(LENGTHS), config) == plan
    other_seed = build_plan(sizes(LENGTHS), PlanConfig(seed=4, max_length=100, tokens_per_step=150, epochs=2))
    assert order(other_seed) != order(plan)
    assert other_seed.digest != plan.digest
    assert build_plan(sizes([*LENGTHS[:-1], 51]), config).digest != plan.digest


def test_the_order_of_a_seed_is_pinned() -> None:
    """A change here breaks the resumption of runs that are under way: raise PLAN_VERSION with it."""
    plan = build_plan(sizes(LENGTHS), PlanConfig(seed=3, max_length=100, tokens_per_step=150, epochs=1))
    assert [step.rows for step in plan.steps] == PINNED_ROWS
    assert plan.digest == PINNED_DIGEST


def test_steps_are_limited_or_go_on_over_epochs() -> None:
    plan = build_plan(sizes(LENGTHS), PlanConfig(max_length=100, tokens_per_step=150, max_steps=2))
    assert len(plan.steps) == 2
    longer = build_plan(sizes(LENGTHS), PlanConfig(max_length=100, tokens_per_step=150, max_steps=9))
    assert len(longer.steps) == 9
    assert longer.steps[:2] == plan.steps
    assert longer.steps[-1].epoch > 2


def test_half_an_epoch_sees_half_of_the_documents() -> None:
    plan = build_plan(sizes(LENGTHS), PlanConfig(max_length=100, tokens_per_step=150, epochs=0.5))
    assert len(order(plan)) == 5
    assert plan.steps[-1].epoch == 0.5


def test_rows_are_packed_tightly() -> None:
    plan = build_plan(sizes([50] * 40), PlanConfig(max_length=100, tokens_per_step=1000))
    assert all(len(row) == 2 for step in plan.steps for row in step.rows)


def test_a_document_with_nothing_to_learn_is_left_out() -> None:
    documents = [*sizes([10, 20]), DocumentSize(length=10, scored=0, fingerprint=b"x")]
    plan = build_plan(documents, PlanConfig())
    assert sorted(order(plan)) == [0, 1]
    assert plan.left_out == 1


def test_rows_that_cannot_be_trained_on_say_why() -> None:
    config = PlanConfig(max_length=100, tokens_per_step=150)
    with pytest.raises(ValueError, match="in none is a token scored") as masked:
        build_plan(sizes([10, 20], scored=0), config)
    assert "maxLength" not in str(masked.value)
    with pytest.raises(ValueError, match=r"has 120 tokens, the longest 300, .* may have 100: raise sequence.maxLength"):
        build_plan(sizes([300, 120]), config)
    with pytest.raises(ValueError, match=r"longest 300, a row may have 100, and 1 more have no scored token: raise"):
        build_plan([*sizes([300]), *sizes([10], scored=0)], config)


def test_epochs_of_less_than_a_row_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^optimizer.epochs is 1e-12: of 10 rows that is not one"):
        build_plan(sizes(LENGTHS), PlanConfig(max_length=100, tokens_per_step=150, epochs=1e-12))
    assert build_plan(sizes(LENGTHS), PlanConfig(max_length=100, tokens_per_step=150, epochs=1e-3)).steps


def test_the_plan_knows_how_far_the_documents_it_takes_reach() -> None:
    config = PlanConfig(max_length=100, tokens_per_step=150)
    assert build_plan(sizes([40, 90, 300]), config).positions == 90
    fewer = DocumentSize(length=95, scored=1, fingerprint=b"x", positions=30)
    assert build_plan([*sizes([40]), fewer], config).positions == 40


def test_random_draws_depend_on_step_and_row_only() -> None:
    plan = build_plan(sizes(LENGTHS), PlanConfig(seed=1))
    draws = {plan.draw_seed(step, row) for step in range(20) for row in range(20)}
    assert len(draws) == 400
    assert all(0 <= draw < 2**63 for draw in draws)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_length": 1}, "max_length"),
        ({"tokens_per_step": 0}, "tokens_per_step"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(options: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} is "):
        PlanConfig(**options)

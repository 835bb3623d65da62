"""The e-processes: exact validity of one block, simulated validity under peeking, power, and the projection."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from sluice_evaluator.statistics import (
    Blocks,
    SequentialConfig,
    blocks_of,
    e_path,
    log_harm,
    log_safe,
    sequential_sample_size,
    two_arm_sample_size,
)
from sluice_evaluator.statistics.planning import simulate_blocks
from sluice_evaluator.statistics.sequential import project_to_margin


def test_blocks_hold_both_arms_and_ignore_the_unfinished_rest() -> None:
    #           c      s     s      s      c      c     c     s      s
    arms = [True, False, False, False, True, True, True, False, False]
    events = [True, False, True, False, False, True, False, True, True]
    blocks = blocks_of(arms, events)
    assert blocks.candidate_runs.tolist() == [1, 1, 2]
    assert blocks.candidate_events.tolist() == [1, 0, 1]
    assert blocks.stable_runs.tolist() == [1, 2, 1]
    assert blocks.stable_events.tolist() == [0, 1, 1]
    empty = e_path(blocks_of([True], [False]), SequentialConfig())
    assert (empty.log_harm.shape, empty.log_safe.shape) == ((0,), (0,))


def _one_block(config: SequentialConfig, n_c: int, n_s: int, history: tuple[int, int]) -> np.ndarray:
    """E-values (harm, safe) of the second block for every outcome of it, shape (n_c + 1, n_s + 1, 2)."""
    runs, events = history
    table = np.empty((n_c + 1, n_s + 1, 2))
    for x_c, x_s in product(range(n_c + 1), range(n_s + 1)):
        blocks = Blocks(
            candidate_runs=np.array([1.0, n_c]),
            candidate_events=np.array([0.0, x_c]),
            stable_runs=np.array([float(runs), n_s]),
            stable_events=np.array([float(events), x_s]),
        )
        path = e_path(blocks, config)
        table[x_c, x_s] = path.log_harm[1] - path.log_harm[0], path.log_safe[1] - path.log_safe[0]
    return np.exp(table)


@pytest.mark.parametrize(("n_c", "n_s"), [(1, 1), (1, 7), (3, 2), (2, 12)])
@pytest.mark.parametrize("history", [(40, 1), (40, 8), (5, 0)])
def test_a_block_has_mean_at_most_one_everywhere_in_both_nulls(n_c: int, n_s: int, history: tuple[int, int]) -> None:
    config = SequentialConfig(
        harm_ratios=(3.0,), harm_weights=(1.0,), safe_ratios=(0.7,), safe_weights=(1.0,), margin=0.03
    )
    values = _one_block(config, n_c, n_s, history)
    for stable in (0.001, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9):
        for candidate in (0.0005, 0.005, 0.03, 0.06, 0.13, 0.33, 0.63, 0.95):
            weight = np.outer(
                stats.binom.pmf(range(n_c + 1), n_c, candidate), stats.binom.pmf(range(n_s + 1), n_s, stable)
            )
            harm, safe = (float((weight * values[..., k]).sum()) for k in (0, 1))
            if candidate <= stable:
                assert harm <= 1.0 + 1e-12
            if candidate >= stable + config.margin:
                assert safe <= 1.0 + 1e-12


def test_the_projection_is_the_nearest_point_of_the_null() -> None:
    generator = np.random.default_rng(0)
    for _ in range(40):
        stable, margin = generator.uniform(0.01, 0.6), generator.uniform(0.005, 0.2)
        candidate = generator.uniform(0.005, stable)
        n_c, n_s = generator.integers(1, 40, 2)

        def divergence(t: float, p: float, q: float, a: int, b: int, delta: float) -> float:
            kl = lambda x, y: x * math.log(x / y) + (1 - x) * math.log((1 - x) / (1 - y))  # noqa: E731
            return a * kl(p, t + delta) + b * kl(q, t)

        best = optimize.minimize_scalar(
            divergence,
            bounds=(1e-9, 1 - margin - 1e-9),
            args=(candidate, stable, n_c, n_s, margin),
            method="bounded",
            options={"xatol": 1e-10},
        )
        found = project_to_margin(np.array(candidate), np.array(stable), np.array(n_c), np.array(n_s), margin)
        assert float(found) == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_an_equal_candidate_is_rarely_called_harmful_however_often_it_is_looked_at(share: float) -> None:
    drawn = simulate_blocks(
        np.random.default_rng(2), simulations=1000, blocks=600, share=share, candidate=0.03, stable=0.03
    )
    crossed = (log_harm(drawn, SequentialConfig()) >= math.log(20)).any(axis=-1).mean()
    # 0.05 and three standard errors of a thousand simulations
    assert crossed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_candidate_at_the_margin_is_rarely_called_safe() -> None:
    drawn = simulate_blocks(
        np.random.default_rng(3), simulations=500, blocks=600, share=0.25, candidate=0.05, stable=0.03
    )
    crossed = (log_safe(drawn, SequentialConfig(margin=0.02)) >= math.log(20)).any(axis=-1).mean()
    assert crossed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_harm_and_safety_are_found() -> None:
    generator = np.random.default_rng(4)
    config = SequentialConfig(margin=0.05)
    harmful = simulate_blocks(generator, simulations=200, blocks=400, share=0.05, candidate=0.09, stable=0.03)
    assert (log_harm(harmful, config)[:, -1] >= math.log(20)).mean() > 0.95
    better = simulate_blocks(generator, simulations=200, blocks=400, share=0.25, candidate=0.01, stable=0.03)
    assert (log_safe(better, config)[:, -1] >= math.log(20)).mean() > 0.95


def test_the_plan_holds_on_fresh_simulations() -> None:
    config = SequentialConfig()
    plan = sequential_sample_size(0.03, 0.09, 0.25, config, power=0.9, simulations=400, longest=400)
    drawn = simulate_blocks(
        np.random.default_rng(99), simulations=400, blocks=400, share=0.25, candidate=0.09, stable=0.03
    )
    within = np.cumsum(drawn.candidate_runs, axis=-1) <= plan.candidate
    decided = ((log_harm(drawn, config) >= math.log(20)) & within).any(axis=-1).mean()
    assert decided >= 0.85
    # anytime validity costs less than three times the fixed sample
    assert plan.candidate < 3 * two_arm_sample_size(0.03, 0.09, 0.25, power=0.9).candidate
    with pytest.raises(ValueError, match="is not decided within"):
        sequential_sample_size(0.03, 0.03, 0.05, config, simulations=20, longest=50)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.0},
        {"margin": 0.0},
        {"harm_ratios": (1.0,), "harm_weights": (1.0,)},
        {"harm_ratios": (2.0,)},
        {"safe_ratios": (1.5,), "safe_weights": (1.0,)},
        {"harm_weights": (0.0, 1.0, 1.0, 1.0)},
        {"prior_rate": 0.0},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        SequentialConfig(**change)

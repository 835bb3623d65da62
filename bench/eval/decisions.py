"""How often do rules promote what they should not? Simulated: the seed's rules beside Sluice's."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sluice_evaluator.statistics import AlphaSpending, SequentialConfig, log_harm, log_safe, mcnemar, paired_e_value
from sluice_evaluator.statistics.planning import simulate_blocks
from sluice_evaluator.statistics.sequential import Blocks, Floats

TASKS, DISCORDANT = 164, 0.10
STABLE_RATE, MARGIN = 0.03, 0.03
EXAMPLE_RATE = 38 / 1240
BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question and the rate at which a rule answers it wrongly."""

    question: str
    rule: str
    rate: float
    simulations: int
    bound: float | None

    @property
    def error(self) -> float:
        """Standard error of the rate."""
        return math.sqrt(max(self.rate * (1 - self.rate), 1e-12) / self.simulations)

    @property
    def holds(self) -> bool | None:
        """Whether the rate is within its bound, three standard errors allowed; None where nothing was promised."""
        return None if self.bound is None else self.rate <= self.bound + 3 * self.error


def _discordant(generator: np.random.Generator, simulations: int, losses_share: float) -> tuple[Floats, Floats]:
    total = generator.binomial(TASKS, DISCORDANT, simulations)
    losses = generator.binomial(total, losses_share)
    return total - losses, losses


def _p_values(wins: Floats, losses: Floats) -> Floats:
    """One-sided p-values of Better, each distinct pair of counts computed once."""
    pairs, inverse = np.unique(np.stack([wins, losses], axis=-1), axis=0, return_inverse=True)
    table = np.array([mcnemar(int(w), int(lost), "greater") for w, lost in pairs])
    return table[inverse.reshape(-1)]


def evaluations(simulations: int, seed: int) -> Iterator[Row]:
    """Evaluations of 164 tasks on which the models disagree in a tenth."""
    generator = np.random.default_rng(seed)
    for what, share in (("equal candidate", 0.5), ("worse candidate, 60 % of the disagreements lost", 0.6)):
        wins, losses = _discordant(generator, simulations, share)
        seed_rule = float((wins >= losses).mean())
        better = float((_p_values(wins, losses) <= 0.025).mean())
        yield Row(
            question=f"{what} passes one evaluation", rule="seed: losses ≤ wins", rate=seed_rule,
            simulations=simulations, bound=None,
        )  # fmt: skip
        yield Row(
            question=f"{what} is called Better", rule="exact McNemar, two-sided .05", rate=better,
            simulations=simulations, bound=0.05,
        )  # fmt: skip
    nights = 30
    wins, losses = _discordant(generator, simulations * nights, 0.5)
    p_values = _p_values(wins, losses).reshape(simulations, nights)
    levels = np.array([AlphaSpending(alpha=0.05).level(k + 1) for k in range(nights)])
    question = f"one of {nights} nightly equal candidates is promoted as better"
    once = (wins > losses).reshape(simulations, nights).any(axis=1).mean()
    yield Row(question=question, rule="seed: wins > losses", rate=float(once), simulations=simulations, bound=None)
    fixed = (p_values <= 0.05).any(axis=1).mean()
    yield Row(question=question, rule="McNemar at .05 a night", rate=float(fixed), simulations=simulations, bound=None)
    spent = (p_values <= levels).any(axis=1).mean()
    yield Row(
        question=question, rule="alpha spending, .05 in all", rate=float(spent), simulations=simulations, bound=0.05
    )


def peeking(simulations: int, seed: int) -> Iterator[Row]:
    """One evaluation that is looked at after every task, and ended when it looks good."""
    generator = np.random.default_rng(seed)
    draws = generator.random((simulations, TASKS))
    wins = np.cumsum(draws < DISCORDANT / 2, axis=1)
    losses = np.cumsum((draws >= DISCORDANT / 2) & (draws < DISCORDANT), axis=1)
    most = int(max(wins.max(), losses.max())) + 1
    grid = [(w, lost) for w in range(most) for lost in range(most)]
    p_values = np.array([mcnemar(w, lost, "greater") for w, lost in grid]).reshape(most, most)[wins, losses]
    e_values = np.array([paired_e_value(w, lost) for w, lost in grid]).reshape(most, most)[wins, losses]
    question = "equal candidate is called Better at some look, one after every task"
    for rule, called, bound in (
        ("seed: wins > losses", wins > losses, None),
        ("exact McNemar at .05", p_values <= 0.05, None),
        ("paired e-value ≥ 20", e_values >= 20.0, 0.05),
    ):
        yield Row(
            question=question, rule=rule, rate=float(called.any(axis=1).mean()), simulations=simulations, bound=bound
        )


def _ever_passes(drawn: Blocks) -> Floats:
    """Whether the seed's tolerance rule passes at any look after ten candidate runs."""
    runs, events = np.cumsum(drawn.candidate_runs, -1), np.cumsum(drawn.candidate_events, -1)
    stable = np.cumsum(drawn.stable_events, -1) / np.cumsum(drawn.stable_runs, -1)
    return ((events / runs <= stable) & (runs >= 10)).any(axis=-1)


def one_look(simulations: int, seed: int) -> Iterator[Row]:
    """The seed's own example: 62 candidate steps beside 1,240 stable ones, looked at once."""
    generator = np.random.default_rng(seed)
    stable = generator.binomial(1240, EXAMPLE_RATE, simulations) / 1240
    for what, ratio in (("equal candidate", 1.0), ("candidate with 2× the escalations", 2.0)):
        candidate = generator.binomial(62, ratio * EXAMPLE_RATE, simulations) / 62
        yield Row(
            question=f"{what} passes one look at 62 steps", rule="seed: rate ≤ stable rate",
            rate=float((candidate <= stable).mean()), simulations=simulations, bound=None,
        )  # fmt: skip


def whole_chain(simulations: int, seed: int, *, blocks: int = 400, share: float = 0.05) -> Iterator[Row]:
    """Evaluation first, then a shadow arm that is looked at after every block: is an equal candidate promoted?

    Sluice promotes what its comparison calls Better, at the level of the first candidate of a lineage, and what is
    shown to be non-inferior afterwards. Harm that is shown in between would only lower its rate.
    """
    generator = np.random.default_rng(seed)
    wins, losses = _discordant(generator, simulations, 0.5)
    level = AlphaSpending(alpha=0.05).level(1)
    better = (2 * _p_values(wins, losses) <= level) & (wins > losses)
    config = SequentialConfig(margin=MARGIN)
    threshold = math.log(config.threshold)
    passed, safe = [], []
    for drawn in _batches(simulations, seed + 1, blocks=blocks, share=share, candidate=STABLE_RATE):
        passed.append(_ever_passes(drawn))
        safe.append((log_safe(drawn, config) >= threshold).any(axis=-1))
    question = f"equal candidate is promoted by the whole chain, looked at after every block, share {share:.0%}"
    for rule, promoted, bound in (
        ("seed: losses ≤ wins, then rate ≤ stable rate", (wins >= losses) & np.concatenate(passed), None),
        ("Sluice: Better, then non-inferior", better & np.concatenate(safe), 0.05),
    ):
        yield Row(question=question, rule=rule, rate=float(promoted.mean()), simulations=simulations, bound=bound)


def _batches(simulations: int, seed: int, *, blocks: int, share: float, candidate: float) -> Iterator[Blocks]:
    generator = np.random.default_rng(seed)
    for start in range(0, simulations, BATCH):
        count = min(BATCH, simulations - start)
        yield simulate_blocks(
            generator, simulations=count, blocks=blocks, share=share, candidate=candidate, stable=STABLE_RATE
        )


def rollouts(simulations: int, seed: int, *, blocks: int = 400) -> Iterator[Row]:
    """A shadow arm, looked at after every block of runs."""
    config = SequentialConfig(margin=MARGIN)
    threshold = math.log(config.threshold)
    for share in (0.05, 0.25, 0.5):
        at = f", share {share:.0%}"
        passed = harmed = safe = 0
        batches = _batches(simulations, seed, blocks=blocks, share=share, candidate=STABLE_RATE + MARGIN)
        for drawn in batches:
            passed += int(_ever_passes(drawn).sum())
            safe += int((log_safe(drawn, config) >= threshold).any(axis=-1).sum())
        worse = f"candidate with {(STABLE_RATE + MARGIN) / STABLE_RATE:.0f}× the escalations ever advances{at}"
        yield Row(
            question=worse, rule="seed: rate ≤ stable rate", rate=passed / simulations, simulations=simulations,
            bound=None,
        )  # fmt: skip
        yield Row(
            question=worse, rule="e-process, non-inferiority", rate=safe / simulations, simulations=simulations,
            bound=0.05,
        )  # fmt: skip
        for drawn in _batches(simulations, seed + 1, blocks=blocks, share=share, candidate=STABLE_RATE):
            harmed += int((log_harm(drawn, config) >= threshold).any(axis=-1).sum())
        yield Row(
            question=f"equal candidate is ever rolled back{at}", rule="e-process, harm", rate=harmed / simulations,
            simulations=simulations, bound=0.05,
        )  # fmt: skip

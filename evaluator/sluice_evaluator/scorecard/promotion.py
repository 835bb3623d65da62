"""The second gate: is the candidate better than the champion, by enough, surely enough, and without breaking things?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sluice_api.contracts.evaluation import EvalReport
from sluice_evaluator.statistics import paired_bootstrap


@dataclass(frozen=True, kw_only=True)
class PromotionDecision:
    """What the gate says, and every limit that objects."""

    accepted: bool
    """Whether all limits hold."""
    objections: tuple[str, ...]
    """One sentence a limit that does not hold."""
    common: int
    """Tasks scored on both sides."""
    mean_delta: float
    """Mean score difference, candidate minus baseline."""
    probability_of_improvement: float
    """Share of bootstrap means above zero."""
    win_rate: float
    """Wins over wins and losses, 0.5 without either."""
    regressions: tuple[str, ...]
    """Tasks on which the candidate is worse by more than the tolerance."""
    cost_ratio: float
    """Candidate's mean cost over the baseline's."""


@dataclass(frozen=True, kw_only=True)
class PromotionGate:
    """Six limits over scores of the same tasks; boundaries pass."""

    min_mean_delta: float = 0.02
    """Least mean improvement."""
    min_prob_improvement: float = 0.95
    """Least probability of improvement, by paired bootstrap."""
    min_win_rate: float = 0.5
    """Least share of wins among the tasks that differ."""
    regression_tol: float = 0.05
    """Loss on one task that is not yet a regression."""
    max_regressions: int = 0
    """Most regressions."""
    max_cost_ratio: float = 1.5
    """Most that the candidate may cost, relative to the baseline."""
    resamples: int = 2000
    """Bootstrap resamples."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("min_prob_improvement", "min_win_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.regression_tol < 0 or self.max_regressions < 0 or self.max_cost_ratio <= 0 or self.resamples < 1:
            raise ValueError("regression_tol and max_regressions cannot be negative; ratio and resamples are positive")

    def decide(
        self,
        baseline: Mapping[str, float],
        candidate: Mapping[str, float],
        *,
        baseline_cost: float = 0.0,
        candidate_cost: float = 0.0,
    ) -> PromotionDecision:
        """Judge scores by task; without a common task the candidate is rejected.

        Args:
            baseline: the champion's scores.
            candidate: the candidate's scores.
            baseline_cost: the champion's mean cost a task.
            candidate_cost: the candidate's mean cost a task.
        """
        common = sorted(baseline.keys() & candidate.keys())
        if not common:
            return PromotionDecision(
                accepted=False,
                objections=("no task was scored on both sides",),
                common=0,
                mean_delta=0.0,
                probability_of_improvement=0.0,
                win_rate=0.5,
                regressions=(),
                cost_ratio=math.nan,
            )
        deltas = [candidate[task] - baseline[task] for task in common]
        wins, losses = sum(delta > 0 for delta in deltas), sum(delta < 0 for delta in deltas)
        found = PromotionDecision(
            accepted=True,
            objections=(),
            common=len(common),
            mean_delta=math.fsum(deltas) / len(deltas),
            probability_of_improvement=paired_bootstrap(
                deltas, resamples=self.resamples, seed=self.seed
            ).probability_of_improvement,
            win_rate=wins / (wins + losses) if wins + losses else 0.5,
            regressions=tuple(task for task, delta in zip(common, deltas, strict=True) if delta < -self.regression_tol),
            cost_ratio=_ratio(candidate_cost, baseline_cost),
        )
        objections = self._objections(found)
        return PromotionDecision(**{**vars(found), "accepted": not objections, "objections": tuple(objections)})

    def decide_reports(self, baseline: EvalReport, candidate: EvalReport) -> PromotionDecision:
        """Judge two evaluation reports by pass and fail; tasks that a side could not judge are left out."""
        sides = [{r.task_id: r for r in report.results if not r.infra_error} for report in (baseline, candidate)]
        common = sides[0].keys() & sides[1].keys()
        costs = [math.fsum(side[task].outcome.cost for task in common) / max(1, len(common)) for side in sides]
        scores = [{task: float(side[task].passed) for task in common} for side in sides]
        return self.decide(scores[0], scores[1], baseline_cost=costs[0], candidate_cost=costs[1])

    def _objections(self, found: PromotionDecision) -> list[str]:
        objections = []
        # a sum of floats may miss a boundary that the numbers meet
        if found.mean_delta < self.min_mean_delta - 1e-12:
            objections.append(f"mean difference {found.mean_delta:+.4f}, asked for {self.min_mean_delta:+.4f}")
        if found.probability_of_improvement < self.min_prob_improvement:
            objections.append(
                f"probability of improvement {found.probability_of_improvement:.3f}, asked for "
                f"{self.min_prob_improvement:.3f}"
            )
        if found.win_rate < self.min_win_rate:
            objections.append(f"win rate {found.win_rate:.3f}, asked for {self.min_win_rate:.3f}")
        if len(found.regressions) > self.max_regressions:
            shown = ", ".join(found.regressions[:5])
            objections.append(f"{len(found.regressions)} regressions, allowed are {self.max_regressions}: {shown}")
        if not found.cost_ratio <= self.max_cost_ratio:
            objections.append(f"costs {found.cost_ratio:.2f} times the baseline, allowed are {self.max_cost_ratio:.2f}")
        return objections


def _ratio(candidate: float, baseline: float) -> float:
    if candidate == baseline:
        return 1.0
    return candidate / baseline if baseline > 0 else math.inf

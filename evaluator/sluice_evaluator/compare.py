"""Candidate against baseline, task by task.

The seed's figures, and what they are worth: an exact test on the discordant pairs, an interval of the difference, the
smallest difference that so many pairs could show, and a verdict that says Inconclusive rather than guess.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from sluice_api.contracts.evaluation import CompareReport, CompareVerdict, EvalReport, TaskResult
from sluice_evaluator.errors import IncomparableError
from sluice_evaluator.statistics import (
    DISCORDANT_SHARE,
    Interval,
    cluster_sign_flip,
    mcnemar,
    newcombe_paired,
    paired_bootstrap,
    paired_e_value,
    paired_minimum_detectable_effect,
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """When a difference counts."""

    alpha: float = 0.05
    """Two-sided level of Better and Worse."""
    equivalence_margin: float = 0.05
    """A difference whose interval lies within plus or minus this much is Equivalent."""
    most_infra: float = 0.1
    """Largest share of the tasks in both reports that may be left out because a side could not be judged."""
    need_digests: bool = False
    """Refuse a report that does not say which tasks or which harness it was made with; the seed's never do."""

    def __post_init__(self) -> None:
        for name in ("alpha", "equivalence_margin"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {getattr(self, name)}")
        if not 0.0 <= self.most_infra <= 1.0:
            raise ValueError(f"most_infra must lie between 0 and 1, got {self.most_infra}")


def _check_comparable(baseline: EvalReport, candidate: EvalReport, *, need_digests: bool) -> None:
    for field, what in (("suite_digest", "tasks"), ("harness_digest", "harness")):
        ours, theirs = getattr(candidate, field), getattr(baseline, field)
        if need_digests and not (ours and theirs):
            side = "candidate" if not ours else "baseline"
            raise IncomparableError(
                f"the {side} report does not say which {what} it was made with ({field} is empty): run it again with "
                "this evaluator"
            )
        if ours and theirs and ours != theirs:
            raise IncomparableError(
                f"the reports were made with different {what} ({field}: baseline {theirs[:19]}…, candidate "
                f"{ours[:19]}…): run both on the same {what}"
            )


def _by_id(report: EvalReport, side: str) -> dict[str, TaskResult]:
    results = {result.task_id: result for result in report.results}
    if len(results) != len(report.results):
        raise IncomparableError(f"the {side} report has two results for one task_id")
    return results


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The tasks that both sides could be judged on."""

    ids: list[str]
    wins: list[str]
    losses: list[str]
    both: int
    infra: int
    clusters: list[Hashable] | None


def _pair(baseline: EvalReport, candidate: EvalReport) -> _Pairs:
    ours, theirs = _by_id(candidate, "candidate"), _by_id(baseline, "baseline")
    shared = sorted(ours.keys() & theirs.keys())
    judged = [name for name in shared if not (ours[name].infra_error or theirs[name].infra_error)]
    clusters = [ours[name].cluster for name in judged]
    return _Pairs(
        ids=judged,
        wins=[name for name in judged if ours[name].passed and not theirs[name].passed],
        losses=[name for name in judged if theirs[name].passed and not ours[name].passed],
        both=sum(ours[name].passed and theirs[name].passed for name in judged),
        infra=len(shared) - len(judged),
        clusters=list(clusters) if any(clusters) else None,
    )


def _evidence(pairs: _Pairs, config: CompareConfig) -> tuple[float, Interval]:
    """Give p-value and interval; whole clusters are the unit where the tasks name theirs."""
    wins, losses = len(pairs.wins), len(pairs.losses)
    if pairs.clusters is not None:
        sign = {**dict.fromkeys(pairs.wins, 1.0), **dict.fromkeys(pairs.losses, -1.0)}
        deltas = [sign.get(name, 0.0) for name in pairs.ids]
        interval = paired_bootstrap(deltas, clusters=pairs.clusters, confidence=1 - config.alpha).interval
        return cluster_sign_flip(deltas, pairs.clusters), interval
    neither = len(pairs.ids) - pairs.both - wins - losses
    return mcnemar(wins, losses), newcombe_paired(pairs.both, wins, losses, neither, 1 - config.alpha)


def _verdict(delta: int, p_value: float, interval: Interval, config: CompareConfig) -> CompareVerdict:
    if p_value <= config.alpha and delta:
        return CompareVerdict.BETTER if delta > 0 else CompareVerdict.WORSE
    if -config.equivalence_margin <= interval.low and interval.high <= config.equivalence_margin:
        return CompareVerdict.EQUIVALENT
    return CompareVerdict.INCONCLUSIVE


def compare(baseline: EvalReport, candidate: EvalReport, config: CompareConfig | None = None) -> CompareReport:
    """Compare two reports.

    `delta` is over the whole reports, as the seed has it; everything else is over the tasks that both sides could be
    judged on. Tasks with a `cluster` (a template or a tenant) are resampled and tested by cluster.

    Raises:
        IncomparableError: different tasks or harness, no common task, or too many that could not be judged.
    """
    settings = config or CompareConfig()
    _check_comparable(baseline, candidate, need_digests=settings.need_digests)
    pairs = _pair(baseline, candidate)
    shared = len(pairs.ids) + pairs.infra
    if not pairs.ids:
        why = f": none of the {shared} shared tasks could be judged on both sides" if shared else ""
        raise IncomparableError(f"the reports have no task in common{why}")
    if pairs.infra > settings.most_infra * shared:
        raise IncomparableError(
            f"{pairs.infra} of {shared} tasks could not be judged on both sides, more than {settings.most_infra:.0%}: "
            "repair the endpoint and run again"
        )
    wins, losses = len(pairs.wins), len(pairs.losses)
    p_value, interval = _evidence(pairs, settings)
    disagreements = wins + losses
    return CompareReport(
        baseline_pass_rate=baseline.pass_rate,
        candidate_pass_rate=candidate.pass_rate,
        delta=round(candidate.pass_rate - baseline.pass_rate, 4),
        common_task_count=len(pairs.ids),
        candidate_wins=wins,
        candidate_losses=losses,
        win_rate=round(wins / disagreements, 4) if disagreements else 0.5,
        regressions=pairs.losses,
        improvements=pairs.wins,
        p_value=p_value,
        minimum_detectable_effect=paired_minimum_detectable_effect(
            len(pairs.ids), discordant=max(DISCORDANT_SHARE, disagreements / len(pairs.ids)), alpha=settings.alpha
        ),
        interval=(interval.low, interval.high),
        verdict=_verdict(wins - losses, p_value, interval, settings),
        alpha=settings.alpha,
        e_value=paired_e_value(wins, losses) if pairs.clusters is None else None,
        infra_excluded=pairs.infra,
        suite_digest=candidate.suite_digest,
        candidate_digest=candidate.model_digest,
        baseline_digest=baseline.model_digest,
    )


def describe(report: CompareReport) -> str:
    """Write a comparison for a terminal."""
    low, high = report.interval
    lines = [
        f"candidate {report.candidate_pass_rate:.1%} against baseline {report.baseline_pass_rate:.1%} "
        f"({report.delta:+.1%}): {report.verdict}",
        f"  {report.common_task_count} common tasks, {report.candidate_wins} wins, {report.candidate_losses} losses, "
        f"win rate {report.win_rate:.1%}; {report.infra_excluded} left out because a side could not be judged",
        f"  exact McNemar p = {report.p_value:.4f}; 95 % interval of the paired difference {low:+.1%} to {high:+.1%}",
        f"  smallest difference that this could show: {report.minimum_detectable_effect:.1%}",
    ]
    if report.e_value is not None:
        lines.append(f"  e-value of better, valid whenever it is looked at: {report.e_value:.3g}")
    for name, tasks in (("regressions", report.regressions), ("improvements", report.improvements)):
        if tasks:
            shown = ", ".join(tasks[:12]) + (f", … and {len(tasks) - 12} more" if len(tasks) > 12 else "")
            lines.append(f"  {name}: {shown}")
    return "\n".join(lines)

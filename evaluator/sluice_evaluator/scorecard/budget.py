"""The budget for false promotions of a lineage, kept in its history of scorecards.

Night after night another candidate is compared with the same champion, and one of them looks better by chance. So the
k-th comparison with a champion is judged at `alpha * 6 / (pi * k)^2` (`statistics.AlphaSpending`): over all of them
together, however many come, the chance that one is called Better without being so is at most `alpha`. A new champion
is a new question and has its own budget.

The history is the ledger. The same comparison judged again is the same look at the data and is charged once; a line
that cannot be read may have been a comparison with any champion, and counts as one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sluice_api.contracts.evaluation import CompareReport, CompareVerdict
from sluice_api.contracts.jobs import ComparisonRecord
from sluice_evaluator.statistics import AlphaSpending

COMPARISON_KEY = "comparison"
"""Where a line of the history keeps what its comparison was charged, below `metadata`."""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one comparison costs."""

    candidate: int
    """The how-manieth comparison with the champion, from 1."""
    level: float
    """Level at which it is judged."""
    spent: float
    """Used of the budget, this comparison included."""


def _charged(history: bytes, champion: str) -> Iterator[tuple[str, float | None]]:
    """Give what earlier lines have charged to a champion's budget: the comparison, and its level where it is known."""
    for number, line in enumerate(history.splitlines()):
        if not line.strip():
            continue
        try:
            record = json.loads(line)["metadata"].get(COMPARISON_KEY)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            yield f"unreadable line {number}", None
            continue
        if isinstance(record, Mapping) and record.get("champion") == champion:
            level = record.get("level")
            known = isinstance(level, float) and 0.0 <= level <= 1.0
            yield str(record.get("report")), level if known else None


def charge(history: bytes, *, champion: str, report: str, alpha: float) -> Charge:
    """Charge a comparison to its champion's budget.

    Args:
        history: the lines so far.
        champion: digest of the champion's weights; empty where unknown, which is a champion of its own.
        report: digest of the comparison: one that was charged before costs nothing more.
        alpha: the budget. One that was lowered in the meantime leaves no more than what is left of it.
    """
    plan = AlphaSpending(alpha=alpha)
    before: dict[str, float] = {}
    for name, level in _charged(history, champion):
        if name == report:
            break
        before.setdefault(name, plan.level(len(before) + 1) if level is None else level)
    used = sum(before.values())
    level = max(0.0, min(plan.level(len(before) + 1), alpha - used))
    return Charge(candidate=len(before) + 1, level=level, spent=used + level)


def verdict_at(report: CompareReport, level: float) -> CompareVerdict:
    """Judge a comparison at a level of the budget. Worse needs no budget: it promotes nobody."""
    better = report.p_value <= level and report.candidate_wins > report.candidate_losses
    if better:
        return CompareVerdict.BETTER
    return CompareVerdict.INCONCLUSIVE if report.verdict == CompareVerdict.BETTER else report.verdict


def record_of(report: CompareReport, found: Charge, alpha: float) -> ComparisonRecord:
    """Write down a judged comparison."""
    return ComparisonRecord(
        verdict=verdict_at(report, found.level).value,
        p_value=report.p_value,
        level=found.level,
        candidate=found.candidate,
        budget=alpha,
        spent=found.spent,
    )


def metadata_of(record: ComparisonRecord, *, champion: str, report: str) -> dict[str, Any]:
    """Write a record as the history keeps it."""
    return {**record.model_dump(), "champion": champion, "report": report}

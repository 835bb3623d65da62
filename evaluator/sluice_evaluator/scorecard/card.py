"""From evidence to a scorecard."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice_api.contracts.evaluation import CompareVerdict, EvalReport
from sluice_api.contracts.scorecard import (
    Direction,
    GateName,
    GateResult,
    GateVerdict,
    Scorecard,
    ScorecardVerdict,
    Tier,
)
from sluice_api.contracts.shadow import ShadowSummary
from sluice_evaluator.scorecard.budget import verdict_at
from sluice_evaluator.scorecard.documents import evidence_from
from sluice_evaluator.scorecard.evidence import Evidence, Measurement, bound_to
from sluice_evaluator.scorecard.sources import measure
from sluice_evaluator.scorecard.thresholds import (
    DEFAULT_THRESHOLDS,
    DIRECTIONS,
    Thresholds,
    check_gate_name,
    check_value,
    is_possible,
)
from sluice_evaluator.statistics import clopper_pearson

TIERS = tuple(tier.value for tier in Tier)
"""Tier names in promotion order."""
MISSING_NOTE = "input missing — gate skipped"
"""The seed's words for a gate without input."""
NO_THRESHOLD_NOTE = "no threshold for tier"
"""The seed's words for a gate that the tier asks nothing of."""
OVERRIDE = "override:"
"""Prefix of the source of a value given by hand."""
MINIMUM_N = 20
"""Units below which a passing rate is Inconclusive: even 20 of 20 leaves a lower 95 % bound of 0.83."""


IMPOSSIBLE_NOTE = "impossible value — gate failed"
"""Note of a gate whose evidence states what cannot be: a rate outside 0 to 1, a negative cost, no number."""


def _tier(name: str) -> Tier:
    try:
        return Tier(name)
    except ValueError:
        raise ValueError(f"unknown tier {name!r}; must be one of {TIERS}") from None


def _interval(found: Measurement) -> tuple[float, float] | None:
    if not found.is_rate or not found.n or not 0.0 <= found.value <= 1.0:
        return None
    low, high = clopper_pearson(round(found.value * found.n), found.n)
    return low, high


def _judge_gate(name: GateName, found: Measurement | None, threshold: float | None, minimum_n: int) -> GateResult:
    direction = DIRECTIONS[name]
    if found is None:
        missing = threshold is not None
        return GateResult(
            name=name,
            value=0.0,
            threshold=threshold,
            direction=direction,
            passed=missing,
            note=MISSING_NOTE if missing else NO_THRESHOLD_NOTE,
            verdict=GateVerdict.MISSING if missing else GateVerdict.FAIL,
        )
    note, detail, verdict = "", found.detail, GateVerdict.FAIL
    passed = False
    if threshold is None:
        note = NO_THRESHOLD_NOTE
    elif not is_possible(name, found.value):
        note = IMPOSSIBLE_NOTE
    else:
        value = found.value if found.exact is None else found.exact
        passed = value >= threshold if direction == Direction.MIN else value <= threshold
        by_hand = found.source.startswith(OVERRIDE)
        if passed and found.doubt:
            verdict = GateVerdict.MISSING
            detail = f"{detail}; not judged: {found.doubt}".lstrip("; ")
        elif passed and found.is_rate and not by_hand and (found.n or 0) < minimum_n:
            verdict = GateVerdict.INCONCLUSIVE
            detail = f"{detail}; n = {found.n or 'unknown'}, fewer than {minimum_n} are asked".lstrip("; ")
        elif passed:
            verdict = GateVerdict.PASS
    return GateResult(
        name=name,
        value=found.value,
        threshold=threshold,
        direction=direction,
        passed=passed,
        note=note,
        n=found.n,
        interval=_interval(found),
        source=found.source,
        verdict=verdict,
        detail=detail,
    )


@dataclass(frozen=True, kw_only=True)
class ComparisonTerms:
    """What the comparison with the champion must show for a Pass. Shown to be worse, the candidate always fails."""

    better: bool = False
    """A comparison that is there must show that the candidate is better."""
    needed: bool = False
    """Without a comparison there is no Pass."""
    level: float | None = None
    """Level at which it is judged; None takes its own."""


NO_TERMS = ComparisonTerms()
"""Not worse, where it was compared at all."""


def _compared(evidence: Evidence, terms: ComparisonTerms) -> CompareVerdict | None:
    """Give what the comparison shows at the level that is asked for; None without one."""
    report = evidence.compare_report
    if report is None:
        return None
    return report.verdict if terms.level is None else verdict_at(report, terms.level)


def _overall_verdict(
    gates: list[GateResult],
    required: Collection[GateName],
    comparison: CompareVerdict | None,
    terms: ComparisonTerms,
    *,
    refused: bool,
) -> ScorecardVerdict:
    """Fail on anything shown; Pass only when every required gate passed, something did, and nothing was refused."""
    if comparison == CompareVerdict.WORSE or any(gate.verdict == GateVerdict.FAIL for gate in gates):
        return ScorecardVerdict.FAIL
    unproven = terms.needed if comparison is None else terms.better and comparison != CompareVerdict.BETTER
    if unproven:
        return ScorecardVerdict.INCONCLUSIVE
    passed = {gate.name for gate in gates if gate.verdict == GateVerdict.PASS}
    if refused or not passed or not passed.issuperset(required):
        return ScorecardVerdict.INCONCLUSIVE
    return ScorecardVerdict.PASS


def _by_hand(overrides: Mapping[str, Measurement] | None) -> dict[GateName, Measurement]:
    """Check values given by hand."""
    checked = {check_gate_name(name, "metric"): found for name, found in (overrides or {}).items()}
    for gate, found in checked.items():
        check_value(gate, found.value, "metric")
    return checked


def _metadata(
    evidence: Evidence,
    required: Collection[GateName],
    by_hand: Mapping[GateName, Measurement],
    refused: list[str],
    comparison: CompareVerdict | None,
    *,
    needed: bool,
) -> dict[str, Any]:
    """Write down what the judgement rests on, beside the gates."""
    metadata: dict[str, Any] = {
        "label_step_count": evidence.label_steps,
        "label_reason_counts": dict(evidence.label_reasons),
        "required_gates": sorted(required),
        "overrides": {gate.value: found.source for gate, found in by_hand.items()},
        "refused_evidence": refused,
    }
    if evidence.label_doubt:
        metadata["label_doubt"] = evidence.label_doubt
    if comparison is not None or needed:
        metadata["comparison_verdict"] = comparison.value if comparison is not None else "Missing"
    return metadata


def judge_evidence(
    evidence: Evidence,
    *,
    tier: str = Tier.FIRST_SFT,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    overrides: Mapping[str, Measurement] | None = None,
    required_gates: Collection[str] = (),
    candidate_digest: str = "",
    judged_only: bool = False,
    minimum_n: int = MINIMUM_N,
    evaluated_at: str = "",
    terms: ComparisonTerms = NO_TERMS,
) -> Scorecard:
    """Judge evidence gate by gate.

    Args:
        evidence: what is known.
        tier: `base`, `first_sft` or `future`.
        thresholds: by gate and tier; a gate that lacks the tier fails.
        overrides: values given by hand, by gate name; they win over anything measured.
        required_gates: gates whose absence is no pass.
        candidate_digest: weights that are judged; evidence about others is refused. Empty binds nothing.
        judged_only: leave tasks that could not be judged out of the pass rate; the seed counts them as failures.
        minimum_n: units below which a passing rate is Inconclusive.
        evaluated_at: instant for the record.
        terms: what the comparison must show.

    Raises:
        ValueError: an unknown tier or gate, or an impossible value.
    """
    chosen = _tier(tier)
    required = {check_gate_name(name, "required gates") for name in required_gates}
    for name in thresholds:
        check_gate_name(name, "thresholds")
    by_hand = _by_hand(overrides)
    kept, refused = bound_to(evidence, candidate_digest) if candidate_digest else (evidence, [])
    gates = [
        _judge_gate(
            name,
            by_hand.get(name) or measure(name, kept, judged_only=judged_only),
            thresholds.get(name.value, {}).get(chosen.value),
            minimum_n,
        )
        for name in GateName
    ]
    comparison = _compared(kept, terms)
    verdict = _overall_verdict(gates, required, comparison, terms, refused=bool(refused))
    metadata = _metadata(kept, required, by_hand, refused, comparison, needed=terms.needed)
    return Scorecard(
        tier=chosen,
        overall_passed=all(gate.passed for gate in gates),
        gates=gates,
        metadata=metadata,
        verdict=verdict,
        candidate_digest=candidate_digest,
        evaluated_at=evaluated_at,
    )


def evaluate(
    *,
    eval_report: Mapping[str, Any] | EvalReport | None = None,
    shadow_summary: Mapping[str, Any] | ShadowSummary | None = None,
    labelled_traces_dir: Path | None = None,
    tier: str = Tier.FIRST_SFT,
    thresholds: Thresholds | None = None,
    metric_overrides: Mapping[str, float] | None = None,
    cost_per_success_usd: float | None = None,
    required_gates: Collection[str] = (),
) -> Scorecard:
    """Compose a scorecard from plain documents: the seed's Python API.

    Args:
        eval_report: an evaluation report, as JSON or parsed.
        shadow_summary: a shadow summary, as JSON or parsed.
        labelled_traces_dir: folder of labelled traces.
        tier: `base`, `first_sft` or `future`.
        thresholds: gate to tier to threshold, in place of the defaults; what it lacks has no threshold and fails.
        metric_overrides: values that win over anything measured.
        cost_per_success_usd: an override of the cost gate by another name.
        required_gates: gates whose absence keeps `verdict` from Pass.

    Raises:
        ValueError: an unknown tier or gate, or an impossible value.
        FileNotFoundError: `labelled_traces_dir` does not exist.
    """
    overrides = {
        name: Measurement(value=value, source=f"{OVERRIDE}argument") for name, value in (metric_overrides or {}).items()
    }
    evidence = evidence_from(
        eval_report=eval_report, shadow_summary=shadow_summary, labelled_traces_dir=labelled_traces_dir
    )
    cost = GateName.COST_PER_SUCCESS_USD_MAX
    if cost_per_success_usd is not None:
        overrides.setdefault(cost.value, Measurement(value=cost_per_success_usd, source=f"{OVERRIDE}argument"))
    return judge_evidence(
        evidence,
        tier=tier,
        thresholds=DEFAULT_THRESHOLDS if thresholds is None else thresholds,
        overrides=overrides,
        required_gates=required_gates,
    )


def failing_gates(scorecard: Scorecard) -> list[str]:
    """Name the gates that did not pass by the seed's rule."""
    return [gate.name.value for gate in scorecard.gates if not gate.passed]

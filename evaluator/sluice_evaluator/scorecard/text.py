"""A scorecard for a terminal."""

from collections.abc import Mapping

from sluice_api.contracts.scorecard import Direction, GateResult, Scorecard


def _row(gate: GateResult) -> str:
    sign = "≥" if gate.direction == Direction.MIN else "≤"
    threshold = "—" if gate.threshold is None else f"{sign} {gate.threshold:.2f}"
    value = "—" if gate.note and not gate.value else f"{gate.value:.4f}"
    interval = "" if gate.interval is None else f"[{gate.interval[0]:.3f}, {gate.interval[1]:.3f}]"
    n = "" if gate.n is None else str(gate.n)
    says = "; ".join(part for part in (gate.note, gate.detail) if part)
    if gate.source.startswith("override:"):
        says = "; ".join(part for part in (says, gate.source) if part)
    return f"{gate.name:<28}{value:>9}  {threshold:<8}{n:>7}  {interval:<16}{gate.verdict:<13}{says}"


def _charged(scorecard: Scorecard) -> str:
    """Say what the comparison cost, where a history was kept."""
    record = scorecard.metadata.get("comparison")
    if not isinstance(record, Mapping):
        return ""
    return (
        f" (p {record['p_value']:.3g} at level {record['level']:.3g}; number {record['candidate']} with this champion, "
        f"{record['spent']:.3g} of the error budget of {record['budget']:g} spent)"
    )


def describe(scorecard: Scorecard) -> str:
    """Write a scorecard as a table, gates in order, the verdict last."""
    lines = [f"{'gate':<28}{'value':>9}  {'asks':<8}{'n':>7}  {'95 % interval':<16}{'verdict':<13}"]
    lines += [_row(gate) for gate in scorecard.gates]
    lines += [f"refused: {reason}" for reason in scorecard.metadata.get("refused_evidence", [])]
    if "comparison_verdict" in scorecard.metadata:
        lines.append(f"comparison with the champion: {scorecard.metadata['comparison_verdict']}{_charged(scorecard)}")
    lines.append(
        f"tier {scorecard.tier}: overall_passed {str(scorecard.overall_passed).lower()}, verdict {scorecard.verdict}"
    )
    return "\n".join(lines)

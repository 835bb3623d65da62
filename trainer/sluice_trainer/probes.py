"""What follows from the probes of a run: pure functions of what they showed.

Rules, after seed 002's schedule: a run ends when the syntax rate fell at two probes in a row
(`r[t] < r[t-1] < r[t-2]`), or when the pass rate has not strictly exceeded its best for `patience_steps`, the baseline
probe being step 0. It is extended only when every gate was met by the probe at its step. A probe that could not be
judged neither ends a run nor meets a gate.
"""

from collections.abc import Callable, Sequence

from sluice_api.contracts.jobs import ProbeGate, ProbePlan, ProbeResult, StopReason, StopRule


class SuiteLeft(Exception):
    """A suite was left before its end, because the run was asked to stop: the next attempt runs it."""


def syntax_dropped_twice(probes: Sequence[ProbeResult], plan: ProbePlan) -> bool:
    """Whether the last three judged probes have falling syntax rates."""
    rates = [probe.syntax_rate for probe in probes if probe.syntax_rate is not None]
    return len(rates) >= 3 and rates[-1] < rates[-2] < rates[-3]


def pass_rate_stalled(probes: Sequence[ProbeResult], plan: ProbePlan) -> bool:
    """Whether the best pass rate is `patience_steps` old or older."""
    judged = [probe for probe in probes if probe.pass_rate is not None]
    if not judged:
        return False
    best, since = -1.0, 0
    for probe in judged:
        if probe.pass_rate is not None and probe.pass_rate > best:
            best, since = probe.pass_rate, probe.step
    return judged[-1].step - since >= plan.patience_steps


_RULES: dict[StopRule, tuple[Callable[[Sequence[ProbeResult], ProbePlan], bool], StopReason]] = {
    StopRule.SYNTAX_DROPS_TWICE: (syntax_dropped_twice, StopReason.SYNTAX_DROPS_TWICE),
    StopRule.PASS_RATE_STALLS: (pass_rate_stalled, StopReason.PASS_RATE_STALLS),
}


def gate_met(gate: ProbeGate, probes: Sequence[ProbeResult]) -> bool:
    """Whether the probe at the gate's step shows what it asks for; a rate that is unknown does not."""
    for probe in probes:
        if probe.step == gate.at_step:
            pairs = ((gate.pass_rate, probe.pass_rate), (gate.syntax_rate, probe.syntax_rate))
            return all(least is None or (found is not None and found >= least) for least, found in pairs)
    return False


def verdict(probes: Sequence[ProbeResult], plan: ProbePlan, *, step: int, base_steps: int) -> StopReason | None:
    """Why the run ends after `step` steps; None when it goes on.

    Args:
        probes: what the probes have shown, in order.
        plan: the rules.
        step: steps done.
        base_steps: steps of the run unless it is extended.
    """
    if probes and probes[-1].step == step:
        for rule in plan.stop_rules:
            holds, reason = _RULES[rule]
            if holds(probes, plan):
                return reason
    extended = plan.extend_to is not None and plan.extend_to > base_steps
    if extended and step == base_steps and not all(gate_met(gate, probes) for gate in plan.gates):
        return StopReason.GATES_NOT_MET
    return None


def is_due(plan: ProbePlan, probes: Sequence[ProbeResult], step: int) -> bool:
    """Whether a probe is to be run after `step` steps and has not been yet."""
    if probes and probes[-1].step >= step:
        return False
    return step % plan.every == 0 or any(gate.at_step == step for gate in plan.gates)

"""Where each gate's value comes from: an ordered list of sources a gate, the first that has the value wins."""

import math
from collections.abc import Callable

from sluice_api.contracts.scorecard import GateName
from sluice_api.contracts.trace import LabelReason, Variant
from sluice_evaluator.scorecard.evidence import Evidence, Measurement

Source = Callable[[Evidence], Measurement | None]
"""From evidence to a value, or None where the evidence lacks it."""


def pass_rate(evidence: Evidence) -> Measurement | None:
    """The report's pass rate, over all its tasks, as the seed has it."""
    report = evidence.eval_report
    if report is None:
        return None
    return Measurement(
        value=report.pass_rate,
        n=report.task_count or None,
        source=evidence.eval_source,
        detail=f"{report.pass_count} of {report.task_count} tasks",
    )


def judged_pass_rate(evidence: Evidence) -> Measurement | None:
    """The pass rate over the tasks that could be judged, unrounded."""
    report = evidence.eval_report
    judged = [result for result in report.results if not result.infra_error] if report is not None else []
    if not judged:
        return None
    passed = sum(result.passed for result in judged)
    return Measurement(
        value=passed / len(judged),
        n=len(judged),
        source=evidence.eval_source,
        detail=f"{passed} of {len(judged)} judged tasks",
    )


def cost_per_success(evidence: Evidence) -> Measurement | None:
    """What all tasks cost, failures included, over the tasks passed; missing without a single pass."""
    report = evidence.eval_report
    if report is None or report.pass_count < 1:
        return None
    total = math.fsum(result.outcome.cost for result in report.results)
    return Measurement(
        value=total / report.pass_count,
        n=report.pass_count,
        is_rate=False,
        source=evidence.eval_source,
        detail=f"${total:.4f} for {report.pass_count} passes",
    )


def measured_by_agent(name: GateName) -> Source:
    """Make a source of a metric that the agent measured on its runs of the evaluation."""

    def source(evidence: Evidence) -> Measurement | None:
        metric = evidence.eval_report.metrics.get(name) if evidence.eval_report is not None else None
        if metric is None or metric.n <= 0 or not 0.0 <= metric.value <= 1.0:
            return None
        return Measurement(value=metric.value, n=metric.n, source=evidence.eval_source, detail="measured by the agent")

    return source


_LADDER = frozenset(reason.value for reason in LabelReason)
ROUNDING = 5.1e-5
"""Rates in a summary have four decimal places."""


def candidate_escalation_rate(evidence: Evidence) -> Measurement | None:
    """The candidate arm's escalations a step, from the shadow summary."""
    summary = evidence.shadow_summary
    arm = summary.variants.get(Variant.CANDIDATE) if summary is not None else None
    if arm is None:
        return None
    if not arm.step_count:
        # a summary by hand may state the rate alone; an arm that counted no steps has no rate
        by_hand = "step_count" not in arm.model_fields_set and "escalation_rate" in arm.model_fields_set
        return Measurement(value=arm.escalation_rate, source=evidence.shadow_source) if by_hand else None
    # From the counts: a stated rate is rounded to four places, and may contradict them.
    exact = arm.escalation_count / arm.step_count if "escalation_count" in arm.model_fields_set else None
    agrees = exact is None or abs(exact - arm.escalation_rate) < ROUNDING
    return Measurement(
        value=arm.escalation_rate if agrees or exact is None else exact,
        exact=exact,
        n=arm.step_count,
        source=evidence.shadow_source,
        detail=f"{arm.escalation_count} of {arm.step_count} steps in {arm.run_count} candidate runs",
    )


def labelled_escalation_rate(evidence: Evidence) -> Measurement | None:
    """Escalations a labelled step: the seed's proxy for loops.

    A step whose label is none of the ladder's counts as an escalation, and with it, or with files that could not be
    read, the rate may fail but not pass: what is missing may be what escalated.
    """
    steps = evidence.label_steps
    if not steps or not evidence.labels_bound:
        return None
    unknown = sum(count for reason, count in evidence.label_reasons.items() if reason not in _LADDER)
    escalations = evidence.label_reasons.get(LabelReason.ESCALATION, 0) + unknown
    doubts = [evidence.label_doubt] if evidence.label_doubt else []
    doubts += [f"{unknown} of {steps} steps have a label that the ladder does not know"] if unknown else []
    return Measurement(
        value=escalations / steps,
        n=steps,
        source=evidence.label_source,
        detail=f"proxy: {escalations} escalations in {steps} labelled steps",
        doubt="; ".join(doubts),
    )


def labelled_avoidance(evidence: Evidence) -> Measurement | None:
    """One minus escalations a labelled step: the seed's proxy for staying out of forbidden regions."""
    proxy = labelled_escalation_rate(evidence)
    if proxy is None:
        return None
    return Measurement(value=1.0 - proxy.value, n=proxy.n, source=proxy.source, detail=proxy.detail, doubt=proxy.doubt)


SOURCES: dict[GateName, tuple[Source, ...]] = {
    GateName.TASK_PASS_RATE: (pass_rate,),
    GateName.PARSER_VALIDITY: (measured_by_agent(GateName.PARSER_VALIDITY),),
    GateName.GROUNDING_ACCURACY: (measured_by_agent(GateName.GROUNDING_ACCURACY),),
    GateName.FORBIDDEN_REGION_AVOIDANCE: (
        measured_by_agent(GateName.FORBIDDEN_REGION_AVOIDANCE),
        labelled_avoidance,
    ),
    GateName.LOOP_RATE_MAX: (measured_by_agent(GateName.LOOP_RATE_MAX), labelled_escalation_rate),
    GateName.GALLERY_RECOVERY_RATE: (measured_by_agent(GateName.GALLERY_RECOVERY_RATE),),
    GateName.ESCALATION_RATE_MAX: (
        candidate_escalation_rate,
        measured_by_agent(GateName.ESCALATION_RATE_MAX),
    ),
    GateName.DONE_COMPLETENESS: (measured_by_agent(GateName.DONE_COMPLETENESS),),
    GateName.COST_PER_SUCCESS_USD_MAX: (cost_per_success,),
}
"""The seed's sources, and between an override and the label proxies what the agent measured directly."""


def measure(name: GateName, evidence: Evidence, *, judged_only: bool) -> Measurement | None:
    """Measure one gate; None where no source has its value.

    Args:
        name: the gate.
        evidence: what is known.
        judged_only: leave tasks that could not be judged out of the pass rate; the seed counts them as failures.
    """
    sources = (judged_pass_rate,) if judged_only and name == GateName.TASK_PASS_RATE else SOURCES[name]
    return next((found for found in (source(evidence) for source in sources) if found is not None), None)

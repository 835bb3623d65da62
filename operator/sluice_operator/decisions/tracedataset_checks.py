"""What a TraceDataset's spec must satisfy before anything is built, in order of importance."""

from datetime import datetime

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from sluice_api.v1alpha1 import TraceDataset
from sluice_operator.decisions.attempts import workers_within
from sluice_operator.decisions.common import Facts, Objection, profile_known
from sluice_operator.decisions.reasons import Reason
from sluice_operator.manifests.lineage import TemplateError, lineage


def next_instant(schedule: str, after: datetime) -> datetime:
    """Return the first instant of a cron expression (UTC) after an instant.

    Raises:
        ValueError: the expression is not valid, or never comes true.
    """
    try:
        found: datetime = croniter(schedule, after).get_next(datetime)
    except (CroniterBadCronError, CroniterBadDateError) as error:
        raise ValueError(f"spec.schedule {schedule!r} is not a cron expression: {error}") from None
    return found


def schedule_valid(facts: Facts[TraceDataset]) -> Objection | None:
    """Check `spec.schedule`."""
    schedule = facts.obj.spec.schedule
    if schedule is None:
        return None
    try:
        next_instant(schedule, facts.now.instant)
    except ValueError as error:
        return Objection(reason=Reason.INVALID_SPEC, message=str(error))
    return None


def labels_fit(facts: Facts[TraceDataset]) -> Objection | None:
    """Check that supervised rows come from positive steps only."""
    spec = facts.obj.spec
    if spec.convert.format == "sft" and list(spec.label.keep) != ["positive"]:
        return Objection(
            reason=Reason.INVALID_SPEC,
            message=f"spec.label.keep is {list(spec.label.keep)}, spec.convert.format sft needs [positive]",
        )
    return None


def templates_valid(facts: Facts[TraceDataset]) -> Objection | None:
    """Check the templates of `spec.onNewVersion`, before anything is built for them."""
    try:
        lineage(facts.obj, "sha256:" + "0" * 64)
    except TemplateError as error:
        return Objection(reason=Reason.INVALID_TEMPLATE, message=f"spec.onNewVersion: {error}")
    return None


def mixture_fits(facts: Facts[TraceDataset]) -> Objection | None:
    """Check what belongs to a mixture: supervised rows, one bucket of traces at most, no critic without it."""
    spec = facts.obj.spec
    if spec.mixture is None:
        problem = "spec.critic judges the candidates of spec.mixture, which is absent" if spec.critic else ""
    elif spec.convert.format != "sft":
        problem = f"spec.convert.format is {spec.convert.format}, spec.mixture needs sft"
    elif spec.append:
        problem = "spec.append keeps rows as they were, which spec.mixture does not have: remove one of them"
    elif sum(bucket.source is None for bucket in spec.mixture.buckets) > 1:
        problem = "spec.mixture.buckets: only one bucket may have no source, it stands for the rows of the traces"
    else:
        problem = ""
    return Objection(reason=Reason.INVALID_SPEC, message=problem) if problem else None


def workers_allowed(facts: Facts[TraceDataset]) -> Objection | None:
    """Check `spec.workers` against the profile's ceiling."""
    return workers_within(facts, facts.obj.spec.workers)


CHECKS = (schedule_valid, labels_fit, mixture_fits, templates_valid, profile_known, workers_allowed)
"""Checks of the spec."""

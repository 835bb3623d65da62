"""EvalRun: pins candidate, baseline and suite by digest, and measures them through attempts."""

from sluice_api.contracts.base import ArtifactRef
from sluice_api.contracts.jobs import (
    AGENT_TOKEN_VARIABLE,
    EvalComparison,
    EvalJob,
    EvalOutput,
    EvalSummary,
    EvalTarget,
    FailureClass,
    Result,
)
from sluice_api.contracts.suites import builtin_digest
from sluice_api.v1alpha1 import EvalRun
from sluice_api.v1alpha1.common import Attempt, ConditionStatus
from sluice_api.v1alpha1.evalrun import (
    ComparisonStatus,
    EvalInputs,
    EvalRunStatus,
    ModelTarget,
    ReportStatus,
    SummaryStatus,
)
from sluice_operator.decisions.attempts import Limits, refused
from sluice_operator.decisions.base import Decision, Now, Observed
from sluice_operator.decisions.common import (
    Facts,
    Mood,
    Objection,
    Verdict,
    decided,
    first_objection,
    profile_known,
)
from sluice_operator.decisions.duration import parse_duration
from sluice_operator.decisions.models import adapter_of, base_of, served_by_channel, served_by_run, short, trained
from sluice_operator.decisions.reasons import ConditionType, Phase, Reason
from sluice_operator.decisions.runs import Prepared, decide_run, new_progress
from sluice_operator.manifests.jobs import eval_job
from sluice_operator.manifests.tokens import TARGET_VARIABLES, token_refs, token_variable


def decide(obj: EvalRun, observed: Observed, now: Now) -> Decision:
    """Return what to do about an EvalRun."""
    return decide_run(_RULES, obj, obj.status, observed, now)


# Checks, in order of importance


def durations_valid(facts: Facts[EvalRun]) -> Objection | None:
    """Check `spec.deadline` and `spec.limits.taskTimeout`."""
    spec = facts.obj.spec
    for field, text in (("spec.deadline", spec.deadline), ("spec.limits.taskTimeout", spec.limits.task_timeout)):
        try:
            parse_duration(text)
        except ValueError as error:
            return Objection(reason=Reason.INVALID_SPEC, message=f"{field}: {error}; write it like 90s, 30m or 2h")
    return None


def targets_valid(facts: Facts[EvalRun]) -> Objection | None:
    """Check that each target names one thing, and that channels have a root and one name."""
    spec = facts.obj.spec
    channels = []
    for field, target in (("spec.candidate", spec.candidate), ("spec.baseline", spec.baseline)):
        if target is None:
            continue
        names = [name for name in type(target).model_fields if getattr(target, name) is not None]
        if len(names) != 1:
            known = [field.alias or name for name, field in type(target).model_fields.items()]
            return Objection(
                reason=Reason.INVALID_SPEC,
                message=f"{field}: give exactly one of {', '.join(known[:-1])} and {known[-1]}, not {len(names)}",
            )
        if target.channel is not None:
            channels.append(target.channel)
    if channels and spec.channels is None:
        return Objection(
            reason=Reason.INVALID_SPEC,
            message="spec.channels is needed where candidate or baseline names a channel: "
            "give the root below which channels/<name>.json lies",
        )
    if len(set(channels)) > 1:
        return Objection(
            reason=Reason.INVALID_SPEC,
            message=f"spec.candidate and spec.baseline name two channels, {channels[0]} and {channels[1]}: "
            "name one, and the other model by its run or endpoint",
        )
    return None


def tokens_allowed(facts: Facts[EvalRun]) -> Objection | None:
    """Check that the profile lists each token that is named, by its Secret and its key."""
    profile = facts.observed.profile
    if profile is None:
        return None
    allowed = {(secret.name, key) for secret in profile.token_secrets for key in secret.keys}
    for field, _, ref in token_refs(facts.obj.spec):
        if (ref.name, ref.key) in allowed:
            continue
        names = {name for name, _ in allowed}
        place, what = ("name", f"Secret {ref.name!r}") if ref.name not in names else ("key", f"key {ref.key!r} of it")
        listed = ", ".join(f"{name}/{key}" for name, key in sorted(allowed)) or "none"
        return Objection(
            reason=Reason.TOKEN_NOT_ALLOWED,
            message=f"{field}.{place}: profile {profile.name!r} does not list {what} as a token (it lists {listed}): "
            "name one that it does, or have an admin add it to the profile's tokenSecrets",
        )
    return None


def suite_digest(facts: Facts[EvalRun]) -> str:
    """Return the digest of the suite as it is now, empty when unknown: of the file, or of a built-in suite's tasks."""
    uri = facts.obj.spec.suite.uri
    return builtin_digest(uri) or facts.observed.suite_digest


def suite_readable(facts: Facts[EvalRun]) -> Objection | None:
    """Check that the suite's digest is known."""
    if suite_digest(facts):
        return None
    problem = facts.observed.storage_problem or "not read yet"
    return Objection(
        reason=Reason.SUITE_UNREADABLE,
        message=f"spec.suite.uri {facts.obj.spec.suite.uri} cannot be read: {problem}. Put the file there, or "
        "correct the URI",
    )


def suite_unchanged(facts: Facts[EvalRun]) -> Objection | None:
    """Check that the suite is still the pinned one."""
    pinned, found = facts.obj.status.inputs.suite, suite_digest(facts)
    if pinned is None or found == pinned:
        return None
    return Objection(
        reason=Reason.SUITE_CHANGED,
        message=f"spec.suite.uri {facts.obj.spec.suite.uri} holds {short(found)}, pinned is {short(pinned)}: "
        "put the file back or create a new EvalRun",
    )


CHECKS = (durations_valid, targets_valid, profile_known, tokens_allowed, suite_readable, suite_unchanged)
"""Checks of spec and surroundings."""


def resolve(facts: Facts[EvalRun], field: str, target: ModelTarget) -> EvalTarget | Objection:
    """Return a target as the worker wants it: weights by digest, or an endpoint."""
    name = field.removeprefix("spec.")
    if target.endpoint is not None:
        token = target.endpoint.token_secret_ref
        return EvalTarget(
            name=name,
            digest=target.endpoint.digest or "",
            endpoint_url=target.endpoint.url,
            token_env=token_variable(facts.observed.profile, TARGET_VARIABLES[name], token),
        )
    if target.fine_tune_run_ref is not None:
        run = trained(facts, target.fine_tune_run_ref.name, f"{field}.fineTuneRunRef")
        if isinstance(run, Objection):
            return run
        model = served_by_run(run)
    else:
        view = facts.observed.channel
        where = f"{field}.channel {target.channel!r} under {facts.obj.spec.channels}"
        if view is None or view.problem:
            why = view.problem if view is not None else "not read yet"
            return Objection(
                reason=Reason.CHANNEL_UNREADABLE,
                message=f"{where} cannot be read: {why}. It is tried again; check spec.channels and the storage",
                mood=Mood.WORKING,
            )
        if view.channel is None:
            return Objection(
                reason=Reason.CHANNEL_NOT_FOUND,
                message=f"{where} does not exist: create it with the weights that are in service, or leave it out",
            )
        model = served_by_channel(view.channel)
    return EvalTarget(name=name, digest=model.digest, base_model=base_of(model), adapter=adapter_of(model))


class _Rules:
    """What an EvalRun adds to the loop of the run kinds."""

    outcome = ConditionType.SUCCEEDED
    again = "create a new EvalRun"
    unit = "tasks"

    def limits(self, facts: Facts[EvalRun]) -> Limits:
        spec = facts.obj.spec
        timeout = parse_duration(spec.limits.task_timeout)
        # A worker reports after each task, so it may be silent for one whole task.
        hang = max(timeout * 2, Limits().hang or timeout)
        return Limits(running=parse_duration(spec.deadline), hang=hang, max_attempts=spec.max_attempts)

    def workers(self, facts: Facts[EvalRun]) -> int:
        return 1

    def output(self, facts: Facts[EvalRun]) -> str:
        return facts.obj.spec.output

    def suspended(self, facts: Facts[EvalRun]) -> bool:
        return facts.obj.spec.suspend

    def pinned(self, facts: Facts[EvalRun], status: EvalRunStatus) -> bool:
        return status.inputs.suite is not None

    def prepare(
        self, facts: Facts[EvalRun], status: EvalRunStatus, *, fresh: bool
    ) -> Prepared[EvalRunStatus] | Objection:
        objection = first_objection(facts, CHECKS)
        if objection is not None:
            return objection
        candidate, baseline = _targets(facts)
        for target in (candidate, baseline):
            if isinstance(target, Objection):
                return target
        report = _earlier(facts)
        found = {
            "candidate": _digest(candidate),
            "baseline": _digest(baseline),
            "baseline_report": report.digest if report is not None else None,
            "suite": suite_digest(facts),
        }
        wire = {("baselineReport" if name == "baseline_report" else name): digest for name, digest in found.items()}
        pinned = status.inputs
        if pinned.suite is not None:
            for name in ("candidate", "baseline", "baseline_report"):
                before, after = getattr(pinned, name), found[name]
                if before != after:
                    return Objection(
                        reason=Reason.CANDIDATE_MISMATCH,
                        message=f"spec.{name.replace('_', '.')} is {short(after)}, pinned is {short(before)}: "
                        "create a new EvalRun",
                    )
        else:
            pinned = EvalInputs(**found)
        return Prepared(status=status.model_copy(update={"inputs": pinned, "progress": None}), inputs=wire)

    def job(self, facts: Facts[EvalRun], status: EvalRunStatus, attempt: Attempt) -> EvalJob | Objection:
        # The profile may have changed since the intent was written down.
        refused_token = tokens_allowed(facts)
        if refused_token is not None:
            return refused_token
        candidate, baseline = _targets(facts)
        if isinstance(candidate, Objection):
            return candidate
        if isinstance(baseline, Objection):
            return baseline
        for name, target in (("candidate", candidate), ("baseline", baseline)):
            if _digest(target) != attempt.inputs.get(name):
                return Objection(
                    reason=Reason.CANDIDATE_MISMATCH,
                    message=f"spec.{name} is {short(_digest(target))} by now, attempt {attempt.number} was decided on "
                    f"for {short(attempt.inputs.get(name))}: create a new EvalRun, or put back what it names",
                )
        agent = facts.obj.spec.agent
        agent_token = agent.token_secret_ref if agent is not None else None
        return eval_job(
            facts.obj,
            attempt,
            candidate=candidate,
            baseline=baseline,
            baseline_report=_earlier(facts),
            suite_digest=status.inputs.suite or "",
            agent_token_env=token_variable(facts.observed.profile, AGENT_TOKEN_VARIABLE, agent_token),
            task_timeout_s=parse_duration(facts.obj.spec.limits.task_timeout).total_seconds(),
        )

    def track(self, facts: Facts[EvalRun], status: EvalRunStatus, attempt: Attempt) -> EvalRunStatus:
        return status.model_copy(update={"progress": new_progress(facts, attempt, status.progress)})

    def finish(
        self, facts: Facts[EvalRun], status: EvalRunStatus, attempt: Attempt, result: Result
    ) -> EvalRunStatus | Attempt:
        output = result.output
        problem = _mismatch(facts, status, output)
        if problem or not isinstance(output, EvalOutput):
            return refused(attempt, reason=Reason.RESULT_MISMATCH, message=problem, failure_class=FailureClass.DATA)
        return status.model_copy(
            update={
                "report": ReportStatus(uri=output.report.uri, digest=output.report.digest),
                "baseline_report": _report(output.baseline_report),
                "compare_report": _report(output.compare_report),
                "summary": _summary(output.summary),
                "baseline_summary": _summary(output.baseline_summary) if output.baseline_summary is not None else None,
                "comparison": _comparison(output.comparison) if output.comparison is not None else None,
            }
        )

    def settled(self, facts: Facts[EvalRun], status: EvalRunStatus) -> Decision | None:
        summary = status.summary
        if status.report is None or summary is None:
            return None
        judged = summary.passed + summary.failed
        message = (
            f"{summary.passed} of {judged} judged tasks passed ({summary.pass_rate:.1%}), {summary.errored} errored"
        )
        if status.comparison is not None:
            message += f"; {_in_words(status.comparison)}"
        verdict = Verdict(
            mood=Mood.DONE,
            phase=Phase.SUCCEEDED,
            reason=Reason.SUCCEEDED,
            message=message,
            more={ConditionType.SUCCEEDED: (ConditionStatus.TRUE, Reason.SUCCEEDED, message)},
        )
        return decided(facts, status, verdict)


def _targets(facts: Facts[EvalRun]) -> tuple[EvalTarget | Objection, EvalTarget | Objection | None]:
    spec = facts.obj.spec
    measured = spec.baseline is not None and spec.baseline.report is None
    baseline = resolve(facts, "spec.baseline", spec.baseline) if spec.baseline is not None and measured else None
    return resolve(facts, "spec.candidate", spec.candidate), baseline


def _earlier(facts: Facts[EvalRun]) -> ArtifactRef | None:
    """Return the finished report that is the baseline, where the spec names one."""
    baseline = facts.obj.spec.baseline
    if baseline is None or baseline.report is None:
        return None
    return ArtifactRef(uri=baseline.report.uri, digest=baseline.report.digest)


def _digest(target: EvalTarget | Objection | None) -> str | None:
    return target.digest or None if isinstance(target, EvalTarget) else None


def _mismatch(facts: Facts[EvalRun], status: EvalRunStatus, output: object) -> str:
    """Return why a result must not be believed; empty when it may."""
    if not isinstance(output, EvalOutput):
        return f"the result is a {type(output).__name__}, not an EvalOutput: is spec.profile's image of this release?"
    pinned = status.inputs
    for what, found, expected in (
        ("candidate", output.candidate_digest, pinned.candidate),
        ("baseline", output.baseline_digest, pinned.baseline),
        ("baseline report", output.baseline_report.digest if output.baseline_report else "", pinned.baseline_report),
        ("suite", output.suite_digest, pinned.suite),
    ):
        if expected is not None and found != expected:
            return (
                f"the report is about {what} {found or 'of unknown digest'}, pinned is {expected}: look for "
                "who changed what spec names while it ran"
            )
    if facts.obj.spec.baseline is not None and output.comparison is None:
        return (
            "the result has no comparison, though spec.baseline asks for one: is spec.profile's image of this release?"
        )
    found_now = suite_digest(facts)
    if found_now and found_now != pinned.suite:
        return f"the suite changed while it ran: {found_now}, pinned is {pinned.suite}: put the file back"
    return ""


def _in_words(found: ComparisonStatus) -> str:
    """Return a comparison with the numbers behind its verdict."""
    link = "than" if found.verdict in ("Better", "Worse") else "against"
    text = (
        f"{found.verdict} {link} the baseline: {found.wins} wins, {found.losses} losses over {found.common} common "
        f"tasks, p {found.p_value:.3g}"
    )
    if found.verdict == "Inconclusive":
        text += f"; so many tasks could show a difference of {found.minimum_detectable_effect:.1%}, not less"
    return text


def _report(ref: ArtifactRef | None) -> ReportStatus | None:
    return None if ref is None else ReportStatus(uri=ref.uri, digest=ref.digest)


def _summary(summary: EvalSummary) -> SummaryStatus:
    return SummaryStatus(
        tasks=summary.tasks,
        passed=summary.passed,
        failed=summary.failed,
        errored=summary.errored,
        unscored=summary.unscored,
        pass_rate=summary.pass_rate,
        interval=list(summary.interval),
    )


def _comparison(comparison: EvalComparison) -> ComparisonStatus:
    found = {name: getattr(comparison, name) for name in ComparisonStatus.model_fields}
    if comparison.interval is not None:
        found["interval"] = list(comparison.interval)
    return ComparisonStatus.model_validate(found, by_name=True)


_RULES = _Rules()

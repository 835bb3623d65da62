"""`status`, `promote`, `abort`, `retry`: wait for an end, or set an annotation and wait for its acknowledgement."""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sluice_api.instants import format_instant
from sluice_api.v1alpha1.common import ANNOTATION_ABORT, ANNOTATION_PROMOTE, ANNOTATION_PROMOTED_BY, ANNOTATION_RETRY
from sluice_cli.kube import KubeApi
from sluice_cli.lineage import ROLLOUT
from sluice_cli.rollout.showing import not_found
from sluice_cli.rollout.waiting import Exit, Follower, verdict_of

MOST = 253
"""Longest value that a status keeps of a command."""

Raw = Mapping[str, Any]


def _status(rollout: Raw) -> Raw:
    return rollout.get("status") or {}


def told(rollout: Raw) -> str:
    """Return a rollout's state in one line."""
    status = _status(rollout)
    weight = (status.get("weight") or {}).get("actual", 0)
    reason, message = status.get("reason") or "", status.get("message") or ""
    return f"{status.get('phase') or 'Pending'} ({reason}) at {weight} %: {message}"


def wait_for_end(api: KubeApi, namespace: str, name: str, *, timeout_s: float | None) -> Exit:
    """Follow a rollout until it ends, needs a person, or the time is over; print every change. Raises KubeError."""
    said, seen = "", False
    with Follower(api, namespace, name) as follower:
        for rollout in follower.looks(timeout_s):
            if rollout is None:
                if not seen:
                    return not_found(namespace, name)
                print(f"sluice rollout: ShadowRollout {name} was deleted before it ended", file=sys.stderr)
                return Exit.UNJUDGED
            seen, line = True, told(rollout)
            if line != said:
                print(line, flush=True)
                said = line
            verdict = verdict_of(_status(rollout), int(rollout["metadata"].get("generation") or 1))
            if verdict is not None:
                return verdict
    print("sluice rollout: still on its way", file=sys.stderr)
    return Exit.TIMEOUT


def promote(api: KubeApi, namespace: str, name: str, timeout_s: float | None) -> Exit:
    """Approve the present step. Raises KubeError."""
    rollout = api.get(ROLLOUT, namespace, name)
    if rollout is None:
        return not_found(namespace, name)
    status = _status(rollout)
    step, outcome = int(status.get("step") or 0), status.get("outcome") or ""
    if outcome or step == 0:
        why = f"the rollout has ended: {outcome}" if outcome else "the rollout is at no step yet"
        return _does_not_apply("promote", why)
    who = api.whoami()
    annotations = {ANNOTATION_PROMOTE: str(step), ANNOTATION_PROMOTED_BY: who[:MOST]}

    def approved(status: Raw) -> bool:
        return any(entry.get("step") == step for entry in status.get("approvals") or ())

    if approved(status):
        print(f"step {step} is approved already")
        return Exit.DONE
    api.annotate(ROLLOUT, namespace, name, annotations)
    asked = step in ((rollout.get("spec") or {}).get("approval") or ())
    text = f"step {step} approved by {who}" + ("" if asked else "; it does not ask for it: its evidence decides alone")
    # A step that advances at once forgets nothing: the approval stays in the list.
    code = _acknowledged(api, namespace, name, timeout_s, approved, text)
    if code is Exit.DONE and timeout_s != 0:
        # The name is in the status now; left here, it would sign the next approval, whoever gives that.
        api.annotate(ROLLOUT, namespace, name, {ANNOTATION_PROMOTED_BY: None})
    return code


def promote_fully(api: KubeApi, namespace: str, name: str, timeout_s: float | None) -> Exit:
    """Approve every step as it asks for it, and wait for the end; evidence is never skipped. Raises KubeError."""
    with Follower(api, namespace, name) as follower:
        for rollout in follower.looks(timeout_s):
            if rollout is None:
                return not_found(namespace, name)
            status = _status(rollout)
            verdict = verdict_of(status, int(rollout["metadata"].get("generation") or 1))
            if verdict is Exit.HELD and status.get("phase") == "AwaitingApproval":
                code = promote(api, namespace, name, 30.0)
                if code is not Exit.DONE:
                    return code
            elif verdict is not None:
                print(told(rollout))
                return verdict
    print("sluice rollout: still on its way", file=sys.stderr)
    return Exit.TIMEOUT


def abort(api: KubeApi, namespace: str, name: str, timeout_s: float | None) -> Exit:
    """Take the candidate out. Raises KubeError."""

    def objection(status: Raw) -> str:
        outcome = status.get("outcome") or ""
        return f"the rollout has ended: {outcome}" if outcome else ""

    return _command(api, namespace, name, timeout_s, "abort", ANNOTATION_ABORT, objection)


def retry(api: KubeApi, namespace: str, name: str, timeout_s: float | None) -> Exit:
    """Start a rolled back or superseded rollout again. Raises KubeError."""

    def objection(status: Raw) -> str:
        outcome = status.get("outcome") or ""
        return "" if outcome in ("RolledBack", "Superseded") else f"nothing to retry: the rollout is {_where(status)}"

    return _command(api, namespace, name, timeout_s, "retry", ANNOTATION_RETRY, objection)


def _where(status: Raw) -> str:
    return str(status.get("outcome") or status.get("phase") or "Pending")


def _command(
    api: KubeApi,
    namespace: str,
    name: str,
    timeout_s: float | None,
    command: str,
    annotation: str,
    objection: Callable[[Raw], str],
) -> Exit:
    """Set a command's annotation to instant and user, which the status keeps, and wait for the acknowledgement."""
    rollout = api.get(ROLLOUT, namespace, name)
    if rollout is None:
        return not_found(namespace, name)
    why = objection(_status(rollout))
    if why:
        return _does_not_apply(command, why)
    instant = format_instant(datetime.now(UTC), "microseconds")
    value = f"{instant} by {api.whoami()}"[:MOST]
    api.annotate(ROLLOUT, namespace, name, {annotation: value})

    def done(status: Raw) -> bool:
        return (status.get("acknowledged") or {}).get(command) == value

    return _acknowledged(api, namespace, name, timeout_s, done, f"{command} acknowledged")


def _does_not_apply(command: str, why: str) -> Exit:
    print(f"sluice rollout: {command} does not apply: {why}", file=sys.stderr)
    return Exit.FAILED


def _acknowledged(
    api: KubeApi, namespace: str, name: str, timeout_s: float | None, done: Callable[[Raw], bool], text: str
) -> Exit:
    """Wait until the status tells that a command was acted on."""
    if timeout_s == 0:
        print("asked for; the operator acts on it when it sees it")
        return Exit.DONE
    with Follower(api, namespace, name) as follower:
        for rollout in follower.looks(timeout_s):
            if rollout is None:
                return not_found(namespace, name)
            if done(_status(rollout)):
                print(text)
                print(told(rollout))
                return Exit.DONE
    print("sluice rollout: not acknowledged in time: does the operator run?", file=sys.stderr)
    return Exit.TIMEOUT

"""Why a job's pods do not run: the reasons that Kubernetes leaves in their statuses."""

from collections.abc import Iterable, Mapping
from typing import Any

GOOD = frozenset({"", "Completed", "ContainerCreating", "PodInitializing"})
"""Reasons that are no news."""


def pod_reason(pods: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the first telling reason among the pods, and its message; both empty where all is well.

    Containers come before scheduling: `OOMKilled` or `ImagePullBackOff` says more than `Unschedulable`. Messages are
    Kubernetes' own and hold no output of the container.
    """
    later: tuple[str, str] = ("", "")
    for pod in pods:
        name = pod["metadata"]["name"]
        status = pod.get("status") or {}
        for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            for state in (container.get("state") or {}, container.get("lastState") or {}):
                for phase in ("waiting", "terminated"):
                    detail = state.get(phase) or {}
                    reason = str(detail.get("reason") or "")
                    if reason in GOOD or (reason == "Error" and detail.get("exitCode") == 0):
                        continue
                    code = f" (exit code {detail['exitCode']})" if phase == "terminated" else ""
                    message = str(detail.get("message") or "") if phase == "waiting" else ""
                    return reason, f"pod {name}, container {container['name']}: {reason}{code} {message}".strip()
        if status.get("reason"):
            later = later if later[0] else (str(status["reason"]), f"pod {name}: {status.get('message') or ''}".strip())
        for condition in status.get("conditions") or []:
            if condition.get("status") == "False" and condition.get("reason") == "Unschedulable" and not later[0]:
                later = ("FailedScheduling", f"pod {name} cannot be scheduled: {condition.get('message') or ''}")
    return later

"""Looks at the five kinds through the API server, as `kubectl get` would."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sluice_api.v1alpha1 import GROUP, KINDS, VERSION

POLL_S = 0.7
"""Seconds between two looks."""


class StoryError(RuntimeError):
    """The demo did not go as it must; the message says what was seen instead."""


@dataclass(frozen=True, kw_only=True)
class Transition:
    """An object whose phase or reason changed."""

    kind: str
    name: str
    phase: str
    reason: str
    message: str


@dataclass
class Snapshot:
    """All objects as last seen, and the training losses seen on the way."""

    objects: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def status(self, kind: str, name: str) -> Mapping[str, Any]:
        """Return an object's status; empty when there is none yet."""
        return (self.objects.get((kind, name)) or {}).get("status") or {}


class Watcher:
    """Polls the objects of one namespace and reports what changed."""

    def __init__(self, kubeconfig: Path, namespace: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect with the given kubeconfig."""
        from kubernetes import client, config

        self._api = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))
        self._namespace = namespace
        self._clock = clock
        self.snapshot = Snapshot()

    def look(self) -> list[Transition]:
        """Read every object and return the changes of phase or reason since the last look."""
        before, transitions = self.snapshot.objects, []
        after: dict[tuple[str, str], Mapping[str, Any]] = {}
        for kind in KINDS:
            listing = self._list(kind.crd.plural)
            for item in listing["items"]:
                key = (kind.crd.kind, item["metadata"]["name"])
                after[key] = item
                transition = _transition(key, (before.get(key) or {}).get("status") or {}, item.get("status") or {})
                if transition is not None:
                    transitions.append(transition)
        self.snapshot.objects = after
        self._keep_losses()
        return transitions

    def _list(self, plural: str) -> Mapping[str, Any]:
        """Read one kind. Raises StoryError when the API server does not answer."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            listing: Mapping[str, Any] = self._api.list_namespaced_custom_object(
                GROUP, VERSION, self._namespace, plural, _request_timeout=10
            )
        except (ApiException, HTTPError) as error:
            raise StoryError(f"the API server does not answer: {type(error).__name__}") from error
        return listing

    def _keep_losses(self) -> None:
        """Remember the losses of running FineTuneRuns."""
        for (kind, name), item in self.snapshot.objects.items():
            progress = (item.get("status") or {}).get("progress") or {}
            if kind == "FineTuneRun" and progress.get("loss") is not None:
                curve = self.snapshot.losses.setdefault(name, [])
                if not curve or curve[-1][0] < progress["step"]:
                    curve.append((progress["step"], progress["loss"]))

    def until(
        self,
        done: Callable[[Snapshot], bool],
        *,
        wish: str,
        timeout_s: float,
        show: Callable[[Snapshot, list[Transition]], None],
        failed: Callable[[Snapshot], str] = lambda snapshot: "",
    ) -> float:
        """Look again and again until `done` holds; return the seconds that it took.

        Raises StoryError when `failed` returns a text, or after `timeout_s`; `wish` says what was waited for.
        """
        start = self._clock()
        while True:
            transitions = self.look()
            show(self.snapshot, transitions)
            if done(self.snapshot):
                return self._clock() - start
            problem = failed(self.snapshot)
            if problem:
                raise StoryError(f"waiting for {wish}: {problem}")
            if self._clock() - start > timeout_s:
                raise StoryError(f"{wish}: not within {timeout_s:.0f} s")
            time.sleep(POLL_S)


def _transition(key: tuple[str, str], before: Mapping[str, Any], after: Mapping[str, Any]) -> Transition | None:
    """Return the change of phase or reason, if there is one."""
    if not after or (before.get("phase"), before.get("reason")) == (after.get("phase"), after.get("reason")):
        return None
    return Transition(
        kind=key[0],
        name=key[1],
        phase=after.get("phase", ""),
        reason=after.get("reason", ""),
        message=after.get("message", ""),
    )

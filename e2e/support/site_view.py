"""A cluster as its users see it: kubectl, what it answers, and waiting with a record of what was seen meanwhile."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sluice_devcluster.errors import ProviderError
from sluice_devcluster.kubectl import find_kubectl, run_kubectl

T = TypeVar("T")
Manifest = dict[str, Any]

CLUSTER_SCOPED = frozenset({"Namespace", "GatewayClass", "ClusterRole", "ClusterRoleBinding"})
"""Kinds without a namespace that scenarios apply."""
POLL_S = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One namespace of a cluster, looked at with one identity."""

    kubeconfig: Path
    namespace: str
    acting_as: tuple[str, ...] = field(default=())
    """Flags of kubectl that impersonate somebody."""

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run kubectl in the namespace and return what it printed. Raises ProviderError with what it said."""
        flags = ("--namespace", self.namespace, *self.acting_as)
        done = run_kubectl(self.kubeconfig, *flags, *arguments, stdin=stdin, check=check, timeout_s=timeout_s)
        return done.stdout if done.returncode == 0 or check else done.stdout + done.stderr

    def apply(self, *manifests: Manifest) -> None:
        """Apply manifests on the server's side; what names no namespace goes into this one."""
        placed = [each if each["kind"] in CLUSTER_SCOPED else _placed(each, self.namespace) for each in manifests]
        flags = ("--server-side", "--force-conflicts", "-f", "-")
        run_kubectl(self.kubeconfig, *self.acting_as, "apply", *flags, stdin=yaml.safe_dump_all(placed))

    def get(self, kind: str, name: str) -> Manifest | None:
        """Return an object; None where there is none."""
        text = self.kubectl("get", kind, name, "--output=json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, *, labels: str = "") -> Sequence[Manifest]:
        """Return the objects of a kind."""
        selector = (f"--selector={labels}",) if labels else ()
        found: Sequence[Manifest] = json.loads(self.kubectl("get", kind, "--output=json", *selector))["items"]
        return found

    def status(self, kind: str, name: str) -> Mapping[str, Any]:
        """Return an object's status; empty where there is none."""
        return (self.get(kind, name) or {}).get("status") or {}

    def patch(self, kind: str, name: str, change: Manifest, *flags: str) -> None:
        """Merge a change into an object."""
        self.kubectl("patch", kind, name, "--type=merge", "--patch", json.dumps(change), *flags)

    def delete(self, kind: str, *names: str, timeout_s: float = 90.0) -> None:
        """Delete objects and wait until they are gone."""
        self.kubectl(
            "delete", kind, *names, "--ignore-not-found", f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s + 30
        )

    def until(
        self,
        check: Callable[[], T | None],
        *,
        wish: str,
        timeout_s: float = 180.0,
        told: Callable[[], Any] | None = None,
    ) -> T:
        """Return the first true value of `check`.

        Raises:
            AssertionError: none came in time; the message has what `told` told meanwhile, each change once.
        """
        deadline, seen = time.monotonic() + timeout_s, []
        while True:
            try:
                value = check()
            except ProviderError as error:
                value, note = None, str(error)
            else:
                note = told() if told is not None else ""
            if value:
                return value
            if note and (not seen or seen[-1] != note):
                seen.append(note)
            if time.monotonic() > deadline:
                history = "\n".join(f"  {each}" for each in seen[-12:])
                raise AssertionError(f"not within {timeout_s:.0f} s: {wish}; seen meanwhile:\n{history}")
            time.sleep(POLL_S)

    def until_phase(self, kind: str, name: str, *phases: str, timeout_s: float = 600.0) -> Mapping[str, Any]:
        """Wait for one of the phases and return the status."""
        seen: dict[str, Mapping[str, Any]] = {}

        def reached() -> Mapping[str, Any] | None:
            seen["status"] = self.status(kind, name)
            return seen["status"] if seen["status"].get("phase") in phases else None

        def told() -> str:
            status = seen.get("status", {})
            return f"{status.get('phase')} {status.get('reason')}: {status.get('message')}"

        return self.until(reached, wish=f"{kind}/{name} is {' or '.join(phases)}", timeout_s=timeout_s, told=told)

    def until_message(self, kind: str, name: str, *words: str, timeout_s: float = 180.0) -> Mapping[str, Any]:
        """Wait until an object's reason and message hold all words, and return the status."""

        def told() -> str:
            status = self.status(kind, name)
            return f"{status.get('phase')} {status.get('reason')}: {status.get('message')}"

        def found() -> bool:
            text = told()
            return all(word in text for word in words)

        self.until(found, wish=f"{kind}/{name} says {' and '.join(words)}", timeout_s=timeout_s, told=told)
        return self.status(kind, name)

    def until_gone(self, kind: str, name: str, *, timeout_s: float = 90.0) -> None:
        """Wait until an object does not exist."""
        self.until(lambda: self.get(kind, name) is None, wish=f"{kind}/{name} is gone", timeout_s=timeout_s)


@contextmanager
def reaching(site: Site, pod: Manifest, port: int) -> Iterator[str]:
    """Give `host:port` at which this machine reaches a pod's port while the block runs.

    That is the pod's own address where it answers. Where a policy of the network lets only pods in, kubectl carries the
    connections.
    """
    try:
        with socket.create_connection((pod["status"]["podIP"], port), timeout=3.0):
            direct = True
    except OSError:
        direct = False
    if direct:
        yield f"{pod['status']['podIP']}:{port}"
        return
    command = [str(find_kubectl()), f"--kubeconfig={site.kubeconfig}", f"--namespace={site.namespace}", "port-forward"]
    command += [f"pod/{pod['metadata']['name']}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            found = re.match(r"Forwarding from (127\.0\.0\.1:\d+)", said)
            assert found, f"kubectl port-forward: {said}"
            yield found[1]
        finally:
            process.terminate()


def conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a status' conditions by type."""
    return {each["type"]: each for each in status.get("conditions") or []}


def _placed(manifest: Manifest, namespace: str) -> Manifest:
    return {**manifest, "metadata": {"namespace": namespace, **manifest["metadata"]}}

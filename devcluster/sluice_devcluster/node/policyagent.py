"""Keeps the packet filter in step with the cluster's NetworkPolicies, pods and namespaces.

Run as ``python -m sluice_devcluster.node.policyagent CONFIGURATION`` with a JSON file that holds ``kubectl``,
``pod_network``, ``programs`` and ``ready``, a file that is touched after the first table was written. ``KUBECONFIG``
says who it is. It writes a whole table at every change; when it ends, the table stays, and pods that it does not know
may open nothing.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sluice_devcluster.node.policies import Endpoint, pods_as_endpoints, ruleset
from sluice_devcluster.node.sandbox import find_program

RESOURCES = ("networkpolicies", "pods", "namespaces")
_PATHS = {
    "networkpolicies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}
_RELIST_S = 300
"""A watch ends after this time and is begun with a new list, so that nothing that was missed stays missed."""


class Cluster:
    """The objects as the watches tell of them."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Mapping[str, Any]]] = {}

    @property
    def complete(self) -> bool:
        """Whether every resource has been listed once."""
        return set(self._objects) == set(RESOURCES)

    def items(self, resource: str) -> list[Mapping[str, Any]]:
        """The objects of a resource, in a stable order."""
        objects = self._objects[resource]
        return [objects[key] for key in sorted(objects)]

    def replace(self, resource: str, items: list[Mapping[str, Any]]) -> None:
        """Take a whole list in place of what was known."""
        self._objects[resource] = {_key(item): item for item in items}

    def change(self, resource: str, event: Mapping[str, Any]) -> None:
        """Take one event of a watch; bookmarks and errors tell of no object."""
        item = event["object"]
        if event["type"] == "DELETED":
            self._objects[resource].pop(_key(item), None)
        elif event["type"] in ("ADDED", "MODIFIED"):
            self._objects[resource][_key(item)] = item


def _key(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def render(cluster: Cluster, programs: list[Endpoint], pod_network: str) -> str:
    """The table for the cluster as it is known."""
    namespaces = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in cluster.items("namespaces")}
    return ruleset(
        cluster.items("networkpolicies"),
        pods_as_endpoints(cluster.items("pods")),
        programs,
        namespaces,
        pod_network=pod_network,
    )


def watch(kubectl: str, resource: str) -> Iterator[tuple[str, Any]]:
    """``("list", items)`` and then ``("event", event)`` for as long as one watch lasts.

    Raises:
        OSError: the API server does not answer, or ends the watch with an error.
    """
    path = _PATHS[resource]
    answer = subprocess.run(
        [kubectl, "get", f"--raw={path}", "--request-timeout=30s"], capture_output=True, check=False
    )
    if answer.returncode != 0:
        raise OSError(answer.stderr.decode(errors="replace").strip())
    listed = json.loads(answer.stdout)
    yield "list", listed["items"]
    version = listed["metadata"]["resourceVersion"]
    query = f"{path}?watch=true&resourceVersion={version}&timeoutSeconds={_RELIST_S}"
    with subprocess.Popen([kubectl, "get", f"--raw={query}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "ERROR":
                process.kill()
                raise OSError(str(event["object"].get("message")))
            yield "event", event


def main() -> None:
    """Watch everything and write the table whenever it changes."""
    configuration = json.loads(Path(sys.argv[1]).read_text())
    programs = [
        Endpoint(
            namespace=each["namespace"],
            labels=each["labels"],
            address=each["address"],
            only=tuple((protocol, port) for protocol, port in each["only"]),
        )
        for each in configuration["programs"]
    ]
    changes: queue.Queue[tuple[str, str, Any]] = queue.Queue()
    for resource in RESOURCES:
        threading.Thread(target=_follow, args=(configuration["kubectl"], resource, changes), daemon=True).start()
    cluster, written = Cluster(), ""
    while True:
        _take(cluster, changes)
        if not cluster.complete:
            continue
        table = render(cluster, programs, configuration["pod_network"])
        if table != written:
            subprocess.run([find_program("nft"), "--file", "-"], input=table.encode(), check=True)
            written = table
        Path(configuration["ready"]).touch()


def _take(cluster: Cluster, changes: "queue.Queue[tuple[str, str, Any]]") -> None:
    """Wait for a change, and take with it all that have come meanwhile."""
    waiting = [changes.get()]
    while not changes.empty():
        waiting.append(changes.get())
    for resource, kind, content in waiting:
        if kind == "list":
            cluster.replace(resource, content)
        else:
            cluster.change(resource, content)


def _follow(kubectl: str, resource: str, changes: "queue.Queue[tuple[str, str, Any]]") -> None:
    pause = threading.Event()
    while True:
        try:
            for kind, content in watch(kubectl, resource):
                changes.put((resource, kind, content))
        except (OSError, ValueError) as error:
            print(f"{resource}: {error}", file=sys.stderr, flush=True)
            pause.wait(1.0)


if __name__ == "__main__":
    main()

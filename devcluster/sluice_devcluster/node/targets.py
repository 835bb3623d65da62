"""Tells Prometheus which pods to scrape, where its build cannot ask Kubernetes itself.

Debian's build leaves that discovery out. This program lists the pods under Prometheus's own identity and writes a file
that it watches. Run as ``python -I -S targets.py KUBECTL FILE INTERVAL_S`` with ``KUBECONFIG`` set. Uses nothing but
the standard library.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PORT_NAME = "metrics"
_LABELS = {
    "app.kubernetes.io/name": "job",
    "app.kubernetes.io/component": "component",
    "ray.io/cluster": "ray_io_cluster",
    "ray.io/node-type": "ray_io_node_type",
}
"""Labels of a pod and what they are called on its series."""


def scrape_targets(pods: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One target for every container port named ``metrics`` of every pod that runs, in a stable order."""
    found = []
    for pod in pods:
        address = pod.get("status", {}).get("podIP")
        if not address or pod["status"].get("phase") != "Running":
            continue
        metadata = pod["metadata"]
        labels = {"namespace": metadata["namespace"], "pod": metadata["name"]}
        for name, label in _LABELS.items():
            if name in metadata.get("labels", {}):
                labels[label] = metadata["labels"][name]
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()):
                if port.get("name") == PORT_NAME:
                    found.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return sorted(found, key=lambda group: (group["labels"]["namespace"], group["labels"]["pod"], group["targets"]))


def main() -> None:
    """Write the targets whenever they change; a list that cannot be had leaves them as they are."""
    kubectl, file, interval = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    while True:
        answer = subprocess.run(
            [kubectl, "get", "--raw=/api/v1/pods", "--request-timeout=10s"], capture_output=True, check=False
        )
        if answer.returncode == 0:
            _replace(file, json.dumps(scrape_targets(json.loads(answer.stdout)["items"]), indent=1))
        else:
            print(answer.stderr.decode(errors="replace").strip(), file=sys.stderr, flush=True)
        time.sleep(interval)


def _replace(file: Path, content: str) -> None:
    if file.is_file() and file.read_text() == content:
        return
    fresh = file.with_suffix(".new")
    fresh.write_text(content)
    fresh.replace(file)


if __name__ == "__main__":
    main()

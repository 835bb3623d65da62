"""Writes the manifests of `kubectl apply -k charts/bare` from the chart, so that the two cannot differ.

The kinds come from `crds/`, as the chart's do.

`generate.py` writes, `generate.py --check` compares and ends with 1 where a file differs. Helm is built when it is not
in the cache.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sluice_devcluster.files import write_atomic
from sluice_devcluster.gotools import helm, kubernetes_tool

HERE = Path(__file__).parent
CHART = HERE.parent / "sluice"
NAMESPACE = "sluice"
"""Namespace of the operator, and the one that it serves."""
POD_SECURITY = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
HEADER = "# Written by charts/bare/generate.py from charts/sluice: change that, and run `make manifests`.\n"


def rendered() -> list[dict[str, Any]]:
    """Return the chart's objects with its default values.

    Raises:
        subprocess.CalledProcessError: Helm refuses the chart.
    """
    command = [str(helm()), "template", "sluice", str(CHART), "--namespace", NAMESPACE]
    command.append(f"--kube-version={kubernetes_tool().version}")
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, env=environment, timeout=120, check=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def files() -> Mapping[str, str]:
    """Return the files by name."""
    objects = [each for each in rendered() if each["kind"] != "CustomResourceDefinition"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": POD_SECURITY}}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../crds", "namespace.yaml", "sluice.yaml"],
    }
    return {
        "kustomization.yaml": _text([kustomization]),
        "namespace.yaml": _text([namespace]),
        "sluice.yaml": _text(objects),
    }


def _text(objects: Sequence[Mapping[str, Any]]) -> str:
    return HEADER + yaml.safe_dump_all(objects, sort_keys=False, width=120)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args(argv)
    stale = [
        name
        for name, text in files().items()
        if not (HERE / name).is_file() or (HERE / name).read_text(encoding="utf-8") != text
    ]
    if arguments.check:
        for name in stale:
            print(f"charts/bare/{name} is not what the chart renders: run make manifests", file=sys.stderr)
        return 1 if stale else 0
    for name, text in files().items():
        write_atomic(HERE / name, text.encode(), mode=0o644)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

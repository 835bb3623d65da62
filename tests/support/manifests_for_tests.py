"""Manifests of the five kinds as the operator's integration tests use them."""

import hashlib
import json
from pathlib import Path

from sluice_api.contracts.base import ModelRef
from sluice_api.contracts.models import Channel
from sluice_artifacts import move_channel

STABLE_DIGEST = "sha256:" + hashlib.sha256(b"what is stable").hexdigest()
VERSION_DIGEST = "sha256:" + "1" * 64


def _object(kind: str, name: str, spec: dict) -> dict:
    return {"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def dataset(uri: str, name: str = "data", **spec) -> dict:
    base = {
        "source": {"uri": uri + "traces/"},
        "convert": {"requireScreenshot": False},
        "output": {"uri": uri + "datasets/"},
    }
    return _object("TraceDataset", name, base | spec)


def run(uri: str, name: str = "run", **spec) -> dict:
    base = {"datasetRef": {"name": "data"}, "baseModel": {"uri": uri + "base/"}, "output": uri}
    return _object("FineTuneRun", name, base | spec)


def evaluation(uri: str, name: str = "eval", **spec) -> dict:
    base = {
        "candidate": {"fineTuneRunRef": {"name": "run"}},
        "baseline": {"channel": "stable"},
        "suite": {"uri": uri + "suite.json"},
        "channels": uri,
        "output": uri,
    }
    return _object("EvalRun", name, base | spec)


def scorecard(uri: str, name: str = "card", **spec) -> dict:
    base = {
        "candidate": {"fineTuneRunRef": {"name": "run"}},
        "evalRunRef": {"name": "eval"},
        "output": uri,
    }
    return _object("PromotionScorecard", name, base | spec)


def rollout(uri: str, name: str = "rollout", **spec) -> dict:
    base = {
        "candidate": {"fineTuneRunRef": {"name": "run"}},
        "stable": {"channel": "stable", "root": uri},
        "scorecardRef": {"name": "card"},
        "steps": [{"weight": 10, "soak": "1s", "minRuns": 5}, {"weight": 100, "soak": "1s", "minRuns": 5}],
        "analysis": {
            "source": {"uri": uri + "traces/"},
            "interval": "8s",
            "maturity": "0s",
            "maxDuration": "10m",
        },
        "output": uri,
    }
    return _object("ShadowRollout", name, base | spec)


def chain(uri: str) -> list[dict]:
    """One of each kind, each referring to the one before."""
    return [dataset(uri), run(uri), evaluation(uri), scorecard(uri), rollout(uri)]


def furnish(root: Path) -> str:
    """Write a suite and the stable channel below an artifact root; return its URI."""
    root.mkdir(parents=True, exist_ok=True)
    uri = f"file://{root}/"
    (root / "suite.json").write_text(json.dumps([{"task_id": "t1", "task_text": "open the first listing"}]))
    model = ModelRef(uri=uri + "base/", digest=STABLE_DIGEST)
    move_channel(uri, Channel(name="stable", digest=STABLE_DIGEST, base_model=model, changed_by="init"), etag=None)
    return uri

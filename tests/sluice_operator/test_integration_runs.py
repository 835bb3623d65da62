"""FineTuneRuns on a real API server and a real Ray, by an operator process with exactly its role."""

import json

from operators import until

DIGEST = "sha256:" + "1" * 64


def dataset(place, name="data"):
    """A TraceDataset that is applied, with a version in its status, as if it had been built."""
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TraceDataset",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": place.uri + "traces/"},
            "convert": {"requireScreenshot": False},
            "output": {"uri": place.uri + "datasets/"},
        },
    }


def run(place, name="run", **spec):
    return {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "FineTuneRun",
        "metadata": {"name": name},
        "spec": {
            "datasetRef": {"name": "data"},
            "baseModel": {"uri": place.uri + "base/"},
            "output": place.uri,
            **spec,
        },
    }


def built(place, name="data"):
    version = {
        "digest": DIGEST,
        "uri": f"{place.uri}datasets/{'1' * 64}/",
        "rows": 10,
        "createdAt": "2026-01-01T00:00:00Z",
    }
    patch = {"status": {"phase": "Ready", "latest": version, "versions": [version]}}
    place.kubectl(
        "-n",
        place.namespace,
        "patch",
        "tracedataset",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps(patch),
    )


def test_a_run_trains_and_is_recorded(place):
    place.apply(dataset(place) | {"spec": dataset(place)["spec"] | {"suspend": True}})
    built(place)
    with place.operator() as operator:
        place.apply(run(place))
        status = place.wait_phase("finetunerun", "run", "Succeeded", timeout_s=40)
        assert status["adapter"]["digest"].startswith("sha256:")
        assert status["inputs"]["dataset"] == DIGEST
        assert len(place.jobs()) == 1
        code, text = operator.get("/metrics")
        assert code == 200
        assert (
            f'sluice_object_phase{{kind="FineTuneRun",name="run",namespace="{place.namespace}",phase="Succeeded"}} 1.0'
            in text
        )
        code, health = operator.get("/healthz")
        assert code == 200 and json.loads(health)["healthy"]
        place.kubectl("-n", place.namespace, "delete", "finetunerun", "run", "--timeout=20s")
        until(lambda: 'name="run"' not in operator.get("/metrics")[1], timeout_s=5)
        assert operator.stop() == 0

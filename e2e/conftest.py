"""The cluster that every scenario plays on, with Sluice installed; what failed is collected below `build/e2e/`.

A node that `SLUICE_E2E_NAME` names and that is up is used as it is; `SLUICE_E2E_KEEP=1` leaves a new one up.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import installation
import shop
import shoppers
from cluster_under_test import ClusterUnderTest, cluster_under_test
from collecting import collect
from furnish import FIRST_RUNS, FIRST_SEED, SUITE_TASKS
from installation import ROOT, SYSTEM, WORKLOAD, Storage
from site_view import Site
from sluice_api.contracts.base import ModelRef
from sluice_cli.local.example import furnish

FAILURES = ROOT / "build" / "e2e"
"""Folder of what was collected."""


@pytest.fixture(scope="session")
def under_test() -> Iterator[ClusterUnderTest]:
    """The cluster with everything that Sluice stands on, and Sluice's images on its node."""
    with cluster_under_test() as found:
        yield found


@pytest.fixture(scope="session")
def storage(under_test: ClusterUnderTest) -> Storage:
    """The S3 server, also in this process' environment."""
    found = under_test.storage
    os.environ.update({**found.keys("admin"), **found.plain()})
    return found


@pytest.fixture(scope="session")
def system(under_test: ClusterUnderTest) -> Site:
    """The operator's namespace, seen by its admin."""
    return Site(kubeconfig=under_test.kubeconfig, namespace=SYSTEM)


@pytest.fixture(scope="session")
def sluice(under_test: ClusterUnderTest, storage: Storage, system: Site) -> Site:
    """Sluice, installed with Helm; the users' namespace, seen by its admin."""
    installation.prepare(system, storage)
    installation.install(system, storage)
    return Site(kubeconfig=under_test.kubeconfig, namespace=WORKLOAD)


@pytest.fixture(scope="session")
def base(sluice: Site, storage: Storage) -> ModelRef:
    """The storefront's base model, suite and `stable` channel in the bucket."""
    return furnish(shop.URI, print, tasks=SUITE_TASKS)


@pytest.fixture(scope="session")
def production(sluice: Site, storage: Storage, base: ModelRef) -> Site:
    """The storefront agent, serving what `stable` names."""
    sluice.apply(shop.code(), *shop.agent(storage, "stable", "stable", replicas=1))
    shop.await_ready(sluice, "agent-stable")
    return sluice


@pytest.fixture(scope="session")
def dataset(production: Site) -> Site:
    """A version of the dataset `storefront`, from traces that the agent left in the bucket."""
    if not production.status("tracedataset", "storefront").get("latest"):
        served = shoppers.serve(shop.pod_url(production, "stable"), runs=FIRST_RUNS, first_seed=FIRST_SEED)
        assert (served.runs, served.errors) == (FIRST_RUNS, 0)
    production.apply(*shop.example("tracedataset.yaml"))
    production.until_phase("tracedataset", "storefront", "Ready", timeout_s=300)
    return production


@pytest.fixture(scope="session")
def trained(dataset: Site) -> Mapping[str, Any]:
    """Status of the run of `examples/finetunerun.yaml`, which has succeeded; the damaged one trains beside it."""
    damaged = (each for each in shop.example("damaged.yaml") if each["kind"] == "FineTuneRun")
    dataset.apply(*shop.example("finetunerun.yaml"), *damaged)
    status = dataset.until_phase("finetunerun", "storefront-a1", "Succeeded", "Failed", "Stalled", timeout_s=900)
    assert status["phase"] == "Succeeded", status
    return status


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Collect objects, events and logs of both namespaces when a scenario fails."""
    report = yield
    if report.failed and (found := getattr(item, "funcargs", {}).get("under_test")) is not None:
        folder = FAILURES / item.name.replace("/", "-")
        collect(found.kubeconfig, (SYSTEM, WORKLOAD), folder)
        found.collect(folder)
        report.sections.append(("collected", str(folder)))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Play the scenarios in the order of the story: what is short first, the whole loop last."""
    order = {name: place for place, name in enumerate(_ORDER)}
    items.sort(key=lambda item: order.get(Path(item.path).stem, len(order)))


_ORDER = ("test_images", "test_training", "test_security", "test_failures", "test_installation", "test_loop")

"""Installing, upgrading and removing Sluice loses nothing of its users'."""

import subprocess
import tarfile

import pytest

import installation
import runs
from installation import ROOT, SYSTEM
from sluice_devcluster.kubectl import run_kubectl

CHART = "charts/sluice"


@pytest.fixture
def first_chart(tmp_path):
    """The chart as it was first committed: there is no released one before the present."""
    git = ["git", "-C", str(ROOT)]
    log = [*git, "log", "--reverse", "--format=%H", "--", f"{CHART}/Chart.yaml"]
    first = subprocess.run(log, text=True, capture_output=True, check=True).stdout.split()[0]
    archive = tmp_path / "chart.tar"
    subprocess.run([*git, "archive", "--output", str(archive), first, CHART], check=True)
    with tarfile.open(archive) as content:
        content.extractall(tmp_path, filter="data")
    return tmp_path / CHART


def identities(sluice):
    """Return the UIDs of all custom resources."""
    return {each["metadata"]["uid"] for each in sluice.list("sluice")}


def test_an_upgrade_from_the_first_chart_and_an_uninstallation_lose_no_custom_resource(
    sluice, system, storage, dataset, first_chart
):
    sluice.apply(runs.run("kept", suspend=True))
    before = identities(sluice)
    assert len(before) >= 2
    installation.run_helm(system.kubeconfig, "uninstall", "sluice", "--namespace", SYSTEM, "--wait")
    assert system.get("deployment", "sluice-operator") is None
    assert identities(sluice) == before
    installation.install(system, storage, chart=first_chart)
    assert identities(sluice) == before
    installation.install(system, storage)
    assert identities(sluice) == before
    sluice.until_phase("finetunerun", "kept", "Suspended", timeout_s=60)
    runs.remove(sluice, "kept")


def test_the_bare_manifests_bring_an_operator_up_too(sluice, system):
    flags = ("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "charts" / "bare"))
    run_kubectl(system.kubeconfig, *flags)
    try:
        wait = ("-n", "sluice", "rollout", "status", "deployment/sluice-operator", "--timeout=120s")
        run_kubectl(system.kubeconfig, *wait, timeout_s=130.0)
    finally:
        name = "sluice-operator.sluice.sluice.dev"
        run_kubectl(system.kubeconfig, "delete", "namespace", "sluice", "--timeout=60s", timeout_s=70.0)
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            run_kubectl(system.kubeconfig, "delete", kind, name)

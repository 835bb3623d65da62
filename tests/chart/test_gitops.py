"""The GitOps example: it builds, the API server takes it, and it keeps to what Argo CD and the rollout need."""

import subprocess
from pathlib import Path

import pytest
import yaml

from operators import await_crds, install_crds
from sluice_devcluster.gotools import gateway_api_crds, kubernetes_binaries

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "examples" / "gitops"
ANNOTATION = "argocd.argoproj.io/"


def built(folder):
    """Return a folder's objects as Kustomize builds them, by kind."""
    program = kubernetes_binaries() / "kubectl"
    done = subprocess.run([program, "kustomize", str(GITOPS / folder)], text=True, capture_output=True, check=True)
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def annotation(manifest, name):
    """Return one of Argo CD's annotations."""
    return manifest["metadata"].get("annotations", {}).get(f"{ANNOTATION}{name}")


@pytest.mark.parametrize("folder", ["training", "release"])
def test_the_api_server_accepts_every_object(folder, kubectl, namespace):
    install_crds(kubectl)
    for path in gateway_api_crds():
        kubectl("apply", "--server-side", "-f", str(path))
    await_crds(kubectl, "httproutes.gateway.networking.k8s.io")
    kubectl("apply", "-n", namespace, "--server-side", "--dry-run=server", "-k", str(GITOPS / folder))


def test_each_wave_needs_the_one_before_and_the_rollout_comes_last():
    training, release = built("training"), built("release")
    assert int(annotation(training["TraceDataset"], "sync-wave")) < int(
        annotation(training["FineTuneRun"], "sync-wave")
    )
    waves = {kind: annotation(each, "sync-wave") for kind, each in release.items()}
    assert int(waves["PromotionScorecard"]) < int(waves["HTTPRoute"]) < int(waves["ShadowRollout"])
    assert annotation(release["EvalRun"], "hook") == "PreSync"
    assert annotation(release["EvalRun"], "hook-delete-policy") == "BeforeHookCreation"
    assert release["EvalRun"]["spec"]["deadline"]
    assert annotation(release["ShadowRollout"], "hook") is None


def test_data_and_rollout_are_pruned_only_when_confirmed():
    for manifest in (built("training")["TraceDataset"], built("release")["ShadowRollout"]):
        assert annotation(manifest, "sync-options") == "Prune=confirm,Delete=confirm"


def test_the_application_leaves_the_weights_of_the_adopted_route_to_the_rollout():
    documents = list(yaml.safe_load_all((GITOPS / "argocd" / "applications.yaml").read_text()))
    (release,) = [each for each in documents if each["metadata"]["name"] == "storefront-release"]
    rollout, route = built("release")["ShadowRollout"], built("release")["HTTPRoute"]
    (ignored,) = release["spec"]["ignoreDifferences"]
    assert ignored["jqPathExpressions"] == [".spec.rules[].backendRefs[].weight"]
    assert ignored["name"] == route["metadata"]["name"] == rollout["spec"]["traffic"]["adopt"]
    options = release["spec"]["syncPolicy"]["syncOptions"]
    assert "ApplyOutOfSyncOnly=true" in options and "RespectIgnoreDifferences=true" not in options
    (rule,) = route["spec"]["rules"]
    assert [each["weight"] for each in rule["backendRefs"]] == [100, 0]
    names = [rollout["spec"]["traffic"][arm]["service"] for arm in ("stable", "candidate")]
    assert [each["name"] for each in rule["backendRefs"]] == names


def test_each_application_syncs_a_folder_of_the_example():
    for each in yaml.safe_load_all((GITOPS / "argocd" / "applications.yaml").read_text()):
        assert (ROOT / each["spec"]["source"]["path"] / "kustomization.yaml").is_file()

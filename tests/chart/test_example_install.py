"""The installation of `docs/kubernetes.md`: its values and namespaces fit the chart and one another."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from sluice_devcluster.gotools import helm, kubernetes_tool
from sluice_operator.profiles import parse_profiles

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "examples" / "kubernetes" / "install"


@pytest.fixture(scope="module")
def objects():
    """The chart's objects with these values, by kind and name."""
    command = [helm(), "template", "sluice", ROOT / "charts" / "sluice", "--namespace=sluice"]
    command += [f"--values={INSTALL / 'values.yaml'}", f"--kube-version={kubernetes_tool().version}"]
    text = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


@pytest.fixture(scope="module")
def around():
    """What is there before the chart, by kind and name."""
    listed = yaml.safe_load_all((INSTALL / "namespaces.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in listed}


def test_every_profile_runs_under_the_account_that_the_policy_lets_through_and_has_keys(objects, around):
    parsed = parse_profiles(objects["ConfigMap", "sluice-profiles"]["data"])
    assert not parsed.problems
    assert {"cpu", "evaluator", "a100", "mi300x"} <= set(parsed.profiles)
    policies = [each["spec"] for (kind, _), each in objects.items() if kind == "ValidatingAdmissionPolicy"]
    variables = [each for spec in policies for each in spec.get("variables", ())]
    (allowed,) = [each["expression"] for each in variables if each["name"] == "allowed"]
    for name, profile in parsed.profiles.items():
        assert ("ServiceAccount", profile.service_account) in around, name
        assert profile.service_account in yaml.safe_load(allowed), name
        assert profile.env_from == ("sluice-worker",), name


def test_the_profiles_of_the_examples_are_there_and_do_what_they_are_named_for(objects):
    profiles = parse_profiles(objects["ConfigMap", "sluice-profiles"]["data"]).profiles
    # Those that are for `sluice cluster up` too count: `kubectl apply -f examples/finetunerun.yaml` is for both.
    for path in (*INSTALL.parent.glob("*.yaml"), *INSTALL.parents[1].glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            backend = "kuberay" if document["kind"] == "FineTuneRun" else "job"
            assert profiles[document["spec"]["profile"]].backend == backend, path.name
            assert "file://" not in json.dumps(document), path.name


def test_the_secrets_that_are_asked_for_are_those_that_the_documentation_makes(objects):
    (container,) = objects["Deployment", "sluice-operator"]["spec"]["template"]["spec"]["containers"]
    assert [each["secretRef"]["name"] for each in container["envFrom"]] == ["sluice-operator"]
    for page in ("README.md", "docs/kubernetes.md"):
        text = (ROOT / page).read_text()
        assert "kubectl -n sluice create secret generic sluice-operator --from-env-file=storage.env" in text, page
        assert "kubectl -n shop create secret generic sluice-worker --from-env-file=storage.env" in text, page


def test_role_and_namespaces_are_where_the_users_are(objects, around):
    assert objects["Role", "sluice-operator"]["metadata"]["namespace"] == "shop"
    for name in ("sluice", "shop"):
        labels = around["Namespace", name]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"

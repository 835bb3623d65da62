"""`rollout lint`: manifests are judged before anybody applies them; a finding names file, line and field."""

from pathlib import Path

import pytest
import yaml

from manifests_for_tests import rollout
from sluice_cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "shadowrollout.yaml"


def write(folder, *documents):
    path = folder / "rollout.yaml"
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return path


def changed(**spec):
    document = rollout("s3://sluice/")
    document["spec"] |= spec
    return document


def test_the_example_has_no_error(capsys):
    assert main(["rollout", "lint", str(EXAMPLE)]) == 0
    assert "no errors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"steps": [{"weight": 25}, {"weight": 5}, {"weight": 100}]}, "must increase strictly"),
        ({"steps": [{"weight": 5}, {"weight": 50}]}, "must end with 100"),
        ({"steps": [{"weight": 5, "minRuns": 0}, {"weight": 100}]}, "spec.steps.0.minRuns"),
        ({"steps": [{"weight": 5, "soak": "soon"}, {"weight": 100}]}, "spec.steps.0.soak"),
        ({"trafic": {}}, "spec.trafic"),
        ({"traffic": {"router": "httpRoute"}}, "spec.traffic needs"),
    ],
    ids=["falling", "not to the end", "no runs", "no duration", "a typing error", "a route without services"],
)
def test_an_error_names_file_line_and_field(spec, words, tmp_path, capsys):
    path = write(tmp_path, {"kind": "ConfigMap", "apiVersion": "v1"}, changed(**spec))
    assert main(["rollout", "lint", str(path)]) == 1
    text = capsys.readouterr().out
    assert f"{path}:4: error: " in text
    assert words in text


def test_advice_is_no_error(tmp_path, capsys):
    document = changed(steps=[{"weight": 50, "soak": "1s"}, {"weight": 100}])
    del document["spec"]["scorecardRef"]
    assert main(["rollout", "lint", str(write(tmp_path, document))]) == 0
    text = capsys.readouterr().out
    for field in ("spec.scorecardRef", "spec.steps[0].soak", "spec.steps[0].weight", "spec.bake"):
        assert f"advice: {field}" in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [", "rollout.yaml"),
        ("kind: ConfigMap\napiVersion: v1\n", "no ShadowRollout"),
        ("kind: ShadowRollout\napiVersion: sluice.dev/v9\n", "apiVersion"),
        ("kind: ShadowRollout\napiVersion: sluice.dev/v1alpha1\n", "metadata.name"),
    ],
    ids=["no YAML", "nothing to judge", "another version", "no name"],
)
def test_what_cannot_be_judged_is_no_pass(text, word, tmp_path, capsys):
    path = tmp_path / "rollout.yaml"
    path.write_text(text)
    assert main(["rollout", "lint", str(path)]) in (1, 2)
    captured = capsys.readouterr()
    assert word in captured.out + captured.err


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["rollout", "lint", str(tmp_path / "gone.yaml")]) == 2
    assert "gone.yaml" in capsys.readouterr().err

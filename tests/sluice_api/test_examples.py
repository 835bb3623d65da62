"""The examples agree with each other and with the typed kinds."""

from pathlib import Path

import pytest
import yaml

from sluice_api.v1alpha1 import KINDS
from sluice_api.v1alpha1.common import GROUP

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = {kind.crd.kind: kind for kind in KINDS}
DOCUMENTS = [
    pytest.param(document, id=f"{path.relative_to(EXAMPLES)}: {document['kind']}/{document['metadata']['name']}")
    for path in sorted(EXAMPLES.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document.get("apiVersion", "").startswith(f"{GROUP}/")
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_example_parses_as_its_kind(document):
    parsed = MODELS[document["kind"]].model_validate(document)
    assert parsed.name == document["metadata"]["name"]


def test_every_kind_has_an_example_of_its_stem():
    for kind in KINDS:
        assert (EXAMPLES / f"{kind.crd.singular}.yaml").is_file()


def test_the_dataset_of_the_training_example_is_the_dataset_example():
    inline, _ = yaml.safe_load_all((EXAMPLES / "finetunerun.yaml").read_text())
    assert inline == yaml.safe_load((EXAMPLES / "tracedataset.yaml").read_text())

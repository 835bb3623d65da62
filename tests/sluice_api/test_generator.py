"""The CRD generator: faithful where it can translate, loud where it cannot."""

from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from pydantic import Field

from sluice_api import generator
from sluice_api.generator import UntranslatableSchema, custom_resource_definition, object_schema, structural
from sluice_api.v1alpha1 import KINDS
from sluice_api.v1alpha1.common import ApiModel, BaseStatus, CrdNames, SluiceObject

FORBIDDEN = {"$ref", "$defs", "anyOf", "const", "prefixItems", "uniqueItems", "title"}
"""Keywords that a structural schema must not hold."""


def nodes(schema: Any, path: str = ""):
    """Walk every schema node, with its path."""
    if isinstance(schema, dict):
        yield path, schema
        for name, child in schema.get("properties", {}).items():
            yield from nodes(child, f"{path}.{name}")
        if "items" in schema:
            yield from nodes(schema["items"], f"{path}[]")
        if isinstance(schema.get("additionalProperties"), dict):
            yield from nodes(schema["additionalProperties"], f"{path}{{}}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.crd.kind)
class TestEveryKind:
    def test_every_node_is_structural_typed_and_documented(self, kind):
        for path, node in nodes(object_schema(kind)):
            assert not FORBIDDEN & set(node), path
            if path and path != ".metadata":
                undocumented = path.endswith(("[]", "{}"))
                assert node.get("description") or undocumented, f"{path} has no description"

    def test_every_string_and_list_in_the_spec_is_bounded(self, kind):
        for path, node in nodes(object_schema(kind)["properties"]["spec"]):
            if node.get("type") == "string":
                assert "maxLength" in node or "enum" in node, path
            if node.get("type") == "array":
                assert "maxItems" in node, path

    def test_no_default_hides_in_the_status(self, kind):
        assert not [p for p, node in nodes(object_schema(kind)["properties"]["status"]) if "default" in node]

    def test_kubectl_gets_columns_short_names_and_category(self, kind):
        crd = custom_resource_definition(kind)["spec"]
        version = crd["versions"][0]
        assert crd["names"]["categories"] == ["sluice"]
        assert crd["names"]["shortNames"]
        assert [column["name"] for column in version["additionalPrinterColumns"]][-1] == "Age"
        assert version["subresources"] == {"status": {}}


def test_committed_files_are_what_the_kinds_say():
    assert generator.main(["--check"]) == 0


def test_names_that_kubectl_takes_for_truth_values_are_quoted():
    class Counted(ApiModel):
        """A part."""

        n: int = 0
        """Units."""
        y: int = 0
        """Height."""

    class Odd(SluiceObject):
        """A kind of the test."""

        crd: ClassVar[CrdNames] = CrdNames(kind="Odd", plural="odds")
        spec: Counted
        """The spec."""
        status: BaseStatus = BaseStatus()
        """The status."""

    text = generator.render(Odd)
    assert "'n':" in text
    assert "'y':" in text


def test_check_names_a_file_that_differs(tmp_path, capsys):
    assert generator.main(["--output", str(tmp_path)]) == 0
    stale = tmp_path / "sluice.dev_evalruns.yaml"
    stale.write_text(stale.read_text() + "# edited\n")
    assert generator.main(["--output", str(tmp_path), "--check"]) == 1
    assert "sluice.dev_evalruns.yaml: differs" in capsys.readouterr().err


class Leaf(ApiModel):
    """A part."""

    exact: Literal["one"] = "one"
    """One value."""
    above: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Open interval."""
    maybe: int | None = None
    """Optional."""
    free: dict[str, str] = Field(default_factory=dict, max_length=3)
    """A map."""


class Tree(SluiceObject):
    """A kind of the test."""

    crd: ClassVar[CrdNames] = CrdNames(kind="Tree", plural="trees")
    spec: Leaf
    """The spec."""
    status: BaseStatus = BaseStatus()
    """The status."""


def test_translations():
    spec = object_schema(Tree)["properties"]["spec"]["properties"]
    assert spec["exact"]["enum"] == ["one"]
    assert (spec["above"]["minimum"], spec["above"]["exclusiveMinimum"]) == (0.0, True)
    assert (spec["above"]["maximum"], spec["above"]["exclusiveMaximum"]) == (1.0, True)
    assert spec["maybe"] == {"description": "Optional.", "type": "integer", "format": "int64"}
    assert spec["free"]["additionalProperties"] == {"type": "string"}
    assert yaml.safe_load(generator.render(Tree))["spec"]["names"]["singular"] == "tree"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "prefixItems"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "2 alternatives"),
        ({"description": "no type"}, "needs a type"),
        ({"type": "object", "properties": {"inner": {"type": "string", "format": "uuid"}}}, r"spec\.inner"),
    ],
    ids=["a set", "a tuple", "a union", "no type at all", "a nested keyword is named with its path"],
)
def test_what_cannot_be_expressed_is_refused(schema, words):
    with pytest.raises(UntranslatableSchema, match=words):
        structural(schema, {}, "spec", defaults=True)


def test_field_description_wins_over_the_model_s():
    class Part(ApiModel):
        """About the model."""

        name: Annotated[str, Field(max_length=3)] = "a"
        """A name."""

    class Whole(ApiModel):
        """About the whole."""

        part: Part = Part()
        """About the field."""

    document = Whole.model_json_schema(by_alias=True)
    node = structural(document, document.pop("$defs"), "spec", defaults=True)
    assert node["properties"]["part"]["description"] == "About the field."

"""Writes the CustomResourceDefinitions from the kinds: `python -m sluice_api.generator`.

Pydantic emits JSON Schema 2020-12; the API server wants a structural OpenAPI 3.0 schema. The translation knows a
closed list of keywords and raises `UntranslatableSchema`, with the path, on anything else: what cannot be expressed is
refused, never dropped in silence.

| pydantic emits | the CRD gets |
|---|---|
| `$ref` into `$defs` | the definition, inlined; the field's own description wins |
| `anyOf: [X, null]` | `X`; absence is how a structural schema says null |
| numeric `exclusiveMinimum: n` | `minimum: n, exclusiveMinimum: true` |
| `const: x` | `enum: [x]` |
| `additionalProperties: false` | nothing: the API server prunes or, with strict validation, refuses unknown fields |
| `default` | kept in `spec`; removed from `status`, which nobody but the operator fills |
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sluice_api.v1alpha1 import GROUP, KINDS, VERSION
from sluice_api.v1alpha1.common import PrinterColumn, SluiceObject, rule

CATEGORY = "sluice"
"""`kubectl get sluice` lists all kinds."""

FOLDERS = (Path("crds"), Path("charts/sluice/files/crds"))
"""Where the files are committed: Helm reads no file outside its chart."""

COPIED = frozenset(
    {
        "description",
        "enum",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "pattern",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    }
)
"""Keywords that mean the same on both sides."""

TRANSLATED = frozenset(
    {
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "items",
        "properties",
        "required",
        "title",
    }
)
"""Keywords that `structural` rewrites."""

NAME_RULE = rule("self.metadata.name.size() <= 63", "metadata.name must be at most 63 characters")
"""Job and child names are derived from the object's name."""

HEADER = "# Generated from crds/sluice_api/v1alpha1 by `make crds`. Do not edit.\n"


class UntranslatableSchema(ValueError):
    """A keyword or shape that a structural schema cannot express; the message gives its path."""


def structural(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str, *, defaults: bool
) -> dict[str, Any]:
    """Return the structural form of one JSON Schema node.

    `definitions` is the document's `$defs`; `defaults` keeps default values. Raises UntranslatableSchema.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        return structural(
            {**target, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions, path, defaults=defaults
        )
    if "anyOf" in schema:
        return structural(_only_alternative(schema, path), definitions, path, defaults=defaults)
    unknown = set(schema) - COPIED - TRANSLATED
    if unknown:
        raise UntranslatableSchema(f"{path}: no structural form for {', '.join(sorted(unknown))}")
    result = {key: value for key, value in schema.items() if key in COPIED}
    if "const" in schema:
        result["enum"] = [schema["const"]]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:
            result[limit], result[bound] = schema[bound], True
    if defaults and schema.get("default") is not None:
        result["default"] = _without_nulls(schema["default"])
    if result.get("type") == "integer":
        result["format"] = "int64"
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    _translate_children(schema, result, definitions, path, defaults=defaults)
    if "type" not in result and not result.get("x-kubernetes-preserve-unknown-fields"):
        raise UntranslatableSchema(f"{path}: every node of a structural schema needs a type")
    return result


def _without_nulls(value: Any) -> Any:
    """Return a default without its null members, which the API server refuses."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    return value


def _only_alternative(schema: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the one alternative of `anyOf` that is not null, with the node's other keywords over it."""
    alternatives = [option for option in schema["anyOf"] if option.get("type") != "null"]
    if len(alternatives) != 1:
        raise UntranslatableSchema(f"{path}: anyOf with {len(alternatives)} alternatives beside null")
    return {**alternatives[0], **{key: value for key, value in schema.items() if key != "anyOf"}}


def _translate_children(
    schema: Mapping[str, Any], result: dict[str, Any], definitions: Mapping[str, Any], path: str, *, defaults: bool
) -> None:
    """Add properties, items and map values to `result`."""
    if "properties" in schema:
        result["properties"] = {
            name: structural(child, definitions, f"{path}.{name}", defaults=defaults)
            for name, child in schema["properties"].items()
        }
        if schema.get("required"):
            result["required"] = list(schema["required"])
    if "items" in schema:
        result["items"] = structural(schema["items"], definitions, f"{path}[]", defaults=defaults)
    values = schema.get("additionalProperties")
    if values is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    elif isinstance(values, Mapping):
        result["additionalProperties"] = structural(values, definitions, f"{path}{{}}", defaults=defaults)


def _column(column: PrinterColumn) -> dict[str, Any]:
    """Return a printer column in the API server's form."""
    result: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.wide:
        result["priority"] = 1
    if column.description:
        result["description"] = column.description
    return result


def object_schema(kind: type[SluiceObject]) -> dict[str, Any]:
    """Return the structural schema of a whole object. Raises UntranslatableSchema."""
    document = kind.model_json_schema(by_alias=True)
    definitions = document.get("$defs", {})
    parts = document["properties"]
    name = kind.crd.kind
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"Always {name}."},
            "metadata": {"type": "object"},
            "spec": structural(parts["spec"], definitions, f"{name}.spec", defaults=True),
            "status": structural(
                {k: v for k, v in parts["status"].items() if k != "default"},
                definitions,
                f"{name}.status",
                defaults=False,
            ),
        },
        "x-kubernetes-validations": [NAME_RULE, *kind.crd.root_rules],
    }


def _relax_status(node: dict[str, Any]) -> None:
    """Drop `required` below a status: a partial status written by hand must not block every later write."""
    if "properties" in node:
        keys = {"type"} if "lastTransitionTime" in node["properties"] else set()
        node["required"] = [name for name in node.get("required", []) if name in keys]
        if not node["required"]:
            del node["required"]
        for child in node["properties"].values():
            _relax_status(child)
    if "items" in node:
        _relax_status(node["items"])


def custom_resource_definition(kind: type[SluiceObject]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind. Raises UntranslatableSchema."""
    names = kind.crd
    schema = object_schema(kind)
    _relax_status(schema["properties"]["status"])
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.kind,
                "listKind": f"{names.kind}List",
                "plural": names.plural,
                "singular": names.singular,
                "shortNames": list(names.short),
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in names.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Quotes what kubectl, which reads YAML 1.1, takes for a truth value: a field `n` would become `false`."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if text in ("y", "Y", "n", "N") else None)


_Dumper.add_representer(str, _text)


def render(kind: type[SluiceObject]) -> str:
    """Return the YAML file of a kind."""
    document = custom_resource_definition(kind)
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return HEADER + text


def main(argv: list[str] | None = None) -> int:
    """Write the CRDs, or with `--check` compare them; exit 1 when a file is missing or differs."""
    parser = argparse.ArgumentParser(
        prog="python -m sluice_api.generator", description="Write the CRDs of the five kinds."
    )
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        action="append",
        help="folder of the YAML files, may be repeated (default: crds and the chart's copy)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file would change")
    arguments = parser.parse_args(argv)
    stale = []
    for folder, kind in itertools.product(arguments.output or FOLDERS, KINDS):
        path = folder / f"{GROUP}_{kind.crd.plural}.yaml"
        text = render(kind)
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
    for path in stale:
        print(f"{path}: differs from the kinds; run `make crds`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""What is inside an image, read from its files alone: Debian's packages and Python's distributions, as CycloneDX."""

import email.parser
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

DPKG_STATUS = "var/lib/dpkg/status"
"""Debian's database of packages, below the root of the image."""
PYTHON_FOLDERS = ("opt/app", "opt/venv/lib/python3*/site-packages")
"""Where the images keep what pip installed; Debian's own modules are packages of Debian."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One thing that is installed."""

    name: str
    version: str
    purl: str
    """Package URL."""
    licence: str = ""
    """As the package states it; empty where it does not."""


def debian_packages(root: Path) -> Iterator[Package]:
    """Yield Debian's installed packages of an image's root file system.

    Raises:
        OSError: it has no package database.
    """
    parser = email.parser.Parser()
    text = (root / DPKG_STATUS).read_text(encoding="utf-8")
    for stanza in filter(str.strip, text.split("\n\n")):
        fields = parser.parsestr(stanza)
        if "installed" not in fields["Status"].split():
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture})
        yield Package(name=name, version=version, purl=purl.to_string())


def python_packages(root: Path) -> Iterator[Package]:
    """Yield the distributions that pip installed into an image's root file system."""
    folders = [str(folder) for pattern in PYTHON_FOLDERS for folder in sorted(root.glob(pattern))]
    for found in distributions(path=folders):
        name = found.metadata["Name"]
        purl = PackageURL("pypi", None, name.lower().replace("_", "-"), found.version)
        yield Package(name=name, version=found.version, purl=purl.to_string(), licence=_licence(found))


def packages(root: Path) -> list[Package]:
    """Return all packages of an image's root file system, sorted by their package URL."""
    return sorted([*debian_packages(root), *python_packages(root)], key=lambda each: each.purl)


def document(image: str, version: str, inside: list[Package]) -> str:
    """Return the bill of materials of an image as CycloneDX 1.6 in JSON."""
    licences = LicenseFactory()
    bom = Bom(
        components=[
            Component(
                name=each.name,
                version=each.version,
                type=ComponentType.LIBRARY,
                bom_ref=each.purl,
                purl=PackageURL.from_string(each.purl),
                licenses=[licences.make_from_string(each.licence)] if each.licence else None,
            )
            for each in inside
        ]
    )
    bom.metadata.component = Component(name=image, version=version, type=ComponentType.CONTAINER, bom_ref=image)
    bom.register_dependency(bom.metadata.component, bom.components)
    return str(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)) + "\n"


def names(document_text: str) -> set[str]:
    """Return the names of the Python distributions and Debian packages in a bill of materials."""
    return {str(each["name"]) for each in json.loads(document_text).get("components", [])}


def _licence(found: Distribution) -> str:
    """Return the licence as one short line; a whole text in the field is none."""
    for field in ("License-Expression", "License"):
        text = (found.metadata.get(field) or "").strip()
        if text and "\n" not in text and len(text) <= 100 and text != "UNKNOWN":
            return text
    return ""

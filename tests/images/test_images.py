"""What goes into an image, and how a bill of materials is read from a root file system."""

import json
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from requirements import main, name_of, requirements
from sbom import document, names, packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def closure(extras):
    """Return everything that an image's requirements bring with them, by what is installed here."""
    found, open_names = set(), {name_of(each) for each in requirements(PROJECT, extras)}
    while open_names:
        name = open_names.pop()
        found.add(name)
        try:
            asked = distribution(name).requires or []
        except ModuleNotFoundError:
            continue
        open_names |= {name_of(each) for each in asked if "extra ==" not in each} - found
    return found


@pytest.mark.parametrize(
    ("extras", "foreign"),
    [(["operator"], {"torch", "ray", "transformers"}), (["traces", "evaluator"], {"torch", "ray"})],
)
def test_no_heavy_library_comes_in_by_a_dependency(extras, foreign):
    assert not closure(extras) & foreign


def test_extras_of_the_project_are_followed_and_what_is_there_already_is_left_out():
    found = {name_of(each) for each in requirements(PROJECT, ["trainer"], without={"torch"})}
    assert {"ray", "boto3", "pydantic"} <= found
    assert "torch" not in found and "sluice" not in found


def test_an_unknown_extra_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["nothing", "--project", str(ROOT / "pyproject.toml")])
    assert ended.value.code == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["operator", "evaluator", "trainer"])
def test_a_dockerfile_takes_its_base_by_argument_and_ends_as_a_numeric_user(name):
    lines = (ROOT / "images" / name / "Dockerfile").read_text().splitlines()
    assert "ARG BASE=debian:trixie-slim" in lines
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM"))
    assert not [line for line in lines[last:] if line.startswith("RUN")], "the last stage only copies"


def test_a_bill_of_materials_names_what_is_installed_and_nothing_else(tmp_path):
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    info = tmp_path / "opt/venv/lib/python3.13/site-packages/Some_Thing-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT\n")
    inside = packages(tmp_path)
    assert [each.purl for each in inside] == ["pkg:deb/debian/libc6@2.41-12?arch=amd64", "pkg:pypi/some-thing@1.2"]
    text = document("sluice/operator:1", "1", inside)
    assert names(text) == {"libc6", "Some_Thing"}
    (thing,) = [each for each in json.loads(text)["components"] if each["name"] == "Some_Thing"]
    assert thing["licenses"] == [{"license": {"id": "MIT"}}]

"""The images hold what they need and nothing that they must not."""

import json
import tarfile

import pytest

from installation import IMAGES


@pytest.fixture(scope="module")
def listed():
    """The images that were built, by name."""
    return {each["name"]: each for each in json.loads((IMAGES / "images.json").read_text())}


def configuration(image):
    """Return the configuration of an image's archive."""
    with tarfile.open(IMAGES / image["archive"]) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        return json.load(archive.extractfile(entry["Config"]))


def files(image):
    """Yield the paths of all layers of an image's archive."""
    with tarfile.open(IMAGES / image["archive"]) as archive:
        (entry,) = json.load(archive.extractfile("manifest.json"))
        for name in entry["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                yield from layer.getnames()


@pytest.mark.parametrize("name", ["operator", "evaluator", "trainer"])
def test_an_image_runs_as_a_number_that_is_not_root_and_says_what_it_is(listed, name):
    config = configuration(listed[name])["config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["sluice"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"]


@pytest.mark.parametrize(
    ("name", "foreign"), [("operator", ("torch", "ray", "transformers")), ("evaluator", ("torch",))]
)
def test_an_image_holds_no_heavy_library(listed, name, foreign):
    paths = list(files(listed[name]))
    assert any(path.endswith("sluice_operator/startup.py") for path in paths)
    for library in foreign:
        assert not [path for path in paths if f"-packages/{library}/" in path], library


@pytest.mark.parametrize("name", ["operator", "evaluator", "trainer"])
def test_a_bill_of_materials_names_every_package(listed, name):
    document = json.loads((IMAGES / listed[name]["sbom"]).read_text())
    assert document["bomFormat"] == "CycloneDX"
    urls = {each["purl"] for each in document["components"]}
    assert len(urls) == listed[name]["packages"]
    assert any(url.startswith("pkg:pypi/pydantic@") for url in urls)
    assert any(url.startswith("pkg:deb/debian/libc6@") for url in urls)

"""The house's rules that import-linter cannot see."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "peft", "ray", "accelerate"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Refuse())
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "package", ["sluice_api", "sluice_artifacts", "sluice_operator", "sluice_evaluator", "sluice_traces"]
)
def test_package_imports_whole_without_torch(package):
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH, package], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["operator", "tests", "e2e"])
def test_folder_is_no_package(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_test_folder_is_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_standard_library_s_operator_is_the_one_that_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "sluice" not in Path(done.stdout.strip()).parent.name


def test_constraints_name_versions_only():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert name and version and "/" not in line and "@" not in line, line

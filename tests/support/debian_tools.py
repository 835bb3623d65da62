"""Programs of Debian that some tests run: `make test` installs them where it can, and a test without one fails."""

import shutil
from pathlib import Path

import pytest

PACKAGES = {"promtool": "prometheus", "prometheus": "prometheus", "chromium": "chromium"}
"""Package of each program."""


def program(name: str) -> Path:
    """Return a program's path, or fail the test with how to install it."""
    found = shutil.which(name)
    if found is None:
        package = PACKAGES[name]
        pytest.fail(f"{name} is missing: run .ci/debian-tools as root, or apt-get install {package}", pytrace=False)
    return Path(found)

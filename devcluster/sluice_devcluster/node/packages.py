"""The distribution's packages that a node needs, found or, where wanted, installed."""

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from sluice_devcluster.errors import ComponentError, ProviderError
from sluice_devcluster.node.layout import CNI_PLUGINS
from sluice_devcluster.node.sandbox import find_program
from sluice_devcluster.reporting import Reporter

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "containerd": ("containerd", "ctr"),
    "runc": ("runc",),
    "containernetworking-plugins": (f"{CNI_PLUGINS}/bridge", f"{CNI_PLUGINS}/portmap", f"{CNI_PLUGINS}/host-local"),
    "iptables": ("iptables",),
    "nftables": ("nft",),
    "conntrack": ("conntrack",),
    "iproute2": ("ip",),
    "procps": ("sysctl",),
    "util-linux": ("unshare", "nsenter", "mount"),
    "hostname": ("hostname",),
}
"""Debian's packages and the programs by which each is recognised."""

_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")


def missing_packages(packages: Mapping[str, Sequence[str]], present: Callable[[str], bool]) -> list[str]:
    """The packages of which some program is not ``present``."""
    return [name for name, programs in packages.items() if not all(present(program) for program in programs)]


def is_present(program: str) -> bool:
    """Whether a program, by its name or its absolute path, can be run here."""
    if program.startswith("/"):
        return os.access(Path(program), os.X_OK)
    try:
        find_program(program)
    except ComponentError:
        return False
    return True


def require_packages(
    reporter: Reporter, *, install: bool, packages: Mapping[str, Sequence[str]] = PACKAGES
) -> Collection[str]:
    """Make sure that everything in ``packages`` is there, and return what had to be installed.

    Args:
        reporter: where progress is told.
        install: run ``apt-get`` for what is missing, instead of naming it.
        packages: what is needed.

    Raises:
        ProviderError: something is missing and may not, or could not, be installed.
    """
    missing = missing_packages(packages, is_present)
    if not missing:
        return []
    command = " ".join((*_INSTALL, *missing))
    if not install:
        raise ProviderError(f"a node needs packages that are missing; run: {command} (or add --install-packages)")
    if shutil.which("apt-get") is None:
        raise ProviderError(
            f"a node needs {', '.join(missing)}, and this machine has no apt-get: install them its own way"
        )
    with reporter.stage(f"install {', '.join(missing)}"):
        _apt(("apt-get", "update", "--quiet"))
        _apt((*_INSTALL, *missing))
    still = missing_packages(packages, is_present)
    if still:
        raise ProviderError(f"apt-get installed {', '.join(missing)}, but {', '.join(still)} is still not usable")
    return missing


def _apt(command: Sequence[str]) -> None:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
    )
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip()[-2000:]
        raise ProviderError(f"{' '.join(command)} ended with {result.returncode}: {words}")

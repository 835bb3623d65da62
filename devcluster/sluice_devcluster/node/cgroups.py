"""The tree of control groups that a node's pods live in.

Works on the mounted version 1 hierarchies, or on the unified one where the machine has only that. Nothing outside the
node's own tree is written.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sluice_devcluster.errors import ComponentError

MOUNTS = Path("/proc/mounts")
_POLL_S = 0.05
_SHARES_PER_PROCESSOR = 1024
"""What the kubelet counts a processor for, and the kernel a process outside all groups."""


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """One mounted tree of control groups."""

    root: Path
    unified: bool
    controllers: frozenset[str]
    """The options it was mounted with, among them its controllers; empty for the unified one."""


def parse_hierarchies(mounts: str) -> list[Hierarchy]:
    """The hierarchies in the text of ``/proc/mounts``, in its order."""
    found = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4 or not fields[1].startswith("/sys/fs/cgroup"):
            continue
        if fields[2] == "cgroup":
            options = frozenset(fields[3].split(","))
            found.append(Hierarchy(root=Path(fields[1]), unified=False, controllers=options))
        elif fields[2] == "cgroup2":
            found.append(Hierarchy(root=Path(fields[1]), unified=True, controllers=frozenset()))
    return found


def read_hierarchies(mounts: Path = MOUNTS) -> list[Hierarchy]:
    """The machine's hierarchies.

    Raises:
        ComponentError: none is mounted.
    """
    found = parse_hierarchies(mounts.read_text())
    if not found:
        raise ComponentError("no control groups are mounted under /sys/fs/cgroup: a node cannot run here")
    return found


def create_tree(name: str, hierarchies: list[Hierarchy]) -> None:
    """Make the group ``name``, ready to have children, in every hierarchy that container runtimes use.

    Where version 1 is mounted they use that, and the unified hierarchy beside it only to mark processes.
    """
    used = [hierarchy for hierarchy in hierarchies if not hierarchy.unified] or hierarchies
    for hierarchy in used:
        group = hierarchy.root / name
        group.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.controllers:
            # A new group of this controller owns no processor and no memory node, and could hold no process.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((hierarchy.root / setting).read_text())
        if "cpu" in hierarchy.controllers:
            # By default the whole node would get what a single process beside it gets, and its pods starve.
            (group / "cpu.shares").write_text(str(_SHARES_PER_PROCESSOR * (os.cpu_count() or 1)))
        if hierarchy.unified:
            _delegate(hierarchy.root)


def _delegate(root: Path) -> None:
    for controller in (root / "cgroup.controllers").read_text().split():
        # One that the kernel will not hand down (realtime ones, for example) is no loss.
        with contextlib.suppress(OSError):
            (root / "cgroup.subtree_control").write_text(f"+{controller}")


def remove_tree(name: str, hierarchies: list[Hierarchy], *, patience_s: float = 10.0) -> None:
    """Remove the group ``name`` and all below it, from every hierarchy. Their processes must have ended.

    The kernel takes a moment to let go of a group whose last process has ended, so that is tried for ``patience_s``.

    Raises:
        ComponentError: a group remains, because a process in it still runs.
    """
    deadline = time.monotonic() + patience_s
    for hierarchy in hierarchies:
        while left := _remove(hierarchy.root / name):
            if time.monotonic() > deadline:
                raise ComponentError(f"the control group {left[0]} cannot be removed: a process in it still runs")
            time.sleep(_POLL_S)


def _remove(top: Path) -> list[Path]:
    """Remove the groups from the leaves up; return those that remain."""
    left = []
    groups = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    for group in [*groups, top]:
        try:
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            left.append(group)
    return left

"""Removing what is left of a node: after ``down``, and after everything of it was killed at any moment.

Processes, mounts, network namespaces, bridges and packet-filter rules go with the node's first process. What remains is
taken away here, in this order: processes that carry the cluster's marker, the link on the machine, the control groups.
"""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from sluice_devcluster.errors import ComponentError
from sluice_devcluster.node.cgroups import read_hierarchies, remove_tree
from sluice_devcluster.node.network import NodeNetwork
from sluice_devcluster.node.sandbox import find_program, run_command
from sluice_devcluster.processes import ProcessId, find_owned, stop

INTERFACES = Path("/sys/class/net")
_POLL_S = 0.02
_GONE_S = 15.0


def mounts_under(mountinfo: str, folder: Path) -> list[Path]:
    """The mount points below ``folder`` in the text of a ``/proc/<pid>/mountinfo``, the deepest first.

    The kernel writes blanks, tabs, line ends and backslashes in octal.
    """
    found = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        point = Path(_unescape(fields[4]))
        if point.is_relative_to(folder):
            found.append(point)
    return sorted(found, key=lambda path: -len(path.parts))


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def end_processes(folder: Path, recorded: Iterable[ProcessId], init: ProcessId | None) -> None:
    """End everything of the node in ``folder``: its first process at once, and with it all the others.

    Nothing needs to be asked politely: etcd's data survives the end of its process, and pods have nothing to save that
    a machine that loses its power would save.

    Raises:
        ComponentError: a process survives SIGKILL.
    """
    if init is not None:
        stop([init], patience_s=2.0)
    stop(recorded, patience_s=1.0)
    stop(find_owned(str(folder)), patience_s=1.0)


def remove_leftovers(network: NodeNetwork | None, cgroup: str) -> None:
    """Remove the link and the control groups of a node whose processes have ended.

    Raises:
        ComponentError: one of them cannot be removed.
    """
    if network is not None:
        _remove_link(network.host_link)
    remove_tree(cgroup, read_hierarchies())


def _remove_link(name: str) -> None:
    """Remove the pair of links. The kernel does so itself when the namespace ends, a moment later."""
    deadline = time.monotonic() + _GONE_S
    while (INTERFACES / name).exists():
        try:
            run_command([find_program("ip"), "link", "delete", name])
        except ComponentError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def remove_folder(folder: Path) -> None:
    """Remove a cluster's folder; what a namespace that is just ending still holds is tried again.

    Raises:
        ComponentError: something in it is still mounted or cannot be removed.
    """
    mounted = mounts_under(Path("/proc/self/mountinfo").read_text(), folder)
    for point in mounted:
        run_command([find_program("umount"), str(point)])
    deadline = time.monotonic() + _GONE_S
    while True:
        try:
            shutil.rmtree(folder)
            return
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ComponentError(f"{folder} cannot be removed: {error}") from error
        time.sleep(_POLL_S)


def interfaces() -> list[str]:
    """Names of the machine's network interfaces."""
    return [entry.name for entry in INTERFACES.iterdir()]

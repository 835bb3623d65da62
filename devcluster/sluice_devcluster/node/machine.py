"""What nodes share with the machine, kept before the first of them and given back after the last.

Three things: settings of the kernel that belong to no namespace and that a kubelet changes, the empty folders that a
node's own lie over, and the numbers of the nodes' networks.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sluice_devcluster.files import locked, state_home, write_atomic
from sluice_devcluster.node.layout import MOUNT_POINTS
from sluice_devcluster.node.network import NodeNetwork, choose_network
from sluice_devcluster.processes import boot_id

SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What the kubelet sets at its start (``setupKernelTunables`` in its container manager)."""

_SYSCTL = Path("/proc/sys")


@dataclass(frozen=True, kw_only=True)
class SharedState:
    """What is remembered of the machine while nodes exist on it."""

    boot: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """As they were before the first node of this boot."""
    folders: tuple[str, ...] = ()
    """Those of the mount points that had to be made."""
    holders: Mapping[str, int] = field(default_factory=dict)
    """The clusters' folders and the numbers of their networks."""

    @classmethod
    def read(cls, path: Path) -> "SharedState":
        """The file's content; nothing where it is missing or damaged."""
        try:
            content = json.loads(path.read_text())
            return cls(
                boot=str(content["boot"]),
                settings={str(name): str(value) for name, value in content["settings"].items()},
                folders=tuple(map(str, content["folders"])),
                holders={str(folder): int(number) for folder, number in content["holders"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace the file."""
        content = {
            "boot": self.boot,
            "settings": dict(self.settings),
            "folders": self.folders,
            "holders": dict(self.holders),
        }
        write_atomic(path, json.dumps(content, indent=2).encode() + b"\n")


class SharedMachine:
    """The machine as the nodes on it share it.

    Args:
        path: where it is remembered; by default beside all clusters, one file a user.
        sysctl: root of the kernel's settings.
        root: of the file system in which the mount points are.
    """

    def __init__(self, path: Path | None = None, *, sysctl: Path = _SYSCTL, root: Path = Path("/")) -> None:
        self._path = path or state_home() / "nodes.json"
        self._sysctl, self._root = sysctl, root

    def acquire(self, folder: Path, interfaces: Collection[str]) -> NodeNetwork:
        """Make the machine ready for the node of the cluster in ``folder`` and give it a network.

        Args:
            folder: the cluster's.
            interfaces: names that the machine's network interfaces have now.
        """
        with self._locked() as state:
            held = state.holders.get(str(folder))
            numbers = {NodeNetwork(index=n).host_link for f, n in state.holders.items() if f != str(folder)}
            network = choose_network({*interfaces, *numbers}, preferred=held)
            first = not state.holders or state.boot != boot_id()
            made = [point for point in MOUNT_POINTS if not self._at(point).is_dir()]
            state = replace(
                state,
                boot=boot_id(),
                settings=read_settings(self._sysctl) if first else state.settings,
                folders=tuple(sorted({*state.folders, *made})),
                holders={**state.holders, str(folder): network.index},
            )
            # Written before anything is changed: what is not remembered could not be given back.
            state.write(self._path)
            for point in made:
                self._at(point).mkdir(parents=True, exist_ok=True)
            return network

    def release(self, folder: Path) -> None:
        """Forget the node of the cluster in ``folder``, which must have ended; after the last, give everything back."""
        with self._locked() as state:
            holders = {name: number for name, number in state.holders.items() if name != str(folder)}
            if holders:
                replace(state, holders=holders).write(self._path)
                return
            if state.boot == boot_id():
                restore_settings(state.settings, self._sysctl)
            for point in state.folders:
                # Whatever else has come to use one of them keeps it.
                with contextlib.suppress(OSError):
                    self._at(point).rmdir()
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[SharedState]:
        """The state, without the clusters whose folders are gone, and with nobody else at it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.with_suffix(".lock")):
            state = SharedState.read(self._path)
            holders = {name: number for name, number in state.holders.items() if Path(name).is_dir()}
            yield replace(state, holders=holders)

    def _at(self, mount_point: str) -> Path:
        return self._root / mount_point.strip("/")


def read_settings(root: Path = _SYSCTL) -> dict[str, str]:
    """The settings as they are now; those that the kernel does not have are left out."""
    found = {}
    for name in SETTINGS:
        with contextlib.suppress(OSError):
            found[name] = (root / name).read_text().strip()
    return found


def restore_settings(settings: Mapping[str, str], root: Path = _SYSCTL) -> None:
    """Set each of :data:`SETTINGS` that differs back to what it was; any other name is left alone."""
    for name in SETTINGS:
        if name in settings and (root / name).read_text().strip() != settings[name]:
            (root / name).write_text(settings[name])

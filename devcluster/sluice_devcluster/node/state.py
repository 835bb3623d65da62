"""What a node's provider remembers between two commands: what it started."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from sluice_devcluster.files import write_atomic
from sluice_devcluster.processes import ProcessId


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """The state file of a cluster with a node."""

    complete: bool = False
    """Whether everything was ready once, so that the data is worth starting again with."""
    laid: bool = False
    """Whether the namespaces and the network of :attr:`init` are whole."""
    version: str = ""
    """Kubernetes release."""
    index: int | None = None
    """Number of its network."""
    init: ProcessId | None = None
    """First process of its namespaces."""
    services: dict[str, ProcessId] = field(default_factory=dict)
    """What runs on it, by name."""
    addons: tuple[str, ...] = ()
    """Add-ons that were asked for, in the order in which they start."""

    def write(self, path: Path) -> None:
        """Replace the file."""
        content = {
            "complete": self.complete,
            "laid": self.laid,
            "version": self.version,
            "index": self.index,
            "init": None if self.init is None else self.init.to_dict(),
            "services": {name: process.to_dict() for name, process in self.services.items()},
            "addons": self.addons,
        }
        write_atomic(path, json.dumps(content, indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> "NodeState":
        """The file's content; nothing where it is missing or damaged (markers still find what was started)."""
        try:
            content = json.loads(path.read_text())
            index, init = content["index"], content["init"]
            return cls(
                complete=bool(content["complete"]),
                laid=bool(content.get("laid", content["complete"])),
                version=str(content["version"]),
                index=None if index is None else int(index),
                init=None if init is None else ProcessId.from_dict(init),
                services={name: ProcessId.from_dict(entry) for name, entry in content["services"].items()},
                addons=tuple(map(str, content["addons"])),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

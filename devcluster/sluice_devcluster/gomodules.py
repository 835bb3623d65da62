"""Go modules as sources: one pinned release each, downloaded and checked by the Go command."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sluice_devcluster.errors import BuildError

if TYPE_CHECKING:
    from sluice_devcluster.gotoolchain import Go


@dataclass(frozen=True, kw_only=True)
class GoModule:
    """One release of a module.

    ``sum`` is the ``h1:`` checksum of the source archive. It is compared on every download, whatever checksum database
    the machine's Go asks, or does not ask.
    """

    path: str
    version: str
    sum: str

    def __post_init__(self) -> None:
        if not self.version.startswith("v"):
            raise ValueError(f"version: {self.version!r} of {self.path} must start with 'v'")
        if not self.sum.startswith("h1:"):
            raise ValueError(f"sum: {self.sum!r} of {self.path} must start with 'h1:'")

    @property
    def name(self) -> str:
        """``path@version``, as the Go command wants it."""
        return f"{self.path}@{self.version}"


def download(module: GoModule, go: "Go") -> Path:
    """The folder of the module's source in Go's module cache, downloaded when it is not there yet.

    Raises:
        BuildError: the download failed, or the source is not the pinned one.
    """
    result = subprocess.run(
        [go.command, "mod", "download", "-json", module.name],
        capture_output=True,
        text=True,
        check=False,
        env=go.environment(),
        cwd="/",  # outside every module: a go.mod around the caller must not have a say
    )
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        answer = {}
    if result.returncode != 0 or "Dir" not in answer:
        reason = answer.get("Error") or result.stderr.strip()[-2000:]
        raise BuildError(f"downloading {module.name} failed: {reason}")
    if answer["Sum"] != module.sum:
        raise BuildError(
            f"{module.name} has the checksum {answer['Sum']}, but {module.sum} is pinned; nothing was built"
        )
    return Path(answer["Dir"])

"""Every step's figures as TensorBoard event files beside the attempt's progress.

They are written to a local folder and copied to artifact storage when a checkpoint is taken and when the run ends, so
that a slow storage never holds up a step, and one that fails costs the curves, not the run.
"""

import logging
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sluice_artifacts import ArtifactError, join, open_store

FOLDER = "tensorboard"
"""Below the attempt's `output_uri`."""

_log = logging.getLogger(__name__)


class Telemetry:
    """Scalars by step."""

    def __init__(self, output_uri: str) -> None:
        """Write below an attempt's prefix."""
        from tensorboardX import SummaryWriter

        self._uri = join(output_uri, FOLDER)
        self._scratch = tempfile.TemporaryDirectory(prefix="sluice-telemetry-")
        self._writer = SummaryWriter(self._scratch.name)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="telemetry")

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Take note of a step."""
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def probe(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Take note of a probe; what it could not tell is left out."""
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(f"probe/{name}", value, step)

    def publish(self) -> None:
        """Copy what there is, in the background."""
        self._writer.flush()
        self._pool.submit(self._copy)

    def _copy(self) -> None:
        """Copy; a storage that does not take it is logged."""
        store = open_store(self._uri)
        for path in sorted(Path(self._scratch.name).iterdir()):
            try:
                store.upload(path, join(self._uri, path.name))
            except ArtifactError as error:
                _log.warning("the curves were not copied: %s", error)

    def close(self) -> None:
        """Copy for the last time and forget the local files."""
        self._writer.close()
        self._pool.submit(self._copy)
        self._pool.shutdown(wait=True)
        self._scratch.cleanup()

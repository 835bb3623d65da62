"""Every step's figures as TensorBoard event files beside the attempt's progress.

They are written to a local folder and copied to artifact storage when a checkpoint is taken and when the run ends, so
that a slow storage never holds up a step, and one that fails costs the curves, not the run. So does a local folder
without room: what it holds by then is kept, and nothing is added.
"""

import logging
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from sluice_artifacts import ArtifactError, join, open_store

FOLDER = "tensorboard"
"""Below the attempt's `output_uri`."""
FILE_VERSION = "brain.Event:2"
"""What the first record of an event file says."""

_log = logging.getLogger(__name__)


class Telemetry:
    """Scalars by step, of one thread. No call raises: curves that cannot be kept are logged once, and then left."""

    def __init__(self, output_uri: str, clock: Callable[[], float] = time.time) -> None:
        """Write below an attempt's prefix; `clock` gives seconds since the epoch."""
        self._uri = join(output_uri, FOLDER)
        self._clock = clock
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._records: Any = None
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="telemetry")
        try:
            self._open()
        except OSError as error:
            self._give_up(error)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Take note of a step."""
        self._add(step, {f"train/{name}": value for name, value in figures.items()})

    def probe(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Take note of a probe; what it could not tell is left out."""
        self._add(step, {f"probe/{name}": value for name, value in figures.items() if value is not None})

    def publish(self) -> None:
        """Copy what there is, in the background."""
        self._flush()
        self._pool.submit(self._copy)

    def close(self) -> None:
        """Copy for the last time and forget the local files."""
        self._flush()
        self._pool.submit(self._copy)
        self._pool.shutdown(wait=True)
        if self._records is not None:
            with suppress(OSError):
                self._records.close()
            self._records = None
        if self._scratch is not None:
            self._scratch.cleanup()

    def _open(self) -> None:
        """Begin an event file, written by the caller's thread: a thread of its own may die and be waited for.

        Raises:
            OSError: there is no room for it.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        self._scratch = tempfile.TemporaryDirectory(prefix="sluice-telemetry-", ignore_cleanup_errors=True)
        name = f"events.out.tfevents.{int(self._clock())}.{socket.gethostname()}"
        self._records = RecordWriter(str(Path(self._scratch.name) / name))
        self._records.write(Event(wall_time=self._clock(), file_version=FILE_VERSION).SerializeToString())

    def _add(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._records is None:
            return
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        event = Event(wall_time=self._clock(), step=step, summary=Summary(value=values))
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _flush(self) -> None:
        if self._records is None:
            return
        try:
            self._records.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write no more curves."""
        _log.warning("no more curves: the temporary folder does not take them: %s", error.strerror or error)
        records, self._records = self._records, None
        if records is not None:
            with suppress(OSError):
                records.close()

    def _copy(self) -> None:
        """Copy; a storage that does not take it is logged."""
        if self._scratch is None:
            return
        store = open_store(self._uri)
        for path in sorted(Path(self._scratch.name).iterdir()):
            try:
                store.upload(path, join(self._uri, path.name))
            except (ArtifactError, OSError) as error:
                _log.warning("the curves were not copied: %s", error)

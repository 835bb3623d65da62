"""From a channel's name to the weights that it serves now."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sluice_api.contracts.rollout import ServedModel
from sluice_artifacts import ArtifactError, channel_uri, read_channel
from sluice_runtime.errors import ResolveError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ResolverConfig:
    """What to resolve.

    Raises:
        ValueError: a field is empty or out of range, or the name is no channel's.
    """

    root: str
    """Root of the channels, `file://` or `s3://`: the pointer is `<root>/channels/<name>.json`."""
    name: str = "stable"
    """Name of the channel."""
    ttl_s: float = 2.0
    """Seconds for which an answer is used again, and between two tries while the storage fails."""

    def __post_init__(self) -> None:
        if not self.root:
            raise ValueError("root must not be empty")
        if not self.ttl_s >= 0:
            raise ValueError(f"ttl_s must be at least 0, got {self.ttl_s}")
        try:
            channel_uri(self.root, self.name)
        except ValueError as error:
            raise ValueError(f"name: {error}") from error

    @property
    def uri(self) -> str:
        """Where the pointer lies."""
        return channel_uri(self.root, self.name)


class ChannelResolver:
    """Tells what a channel serves. Any number of threads may use one.

    Once a channel has been read, its last good content is served for as long as it cannot be read again, whether the
    storage is down, the pointer is damaged, or it is gone: an agent in production never stops for its pointer.

    Args:
        config: what to resolve.
        clock: seconds on a clock that never goes back.
    """

    def __init__(self, config: ResolverConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._reading = threading.Lock()
        self._served: ServedModel | None = None
        self._next_read: float | None = None
        self._error: str | None = None

    @property
    def error(self) -> str | None:
        """Why the newest read failed; None when it did not."""
        return self._error

    def resolve(self) -> ServedModel:
        """Return the weights that the channel serves. Blocks on the storage at most once a `ttl_s`.

        Raises:
            ResolveError: the channel does not exist or cannot be read, and never could.
        """
        served = self._served
        if served is not None and not self._is_due():
            return served
        # While one thread reads, the others go on with what is known; only the first answer is waited for.
        if not self._reading.acquire(blocking=served is None):
            assert served is not None
            return served
        try:
            if self._is_due():
                self._read()
            if self._served is None:
                raise ResolveError(f"{self._config.uri}: {self._error}")
            return self._served
        finally:
            self._reading.release()

    def _is_due(self) -> bool:
        return self._next_read is None or self._clock() >= self._next_read

    def _read(self) -> None:
        try:
            found = read_channel(self._config.root, self._config.name)
            problem = None if found is not None else "there is no such channel; create it before serving from it"
        except ArtifactError as error:
            found, problem = None, error.message
        self._next_read = self._clock() + self._config.ttl_s
        if problem is not None and problem != self._error:
            held = self._served.digest if self._served is not None else "nothing"
            _log.warning("channel %s cannot be read, %s stays in service: %s", self._config.uri, held, problem)
        self._error = problem
        if found is None:
            return
        channel = found[0]
        served = ServedModel(digest=channel.digest, base_model=channel.base_model, adapter=channel.adapter)
        if served != self._served:
            _log.info("channel %s serves %s", self._config.uri, served.digest)
        self._served = served

"""What a rollout asks of the agent, as the operator writes it, followed while the agent runs.

The operator writes `rollout.json` into a ConfigMap. A follower reads it in the background and holds the last document
that made sense: the operator or the API server down means that the weights hold. No ConfigMap means that no rollout
runs, and everything goes to the stable weights.

```
SourceError             the document could not be read, or is not one
```
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sluice_api.contracts.rollout import ROUTER_KEY, RouterDocument, ServedModel
from sluice_api.contracts.trace import Variant
from sluice_runtime.errors import SluiceRuntimeError
from sluice_runtime.router import ShadowRouter

MAX_PAUSE_S = 10.0
"""Longest pause between reads that fail, in seconds, unless the polling itself is slower."""
CONNECT_TIMEOUT_S = 3.0
"""Seconds to wait for a connection to the API server."""
READ_TIMEOUT_S = 5.0
"""Seconds to wait for the API server's answer."""

_log = logging.getLogger(__name__)


class SourceError(SluiceRuntimeError):
    """The rollout's document cannot be read, or is not one."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Who serves a run: what the exporter stamps on its trace."""

    variant: Variant
    """The arm."""
    rollout: str
    """UID of the rollout that assigned it; empty outside a rollout."""
    model: ServedModel | None
    """Weights of the arm; None means those of the stable channel."""


class Assignment(RouterDocument):
    """The document, and what follows from it for a run."""

    @classmethod
    def parse(cls, document: str) -> Self:
        """Read the document that the operator wrote.

        Raises:
            SourceError: it is not one; names the field.
        """
        try:
            return cls.read(document)
        except ValueError as error:
            raise SourceError(str(error)) from None

    def place(self, *, tenant_id: str, run_id: str) -> Placement:
        """Return who serves a run. A run without the key that sticks goes to the baseline."""
        router = ShadowRouter(self.candidate_pct, self.salt)
        variant = router.route(tenant_id if self.key == "tenant" else run_id)
        model = self.candidate if variant == Variant.CANDIDATE else self.stable
        return Placement(variant=variant, rollout=self.rollout, model=model)


STABLE_ONLY = Assignment()
"""No rollout: every run is served by the stable channel."""


class Source(Protocol):
    """Where the document comes from."""

    def read(self) -> str | None:
        """Return the document, or None when there is no rollout.

        Raises:
            SourceError: it cannot be told.
        """
        ...


class FileSource:
    """The document in a file, e.g. of a mounted ConfigMap. A missing file means no rollout."""

    def __init__(self, path: Path) -> None:
        """Read `path`."""
        self._path = path

    def read(self) -> str | None:
        """Return the file's text."""
        try:
            return self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{self._path}: {error}") from error


class KubernetesSource:
    """The document in a ConfigMap. A missing ConfigMap means no rollout.

    The agent's service account needs `get` on that one ConfigMap, nothing more.

    Args:
        namespace: namespace of the ConfigMap.
        name: its name.
        kubeconfig: how to reach the API server; None takes the service account of the pod.

    Raises:
        SourceError: the kubeconfig cannot be used, or there is none and this is no pod.
    """

    def __init__(self, namespace: str, name: str, *, kubeconfig: Path | None = None) -> None:
        from kubernetes import client, config

        self._namespace = namespace
        self._name = name
        try:
            if kubeconfig is not None:
                self._api = config.new_client_from_config(config_file=str(kubeconfig), persist_config=False)
            else:
                inside = client.Configuration()
                config.load_incluster_config(client_configuration=inside)
                self._api = client.ApiClient(inside)
        except (config.ConfigException, OSError) as error:
            raise SourceError(f"no way to the API server: {error}") from error

    def read(self) -> str | None:
        """Return the ConfigMap's document."""
        from urllib3.exceptions import HTTPError

        from kubernetes import client

        place = f"ConfigMap {self._namespace}/{self._name}"
        try:
            found: Any = client.CoreV1Api(self._api).read_namespaced_config_map(
                self._name, self._namespace, _request_timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            )
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise SourceError(f"{place}: {error.status} {error.reason}") from None
        except (HTTPError, OSError) as error:
            raise SourceError(f"{place}: {type(error).__name__}: {error}") from error
        document: str | None = (found.data or {}).get(ROUTER_KEY)
        if document is None:
            raise SourceError(f"{place}: no {ROUTER_KEY}")
        return document

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


class RolloutFollower:
    """Holds the assignment that is in force. A context manager: entering starts it, leaving stops it.

    Args:
        source: where the document comes from.
        poll_s: seconds between two reads. After reads that failed the pause doubles, up to `MAX_PAUSE_S`.
        clock: seconds on a clock that never goes back.

    Raises:
        ValueError: `poll_s` is not above 0.
    """

    def __init__(self, source: Source, poll_s: float = 1.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not poll_s > 0:
            raise ValueError(f"poll_s must be above 0, got {poll_s}")
        self._source = source
        self._poll_s = poll_s
        self._clock = clock
        self._current = STABLE_ONLY
        self._error: str | None = None
        self._failures = 0
        self._read_at: float | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def current(self) -> Assignment:
        """The assignment in force: the last one that could be read, or `STABLE_ONLY` before the first."""
        return self._current

    @property
    def error(self) -> str | None:
        """Why the newest read failed; None when it did not."""
        return self._error

    @property
    def age_s(self) -> float | None:
        """Seconds since the last read that succeeded; None before the first. For an alert."""
        return None if self._read_at is None else self._clock() - self._read_at

    def start(self) -> None:
        """Read once, so that `current` holds from the start, then go on in the background. Starting twice is once."""
        if self._thread is not None:
            return
        self.refresh()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._follow, name="sluice-rollout-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the background thread and wait for it; `current` keeps its value."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def refresh(self) -> bool:
        """Read once; tells whether that succeeded. On failure the assignment in force stays."""
        try:
            document = self._source.read()
            found = STABLE_ONLY if document is None else Assignment.parse(document)
        except Exception as error:  # noqa: BLE001 - a source's bug must not freeze the weights of a running agent
            self._note_failure(error)
            return False
        if self._error is not None:
            _log.info("the rollout can be read again after %d failures", self._failures)
        self._error, self._failures, self._read_at = None, 0, self._clock()
        if found != self._current:
            _log.info("rollout %s: step %d, %g %% candidate", found.rollout or "none", found.step, found.candidate_pct)
            self._current = found
        return True

    def _note_failure(self, error: Exception) -> None:
        message = str(error) or type(error).__name__
        if message != self._error:
            held = self._current.rollout or "none"
            _log.warning("the rollout cannot be read, %s stays in force: %s", held, message)
        self._error, self._failures = message, self._failures + 1

    def _follow(self) -> None:
        while not self._stopping.wait(self._pause()):
            self.refresh()

    def _pause(self) -> float:
        return min(self._poll_s * 2.0 ** min(self._failures, 10), max(self._poll_s, MAX_PAUSE_S))

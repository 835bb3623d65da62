"""Traces of ended runs, written where the flywheel finds them: `<dir>/<tenant>/<run_id>.json`, schema version 3.

Exporting never disturbs the agent: whatever goes wrong is logged and counted, and the run goes on without its trace.
A trace appears whole or not at all, after its screenshots.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sluice_api.contracts.trace import SHARED_TENANT_FOLDER, Costs, RunStatus, Trace, TraceStep
from sluice_artifacts import ArtifactError, Store, join, open_store

EXPORT_DIR_VARIABLES = ("SLUICE_TRACE_EXPORT_DIR", "MANTIS_TRACE_EXPORT_DIR")
"""Variables that name where traces go, the first that is set counts; unset or empty switches exporting off."""
SCREENSHOT_VARIABLES = ("SLUICE_TRACE_INCLUDE_SCREENSHOTS", "MANTIS_TRACE_INCLUDE_SCREENSHOTS")
"""Variables that switch screenshots on, the first that is set counts."""
TRUTHY = frozenset({"1", "true", "yes", "on"})
"""Values that switch something on, in any case; every other value leaves it off."""
UNKNOWN_RUN = "unknown"
"""Identity of a run that has none."""
NAME_LIMIT = 100
"""Longest part of a tenant or run identity that a file name keeps, in characters."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_ENDED = frozenset(RunStatus)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run as the agent knows it when it ends.

    Raises:
        ValueError: an instant has no time zone, a cost is not finite, or a screenshot has no step number.
    """

    status: str
    """How the run ended: `completed`, `halted`, `cancelled` or `paused`; other runs are not exported."""
    started_at: datetime
    """Start."""
    ended_at: datetime
    """End."""
    run_id: str = ""
    """Identity of the run."""
    run_key: str = ""
    """Second choice of an identity."""
    session_name: str = ""
    """Name of the session; third choice of an identity."""
    tenant_id: str = ""
    """Tenant; empty for shared runs."""
    plan_signature: str = ""
    """Signature of the plan that the run followed."""
    variant: str = ""
    """Arm that served the run."""
    model_digest: str = ""
    """Digest of the adapter or base model that served it."""
    rollout: str = ""
    """UID of the ShadowRollout that assigned the arm; empty outside a rollout."""
    request_id: str = ""
    """ID of the request that the run served: joins a mirrored run with the one that the user saw."""
    costs: Costs = field(default_factory=Costs)
    """Costs in US dollars; a total of 0 is taken to be the sum of the shares."""
    steps: Sequence[TraceStep] = ()
    """The steps, in order."""
    screenshots: Mapping[int, bytes] = field(default_factory=dict)
    """PNG files by step index."""

    def __post_init__(self) -> None:
        for name in ("started_at", "ended_at"):
            if getattr(self, name).tzinfo is None:
                raise ValueError(f"{name} has no time zone")
        for name in ("gpu", "claude", "proxy", "total"):
            if not math.isfinite(getattr(self.costs, name)):
                raise ValueError(f"costs.{name} must be finite, got {getattr(self.costs, name)}")
        if any(step < 0 for step in self.screenshots):
            raise ValueError(f"screenshots: step {min(self.screenshots)} is below 0")

    @property
    def identity(self) -> str:
        """The run's identity: `run_id`, else `run_key`, else `session_name`, else `unknown`."""
        return self.run_id or self.run_key or self.session_name or UNKNOWN_RUN


def build_trace(run: FinishedRun) -> Trace:
    """Return the trace document of a run; costs are rounded to four decimal places."""
    shares = run.costs.gpu + run.costs.claude + run.costs.proxy
    return Trace(
        run_id=run.identity,
        tenant_id=run.tenant_id,
        session_name=run.session_name,
        plan_signature=run.plan_signature,
        variant=str(run.variant),
        status=str(run.status),
        started_at=_rfc3339(run.started_at),
        ended_at=_rfc3339(run.ended_at),
        total_time_s=round(max((run.ended_at - run.started_at).total_seconds(), 0.0), 3),
        costs=Costs(
            gpu=round(run.costs.gpu, 4),
            claude=round(run.costs.claude, 4),
            proxy=round(run.costs.proxy, 4),
            total=round(run.costs.total or shares, 4),
        ),
        step_count=len(run.steps),
        steps=list(run.steps),
        model_digest=run.model_digest,
        rollout=run.rollout,
        request_id=run.request_id,
    )


def tenant_folder(tenant_id: str) -> str:
    """Return the folder of a tenant's traces; runs without a tenant share `__shared__`, which no tenant can claim."""
    if not tenant_id:
        return SHARED_TENANT_FOLDER
    return _file_name(tenant_id, reserved=tenant_id == SHARED_TENANT_FOLDER or tenant_id.endswith("_screens"))


def run_file_stem(run_id: str) -> str:
    """Return the file name of a run without its ending. `manifest.json` is what readers take for something else."""
    return _file_name(run_id, reserved=run_id == "manifest")


class TraceExporter:
    """Writes the traces of ended runs. Any number of threads may use one.

    Blocks for as long as the storage takes: in async code, call it by `asyncio.to_thread`.

    Args:
        destination: a folder, or a `file://` or `s3://` prefix; None or empty switches exporting off.
        include_screenshots: whether screenshots are written too.
        store: the storage; None takes the one that the destination names.

    Raises:
        ArtifactError: the destination names a storage that does not exist.
    """

    def __init__(
        self, destination: str | Path | None, *, include_screenshots: bool = False, store: Store | None = None
    ) -> None:
        place = str(destination or "").strip()
        self._root = place if "://" in place or not place else Path(place).expanduser().absolute().as_uri()
        self._store = store if store is not None or not self._root else open_store(self._root)
        self._include_screenshots = include_screenshots
        self.exported = 0
        """Traces written so far."""
        self.failed = 0
        """Traces lost so far, for an alert: a lost trace is evidence that nobody judges."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the exporter that the environment asks for."""
        return cls(
            _first_set(environment, EXPORT_DIR_VARIABLES),
            include_screenshots=_first_set(environment, SCREENSHOT_VARIABLES).strip().lower() in TRUTHY,
        )

    @property
    def enabled(self) -> bool:
        """Whether traces are written at all."""
        return self._store is not None

    def export(self, run: FinishedRun) -> str | None:
        """Write a run's trace and return its URI; None when it was not written.

        A run that is exported again, e.g. first paused and then completed, replaces its earlier trace.
        """
        if self._store is None:
            return None
        if run.status not in _ENDED:
            _log.info("run %s is %s, which is no end: not exported", run.identity, run.status)
            return None
        try:
            folder, stem = join(self._root, tenant_folder(run.tenant_id)), run_file_stem(run.identity)
            if self._include_screenshots:
                self._write_screenshots(self._store, join(folder, f"{stem}_screens"), run.screenshots)
            uri = join(folder, f"{stem}.json")
            self._store.write(uri, _encode(build_trace(run)))
        except (ArtifactError, OSError, ValueError, TypeError) as error:
            self.failed += 1
            _log.error("the trace of run %s is lost: %s", run.identity, error)
            return None
        self.exported += 1
        return uri

    def _write_screenshots(self, store: Store, folder: str, screenshots: Mapping[int, bytes]) -> None:
        """Write what can be written: a trace counts as evidence without its pictures too."""
        for step, picture in sorted(screenshots.items()):
            try:
                store.write(join(folder, f"{step:04d}.png"), picture)
            except (ArtifactError, OSError) as error:
                _log.error("the screenshot of step %d is lost: %s", step, error)


def _first_set(environment: Mapping[str, str], names: Sequence[str]) -> str:
    return next((environment[name] for name in names if name in environment), "")


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_name(identity: str, *, reserved: bool) -> str:
    """Return a plain file name; one that differs from the identity gets its hash, so that two identities never meet."""
    name = _UNSAFE.sub("_", identity).lstrip(".")[:NAME_LIMIT]
    if name == identity and not reserved:
        return name
    return f"{name}-{hashlib.sha256(identity.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _encode(trace: Trace) -> bytes:
    document = json.dumps(_plain(trace.model_dump()), ensure_ascii=False, allow_nan=False) + "\n"
    return document.encode(errors="replace")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: web pages and actions bring what it cannot, and that must not cost a trace."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return str(value)

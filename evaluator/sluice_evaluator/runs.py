"""Runs of the agent, read from the trace store: raw traces or labelled ones, a folder or an object store.

A file that is no trace is counted and named, never silently dropped; nothing of a trace's text is kept.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sluice_api.contracts.trace import TRACE_SCHEMA_VERSION, Label, LabelReason, Variant
from sluice_api.ladder import judge
from sluice_artifacts import ArtifactError, NotFoundError, Store

READERS = 8
"""Objects read at once from a store."""
CLOCK_SLACK = timedelta(minutes=5)
"""How far the store's clock may lie behind the agent's."""


class NotATraceError(Exception):
    """A file is no trace; the message says why, without its text."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What shadow analysis keeps of one run."""

    tenant: str
    """Tenant; empty for shared runs."""
    run_id: str
    """Identity within the tenant."""
    variant: str
    """`baseline`, `candidate`, `__unassigned__`, or what the trace says."""
    started_at: datetime | None
    """Start; None where the trace does not say it."""
    ended_at: datetime | None
    """End; None where the trace does not say it."""
    steps: int
    """Steps."""
    escalations: int
    """Steps that escalated."""
    failures: int
    """Steps with a negative label, escalations included."""
    model_digest: str
    """Weights that served it; empty when unknown."""
    rollout: str
    """Rollout that assigned its arm; empty when unknown."""
    path: str
    """Where it was read."""
    request_id: str = ""
    """Request that it served; empty when unknown."""
    reasons: Mapping[str, int]
    """Steps by ladder rule."""


@dataclass
class RunSet:
    """Runs, and the files that were none."""

    runs: list[Run] = field(default_factory=list)
    """The runs, in the order of their paths."""
    files: int = 0
    """Files read."""
    bad: list[str] = field(default_factory=list)
    """`path: reason` of every file that is no trace."""


def parse_instant(value: object) -> datetime | None:
    """Read an RFC 3339 instant, or seconds since 1970; None where it is neither. A time without zone is UTC."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return None
    try:
        instant = datetime.fromtimestamp(value, UTC) if not isinstance(value, str) else datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _reason_of(step: Mapping[str, Any], *, trust_labels: bool) -> tuple[str, str]:
    """Take a step's label as it stands where labels are trusted, or judge the step."""
    label, reason = step.get("label"), step.get("label_reason")
    if trust_labels and isinstance(label, str) and isinstance(reason, str) and label:
        return label, reason
    success, data, observed = step.get("success"), step.get("data"), step.get("observed_outcome")
    if not isinstance(success, bool | None):
        raise NotATraceError("a step's `success` is not a boolean")
    if not isinstance(data, str | None) or not isinstance(observed, str | None):
        raise NotATraceError("a step's `data` or `observed_outcome` is not text")
    return judge(success, data, observed)


def read_run(data: bytes, path: str, *, trust_labels: bool = True) -> Run:
    """Read one trace file.

    `trust_labels` takes the labels of a labelled trace as they stand, as by hand; a rollout judges every step itself,
    so that whoever writes the trace store cannot label an escalation away.

    Raises:
        NotATraceError: it is not a trace of a version that is known.
    """
    try:
        document = json.loads(data)
    except UnicodeDecodeError as error:
        raise NotATraceError("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise NotATraceError("not JSON, or cut short") from error
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        raise NotATraceError("no list of `steps`")
    version = document.get("schema_version", TRACE_SCHEMA_VERSION)
    if version not in range(1, TRACE_SCHEMA_VERSION + 1):
        raise NotATraceError(f"schema version {version!r}, known are 1 to {TRACE_SCHEMA_VERSION}")
    reasons: dict[str, int] = {}
    failures = escalations = 0
    for step in document["steps"]:
        if not isinstance(step, dict):
            raise NotATraceError("a step is not an object")
        label, reason = _reason_of(step, trust_labels=trust_labels)
        reasons[reason] = reasons.get(reason, 0) + 1
        if label == Label.NEGATIVE:
            failures += 1
            escalations += reason == LabelReason.ESCALATION
    return Run(
        tenant=str(document.get("tenant_id") or ""),
        run_id=str(document.get("run_id") or path),
        variant=str(document.get("variant") or "").strip() or Variant.UNASSIGNED,
        started_at=parse_instant(document.get("started_at")),
        ended_at=parse_instant(document.get("ended_at")),
        steps=len(document["steps"]),
        escalations=escalations,
        failures=failures,
        model_digest=str(document.get("model_digest") or ""),
        rollout=str(document.get("rollout") or ""),
        request_id=str(document.get("request_id") or ""),
        path=path,
        reasons=reasons,
    )


def _is_trace_name(name: str) -> bool:
    """Tell a trace's name from a file that is still being written."""
    return name.endswith(".json") and not name.startswith(".")


def collect(files: Iterable[tuple[str, bytes | Exception]], *, trust_labels: bool = True) -> RunSet:
    """Read files into runs. A run that was seen already is a bad file: counting it twice would be evidence made up."""
    found = RunSet()
    seen: dict[tuple[str, str], str] = {}
    for path, data in files:
        found.files += 1
        if isinstance(data, Exception):
            found.bad.append(f"{path}: cannot be read ({type(data).__name__})")
            continue
        try:
            run = read_run(data, path, trust_labels=trust_labels)
        except NotATraceError as error:
            found.bad.append(f"{path}: {error}")
            continue
        earlier = seen.setdefault((run.tenant, run.run_id), path)
        if earlier == path:
            found.runs.append(run)
        else:
            found.bad.append(f"{path}: the same run as {earlier}")
    return found


def _folder_files(root: Path) -> Iterator[tuple[str, bytes | Exception]]:
    paths = [root] if root.is_file() else sorted(p for p in root.rglob("*.json") if p.is_file())
    for path in paths:
        if root.is_file() or _is_trace_name(path.name):
            name = path.name if root.is_file() else path.relative_to(root).as_posix()
            try:
                yield name, path.read_bytes()
            except OSError as error:
                yield name, error


def read_folder(root: Path) -> RunSet:
    """Read all traces below a folder, or one file.

    Raises:
        FileNotFoundError: there is no such folder or file.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    return collect(_folder_files(root))


def read_store(store: Store, prefix: str, since: datetime | None = None) -> RunSet:
    """Read all traces below a prefix of a store, and judge every step; labels that are there do not count.

    Objects that were written before `since` are not read: a run that began later cannot be in them.

    Raises:
        ArtifactError: the store cannot be listed. A single object that cannot be read is a bad file.
    """
    oldest = None if since is None else since - CLOCK_SLACK
    uris = [
        info.uri
        for info in store.list(prefix)
        if _is_trace_name(info.uri.rsplit("/", 1)[-1]) and (oldest is None or info.modified >= oldest)
    ]

    def fetch(uri: str) -> tuple[str, bytes | Exception] | None:
        name = uri.removeprefix(prefix).lstrip("/")
        try:
            return name, store.read(uri)
        except NotFoundError:
            return None  # retention took it between the listing and the read
        except ArtifactError as error:
            return name, error

    with ThreadPoolExecutor(max_workers=READERS) as pool:
        return collect((item for item in pool.map(fetch, uris) if item is not None), trust_labels=False)

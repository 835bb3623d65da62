"""Labelling on Ray Data: with `ray_cluster` all of this package that knows Ray, and imports it only when it labels.

The driver lists the source, keeps the cache and collects rows, so that order, split and digest are those of one
process. Tasks get pages of files, read and label them by the job's options, and send the outcomes back. A window of
pages is in flight at a time: what the driver and the object store hold does not grow with the source.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from sluice_api.contracts.jobs import LabelJob
from sluice_artifacts import ArtifactError, UnreachableError, open_store
from sluice_traces.build import Unread
from sluice_traces.convert import Screens
from sluice_traces.labeller import Labeller, Outcome, decode_outcome, encode_outcome
from sluice_traces.ray_cluster import connected
from sluice_traces.source import SourceFile

PAGE_FILES = 256
"""Files a task."""
PAGES_PER_WORKER = 8
"""Pages in flight for each worker."""


class _Item(msgspec.Struct, array_like=True, gc=False):
    path: str
    uri: str
    size: int
    fingerprint: str
    folder: str
    steps: list[int]


class _Page(msgspec.Struct, array_like=True, gc=False):
    items: list[_Item]


_ENCODER = msgspec.msgpack.Encoder()
_PAGES = msgspec.msgpack.Decoder(_Page)
_PROBLEM = msgspec.msgpack.Decoder(list[str])
_OUTCOMES = msgspec.msgpack.Decoder(list[bytes])


class RayLabelling:
    """Labels in tasks of Ray Data: of the cluster that the job runs in, or of a local one for the time of the build."""

    def __init__(self, job: LabelJob) -> None:
        """Prepare to label; `workers` tasks of the job run at a time."""
        self._job = job

    def outcomes(
        self, files: Iterator[SourceFile], unread: Callable[[SourceFile], Unread], known: Callable[[SourceFile], bool]
    ) -> Iterator[tuple[SourceFile, Outcome | None]]:
        """Every file in order with its outcome, or with None where it is known.

        Raises:
            ArtifactError: the storage as a whole failed, in whichever task.
            WorkerError: `Infrastructure` when there is no Ray.
        """
        with connected(self._job.workers, "check the cluster, or set spec.workers to 1"):
            yield from self._labelled(files, unread, known)

    def _labelled(
        self, files: Iterator[SourceFile], unread: Callable[[SourceFile], Unread], known: Callable[[SourceFile], bool]
    ) -> Iterator[tuple[SourceFile, Outcome | None]]:
        window = self._job.workers * PAGES_PER_WORKER * PAGE_FILES
        while listed := list(itertools.islice(files, window)):
            asked = [(file, known(file)) for file in listed]
            pages = _pages([unread(file) for file, is_known in asked if not is_known], PAGE_FILES)
            found = self._run(pages)
            for file, is_known in asked:
                yield file, None if is_known else next(found)

    def _run(self, pages: list[bytes]) -> Iterator[Outcome]:
        """The outcomes of a window's files, in order."""
        if not pages:
            return
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        dataset = ray.data.from_items([{"page": page} for page in pages], override_num_blocks=len(pages)).map(
            label_page,
            fn_kwargs={"job": self._job.model_dump_json(by_alias=True)},
            concurrency=min(self._job.workers, len(pages)),
            num_cpus=_task_cpus(),
        )
        waiting: deque[bytes] = deque()
        for row in dataset.iter_rows():
            if row["problem"]:
                raise _problem(_PROBLEM.decode(row["problem"]))
            waiting.extend(_OUTCOMES.decode(row["outcomes"]))
            while waiting:
                yield decode_outcome(waiting.popleft())


def _task_cpus() -> float:
    """CPUs of a task: none where the job itself has taken the last one, since its tasks would wait for ever."""
    import ray

    return 1.0 if ray.available_resources().get("CPU", 0.0) >= 1.0 else 0.0


def _pages(unread: list[Unread], size: int) -> list[bytes]:
    items = (_Item(*file, screens.folder, sorted(screens.steps)) for file, screens in unread)
    pages = []
    while page := list(itertools.islice(items, size)):
        pages.append(_ENCODER.encode(_Page(page)))
    return pages


def label_page(row: dict[str, Any], job: str) -> dict[str, Any]:
    """Label the files of a page, in a task.

    Args:
        row: the page.
        job: the job as JSON.

    Returns:
        `outcomes`, encoded; or `problem`: URI, message and class of an artifact error, which would not survive being
        pickled.
    """
    labeller = _labeller(job)
    outcomes = []
    try:
        for item in _PAGES.decode(row["page"]).items:
            file = SourceFile(item.path, item.uri, item.size, item.fingerprint)
            screens = Screens(item.folder, frozenset(item.steps))
            outcomes.append(encode_outcome(labeller.label(file, screens, labeller.read(file))))
    except ArtifactError as error:
        return {"outcomes": b"", "problem": _ENCODER.encode([error.uri, error.message, type(error).__name__])}
    return {"outcomes": _ENCODER.encode(outcomes), "problem": b""}


@lru_cache(maxsize=1)
def _labeller(job: str) -> Labeller:
    """The labeller of a job; worker processes live longer than a task."""
    parsed = LabelJob.model_validate_json(job)
    return Labeller(parsed, open_store(parsed.source_uri))


def _problem(told: list[str]) -> ArtifactError:
    uri, message, name = told
    import sluice_artifacts

    kind = getattr(sluice_artifacts, name, UnreachableError)
    error: ArtifactError = kind(uri, message)
    return error

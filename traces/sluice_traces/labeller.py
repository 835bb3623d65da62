"""One trace file to its outcome, by the options of a job: what every process of a build does, on whatever machine."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sluice_api.contracts.jobs import FailureClass, LabelJob
from sluice_api.contracts.trace import Label, LabelReason
from sluice_artifacts import ArtifactError, ForbiddenError, NotFoundError, Store, UnreachableError, join
from sluice_artifacts.reporting import WorkerError
from sluice_traces.convert import ConvertConfig, DropReason, Screens, Tally
from sluice_traces.pipeline import RunRows, SkipReason, TraceFilter, TracePipeline
from sluice_traces.privacy import DetectorName, PrivacyConfig, Redactor
from sluice_traces.reader import BadFileError, BadReason
from sluice_traces.screens import CheckedScreens, Picture, ScreenProblem
from sluice_traces.source import SourceFile, read_source_file

Outcome = RunRows | SkipReason | BadFileError
"""What a trace file gives."""
PATIENCE = 6
"""Times that an object is asked for before a storage that throttles counts as down; the client itself tries each."""
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


def patiently(
    ask: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep, rng: random.Random | None = None
) -> T:
    """Ask a storage that may throttle, with growing, jittered waits between the attempts.

    Raises:
        UnreachableError: it does not answer in the end.
        ArtifactError: anything else is no matter of patience.
    """
    draw = rng or random.Random()
    for attempt in range(PATIENCE):
        try:
            return ask()
        except UnreachableError as error:
            if attempt == PATIENCE - 1:
                raise
            _log.info("asking again: %s", error.message)
            sleep(draw.uniform(0.5, 1.0) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt))
    raise AssertionError("the last attempt returns or raises")


def make_redactor(job: LabelJob) -> Redactor:
    """The redactor of a job.

    Raises:
        WorkerError: `UserError` for an unknown detector or a bad pattern.
    """
    try:
        return Redactor(
            PrivacyConfig(
                detectors=tuple(DetectorName(name) for name in job.privacy.detectors),
                on_finding=job.privacy.on_finding,
                patterns=job.privacy.patterns,
            )
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: privacy: {error}") from None


def make_pipeline(job: LabelJob, redactor: Redactor) -> TracePipeline:
    """The pipeline of a job.

    Raises:
        WorkerError: `UserError` when the job asks for what cannot be.
    """
    try:
        keep = frozenset(Label(name) for name in job.keep)
        if job.format == "sft" and keep != {Label.POSITIVE}:
            raise ValueError("keep must be [positive] where the format is sft: other labels must not be taught")
        config = ConvertConfig(
            keep=keep,
            screen_width=job.screen_width,
            screen_height=job.screen_height,
            require_screenshot=job.require_screenshot,
        )
        trace_filter = TraceFilter(
            tenants=frozenset(job.tenants),
            variants=frozenset(job.variants),
            since=job.since,
            require_review=job.require_review,
        )
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: {error}") from None
    active = redactor if redactor.config.active else None
    return TracePipeline(config, row_format=job.format, trace_filter=trace_filter, redactor=active)


class Labeller:
    """Reads, judges and converts trace files by the options of a job. Holds nothing of them."""

    def __init__(self, job: LabelJob, store: Store) -> None:
        """Prepare to label.

        Args:
            job: the job.
            store: where its traces lie.

        Raises:
            WorkerError: `UserError` when the job asks for what cannot be.
        """
        self.redactor = make_redactor(job)
        self._pipeline = make_pipeline(job, self.redactor)
        self._store = store
        self._source_uri = job.source_uri

    def read(self, file: SourceFile) -> bytes | BadFileError:
        """The bytes of a file, or what is wrong with it.

        Raises:
            ArtifactError: the storage as a whole failed.
        """
        return patiently(lambda: read_source_file(self._store, file))

    def label(self, file: SourceFile, screens: Screens, content: bytes | BadFileError) -> Outcome:
        """What a file gives.

        Args:
            file: the file.
            screens: screenshots that the listing has of its run.
            content: what `read` gave.

        Raises:
            ArtifactError: the storage failed while screenshots were read.
        """
        if isinstance(content, BadFileError):
            return content
        if self.redactor.private_identity(file.path):
            return SkipReason.PRIVATE_IDENTITY
        checked = CheckedScreens(screens, self._picture) if screens.steps else screens
        try:
            return self._pipeline.process(content, checked)
        except BadFileError as error:
            return error

    def _picture(self, path: str) -> bytes | ScreenProblem:
        try:
            return patiently(lambda: self._store.read(join(self._source_uri, path)))
        except NotFoundError:
            return ScreenProblem.VANISHED
        except ForbiddenError:
            return ScreenProblem.UNREADABLE
        except ArtifactError as error:
            # As with traces: the storage itself is no property of one picture.
            if type(error) is ArtifactError:
                return ScreenProblem.UNREADABLE
            raise


class _Stored(msgspec.Struct, array_like=True, gc=False):
    """One outcome as bytes hold it; rows unless `skip` or `bad` is given."""

    skip: str | None = None
    bad: tuple[str, str] | None = None
    tenant_id: str = ""
    run_id: str = ""
    started_us: int | None = None
    block: bytes = b""
    rows: int = 0
    reasons: dict[str, int] = {}
    dropped: dict[str, int] = {}
    redactions: dict[str, int] = {}
    pictures: tuple[tuple[str, str, int, int, int], ...] = ()
    bad_screens: dict[str, int] = {}


_DECODER = msgspec.msgpack.Decoder(_Stored)
_ENCODER = msgspec.msgpack.Encoder()


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes, for a cache or another process."""
    if isinstance(outcome, SkipReason):
        return _ENCODER.encode(_Stored(skip=outcome.value))
    if isinstance(outcome, BadFileError):
        return _ENCODER.encode(_Stored(bad=(outcome.reason.value, outcome.detail)))
    return _ENCODER.encode(
        _Stored(
            tenant_id=outcome.tenant_id,
            run_id=outcome.run_id,
            started_us=outcome.started_us,
            block=outcome.block,
            rows=outcome.rows,
            reasons={reason.value: count for reason, count in outcome.tally.reasons.items()},
            dropped={reason.value: count for reason, count in outcome.tally.dropped.items()},
            redactions=outcome.redactions,
            pictures=tuple((p.name, p.path, p.size, p.width, p.height) for p in outcome.pictures),
            bad_screens=outcome.bad_screens,
        )
    )


def decode_outcome(data: bytes) -> Outcome:
    """The outcome that `encode_outcome` wrote.

    Raises:
        msgspec.DecodeError: the bytes are none.
    """
    stored = _DECODER.decode(data)
    if stored.skip is not None:
        return SkipReason(stored.skip)
    if stored.bad is not None:
        return BadFileError(BadReason(stored.bad[0]), stored.bad[1])
    tally = Tally(
        {LabelReason(name): count for name, count in stored.reasons.items()},
        {DropReason(name): count for name, count in stored.dropped.items()},
    )
    return RunRows(
        stored.tenant_id,
        stored.run_id,
        stored.started_us,
        stored.block,
        stored.rows,
        tally,
        stored.redactions,
        tuple(Picture(*each) for each in stored.pictures),
        stored.bad_screens,
    )

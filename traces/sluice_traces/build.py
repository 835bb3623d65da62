"""The pass over all traces of a source: read or known, filtered, judged, converted, kept."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sluice_artifacts.reporting import Reporter
from sluice_traces.cache import OutcomeCache
from sluice_traces.convert import Screens, Tally
from sluice_traces.labeller import Labeller, Outcome
from sluice_traces.pipeline import RunRows, SkipReason
from sluice_traces.privacy import Redactor
from sluice_traces.reader import BadFile, BadFileError, BadReason
from sluice_traces.source import Inventory, SourceFile, read_files
from sluice_traces.spool import Spool
from sluice_traces.tombstones import Tombstones

BAD_NAMED = 100
"""Bad files that a build remembers for its messages; the spool has all of them."""
REMOTE_THREADS = 16
"""Objects read at a time from remote storage."""
_REPORT_EVERY = 64


@dataclass(slots=True)
class Build:
    """What a build has seen so far."""

    used: int = 0
    """Traces used."""
    rows: int = 0
    """Rows that they gave."""
    reused: int = 0
    """Trace files that were not read, since an earlier build had."""
    bad_count: int = 0
    """Trace files that could not be used."""
    bad: list[BadFile] = field(default_factory=list)
    """The first of them."""
    bad_reasons: Counter[str] = field(default_factory=Counter)
    """All of them by reason."""
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    """Good traces that were not used."""
    tally: Tally = field(default_factory=Tally)
    """Steps of the used traces."""
    redactions: Counter[str] = field(default_factory=Counter)
    """Private texts found in them, by detector."""
    bad_screens: Counter[str] = field(default_factory=Counter)
    """Screenshots of them that could not be used, by reason."""

    def refuse(self, path: str, error: BadFileError) -> None:
        """Count a file that could not be used."""
        self.bad_count += 1
        self.bad_reasons[error.reason.value] += 1
        if len(self.bad) < BAD_NAMED:
            self.bad.append(BadFile(path, error.reason, error.detail))


class Unread(NamedTuple):
    """One trace file and the screenshots that the listing has of its run."""

    file: SourceFile
    """The file."""
    screens: Screens
    """The screenshots."""


class Labelling(Protocol):
    """Labels files somewhere: in this process, or in many."""

    def outcomes(
        self, files: Iterator[SourceFile], unread: Callable[[SourceFile], Unread], known: Callable[[SourceFile], bool]
    ) -> Iterator[tuple[SourceFile, Outcome | None]]:
        """Every file in order with its outcome, or with None where it is known.

        Raises:
            ArtifactError: the storage as a whole failed.
        """
        ...


class LocalLabelling:
    """Labels in this process; reading waits in threads where it waits for a network."""

    def __init__(self, labeller: Labeller, *, remote: bool) -> None:
        self._labeller = labeller
        self._threads = REMOTE_THREADS if remote else 1

    def outcomes(
        self, files: Iterator[SourceFile], unread: Callable[[SourceFile], Unread], known: Callable[[SourceFile], bool]
    ) -> Iterator[tuple[SourceFile, Outcome | None]]:
        """Every file in order with its outcome, or with None where it is known."""
        for file, content in read_files(self._labeller.read, files, threads=self._threads, known=known):
            yield file, None if content is None else self._labeller.label(file, unread(file).screens, content)


class Builder:
    """Fills a spool with the rows of a source."""

    def __init__(
        self,
        labelling: Labelling,
        redactor: Redactor,
        inventory: Inventory,
        spool: Spool,
        tombstones: Tombstones,
    ) -> None:
        self._labelling = labelling
        self._redactor = redactor
        self._inventory = inventory
        self._spool = spool
        self._tombstones = tombstones

    def build(self, cache: OutcomeCache, total: int, reporter: Reporter) -> Build:
        """Read, judge and convert every trace of the inventory.

        Args:
            cache: what earlier builds made of them.
            total: trace files, for the progress.
            reporter: told how far the build is.

        Raises:
            ArtifactError: the storage as a whole failed.
        """
        build, inventory = Build(), self._inventory
        reporter.progress(stage="labelling", step=0, of=total)
        outcomes = self._labelling.outcomes(
            inventory.files(),
            lambda file: Unread(file, inventory.screens(file.path)),
            lambda file: cache.has(file, inventory.fingerprint(file)),
        )
        for number, (file, found) in enumerate(outcomes, start=1):
            outcome = found
            if outcome is None:
                outcome = cache.get(file, inventory.fingerprint(file))
                build.reused += 1
            elif not (isinstance(outcome, RunRows) and self._forgotten(outcome)):
                cache.put(file, inventory.fingerprint(file), outcome)
            self._keep(build, file, outcome or BadFileError(BadReason.UNREADABLE, "it was not read"))
            if number % _REPORT_EVERY == 0 or number == total:
                metrics = {"rows": build.rows, "bad_files": build.bad_count, "reused_files": build.reused}
                reporter.progress(step=number, of=total, metrics=metrics)
        for path in inventory.misnamed():
            self._refuse(build, path, BadFileError(BadReason.BAD_UTF8, "its name is not UTF-8: rename it"))
        if inventory.large_screens:
            build.bad_screens["too_large"] += inventory.large_screens
        return build

    def _keep(self, build: Build, file: SourceFile, outcome: Outcome) -> None:
        if isinstance(outcome, SkipReason):
            build.skipped[outcome] += 1
            self._spool.refuse(file.path)
            return
        if isinstance(outcome, BadFileError):
            self._refuse(build, file.path, outcome)
            return
        if self._forgotten(outcome):
            build.skipped[SkipReason.FORGOTTEN] += 1
            return
        first = self._spool.add(
            outcome.tenant_id, outcome.run_id, file.path, outcome.started_us, outcome.block, outcome.rows
        )
        if first is not None:
            self._refuse(build, file.path, BadFileError(BadReason.DUPLICATE_RUN_ID, f"the run is in {first} already"))
            return
        build.used += 1
        build.rows += outcome.rows
        build.tally.merge(outcome.tally)
        build.redactions.update(outcome.redactions)
        build.bad_screens.update(outcome.bad_screens)
        for picture in outcome.pictures:
            self._spool.note_picture(picture.name, picture.path, picture.size)

    def _forgotten(self, outcome: RunRows) -> bool:
        return self._tombstones.covers(outcome.tenant_id, outcome.run_id)

    def _refuse(self, build: Build, path: str, error: BadFileError) -> None:
        mask = self._redactor.mask
        path, detail = mask(path), mask(error.detail)
        build.refuse(path, BadFileError(error.reason, detail))
        self._spool.note_bad(path, error.reason.value, detail)

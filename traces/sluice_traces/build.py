"""The pass over all traces of a source: read or known, filtered, judged, converted, kept."""

from collections import Counter
from dataclasses import dataclass, field

from sluice_artifacts import Store
from sluice_artifacts.reporting import Reporter
from sluice_traces.cache import Outcome, OutcomeCache
from sluice_traces.convert import Tally
from sluice_traces.pipeline import RunRows, SkipReason, TracePipeline
from sluice_traces.privacy import Redactor
from sluice_traces.reader import BadFile, BadFileError, BadReason
from sluice_traces.source import Inventory, SourceFile, read_files
from sluice_traces.spool import Spool
from sluice_traces.tombstones import Tombstones

BAD_NAMED = 1000
"""Bad files that a build remembers; beyond them it only counts."""
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

    def refuse(self, path: str, error: BadFileError) -> None:
        """Count a file that could not be used."""
        self.bad_count += 1
        self.bad_reasons[error.reason.value] += 1
        if len(self.bad) < BAD_NAMED:
            self.bad.append(BadFile(path, error.reason, error.detail))


class Builder:
    """Fills a spool with the rows of a source."""

    def __init__(
        self,
        pipeline: TracePipeline,
        redactor: Redactor,
        inventory: Inventory,
        spool: Spool,
        tombstones: Tombstones,
    ) -> None:
        self._pipeline = pipeline
        self._redactor = redactor
        self._inventory = inventory
        self._spool = spool
        self._tombstones = tombstones

    def build(self, store: Store, cache: OutcomeCache, total: int, reporter: Reporter, *, remote: bool) -> Build:
        """Read, judge and convert every trace of the inventory.

        Args:
            store: where the traces lie.
            cache: what earlier builds made of them.
            total: trace files, for the progress.
            reporter: told how far the build is.
            remote: whether reading waits for a network.

        Raises:
            ArtifactError: the storage as a whole failed.
        """
        build = Build()
        reporter.progress(stage="labelling", step=0, of=total)
        files = read_files(
            store,
            self._inventory.files(),
            threads=REMOTE_THREADS if remote else 1,
            known=lambda file: cache.has(file, self._inventory.screens(file.path)),
        )
        for number, (file, content) in enumerate(files, start=1):
            screens = self._inventory.screens(file.path)
            outcome = cache.get(file, screens) if content is None else None
            if outcome is None:
                outcome = self._process(file, content)
                if not (isinstance(outcome, RunRows) and self._forgotten(outcome)):
                    cache.put(file, screens, outcome)
            else:
                build.reused += 1
            self._keep(build, file, outcome)
            if number % _REPORT_EVERY == 0 or number == total:
                metrics = {"rows": build.rows, "bad_files": build.bad_count, "reused_files": build.reused}
                reporter.progress(step=number, of=total, metrics=metrics)
        return build

    def _process(self, file: SourceFile, content: bytes | BadFileError | None) -> Outcome:
        if not isinstance(content, bytes):
            return content or BadFileError(BadReason.UNREADABLE, "it was not read")
        try:
            return self._pipeline.process(content, self._inventory.screens(file.path))
        except BadFileError as error:
            return error

    def _keep(self, build: Build, file: SourceFile, outcome: Outcome) -> None:
        if isinstance(outcome, SkipReason):
            build.skipped[outcome] += 1
            return
        if isinstance(outcome, BadFileError):
            self._refuse(build, file, outcome)
            return
        if self._forgotten(outcome):
            build.skipped[SkipReason.FORGOTTEN] += 1
            return
        first = self._spool.add(
            outcome.tenant_id, outcome.run_id, file.path, outcome.started_us, outcome.block, outcome.rows
        )
        if first is not None:
            self._refuse(build, file, BadFileError(BadReason.DUPLICATE_RUN_ID, f"the run is in {first} already"))
            return
        build.used += 1
        build.rows += outcome.rows
        build.tally.merge(outcome.tally)
        build.redactions.update(outcome.redactions)

    def _forgotten(self, outcome: RunRows) -> bool:
        return self._tombstones.covers(outcome.tenant_id, outcome.run_id)

    def _refuse(self, build: Build, file: SourceFile, error: BadFileError) -> None:
        mask = self._redactor.mask
        build.refuse(mask(file.path), BadFileError(error.reason, mask(error.detail)))

"""A folder of labelled traces to row files: what `sluice trace convert` does."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sluice_api.contracts.trace import Label
from sluice_traces.convert import (
    NO_SCREENS,
    ConvertConfig,
    Converter,
    DropReason,
    Screens,
    Tally,
    carried_verdict,
)
from sluice_traces.ladder import Verdict
from sluice_traces.local import name_text, read_trace, trace_files, write_lines
from sluice_traces.pipeline import SkipReason
from sluice_traces.preference import pair_rows
from sluice_traces.privacy import Redactor
from sluice_traces.reader import SCREENS_SUFFIX, BadFile, BadFileError, BadReason, decode
from sluice_traces.records import LabelledStepRecord, LabelledTraceRecord, instant_us, tenant_folder
from sluice_traces.rows import RejectedRowRecord, RowRecord, encode_rows
from sluice_traces.screens import MAX_SCREEN_BYTES, CheckedScreens, ScreenProblem
from sluice_traces.spool import Spool

REJECTED_INFIX = ".rejected"
"""Goes before the suffix of the output for the file of rejected answers."""
PREFERENCE_INFIX = ".preference"
"""Goes before the suffix of the output for the file of preference pairs."""
_DECODER = msgspec.json.Decoder(LabelledTraceRecord)
_SCREEN = re.compile(r"(\d{4,9})\.png")


@dataclass(slots=True)
class ConvertRun:
    """What a conversion did."""

    traces: int = 0
    """Labelled traces used."""
    rows: int = 0
    """Supervised rows."""
    rejected_rows: int = 0
    """Rejected answers."""
    preference_rows: int = 0
    """Preference pairs."""
    tally: Tally = field(default_factory=Tally)
    """Steps by what became of them."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Good traces that were not used, by reason."""
    bad_screens: Counter[str] = field(default_factory=Counter)
    """Screenshots that could not be used, by reason; their steps count as steps without one."""
    redactions: Counter[str] = field(default_factory=Counter)
    """Distinct private texts found in each run, by detector."""
    bad: list[BadFile] = field(default_factory=list)
    """Files left out."""
    outputs: list[Path] = field(default_factory=list)
    """Files written."""


class FolderConverter:
    """Converts labelled traces below a folder, or a single one."""

    def __init__(self, config: ConvertConfig, screenshots_root: Path | None, redactor: Redactor | None = None) -> None:
        """Prepare a conversion.

        Args:
            config: which labels to keep, and the screen.
            screenshots_root: folder that holds `<tenant>/<run_id>_screens/<step>.png`; None when there are none.
            redactor: replaces private text; None lets everything through.
        """
        self._config = config
        self._converter = Converter(config)
        self._root = screenshots_root
        self._redactor = redactor

    def convert(self, traces: Path, output: Path, progress: Callable[[int], None]) -> ConvertRun:
        """Write the rows of labelled traces, in the order of tenant, run and step.

        Negative steps, where they are kept, go to `<output stem>.rejected.<suffix>`, and where another answer in the
        same state passed, as a pair to `<output stem>.preference.<suffix>`; never to the supervised rows.

        Args:
            traces: folder of labelled traces, or one of them.
            output: file of the supervised rows; written whole or not at all.
            progress: told how many files were read.

        Raises:
            OSError: the output cannot be written.
        """
        run = ConvertRun()
        negatives = Label.NEGATIVE in self._config.keep
        base = traces if traces.is_dir() else traces.parent
        with ExitStack() as stack:
            spools = [stack.enter_context(Spool()) for _ in range(3 if negatives else 1)]
            for number, path in enumerate(trace_files(traces) if traces.is_dir() else [traces], start=1):
                relative = path.relative_to(base)
                try:
                    self._convert_file(path, relative, spools, run)
                except BadFileError as error:
                    shown = self._masked(name_text(relative.as_posix()))
                    run.bad.append(BadFile(shown, error.reason, self._masked(error.detail)))
                progress(number)
            targets = [output, _beside(output, REJECTED_INFIX), _beside(output, PREFERENCE_INFIX)]
            for spool, target in zip(spools, targets, strict=False):
                write_lines(target, spool.blocks())
                run.outputs.append(target)
            counts = [spool.row_count() for spool in spools] + [0, 0]
            run.rows, run.rejected_rows, run.preference_rows = counts[:3]
        return run

    def _masked(self, text: str) -> str:
        return text if self._redactor is None else self._redactor.mask(text)

    def _convert_file(self, path: Path, relative: Path, spools: Sequence[Spool], run: ConvertRun) -> None:
        raw, _ = read_trace(path)
        trace = decode(raw, _DECODER, oldest=0)
        if self._redactor is not None and any(
            self._redactor.private_identity(name) for name in (trace.run_id, trace.tenant_id or "")
        ):
            run.skipped[SkipReason.PRIVATE_IDENTITY.value] += 1
            return
        steps = sorted(trace.steps, key=lambda step: step.step_index)
        verdicts = _carried(steps)
        tenant_id, tally = trace.tenant_id or "", Tally()
        screens = NO_SCREENS
        if self._root is not None:
            folder = Path(tenant_folder(tenant_id))
            screens = CheckedFolder(find_screens(self._root, (relative, folder / relative.name)), self._root)
        converter = self._converter
        redactor = None if self._redactor is None else self._redactor.run()
        if redactor is not None:
            converter = Converter(self._config, redactor.scrub)
        blocks: list[Sequence[RowRecord]] = [
            converter.rows(trace.run_id, tenant_id, steps, verdicts, screens, tally),
        ]
        if len(spools) > 1:
            blocks.append(self._rejected(converter, trace.run_id, tenant_id, steps, verdicts, screens, tally))
            blocks.append(
                pair_rows(
                    trace.run_id,
                    tenant_id,
                    steps,
                    verdicts,
                    converter,
                    screens,
                    Tally(),
                    require_screenshot=self._config.require_screenshot,
                    scrub=str if redactor is None else redactor.scrub,
                )
            )
        for spool, rows in zip(spools, blocks, strict=True):
            first = spool.add(
                tenant_id,
                trace.run_id,
                name_text(relative.as_posix()),
                instant_us(trace.started_at),
                encode_rows(rows),
                len(rows),
            )
            if first is not None:
                raise BadFileError(BadReason.DUPLICATE_RUN_ID, f"the run is in {first} already")
        run.traces += 1
        if isinstance(screens, CheckedFolder):
            run.bad_screens.update(screens.problems)
        run.tally.merge(tally)
        if redactor is not None:
            run.redactions.update(redactor.counts)

    def _rejected(
        self,
        converter: Converter,
        run_id: str,
        tenant_id: str,
        steps: Sequence[LabelledStepRecord],
        verdicts: Sequence[Verdict],
        screens: Screens,
        tally: Tally,
    ) -> list[RejectedRowRecord]:
        rows = []
        for step, verdict in zip(steps, verdicts, strict=True):
            if verdict[0] is not Label.NEGATIVE:
                continue
            # Counted as not kept among the supervised rows; here it gets its true fate.
            tally.drop(DropReason.LABEL_NOT_KEPT, -1)
            row = converter.rejected(run_id, tenant_id, step, verdict, screens)
            if isinstance(row, DropReason):
                tally.drop(row)
            else:
                rows.append(row)
        return rows


class CheckedFolder(CheckedScreens):
    """Screenshots of one run in a folder, decoded when a row asks for them; rows name them by their paths."""

    def __init__(self, screens: Screens, root: Path) -> None:
        super().__init__(screens, lambda path: _picture(root / path))

    def image(self, step: int) -> str | None:
        """Path of a step's screenshot relative to the root; None when there is none that can be used."""
        return None if super().image(step) is None else Screens.image(self, step)


def _picture(path: Path) -> bytes | ScreenProblem:
    try:
        if path.stat().st_size > MAX_SCREEN_BYTES:
            return ScreenProblem.TOO_LARGE
        return path.read_bytes()
    except FileNotFoundError:
        return ScreenProblem.VANISHED
    except OSError:
        return ScreenProblem.UNREADABLE


def find_screens(root: Path, candidates: Iterable[Path]) -> Screens:
    """Screenshots of a run: those of the first candidate that has any.

    Args:
        root: the screenshots root.
        candidates: paths below the root at which the run's trace file may have lain; one that leads out of it, as a
            trace may say of its tenant, is not looked at.
    """
    for relative in candidates:
        if relative.is_absolute() or ".." in relative.parts:
            continue
        folder = relative.with_name(relative.stem + SCREENS_SUFFIX)
        try:
            with os.scandir(root / folder) as entries:
                names = [entry.name for entry in entries if _is_picture(entry)]
        except OSError:
            continue
        steps = [int(match[1]) for name in names if (match := _SCREEN.fullmatch(name))]
        if steps:
            return Screens(folder.as_posix(), frozenset(steps))
    return NO_SCREENS


def _is_picture(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file() and entry.stat().st_size > 0
    except OSError:
        return False


def _carried(steps: Sequence[LabelledStepRecord]) -> list[Verdict]:
    verdicts = []
    for step in steps:
        verdict = carried_verdict(step)
        if verdict is None:
            detail = f"step {step.step_index} has no label that the ladder gives: run sluice trace label first"
            raise BadFileError(BadReason.NOT_LABELLED, detail)
        verdicts.append(verdict)
    return verdicts


def _beside(output: Path, infix: str) -> Path:
    return output.with_name(output.stem + infix + output.suffix)

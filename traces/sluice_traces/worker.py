"""The label worker: a prefix of traces to a published dataset version."""

import tempfile
from pathlib import Path

from sluice_api.contracts.jobs import FailureClass, LabelJob, LabelOutput
from sluice_api.contracts.trace import Label
from sluice_artifacts import NotFoundError, open_store
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_traces.build import Build, Builder
from sluice_traces.cache import OutcomeCache
from sluice_traces.convert import ConvertConfig, DropReason, Tally
from sluice_traces.dataset import BuildCounts, ParentVersion, Version, publish_version
from sluice_traces.pipeline import SkipReason, TraceFilter, TracePipeline
from sluice_traces.privacy import DetectorName, PrivacyConfig, Redactor
from sluice_traces.source import Inventory
from sluice_traces.split import SplitConfig, SplitError, assign
from sluice_traces.spool import Part, Spool
from sluice_traces.tombstones import Tombstones, read_tombstones

BAD_EXAMPLES = 5
"""Bad files that the result names."""


def run(job: LabelJob, reporter: Reporter) -> LabelOutput:
    """Build and publish a dataset version from the traces of a job.

    Raises:
        WorkerError: `Data` when there are no traces, no rows, too many bad files, or the data cannot be split;
            `UserError` when the job asks for what cannot be.
        ArtifactError: the storage failed.
    """
    redactor = _redactor(job)
    pipeline, split = _configure(job, redactor)
    store = open_store(job.source_uri)
    with tempfile.TemporaryDirectory(prefix="sluice-label-") as name:
        folder = Path(name)
        with Inventory(folder) as inventory, Spool(folder) as spool:
            tombstones, _ = read_tombstones(job.dataset_uri)
            parent = _parent(job, folder, spool, tombstones)
            reporter.progress(stage="listing", inputs={} if job.parent is None else {"parent": job.parent})
            inventory.scan(store, job.source_uri, lambda count: reporter.progress(step=count))
            total = inventory.count()
            if total == 0:
                raise WorkerError(FailureClass.DATA, _nothing_there(job, inventory))
            builder = Builder(pipeline, redactor, inventory, spool, tombstones)
            cache = OutcomeCache(folder, open_store(job.dataset_uri), job)
            try:
                build = builder.build(store, cache, total, reporter, remote=not job.source_uri.startswith("file://"))
                cache.save()
            finally:
                cache.close()
            _check_bad(job, build, total)
            _check_rows(job, build, spool)
            reporter.progress(stage="splitting")
            try:
                assign(spool, split)
            except SplitError as error:
                raise WorkerError(FailureClass.DATA, str(error)) from None
            if spool.row_count(Part.TRAIN) == 0:
                raise WorkerError(FailureClass.DATA, _all_held_out(spool))
            version = publish_version(
                spool,
                folder,
                job.dataset_uri,
                _counts(build),
                job.format,
                parent,
                before_upload=lambda: reporter.progress(stage="publishing"),
            )
    return _output(version, build)


def _redactor(job: LabelJob) -> Redactor:
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


def _configure(job: LabelJob, redactor: Redactor) -> tuple[TracePipeline, SplitConfig]:
    try:
        keep = frozenset(Label(name) for name in job.keep)
        if job.format == "sft" and keep != {Label.POSITIVE}:
            raise ValueError("keep must be [positive] where the format is sft: other labels must not be taught")
        if not 0.0 <= job.max_bad_fraction <= 1.0:
            raise ValueError(f"max_bad_fraction is {job.max_bad_fraction}: give a share from 0 to 1")
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
        split = SplitConfig(holdout=job.holdout, by=job.split_by)
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: {error}") from None
    active = redactor if redactor.config.active else None
    return TracePipeline(config, row_format=job.format, trace_filter=trace_filter, redactor=active), split


def _parent(job: LabelJob, folder: Path, spool: Spool, tombstones: Tombstones) -> ParentVersion | None:
    if job.parent is None:
        return None
    downloads = folder / "parent"
    downloads.mkdir()
    try:
        parent = ParentVersion(job.dataset_uri, tombstones.current(job.parent), downloads)
    except NotFoundError:
        raise WorkerError(
            FailureClass.DATA,
            f"the previous version {job.parent} is not under {job.dataset_uri}, so nobody knows what it held out: "
            "restore it, or begin anew with a TraceDataset of another name",
        ) from None
    for line in parent.runs():
        if not tombstones.covers(line.tenant_id, line.run_id):
            spool.remember(line.tenant_id, line.run_id, line.part, line.source)
    return parent


def _check_bad(job: LabelJob, build: Build, total: int) -> None:
    if build.bad_count < total and build.bad_count <= job.max_bad_fraction * total:
        return
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(build.bad_reasons.items()))
    examples = "; ".join(map(str, build.bad[:BAD_EXAMPLES]))
    allowed = "" if build.bad_count == total else f", more than the allowed share of {job.max_bad_fraction:g}"
    raise WorkerError(
        FailureClass.DATA,
        f"{build.bad_count} of {total} trace files under {job.source_uri} cannot be used{allowed} ({reasons}): "
        f"{examples}. Remove or repair them; the source must hold trace exports <tenant>/<run_id>.json",
    )


def _check_rows(job: LabelJob, build: Build, spool: Spool) -> None:
    if spool.row_count() > 0:
        return
    if build.used == 0:
        reasons = _named(dict(build.skipped))
        raise WorkerError(
            FailureClass.DATA,
            f"none of the traces under {job.source_uri} is selected (left out: {reasons}): "
            f"widen source.tenants, source.variants or source.since{_review_hint(job)}",
        )
    labels = _named(build.tally.labels())
    drops = _named(build.tally.drops())
    raise WorkerError(
        FailureClass.DATA,
        f"no rows: {build.used} traces gave {sum(build.tally.reasons.values())} steps ({labels}), "
        f"and none became a row (left out: {drops}). {_remedy(build.tally)}",
    )


def _remedy(tally: Tally) -> str:
    """What to change, by the reason that left out most of the steps that could have become rows."""
    drops = {reason: count for reason, count in tally.dropped.items() if reason is not DropReason.LABEL_NOT_KEPT}
    if not drops:
        return "Wait for runs with positive steps, or look at the failures with: sluice trace review"
    return {
        DropReason.NO_SCREENSHOT: "Export screenshots with the traces (SLUICE_TRACE_INCLUDE_SCREENSHOTS=1), or set "
        "convert.requireScreenshot to false for a text-only agent",
        DropReason.UNPAIRED: "Pairs need a failed step and a later passing one in the same state; "
        "set convert.format to sft to train on single answers",
        DropReason.PRIVATE: "Every candidate held private text and was quarantined: set privacy.onFinding to redact",
    }.get(max(drops, key=lambda reason: drops[reason]), "Check that the agent exports last_action of its steps")


def _review_hint(job: LabelJob) -> str:
    return ", or approve traces with: sluice trace review --set approved" if job.require_review else ""


def _nothing_there(job: LabelJob, inventory: Inventory) -> str:
    unfinished = f" ({inventory.unfinished} are still being written)" if inventory.unfinished else ""
    return (
        f"no trace files under {job.source_uri}{unfinished}: check source.uri; it must hold <tenant>/<run_id>.json "
        "as the trace exporter writes them (SLUICE_TRACE_EXPORT_DIR)"
    )


def _all_held_out(spool: Spool) -> str:
    return (
        f"all {spool.row_count()} rows belong to runs that an earlier version held out, and what was held out is never "
        "trained on: add newer traces"
    )


def _named(counts: dict[SkipReason, int] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def _counts(build: Build) -> BuildCounts:
    skipped = {reason.value: count for reason, count in build.skipped.items()}
    return BuildCounts(traces=build.used, skipped=skipped, tally=build.tally, redactions=dict(build.redactions))


def _output(version: Version, build: Build) -> LabelOutput:
    return LabelOutput(
        dataset=version.ref,
        rows=version.manifest.rows,
        holdout_rows=version.manifest.holdout_rows,
        new_rows=version.new_rows,
        labels=version.manifest.labels,
        label_reasons=version.manifest.label_reasons,
        traces=version.manifest.traces,
        bad_files=build.bad_count,
        bad_examples=[str(file) for file in build.bad[:BAD_EXAMPLES]],
        redactions=version.manifest.redactions,
        reused_files=build.reused,
    )

"""The label worker: a prefix of traces to a published dataset version."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sluice_api.contracts.jobs import FailureClass, LabelJob, LabelOutput
from sluice_artifacts import NotFoundError, Store, open_store
from sluice_artifacts.reporting import Reporter, WorkerError
from sluice_traces.build import Build, Builder, Labelling, LocalLabelling
from sluice_traces.cache import OutcomeCache
from sluice_traces.convert import DropReason, Tally
from sluice_traces.critic import HarnessRunner
from sluice_traces.curate import Removed, SuiteReader, curate, read_suite
from sluice_traces.dataset import BuildCounts, ParentVersion, Version, largest, publish_version
from sluice_traces.forget import drop_cache, drop_version
from sluice_traces.labeller import Labeller
from sluice_traces.mix import Mixed, mix
from sluice_traces.pipeline import SkipReason
from sluice_traces.screens_pool import send_screens
from sluice_traces.source import Inventory
from sluice_traces.split import SplitConfig, SplitError, assign
from sluice_traces.spool import Part, Spool
from sluice_traces.standing import keep_standing
from sluice_traces.tombstones import Tombstones, read_tombstones
from sluice_traces.workspace import workspace

BAD_EXAMPLES = 5
"""Bad files that the result names."""
TENANTS_TOLD = 32
"""Tenants that the result counts by name; the manifest counts more."""


def run(
    job: LabelJob,
    reporter: Reporter,
    *,
    runner: HarnessRunner | None = None,
    suites: SuiteReader = read_suite,
) -> LabelOutput:
    """Build and publish a dataset version from the traces of a job.

    Args:
        job: the job.
        reporter: told how far the build is.
        runner: runs candidates' tests where the critic is to; None runs them in limited processes of this machine.
        suites: reads the suites that are kept out of the rows.

    Raises:
        WorkerError: `Data` when there are no traces, no rows, too many bad files, or the data cannot be split or
            mixed; `UserError` when the job asks for what cannot be.
        ArtifactError: the storage failed.
    """
    store = open_store(job.source_uri)
    labeller = Labeller(job, store)
    split = _configure(job)
    with workspace("sluice-label-") as folder, Inventory(folder) as inventory, Spool(folder) as spool:
        tombstones, _ = read_tombstones(job.dataset_uri)
        parent = _parent(job, folder, spool, tombstones)
        reporter.progress(stage="listing", inputs={} if job.parent is None else {"parent": job.parent})
        inventory.scan(store, job.source_uri, lambda count: reporter.progress(step=count))
        total = inventory.count()
        if total == 0:
            raise WorkerError(FailureClass.DATA, _nothing_there(job, inventory))
        builder = Builder(_labelling(job, labeller), labeller.redactor, inventory, spool, tombstones)
        build = _label(job, builder, folder, total, reporter)
        _check_bad(job, build, total)
        kept_rows = 0
        if job.append and parent is not None:
            reporter.progress(stage="keeping")
            kept_rows = keep_standing(
                parent, spool, tombstones, job.format, job.dataset_uri, labeller.redactor, build.tally
            )
        _check_rows(job, build, spool)
        removed, mixed = _compose(job, labeller, spool, split, folder, reporter, runner, suites)
        _check_not_forgotten(job, tombstones, spool)
        version = publish_version(
            spool,
            folder,
            job.dataset_uri,
            replace(_counts(build), kept_rows=kept_rows),
            removed,
            job.format,
            parent,
            mixed,
            before_upload=lambda: _before_upload(job, spool, store, reporter),
        )
        _check_not_forgotten(job, tombstones, spool, version)
    return _output(version, build)


def _labelling(job: LabelJob, labeller: Labeller) -> Labelling:
    if job.workers <= 1:
        return LocalLabelling(labeller, remote=not job.source_uri.startswith("file://"))
    from sluice_traces.distributed import RayLabelling

    return RayLabelling(job)


def _label(job: LabelJob, builder: Builder, folder: Path, total: int, reporter: Reporter) -> Build:
    cache = OutcomeCache(folder, open_store(job.dataset_uri), job)
    try:
        build = builder.build(cache, total, reporter)
        cache.save()
    finally:
        cache.close()
    return build


def _compose(
    job: LabelJob,
    labeller: Labeller,
    spool: Spool,
    split: SplitConfig,
    folder: Path,
    reporter: Reporter,
    runner: HarnessRunner | None,
    suites: SuiteReader,
) -> tuple[Removed, Mixed | None]:
    """Split, remove what is said twice or leaks a task, and mix."""
    reporter.progress(stage="splitting")
    try:
        assign(spool, split)
    except SplitError as error:
        raise WorkerError(FailureClass.DATA, str(error)) from None
    reporter.progress(stage="curating")
    removed = curate(spool, job.duplicates, job.leaks, folder, suites)
    mixed = None
    if job.mixture is not None:
        tell: Callable[[str], None] = lambda bucket: reporter.progress(stage=f"mixing {bucket}")  # noqa: E731
        mixed = mix(job, job.mixture, spool, removed, labeller.redactor, folder, tell, runner)
    elif spool.row_count(Part.TRAIN) == 0:
        raise WorkerError(FailureClass.DATA, _all_held_out(spool))
    elif sum(removed.rows[Part.TRAIN]) == spool.row_count(Part.TRAIN):
        raise WorkerError(FailureClass.DATA, _all_removed(removed, spool))
    return removed, mixed


def _before_upload(job: LabelJob, spool: Spool, source: Store, reporter: Reporter) -> None:
    reporter.progress(stage="publishing")
    send_screens(spool, source, job.source_uri, open_store(job.dataset_uri), job.dataset_uri)


def _check_not_forgotten(job: LabelJob, known: Tombstones, spool: Spool, version: Version | None = None) -> None:
    """Refuse a build whose runs were forgotten while it went on, and take back what it has written of them.

    Whoever forgets writes the tombstone and then looks for versions; here a version is published and then tombstones
    are looked for. One of the two sees the other.

    Raises:
        WorkerError: `Storage`, so that the build is repeated.
        ArtifactError: the storage failed.
    """
    found, _ = read_tombstones(job.dataset_uri)
    added = found.names - known.names
    if not any(spool.has_run(tenant, run) if run is not None else spool.has_tenant(tenant) for tenant, run in added):
        return
    drop_cache(job.dataset_uri)
    if version is not None and version.new:
        drop_version(version.ref)
    raise WorkerError(FailureClass.STORAGE, "runs of this build were forgotten while it went on: it is repeated")


def _configure(job: LabelJob) -> SplitConfig:
    try:
        if not 0.0 <= job.max_bad_fraction <= 1.0:
            raise ValueError(f"max_bad_fraction is {job.max_bad_fraction}: give a share from 0 to 1")
        if job.workers < 1:
            raise ValueError(f"workers is {job.workers}: give at least 1")
        if job.mixture is not None and job.format != "sft":
            raise ValueError(f"format is {job.format}: a mixture is of supervised rows, give sft")
        if job.mixture is not None and job.append:
            raise ValueError("append keeps rows as they were, which a mixture does not have: remove one of them")
        if job.mixture is not None and sum(each.source_uri is None for each in job.mixture.buckets) > 1:
            raise ValueError("mixture.buckets: only one bucket may have no source, it stands for the traces' rows")
        return SplitConfig(holdout=job.holdout, by=job.split_by)
    except ValueError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: {error}") from None


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
    if job.mixture is not None and all(bucket.source_uri is not None for bucket in job.mixture.buckets):
        # The rows come from elsewhere.
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


def _all_removed(removed: Removed, spool: Spool) -> str:
    return (
        f"all {spool.row_count(Part.TRAIN)} rows to train on were removed: {removed.leaks} hold a task of a suite, "
        f"{removed.duplicates.total()} repeat another. Set deduplication.near to false, raise the thresholds, or name "
        "other suites in leaks"
    )


def _named(counts: dict[SkipReason, int] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def _counts(build: Build) -> BuildCounts:
    skipped = {reason.value: count for reason, count in build.skipped.items()}
    return BuildCounts(
        traces=build.used,
        skipped=skipped,
        tally=build.tally,
        redactions=dict(build.redactions),
        bad_files=dict(build.bad_reasons),
        bad_screens=dict(build.bad_screens),
    )


def _output(version: Version, build: Build) -> LabelOutput:
    manifest = version.manifest
    quarantined = manifest.dropped.get(DropReason.PRIVATE.value, 0)
    return LabelOutput(
        dataset=version.ref,
        rows=manifest.rows,
        holdout_rows=manifest.holdout_rows,
        new_rows=version.new_rows,
        labels=manifest.labels,
        label_reasons=manifest.label_reasons,
        traces=manifest.traces,
        bad_files=build.bad_count,
        bad_examples=[str(file) for file in build.bad[:BAD_EXAMPLES]],
        bad_reasons=manifest.bad_files,
        redactions=manifest.redactions,
        quarantined=quarantined + manifest.skipped.get(SkipReason.PRIVATE_IDENTITY.value, 0),
        duplicates=manifest.duplicates,
        leaks=manifest.leaks,
        tenants=largest(Counter(manifest.tenants), TENANTS_TOLD),
        buckets={name: counts.rows for name, counts in manifest.buckets.items()},
        screens=manifest.screens.files,
        kept_rows=manifest.kept_rows,
        reused_files=build.reused,
    )

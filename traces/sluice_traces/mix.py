"""The mixture of a version: rows of the traces and of buckets, planned and given out in the plan's order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sluice_api.contracts.jobs import FailureClass, LabelJob, MixtureRule
from sluice_artifacts.reporting import WorkerError
from sluice_traces.buckets import BucketFile, BucketReader, BucketRow, BucketWriter, bucket_path
from sluice_traces.critic import HarnessRunner, IsolatedRunner
from sluice_traces.curate import Removed
from sluice_traces.mixture import Bucket, MixtureConfig, MixtureError, MixturePlan, plan_mixture
from sluice_traces.privacy import Redactor
from sluice_traces.spool import Part, Spool


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A planned mixture."""

    plan: MixturePlan
    """Which rows, in which order."""
    buckets: list[BucketFile]
    """The rows at hand, in the plan's order of buckets."""
    traces_bucket: str | None
    """Name of the bucket that stands for the rows of the traces."""

    def rows(self) -> Iterator[tuple[str, BucketRow]]:
        """Bucket and row, in the plan's order."""
        readers: list[Iterator[BucketRow]] = []
        for index, bucket in enumerate(self.buckets):
            readers.append(bucket.rows(_positions(self.plan, index)))
        for index, _ in self.plan.order:
            yield self.buckets[index].name, next(readers[index])


def _positions(plan: MixturePlan, index: int) -> Iterator[int]:
    return (row for bucket, row in plan.order if bucket == index)


def mix(
    job: LabelJob,
    rule: MixtureRule,
    spool: Spool,
    removed: Removed,
    redactor: Redactor,
    folder: Path,
    tell: Callable[[str], None],
    runner: HarnessRunner | None = None,
) -> Mixed:
    """Fill the buckets of a job's mixture and plan it.

    Args:
        job: the job.
        rule: its mixture.
        spool: rows of the traces, already split.
        removed: rows of the spool that stay out.
        redactor: looks for private text in the buckets.
        folder: where the buckets are kept meanwhile.
        tell: told the name of each bucket before it is read.
        runner: runs candidates' tests where they are asked for; None runs them in limited processes.

    Raises:
        WorkerError: `UserError` when the mixture cannot be asked for like this; `Data` when a bucket is empty, too
            small, or holds too many lines that are no candidates.
        ArtifactError: the storage failed.
    """
    try:
        config = MixtureConfig(
            rows=rule.rows,
            buckets=tuple(Bucket(name=each.name, weight=each.weight) for each in rule.buckets),
            max_repeats=rule.max_repeats,
            tag_weights=rule.tag_weights,
            seed=rule.seed,
        )
    except MixtureError as error:
        raise WorkerError(FailureClass.USER_ERROR, f"job input: mixture: {error}") from None
    tested = job.critic is not None and job.critic.run_tests
    reader = BucketReader(redactor, job.critic, (runner or IsolatedRunner()) if tested else None)
    files, traces_bucket = [], None
    for bucket in rule.buckets:
        tell(bucket.name)
        if bucket.source_uri is None:
            traces_bucket = bucket.name
            files.append(_from_traces(bucket.name, spool, removed, folder))
            continue
        files.append(reader.read(bucket.name, bucket.source_uri, folder))
        _check_bad(files[-1], job.max_bad_fraction)
    try:
        plan = plan_mixture(config, {file.name: file.infos for file in files})
    except MixtureError as error:
        raise WorkerError(FailureClass.DATA, f"mixture: {error}{_why_empty(files)}") from None
    return Mixed(plan=plan, buckets=files, traces_bucket=traces_bucket)


def _from_traces(name: str, spool: Spool, removed: Removed, folder: Path) -> BucketFile:
    with BucketWriter(name, bucket_path(folder, name)) as writer:
        for run in removed.left(spool, Part.TRAIN):
            for line in run.lines:
                writer.add(BucketRow(run.source, run.tenant_id, line))
    return writer.file


def _check_bad(file: BucketFile, budget: float) -> None:
    bad = file.bad.total()
    if bad <= budget * file.candidates:
        return
    examples = "; ".join(f"{line.place}: {line.reason}" for line in file.bad_lines[:5])
    raise WorkerError(
        FailureClass.DATA,
        f"bucket {file.name}: {bad} of {file.candidates} lines are no candidates, more than the allowed share of "
        f"{budget:g}: {examples}. Give lines with prompt and response, messages, conversations or text",
    )


def _why_empty(files: list[BucketFile]) -> str:
    parts = []
    for file in files:
        counts = {**file.rejected, **file.bad}
        if counts and not file.infos:
            reasons = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            parts.append(f"; of bucket {file.name} {file.candidates} lines were read and left out: {reasons}")
    return "".join(parts)

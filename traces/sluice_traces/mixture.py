"""Mixing buckets of rows: integer quotas that add up, repeats within bounds, and the choice written down with a hash.

Quotas are integers by largest remainder (Hamilton's method), so each bucket's share is within one row of its weight.
Within a bucket the rows share the quota by their weight, again by largest remainder: a down-weighted tag makes a row
rarer, and no row is used more often than `max_repeats`. A plan is a pure function of configuration, rows and seed.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sluice_artifacts import canonical_json, digest_bytes
from sluice_traces.reader import MALFORMED, explain

PLAN_SCHEMA_VERSION = 1
"""Version of the plan file."""
TOLERANCE = 0.01
"""Largest distance between a bucket's share and its weight: one percentage point."""

MAX_WEIGHT = 1e12
"""Largest weight: shares of sums of larger ones are no numbers any more."""


class MixtureError(ValueError):
    """The mixture cannot be made; the message names the bucket and what to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """One source of rows."""

    name: str
    """Its name in plan and messages."""
    weight: float
    """Its share, relative to the other weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """What to mix."""

    rows: int
    """Rows in all."""
    buckets: tuple[Bucket, ...]
    """The sources."""
    max_repeats: int = 4
    """Times that a row may be used, at most."""
    tag_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of rows with a tag, 1 for others; below 1 makes them rarer, 0 leaves them out."""
    seed: int = 0
    """Seed of ties and of the order."""

    def __post_init__(self) -> None:
        names = [bucket.name for bucket in self.buckets]
        if self.rows < 1 or self.max_repeats < 1:
            raise MixtureError(f"rows is {self.rows} and maxRepeats {self.max_repeats}: both must be at least 1")
        if not names or len(set(names)) != len(names):
            raise MixtureError(f"buckets are {names}: give at least one, each with a name of its own")
        if self.seed < 0:
            raise MixtureError(f"seed is {self.seed}: give 0 or more")
        for bucket in self.buckets:
            if not 0 < bucket.weight <= MAX_WEIGHT:
                raise MixtureError(
                    f"bucket {bucket.name}: weight is {bucket.weight}, it must be positive and at most {MAX_WEIGHT:g}"
                )
        for tag, weight in self.tag_weights.items():
            if not 0 <= weight <= 1:
                raise MixtureError(f"tag {tag}: weight is {weight}, it must lie between 0 and 1")


class RowInfo(NamedTuple):
    """What planning needs of a row."""

    digest: bytes
    """Digest of its bytes."""
    tags: tuple[str, ...] = ()
    """Its tags."""


class PlannedBucket(msgspec.Struct, frozen=True):
    """One bucket of a plan."""

    name: str
    """Its name."""
    weight: float
    """Its weight, as configured."""
    rows: int
    """Rows at hand."""
    used_rows: int
    """Rows used at least once."""
    quota: int
    """Rows of the mixture that come from it, repeats included."""
    digest: str
    """Digest over the digests of its rows, in order."""


class MixturePlan(msgspec.Struct, frozen=True):
    """Which rows make up the mixture, in which order."""

    schema_version: int
    """Version of this document."""
    seed: int
    """Seed of ties and order."""
    max_repeats: int
    """Times that a row was allowed to be used."""
    buckets: tuple[PlannedBucket, ...]
    """The buckets."""
    order: tuple[tuple[int, int], ...]
    """Index of the bucket and index of the row in it, a pair a row of the mixture."""

    def encode(self) -> bytes:
        """The plan file; equal plans have equal bytes."""
        return canonical_json(msgspec.to_builtins(self))

    def digest(self) -> str:
        """Digest of the plan file."""
        return digest_bytes(self.encode())


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """Integers that add up to `total`, each within one of its exact share; ties go to the first.

    Raises:
        MixtureError: no weight is positive.
    """
    whole = float(sum(weights))
    if whole <= 0:
        raise MixtureError("no weight is positive")
    exact = [total * weight / whole for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


def plan_mixture(config: MixtureConfig, rows: Mapping[str, Sequence[RowInfo]]) -> MixturePlan:
    """The plan of a mixture.

    Args:
        config: what to mix.
        rows: rows at hand by bucket.

    Raises:
        MixtureError: a bucket is empty or too small, or the rows are too few for the weights.
    """
    rng = np.random.Generator(np.random.Philox(config.seed))
    quotas = largest_remainder(config.rows, [bucket.weight for bucket in config.buckets])
    whole = sum(bucket.weight for bucket in config.buckets)
    planned, order = [], []
    for index, (bucket, quota) in enumerate(zip(config.buckets, quotas, strict=True)):
        share = bucket.weight / whole
        if abs(quota / config.rows - share) > TOLERANCE or quota == 0:
            raise MixtureError(
                f"bucket {bucket.name}: {quota} of {config.rows} rows is not its share {share:.3f}: ask for more rows"
            )
        listed = rows.get(bucket.name, ())
        counts = _row_counts(bucket.name, listed, quota, config, rng)
        order += [(index, row) for row in np.repeat(np.arange(len(counts)), counts).tolist()]
        digest = hashlib.sha256(b"".join(row.digest for row in listed)).hexdigest()
        used = int(np.count_nonzero(counts))
        planned.append(PlannedBucket(bucket.name, bucket.weight, len(listed), used, quota, f"sha256:{digest}"))
    shuffled = tuple(order[i] for i in rng.permutation(len(order)).tolist())
    return MixturePlan(PLAN_SCHEMA_VERSION, config.seed, config.max_repeats, tuple(planned), shuffled)


def _row_counts(
    name: str, rows: Sequence[RowInfo], quota: int, config: MixtureConfig, rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often each row of a bucket is used: its share of the quota by weight, at most `max_repeats`."""
    weights = np.array([_weight(row, config.tag_weights) for row in rows], dtype=np.float64)
    usable = int(np.count_nonzero(weights))
    if usable == 0:
        raise MixtureError(f"bucket {name}: no rows; fill it or remove it from the mixture")
    if quota > usable * config.max_repeats:
        needed = -(-quota // usable)
        raise MixtureError(
            f"bucket {name}: {quota} rows from {usable} need {needed} repeats and {config.max_repeats} are allowed: "
            "add rows, lower its weight, ask for fewer rows, or raise maxRepeats"
        )
    counts = np.zeros(len(rows), dtype=np.int64)
    # Ties go to a seeded order of the rows instead of always to the first ones.
    priority = rng.permutation(len(rows))
    while (missing := quota - int(counts.sum())) > 0:
        open_weights = np.where(counts < config.max_repeats, weights, 0.0)
        exact = missing * open_weights / open_weights.sum()
        step = np.minimum(exact.astype(np.int64), config.max_repeats - counts)
        left = missing - int(step.sum())
        remainder = np.where(open_weights > 0, exact - step, -1.0)
        remainder[counts + step >= config.max_repeats] = -1.0
        best = np.lexsort((priority, -remainder))[: min(left, int(np.count_nonzero(remainder >= 0)))]
        step[best] += 1
        counts += step
    return counts


def _weight(row: RowInfo, tag_weights: Mapping[str, float]) -> float:
    weight = 1.0
    for tag in row.tags:
        weight *= tag_weights.get(tag, 1.0)
    return weight


class _BucketEntry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    weight: float
    path: str


class _MixtureFile(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    rows: int
    buckets: list[_BucketEntry]
    max_repeats: int = 4
    seed: int = 0
    tag_weights: dict[str, float] | None = None


def read_mixture_file(path: Path) -> tuple[MixtureConfig, list[Path]]:
    """The mixture of a YAML file, and the files of its buckets, which it names relative to itself.

    Raises:
        MixtureError: it is no such file; names the field.
        OSError: it cannot be read.
    """
    import yaml

    try:
        entry = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _MixtureFile)
    except yaml.YAMLError as error:
        raise MixtureError(f"{path.name}: not YAML: {error}") from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise MixtureError(f"{path.name}: {error}") from None
    except UnicodeDecodeError as error:
        raise MixtureError(f"{path.name}: byte {error.start} is not UTF-8") from None
    try:
        config = MixtureConfig(
            rows=entry.rows,
            max_repeats=entry.max_repeats,
            seed=entry.seed,
            tag_weights=entry.tag_weights or {},
            buckets=tuple(Bucket(name=each.name, weight=each.weight) for each in entry.buckets),
        )
    except MixtureError as error:
        raise MixtureError(f"{path.name}: {error}") from None
    return config, [path.parent / each.path for each in entry.buckets]


class _TagMetadata(msgspec.Struct, gc=False):
    tags: tuple[str, ...] = ()


class _Tagged(msgspec.Struct, gc=False):
    tags: tuple[str, ...] = ()
    metadata: _TagMetadata = msgspec.field(default_factory=_TagMetadata)


_TAGGED = msgspec.json.Decoder(_Tagged)


def row_tags(line: bytes) -> tuple[str, ...]:
    """Tags of a row, its own and those of its metadata.

    Raises:
        msgspec.DecodeError: the line is no row.
    """
    row = _TAGGED.decode(line)
    return (*row.tags, *row.metadata.tags)


def read_rows(path: Path) -> Iterator[tuple[RowInfo, int, int]]:
    """Rows of a JSONL file, with the offset and length of their lines; empty lines are no rows.

    Raises:
        MixtureError: a line is no row.
        OSError: the file cannot be read.
    """
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            stripped = line.rstrip(b"\r\n")
            if stripped.strip():
                try:
                    tags = row_tags(stripped)
                except MALFORMED as error:
                    raise MixtureError(f"{path}: line {number} is no row: {explain(error)}") from None
                yield RowInfo(hashlib.sha256(stripped).digest(), tags), offset, len(stripped)
            offset += len(line)


def write_mixture(plan: MixturePlan, sources: Sequence[tuple[Path, Sequence[tuple[int, int]]]]) -> Iterator[bytes]:
    """The rows of a mixture in the plan's order, each line ended.

    Args:
        plan: the plan.
        sources: for each of its buckets the file and the offset and length of its rows.

    Raises:
        OSError: a file cannot be read.
    """
    files = [path.open("rb") for path, _ in sources]
    try:
        for bucket, row in plan.order:
            offset, length = sources[bucket][1][row]
            files[bucket].seek(offset)
            yield files[bucket].read(length) + b"\n"
    finally:
        _close(files)


def _close(files: Iterable[Any]) -> None:
    for file in files:
        file.close()

"""Finding what was said before: exact duplicates by hash, near-duplicates by bands, each candidate verified.

Texts are fed in order; the first of equal or similar ones stays. A text is a near-duplicate when the Jaccard
similarity of its shingles with those of a kept text reaches the threshold; it is counted on all shingles, by 48 bits of
their hashes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sluice_traces.dedup.minhash import band_keys, signatures
from sluice_traces.dedup.shingles import U64, shingle_batch

BATCH_TEXTS = 2048
"""Texts that are hashed together."""
BATCH_PAIRS = 1 << 14
"""Pairs that are verified together."""
_HASH_BITS = np.uint64(48)
_HASH_MASK = np.uint64((1 << 48) - 1)
_PAIRS_OF_ALL = 32
"""Larger groups of candidates are compared with their first member and with neighbours only, not all with all."""


class DuplicateKind(StrEnum):
    """How a text repeats another."""

    EXACT = "exact_duplicate"
    """The same text."""
    NEAR = "near_duplicate"
    """Similar to the threshold or more; so is a text that differs in case, blanks and punctuation only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearConfig:
    """What counts as similar, and how candidates are found.

    With 21 bands of 6 bins a pair of similarity s meets with probability 1 - (1 - s^6)^21: .998 at .8, .30 at .5.
    """

    threshold: float = 0.8
    """Jaccard similarity from which a text is a near-duplicate."""
    shingle_words: int = 3
    """Words a shingle, 1 to 5."""
    bins: int = 128
    """Length of a signature, a power of two."""
    bands: int = 21
    """Bands."""
    rows: int = 6
    """Bins a band."""

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"threshold is {self.threshold}: give a similarity above 0 and at most 1")
        if not 1 <= self.shingle_words <= 5:
            raise ValueError(f"shingle_words is {self.shingle_words}: give 1 to 5")
        if self.bins < 2 or self.bins & (self.bins - 1):
            raise ValueError(f"bins is {self.bins}: give a power of two")
        if self.bands < 1 or self.rows < 1 or self.bands * self.rows > self.bins:
            raise ValueError(f"{self.bands} bands of {self.rows} do not fit into {self.bins} bins")


class Deduplicator:
    """Finds duplicates in a sequence of texts."""

    def __init__(self, config: NearConfig | None = None, *, near: bool = True) -> None:
        """Prepare a search; without `near` only exact duplicates are found."""
        self._config = config or NearConfig()
        self._near = near

    def find(self, texts: Sequence[str]) -> dict[int, tuple[DuplicateKind, int]]:
        """The duplicates: index of each, with its kind and the index of the kept text that it repeats."""
        found: dict[int, tuple[DuplicateKind, int]] = {}
        first: dict[str, int] = {}
        kept: list[int] = []
        for index, text in enumerate(texts):
            original = first.setdefault(text, index)
            if original == index:
                kept.append(index)
            else:
                found[index] = (DuplicateKind.EXACT, original)
        if self._near and len(kept) > 1:
            for later, earlier in self._near_duplicates([texts[index] for index in kept]).items():
                found[kept[later]] = (DuplicateKind.NEAR, kept[earlier])
        # What repeats a near-duplicate repeats what that one repeats.
        return {
            index: (kind, found[original][1] if original in found else original)
            for index, (kind, original) in sorted(found.items())
        }

    def find_near(self, texts: Sequence[str]) -> dict[int, int]:
        """The near-duplicates among texts of which no two are equal: index of each, with that of the kept text.

        The texts are read in slices and one by one, and never all held: they may lie on disk.
        """
        return self._near_duplicates(texts) if len(texts) > 1 else {}

    def _near_duplicates(self, texts: Sequence[str]) -> dict[int, int]:
        keys = self._keys(texts)
        pairs = candidate_pairs(keys)
        return _resolve(pairs, self._verified(texts, pairs))

    def _keys(self, texts: Sequence[str]) -> U64:
        config = self._config
        keys = np.empty((len(texts), config.bands), dtype=np.uint64)
        for start in range(0, len(texts), BATCH_TEXTS):
            shingles, bounds = shingle_batch(texts[start : start + BATCH_TEXTS], config.shingle_words)
            table = signatures(shingles, bounds, config.bins)
            keys[start : start + BATCH_TEXTS] = band_keys(table, config.bands, config.rows)
        return keys

    def _verified(self, texts: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs are as similar as asked for, by the exact similarity of their shingles."""
        similar = np.zeros(len(pairs), dtype=bool)
        for start in range(0, len(pairs), BATCH_PAIRS):
            part = pairs[start : start + BATCH_PAIRS]
            needed, places = np.unique(part, return_inverse=True)
            sets = [self._sets([texts[index] for index in chunk]) for chunk in _chunks(needed.tolist())]
            shingles = np.concatenate([found for found, _ in sets])
            sizes = np.concatenate([found for _, found in sets])
            found = jaccard(shingles, sizes, places.reshape(part.shape))
            similar[start : start + BATCH_PAIRS] = found >= self._config.threshold
        return similar

    def _sets(self, texts: Sequence[str]) -> tuple[U64, NDArray[np.int64]]:
        """Distinct shingles of texts, text by text, and how many each has."""
        shingles, bounds = shingle_batch(texts, self._config.shingle_words)
        keyed = np.sort(_tagged(np.repeat(np.arange(len(texts)), np.diff(bounds)), shingles))
        keyed = keyed[np.concatenate(([True], keyed[1:] != keyed[:-1]))] if len(keyed) else keyed
        sizes = np.bincount((keyed >> _HASH_BITS).astype(np.int64), minlength=len(texts)).astype(np.int64)
        return keyed & _HASH_MASK, sizes


def _chunks(indices: list[int]) -> list[list[int]]:
    return [indices[start : start + BATCH_TEXTS] for start in range(0, len(indices), BATCH_TEXTS)]


def _tagged(owners: NDArray[np.int64], shingles: U64) -> U64:
    """Shingles that sort by their owner first."""
    return (owners.astype(np.uint64) << _HASH_BITS) | (shingles & _HASH_MASK)


def candidate_pairs(keys: U64) -> NDArray[np.int64]:
    """Pairs (earlier, later) of texts that share a band, each once, in order.

    Args:
        keys: texts by bands.
    """
    collected: list[NDArray[np.int64]] = []
    for band in range(keys.shape[1]):
        column = keys[:, band]
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
        sizes = np.diff(edges)
        starts = edges[:-1]
        twos = starts[sizes == 2]
        collected.append(np.stack((order[twos], order[twos + 1]), axis=1))
        for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
            collected.append(_group_pairs(order[start : start + size]))
    if not collected:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.concatenate(collected), axis=0)


def _group_pairs(members: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(members) <= _PAIRS_OF_ALL:
        return np.array(list(combinations(members.tolist(), 2)), dtype=np.int64)
    with_first = np.stack((np.full(len(members) - 1, members[0]), members[1:]), axis=1)
    neighbours = np.stack((members[:-1], members[1:]), axis=1)
    return np.concatenate((with_first, neighbours))


def _resolve(pairs: NDArray[np.int64], similar: NDArray[np.bool_]) -> dict[int, int]:
    """Later text to the first kept earlier one that it is similar to."""
    removed: dict[int, int] = {}
    kept_pairs = pairs[similar]
    for earlier, later in kept_pairs[np.lexsort((kept_pairs[:, 0], kept_pairs[:, 1]))].tolist():
        if later not in removed and earlier not in removed:
            removed[later] = earlier
    return removed


def jaccard(shingles: U64, sizes: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Jaccard similarity of pairs of sets; two empty sets are not similar.

    Args:
        shingles: the elements of all sets, set by set, distinct within each.
        sizes: elements of each set.
        pairs: places of the two sets of every pair, at most `BATCH_PAIRS` pairs.
    """
    starts = np.concatenate(([0], np.cumsum(sizes)))
    both = sizes[pairs[:, 0]] + sizes[pairs[:, 1]]
    tagged = np.sort(
        np.concatenate([_gather(shingles, starts, sizes, pairs[:, side]) for side in range(2)])
        if len(pairs)
        else np.empty(0, dtype=np.uint64)
    )
    # Elements are distinct within a set, so that two equal ones of a pair are one of each side.
    shared = tagged[1:][tagged[1:] == tagged[:-1]]
    common = np.bincount((shared >> _HASH_BITS).astype(np.int64), minlength=len(pairs))
    union = both - common
    similar = np.zeros(len(pairs))
    np.divide(common, union, out=similar, where=union > 0)
    return similar


def _gather(shingles: U64, starts: NDArray[np.int64], sizes: NDArray[np.int64], sets: NDArray[np.int64]) -> U64:
    """The elements of given sets, each tagged with its place in the sequence."""
    counts = sizes[sets]
    ends = np.cumsum(counts)
    owners = np.repeat(np.arange(len(sets)), counts)
    inside = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
    return _tagged(owners, shingles[np.repeat(starts[sets], counts) + inside])

"""Finding what was said before: exact duplicates by hash, near-duplicates by bands, each candidate verified.

Texts are fed in order; the first of equal or similar ones stays. A text is a near-duplicate when the Jaccard
similarity of its shingles with those of a kept text, computed exactly, reaches the threshold.
"""

import hashlib
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
        first: dict[bytes, int] = {}
        kept: list[int] = []
        for index, text in enumerate(texts):
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
            original = first.setdefault(digest, index)
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
        size, cache = self._config.shingle_words, dict[int, U64]()
        needed = np.unique(pairs).tolist()
        for start in range(0, len(needed), BATCH_TEXTS):
            chunk = needed[start : start + BATCH_TEXTS]
            shingles, bounds = shingle_batch([texts[index] for index in chunk], size)
            for place, index in enumerate(chunk):
                cache[index] = np.unique(shingles[bounds[place] : bounds[place + 1]])
        return np.array([jaccard(cache[a], cache[b]) >= self._config.threshold for a, b in pairs.tolist()], dtype=bool)


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


def jaccard(a: U64, b: U64) -> float:
    """Jaccard similarity of two sorted arrays without repeats; two empty ones are not similar."""
    if len(a) == 0 or len(b) == 0:
        return 0.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)

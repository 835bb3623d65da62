"""Leaks: training rows that contain a task of an evaluation suite, whole or for the most part.

A task is short and a row is long, so similarity of the whole would hide it. What is measured is how much of the task is
in the row: the share of the task's shingles that the row has too.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from sluice_traces.dedup.shingles import shingle_batch

_BATCH = 2048


class LeakIndex:
    """Shingles of evaluation tasks."""

    def __init__(self, tasks: Iterable[str], *, shingle_words: int = 3, threshold: float = 0.8) -> None:
        """Index tasks.

        Args:
            tasks: their texts.
            shingle_words: words a shingle, 1 to 5; a shorter task counts as one shingle.
            threshold: share of a task's shingles in a row from which the row is a leak.

        Raises:
            ValueError: the threshold is not above 0 and at most 1.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}: give a share above 0 and at most 1")
        self._threshold = threshold
        texts = list(tasks)
        self._by_size: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        lengths = [min(shingle_words, _word_count(text)) for text in texts]
        # A task shorter than a shingle is looked for among shingles of its own length.
        for size in sorted(set(lengths) - {0}):
            shingles, bounds = shingle_batch([t for t, n in zip(texts, lengths, strict=True) if n == size], size)
            owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
            pairs = np.unique(np.stack((shingles, owner.astype(np.uint64)), axis=1), axis=0)
            sizes = np.bincount(pairs[:, 1].astype(np.int64), minlength=len(bounds) - 1)
            self._by_size.append((size, pairs[:, 0], pairs[:, 1].astype(np.int64), sizes))

    def leaks(self, rows: Sequence[str]) -> list[bool]:
        """Whether each row contains a task."""
        found = np.zeros(len(rows), dtype=bool)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            for size, values, owners, sizes in self._by_size:
                shingles, bounds = shingle_batch(part, size)
                for place in range(len(part)):
                    if not found[start + place]:
                        own = shingles[bounds[place] : bounds[place + 1]]
                        found[start + place] = self._contains(own, values, owners, sizes)
        return found.tolist()

    def _contains(self, own: np.ndarray, values: np.ndarray, owners: np.ndarray, sizes: np.ndarray) -> bool:
        own = np.unique(own)
        left, right = np.searchsorted(values, own, side="left"), np.searchsorted(values, own, side="right")
        hit = right > left
        if not hit.any():
            return False
        index = np.concatenate([np.arange(a, b) for a, b in zip(left[hit].tolist(), right[hit].tolist(), strict=True)])
        shared = np.bincount(owners[index], minlength=len(sizes))
        return bool(np.any(shared >= self._threshold * sizes))


def _word_count(text: str) -> int:
    _, bounds = shingle_batch([text], 1)
    return int(bounds[-1])

"""MinHash signatures with one hash per shingle, and the bands by which near-duplicates meet.

Classic MinHash evaluates every permutation on every shingle. One permutation hashing (Li, Owen and Zhang, 2012) cuts
one permutation into bins and keeps the smallest hash of each, so a shingle costs one hash instead of 128. Bins without
a shingle borrow from the nearest one that has some, in a direction that depends on the bin alone (improved
densification, Shrivastava and Li, 2014), which keeps the estimate of the Jaccard similarity unbiased.
"""

import numpy as np
from numpy.typing import NDArray

from sluice_traces.dedup.shingles import U64, mix

_STEP = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


def signatures(shingles: U64, bounds: NDArray[np.int64], bins: int) -> U64:
    """Signatures of the texts of a batch.

    Args:
        shingles: hashes of all shingles, text by text.
        bounds: where each text's begin; one more entry than texts.
        bins: length of a signature, a power of two.

    Returns:
        An array of texts by bins; texts without shingles have the largest value throughout.
    """
    texts = len(bounds) - 1
    table = np.full(texts * bins, _EMPTY, dtype=np.uint64)
    owner = np.repeat(np.arange(texts, dtype=np.int64), np.diff(bounds))
    # The high bits choose the bin, all of them are the value within it.
    slot = owner * bins + (shingles >> np.uint64(64 - bins.bit_length() + 1)).astype(np.int64)
    np.minimum.at(table, slot, shingles)
    return _densify(table.reshape(texts, bins))


def _densify(table: U64) -> U64:
    """Empty bins filled from the nearest full one, to the left or to the right as the bin's own bit says."""
    bins = table.shape[1]
    full = table != _EMPTY
    counts = full.sum(axis=1)
    rows = np.flatnonzero((counts > 0) & (counts < bins))
    if len(rows) == 0:
        return table
    part, filled, ends = table[rows], full[rows].ravel(), np.cumsum(counts[rows])
    places = np.flatnonzero(filled)
    holes = np.flatnonzero(~filled)
    row, place = np.divmod(holes, bins)
    # The full bins before and behind a hole, around the ends of its row.
    behind = np.cumsum(filled, dtype=np.int32)[holes]
    first, last = places[np.concatenate(([0], ends[:-1]))][row], places[ends - 1][row]
    left = np.where(behind > (ends - counts[rows])[row], places[behind - 1], last - bins)
    right = np.where(behind < ends[row], places[np.minimum(behind, len(places) - 1)], first + bins)
    go_left = _go_left(bins)[place]
    source = np.where(go_left, left, right)
    distance = np.abs(source - holes)
    wrapped = row * bins + (source - row * bins) % bins
    # The distance is mixed in, or two texts would agree in runs of bins instead of in single ones.
    flat = part.ravel()
    flat[holes] = mix(flat[wrapped] + distance.astype(np.uint64) * _STEP)
    out = table.copy()
    out[rows] = flat.reshape(part.shape)
    return out


def _go_left(bins: int) -> NDArray[np.bool_]:
    """A random direction for every bin, the same for all texts: equal sets must stay equal."""
    return (mix(np.arange(bins, dtype=np.uint64)) & np.uint64(1)).astype(bool)


def band_keys(table: U64, bands: int, rows: int) -> U64:
    """Keys of the bands of each signature: texts that share one are candidates.

    Args:
        table: signatures.
        bands: bands, at most bins / rows.
        rows: bins a band.

    Returns:
        An array of texts by bands.
    """
    used = table[:, : bands * rows].reshape(len(table), bands, rows)
    keys = np.zeros((len(table), bands), dtype=np.uint64)
    for place in range(rows):
        keys = mix(keys + used[:, :, place])
    return keys


def estimate(a: U64, b: U64) -> float:
    """Estimated Jaccard similarity of two texts: the share of equal bins."""
    return float(np.mean(a == b))

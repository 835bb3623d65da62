"""Word shingles of many texts at once, as 64-bit hashes, without a Python loop over words.

The texts of a batch are joined into one array of bytes. Words are hashed by differences of one running polynomial
hash (Karp and Rabin, 1987) modulo 2^64 with an odd base, which has an inverse; a shingle combines the hashes of
consecutive words, mixed by the finaliser of MurmurHash3 so that its low and high bits are equally good.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_SEPARATOR = b"\n"
_ORDER = (0x9DDFEA08EB382D69, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63)
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_VALUES = _LOWER.astype(np.uint64) + np.uint64(1)
_IS_WORD = np.zeros(256, dtype=bool)
_IS_WORD[[*range(48, 58), *range(65, 91), *range(97, 123), *range(128, 256)]] = True


def words_of(text: str) -> list[str]:
    """The words that shingles are made of: runs of ASCII letters and digits and of any other script, in lower case."""
    out, word = [], bytearray()
    for byte in text.encode("utf-8", "replace"):
        if _IS_WORD[byte]:
            word.append(int(_LOWER[byte]))
        elif word:
            out.append(word.decode("utf-8", "replace"))
            word = bytearray()
    return [*out, word.decode("utf-8", "replace")] if word else out


def mix(values: U64) -> U64:
    """The 64-bit finaliser of MurmurHash3: a bijection after which every bit depends on every bit."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def shingle_batch(texts: Sequence[str], size: int) -> tuple[U64, NDArray[np.int64]]:
    """Shingles of a batch of texts.

    A text with fewer words than a shingle has one shingle of all its words; a text without words has none.

    Args:
        texts: the texts.
        size: words a shingle, 1 to 5.

    Returns:
        The hashes of all shingles, text by text (repeats included), and where each text's begin; one more entry than
        texts.
    """
    encoded = [text.encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(_SEPARATOR.join(encoded) + _SEPARATOR, dtype=np.uint8)
    starts, ends = _words(data)
    hashes = _word_hashes(data, starts, ends)
    ended = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)) + 1)
    texts_of = np.searchsorted(ended, starts, side="right")
    counts = np.bincount(texts_of, minlength=len(texts)).astype(np.int64)
    first = np.concatenate(([0], np.cumsum(counts)))
    shingles = np.maximum(counts - size + 1, (counts > 0).astype(np.int64))
    bounds = np.concatenate(([0], np.cumsum(shingles)))
    # Index of the first word of every shingle.
    offsets = np.arange(int(bounds[-1]), dtype=np.int64) - np.repeat(bounds[:-1], shingles)
    position = np.repeat(first[:-1], shingles) + offsets
    last = np.repeat(first[1:], shingles)
    combined = np.zeros(len(position), dtype=np.uint64)
    for place in range(size):
        inside = position + place < last
        found = hashes[np.minimum(position + place, max(len(hashes) - 1, 0))] if len(hashes) else combined
        combined += np.where(inside, mix(found + np.uint64(_ORDER[place])), np.uint64(0)) * np.uint64(_ORDER[place])
    return mix(combined), bounds


def _words(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of every word."""
    edges = np.diff(_IS_WORD[data].astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _word_hashes(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> U64:
    """Hash of every word, from the running hash of the joined bytes."""
    running = np.zeros(len(data) + 1, dtype=np.uint64)
    values = running[1:]
    np.multiply(_VALUES[data], _powers(_BASE, len(data)), out=values)
    np.cumsum(values, out=values)
    return mix((running[ends] - running[starts]) * _powers(_INVERSE, len(data))[starts])


_CACHE: dict[int, U64] = {}


def _powers(base: int, count: int) -> U64:
    """Powers of an odd base modulo 2^64, kept for the largest batch seen."""
    known = _CACHE.get(base)
    if known is None or len(known) < count:
        values = np.full(max(count, 1 << 16), base, dtype=np.uint64)
        values[0] = 1
        known = _CACHE[base] = np.cumprod(values, dtype=np.uint64)
    return known[:count]

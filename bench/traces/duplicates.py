"""Near-duplicate search against datasketch."""

import random
import time

from datasketch import MinHash, MinHashLSH
from report import Report

from sluice_traces.dedup import Deduplicator
from sluice_traces.dedup.shingles import words_of

THRESHOLD = 0.8
"""Jaccard similarity of near-duplicates."""


def documents(count: int, seed: int) -> list[str]:
    """Made-up texts of 40 to 120 words, a fifth of them followed by a copy with up to three words changed."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(3, 10))) for _ in range(20_000)]
    texts: list[str] = []
    while len(texts) < count:
        text = rng.choices(words, k=rng.randrange(40, 121))
        texts.append(" ".join(text))
        if rng.random() < 0.2:
            for _ in range(rng.randrange(4)):
                text[rng.randrange(len(text))] = rng.choice(words)
            texts.append(" ".join(text))
    return texts


def shingles(text: str) -> set[str]:
    """Shingles of three words, as both contenders use them."""
    words = words_of(text)
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


def datasketch_duplicates(texts: list[str]) -> set[int]:
    """Near-duplicates by datasketch, candidates verified like ours; its batched update is its fastest."""
    index, found, sets = MinHashLSH(threshold=THRESHOLD, num_perm=128), set(), []
    for number, text in enumerate(texts):
        own = shingles(text)
        sets.append(own)
        sketch = MinHash(num_perm=128)
        sketch.update_batch([shingle.encode() for shingle in own])
        if any(len(own & sets[k]) >= THRESHOLD * len(own | sets[k]) for k in index.query(sketch)):
            found.add(number)
        else:
            index.insert(number, sketch)
    return found


def near_duplicates(count: int, report: Report) -> None:
    """Documents per second and recall of both searches, taking turns, best of three."""
    texts = documents(count, seed=1)
    sets = [shingles(text) for text in texts]
    # A copy directly follows its original, so that the truth needs no search.
    truth = {
        i + 1 for i in range(len(texts) - 1) if len(sets[i] & sets[i + 1]) >= THRESHOLD * len(sets[i] | sets[i + 1])
    }
    share = max(1, count // 10)
    early = {number for number in truth if number < share}
    their_seconds = our_seconds = float("inf")
    for _ in range(3):
        started = time.process_time()
        theirs = datasketch_duplicates(texts[:share])
        their_seconds = min(their_seconds, time.process_time() - started)
        started = time.process_time()
        found = set(Deduplicator().find(texts))
        our_seconds = min(our_seconds, time.process_time() - started)
    their_rate, our_rate = share / their_seconds, len(texts) / our_seconds
    report.title(f"near-duplicate search, one core, {len(texts)} documents (datasketch: the first {share}), best of 3")
    report.rate("datasketch", their_rate, "documents/s", f"   recall {len(theirs & early) / len(early):.4f}")
    report.rate("sluice", our_rate, "documents/s", f"   recall {len(found & truth) / len(truth):.4f}")
    report.ratio("near-duplicate search against datasketch", our_rate / their_rate, at_least=15)

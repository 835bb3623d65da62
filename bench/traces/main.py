"""Traces to rows, near-duplicates and memory, each against what one would use first.

Method. Everything is measured in one run of one process on made-up traces (`made_up.py`), chunk by chunk, the
contenders taking turns on each chunk in an order that rotates, so that a busy machine slows all of them alike.
Times are processor time of this process. Rows must be equal before a rate is printed. Memory is the peak resident set
of a process of its own that builds a dataset from files, at one time and at ten times the traces.

    python bench/traces/main.py [--traces 200000] [--documents 20000] [--files 2000]
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import orjson
from datasketch import MinHash, MinHashLSH
from made_up import made_up_traces
from peers import plain_pipeline

from sluice_traces.convert import NO_SCREENS, ConvertConfig
from sluice_traces.dedup import Deduplicator
from sluice_traces.dedup.shingles import words_of
from sluice_traces.pipeline import RunRows, TracePipeline
from sluice_traces.privacy import PrivacyConfig, Redactor

CHUNK = 2000
"""Traces that the contenders take turns on."""
THRESHOLD = 0.8
"""Jaccard similarity of near-duplicates."""
Pipeline = Callable[[list[bytes]], bytes]


def ours(pipeline: TracePipeline) -> Pipeline:
    """The rows of a chunk by the product's pipeline."""

    def work(chunk: list[bytes]) -> bytes:
        found = (pipeline.process(raw, NO_SCREENS) for raw in chunk)
        return b"".join(each.block for each in found if isinstance(each, RunRows))

    return work


def plain(loads: Callable[[bytes], object], dumps: Callable[[object], bytes]) -> Pipeline:
    """The rows of a chunk by the obvious pipeline."""
    return lambda chunk: b"".join(row + b"\n" for row in plain_pipeline(chunk, loads, dumps))


def label_and_convert(traces: int) -> None:
    """Print traces per second of each contender and the ratios."""
    config = ConvertConfig(require_screenshot=False)
    contenders: dict[str, Pipeline] = {
        "json + loop": plain(json.loads, lambda row: json.dumps(row, ensure_ascii=False).encode()),
        "orjson + loop": plain(orjson.loads, orjson.dumps),
        "sluice": ours(TracePipeline(config)),
        "sluice, with privacy": ours(TracePipeline(config, redactor=Redactor(PrivacyConfig()))),
    }
    spent = dict.fromkeys(contenders, 0.0)
    source, names = made_up_traces(traces, seed=0), list(contenders)
    while chunk := list(islice(source, CHUNK)):
        rows: dict[str, bytes] = {}
        names = names[1:] + names[:1]
        for name in names:
            started = time.process_time()
            rows[name] = contenders[name](chunk)
            spent[name] += time.process_time() - started
        parsed = {name: [orjson.loads(line) for line in block.splitlines()] for name, block in rows.items()}
        if any(found != parsed["sluice"] for found in parsed.values()):
            raise SystemExit("the contenders disagree about the rows: no rate is worth printing")
    print(f"label + convert, one core, {traces} traces")
    for name, seconds in spent.items():
        print(f"  {name:<22} {traces / seconds:>10,.0f} traces/s")
    print(f"  against json + loop    {spent['json + loop'] / spent['sluice']:>10.2f} x   (asked for: 5)")
    print(f"  against orjson + loop  {spent['orjson + loop'] / spent['sluice']:>10.2f} x   (asked for: 2)")


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


def near_duplicates(count: int) -> None:
    """Print documents per second and recall of both searches."""
    texts = documents(count, seed=1)
    sets = [shingles(text) for text in texts]
    # A copy directly follows its original, so that the truth needs no search.
    truth = {
        i + 1 for i in range(len(texts) - 1) if len(sets[i] & sets[i + 1]) >= THRESHOLD * len(sets[i] | sets[i + 1])
    }
    share = max(1, count // 10)
    started = time.process_time()
    theirs = datasketch_duplicates(texts[:share])
    their_seconds = time.process_time() - started
    started = time.process_time()
    found = set(Deduplicator().find(texts))
    our_seconds = time.process_time() - started
    early = {number for number in truth if number < share}
    their_rate, our_rate = share / their_seconds, len(texts) / our_seconds
    print(f"near-duplicate search, one core, {len(texts)} documents (datasketch: the first {share})")
    print(f"  datasketch             {their_rate:>10,.0f} documents/s   recall {len(theirs & early) / len(early):.4f}")
    print(f"  sluice                 {our_rate:>10,.0f} documents/s   recall {len(found & truth) / len(truth):.4f}")
    print(f"  ratio                  {our_rate / their_rate:>10.1f} x   (asked for: 15)")


def memory(files: int) -> None:
    """Print the peak memory of builds from so many files and from ten times as many."""
    peaks = []
    for count in (files, 10 * files):
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            _write_files(Path(folder) / "traces", count)
            command = [sys.executable, __file__, "--build", folder]
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(int(finished.stdout))
    small, large = (f"{peak / 1024:.0f} MiB" for peak in peaks)
    print(f"peak memory of a build from files: {small} at {files} traces, {large} at {10 * files}")
    print(f"  ratio                  {peaks[1] / peaks[0]:>10.2f} x   (asked for: at most 1.2)")


def _write_files(root: Path, count: int) -> None:
    for number, raw in enumerate(made_up_traces(count, seed=2)):
        folder = root / f"tenant-{number % 37}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"run-{number:08d}.json").write_bytes(raw)


def build(folder: Path) -> None:
    """Build one dataset and print the peak resident set in KiB."""
    from sluice_api.contracts.jobs import LabelJob
    from sluice_artifacts.reporting import Reporter
    from sluice_traces.worker import run

    job = LabelJob.model_validate(
        {
            "run": {"kind": "TraceDataset", "namespace": "bench", "name": "bench", "uid": "bench"},
            "attempt": 1,
            "output_uri": (folder / "attempt").as_uri() + "/",
            "source_uri": (folder / "traces").as_uri() + "/",
            "dataset_uri": (folder / "datasets").as_uri() + "/",
            "require_screenshot": False,
        }
    )
    run(job, Reporter(job))
    # Not `ru_maxrss`: that one remembers the parent's size from before this program was loaded.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description="benchmarks of traces to rows")
    parser.add_argument("--traces", type=int, default=200_000, help="traces to label and convert")
    parser.add_argument("--documents", type=int, default=20_000, help="documents to search for near-duplicates")
    parser.add_argument("--files", type=int, default=2_000, help="trace files of the smaller build")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.build is not None:
        build(arguments.build)
        return 0
    label_and_convert(arguments.traces)
    near_duplicates(arguments.documents)
    memory(arguments.files)
    return 0


if __name__ == "__main__":
    sys.exit(main())

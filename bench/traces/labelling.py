"""Label and convert: trace documents to rows, against a loop over dictionaries with json and with orjson."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import orjson
from made_up import made_up_traces, write_files
from peers import label_then_convert, plain_pipeline
from report import Report

from sluice_api.contracts.trace import Label
from sluice_traces.convert import NO_SCREENS, ConvertConfig
from sluice_traces.folder import FolderConverter
from sluice_traces.label import LabelRun, label_file
from sluice_traces.local import trace_files
from sluice_traces.pipeline import RunRows, TracePipeline
from sluice_traces.privacy import PrivacyConfig, Redactor

CHUNK = 2000
"""Traces that the contenders take turns on."""
PRIVACY_EVERY = 10
"""One chunk of so many is measured with privacy on as well, which takes longer than everything else."""
Pipeline = Callable[[list[bytes], BinaryIO], None]


def ours(pipeline: TracePipeline) -> Pipeline:
    """The rows of a chunk by the product's pipeline, run by run into a file."""

    def work(chunk: list[bytes], out: BinaryIO) -> None:
        for raw in chunk:
            found = pipeline.process(raw, NO_SCREENS)
            if isinstance(found, RunRows):
                out.write(found.block)

    return work


def plain(loads: Callable[[bytes], object], dumps: Callable[[object], bytes]) -> Pipeline:
    """The rows of a chunk by the obvious pipeline, row by row into a file."""

    def work(chunk: list[bytes], out: BinaryIO) -> None:
        for row in plain_pipeline(chunk, loads, dumps):
            out.write(row + b"\n")

    return work


def _written(out: BinaryIO) -> list[object]:
    """The rows of the last chunk."""
    size = out.tell()
    out.seek(0)
    return [orjson.loads(line) for line in out.read(size).splitlines()]


def json_dumps(row: object) -> bytes:
    """One row by the standard library; texts of other scripts stay as they are, as in the other contenders."""
    return json.dumps(row, ensure_ascii=False).encode()


def label_and_convert(traces: int, report: Report) -> None:
    """Documents in memory to a file of rows, on one core; rows must be equal before a rate is told."""
    config = ConvertConfig(require_screenshot=False)
    contenders: dict[str, Pipeline] = {
        "json + loop": plain(json.loads, json_dumps),
        "orjson + loop": plain(orjson.loads, orjson.dumps),
        "sluice": ours(TracePipeline(config)),
        "sluice, with privacy": ours(TracePipeline(config, redactor=Redactor(PrivacyConfig()))),
    }
    spent, done = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0)
    source, names, number = made_up_traces(traces, seed=0), list(contenders), 0
    with ExitStack() as stack:
        # One file each, written again and again: new pages would cost all of them the same and say nothing.
        outs = {name: stack.enter_context(tempfile.TemporaryFile()) for name in contenders}
        while chunk := list(islice(source, CHUNK)):
            names = names[1:] + names[:1]
            taking = [name for name in names if "privacy" not in name or number % PRIVACY_EVERY == 0]
            for name in taking:
                outs[name].seek(0)
                started = time.process_time()
                contenders[name](chunk, outs[name])
                outs[name].flush()
                spent[name] += time.process_time() - started
                done[name] += len(chunk)
            rows = [_written(outs[name]) for name in taking]
            if any(found != rows[0] for found in rows):
                raise SystemExit("the contenders disagree about the rows: no rate is worth printing")
            number += 1
    report.title(f"label + convert, one core, {traces} traces, documents in memory to a file of rows")
    rates = {name: done[name] / spent[name] for name in contenders}
    for name, rate in rates.items():
        report.rate(name, rate, "traces/s")
    report.ratio("label + convert against json + loop", rates["sluice"] / rates["json + loop"], at_least=5)
    report.ratio("label + convert against orjson + loop", rates["sluice"] / rates["orjson + loop"], at_least=2)


def by_hand(files: int, report: Report) -> None:
    """The two commands, files between them, against the same two steps with a JSON library."""
    config = ConvertConfig(keep=frozenset({Label.POSITIVE}), require_screenshot=False)

    def commands(root: Path) -> None:
        run = LabelRun()
        for path in trace_files(root / "traces"):
            label_file(path, root / "labelled" / path.relative_to(root / "traces"), str(path), run)
        FolderConverter(config, None).convert(root / "labelled", root / "rows.jsonl", lambda done: None)

    contenders: dict[str, Callable[[Path], None]] = {
        "json, two scripts": lambda root: label_then_convert(root, json.loads, json_dumps),
        "orjson, two scripts": lambda root: label_then_convert(root, orjson.loads, orjson.dumps),
        "sluice, two commands": commands,
    }
    spent = dict.fromkeys(contenders, float("inf"))
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        root = Path(name)
        write_files(root / "traces", files)
        for _ in range(3):
            for contender, work in contenders.items():
                shutil.rmtree(root / "labelled", ignore_errors=True)
                started = time.process_time()
                work(root)
                spent[contender] = min(spent[contender], time.process_time() - started)
                lines = (root / "rows.jsonl").read_bytes().splitlines()
                rows[contender] = sorted(json.dumps(json.loads(line), sort_keys=True) for line in lines)
    if any(found != rows["sluice, two commands"] for found in rows.values()):
        raise SystemExit("the contenders disagree about the rows: no rate is worth printing")
    report.title(f"the same by hand, one core, {files} trace files, labelled files between, best of 3")
    for contender, seconds in spent.items():
        report.rate(contender, files / seconds, "traces/s")
    report.note("mostly the file system; both sides write a temporary file and rename it, Sluice also checks what it")
    report.note(
        "reads, carries digest and time of the source, and keeps its rows on disk in the order of tenant and run"
    )

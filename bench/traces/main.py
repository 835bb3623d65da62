"""Traces to training data, each step against what one would use first. See README.md for the method.

python bench/traces/main.py [--quick] [--only label,duplicates,tokens,memory,export] [--traces 200000] ...
"""

import argparse
import logging
import os
import sys

from report import Report

PARTS = ("label", "duplicates", "tokens", "memory", "export")
"""Parts of the benchmark, in the order of their tables."""
_SIZES = {"traces": 200_000, "hand": 5_000, "documents": 20_000, "rows": 100_000, "files": 2_000, "runs": 2_000}
_QUICK = {"traces": 10_000, "hand": 500, "documents": 5_000, "rows": 4_000, "files": 500, "runs": 200}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description="benchmarks of traces to training data")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything: to see that it runs")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, comma-separated: {', '.join(PARTS)}")
    for name, what in (
        ("traces", "traces to label and convert in memory"),
        ("hand", "trace files to label and convert by hand"),
        ("documents", "documents to search for near-duplicates"),
        ("rows", "rows to tokenise"),
        ("files", "trace files of the smaller build"),
        ("runs", "runs to export"),
    ):
        parser.add_argument(f"--{name}", type=int, help=f"{what} ({_SIZES[name]})")
    arguments = parser.parse_args(argv)
    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: {', '.join(sorted(unknown))}: give {', '.join(PARTS)}")
    defaults = _QUICK if arguments.quick else _SIZES
    sizes = {name: getattr(arguments, name) or default for name, default in defaults.items()}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.basicConfig(level=logging.ERROR)
    report = Report()
    if "label" in parts:
        from labelling import by_hand, label_and_convert

        label_and_convert(sizes["traces"], report)
        by_hand(sizes["hand"], report)
    if "duplicates" in parts:
        from duplicates import near_duplicates

        near_duplicates(sizes["documents"], report)
    if "tokens" in parts:
        from tokens import tokenise

        tokenise(sizes["rows"], report)
    if "memory" in parts:
        from memory import memory

        memory(sizes["files"], report)
    if "export" in parts:
        from exporting import exporting

        exporting(sizes["runs"], report)
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

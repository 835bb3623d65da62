"""Peak memory of a build at one time and at ten times the data, each in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

from made_up import write_files
from report import Report


def memory(files: int, report: Report) -> None:
    """Build a dataset from so many files and from ten times as many; the worker itself, in its own process."""
    peaks = []
    for count in (files, 10 * files):
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            write_files(Path(folder) / "traces", count)
            command = [sys.executable, __file__, folder]
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(int(finished.stdout.split()[-1]))
    report.title(f"peak resident set of a build from files, {files} and {10 * files} traces")
    for count, peak in zip((files, 10 * files), peaks, strict=True):
        report.rate(f"{count} traces", peak / 1024, "MiB")
    report.ratio("peak memory at 10x the data against 1x", peaks[1] / peaks[0], at_most=1.2)


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


if __name__ == "__main__":
    build(Path(sys.argv[1]))

"""Puts into a bucket what the storefront's examples read: base model, suite, the channel `stable`, and first traces.

python examples/kubernetes/install/furnish.py s3://sluice/storefront/

The storage is found by the usual variables (`AWS_ENDPOINT_URL_S3`, `AWS_ACCESS_KEY_ID`, …). The traces are those of
real runs: the storefront agent is started on this machine, serves what `stable` names, and shoppers come to it. What is
there already stays, so it can be run again. It ends with 1 when something could not be done.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sluice_artifacts import ArtifactError, join, open_store
from sluice_cli.local.example import STABLE, ExampleError, furnish, run_storefront, storefront_environment

FIRST_RUNS = 240
"""Runs whose traces become the first dataset."""
FIRST_SEED = 50_000
"""Seed of the first of their tasks: the base model's demonstrations lie below."""
SUITE_TASKS = 120
"""Tasks of the evaluation."""
_READY_S = 120.0
"""Seconds within which the agent must have loaded its weights."""


def furnish_traces(root: str, *, runs: int) -> int:
    """Let shoppers come to the agent, whose traces go below the artifact root; return how many came.

    Where there are traces already, none come.

    Raises:
        ArtifactError: the storage refuses.
        ExampleError: the agent did not come up, or left a request unanswered.
    """
    traces = join(root, "traces") + "/"
    if next(iter(open_store(root).list(traces)), None) is not None:
        return 0
    with _agent(root, traces) as url:
        run_storefront("fleet", "--url", url, "--runs", str(runs), "--first-seed", str(FIRST_SEED))
    return runs


@contextmanager
def _agent(root: str, traces: str) -> Iterator[str]:
    """The storefront agent as a process of this machine; gives its URL once it serves."""
    with tempfile.TemporaryDirectory() as scratch:
        port_file, log = Path(scratch) / "port", Path(scratch) / "log"
        command = [sys.executable, "-P", "-m", "storefront.service", "--root", root, "--traces", traces]
        command += ["--port", "0", "--port-file", str(port_file), "--cache", str(Path(scratch) / "models")]
        with (
            log.open("w") as output,
            subprocess.Popen(command, env=storefront_environment(), stdout=output, stderr=output) as process,
        ):
            try:
                deadline = time.monotonic() + _READY_S
                while not port_file.exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise ExampleError(f"the storefront agent did not come up:\n{log.read_text()[-2000:]}")
                    time.sleep(0.1)
                yield f"http://127.0.0.1:{port_file.read_text().strip()}"
            finally:
                process.terminate()


def main(argv: Sequence[str] | None = None) -> int:
    """Furnish the bucket."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="URI", help="artifact root, such as s3://sluice/storefront/")
    parser.add_argument("--runs", type=int, default=FIRST_RUNS, help=f"runs to trace (default: {FIRST_RUNS})")
    arguments = parser.parse_args(argv)
    root = arguments.root.rstrip("/") + "/"
    try:
        base = furnish(root, print, tasks=SUITE_TASKS)
        print(f"base model, suite and channel {STABLE}: {base.uri}, {base.digest}")
        served = furnish_traces(root, runs=arguments.runs)
        print(f"traces of {served} runs: {root}traces/" if served else f"traces are there already: {root}traces/")
    except (ArtifactError, ExampleError) as error:
        print(f"furnish: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

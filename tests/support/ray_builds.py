"""Builds a dataset version in tasks of a local Ray, in a process of its own: `ray_builds.py JOB`, the job as JSON.

Pages and windows are so small that a few traces fill several. The last line is the output. Ray leaves processes behind
in whoever starts it until that one ends, so a test does not start it itself.
"""

import sys
import warnings

from sluice_api.contracts.jobs import LabelJob
from sluice_artifacts.reporting import Reporter
from sluice_traces import distributed
from sluice_traces.worker import run


def main() -> None:
    """Build."""
    warnings.simplefilter("ignore")
    distributed.PAGES_PER_WORKER = 2
    distributed.PAGE_FILES = 5
    job = LabelJob.model_validate_json(sys.argv[1])
    print(run(job, Reporter(job)).model_dump_json(by_alias=True), flush=True)


if __name__ == "__main__":
    main()

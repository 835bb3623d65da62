"""Runs of the real trainer through the operator, and kills of what carries them: worker, Ray head, operator."""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests_for_tests import dataset, run
from operator_fixtures import Place
from operators import Operator
from sluice_api.contracts.base import ArtifactRef
from sluice_devcluster.processes import ProcessId, find_owned, stop
from sluice_devcluster.ray import RayHead
from tiny_models import preference_row, publish_rows, save_base, sft_row

PATIENCE_S = 300.0
"""Seconds that a loaded machine may take for what usually takes ten."""
STEPS = 240
"""Optimizer steps of a run: some seconds of training, so that a kill finds it at work."""
EVERY = 8
"""Steps between its checkpoints."""
WORKERS = ("RayTrainWorker", "worker train", "TrainController")
"""What the command line of a process of a training job holds: the worker, its driver, Ray Train's controller."""
METHODS = {"sft": "sft", "dpo": "preference"}
"""Row format by method."""


@dataclass
class Tally:
    """What was killed, and what it led to."""

    kills: Counter[str] = field(default_factory=Counter)
    """By kind."""
    moments: Counter[str] = field(default_factory=Counter)
    """Stage of the run at each kill."""
    attempts: int = 0
    """Attempts of all runs."""
    resumed: int = 0
    """Attempts that resumed from a checkpoint."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failure class of each lost attempt."""


class Trial:
    """A place whose profile `train` runs the real trainer on a Ray head, and runs in it."""

    def __init__(self, place: Place, head: RayHead, operator: Operator, rng: random.Random) -> None:
        self.place, self.head, self.operator, self.rng = place, head, operator, rng
        self.tally = Tally()
        self._kinds: dict[str, Callable[[], bool]] = {
            "worker": self._kill_worker,
            "head": self._kill_head,
            "operator": self._kill_operator,
        }
        save_base(place.root / "base")
        makers = {"sft": sft_row, "dpo": preference_row}
        for method, row_format in METHODS.items():
            rows = [makers[method](number) for number in range(30)]
            ref = publish_rows(f"{place.uri}datasets/", rows, dataset_format=row_format)
            built(place, f"data-{method}", ref, row_format)
        self.write_profile()

    def write_profile(self) -> None:
        """Point the profile at the head as it is now."""
        self.place.write({"train": self.profile()})

    def profile(self) -> dict[str, Any]:
        return {
            "backend": "ray",
            "address": self.head.address(),
            "entrypoint": str(Path(sys.executable).with_name("sluice")),
            "maxWorkers": 2,
            "numCpus": 0.1,
            "env": {
                "SLUICE_CACHE_DIR": str(self.place.root / "cache"),
                "SLUICE_TRAIN_CPUS_PER_WORKER": "1",
                "OMP_NUM_THREADS": "1",
            },
        }

    def start(self, name: str, method: str, **spec: Any) -> None:
        """Apply a run."""
        self.place.apply(
            run(
                self.place.uri,
                name,
                datasetRef={"name": f"data-{method}"},
                method=method,
                lora={"rank": 8, "alpha": 16},
                optimizer={"learningRate": 3e-3, "tokensPerStep": 600, "maxSteps": STEPS},
                sequence={"maxLength": 300},
                checkpoint={"every": EVERY, "keep": 2},
                retry={"maxAttempts": 20},
                profile="train",
                seed=11,
                **spec,
            )
        )

    def finish(self, name: str) -> dict[str, Any]:
        """The status of a run once it is over."""
        status = self.place.wait_phase("finetunerun", name, "Succeeded", "Failed", "Stalled", timeout_s=PATIENCE_S)
        assert status["phase"] == "Succeeded", status
        self.tally.attempts += len(status["attempts"])
        for attempt in status["attempts"]:
            self.tally.resumed += attempt.get("resumedFromStep") is not None
            if failure := attempt.get("failure"):
                self.tally.failures[failure["class"]] += 1
        return status

    def disturb(self, name: str, kind: str) -> int | None:
        """Kill at a random moment; the newest checkpoint just before, None where the run was over first."""
        reached = self._await_moment(name)
        if reached is None:
            return None
        stage = self.place.status("finetunerun", name).get("progress", {}).get("stage") or "queued"
        if self._is_over(name) or not self._kinds[kind]():
            return None
        self.tally.kills[kind] += 1
        self.tally.moments[stage] += 1
        if kind == "head":
            self.head.stop()
            self.head.start()
            self.write_profile()
        elif kind == "operator":
            self.operator.start()
        return reached

    def _await_moment(self, name: str) -> int | None:
        """Wait for a moment anywhere in the run: the newest checkpoint there, None where the run was over first.

        One kill of five comes while the attempt starts, the others at a step that is still to come, or shortly after.
        """
        until = time.monotonic() + PATIENCE_S
        at_start = self.rng.random() < 0.2
        done = self.newest_step(name)
        aim = 0 if at_start else self.rng.randint(done + 1, max(done + 1, STEPS - 2 * EVERY))
        while self.newest_step(name) < aim or not self._attempt_runs(name):
            assert time.monotonic() < until, f"{name} came no further than {self.newest_step(name)}: {aim} wanted"
            if self._is_over(name):
                return None
            time.sleep(0.02)
        time.sleep(self.rng.uniform(0, 8.0 if at_start else 0.2))
        return self.newest_step(name)

    def newest_step(self, name: str) -> int:
        """Step of the newest complete checkpoint of a run, 0 without one."""
        found = self.place.get("finetunerun", name)
        if found is None:
            return 0
        run_folder = self.place.root / "runs" / self.place.namespace / found["metadata"]["uid"]
        complete = (run_folder / "checkpoints").glob("step-*/complete.json")
        steps = [int(path.parent.name.partition(".")[0].removeprefix("step-")) for path in complete]
        return max(steps, default=0)

    def _is_over(self, name: str) -> bool:
        return self.place.phase("finetunerun", name) in ("Succeeded", "Failed", "Stalled")

    def _attempt_runs(self, name: str) -> bool:
        return self.place.phase("finetunerun", name) == "Running"

    def _kill_worker(self) -> bool:
        """One process of the job, whichever there is."""
        found = [process for process in find_owned(str(self.head.folder)) if _is_worker(process)]
        if not found:
            return False
        stop([self.rng.choice(found)], patience_s=0.0)
        return True

    def _kill_head(self) -> bool:
        self.head.kill()
        return True

    def _kill_operator(self) -> bool:
        self.operator.kill()
        return True


def built(place: Place, name: str, ref: ArtifactRef, row_format: str) -> None:
    """A TraceDataset with this version, as if it had been built."""
    convert = {"requireScreenshot": False, "format": row_format}
    place.apply(dataset(place.uri, name, suspend=True, convert=convert))
    version = {"digest": ref.digest, "uri": ref.uri, "rows": 30, "createdAt": "2026-01-01T00:00:00Z"}
    status = {"status": {"phase": "Ready", "latest": version, "versions": [version]}}
    place.patch("tracedataset", name, status, "--subresource=status")


def _is_worker(process: ProcessId) -> bool:
    try:
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return False
    return any(word in line for word in WORKERS)

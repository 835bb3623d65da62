"""Fifty kills at random places, of runs by both methods: every final adapter is the clean run's."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from paused_training import DEADLINE, paused
from sluice_artifacts.reporting import run_worker
from sluice_trainer import worker
from tiny_models import preference_row, publish_rows
from training_jobs import Workplace

pytestmark = pytest.mark.soak
KILLS = 50
LONGEST_DELAY = 0.3
"""Seconds after a step within which the kill comes: anywhere in the next ones, or while a checkpoint is written."""


def test_every_final_adapter_is_the_clean_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    place = Workplace(tmp_path)
    pairs = publish_rows(
        f"file://{tmp_path}/pairs", [preference_row(number) for number in range(16)], dataset_format="preference"
    )
    methods: dict[str, dict[str, Any]] = {"sft": {}, "dpo": {"dataset": pairs, "method": "dpo", "epochs": 4}}
    rng = random.Random(0)
    clean = {}
    for method, options in methods.items():
        job = place.job(f"clean-{method}", checkpoint_every=2, **options)
        assert run_worker(job, worker.run_bare) == 0
        clean[method] = place.output(job)
    kills = 0
    while kills < KILLS:
        method = rng.choice(list(methods))
        name, attempt = f"run-{kills}", 1
        for _ in range(rng.randint(1, 4)):
            job = place.job(name, attempt=attempt, checkpoint_every=2, **methods[method])
            with paused(job, tmp_path, rng.randint(1, clean[method].steps - 1)) as (process, go):
                go.touch()
                process.join(rng.uniform(0, LONGEST_DELAY))
                if process.is_alive() and process.pid is not None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                process.join(DEADLINE)
            (tmp_path / f"{name}.pause").unlink()
            go.unlink()
            attempt += 1
            if process_finished(place, name, attempt - 1):
                break
        last = place.job(name, attempt=attempt, checkpoint_every=2, **methods[method])
        assert run_worker(last, worker.run_bare) == 0
        assert place.output(last).adapter == clean[method].adapter, f"{method}, {name} after {kills} kills"


def process_finished(place: Workplace, name: str, attempt: int) -> bool:
    """Whether an attempt got to write its result before the kill came."""
    job = place.job(name, attempt=attempt)
    return (Path(job.output_uri.removeprefix("file://")) / "result.json").exists()

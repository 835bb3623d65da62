"""Fifty kills at random places, of runs by both methods: every final adapter is the clean run's.

Once of a bare process, a step apart; and once of runs through an operator on a real API server and a real Ray, where
workers, the Ray head and the operator itself are killed in turn.
"""

import itertools
import json
import os
import random
import runpy
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from operator_fixtures import new_place
from paused_training import DEADLINE, paused
from sluice_api.contracts.jobs import TrainJob
from sluice_artifacts.reporting import run_worker
from sluice_devcluster.ray import RayHead
from sluice_trainer import worker
from tiny_models import preference_row, publish_rows
from training_jobs import Workplace
from training_killer import METHODS, Trial, built

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
    kills, trials = 0, itertools.count()
    while kills < KILLS:
        method = rng.choice(list(methods))
        name, attempt = f"run-{next(trials)}", 1
        for _ in range(rng.randint(1, 4)):
            job = place.job(name, attempt=attempt, checkpoint_every=2, **methods[method])
            done, last_step = newest_step(job), clean[method].steps - 1
            if done >= last_step:
                break
            with paused(job, tmp_path, rng.randint(done + 1, last_step)) as (process, go):
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


def newest_step(job: TrainJob) -> int:
    """The step of the newest complete checkpoint: an attempt goes on after it, and 0 without one."""
    folder = Path(job.checkpoint_uri.removeprefix("file://"))
    return max((int(path.parent.name[5:13]) for path in folder.glob("step-*/complete.json")), default=0)


def process_finished(place: Workplace, name: str, attempt: int) -> bool:
    """Whether an attempt got to write its result before the kill came."""
    job = place.job(name, attempt=attempt)
    return (Path(job.output_uri.removeprefix("file://")) / "result.json").exists()


@pytest.mark.timeout(4 * 3600)
def test_neither_worker_nor_head_nor_operator_changes_an_adapter_by_dying(
    cluster: Any, kubectl: Any, crds: None, zygote: Any, tmp_path: Path, record_property: Any
) -> None:
    started = time.monotonic()
    rng = random.Random(0)
    # A third each, in random order, so that none is left to chance.
    kinds = rng.sample(["worker", "head", "operator"], counts=[17, 17, 16], k=KILLS)
    with (
        RayHead(num_cpus=4) as head,
        new_place(cluster, kubectl, head, zygote, tmp_path) as place,
        place.operator() as operator,
    ):
        trial = Trial(place, head, operator, rng)
        clean = {}
        for method in METHODS:
            trial.start(f"clean-{method}", method)
            status = trial.finish(f"clean-{method}")
            assert "resumedFromStep" not in status
            clean[method] = status["adapter"]["digest"]
        runs = 0
        while sum(trial.tally.kills.values()) < KILLS:
            method, name = rng.choice(list(METHODS)), f"run-{runs}"
            runs += 1
            trial.start(name, method)
            reached = 0
            for _ in range(rng.randint(2, 5)):
                done = sum(trial.tally.kills.values())
                if done == KILLS:
                    break
                newest = trial.disturb(name, kinds[done])
                if newest is None:
                    break
                if kinds[done] != "operator":
                    reached = newest
            status = trial.finish(name)
            assert status["adapter"]["digest"] == clean[method], (method, name, status)
            assert status.get("resumedFromStep", 0) >= reached, (name, reached, status)
            print(json.dumps({"run": name, "method": method, "kills": sum(trial.tally.kills.values())}), flush=True)
    figures = {
        "kills": dict(trial.tally.kills),
        "moments": dict(trial.tally.moments),
        "runs": runs,
        "attempts": trial.tally.attempts,
        "resumed": trial.tally.resumed,
        "failures": dict(trial.tally.failures),
        "seconds": round(time.monotonic() - started),
    }
    record_property("figures", figures)
    print(json.dumps(figures), flush=True)
    assert sum(trial.tally.kills.values()) == KILLS
    assert trial.tally.resumed > KILLS // 4, "most kills come after a first checkpoint"


EXAMPLE = Path(__file__).parents[2] / "examples" / "code_model"


@pytest.mark.timeout(1800)
def test_the_example_of_a_schedule_ends_through_the_operator_as_its_page_says(
    cluster: Any, kubectl: Any, crds: None, zygote: Any, tmp_path: Path
) -> None:
    make_base = runpy.run_path(str(EXAMPLE / "make_base.py"))["make_base"]
    manifest = yaml.safe_load((EXAMPLE / "finetunerun.yaml").read_text())
    rows = [json.loads(line) for line in (EXAMPLE / "rows.jsonl").read_text().splitlines()]
    with (
        RayHead(num_cpus=4) as head,
        new_place(cluster, kubectl, head, zygote, tmp_path) as place,
        place.operator() as operator,
    ):
        Trial(place, head, operator, random.Random(0))
        make_base(place.root / "mixture")
        built(place, manifest["spec"]["datasetRef"]["name"], publish_rows(f"{place.uri}datasets/", rows), "sft")
        manifest["spec"] |= {
            "baseModel": {"uri": f"{place.uri}mixture/"},
            "output": place.uri,
            "profile": "train",
        }
        place.apply(manifest)
        status = place.wait_phase("finetunerun", "code-model-a1", "Succeeded", "Failed", timeout_s=1200)
    assert (status["stopReason"], status["adapter"]["steps"]) == ("PassRateStalls", 750)
    assert (status["lastProbe"]["step"], status["lastProbe"]["passed"]) == (750, 0)
    assert status["adapter"]["finalLoss"] == pytest.approx(4.786, abs=0.01)
    assert "ended early: PassRateStalls" in status["message"]

"""A run that is asked to stop before it has something to save: in every stage, bare and under Ray, alone and not."""

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from loop_runs import Recorder, make_plan, make_recipe, run, weights
from sluice_api.contracts.jobs import FailureClass, ProbePlan, ProbeResult, TrainJob
from sluice_artifacts import open_store
from sluice_artifacts.reporting import Reporter, WorkerError, run_worker
from sluice_traces import ray_cluster
from sluice_trainer import ray_adapter, session, worker
from sluice_trainer.activity import LEAST_BYTES, reading
from sluice_trainer.group import Alone
from sluice_trainer.live import Answers, Prompt
from sluice_trainer.loop import LoopConfig
from sluice_trainer.probes import SuiteLeft
from sluice_trainer.schedule import Schedule
from sluice_trainer.surroundings import ProgressSink, Surroundings
from tiny_models import preference_row, publish_rows
from training_jobs import Workplace

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
DEADLINE = 60.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("stops"), rows=6)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))


def checkpoints(job: TrainJob) -> list[Path]:
    return list(Path(job.checkpoint_uri.removeprefix("file://")).glob("step-*"))


# The loop.


class Asked(Recorder):
    """Asked to stop from the start, or in the suite of a step; a suite that is not left shows nothing."""

    def __init__(self, *, from_the_start: bool = False, left_at: int | None = None) -> None:
        super().__init__()
        self.from_the_start, self.left_at = from_the_start, left_at
        self.probed: list[int] = []

    def stop_requested(self) -> bool:
        return self.from_the_start

    def probe(self, step: int) -> ProbeResult:
        if step == self.left_at:
            raise SuiteLeft
        self.probed.append(step)
        return ProbeResult(step=step, tasks=8, judged=8, passed=4, pass_rate=0.5, syntax_rate=1.0)


def probing(steps: int) -> LoopConfig:
    probes = ProbePlan(suite_uri="builtin:smoke-8", every=2)
    return LoopConfig(schedule=Schedule(peak=5e-3, steps=steps), checkpoint_every=100, probes=probes)


def test_a_request_before_the_first_step_leaves_everything_as_it_was() -> None:
    first = Asked(from_the_start=True)
    ended = run(make_recipe(), first)
    assert (ended.step, ended.finished, first.pending, first.records) == (0, False, {}, [])
    plan = make_plan()
    until_two = Recorder(stop_after=2)
    run(make_recipe(), until_two, plan=plan)
    resumed = Asked(from_the_start=True)
    ended = run(make_recipe(), resumed, plan=plan, resume=until_two.snapshots[2])
    assert (ended.step, ended.finished, resumed.pending, resumed.records) == (2, False, {}, [])


@pytest.mark.parametrize("step", [0, 2])
def test_a_suite_that_is_left_is_run_by_the_next_attempt_and_the_run_is_the_same(step: int) -> None:
    plan = make_plan()
    whole, left, again = Asked(), Asked(left_at=step), Asked()
    undisturbed = make_recipe()
    run(undisturbed, whole, plan=plan, config=probing(len(plan.steps)))
    ended = run(make_recipe(), left, plan=plan, config=probing(len(plan.steps)))
    assert (ended.step, ended.finished, sorted(left.pending)) == (step, False, [2] if step else [])
    resumed = make_recipe()
    run(resumed, again, plan=plan, config=probing(len(plan.steps)), resume=left.snapshots.get(step))
    assert left.probed + again.probed == whole.probed
    assert torch.equal(weights(resumed), weights(undisturbed))


class Threads:
    """Processes of a group as threads of this one."""

    lockstep = False

    def __init__(self, rank: int, meeting: threading.Barrier, place: dict[int, torch.Tensor]) -> None:
        self.rank, self.size = rank, meeting.parties
        self._meeting, self._place = meeting, place

    def sum(self, tensor: torch.Tensor) -> None:
        self._place[self.rank] = tensor.clone()
        self._meeting.wait(DEADLINE)
        tensor.copy_(torch.stack([self._place[rank] for rank in range(self.size)]).sum(0))
        self._meeting.wait(DEADLINE)

    def broadcast(self, tensor: torch.Tensor) -> None:
        self._place[self.rank] = tensor.clone()
        self._meeting.wait(DEADLINE)
        tensor.copy_(self._place[0])
        self._meeting.wait(DEADLINE)


@pytest.mark.parametrize(
    ("asked", "ends_at"), [({"from_the_start": True}, 0), ({"left_at": 0}, 0), ({"left_at": 2}, 2)]
)
def test_the_others_of_a_group_end_where_the_first_was_asked_to(asked: dict[str, Any], ends_at: int) -> None:
    meeting, exchanged = threading.Barrier(2), dict[int, torch.Tensor]()
    plan, ends = make_plan(), dict[int, tuple[int, bool]]()

    def work(rank: int) -> None:
        hooks = Asked(**asked) if rank == 0 else Asked()
        group = Threads(rank, meeting, exchanged)
        ended = run(make_recipe(), hooks, plan=plan, config=probing(len(plan.steps)), group=group)
        ends[rank] = (ended.step, ended.finished)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert ends == {0: (ends_at, False), 1: (ends_at, False)}


# A session.


@pytest.mark.parametrize(
    "stage", ["fetch_rows", "fetch_model_and_digest", "read_documents", "build_plan", "fit_memory"]
)
def test_a_signal_ends_the_preparations_at_once(place: Workplace, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """The work that the signal interrupts would never end."""
    job = place.job(f"signal-{stage}")

    def endless(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal did not interrupt")

    monkeypatch.setattr(session, stage, endless)
    assert run_worker(job, worker.run_bare) == 0
    failure = place.result(job).failure
    assert failure is not None
    assert failure.failure_class == FailureClass.PREEMPTED
    assert not checkpoints(job)


class Stages:
    """Knows the stage that a session is in, and how far."""

    def __init__(self) -> None:
        self.stage, self.step, self.of = "", 0, 0

    def progress(self, **said: Any) -> None:
        self.stage, self.step = said.get("stage") or self.stage, said.get("step") or 0
        self.of = said.get("of") or 0


def around(tmp_path: Path, stages: ProgressSink, asked: Callable[[], bool], **more: Any) -> Surroundings:
    return Surroundings(
        group=Alone(),
        device=torch.device("cpu"),
        progress=stages,
        stop_requested=asked,
        checkpoint_taken=lambda step, record: None,
        cache=tmp_path / "cache",
        **more,
    )


def test_a_worker_that_is_told_otherwise_ends_its_preparations_too(place: Workplace, tmp_path: Path) -> None:
    """As under Ray, where no signal reaches the worker: while it loads, and while reference values are computed."""
    pairs = publish_rows(f"file://{tmp_path}/pairs", [preference_row(n) for n in range(8)], dataset_format="preference")
    for stage, of in (("loading", 0), ("loading", 8), ("reference", 0)):
        stages = Stages()
        job = place.job(f"told-{stage}-{of}", method="dpo", dataset=pairs)

        def asked(stages: Stages = stages, stage: str = stage, of: int = of) -> bool:
            return stages.stage == stage and (stages.of == of if stage == "loading" else stages.step > 0)

        with pytest.raises(WorkerError, match="asked to stop before this attempt's first step") as caught:
            session.run_session(job, around(tmp_path, stages, asked))
        assert caught.value.failure_class == FailureClass.PREEMPTED
        assert stages.stage == stage
        assert not checkpoints(job)


def test_a_baseline_probe_is_left_and_begun_anew_by_the_next_attempt(place: Workplace, tmp_path: Path) -> None:
    stages = Stages()
    answered: list[int] = []

    def prober(plan: ProbePlan, answers: Answers, step: int, output_uri: str, /) -> ProbeResult:
        answered.append(step)
        answers([Prompt(text="hello", max_tokens=2)])
        return ProbeResult(step=step, tasks=1, judged=1, passed=1, pass_rate=1.0, syntax_rate=1.0)

    probes = ProbePlan(suite_uri="builtin:smoke-8", every=2)
    job = place.job("baseline", probes=probes, max_steps=2)

    def asked() -> bool:
        return stages.stage == "probing" and stages.step == 1

    with pytest.raises(WorkerError, match="before the first step: there is nothing to save") as caught:
        session.run_session(job, around(tmp_path, stages, asked, prober=prober))
    assert caught.value.failure_class == FailureClass.PREEMPTED
    assert not checkpoints(job)
    output = session.run_session(job, around(tmp_path, stages, lambda: False, prober=prober))
    assert output is not None
    assert (output.resumed_from_step, answered) == (None, [0, 0, 2])


# Ray.


class Unplaced:
    """A trainer whose workers find no room."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def fit(self) -> None:
        self.over.wait(DEADLINE)


def test_workers_that_cannot_be_placed_do_not_hold_up_a_stop(place: Workplace) -> None:
    job, trainer, stop = place.job("unplaced"), Unplaced(), threading.Event()
    reporter = Reporter(job)
    reporter.progress(stage=ray_adapter.STARTING)
    stop.set()
    try:
        with pytest.raises(WorkerError, match="asked to stop before the first step") as caught:
            ray_adapter._fit(trainer, job, stop, ray_adapter.StartBeat(job, reporter))
    finally:
        trainer.over.set()
    assert caught.value.failure_class == FailureClass.PREEMPTED


def test_workers_are_waited_for_as_long_as_they_have_something_to_save(place: Workplace) -> None:
    now = 0.0

    def clock() -> float:
        return now

    job = place.job("waited-for")
    reporter = Reporter(job)
    order = ray_adapter.StopOrder(job, clock)
    assert not order(), "no progress says nothing"
    assert open_store(job.output_uri).exists(f"{job.output_uri}stop")
    verdicts = []
    for stage in ("training", "probing", "loading", "starting"):
        reporter.progress(stage=stage)
        order = ray_adapter.StopOrder(job, clock)
        soon = order()
        now += ray_adapter.PATIENCE_SECONDS
        verdicts.append((stage, soon, order()))
    assert verdicts == [
        ("training", False, False),
        ("probing", False, False),
        ("loading", False, True),
        ("starting", True, True),
    ]


def test_sigterm_while_ray_is_being_reached_is_a_preemption(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(**_: object) -> None:
        raise SystemExit(15)

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", answer)
    with pytest.raises(WorkerError, match="asked to stop while Ray was being") as caught, ray_cluster.connected(1, ""):
        raise AssertionError("never connected")
    assert caught.value.failure_class == FailureClass.PREEMPTED


def test_a_group_waits_long_for_preparations_and_not_for_steps(tmp_path: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, timeout=timedelta(hours=6)
    )
    try:
        backend = distributed.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
        assert backend.options._timeout == timedelta(hours=6)
        ray_adapter.wait_at_most(600)
        assert backend.options._timeout == timedelta(minutes=10)
    finally:
        distributed.destroy_process_group()


def test_every_worker_tells_of_its_first_step_once(place: Workplace, tmp_path: Path) -> None:
    told: list[int] = []
    stages = Stages()
    job = place.job("first-step", max_steps=3)
    session.run_session(job, around(tmp_path, stages, lambda: False, stepped=lambda: told.append(stages.step)))
    assert len(told) == 1


# What speaks for the preparations.


def test_rows_are_told_of_while_they_are_checked_and_read(place: Workplace, tmp_path: Path) -> None:
    said: list[tuple[Any, Any, Any]] = []

    class Heard(Reporter):
        def progress(self, **fields: Any) -> None:
            said.append((fields.get("stage"), fields.get("step"), fields.get("of")))

    job = place.job("heard", max_steps=1)
    worker.check(job, Heard(job))
    assert ("checking", 6, 6) in said
    session.run_session(job, around(tmp_path, Heard(job), lambda: False))
    assert ("loading", 6, 6) in said


def test_reading_is_activity_and_waiting_is_not(tmp_path: Path) -> None:
    counters, told = tmp_path / "io", threading.Semaphore(0)
    counters.write_text("rchar: 5000\nwchar: 9\n")
    with reading(lambda: told.release(), every=0.01, counters=counters):
        assert not told.acquire(timeout=0.1)
        for total in (LEAST_BYTES, 2 * LEAST_BYTES):
            (tmp_path / "next").write_text(f"rchar: {5000 + total}\nwchar: 9\n")
            (tmp_path / "next").replace(counters)
            assert told.acquire(timeout=DEADLINE)
        (tmp_path / "next").write_text(f"rchar: {6000 + 2 * LEAST_BYTES}\n")
        (tmp_path / "next").replace(counters)
        assert not told.acquire(timeout=0.1)
        counters.unlink()
        assert not told.acquire(timeout=0.1)


@pytest.mark.parametrize("stage", ["fetch_model_and_digest", "read_documents", "build_plan", "_adapted"])
def test_the_preparations_are_watched_from_the_first_file_to_the_model(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Whatever of them reads is told of."""
    spoke = threading.Event()
    inner: Callable[..., Any] = getattr(session, stage)
    source = tmp_path / "much"
    source.write_bytes(bytes(2 * LEAST_BYTES))

    class Told(Stages):
        def progress(self, **said: Any) -> None:
            super().progress(**said)
            if not said:
                spoke.set()

    def slow(*arguments: Any, **options: Any) -> Any:
        spoke.clear()
        for _ in range(1000):
            source.read_bytes()
            if spoke.wait(0.02):
                return inner(*arguments, **options)
        raise AssertionError(f"nobody spoke for {stage}")

    monkeypatch.setattr(session, stage, slow)
    monkeypatch.setattr(session, "at_work", lambda _, told: reading(told, every=0.01))
    job = place.job(f"watched-{stage}", max_steps=1)
    assert session.run_session(job, around(tmp_path, Told(), lambda: False)) is not None

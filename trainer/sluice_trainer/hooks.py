"""What a session does at each step: progress, curves, probes, checkpoints on the first worker; a barrier of all."""

import time
from collections.abc import Callable

import torch

from sluice_api.contracts.jobs import ProbeResult, TrainJob
from sluice_artifacts import join
from sluice_trainer.checkpoint import Checkpointer
from sluice_trainer.flops import Work, peak_of
from sluice_trainer.live import LiveModel
from sluice_trainer.loop import StepRecord
from sluice_trainer.plan import Plan
from sluice_trainer.probes import SuiteLeft
from sluice_trainer.recipes import Recipe
from sluice_trainer.snapshot import Take
from sluice_trainer.surroundings import Surroundings
from sluice_trainer.telemetry import Telemetry

PROBING = "probing"
"""Stage while a suite is run; its steps are answers, so that a long suite is not taken for a hang."""


class SessionHooks:
    """The loop's hooks."""

    def __init__(
        self,
        *,
        job: TrainJob,
        plan: Plan,
        recipe: Recipe,
        live: LiveModel,
        work: Work,
        around: Surroundings,
        checkpointer: Checkpointer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Tell `around` of the steps of `plan`; `work` says what they cost."""
        self._job = job
        self._plan = plan
        self._recipe = recipe
        self._live = live
        self._work = work
        self._around = around
        self._checkpointer = checkpointer
        self._clock = clock
        self._last: StepRecord | None = None
        self._at = clock()
        device = around.device
        self._peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self._telemetry = Telemetry(job.output_uri) if around.group.rank == 0 else None

    def step_done(self, record: StepRecord) -> None:
        """Report the step."""
        if self._last is None:
            self._around.stepped()
        self._last = record
        now = self._clock()
        seconds, self._at = now - self._at, now
        step = self._plan.steps[record.step - 1]
        flops = sum(self._work.flops(self._recipe.load(row)) for row in step.rows) / seconds
        metrics = {
            "loss": record.loss,
            "learning_rate": record.learning_rate,
            "grad_norm": record.grad_norm,
            "tokens_per_second": record.tokens_per_second,
            "epoch": record.epoch,
            "phase": float(record.phase),
            "model_flops_per_second": flops,
            "data_wait_seconds": self._recipe.data_seconds,
            "checkpoint_stall_seconds": record.stall_seconds,
            **record.extra,
        }
        if self._peak is not None:
            metrics["mfu"] = flops / (self._peak * self._around.group.size)
        self._around.progress.progress(stage="training", step=record.step, of=record.of, metrics=metrics)
        if self._telemetry is not None:
            self._telemetry.step(record.step, metrics)

    def stop_requested(self) -> bool:
        """Ask the surroundings."""
        return self._around.stop_requested()

    def probe(self, step: int) -> ProbeResult:
        """Have the suite run on the live weights.

        Raises:
            SuiteLeft: the run was asked to stop.
        """
        if self.stop_requested():
            raise SuiteLeft
        assert self._job.probes is not None and self._around.prober is not None, "checked before the run"
        self._around.progress.progress(stage=PROBING)
        found = self._around.prober(self._job.probes, self._live, step, join(self._job.output_uri, "probes"))
        self._around.progress.progress(stage="training", step=step, of=self._last.of if self._last else None)
        if self._telemetry is not None:
            self._telemetry.probe(step, {"pass_rate": found.pass_rate, "syntax_rate": found.syntax_rate})
        self._at = self._clock()
        return found

    def checkpoint(self, step: int, take: Take) -> None:
        """Save on the first worker, then meet the others."""
        if self._around.group.rank == 0:
            self._checkpointer.save(take)
        if self._telemetry is not None:
            self._telemetry.publish()
        self._around.checkpoint_taken(step, self._last)

    def close(self) -> None:
        """Publish the curves, however the run ended."""
        if self._telemetry is not None:
            self._telemetry.close()

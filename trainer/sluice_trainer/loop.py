"""The training loop: plain, synchronous, without Ray.

Each step adds up the gradients of its rows, clips them, and takes one AdamW step (Loshchilov and Hutter, "Decoupled
weight decay regularization", 2019). Everything that a step depends on is in the plan or in a `Snapshot`: order,
learning rate and random draws are pure functions of the step's number, so a run that is killed anywhere and resumed
from a snapshot goes on as if nothing had happened, bit for bit on a CPU.

With several workers, each takes every `size`-th row of the step, and gradients are summed. The loss is divided by the
plan's count of scored tokens, not by a worker's own, so that the number of workers changes nothing but rounding.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sluice_api.contracts.jobs import FailureClass, ProbePlan, ProbeResult, StopReason
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.group import Alone, Group, shares
from sluice_trainer.optimizer import Optimizer
from sluice_trainer.phases import Phase, check_phases
from sluice_trainer.plan import Plan, Step
from sluice_trainer.probes import SuiteLeft, is_due, verdict
from sluice_trainer.recipes import Recipe
from sluice_trainer.schedule import Schedule
from sluice_trainer.snapshot import PendingSnapshot, Snapshot, SnapshotTaker, Take, put_back, spread

FINAL_STEPS = 10
"""Steps over which the final loss is averaged."""
SPEED_STEPS = 20
"""Steps over which the speed in a step's record is averaged."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Optimizer and checkpoint interval. Defaults of AdamW are those of its authors, without weight decay."""

    schedule: Schedule
    """Learning rate by step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    epsilon: float = 1e-8
    """Added to the denominator."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm beyond which gradients are scaled down."""
    checkpoint_every: int = 250
    """Steps between checkpoints; the last step, and every one that is probed, has one in any case."""
    phases: tuple[Phase, ...] = ()
    """What is trained when; empty trains everything throughout."""
    probes: ProbePlan | None = None
    """Evaluations on the live weights, and the rules that read them."""
    base_steps: int | None = None
    """Steps unless the probes' gates are met; None means all of the plan's."""

    def __post_init__(self) -> None:
        check_phases(self.phases)
        if self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every is {self.checkpoint_every}: it must be at least 1")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}: it must be greater than 0")


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one step measured."""

    step: int
    """Steps done."""
    of: int
    """Steps in all."""
    loss: float
    """Mean loss per scored unit, in nats."""
    learning_rate: float
    """Learning rate of the step; the highest where groups differ."""
    phase: int
    """Number of the phase, from 0."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Real tokens of the step, all workers together."""
    tokens_per_second: float
    """Real tokens per second over the last steps, all workers together."""
    epoch: float
    """Passes over the data."""
    stall_seconds: float = 0.0
    """Seconds for which this run has waited for snapshots and checkpoints so far."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further means of the recipe."""


class Hooks(Protocol):
    """What the loop tells, and asks, on every worker."""

    def step_done(self, record: StepRecord) -> None:
        """Take note of a step."""
        ...

    def stop_requested(self) -> bool:
        """Whether to save and stop after the present step."""
        ...

    def checkpoint(self, step: int, take: Take) -> None:
        """Save a snapshot, if this worker is the one that saves."""
        ...

    def probe(self, step: int) -> ProbeResult:
        """Evaluate the weights as they are after `step` steps; asked of the first worker only.

        Raises:
            SuiteLeft: the run was asked to stop meanwhile.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a run of the loop ended."""

    step: int
    """Steps done."""
    finished: bool
    """Whether the run is over; otherwise the loop was asked to stop."""
    stop_reason: StopReason
    """Why it is over."""
    final_loss: float
    """Mean loss per scored unit over the last steps, in nats; NaN before the first."""
    tokens_per_second: float
    """Real tokens per second of this run, all workers together, probes not counted."""
    probes: tuple[ProbeResult, ...] = ()
    """What the probes showed; complete on the first worker only."""


def train(
    plan: Plan,
    hooks: Hooks,
    *,
    recipe: Recipe,
    config: LoopConfig,
    group: Group | None = None,
    resume: Snapshot | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Trained:
    """Carry out the plan from where `resume` left off.

    Raises:
        WorkerError: `UserError` when the loss or the gradients stop being finite.
        ValueError: a phase trains nothing.
    """
    run = _Run(plan, hooks, recipe, config, group or Alone(), clock)
    try:
        return run.carry_out(resume)
    finally:
        run.taker.close()


class _Run:
    """One run of the loop."""

    def __init__(
        self,
        plan: Plan,
        hooks: Hooks,
        recipe: Recipe,
        config: LoopConfig,
        group: Group,
        clock: Callable[[], float],
    ) -> None:
        self.plan, self.hooks, self.recipe, self.config, self.group = plan, hooks, recipe, config, group
        self.optimizer = Optimizer(
            recipe.parameters,
            schedule=config.schedule,
            phases=config.phases,
            betas=config.betas,
            epsilon=config.epsilon,
            weight_decay=config.weight_decay,
        )
        self.taker = SnapshotTaker(recipe.parameters, self.optimizer.adamw)
        self.speed = _Speed(clock)
        self._clock = clock
        self.stalled = 0.0
        self.recent: deque[tuple[float, int]] = deque(maxlen=FINAL_STEPS)
        self.probes: list[ProbeResult] = []
        self.left = False
        """Whether a suite was left, on every worker alike."""
        self.done = 0
        self.total = len(plan.steps)
        self.base_steps = min(config.base_steps or self.total, self.total)

    def carry_out(self, resume: Snapshot | None) -> Trained:
        """Restore, then step after step until the plan, a stop rule or a request ends it.

        Asked to stop before its first step, or in a suite, it ends there: what it holds is what was saved.
        """
        asked = self._restore(resume)
        saved = self.done
        stop = asked and (self.done < self.total or self._probes_here())
        reason = None if stop else self._probe()
        while reason is None and self.done < self.total and not (stop or self.left):
            asked = self._step(self.plan.steps[self.done])
            # Saved before it is judged: a suite takes long, and a kill must not cost the steps as well.
            stop = asked and (self.done < self.total or self._probes_here())
            if asked or self.done == self.total or self._is_saved_here():
                saved = self._save()
            if not stop:
                reason = self._probe()
        if saved != self.done:
            self._save()
        finished = reason is not None or (self.done == self.total and not (stop or self.left))
        return Trained(
            step=self.done,
            finished=finished,
            stop_reason=reason or StopReason.COMPLETED,
            final_loss=_mean_loss(self.recent),
            tokens_per_second=self.speed.overall(),
            probes=tuple(self.probes),
        )

    def _step(self, step: Step) -> bool:
        """Take one optimizer step; whether a worker was asked to stop."""
        index, group, recipe = self.done, self.group, self.recipe
        trained = self.optimizer.begin(index)
        # On the device until the step is over: each figure that is looked at earlier would wait for all that is queued.
        sums = torch.zeros(len(recipe.metrics) + 1, dtype=torch.float64, device=trained[0].device)
        for number, counts in shares(len(step.rows), group):
            torch.manual_seed(self.plan.draw_seed(index, number))
            # Divided by infinity, the gradients of a pass that does not count are zeros.
            found = recipe.backward(step.rows[number], step.scored if counts else math.inf)
            sums[:-1] += found if counts else 0.0
        sums[-1] = float(self.hooks.stop_requested())
        _add_up(trained, sums, group)
        clipped = torch.nn.utils.clip_grad_norm_(trained, self.config.max_grad_norm)
        *figures, asked, norm = torch.cat([sums, clipped.to(sums).reshape(1)]).tolist()
        _check_finite(index + 1, figures[0], norm)
        with self._stall():
            self.taker.settle()
        self.optimizer.step()
        self.done = index + 1
        self.recent.append((figures[0], step.scored))
        means = {name: value / step.scored for name, value in zip(recipe.metrics, figures, strict=True)}
        self.hooks.step_done(
            StepRecord(
                step=self.done,
                of=self.total if self.done > self.base_steps else self.base_steps,
                loss=means.pop(recipe.metrics[0]),
                learning_rate=self.optimizer.learning_rate,
                phase=self.optimizer.phase(index),
                grad_norm=norm,
                tokens=step.tokens,
                tokens_per_second=self.speed.count(step.tokens),
                epoch=step.epoch,
                stall_seconds=self.stalled,
                extra=means,
            )
        )
        return bool(asked)

    def _probe(self) -> StopReason | None:
        """Run the probe that is due; why the run ends here, the same on every worker."""
        plan = self.config.probes
        if plan is None:
            return None
        reasons = list(StopReason)
        told = torch.zeros(1, dtype=torch.int64, device=next(iter(self.recipe.parameters.values())).device)
        if self.group.rank == 0:
            try:
                if is_due(plan, self.probes, self.done):
                    with self.speed.paused():
                        self.probes.append(self.hooks.probe(self.done))
                reason = verdict(self.probes, plan, step=self.done, base_steps=self.base_steps)
                told[0] = 1 + reasons.index(reason) if reason is not None else 0
            except SuiteLeft:
                told[0] = -1
        if self._probes_here() or self.done == self.base_steps:
            self.group.broadcast(told)
        self.left = int(told) < 0
        return reasons[int(told) - 1] if int(told) > 0 else None

    @contextmanager
    def _stall(self) -> Iterator[None]:
        """Count the time inside as waiting for checkpoints."""
        before = self._clock()
        yield
        self.stalled += self._clock() - before

    def _probes_here(self) -> bool:
        """Whether a probe belongs to the present step, on every worker alike."""
        plan = self.config.probes
        return plan is not None and (
            self.done % plan.every == 0 or any(gate.at_step == self.done for gate in plan.gates)
        )

    def _is_saved_here(self) -> bool:
        return self.done % self.config.checkpoint_every == 0 or self._probes_here()

    def _save(self) -> int:
        """Begin a checkpoint; the step that it holds."""
        with self._stall():
            self.hooks.checkpoint(self.done, self._take)
        return self.done

    def _take(self) -> PendingSnapshot:
        return self.taker.take(self.done, tuple(self.recent), tuple(self.probes))

    def _restore(self, resume: Snapshot | None) -> bool:
        """Put a snapshot back, on every worker what process 0 has; whether that one was asked to stop."""
        parameters, adamw = self.recipe.parameters, self.optimizer.adamw
        if resume is not None:
            put_back(parameters, adamw, resume)
            self.recent.extend(resume.recent)
            self.probes = list(resume.probes)
        device = next(iter(parameters.values())).device
        begin = torch.tensor([resume.step if resume else 0, int(self.hooks.stop_requested())], device=device)
        self.group.broadcast(begin)
        self.done, asked = begin.tolist()
        if self.group.size > 1:
            spread(parameters, adamw, self.group)
        return bool(asked)


class _Speed:
    """Tokens per second, over the last steps and overall."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=SPEED_STEPS + 1)
        self._start = self._marks[0][0]

    def count(self, tokens: int) -> float:
        """Take note of a step's tokens; return the recent speed."""
        self._marks.append((self._clock(), self._marks[-1][1] + tokens))
        return self._between(self._marks[0], self._marks[-1])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count neither the time nor the work inside."""
        before = self._clock()
        yield
        away = self._clock() - before
        self._start += away
        self._marks = deque(((at + away, tokens) for at, tokens in self._marks), maxlen=self._marks.maxlen)

    def overall(self) -> float:
        """Speed since the start."""
        return self._between((self._start, 0), self._marks[-1])

    @staticmethod
    def _between(first: tuple[float, int], last: tuple[float, int]) -> float:
        seconds = last[0] - first[0]
        return (last[1] - first[1]) / seconds if seconds > 0 else 0.0


def _add_up(parameters: Sequence[torch.nn.Parameter], sums: torch.Tensor, group: Group) -> None:
    """Sum gradients and figures over the workers; one that had no row of this step adds nothing.

    What no row used has a gradient of zeros, with one worker as with many: its moments decay and its steps count alike.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if group.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    group.sum(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    group.sum(sums)


def _check_finite(step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    # Before the first step no learning rate has had an effect.
    advice = (
        "lower optimizer.learningRate, or give it a longer warm-up (optimizer.warmupRatio)"
        if step > 1
        else "nothing has been learnt yet, so the base or the parent adapter holds values that are not finite"
    )
    raise WorkerError(FailureClass.USER_ERROR, f"step {step}: the loss is {loss}, the gradient norm {norm}: {advice}")


def _mean_loss(recent: deque[tuple[float, int]]) -> float:
    scored = sum(units for _, units in recent)
    return sum(loss for loss, _ in recent) / scored if scored else math.nan

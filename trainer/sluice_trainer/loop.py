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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.group import Alone, Group
from sluice_trainer.plan import Plan
from sluice_trainer.recipes import Recipe
from sluice_trainer.schedule import Schedule

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
    """Steps between checkpoints; the last step has one in any case."""

    def __post_init__(self) -> None:
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
    """Learning rate of the step."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Real tokens of the step, all workers together."""
    tokens_per_second: float
    """Real tokens per second over the last steps, all workers together."""
    epoch: float
    """Passes over the data."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Further means of the recipe."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a run needs in order to go on."""

    step: int
    """Steps done."""
    parameters: Mapping[str, torch.Tensor]
    """Trained parameters by name, on the CPU."""
    optimizer: Mapping[str, torch.Tensor]
    """State of AdamW: `<parameter>/<moment>`, on the CPU."""
    random: Mapping[str, torch.Tensor]
    """States of torch's generators, by device."""
    recent: tuple[tuple[float, int], ...]
    """Loss sum and scored units of the last steps."""


class Hooks(Protocol):
    """What the loop tells, and asks, on every worker."""

    def step_done(self, record: StepRecord) -> None:
        """Take note of a step."""
        ...

    def stop_requested(self) -> bool:
        """Whether to save and stop after the present step."""
        ...

    def checkpoint(self, step: int, take: Callable[[], Snapshot]) -> None:
        """Save a snapshot, if this worker is the one that saves."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a run of the loop ended."""

    step: int
    """Steps done."""
    finished: bool
    """Whether all steps are done; otherwise the loop was asked to stop."""
    final_loss: float
    """Mean loss per scored unit over the last steps, in nats; NaN before the first."""
    tokens_per_second: float
    """Real tokens per second of this run, all workers together."""


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
    """
    group = group or Alone()
    parameters = list(recipe.parameters.values())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.schedule.peak,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    done, recent = _restore(recipe.parameters, optimizer, resume, group)
    speed = _Speed(clock)
    total = len(plan.steps)
    saved = done
    for index in range(done, total):
        step = plan.steps[index]
        rate = _set_rate(optimizer, config.schedule.rate(index))
        optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(recipe.metrics) + 1, dtype=torch.float64)
        for number in range(group.rank, len(step.rows), group.size):
            torch.manual_seed(plan.draw_seed(index, number))
            sums[:-1] += recipe.backward(step.rows[number], step.scored)
        sums[-1] = float(hooks.stop_requested())
        _add_up(parameters, sums, group)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
        _check_finite(index + 1, float(sums[0]), norm)
        optimizer.step()
        recent.append((float(sums[0]), step.scored))
        means = {name: float(value) / step.scored for name, value in zip(recipe.metrics, sums, strict=False)}
        hooks.step_done(
            StepRecord(
                step=index + 1,
                of=total,
                loss=means.pop(recipe.metrics[0]),
                learning_rate=rate,
                grad_norm=norm,
                tokens=step.tokens,
                tokens_per_second=speed.count(step.tokens),
                epoch=step.epoch,
                extra=means,
            )
        )
        done = index + 1
        stop = bool(sums[-1] > 0) and done < total
        if stop or done == total or done % config.checkpoint_every == 0:
            hooks.checkpoint(done, lambda: _take(done, recipe.parameters, optimizer, recent))  # noqa: B023 - called now
            saved = done
        if stop:
            break
    assert saved == done, "a run never ends on an unsaved step"
    return Trained(step=done, finished=done == total, final_loss=_mean_loss(recent), tokens_per_second=speed.overall())


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

    def overall(self) -> float:
        """Speed since the start."""
        return self._between((self._start, 0), self._marks[-1])

    @staticmethod
    def _between(first: tuple[float, int], last: tuple[float, int]) -> float:
        seconds = last[0] - first[0]
        return (last[1] - first[1]) / seconds if seconds > 0 else 0.0


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    for entry in optimizer.param_groups:
        entry["lr"] = rate
    return rate


def _add_up(parameters: list[torch.nn.Parameter], sums: torch.Tensor, group: Group) -> None:
    """Sum gradients and figures over the workers; one that had no row of this step adds nothing."""
    if group.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    group.sum(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
    carried = sums.to(flat.device)
    group.sum(carried)
    sums.copy_(carried)


def _check_finite(step: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    message = (
        f"step {step}: the loss is {loss}, the gradient norm {norm}: "
        "lower optimizer.learningRate, or give it a longer warm-up (optimizer.warmupRatio)"
    )
    raise WorkerError(FailureClass.USER_ERROR, message)


def _mean_loss(recent: deque[tuple[float, int]]) -> float:
    scored = sum(units for _, units in recent)
    return sum(loss for loss, _ in recent) / scored if scored else math.nan


def _take(
    step: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    recent: deque[tuple[float, int]],
) -> Snapshot:
    """A copy of the run's state that later steps leave alone."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to("cpu", copy=True)

    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return Snapshot(
        step=step,
        parameters={name: copy(parameter) for name, parameter in parameters.items()},
        optimizer={
            f"{name}/{key}": copy(value)
            for name, parameter in parameters.items()
            for key, value in optimizer.state[parameter].items()
        },
        random=random,
        recent=tuple(recent),
    )


def _restore(
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    resume: Snapshot | None,
    group: Group,
) -> tuple[int, deque[tuple[float, int]]]:
    """Put a snapshot back, on every worker what process 0 has; return the steps done and the recent losses."""
    if resume is not None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(resume.parameters[name])
                optimizer.state[parameter] = {
                    key: resume.optimizer[f"{name}/{key}"].clone().to("cpu" if key == "step" else parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        torch.set_rng_state(resume.random["cpu"])
        if "cuda" in resume.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(resume.random["cuda"])
    device = next(iter(parameters.values())).device
    done = torch.tensor(resume.step if resume else 0, device=device)
    group.broadcast(done)
    if group.size > 1:
        _spread(parameters, optimizer, group, started=int(done) > 0)
    return int(done), deque(resume.recent if resume else (), maxlen=FINAL_STEPS)


def _spread(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, group: Group, *, started: bool
) -> None:
    """Give every worker the parameters, and where steps were taken the optimizer state, of process 0."""
    for parameter in parameters.values():
        group.broadcast(parameter.data)
        if not started:
            continue
        state = optimizer.state[parameter]
        state.setdefault("step", torch.zeros((), device=parameter.device))
        for key in ("exp_avg", "exp_avg_sq"):
            state.setdefault(key, torch.zeros_like(parameter))
        for key in ("step", "exp_avg", "exp_avg_sq"):
            carried = state[key].to(parameter.device)
            group.broadcast(carried)
            state[key] = carried

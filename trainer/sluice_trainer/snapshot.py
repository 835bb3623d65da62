"""Snapshots of a run: taken beside the next step, put back exactly.

Between two optimizer steps nothing changes parameters and moments: forward and backward passes only read them. So a
snapshot is begun at once and copied by a thread while the next step's gradients are computed; training waits only if
the copy is not done when the optimizer is about to write.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from sluice_api.contracts.jobs import ProbeResult
from sluice_trainer.group import Group

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a run needs in order to go on."""

    step: int
    """Steps done."""
    parameters: Mapping[str, torch.Tensor]
    """Trained parameters by name, on the CPU."""
    optimizer: Mapping[str, torch.Tensor]
    """State of AdamW: `<parameter>/<moment>`, on the CPU; nothing for a parameter that no step has trained yet."""
    random: Mapping[str, torch.Tensor]
    """States of torch's generators, by device."""
    recent: tuple[tuple[float, int], ...]
    """Loss sum and scored units of the last steps."""
    probes: tuple[ProbeResult, ...] = ()
    """What the probes have shown."""


class PendingSnapshot:
    """A snapshot that is being copied."""

    def __init__(self, step: int, future: "Future[Snapshot]") -> None:
        """Stand for the snapshot after `step` steps."""
        self.step = step
        self._future = future

    def result(self) -> Snapshot:
        """The snapshot, once it is copied."""
        return self._future.result()


class SnapshotTaker:
    """Copies a run's state in a thread of its own."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Prepare to copy these parameters and their optimizer state."""
        self._parameters = parameters
        self._optimizer = optimizer
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._pending: Future[Snapshot] | None = None

    def take(
        self, step: int, recent: tuple[tuple[float, int], ...], probes: tuple[ProbeResult, ...]
    ) -> PendingSnapshot:
        """Begin to copy the state as it is now; nothing may change it before `settle`."""
        self.settle()
        random = _random_states()
        event: Any = torch.cuda.Event() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()

        def copy() -> Snapshot:
            if event is not None:
                event.synchronize()
            return Snapshot(
                step=step,
                parameters={name: _copied(parameter) for name, parameter in self._parameters.items()},
                optimizer={
                    f"{name}/{key}": _copied(value)
                    for name, parameter in self._parameters.items()
                    for key, value in self._optimizer.state.get(parameter, {}).items()
                },
                random=random,
                recent=recent,
                probes=probes,
            )

        self._pending = self._pool.submit(copy)
        return PendingSnapshot(step, self._pending)

    def settle(self) -> None:
        """Wait until nothing is being copied any more."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Wait, and end the thread."""
        self._pool.shutdown(wait=True)


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def put_back(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, snapshot: Snapshot
) -> None:
    """Give parameters, optimizer and generators the state of a snapshot.

    All of a parameter's state goes to its device, the count of steps too: a fused AdamW takes it from nowhere else.
    """
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(snapshot.parameters[name])
            if f"{name}/step" not in snapshot.optimizer:
                continue
            optimizer.state[parameter] = {
                key: snapshot.optimizer[f"{name}/{key}"].clone().to(parameter.device) for key in ("step", *MOMENTS)
            }
    torch.set_rng_state(snapshot.random["cpu"])
    if "cuda" in snapshot.random and torch.cuda.is_available():
        torch.cuda.set_rng_state(snapshot.random["cuda"])


def spread(parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, group: Group) -> None:
    """Give every worker the parameters, and the optimizer state where there is one, of process 0."""
    device = next(iter(parameters.values())).device
    flags = [float("step" in optimizer.state.get(parameter, {})) for parameter in parameters.values()]
    stated = torch.tensor(flags, device=device)
    group.broadcast(stated)
    for parameter, has_state in zip(parameters.values(), stated.tolist(), strict=True):
        group.broadcast(parameter.data)
        if not has_state:
            continue
        state = optimizer.state[parameter]
        state.setdefault("step", torch.zeros((), device=parameter.device))
        for key in MOMENTS:
            state.setdefault(key, torch.zeros_like(parameter))
        for key in ("step", *MOMENTS):
            carried = state[key].to(parameter.device)
            group.broadcast(carried)
            state[key] = carried


Take = Callable[[], PendingSnapshot]
"""Begins a snapshot of the present state."""

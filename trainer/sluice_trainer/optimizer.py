"""AdamW over phases: who is trained at a step, at which learning rate, with whose moments.

AdamW is that of Loshchilov and Hutter, "Decoupled weight decay regularization", 2019. A parameter that a phase leaves
out has no gradient there: its value, its moments and its own count of steps stay exactly as they are, so that its bias
correction is right when a later phase takes it up again. Parameters whose rates agree in every phase share a group.
"""

from collections.abc import Mapping, Sequence

import torch

from sluice_trainer.phases import Phase, Phases
from sluice_trainer.schedule import Schedule


class Optimizer:
    """AdamW with the phases' learning rates."""

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        *,
        schedule: Schedule,
        phases: Sequence[Phase],
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ) -> None:
        """Prepare; no parameter changes before `step`.

        Raises:
            ValueError: a phase trains nothing.
        """
        self._parameters = parameters
        self._schedule = schedule
        self._phases = Phases(phases, parameters)
        shared: dict[tuple[float, ...], list[str]] = {}
        for name in parameters:
            shared.setdefault(self._phases.signature(name, schedule), []).append(name)
        self._shared = list(shared.values())
        groups = [{"params": [parameters[name] for name in names]} for names in self._shared]
        self.adamw = torch.optim.AdamW(
            groups, lr=schedule.peak, betas=betas, eps=epsilon, weight_decay=weight_decay, fused=True
        )
        self.learning_rate = 0.0
        """Highest learning rate of the present step."""

    def phase(self, step: int) -> int:
        """Number of a step's phase."""
        return self._phases.number(step)

    def begin(self, step: int) -> list[torch.nn.Parameter]:
        """Forget the gradients and prepare a step (from 0); returns the parameters that it trains."""
        rates = self._phases.rates(step, self._schedule)
        self.adamw.zero_grad(set_to_none=True)
        for names, group in zip(self._shared, self.adamw.param_groups, strict=True):
            group["lr"] = rates.get(names[0], 0.0)
        trained = []
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in rates)
            if name in rates:
                trained.append(parameter)
        self.learning_rate = max(rates.values())
        return trained

    def step(self) -> None:
        """Change the parameters that have a gradient."""
        self.adamw.step()

"""What is trained at a step, and how fast: a pure function of the step's number."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from sluice_trainer.parameter_groups import EXPERTS, NORM, ROUTER, check_group, in_any, in_group
from sluice_trainer.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps in which the same parameters are trained."""

    until: int | None = None
    """First step that no longer belongs to it."""
    train: tuple[str, ...] = ()
    """Groups that are trained; empty means all."""
    freeze: tuple[str, ...] = ()
    """Groups that are not; it wins over `train`."""
    learning_rate: float | None = None
    """Peak learning rate; None takes the schedule's."""
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rate by group; of several that a parameter is in, the last counts."""

    def __post_init__(self) -> None:
        for group in (*self.train, *self.freeze, *self.learning_rates):
            check_group(group)
        for rate in (self.learning_rate, *self.learning_rates.values()):
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"phases: learning_rate is {rate}: it must be greater than 0, and finite")

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained."""
        return (not self.train or in_any(name, self.train)) and not in_any(name, self.freeze)

    def peak(self, name: str, default: float) -> float:
        """Peak learning rate of a parameter."""
        rate = self.learning_rate or default
        for group, each in self.learning_rates.items():
            if in_group(name, group):
                rate = each
        return rate


EVERYTHING = Phase()
"""The only phase of a run without phases."""


def check_phases(phases: Sequence[Phase]) -> None:
    """Refuse phases that are not one after the other.

    Raises:
        ValueError: a phase but the last has no end, or ends before its first step or no later than the one before.
    """
    ends = [phase.until for phase in phases]
    if ends and ends[0] is not None and ends[0] < 1:
        raise ValueError(f"phases[0].until is {ends[0]}: it must be at least 1, or the phase has no step")
    for number, (end, following) in enumerate(pairwise(ends)):
        if end is None:
            raise ValueError(f"phases[{number}].until is missing: only the last phase may have none")
        if following is not None and following <= end:
            raise ValueError(f"phases[{number + 1}].until is {following}: it must be greater than {end}")


class Phases:
    """The phases of a run over its trained parameters."""

    def __init__(self, phases: Sequence[Phase], names: Iterable[str]) -> None:
        """Work out what each phase trains.

        Raises:
            ValueError: a phase trains nothing at all.
        """
        self._phases = tuple(phases) or (EVERYTHING,)
        names = tuple(names)
        self._trained = [frozenset(name for name in names if phase.trains(name)) for phase in self._phases]
        for number, trained in enumerate(self._trained):
            if not trained:
                phase = self._phases[number]
                raise ValueError(
                    f"phases[{number}] trains nothing: no adapted parameter is in train {list(phase.train)} "
                    f"without being in freeze {list(phase.freeze)}"
                )

    def number(self, step: int) -> int:
        """Which phase a step (from 0) belongs to; the last one holds to the end."""
        for number, phase in enumerate(self._phases[:-1]):
            if phase.until is not None and step < phase.until:
                return number
        return len(self._phases) - 1

    def rates(self, step: int, schedule: Schedule) -> dict[str, float]:
        """Learning rate of every parameter that a step (from 0) trains, by name: the schedule's shape, its own peak."""
        number = self.number(step)
        phase, share = self._phases[number], schedule.rate(step) / schedule.peak
        return {name: share * phase.peak(name, schedule.peak) for name in self._trained[number]}

    def signature(self, name: str, schedule: Schedule) -> tuple[float, ...]:
        """Peak learning rate of a parameter in every phase, 0 where it is frozen: equal ones never part."""
        return tuple(
            phase.peak(name, schedule.peak) if name in trained else 0.0
            for phase, trained in zip(self._phases, self._trained, strict=True)
        )


def trained_roles(phases: Sequence[Phase]) -> frozenset[str]:
    """Which of the roles that an adapter leaves alone by default some phase trains by name: norm, router, experts."""
    return frozenset(
        role
        for role in (NORM, ROUTER, EXPERTS)
        if any(role in phase.train and role not in phase.freeze for phase in phases)
    )

"""The processes that train together: one alone, or several that add up their gradients."""

from collections.abc import Iterator
from typing import Protocol

import torch


class Group(Protocol):
    """Processes that take every step together."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Processes in all."""
    lockstep: bool
    """Whether every process has to do as many passes as every other: with sharded weights a pass is a meeting."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Replace the tensor by its sum over all processes, in place."""
        ...

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Replace the tensor by that of process 0, in place."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1
    lockstep = False

    def sum(self, tensor: torch.Tensor) -> None:
        """Do nothing: the sum of one."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Do nothing: process 0 is this one."""


class ProcessGroup:
    """The default group of `torch.distributed`, which must have been initialised (Ray Train does)."""

    def __init__(self) -> None:
        """Read rank and size from the initialised group."""
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self.lockstep = False

    def sum(self, tensor: torch.Tensor) -> None:
        """All-reduce."""
        torch.distributed.all_reduce(tensor)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Broadcast from process 0."""
        torch.distributed.broadcast(tensor, src=0)


def shares(count: int, group: Group) -> Iterator[tuple[int, bool]]:
    """Which of `count` pieces of work this process does: each number, and whether it counts.

    Piece k is process k mod `size`'s. In lockstep a process that has run out does the last piece once more beside those
    that have not, and what comes of it does not count.
    """
    for start in range(0, count, group.size):
        number = start + group.rank
        if number < count:
            yield number, True
        elif group.lockstep:
            yield count - 1, False

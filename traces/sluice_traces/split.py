"""What is held out of training: whole runs by time, or whole tenants; never single rows.

Steps of one run resemble each other, so a row-wise split would test on what was trained on. And what a version of a
dataset has held out is never trained on by a later one, nor is what was trained on ever held out afterwards: with a
parent, only runs that the parent does not know are distributed.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sluice_traces.spool import Spool


class SplitError(ValueError):
    """The data cannot be split as asked; the message says what to change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """What to hold out."""

    holdout: float = 0.1
    """Share of the runs that gave rows, at least 0 and at most 0.5."""
    by: Literal["time", "group"] = "time"
    """`time`: the newest runs; `group`: whole tenants."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout <= 0.5:
            raise ValueError(f"holdout is {self.holdout}: give a share from 0 to 0.5")
        if self.by not in ("time", "group"):
            raise ValueError(f"by is {self.by!r}: give time or group")


class Tenant(NamedTuple):
    """One tenant's runs."""

    name: str
    """The tenant, empty for shared runs."""
    runs: int
    """Runs that gave rows or are held out already."""
    trained: int
    """Runs that the parent version trained on."""
    held: int
    """Runs that the parent version held out."""


def assign(spool: Spool, config: SplitConfig) -> None:
    """Put every run of the spool into training or the holdout.

    What the parent version held out stays held out. By time, the newest new runs fill the share up; a run whose start
    is unknown counts as the oldest. By group, new tenants fill it up in the order of a hash of their name, as long as
    the share is not exceeded, but one at least. At least one run, or one tenant, stays in training.

    Args:
        spool: the runs, with what the parent version did with them.
        config: what to hold out.

    Raises:
        SplitError: by group, with a single tenant.
    """
    spool.hold_out_previous()
    if config.holdout <= 0.0:
        return
    tenants = [Tenant(*found) for found in spool.tenant_sizes()]
    if config.by == "group":
        for name in new_held_tenants(tenants, config.holdout):
            spool.hold_out_tenant(name)
    else:
        runs, held = sum(t.runs for t in tenants), sum(t.held for t in tenants)
        spool.hold_out_newest(target_runs(runs, config.holdout) - held)


def target_runs(runs: int, holdout: float) -> int:
    """How many of so many runs to hold out: the rounded share, at least one and never all."""
    if holdout <= 0.0 or runs < 2:
        return 0
    return min(runs - 1, max(1, math.floor(runs * holdout + 0.5)))


def new_held_tenants(tenants: Sequence[Tenant], holdout: float) -> list[str]:
    """The new tenants to hold out.

    Raises:
        SplitError: there is a single tenant and nothing of it is held out or trained on yet.
    """
    runs = sum(tenant.runs for tenant in tenants)
    new = sorted((t for t in tenants if t.runs and not t.trained and not t.held), key=lambda t: _hash_order(t.name))
    known = [tenant for tenant in tenants if tenant.trained or tenant.held]
    if not known and len(new) == 1:
        raise SplitError(
            f"the split is by group and all {runs} runs belong to one tenant: split by time, or set holdout to 0"
        )
    if not any(tenant.trained for tenant in known):
        # Someone has to be trained on: of tenants that are all new, the last in the order.
        new = new[:-1]
    room = target_runs(runs, holdout) - sum(tenant.runs for tenant in known if not tenant.trained)
    chosen: list[str] = [tenant.name for tenant in known if not tenant.trained]
    for tenant in new:
        if tenant.runs <= room or not chosen:
            chosen.append(tenant.name)
            room -= tenant.runs
    return chosen


def _hash_order(tenant: str) -> tuple[bytes, str]:
    return hashlib.sha256(tenant.encode()).digest(), tenant

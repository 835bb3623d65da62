"""Where a session runs: its processes, its device, whom it tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sluice_trainer.group import Group
from sluice_trainer.live import Prober
from sluice_trainer.loop import StepRecord


class ProgressSink(Protocol):
    """What takes note of where the work stands; `sluice_artifacts.reporting.Reporter` is one."""

    def progress(
        self,
        *,
        stage: str | None = None,
        step: int | None = None,
        of: int | None = None,
        metrics: Mapping[str, float] | None = None,
        inputs: Mapping[str, str] | None = None,
        resumed_from_step: int | None = None,
    ) -> None:
        """Take note; what is not given stays as it was."""
        ...


class NoProgress:
    """Takes note of nothing: for every worker but the first."""

    def progress(self, **_: Any) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a session runs."""

    group: Group
    """The processes that train together."""
    device: torch.device
    """Where the model lies."""
    progress: ProgressSink
    """Told where the work stands."""
    stop_requested: Callable[[], bool]
    """Whether the job was asked to stop."""
    checkpoint_taken: Callable[[int, StepRecord | None], None]
    """Called on every worker at the same steps, once a checkpoint is under way."""
    cache: Path
    """Folder for fetched artifacts."""
    prober: Prober | None = None
    """Runs the suite of probes; None where no job asks for one."""

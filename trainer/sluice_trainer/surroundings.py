"""Where a session runs: its processes, its device, whom it tells."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sluice_api.contracts.jobs import FailureClass
from sluice_artifacts.reporting import WorkerError
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
    saving: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered when there is something to save: from then on a request to stop shows in `stop_requested` alone."""
    stepped: Callable[[], None] = lambda: None
    """Called on every worker when it has taken its first step: nobody waits for anyone's preparations any more."""

    def end_if_asked(self) -> None:
        """To be called between and in the stages before the first step, on any worker: there is nothing to save yet.

        Raises:
            WorkerError: `Preempted`, when the job was asked to stop. In a group, the adapter to Ray then ends the
                other workers, wherever they wait, as for any failure before the first step.
        """
        if self.stop_requested():
            message = "asked to stop before this attempt's first step: the next attempt begins where this one did"
            raise WorkerError(FailureClass.PREEMPTED, message)

"""The one Protocol of a runner."""

from typing import Protocol

from sluice_api.contracts.evaluation import EvalTask, Outcome


class TaskRunner(Protocol):
    """Runs one task on one model. Called many times at once; cancelled at the task's deadline."""

    protocol: str
    """Name and version of the protocol, part of the harness digest."""
    target: str
    """What is asked: the weights' digest where known, else the endpoint. Part of the key of a cached result."""

    async def run(self, task: EvalTask) -> Outcome:
        """Run a task.

        Raises:
            InfrastructureError: the task could not be judged.
        """
        ...

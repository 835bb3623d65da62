"""A base, a dataset and a job for the trainer's tests."""

from pathlib import Path
from typing import Any

from sluice_api.contracts.base import ModelRef, RunRef
from sluice_api.contracts.jobs import Result, TrainJob, TrainOutput
from tiny_models import publish_rows, save_base, sft_row


class Workplace:
    """One base model and one dataset in a folder, and jobs that use them."""

    def __init__(self, folder: Path, rows: int = 30) -> None:
        self.folder = folder
        self.base = save_base(folder / "base")
        self.dataset = publish_rows(f"file://{folder}/datasets", [sft_row(number) for number in range(rows)])

    def job(self, name: str, **options: Any) -> TrainJob:
        """A job with a prefix of its own; `name` tells runs apart, `attempt` the attempts of one."""
        attempt = options.get("attempt", 1)
        settings = {
            "run": RunRef(kind="FineTuneRun", namespace="default", name=name, uid=f"uid-{name}"),
            "attempt": attempt,
            "output_uri": f"file://{self.folder}/runs/{name}/{attempt}/",
            "dataset": self.dataset,
            "base_model": ModelRef(uri=f"file://{self.base}"),
            "checkpoint_uri": f"file://{self.folder}/runs/{name}/checkpoints/",
            "adapter_uri": f"file://{self.folder}/adapters/",
            "lora_rank": 8,
            "lora_alpha": 16,
            "learning_rate": 3e-3,
            "tokens_per_step": 600,
            "max_length": 300,
            "epochs": 2,
            "checkpoint_every": 3,
            "seed": 11,
        } | options
        return TrainJob(**settings)

    def result(self, job: TrainJob) -> Result:
        """What `run_worker` wrote."""
        path = Path(job.output_uri.removeprefix("file://")) / "result.json"
        return Result.model_validate_json(path.read_bytes())

    def output(self, job: TrainJob) -> TrainOutput:
        """The output of a job that succeeded."""
        result = self.result(job)
        assert result.failure is None, result.failure
        assert isinstance(result.output, TrainOutput)
        return result.output

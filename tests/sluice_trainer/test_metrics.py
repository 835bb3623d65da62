"""FLOPs by the rule for LoRA, event files, and what every step says of itself."""

import resource
import signal
import tempfile
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from sluice_api.contracts.jobs import Progress
from sluice_artifacts.reporting import run_worker
from sluice_trainer import worker
from sluice_trainer.attention import IMPLEMENTATION
from sluice_trainer.flops import Load, Work, peak_of
from sluice_trainer.model import LoraSettings, add_adapter
from sluice_trainer.telemetry import Telemetry
from tiny_models import tiny_model, tiny_tokenizer
from training_jobs import Workplace


def events(path: Path) -> list[Event]:
    """Records of an event file: length, its checksum, the message, its checksum."""
    data, found, place = path.read_bytes(), [], 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 8], "little")
        message = data[place + 12 : place + 12 + length]
        stored = int.from_bytes(data[place + 12 + length : place + 16 + length], "little")
        assert masked_crc32c(message) == stored
        event = Event()
        event.ParseFromString(message)
        found.append(event)
        place += 16 + length
    return found


def test_flops_follow_the_rule_for_lora() -> None:
    """Counted by hand for a model of one layer: 4 a frozen weight, 6 a trained one, the head for scored tokens."""
    size, vocabulary = 64, len(tiny_tokenizer())
    base = tiny_model(tiny_tokenizer(), layers=1, size=size).requires_grad_(False)
    base.set_attn_implementation(IMPLEMENTATION)
    work = Work.of(add_adapter(base, LoraSettings(rank=8, alpha=16), seed=0))
    linear = size * size + 2 * size * size // 2 + size * size + 3 * size * 2 * size
    adapter = 8 * ((size + size) + 2 * (size + size // 2) + (size + size) + 3 * (size + 2 * size))
    assert work.frozen == linear + 3 * size, "and three norms; no embedding, no head"
    assert (work.trained, work.head, work.attention) == (adapter, vocabulary * size, size)
    expected = 100 * (4 * work.frozen + 6 * adapter) + 4 * vocabulary * size * 30 + 6 * 1 * size * (60**2 + 40**2)
    assert work.flops(Load(tokens=100, scored=30, squares=60**2 + 40**2)) == expected


def test_the_experts_that_a_token_does_not_see_do_not_count() -> None:
    base = tiny_model(tiny_tokenizer(), layers=1, architecture="qwen3_moe").requires_grad_(False)
    dense = sum(p.numel() for name, p in base.named_parameters() if "experts" not in name and "embed" not in name)
    experts = sum(p.numel() for name, p in base.named_parameters() if "experts" in name)
    model = add_adapter(base, LoraSettings(rank=8, alpha=16), seed=0)
    assert Work.of(model).frozen == dense + experts / 2, "two of four"


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("AMD Instinct MI300X", 1307e12), ("NVIDIA H200", 989e12), ("EPYC", None)],
)
def test_peaks_are_those_of_the_makers(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_every_step_is_in_the_progress_and_in_the_event_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker.CACHE_VARIABLE, str(tmp_path / "cache"))
    place = Workplace(tmp_path, rows=12)
    job = place.job("curves")
    assert run_worker(job, worker.run_bare) == 0
    output = place.output(job)
    attempt = Path(job.output_uri.removeprefix("file://"))
    progress = Progress.model_validate_json((attempt / "progress.json").read_bytes())
    names = {
        "loss", "learning_rate", "grad_norm", "tokens_per_second", "epoch", "phase", "model_flops_per_second",
        "data_wait_seconds", "checkpoint_stall_seconds",
    }  # fmt: skip
    assert names <= progress.metrics.keys()
    assert progress.metrics["model_flops_per_second"] > 0
    assert 0 < progress.metrics["data_wait_seconds"] < 60
    (path,) = (attempt / "tensorboard").iterdir()
    scalars = [(event.step, value.tag) for event in events(path) for value in event.summary.value]
    for name in names:
        assert [step for step, tag in scalars if tag == f"train/{name}"] == list(range(1, output.steps + 1))


FIGURES = {f"figure-{number}": float(number) for number in range(100)}


def test_a_temporary_folder_without_room_costs_the_curves_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit on a file's size stands for the full disk: a write ends in an OSError, and nothing waits for room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    telemetry = Telemetry(f"file://{tmp_path}/attempt/", clock=lambda: 1e9)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        for step in range(1, 50):
            telemetry.step(step, FIGURES)
        telemetry.publish()
        telemetry.probe(50, {"pass_rate": 0.5, "syntax_rate": None})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        telemetry.close()
    assert [record.message for record in caplog.records] == [
        "no more curves: the temporary folder does not take them: File too large"
    ]
    (path,) = (tmp_path / "attempt" / "tensorboard").iterdir()
    assert path.stat().st_size == 20_000


def test_without_a_temporary_folder_there_are_no_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    telemetry = Telemetry(f"file://{tmp_path}/attempt/")
    telemetry.step(1, {"loss": 1.0})
    telemetry.publish()
    telemetry.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not (tmp_path / "attempt").exists()

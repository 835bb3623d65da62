"""What a profile promises of a device is checked before anything is loaded; the real check runs on the CPU."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sluice_api.contracts.base import ArtifactRef, ModelRef, RunRef
from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts.reporting import WorkerError
from sluice_trainer.hardware import BF16_ERROR, TorchDevice, check_device, worker_device

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Card:
    """An accelerator as a driver describes it."""

    vendor: str = "cuda"
    called: str = "NVIDIA A100-SXM4-80GB"
    size: int = int(79.3 * GIB)
    error: float | None = 0.003

    def platform(self) -> str:
        return self.vendor

    def name(self) -> str:
        return self.called

    def memory(self) -> int | None:
        return self.size

    def bf16_error(self) -> float:
        if self.error is None:
            raise RuntimeError("no kernel for BFloat16\nstack")
        return self.error


A100, MI300X = Card(), Card(vendor="rocm", called="AMD Instinct MI300X OAM", size=192 * GIB)


def job(**options: Any) -> TrainJob:
    settings = {
        "run": RunRef(kind="FineTuneRun", namespace="default", name="x", uid="u"),
        "attempt": 1,
        "output_uri": "file:///x/",
        "dataset": ArtifactRef(uri="file:///d/", digest="sha256:" + "0" * 64),
        "base_model": ModelRef(uri="file:///b"),
        "checkpoint_uri": "file:///c/",
        "adapter_uri": "file:///a/",
    }
    return TrainJob.model_validate(settings | options)


ASKED = {"use_gpu": True, "platform": "cuda", "device": "a100", "memory_bytes": 80 * GIB}


def test_the_devices_of_the_two_profiles_pass() -> None:
    check_device(job(**ASKED), A100)
    check_device(job(use_gpu=True, platform="rocm", device="MI300X", memory_bytes=192 * GIB), MI300X)
    check_device(job(use_gpu=True), MI300X)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (MI300X, "platform is cuda, torch in the image is built for rocm: correct image or platform"),
        (replace(A100, called="Tesla T4"), "device is 'a100', the node has 'Tesla T4': correct nodeSelector or device"),
        (replace(A100, size=40 * GIB), "acceleratorMemory is 80.0 GiB, 'NVIDIA A100-SXM4-80GB' has 40.0 GiB"),
        (replace(A100, error=None), r"cannot compute in bf16 \(no kernel for BFloat16\)"),
        (replace(A100, error=0.2), "computes wrongly in bf16"),
        (replace(A100, error=float("nan")), "computes wrongly in bf16"),
    ],
)
def test_a_broken_promise_is_named_with_its_field_and_tried_elsewhere(card: Card, says: str) -> None:
    with pytest.raises(WorkerError, match=says) as caught:
        check_device(job(**ASKED), card)
    assert caught.value.failure_class == FailureClass.INFRASTRUCTURE


def test_the_cpu_is_asked_for_real() -> None:
    device = TorchDevice(torch.device("cpu"))
    assert (device.platform(), device.name(), device.memory()) == ("cpu", "", None)
    assert 0 < device.bf16_error() <= BF16_ERROR
    check_device(job(platform="cpu"), device)
    with pytest.raises(WorkerError, match="platform is rocm, torch in the image is built for cpu"):
        check_device(job(platform="rocm"), device)


def test_an_accelerator_that_torch_does_not_see_is_the_nodes_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_device(job()) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WorkerError, match="torch sees none") as caught:
        worker_device(job(use_gpu=True))
    assert caught.value.failure_class == FailureClass.INFRASTRUCTURE

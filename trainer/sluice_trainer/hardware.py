"""Whether a worker's device is what the profile says, asked before anything is loaded.

A profile promises a platform, an accelerator by name, and its memory; a base is loaded in bf16 on whatever accelerator
there is. A node that breaks the promise (another pool's label, an image built for the other vendor, a card without
bf16) would train slowly, wrongly, or fail an hour later with a text that names none of this.
"""

from typing import NoReturn, Protocol

import torch

from sluice_api.contracts.jobs import FailureClass, TrainJob
from sluice_artifacts.reporting import WorkerError

MEMORY_TOLERANCE = 0.05
"""Share of the promised memory that a device may lack: drivers keep some for themselves."""
BF16_ERROR = 2.0**-6
"""Largest difference, relative to the largest value, of a product in bf16, which has eight significant bits."""
PROBE_SIZE = 64
"""Rows and columns of the product that is tried out."""


class Device(Protocol):
    """What is asked of a device."""

    def platform(self) -> str:
        """`cpu`, `cuda` or `rocm`."""
        ...

    def name(self) -> str:
        """The device's own name; empty where it has none."""
        ...

    def memory(self) -> int | None:
        """Bytes; None where it has none of its own."""
        ...

    def bf16_error(self) -> float:
        """Largest difference of a product in bf16 from the one in fp32, relative to the largest value."""
        ...


class TorchDevice:
    """A device as torch sees it."""

    def __init__(self, device: torch.device) -> None:
        """Ask about `device`."""
        self._device = device

    def platform(self) -> str:
        """As torch was built."""
        if self._device.type == "cpu":
            return "cpu"
        return "rocm" if torch.version.hip else "cuda"

    def name(self) -> str:
        """As the driver says."""
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""

    def memory(self) -> int | None:
        """As the driver says."""
        if self._device.type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(self._device).total_memory)

    def bf16_error(self) -> float:
        """By one small product."""
        generator = torch.Generator().manual_seed(0)
        left, right = (torch.randn(PROBE_SIZE, PROBE_SIZE, generator=generator) for _ in range(2))
        exact = left.bfloat16().float() @ right.bfloat16().float()
        found = (left.to(self._device, torch.bfloat16) @ right.to(self._device, torch.bfloat16)).float().cpu()
        return float((found - exact).abs().max() / exact.abs().max())


def worker_device(job: TrainJob) -> torch.device:
    """Where a worker's model lies.

    Raises:
        WorkerError: `Infrastructure` where the profile has an accelerator and torch sees none.
    """
    if not job.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        message = (
            "the profile gives every worker an accelerator and torch sees none: check the node's driver and device "
            f"plugin, and that the profile's image holds a torch for it (this one is built for {_built_for()})"
        )
        raise WorkerError(FailureClass.INFRASTRUCTURE, message)
    return torch.device("cuda", torch.cuda.current_device())


def check_device(job: TrainJob, device: Device) -> None:
    """Compare a worker's device with what its profile promises.

    Raises:
        WorkerError: `Infrastructure`, with what was found and which field of the profile says otherwise.
    """
    platform = device.platform()
    if job.platform and platform != job.platform:
        _broken(f"platform is {job.platform}, torch in the image is built for {platform}: correct image or platform")
    if not job.use_gpu:
        return
    name = device.name()
    if job.device.lower() not in name.lower():
        _broken(f"device is {job.device!r}, the node has {name!r}: correct nodeSelector or device")
    memory = device.memory()
    if job.memory_bytes is not None and memory is not None and memory < job.memory_bytes * (1 - MEMORY_TOLERANCE):
        found, promised = memory / 2**30, job.memory_bytes / 2**30
        _broken(f"acceleratorMemory is {promised:.1f} GiB, {name!r} has {found:.1f} GiB: correct it, or nodeSelector")
    try:
        error = device.bf16_error()
    except RuntimeError as problem:
        _broken(f"{name!r} cannot compute in bf16 ({str(problem).splitlines()[0]}): name nodes whose accelerators can")
    if not error <= BF16_ERROR:
        _broken(f"{name!r} computes wrongly in bf16 (relative error {error:.3g}): take the node out of the pool")


def _broken(message: str) -> NoReturn:
    raise WorkerError(FailureClass.INFRASTRUCTURE, f"the node is not what the profile says: {message}")


def _built_for() -> str:
    return "ROCm" if torch.version.hip else "CUDA" if torch.version.cuda else "CPUs"

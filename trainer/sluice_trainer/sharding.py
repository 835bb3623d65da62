"""Frozen weights shared out over the workers, for bases that no single accelerator holds (FSDP2, `fully_shard`).

Each layer's frozen weights are cut into as many parts as there are workers and are whole only while the layer computes.
What is trained is small in a LoRA run and stays whole on every worker, as do embeddings, the last norm and the head: so
gradients are added up, clipped, checkpointed and published exactly as without sharding, and a checkpoint of either kind
of run resumes the other.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The decoder's layers, in order; empty where the model keeps them elsewhere than transformers' decoders do."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return list(getattr(base.get_decoder(), "layers", ()))


def shard(model: Any, device: torch.device, workers: int) -> None:
    """Share the frozen weights of the layers out over the `workers` of the default process group, and move the rest.

    From then on all of them have to do every forward and backward pass together. The model may lie on the CPU: its
    layers reach the device one at a time.
    """
    layers = layers_of(model)
    mesh = init_device_mesh(device.type, (workers,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    # The decoder itself holds nothing to share out then; as the root it lets a layer be fetched while another computes.
    rest = {parameter for parameter in model.parameters() if not _is_sharded(parameter)}
    fully_shard(model.get_base_model().get_decoder(), mesh=mesh, ignored_params=rest)
    model.to(device)


def _is_sharded(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, torch.distributed.tensor.DTensor)

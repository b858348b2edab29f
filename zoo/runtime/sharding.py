"""A model whose weights, gradients and moments are shared out over the processes: FSDP2, torch's ``fully_shard``.

``accelerate launch`` says by variables that a run is to be sharded. The run does it itself, since accelerate would not
on a CPU, and would hold whole gradients while it accumulates.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from zoo.errors import ZooError

_SHIPPED = "configs/accelerate/fsdp2-8.yaml"
_NOT_TAKEN = {  # variables of the launcher that are not followed, and what is
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params: weights stay on their device; leave it out",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing: say --train.gradient_checkpointing true instead",
}


def _says_yes(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1", "yes")


def requested_sharding() -> bool:
    """Whether the launcher's config asks for FSDP2.

    Raises:
        ZooError: it asks for something else of the kind, which is not there.
    """
    for variable, name in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")):
        if _says_yes(variable):
            raise ZooError(f"the launcher's config asks for {name}, which no run uses: {_SHIPPED} shares weights out.")
    if not _says_yes("ACCELERATE_USE_FSDP"):
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ZooError(
            f"the launcher's config asks for FSDP {version}: say fsdp_version: 2 in its fsdp_config, as in {_SHIPPED}."
        )
    for variable, instead in _NOT_TAKEN.items():
        if _says_yes(variable):
            raise ZooError(f"the launcher's config has a setting that is not followed, {instead}.")
    return True


def reshards_after_forward() -> bool:
    """Whether a layer's weights are given back after its forward pass, and gathered again for the backward pass."""
    return os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"


def shard_model(model: nn.Module, parts: Iterable[nn.Module], device: torch.device) -> None:
    """Share out a model's weights in place over all processes.

    Args:
        model: with the same weights in every process.
        parts: modules of it that run once in a forward pass, by being called; each is gathered when it is called. What
            is in none of them is gathered for the whole pass.
        device: of the weights.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=reshards_after_forward())
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are shared out."""
    return isinstance(model, FSDPModule)


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Within the block all weights are in every process, which may then run the model as often as it likes.

    Args:
        model: sharded or not.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model and reshards_after_forward(), recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may have a part; every process takes part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_tensors(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors, one after the other, on the CPU where any is shared out; every process takes part.

    Args:
        tensors: in the same order in every process.
        keep: whether this process gets them; else it gets nothing.
    """
    if not any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        return dict(tensors) if keep else {}
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu()
    return found


def like_sharded(values: Tensor, parameter: Tensor) -> Tensor:
    """Values that every process has, shared out as a parameter is if they are of its shape; else as they are."""
    if not isinstance(parameter, DTensor) or values.shape != parameter.shape:
        return values
    return distribute_tensor(values.to(parameter.device), parameter.device_mesh, parameter.placements)

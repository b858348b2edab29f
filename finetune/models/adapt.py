"""How much of a pretrained core is trained: all of it layer by layer, low-rank updates, or nothing."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from finetune.config import LoraSettings
from finetune.models.task_model import JointModel, TaskModel
from pretraining.optim.optimizers import parameter_groups
from zoo.core.base import Core
from zoo.errors import ZooError

_LAYER = re.compile(r"core\.layers\.(\d+)\.")


def add_lora(core: Core, settings: LoraSettings, seed: int) -> None:
    """Freeze a core and put a low-rank update, of zero at first, beside linear maps of its layers.

    Args:
        core: changed in place.
        settings: rank, factor, which maps.
        seed: keys the updates' random half.

    Raises:
        ZooError: PEFT is not installed, or the core has no such maps.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ZooError("use: lora needs the package peft: pip install 'sesame-zoo[lora]'.") from error
    linear = [name for name, module in core.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if not settings.matrices or any(part in name for part in settings.matrices)]
    wanted = [name for name in chosen if name.startswith("layers.")]
    if not wanted:
        kinds = ", ".join(dict.fromkeys(re.sub(r"^layers\.\d+\.", "", n) for n in linear if n.startswith("layers.")))
        found = f"its layers' linear maps are {kinds}" if kinds else "its layers have no linear maps of their own"
        raise ZooError(
            f"use: lora finds nothing to update in this core: {found} (lora.matrices = {settings.matrices})."
        )
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=wanted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, core)


def merge_lora(core: Core) -> None:
    """Add the updates to the maps they stand beside, so that the core is one of its kind again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(core.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(core.get_submodule(parent), own, module.get_base_layer())


def rate_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser; ``rate`` is what each takes of the learning rate.

    Layer-wise decay as ELECTRA's: the head's rate is whole, and each layer further down takes ``layer_decay`` of the
    one above it, the embeddings the least.

    Args:
        model: its trained parameters are taken.
        weight_decay: of all but biases, norms and mixes.
        layer_decay: 1 = the same rate for all.
    """
    spared = ["bias", "norm", "mixes"]
    if layer_decay == 1:
        return parameter_groups(model.named_parameters(), weight_decay, spared)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = len(model.core.layers) if isinstance(model, TaskModel | JointModel) else 0
    depths: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        depths.setdefault(_depth(name, layers), []).append((name, parameter))
    groups = []
    for depth, own in sorted(depths.items()):
        for group in parameter_groups(own, weight_decay, spared):
            groups.append({**group, "rate": layer_decay ** (layers + 2 - depth)})
    return groups


def _depth(name: str, layers: int) -> int:
    """0 = embeddings, 1 = the first layer, ..., layers + 1 = what reads the last, layers + 2 = the head."""
    if not name.startswith("core."):
        return layers + 2
    found = _LAYER.match(name)
    if found:
        return int(found[1]) + 1
    return 0 if name.startswith("core.embeddings.") else layers + 1

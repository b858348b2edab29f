"""Around the model, before the first step: a compiled graph, and the processes that share its gradients."""

from __future__ import annotations

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import nn

from pretraining.config import PretrainConfig
from pretraining.loader import TaskData
from pretraining.model import PretrainingModel
from pretraining.objective import make_batch
from pretraining.step import weighted_loss

_COMPILE_PAYS = 2000  # steps above which `compile: auto` compiles, on a GPU


def wants_compiling(config: PretrainConfig, device: str) -> bool:
    """Whether the settings, or the length of the run, ask for a compiled graph on this kind of device."""
    train = config.train
    steps = train.steps or (train.tokens or 0) // (train.batch_size * config.data.sequence_length)
    return train.compile == "yes" or (train.compile == "auto" and steps > _COMPILE_PAYS and device == "cuda")


def share_model(
    config: PretrainConfig, accelerator: Accelerator, model: PretrainingModel, data: dict[str, TaskData]
) -> nn.Module:
    """The model as its processes train it together; the same one where there is only one."""
    if accelerator.num_processes > 1:
        unused = len(config.tasks) > 1 or _has_idle_parameters(config, accelerator, model, next(iter(data.values())))
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused, broadcast_buffers=False)
    shared: nn.Module = accelerator.prepare(model)
    return shared.train()


def _has_idle_parameters(
    config: PretrainConfig, accelerator: Accelerator, model: PretrainingModel, data: TaskData
) -> bool:
    """Whether a part of the model gets no gradient from its only task (a pooler nobody reads)."""
    some = data.rows(0, np.arange(min(2, len(data.plan(0)[0]))))
    batch = make_batch([some], data.objectives, data.pad)
    terms, _ = model(send_to_device(batch, accelerator.device))
    weighted_loss(terms, dict.fromkeys(terms, 1.0), config.objectives).backward()
    idle = any(p.grad is None for p in model.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)
    return idle

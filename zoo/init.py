"""Initial values keyed by seed and parameter name.

Two models that share a parameter's name and shape start from the same values of it, whatever else they
consist of, so arms of an ablation differ only where they mean to.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from zoo.config import CoreConfig


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on ``seed`` and ``name`` only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % (2**63))


def initialise(module: nn.Module, config: CoreConfig, seed: int, prefix: str = "") -> None:
    """Fill every parameter of ``module`` in place: matrices random, norms one, biases zero.

    Args:
        module: what to fill; parameters on the meta device are left alone.
        config: says distribution (``initializer``), width (``initializer_range``) and residual scaling.
        seed: the run's ``seed.init``.
        prefix: name of the module in the model (``core.``), part of each parameter's key.
    """
    residual = 1.0 / math.sqrt(2 * config.num_hidden_layers) if config.residual_init_scale else 1.0
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            full = f"{prefix}{path}.{name}" if path else f"{prefix}{name}"
            if parameter.is_meta:
                continue
            with torch.no_grad():
                if parameter.ndim < 2:  # biases, and the gains of norms
                    parameter.fill_(1.0 if name == "weight" else 0.0)
                else:
                    scale = residual if getattr(part, "residual_output", False) else 1.0
                    _fill(parameter, config, config.initializer_range * scale, named_generator(seed, full))


def _fill(parameter: nn.Parameter, config: CoreConfig, std: float, generator: torch.Generator) -> None:
    values = torch.empty(parameter.shape, dtype=torch.float32)
    if config.initializer == "truncated_normal":
        nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)
    else:
        values.normal_(0.0, std, generator=generator)
    parameter.copy_(values)

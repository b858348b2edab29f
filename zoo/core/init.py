"""Initial values keyed by seed and parameter name.

Two models that share a parameter's name and shape start from the same values of it, whatever else they
consist of, so arms of an ablation differ only where they mean to.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig
from zoo.initial import Initial, constant, fill_normal, uniform


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on ``seed`` and ``name`` only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % (2**63))


def _truncated(values: Tensor, generator: torch.Generator | None, std: float) -> None:
    nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)


def initial_of(part: nn.Module, name: str, config: CoreConfig) -> Initial:
    """How a parameter starts: matrices random, norms one, biases zero; or as the part's own ``initial`` says.

    Args:
        part: the module that the parameter is directly in; its ``initial`` has :data:`~zoo.initial.Initial` by name.
        name: the parameter's name there.
        config: says distribution (``initializer``), width (``initializer_range``) and residual scaling.
    """
    own: Initial | None = getattr(part, "initial", {}).get(name)
    if own is not None:
        return own
    if getattr(part, name).ndim < 2:  # biases, and the gains of norms
        return constant(1.0 if name == "weight" else 0.0)
    residual = config.residual_init_scale and getattr(part, "residual_output", False)
    std = config.initializer_range * (1.0 / math.sqrt(2 * config.num_hidden_layers) if residual else 1.0)
    if config.initializer == "uniform":
        return uniform(std)
    return partial(_truncated if config.initializer == "truncated_normal" else fill_normal, std=std)


def initialise(module: nn.Module, config: CoreConfig, seed: int, prefix: str = "") -> None:
    """Fill every parameter of ``module`` in place, as :func:`initial_of` says.

    Args:
        module: what to fill; parameters on the meta device are left alone.
        config: the core's config.
        seed: the run's ``seed.init``.
        prefix: name of the module in the model (``core.``), part of each parameter's key.
    """
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_meta:
                continue
            full = f"{prefix}{path}.{name}" if path else f"{prefix}{name}"
            values = torch.empty(parameter.shape, dtype=torch.float32)
            initial_of(part, name, config)(values, named_generator(seed, full))
            with torch.no_grad():
                parameter.copy_(values)

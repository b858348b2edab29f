"""Initial values keyed by seed and parameter name.

Two models that share a parameter's name and shape start from the same values of it, whatever else they
consist of, so arms of an ablation differ only where they mean to.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo.config import CoreConfig


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on ``seed`` and ``name`` only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % (2**63))


Initial = Callable[..., object]
"""Fills a tensor in place: ``(values, generator or None)``; a partial of a function below, so that it pickles."""


def normal(fan_in: int) -> Initial:
    """Normal values of variance 1 / ``fan_in``."""
    return partial(_normal, std=1.0 / math.sqrt(fan_in))


def uniform(bound: float) -> Initial:
    """Uniform values between -``bound`` and ``bound``."""
    return partial(_uniform, bound=bound)


def constant(value: float) -> Initial:
    """One value everywhere."""
    return partial(_constant, value=value)


def _normal(values: Tensor, generator: torch.Generator | None, std: float) -> None:
    values.normal_(0.0, std, generator=generator)


def _uniform(values: Tensor, generator: torch.Generator | None, bound: float) -> None:
    values.uniform_(-bound, bound, generator=generator)


def _constant(values: Tensor, generator: torch.Generator | None, value: float) -> None:
    values.fill_(value)


def initialise(module: nn.Module, config: CoreConfig, seed: int, prefix: str = "") -> None:
    """Fill every parameter of ``module`` in place: matrices random, norms one, biases zero.

    A part whose ``initial`` (a dictionary of :data:`Initial`) names one of its parameters has it filled by that.

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
            own = getattr(part, "initial", {}).get(name)
            with torch.no_grad():
                if own is not None:
                    values = torch.empty(parameter.shape, dtype=torch.float32)
                    own(values, named_generator(seed, full))
                    parameter.copy_(values)
                elif parameter.ndim < 2:  # biases, and the gains of norms
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

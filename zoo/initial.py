"""How single parameters start, in the hands of the modules that have them (see :mod:`zoo.core.init`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Initial = Callable[..., object]
"""Fills a tensor in place: ``(values, generator or None)``; a partial, so that it pickles."""


def normal(fan_in: float) -> Initial:
    """Normal values of variance 1 / ``fan_in``."""
    return partial(fill_normal, std=1.0 / math.sqrt(fan_in))


def uniform(bound: float) -> Initial:
    """Uniform values between -``bound`` and ``bound``."""
    return partial(fill_uniform, bound=bound)


def constant(value: float) -> Initial:
    """One value everywhere."""
    return partial(fill_constant, value=value)


def fill_normal(values: Tensor, generator: torch.Generator | None, std: float) -> None:
    """Normal values of mean 0."""
    values.normal_(0.0, std, generator=generator)


def fill_uniform(values: Tensor, generator: torch.Generator | None, bound: float) -> None:
    """Uniform values around 0."""
    values.uniform_(-bound, bound, generator=generator)


def fill_constant(values: Tensor, generator: torch.Generator | None, value: float) -> None:
    """One value everywhere."""
    values.fill_(value)

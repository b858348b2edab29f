"""Dropout as a hash of (seed, step, global row, place, element) instead of a generator.

The mask repeats when a run resumes, does not depend on how rows are shared out over processes, is recomputed
rather than stored for the backward pass, and costs a few integer passes: on two CPU cores a quarter or less of
``torch.nn.functional.dropout``, which otherwise costs as much as the matrix products.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ODD = -1640531535  # 2**32 / golden ratio as int32: odd, bits well spread
_NORMAL = 0x2545F491  # tells normal numbers from the dropout of the same place
_STRIDE = 4096  # places of one query row, so that an element's number does not depend on padding


def row_keys(seed: int, step: int, rows: Any) -> Tensor:
    """(B,) int32 keys of global rows at one optimiser step.

    Args:
        seed: the run's data seed.
        step: optimiser step.
        rows: (B,) numbers of the rows in the global batch.
    """
    from numpy import uint64

    numbers = np.asarray(rows, dtype=np.int64).view(uint64)
    with np.errstate(over="ignore"):
        z = numbers * uint64(0x9E3779B97F4A7C15) + uint64(step) * uint64(0xD1B54A32D192ED03) + uint64(seed % 2**63)
        for _ in range(2):
            z ^= z >> uint64(30)
            z *= uint64(0xBF58476D1CE4E5B9)
            z ^= z >> uint64(27)
            z *= uint64(0x94D049BB133111EB)
            z ^= z >> uint64(31)
    return torch.from_numpy((z >> uint64(32)).astype(np.uint32).view(np.int32).copy())


def _mix(value: Tensor) -> Tensor:
    """murmur3's finaliser on int32 tensors (arithmetic shifts, masked to logical ones)."""
    value = value ^ ((value >> 16) & 0xFFFF)
    value = value * -2048144789
    value = value ^ ((value >> 13) & 0x7FFFF)
    value = value * -1028477387
    return value ^ ((value >> 16) & 0xFFFF)


def _element_hash(shape: tuple[int, ...], device: torch.device, positions: Tensor | None = None) -> Tensor:
    """(1, n) int32 hash of the element numbers of one row, or (B, n) where its second-last axis has own ``positions``.

    The last two axes are numbered with a fixed stride.
    """
    number = torch.arange(shape[-1], dtype=torch.int32, device=device)[None]
    for axis, stride in zip(range(2, len(shape) + 1), (_STRIDE, _STRIDE * _STRIDE), strict=False):
        outer = torch.arange(shape[-axis], dtype=torch.int32, device=device)[None]
        if axis == 2 and positions is not None:
            outer = positions.to(torch.int32)
        number = ((outer * stride)[:, :, None] + number[:, None]).flatten(1)
    return _mix(number * -1640531527 + 374761393)


_cached_element_hash = lru_cache(maxsize=16)(_element_hash)


def _elements(x: Tensor, positions: Tensor | None) -> Tensor:
    """The hash of the element numbers of ``x``, kept where all rows, layers and steps share it."""
    made_by = _cached_element_hash if positions is None else _element_hash
    return made_by(tuple(x.shape[1:]), x.device, *(() if positions is None else (positions,)))


def _row_hash(keys: Tensor, site: int | Tensor) -> Tensor:
    """(B,) int32 hash of rows at one place of the model."""
    return _mix(keys ^ ((site * 2246822519 + 1) & 0x7FFFFFFF))


def _factors(x: Tensor, rows: Tensor, elements: Tensor, p: float) -> Tensor:
    """Shape of ``x``: 0 with probability p, else 1 / (1 - p)."""
    hashed = torch.bitwise_xor(rows[:, None], elements)
    # Integers in place: a comparison to bool costs several times as much on a CPU.
    hashed.mul_(_ODD).lt_(2 * int(2**30 * (1 - 2 * p)))
    return hashed.mul_(_bits(1.0 / (1.0 - p), x.device)).view(torch.float32).view(x.shape)


def _bits(value: float, device: torch.device) -> Any:
    """The bits of a number in single precision as an int32: a constant, or where p is a graph's input a () tensor."""
    if torch.compiler.is_compiling():
        return torch.full((), value, dtype=torch.float32, device=device).view(torch.int32)
    return struct.unpack("<i", struct.pack("<f", value))[0]


class _KeyedDropout(torch.autograd.Function):
    """Multiply by the hashed factors, forwards and backwards; nothing but the hashes they are made of is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, elements: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(rows, elements)
        ctx.p = p
        return _factors(x, rows, elements, p).mul_(x).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        rows, elements = ctx.saved_tensors
        factors = _factors(grads[0], rows, elements, ctx.p)
        return factors.mul_(grads[0]).to(grads[0].dtype), None, None, None


class _DroppedProduct(torch.autograd.Function):
    """Dropout of the left factor of a product; what was dropped is made again, and not kept beside the factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, elements: Tensor, p: float, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, rows, elements, values)
        ctx.p = p
        return _factors(x, rows, elements, p).mul_(x).to(values.dtype) @ values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, Tensor]:
        x, rows, elements, values = ctx.saved_tensors
        factors = _factors(x, rows, elements, ctx.p)
        grad_values = (factors * x).to(values.dtype).transpose(-1, -2) @ grads[0]
        return factors.mul_(grads[0] @ values.transpose(-1, -2)), None, None, None, grad_values


def keyed_normal(keys: Tensor, site: int | Tensor, count: int) -> Tensor:
    """(B, count) standard normal numbers that ``keys`` (B,) and ``site`` determine, by Box and Muller's method.

    Args:
        keys: from :func:`row_keys`.
        site: number of the place in the model.
        count: numbers of each row.
    """
    numbers = torch.arange(2 * count, dtype=torch.int32, device=keys.device)
    rows = _row_hash(keys ^ _NORMAL, site)
    hashed = _mix(_mix(rows[:, None] ^ _mix(numbers * -1640531527 + 374761393)[None]))
    uniform = ((hashed & 0xFFFFFF).to(torch.float32) + 0.5) * 2.0**-24
    radius, angle = uniform[:, :count].log().mul(-2.0).sqrt(), uniform[:, count:] * (2.0 * torch.pi)
    return radius * angle.cos()


def dropped_product(
    x: Tensor, values: Tensor, keys: Tensor | None, site: int | Tensor, p: float, positions: Tensor | None = None
) -> Tensor:
    """``keyed_dropout(x).to(values.dtype) @ values``, of which the backward pass keeps ``x`` and ``values`` alone.

    Args:
        x: (B, H, R, K) probabilities in single precision.
        values: (B, H, K, D).
        keys: as in :func:`keyed_dropout`, like all that follow.
        site: number of the place in the model.
        p: probability of zeroing.
        positions: (B, R) places of the rows of ``x``.
    """
    if keys is None or p == 0.0 or torch.compiler.is_compiling():
        return keyed_dropout(x, keys, site, p, positions).to(values.dtype) @ values
    elements = _elements(x, positions)
    result: Tensor = _DroppedProduct.apply(x, _row_hash(keys, site), elements, p, values)
    return result


def keyed_dropout(
    x: Tensor, keys: Tensor | None, site: int | Tensor, p: float, positions: Tensor | None = None
) -> Tensor:
    """Dropout of ``x`` (B, ...) with the mask that ``keys`` (B,) and ``site`` determine.

    Args:
        x: any floating tensor whose first axis is the batch.
        keys: from :func:`row_keys`; ``None`` = no dropout.
        site: number of the place in the model, or a () int64 tensor of it; different places draw different masks.
        p: probability of zeroing, exact to 2**-31.
        positions: (B, R) places of the second-last axis in a longer row, whose mask they get; ``None`` = 0, 1, 2, ...
    """
    if keys is None or p == 0.0:
        return x
    rows = _row_hash(keys, site)
    if torch.compiler.is_compiling():  # it keeps or recomputes by itself, and torch 2.11 makes zeros of our backward
        return (x * _factors(x, rows, _element_hash(tuple(x.shape[1:]), x.device, positions), p)).to(x.dtype)
    result: Tensor = _KeyedDropout.apply(x, rows, _elements(x, positions), p)
    return result

"""A linear layer under autocast that keeps no copy of its weight in low precision for the backward pass.

Torch's keeps one of every weight from the forward to the backward pass: a sixth of what a step of 12/768 keeps at 2,048
tokens. To convert a weight again takes about a hundredth of the time of its products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _ConvertedProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` in the type of ``x``; the weight and the bias are converted, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad, needed = grads[0].reshape(-1, weight.shape[0]), ctx.needs_input_grad
        return (
            (grad @ weight.to(x.dtype)).view(x.shape) if needed[0] else None,
            (grad.t() @ x.reshape(-1, weight.shape[1])).to(weight.dtype) if needed[1] else None,
            grad.sum(0).to(weight.dtype) if needed[2] else None,
        )


class Linear(nn.Linear):
    """``nn.Linear`` with the same results, whose low-precision weight lives as long as its product takes."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        device = x.device.type
        if torch.compiler.is_compiling() or not (torch.is_autocast_enabled(device) and torch.is_grad_enabled()):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            result: Tensor = _ConvertedProduct.apply(x.to(torch.get_autocast_dtype(device)), self.weight, self.bias)
        return result

"""Cross-entropy over a large vocabulary without keeping its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_CHUNK_BYTES = 64 * 2**20


class TokenLoss(NamedTuple):
    """Summed cross-entropy.

    Args:
        total: 0-d sum in nats, with gradient.
        nll: (T,) each position's loss, without gradient.
        correct: 0-d number of positions where the label scores highest; ``None`` while training,
            where it would cost another pass over the logits.
    """

    total: Tensor
    nll: Tensor
    correct: Tensor | None


class _LinearCrossEntropy(torch.autograd.Function):
    """Logits are made chunk by chunk, turned into their gradient in place and multiplied back at once.

    So at most 64 MB of logits exist at a time, and the backward pass only scales what is ready. The sum's
    gradient with respect to each logit is softmax - one-hot.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        need = [ctx.needs_input_grad[i] for i in range(3)]
        nll = torch.empty(len(labels), dtype=torch.float32, device=features.device)
        grad_features = torch.empty_like(features, dtype=dtype) if need[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need[2] else None
        correct = torch.zeros((), dtype=torch.int64, device=features.device)
        matrix = weight.to(dtype)
        chunk = max(1, _CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            states = features[part].to(dtype)
            logits = (states @ matrix.t()).float()
            if bias is not None:
                logits += bias
            index = labels[part, None]
            norm = torch.logsumexp(logits, dim=-1, keepdim=True)
            nll[part] = (norm - logits.gather(1, index)).squeeze(1)
            if not any(need):
                correct += (logits.argmax(-1) == labels[part]).sum()
                continue
            grad = logits.sub_(norm).exp_()
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            low = grad.to(dtype)
            if grad_features is not None:
                grad_features[part] = low @ matrix
            if grad_weight is not None:
                _accumulate(grad_weight, low, states)
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        ctx.types = (features.dtype, weight.dtype)
        ctx.mark_non_differentiable(nll, correct)
        return nll.sum(), nll, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ready, scale = ctx.saved_tensors, grads[0]
        features, weight, bias = (None if g is None else g.mul_(scale.to(g.dtype)) for g in ready)
        return (
            None if features is None else features.to(ctx.types[0]),
            None if weight is None else weight.to(ctx.types[1]),
            bias,
            None,
            None,
        )


def _accumulate(total: Tensor, grad: Tensor, states: Tensor) -> None:
    """Total (V, E) += grad (n, V) transposed @ states (n, E), in place where the types allow."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.t(), states)
    else:
        total += (grad.t() @ states).float()


def linear_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> TokenLoss:
    """Cross-entropy of ``features @ weight.T + bias`` with ``labels``, summed.

    Args:
        features: (T, E).
        weight: (V, E) output matrix.
        bias: (V,) or ``None``.
        labels: (T,) int64.

    Returns:
        sum, per-position losses and hits; zeros where T = 0. Twice-differentiation is not supported.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    with torch.autocast(device, enabled=False):
        total, nll, correct = _LinearCrossEntropy.apply(features, weight, bias, labels, dtype)
    return TokenLoss(total, nll, None if total.requires_grad else correct)

"""Cross-entropy over a large vocabulary without keeping its logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 16 * 2**20  # of logits: few enough to stay in a CPU's cache between the passes over them
_GPU_CHUNKS = 16  # times as many on a GPU, where launches cost more than memory


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

    So few logits exist at a time (16 MB on a CPU), and the backward pass only scales what is ready. The sum's
    gradient with respect to each logit is softmax - one-hot.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
        train: bool,
        chunk_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need = [train and ctx.needs_input_grad[i] for i in range(3)]
        nll = torch.empty(len(labels), dtype=torch.float32, device=features.device)
        grad_features = torch.empty_like(features, dtype=dtype) if need[0] else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need[2] else None
        correct = torch.zeros((), dtype=torch.int64, device=features.device)
        matrix = weight.to(dtype)
        chunk = _chunk_rows(len(labels), weight.shape[0], features.device, chunk_bytes)
        for start in range(0, len(labels), chunk):
            part = slice(start, start + chunk)
            states = features[part].to(dtype)
            logits = (states @ matrix.t()).float()
            if bias is not None:
                logits += bias
            index = labels[part, None]
            expected = logits.gather(1, index)
            if not any(need):
                nll[part] = (torch.logsumexp(logits, dim=-1, keepdim=True) - expected).squeeze(1)
                correct += (logits.argmax(-1) == labels[part]).sum()
                continue
            # One softmax serves loss and gradient: log-sum-exp = greatest logit - log(its probability).
            grad = torch.softmax(logits, dim=-1)
            norm = logits.amax(-1, keepdim=True) - grad.amax(-1, keepdim=True).log()
            nll[part] = (norm - expected).squeeze(1)
            grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            low = grad.to(dtype)
            if grad_features is not None:
                grad_features[part] = low @ matrix
            if need[1]:
                grad_weight = _accumulate(grad_weight, low, states)
        if need[1] and grad_weight is None:  # no targets
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
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
            None,
            None,
        )


def _chunk_rows(rows: int, vocab: int, device: torch.device, chunk_bytes: int) -> int:
    """Rows of a chunk: near the wanted size, and the last chunk no smaller than it must be."""
    limit = chunk_bytes * (1 if device.type == "cpu" else _GPU_CHUNKS)
    chunks = -(-rows // max(1, limit // (4 * vocab)))
    return -(-rows // max(1, chunks)) or 1


def _accumulate(total: Tensor | None, grad: Tensor, states: Tensor) -> Tensor:
    """Total (V, E) + grad (n, V) transposed @ states (n, E), in place where the types allow."""
    if total is None:
        return (grad.t() @ states).float()
    if grad.dtype == total.dtype:
        return total.addmm_(grad.t(), states)
    return total.add_(grad.t() @ states)


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk_bytes: int = CHUNK_BYTES
) -> TokenLoss:
    """Cross-entropy of ``features @ weight.T + bias`` with ``labels``, summed.

    Args:
        features: (T, E).
        weight: (V, E) output matrix.
        bias: (V,) or ``None``.
        labels: (T,) int64.
        chunk_bytes: of fp32 logits that exist at a time on a CPU; on a GPU 16 times as many.

    Returns:
        sum, per-position losses and hits; zeros where T = 0. Twice-differentiation is not supported.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    with torch.autocast(device, enabled=False):
        train = torch.is_grad_enabled()
        total, nll, correct = _LinearCrossEntropy.apply(features, weight, bias, labels, dtype, train, chunk_bytes)
    return TokenLoss(total, nll, None if total.requires_grad else correct)

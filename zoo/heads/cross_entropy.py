"""Cross-entropy over a large vocabulary without keeping its logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 40 * 2**20  # of logits in the type of the products, which are the faster the more rows they have
_PART_BYTES = 4 * 2**20  # of fp32 logits: few enough to stay in a CPU's cache between the passes over them
_GPU_TIMES = 16  # as many on a GPU, where launches cost more than memory
_ENTRIES = 4096  # of the vocabulary whose gradient is rounded at a time, in the cache


class TokenLoss(NamedTuple):
    """Summed cross-entropy.

    Args:
        total: 0-d sum in nats, with gradient; where that is wanted a z-loss is part of it.
        nll: (T,) each position's loss, without gradient; of smoothed labels what the sum adds up.
        correct: 0-d number of positions where the label scores highest; ``None`` while training,
            where it would cost another pass over the logits.
    """

    total: Tensor
    nll: Tensor
    correct: Tensor | None


class LogitFacts(NamedTuple):
    """What a cross-entropy does with logits beyond the softmax.

    Args:
        smoothing: share of each label that all other entries get, evenly, as in tensor2tensor and fairseq. (torch's
            is spread over the label, too.) The sum is the cross-entropy, of which a smoothed label's own entropy is
            the least.
        softcap: logits x become c tanh(x / c), c being this number; ``None`` = they stay.
        z_weight: while gradients are wanted, this times log(Z)^2 is added to each position's part of the sum, Z being
            the sum of the exponentiated logits; ``nll`` stays without it, and so do losses without gradient.
    """

    smoothing: float = 0.0
    softcap: float | None = None
    z_weight: float = 0.0

    def capped(self, logits: Tensor) -> Tensor:
        """Logits of the same shape, soft-capped where they are to be."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


PLAIN = LogitFacts()


class _LinearCrossEntropy(torch.autograd.Function):
    """Logits are made chunk by chunk, turned into their gradient in place and multiplied back at once.

    So few logits exist at a time (40 MB on a CPU), fewer still in single precision, and the backward pass only scales
    what is ready. The sum's gradient with respect to each logit is softmax - one-hot, or, with smoothed labels, softmax
    less their shares; caps and the z-loss scale it.
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
        facts: LogitFacts,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need = [train and ctx.needs_input_grad[i] for i in range(3)]
        nll = torch.empty(len(labels), dtype=torch.float32, device=features.device)
        grad_features = torch.empty_like(features, dtype=dtype) if need[0] else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need[2] else None
        correct = torch.zeros((), dtype=torch.int64, device=features.device)
        penalty = torch.zeros((), device=features.device)
        matrix, states = weight.to(dtype), features.to(dtype)
        times, row_bytes = 1 if features.device.type == "cpu" else _GPU_TIMES, dtype.itemsize * weight.shape[0]
        for chunk in _slices(len(labels), times * chunk_bytes // row_bytes):
            logits = states[chunk] @ matrix.t()
            rows = labels[chunk], nll[chunk]
            for part in _slices(len(logits), times * _PART_BYTES // (4 * weight.shape[0])):
                index, losses = (x[part] for x in rows)
                if any(need):
                    found, norms = _to_gradient(logits[part], bias, index, grad_bias, facts)
                    losses.copy_(found)
                    penalty += facts.z_weight * norms.square().sum()
                else:
                    wide = _in_single(logits[part], bias, facts.softcap)
                    expected = _expected(wide, index[:, None], facts.smoothing)
                    losses.copy_(torch.logsumexp(wide, dim=-1) - expected.squeeze(1))
                    correct += (wide.argmax(-1) == index).sum()
            if grad_features is not None:
                grad_features[chunk] = logits @ matrix
            if need[1]:
                grad_weight = _accumulate(grad_weight, logits, states[chunk])
        if need[1] and grad_weight is None:  # no targets
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        ctx.types = (features.dtype, weight.dtype)
        ctx.mark_non_differentiable(nll, correct)
        return nll.sum() + penalty, nll, correct

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
            None,
        )


def _slices(rows: int, limit: int) -> Iterator[slice]:
    """Slices of at most ``limit`` rows, the last no smaller than it must be."""
    count = -(-rows // max(1, limit))
    size = -(-rows // max(1, count)) or 1
    return (slice(start, start + size) for start in range(0, rows, size))


def _in_single(logits: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """(n, V) logits with their bias, capped, in single precision; in single precision the same tensor."""
    wide = logits.float()
    if bias is not None:
        wide.add_(bias)
    return wide if softcap is None else wide.div_(softcap).tanh_().mul_(softcap)


def _expected(logits: Tensor, index: Tensor, smoothing: float) -> Tensor:
    """(n, 1) mean logit under the labels: that of each label, or with a share of all others'."""
    label = logits.gather(1, index)
    if not smoothing:
        return label
    share = smoothing / (logits.shape[1] - 1)
    return (1 - smoothing - share) * label + share * logits.sum(-1, keepdim=True)


def _to_gradient(
    logits: Tensor, bias: Tensor | None, labels: Tensor, grad_bias: Tensor | None, facts: LogitFacts
) -> tuple[Tensor, Tensor]:
    """Losses and log Z of (n, V) logits, which their gradients overwrite; the bias's is added to ``grad_bias``."""
    wide, index, smoothing = _in_single(logits, bias, facts.softcap), labels[:, None], facts.smoothing
    expected = _expected(wide, index, smoothing)
    # One softmax serves loss and gradient: log-sum-exp = greatest logit - log(its probability).
    grad = torch.softmax(wide, dim=-1)
    norm = wide.amax(-1, keepdim=True) - grad.amax(-1, keepdim=True).log()
    if facts.z_weight:
        grad.mul_(1.0 + 2.0 * facts.z_weight * norm)
    share = smoothing / (logits.shape[1] - 1) if smoothing else 0.0
    if share:
        grad.sub_(share)
    grad.scatter_add_(1, index, torch.full_like(index, smoothing + share - 1, dtype=grad.dtype))
    if facts.softcap is not None:  # d tanh = 1 - tanh^2
        grad.addcmul_(grad, wide.div(facts.softcap).square_(), value=-1.0)
    if grad_bias is not None:
        grad_bias += grad.sum(0)
    logits.copy_(grad)
    return (norm - expected).squeeze(1), norm


def _accumulate(total: Tensor | None, grad: Tensor, states: Tensor) -> Tensor:
    """Total (V, E) in fp32 + grad (n, V) transposed @ states (n, E), in place."""
    if grad.dtype == torch.float32:
        return grad.t() @ states if total is None else total.addmm_(grad.t(), states)
    first = total is None
    if total is None:
        total = torch.empty(grad.shape[1], states.shape[1], device=grad.device)
    for entries in _slices(len(total), _ENTRIES if grad.device.type == "cpu" else len(total)):
        part = grad[:, entries].t() @ states
        total[entries].copy_(part) if first else total[entries].add_(part)
    return total


def linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    facts: LogitFacts = PLAIN,
) -> TokenLoss:
    """Cross-entropy of ``features @ weight.T + bias`` with ``labels``, summed.

    Args:
        features: (T, E).
        weight: (V, E) output matrix.
        bias: (V,) or ``None``.
        labels: (T,) int64.
        chunk_bytes: of logits that exist at a time on a CPU; on a GPU 16 times as many.
        facts: smoothed labels, capped logits, z-loss.

    Returns:
        sum, per-position losses and hits; zeros where T = 0. Twice-differentiation is not supported.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    with torch.autocast(device, enabled=False):
        train = torch.is_grad_enabled()
        total, nll, correct = _LinearCrossEntropy.apply(
            features, weight, bias, labels, dtype, train, chunk_bytes, facts
        )
    return TokenLoss(total, nll, None if total.requires_grad else correct)

"""Parameter groups, and optimisers of the Adam family that torch lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.values import NotNegative, Positive, Probability


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float, no_decay: list[str]
) -> list[dict[str, Any]]:
    """Two groups: decayed, and those whose name contains one of ``no_decay`` (biases and norms, usually).

    Each has the names of its parameters beside them, ``param_names``, where torch's optimisers keep them too.

    Args:
        named_parameters: as ``module.named_parameters()`` gives them; shared ones come once.
        weight_decay: decay of the first group; the second gets 0.
        no_decay: parts of names, for example ``bias`` and ``norm``.
    """
    decayed: dict[str, nn.Parameter] = {}
    spared: dict[str, nn.Parameter] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (spared if any(part in name for part in no_decay) else decayed)[name] = parameter
    return [
        {"params": list(named.values()), "param_names": list(named), "weight_decay": decay}
        for named, decay in ((decayed, weight_decay), (spared, 0.0))
        if named
    ]


class _Moments(torch.optim.Optimizer):
    """Shared part of the Adam family below: moments, and an update per group."""

    def __init__(
        self,
        params: Any,
        lr: Positive,
        betas: tuple[Probability, Probability],
        eps: NotNegative,
        weight_decay: NotNegative,
        bias_correction: bool,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            params, update = self._updates(group)
            if params:
                self._scale(group, params, update)
                torch._foreach_add_(params, update, alpha=-group["lr"])

    def _scale(self, group: dict[str, Any], params: list[Tensor], update: list[Tensor]) -> None:
        """Scale each tensor's update in place; as it is by default."""

    def _updates(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters with gradients, and m / (sqrt(v) + eps) + decay * p for each."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return [], []
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        grads = [p.grad for p in params if p.grad is not None]
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        for p in params:
            self.state[p]["step"] += 1
        update = torch._foreach_sqrt(second)
        # Each tensor by its own count: a head that a later stage brings in starts later than the core.
        steps = [float(self.state[p]["step"]) for p in params] if group["bias_correction"] else []
        if steps:
            torch._foreach_div_(update, [math.sqrt(1 - beta2**step) for step in steps])
        torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(first, update)
        if steps:
            torch._foreach_div_(update, [1 - beta1**step for step in steps])
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
        return params, list(update)


class AdamW(_Moments):
    """AdamW whose bias correction can be left out, as BERT's own optimiser does.

    For the corrected form use ``torch.optim.AdamW``, which has fused kernels. Source:
    google-research/bert, optimization.py, AdamWeightDecayOptimizer (specs: BERT, section 4).

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay.
        bias_correction: divide the moments by 1 - beta**step.
    """

    def __init__(
        self,
        params: Any,
        lr: Positive = 1e-4,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        eps: NotNegative = 1e-6,
        weight_decay: NotNegative = 0.0,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, bias_correction)


class Lamb(_Moments):
    """LAMB as ALBERT uses it: no bias correction, trust ratio norm(p) / norm(update) per tensor.

    Groups without weight decay (biases, norms) keep ratio 1, as in google-research/albert, lamb_optimizer.py
    and optimization.py (specs: ALBERT, section 4). Paper: arXiv 1904.00962.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay, part of the update whose norm is taken.
        bias_correction: divide the moments by 1 - beta**step.
    """

    def __init__(
        self,
        params: Any,
        lr: Positive = 1.76e-3,
        betas: tuple[Probability, Probability] = (0.9, 0.999),
        eps: NotNegative = 1e-6,
        weight_decay: NotNegative = 0.01,
        bias_correction: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, bias_correction)

    def _scale(self, group: dict[str, Any], params: list[Tensor], update: list[Tensor]) -> None:
        if group["weight_decay"]:
            torch._foreach_mul_(update, self.trust_ratios(params, update))

    @staticmethod
    def trust_ratios(params: list[Tensor], update: list[Tensor]) -> list[Tensor]:
        """norm(p) / norm(u) for each tensor, 1 where either norm is 0."""
        ratios = []
        for p, u in zip(torch._foreach_norm(params), torch._foreach_norm(update), strict=True):
            ratios.append(torch.where((p > 0) & (u > 0), p / u.clamp_min(1e-38), torch.ones_like(p)))
        return ratios

"""Muon for the matrices of the layers, AdamW for everything else, as one optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.runtime.processes import resolve_precision
from zoo.values import Count, NotNegative, Positive, Probability

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's polynomial, and the least norm: Jordan et al. 2024
_LEAST_NORM = 1e-7
_LAYERS = ".layers."  # part of the name of whatever stands in a layer of a core


def is_layer_matrix(name: str, parameter: Tensor, endings: Iterable[str]) -> bool:
    """Whether a parameter is a matrix that maps states to states inside a layer, or a stack of such matrices.

    Args:
        name: its name in the model, as ``core.layers.0.attention.query.weight``.
        parameter: of any shape.
        endings: of the names of matrices; biases of relative scores have two dimensions, too.
    """
    return parameter.ndim >= 2 and _LAYERS in name and name.endswith(tuple(endings))


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, ``torch.optim.AdamW`` for embeddings, heads, biases and norms.

    In bf16 the matrices' updates are those of ``torch.optim.Muon``, bit for bit. A step sets one learning rate for all
    groups; the matrices take ``lr_ratio`` times that. Each direction of an LSTM layer is a matrix of its own, and its
    four gates are one. Sources: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); Liu et al. 2025,
    arXiv 2502.16982.

    Args:
        params: groups with ``param_names``, as :func:`pretraining.optim.optimizers.parameter_groups` makes them.
        lr: learning rate.
        lr_ratio: learning rate of the matrices as a multiple of ``lr``.
        adjust_lr_fn: what multiplies it besides, by a matrix's shape: ``match_rms_adamw`` (0.2 x the root of the longer
            side, so that rates tuned for AdamW suit) or ``original`` (the root of rows / columns, at least 1; then an
            ``lr_ratio`` of 10 to 50 is usual).
        momentum: of the matrices.
        nesterov: look ahead by it.
        ns_steps: Newton-Schulz iterations that orthogonalise an update.
        precision: of these; ``auto`` = bf16 where the hardware multiplies it faster, else fp32.
        betas: decay of AdamW's two moments.
        eps: added to the root of its second moment.
        weight_decay: decoupled decay, of groups that say none.
        matrices: endings of the names of the layers' matrices.

    Raises:
        ZooError: the groups have no names, or the layers no matrices.
    """

    def __init__(
        self,
        params: Any,
        lr: Positive = 1e-3,
        lr_ratio: Positive = 1.0,
        adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        momentum: Probability = 0.95,
        nesterov: bool = True,
        ns_steps: Count = 5,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        betas: tuple[Probability, Probability] = (0.9, 0.95),
        eps: NotNegative = 1e-8,
        weight_decay: NotNegative = 0.0,
        matrices: tuple[str, ...] = ("weight", "projection"),
    ) -> None:
        self._type = torch.bfloat16 if resolve_precision(precision) == "bf16" else torch.float32
        hidden, others = _parted(list(params), matrices)
        self._adamw = torch.optim.AdamW(
            others, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True
        )
        own: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
        }
        own |= {"lr_ratio": lr_ratio, "adjust_lr_fn": adjust_lr_fn}
        super().__init__([*self._adamw.param_groups, *({**own, **group} for group in hidden)], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if "lr_ratio" not in group]
        self._adamw.step()
        for group in self.param_groups:
            for parameter in group["params"] if "lr_ratio" in group else ():
                if parameter.grad is not None:
                    self._step_matrices(parameter, parameter.grad, group)

    def _step_matrices(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """The update of ``torch.optim.Muon``; a stack of matrices is seen as its parts, which share its memory."""
        state, momentum, lr = self.state[parameter], group["momentum"], group["lr"] * group["lr_ratio"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        past = state["momentum_buffer"]
        past.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(past, momentum) if group["nesterov"] else past
        parameter.mul_(1 - lr * group["weight_decay"])
        for matrix, part in zip(_as_matrices(parameter), _as_matrices(update.contiguous()), strict=True):
            whole = orthogonalised(part, group["ns_steps"], self._type)
            matrix.add_(whole, alpha=-lr * _shape_factor(matrix, group["adjust_lr_fn"]))


def orthogonalised(matrix: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """The matrix with all its singular values near 1 (between about 0.7 and 1.2), by Newton and Schulz's iteration.

    As ``torch.optim.Muon`` has it, which knows bfloat16 only: on a processor that multiplies it in software, an update
    of a 768 x 768 matrix takes nine seconds there.

    Args:
        matrix: (m, n).
        steps: of the iteration.
        dtype: that it is computed in.
    """
    a, b, c = _COEFFICIENTS
    upright = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    if upright:
        x = x.T
    x = x / x.norm().clamp(min=_LEAST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if upright else x


def _shape_factor(matrix: Tensor, rule: str) -> float:
    """What a learning rate is multiplied with for a matrix of this shape."""
    rows, columns = matrix.shape
    return 0.2 * math.sqrt(max(rows, columns)) if rule == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def _as_matrices(tensor: Tensor) -> tuple[Tensor, ...]:
    """(..., m, n) as (m, n) tensors that share its memory."""
    tensor = tensor.detach()
    return (tensor,) if tensor.ndim == 2 else tensor.view(-1, *tensor.shape[-2:]).unbind()


def _parted(groups: list[Any], endings: Iterable[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups of the layers' matrices, and of the rest, each as the group it comes from."""
    hidden, others = list[dict[str, Any]](), list[dict[str, Any]]()
    for group in groups:
        if not isinstance(group, dict) or "param_names" not in group:
            raise ZooError(
                "MuonAdamW tells matrices by their names, so it needs groups with param_names, as "
                "pretraining.optim.optimizers.parameter_groups makes them."
            )
        named = list(zip(group["param_names"], group["params"], strict=True))
        for into, wanted in ((hidden, True), (others, False)):
            chosen = [(name, p) for name, p in named if is_layer_matrix(name, p, endings) == wanted]
            if chosen:
                names, parameters = zip(*chosen, strict=True)
                into.append({**group, "params": list(parameters), "param_names": list(names)})
    if not hidden:
        raise ZooError(
            f"MuonAdamW finds no matrix in the layers, by the endings {', '.join(endings)} (matrices); name others, or "
            "take torch.optim.AdamW."
        )
    return hidden, others

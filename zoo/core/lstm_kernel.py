"""The recurrence of an LSTM with projection over time, with a backward pass of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

FORGET_BIAS = 1.0  # added to the stored bias of the forget gate, as TensorFlow's cell does (specs: ELMo, trap 3)
_aten = torch.ops.aten


class LstmWeights(NamedTuple):
    """One layer's weights of all directions.

    Args:
        inputs: (D, 4C, E) for the layer's input.
        recurrent: (D, 4C, P) for the output of the step before.
        bias: (D, 4C), the forget gate's constant included.
        projection: (D, P, C).
    """

    inputs: Tensor
    recurrent: Tensor
    bias: Tensor
    projection: Tensor


def _multiply(a: Tensor, b: Tensor, dtype: torch.dtype, wide: torch.dtype) -> Tensor:
    """(D, m, k) times (D, k, n), computed in ``dtype`` and given back in ``wide``."""
    return torch.bmm(a.to(dtype), b.to(dtype)).to(wide)


def _add_product(total: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Add the product of ``a`` and ``b`` to ``total`` in place."""
    if dtype == total.dtype:
        total.baddbmm_(a, b)
    else:
        total.add_(torch.bmm(a.to(dtype), b))


def _between(grad: Tensor, value: Tensor, bound: float | None) -> None:
    """Stop the gradient, in place, where ``value`` was clipped to ``bound``."""
    if bound is not None:
        _aten.hardtanh_backward(grad, value, -bound, bound, grad_input=grad)


class _Recurrence(torch.autograd.Function):
    """A layer over all steps, with its own backward pass.

    Autograd would record a dozen nodes a step and add up every weight's gradient step by step. Here the input's
    product is one for all steps, a step works in place on its slice of the gates, and the weights' gradients are one
    product each after the last step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        projection: Tensor,
        hidden: Tensor,
        cell: Tensor,
        clips: tuple[float | None, float | None],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Outputs (D, L + 1, B, P) and cells (D, L + 1, B, C), the first of which is the start.

        Args:
            ctx: autograd's.
            inputs: (D, L, B, E), each direction in its own order.
            input_weight: see :class:`LstmWeights`, as the next three.
            recurrent_weight: the same.
            bias: the same.
            projection: the same.
            hidden: (D, B, P) output before the first step.
            cell: (D, B, C) cell before the first step.
            clips: bounds on cells and outputs.
            dtype: what products are computed in.
        """
        directions, length, batch, width = inputs.shape
        size = cell.shape[-1]
        flat = inputs.reshape(directions, length * batch, width)
        gates = _multiply(flat, input_weight.transpose(1, 2), dtype, cell.dtype).add_(bias[:, None])
        gates = gates.view(directions, length, batch, 4 * size)
        hiddens = gates.new_empty(directions, length + 1, batch, hidden.shape[-1])
        cells = gates.new_empty(directions, length + 1, batch, size)
        gated = gates.new_empty(directions, length, batch, size)
        hiddens[:, 0], cells[:, 0] = hidden, cell
        recurrent, project = recurrent_weight.to(dtype).transpose(1, 2), projection.to(dtype).transpose(1, 2)
        sigmoids, candidates = gates[..., : 3 * size].unbind(1), gates[..., 3 * size :].unbind(1)
        steps, cell_steps, hidden_steps, outs = gates.unbind(1), cells.unbind(1), hiddens.unbind(1), gated.unbind(1)
        for t in range(length):
            _add_product(steps[t], hidden_steps[t], recurrent, dtype)
            ifo, g, new = sigmoids[t].sigmoid_(), candidates[t].tanh_(), cell_steps[t + 1]
            torch.mul(ifo[..., size : 2 * size], cell_steps[t], out=new)
            new.addcmul_(ifo[..., :size], g)
            if clips[0] is not None:
                new.clamp_(-clips[0], clips[0])
            torch.tanh(new, out=outs[t]).mul_(ifo[..., 2 * size :])
            projected = torch.bmm(outs[t].to(dtype), project)
            hidden_steps[t + 1].copy_(projected if clips[1] is None else projected.clamp_(-clips[1], clips[1]))
        ctx.save_for_backward(flat, input_weight, recurrent_weight, projection, gates, gated, hiddens, cells)
        ctx.clips, ctx.dtype = clips, dtype
        ctx.mark_non_differentiable(cells)
        return hiddens, cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of inputs and weights, and of the output before the first step; the cell there gets none."""
        flat, input_weight, recurrent_weight, projection, gates, gated, hiddens, cells = ctx.saved_tensors
        directions, length, batch, size = gated.shape
        dtype = ctx.dtype
        outputs = grads[0][:, 1:].clone()
        _through_time(outputs, gates, hiddens, cells, recurrent_weight.to(dtype), projection.to(dtype), ctx.clips)
        rows = length * batch
        summed = gates.view(directions, rows, 4 * size)
        across = summed.transpose(1, 2)
        before = hiddens[:, :-1].reshape(directions, rows, -1)
        project = outputs.view(directions, rows, -1).transpose(1, 2)
        need, wide = ctx.needs_input_grad, input_weight.dtype
        return (
            _multiply(summed, input_weight, dtype, flat.dtype).view(directions, length, batch, -1) if need[0] else None,
            _multiply(across, flat, dtype, wide) if need[1] else None,
            _multiply(across, before, dtype, wide) if need[2] else None,
            summed.sum(1).to(wide) if need[3] else None,
            _multiply(project, gated.view(directions, rows, size), dtype, wide) if need[4] else None,
            _multiply(gates[:, 0], recurrent_weight, dtype, grads[0].dtype).add_(grads[0][:, 0]) if need[5] else None,
            *(None,) * 3,
        )


def _through_time(
    outputs: Tensor,
    gates: Tensor,
    hiddens: Tensor,
    cells: Tensor,
    recurrent: Tensor,
    projection: Tensor,
    clips: tuple[float | None, float | None],
) -> None:
    """Backpropagation through the steps, in place: outputs' gradients become projections', gates become gradients.

    Overwriting the gates saves their size once more; autograd's version counter refuses a second pass over them.

    Args:
        outputs: (D, L, B, P) gradient of the outputs.
        gates: (D, L, B, 4C) values of the gates.
        hiddens: (D, L + 1, B, P).
        cells: (D, L + 1, B, C).
        recurrent: (D, 4C, P).
        projection: (D, P, C).
        clips: bounds on cells and outputs.
    """
    size, dtype = cells.shape[-1], recurrent.dtype
    carried = torch.zeros_like(cells[:, 0])  # gradient of the cell from the step after
    squashed, into_gates = torch.empty_like(carried), torch.empty_like(gates[:, 0])
    steps, grads, hidden_steps, cell_steps = gates.unbind(1), outputs.unbind(1), hiddens.unbind(1), cells.unbind(1)
    di, df, do, dg = into_gates.split(size, dim=-1)
    for t in reversed(range(len(steps))):
        _between(grads[t], hidden_steps[t + 1], clips[1])
        out = torch.bmm(grads[t].to(dtype), projection).to(cells.dtype)
        i, f, o, g = steps[t].split(size, dim=-1)
        torch.tanh(cell_steps[t + 1], out=squashed)
        torch.mul(out, squashed, out=do)
        _aten.tanh_backward(out.mul_(o), squashed, grad_input=out)
        carried.add_(out)
        _between(carried, cell_steps[t + 1], clips[0])
        torch.mul(carried, g, out=di)
        torch.mul(carried, cell_steps[t], out=df)
        torch.mul(carried, i, out=dg)
        carried.mul_(f)
        ifo, candidates = steps[t][..., : 3 * size], steps[t][..., 3 * size :]
        _aten.sigmoid_backward(into_gates[..., : 3 * size], ifo, grad_input=ifo)
        _aten.tanh_backward(dg, candidates, grad_input=candidates)
        if t:
            _add_product(grads[t - 1], steps[t], recurrent, dtype)


@_disable_dynamo
def _apply(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Compiled, it would be unrolled into one graph for each length."""
    found: tuple[Tensor, Tensor] = _Recurrence.apply(*arguments)
    return found


def recurrence(
    inputs: Tensor, weights: LstmWeights, hidden: Tensor, cell: Tensor, cell_clip: float | None, clip: float | None
) -> tuple[Tensor, Tensor]:
    """One layer over all steps.

    Args:
        inputs: (D, L, B, E), each direction in its own order.
        weights: the layer's.
        hidden: (D, B, P) output before the first step.
        cell: (D, B, C) cell before the first step.
        cell_clip: bound on cells.
        clip: bound on outputs.

    Returns:
        (D, L + 1, B, P) outputs, with gradient, and (D, L + 1, B, C) cells, without; the first of each is the start.
        Twice-differentiation is not supported, nor a second backward pass.
    """
    device, given = inputs.device.type, inputs.dtype
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else given
    wide = torch.float64 if given == torch.float64 else torch.float32  # cells add up over many steps
    with torch.autocast(device, enabled=False):
        outputs, cells = _apply(inputs, *weights, hidden.to(wide), cell.to(wide), (cell_clip, clip), dtype)
    return outputs.to(given), cells

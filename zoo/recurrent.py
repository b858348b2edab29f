"""The recurrent core: two directions of LSTM layers with projections (Peters et al. 2018; specs: ELMo, section 2).

Additional shapes: D directions (2, or 1 where nobody sees later tokens), P width of a projection, C of a cell. Gates
stand in the order i, f, o, g (g the candidate), so that one sigmoid serves three of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from zoo.config import CoreConfig
from zoo.config_parts import RecurrentConfig
from zoo.core import Core, Embeddings
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.init import constant, uniform
from zoo.inputs import CoreInputs, CoreOutput

FORGET_BIAS = 1.0  # added to the stored bias of the forget gate, as TensorFlow's cell does (specs: ELMo, trap 3)
_SITES_PER_LAYER = 8  # as in the other core; the last layer's output takes the number behind the layers'
_aten = torch.ops.aten


class Weights(NamedTuple):
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
            input_weight: see :class:`Weights`, as the next three.
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
        """Gradients of inputs and weights; the state before the first step gets none."""
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
            *(None,) * 4,
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


# Compiled, it would be unrolled into one graph for each length.
_apply: Callable[..., tuple[Tensor, Tensor]] = torch.compiler.disable(_Recurrence.apply)


def recurrence(
    inputs: Tensor, weights: Weights, hidden: Tensor, cell: Tensor, cell_clip: float | None, clip: float | None
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


class RecurrentLayer(nn.Module):
    """Two directions of an LSTM with projection; the recurrent input is the clipped projection."""

    def __init__(self, facts: RecurrentConfig, width: int) -> None:
        super().__init__()
        self.facts = facts
        size = facts.cell_size
        self.input_weight = nn.Parameter(torch.zeros(2, 4 * size, width))
        self.recurrent_weight = nn.Parameter(torch.zeros(2, 4 * size, width))
        self.bias = nn.Parameter(torch.zeros(2, 4 * size))
        self.projection = nn.Parameter(torch.zeros(2, width, size))
        # Glorot's bounds over the whole kernel, TensorFlow's default, which the original leaves in place.
        kernel, project = uniform(math.sqrt(6 / (2 * width + 4 * size))), uniform(math.sqrt(6 / (width + size)))
        self.initial = {
            "input_weight": kernel,
            "recurrent_weight": kernel,
            "projection": project,
            "bias": constant(0.0),
        }
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Torch's way of starting from the global generator, for those who build a core without a seed."""
        for name, parameter in self.named_parameters():
            if not parameter.is_meta:
                with torch.no_grad():
                    self.initial[name](parameter, None)

    def weights(self, directions: int) -> Weights:
        """The weights of the first ``directions``, with the forget gate's constant in the bias."""
        size = self.facts.cell_size
        bias = self.bias.clone()
        bias[:, size : 2 * size] += FORGET_BIAS
        parts = (self.input_weight, self.recurrent_weight, bias, self.projection)
        return Weights(*(part if directions == len(part) else part[:directions] for part in parts))

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`recurrence`; the number of directions is that of the inputs."""
        facts, weights = self.facts, self.weights(len(inputs))
        return recurrence(inputs, weights, hidden, cell, facts.cell_clip, facts.projection_clip)


class Recurrent(Core):
    """Two directions of LSTM layers behind the same call as the Transformer's.

    States are (B, L, 2P): the forward half, which knows a token and those before it, beside the backward half, which
    knows it and those after it. Where ``visible.causal`` is set the backward direction is not run, and its half is
    zero.

    Args:
        config: the facts; ``config.recurrent`` must be set.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.recurrent is not None
        self.config, self.facts = config, config.recurrent
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(RecurrentLayer(self.facts, config.input_width) for _ in range(config.groups))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if config.pooler else None

    def forward(
        self,
        inputs: CoreInputs,
        state: dict[str, Tensor] | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """Run the core.

        Args:
            inputs: (B, L) ids; of their visibility ``causal`` and ``lengths`` are read.
            state: what the rows before these left: ``hidden`` (B, layers, 2, P) and ``cell`` (B, layers, 2, C), as an
                earlier call gave them back (without gradient); ``None`` = zeros.
            output_hidden_states: also return the token vectors, twice side by side, and every layer's states; dropout
                on the last output is not in them.
            output_attentions: not possible here.

        Raises:
            ZooError: visibility that a recurrent core cannot express, or a field that it does not read.
        """
        self._check(inputs, state, output_attentions)
        directions = 1 if inputs.visible.causal else 2
        turn = _Turn(inputs, directions)
        tokens = self.embeddings(inputs)
        states = torch.cat([tokens] * 2, dim=-1)
        every, start, keys = [states], self._start(state, tokens), inputs.dropout_keys
        left: dict[str, list[Tensor]] = {name: [] for name in start}
        for number in range(self.config.num_hidden_layers):
            site = (number + 1) * _SITES_PER_LAYER
            states = keyed_dropout(states, keys, site, self.facts.dropout)
            streams = turn.into(states)
            hidden, cell = (start[name][:, number, :directions].transpose(0, 1) for name in ("hidden", "cell"))
            layer = self.layers[self.config.group_of(number)]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hiddens, cells = checkpoint(layer, streams, hidden, cell, use_reentrant=False)
            else:
                hiddens, cells = layer(streams, hidden, cell)
            for name, steps in (("hidden", hiddens), ("cell", cells)):
                left[name].append(torch.cat([turn.last(steps.detach()), start[name][:, number, directions:]], dim=1))
            output = turn.out_of(hiddens[:, 1:])
            # What is added is the layer's input as it read it, dropout included (specs: ELMo, trap 5).
            states = output + states if self.facts.skip_connections and number else output
            every.append(states)
        site = (self.config.num_hidden_layers + 1) * _SITES_PER_LAYER
        states = keyed_dropout(states, keys, site, self.facts.dropout)
        return CoreOutput(
            last_hidden_state=states,
            pooler_output=None if self.pooler is None else self.pooler(states[:, 0]).tanh(),
            hidden_states=tuple(every) if output_hidden_states else None,
            state={name: torch.stack(parts, dim=1) for name, parts in left.items()},
        )

    def _start(self, state: dict[str, Tensor] | None, tokens: Tensor) -> dict[str, Tensor]:
        """The state before the first token."""
        layers, widths = self.config.num_hidden_layers, (self.config.input_width, self.facts.cell_size)
        if state is None:
            shapes = {
                name: (len(tokens), layers, 2, width) for name, width in zip(("hidden", "cell"), widths, strict=True)
            }
            return {name: tokens.new_zeros(shape, dtype=torch.float32) for name, shape in shapes.items()}
        return {name: state[name].detach() for name in ("hidden", "cell")}

    def _check(self, inputs: CoreInputs, state: dict[str, Tensor] | None, attentions: bool) -> None:
        batch, length = inputs.input_ids.shape
        if length > self.config.max_length:
            raise ZooError(
                f"a row of {length} tokens is longer than the {self.config.max_length} positions this core has; "
                "shorten data.sequence_length or set model.position_type: none."
            )
        visible = inputs.visible
        unread = [f"visible.{n}" for n in ("documents", "orders", "dense") if getattr(visible, n) is not None]
        others = ("query", "entity_ids", "entity_vectors", "encoder_states")
        unread += [name for name in others if getattr(inputs, name) is not None]
        if unread or attentions:
            raise ZooError(
                f"a recurrent core does not read {', '.join(unread)}: it passes every row from end to end."
                if unread
                else "a recurrent core has no attention probabilities to give back."
            )
        layers, widths = self.config.num_hidden_layers, (self.config.input_width, self.facts.cell_size)
        for name, width in zip(("hidden", "cell"), widths, strict=True):
            shape = None if state is None or name not in state else tuple(state[name].shape)
            if state is not None and shape != (batch, layers, 2, width):
                raise ZooError(
                    f"the carried state's {name!r} has shape {shape}; {(batch, layers, 2, width)} is needed: one row "
                    "for each row of the batch, from a core of the same facts."
                )


class _Turn:
    """Rows as steps: time first, the backward direction from each row's true end (specs: ELMo, trap 14)."""

    def __init__(self, inputs: CoreInputs, directions: int) -> None:
        self.directions = directions
        batch, length = inputs.input_ids.shape
        lengths = inputs.visible.lengths
        device = inputs.input_ids.device
        self.index: Tensor | None = None
        self.ends: Tensor | None = None
        self.rows = torch.arange(batch, device=device)
        if lengths is not None:
            self.ends = lengths.to(device)
            steps = torch.arange(length, device=device)[:, None]
            self.index = torch.where(steps < self.ends, self.ends - 1 - steps, steps)  # (L, B), its own inverse

    def into(self, states: Tensor) -> Tensor:
        """(B, L, 2P) in the order of positions -> (D, L, B, P) in the order of steps."""
        halves = states.unflatten(-1, (2, -1)).permute(2, 1, 0, 3)
        if self.directions == 1:
            return halves[:1]
        return torch.stack([halves[0], self._reversed(halves[1])])

    def out_of(self, steps: Tensor) -> Tensor:
        """(D, L, B, P) in the order of steps -> (B, L, 2P) in the order of positions; a direction not run is zero."""
        halves = [steps[0], torch.zeros_like(steps[0]) if self.directions == 1 else self._reversed(steps[1])]
        return torch.cat(halves, dim=-1).transpose(0, 1)

    def last(self, steps: Tensor) -> Tensor:
        """(D, L + 1, B, n) start and steps -> (B, D, n) after each row's last real token."""
        if self.ends is None:
            return steps[:, -1].transpose(0, 1)
        return steps[:, self.ends, self.rows].transpose(0, 1)

    def _reversed(self, steps: Tensor) -> Tensor:
        if self.index is None:
            return steps.flip(0)
        return steps[self.index, self.rows]

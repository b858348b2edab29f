"""The recurrent core: two directions of LSTM layers with projections (Peters et al. 2018; specs: ELMo, section 2).

Additional shapes: D directions (2, or 1 where attention is causal), P width of a projection, C of a cell. Gates
stand in the order i, f, o, g (g the candidate), so that one sigmoid serves three of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.config import CoreConfig
from zoo.config_parts import RecurrentConfig
from zoo.core.base import Core
from zoo.core.embeddings import Embeddings
from zoo.core.lstm_kernel import FORGET_BIAS, LstmWeights, recurrence
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.initial import constant, uniform
from zoo.inputs import CoreInputs, CoreOutput

_SITES_PER_LAYER = 8  # as in the other core; the last layer's output takes the number behind the layers'


class RecurrentLayer(nn.Module):
    """Directions of an LSTM with projection; the recurrent input is the clipped projection.

    Args:
        config: of recurrent layers.
        width: of the projection.
        directions: how many.
        input_width: of what it reads; ``None`` = that of the projection.
    """

    def __init__(
        self, config: RecurrentConfig, width: int, directions: int = 2, input_width: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        size, read = config.cell_size, width if input_width is None else input_width
        self.input_weight = nn.Parameter(torch.zeros(directions, 4 * size, read))
        self.recurrent_weight = nn.Parameter(torch.zeros(directions, 4 * size, width))
        self.bias = nn.Parameter(torch.zeros(directions, 4 * size))
        self.projection = nn.Parameter(torch.zeros(directions, width, size))
        # Glorot's bounds over the whole kernel, TensorFlow's default, which the original leaves in place.
        kernel, project = uniform(math.sqrt(6 / (read + width + 4 * size))), uniform(math.sqrt(6 / (width + size)))
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

    def weights(self, directions: int) -> LstmWeights:
        """The weights of the first ``directions``, with the forget gate's constant in the bias."""
        size = self.config.cell_size
        bias = self.bias.clone()
        bias[:, size : 2 * size] += FORGET_BIAS
        parts = (self.input_weight, self.recurrent_weight, bias, self.projection)
        return LstmWeights(*(part if directions == len(part) else part[:directions] for part in parts))

    def forward(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`recurrence`; the number of directions is that of the inputs."""
        config, weights = self.config, self.weights(len(inputs))
        return recurrence(inputs, weights, hidden, cell, config.cell_clip, config.projection_clip)


class BidirectionalLSTM(Core):
    """Two directions of LSTM layers behind the same call as the Transformer's.

    States are (B, L, 2P): the forward half, which knows a token and those before it, beside the backward half, which
    knows it and those after it. Where ``attention_pattern.causal`` is set the backward direction is not run, and its
    half is zero.

    Args:
        config: the core's config; ``config.recurrent`` must be set.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.recurrent is not None
        self.config, self.recurrent = config, config.recurrent
        self.recompute_layers = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(RecurrentLayer(self.recurrent, config.input_width) for _ in range(config.groups))
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
            inputs: (B, L) ids; of their attention pattern ``causal`` and ``lengths`` are read.
            state: what the rows before these left: ``hidden`` (B, layers, 2, P) and ``cell`` (B, layers, 2, C), as an
                earlier call gave them back (without gradient); ``None`` = zeros.
            output_hidden_states: also return the token vectors, twice side by side, and every layer's states; dropout
                on the last output is not in them.
            output_attentions: not possible here.

        Raises:
            ZooError: an attention pattern that a recurrent core cannot express, or a field that it does not read.
        """
        self._check(inputs, state, output_attentions)
        directions = 1 if inputs.attention_pattern.causal else 2
        time_major = TimeMajor(inputs, directions)
        tokens = self.embeddings(inputs)
        states = torch.cat([tokens] * 2, dim=-1)
        every, start, keys = [states], self._start(state, tokens), inputs.dropout_keys
        left: dict[str, list[Tensor]] = {name: [] for name in start}
        for layer_index in range(self.config.num_hidden_layers):
            site = (layer_index + 1) * _SITES_PER_LAYER
            states = keyed_dropout(states, keys, site, self.recurrent.dropout)
            sequences = time_major.into(states)
            hidden, cell = (start[name][:, layer_index, :directions].transpose(0, 1) for name in ("hidden", "cell"))
            layer = self.layers[self.config.group_of(layer_index)]
            if self.recompute_layers and torch.is_grad_enabled():
                hiddens, cells = checkpoint(layer, sequences, hidden, cell, use_reentrant=False)
            else:
                hiddens, cells = layer(sequences, hidden, cell)
            for name, steps in (("hidden", hiddens), ("cell", cells)):
                left[name].append(
                    torch.cat([time_major.last(steps.detach()), start[name][:, layer_index, directions:]], dim=1)
                )
            output = time_major.out_of(hiddens[:, 1:])
            # What is added is the layer's input as it read it, dropout included (specs: ELMo, trap 5).
            states = output + states if self.recurrent.skip_connections and layer_index else output
            every.append(states)
        site = (self.config.num_hidden_layers + 1) * _SITES_PER_LAYER
        states = keyed_dropout(states, keys, site, self.recurrent.dropout)
        return CoreOutput(
            last_hidden_state=states,
            pooler_output=None if self.pooler is None else self.pooler(states[:, 0]).tanh(),
            hidden_states=tuple(every) if output_hidden_states else None,
            state={name: torch.stack(parts, dim=1) for name, parts in left.items()},
        )

    def _start(self, state: dict[str, Tensor] | None, tokens: Tensor) -> dict[str, Tensor]:
        """The state before the first token."""
        layers, widths = self.config.num_hidden_layers, (self.config.input_width, self.recurrent.cell_size)
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
        pattern = inputs.attention_pattern
        unread = [
            f"attention_pattern.{n}"
            for n in ("documents", "permutation_ranks", "dense")
            if getattr(pattern, n) is not None
        ]
        others = ("query", "entity_ids", "entity_vectors", "decoder")
        unread += [name for name in others if getattr(inputs, name) is not None]
        if unread or attentions:
            raise ZooError(
                f"a recurrent core does not read {', '.join(unread)}: it passes every row from end to end."
                if unread
                else "a recurrent core has no attention probabilities to give back."
            )
        layers, widths = self.config.num_hidden_layers, (self.config.input_width, self.recurrent.cell_size)
        for name, width in zip(("hidden", "cell"), widths, strict=True):
            shape = None if state is None or name not in state else tuple(state[name].shape)
            if state is not None and shape != (batch, layers, 2, width):
                raise ZooError(
                    f"the recurrent state's {name!r} has shape {shape}; {(batch, layers, 2, width)} is needed: one row "
                    "for each row of the batch, from a core of the same config."
                )


class TimeMajor:
    """Rows as steps: time first, the backward direction from each row's true end (specs: ELMo, trap 14)."""

    def __init__(self, inputs: CoreInputs, directions: int) -> None:
        self.directions = directions
        batch, length = inputs.input_ids.shape
        lengths = inputs.attention_pattern.lengths
        device = inputs.input_ids.device
        self.places: Tensor | None = None  # (L * B,) where each step of the reversed rows stands, batch after batch
        self.ends: Tensor | None = None
        self.rows = torch.arange(batch, device=device)
        if lengths is not None:
            self.ends = lengths.to(device)
            steps = torch.arange(length, device=device)[:, None]
            index = torch.where(steps < self.ends, self.ends - 1 - steps, steps)  # (L, B), its own inverse
            self.places = (index * batch + self.rows).flatten()

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
        if self.places is None:
            return steps.flip(0)
        return steps.flatten(0, 1).index_select(0, self.places).view(steps.shape)

"""Reversible layers: a pair of states from which each layer's input is rebuilt in the backward pass.

Y1 = X1 + attention(norm(X2)), Y2 = X2 + feed_forward(norm(Y1)); so X2 = Y2 - feed_forward(norm(Y1)) and X1 = Y1 -
attention(norm(X2)) (Gomez et al. 2017; Kitaev et al. 2020; specs: Reformer, section 2). What is kept for the backward
pass does not grow with the number of layers, but for the buckets of a hash, 2 bytes a token, head and round: hashed
anew, rebuilt states might fall into others. Dropout draws the same masks, since they are keyed.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from zoo.attention.context import AttentionContext, Cache
from zoo.attention.memory import Memory
from zoo.config import CoreConfig
from zoo.core.slices import in_slices
from zoo.core.transformer import SITES_PER_LAYER, Layer, Transformer
from zoo.inputs import CoreInputs, CoreOutput


class ReversibleLayer(Layer):
    """A layer as two functions, each of which reads one of a pair of states and adds to the other."""

    def added_by_attention(
        self, hidden: Tensor, shared: AttentionContext, site: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(B, L, W) -> (B, L, W) what attention adds, and its probabilities where attention is eager."""
        added, probabilities = self.attention(self.attention_norm(hidden), shared, site)
        return shared.dropped(added, site + 1, self.dropout), probabilities

    def added_by_feed_forward(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> Tensor:
        """(B, L, W) -> (B, L, W) what the feed-forward part adds."""
        return in_slices(self._added, self.chunk_size, hidden, shared, site)[0]

    def _added(self, hidden: Tensor, shared: AttentionContext, site: int | Tensor) -> tuple[Tensor, None]:
        """Of all states, or of those of a slice."""
        inner = shared.dropped(self._inner(self.output_norm(hidden), None), site + 3, self.inner_dropout)
        return shared.dropped(self.output(inner), site + 2, self.dropout), None


class LayerRun(NamedTuple):
    """A layer in its place.

    Args:
        layer: the layer; weights that are shared have several places.
        shared: what it reads beside states.
        site: number of its first place that draws a dropout mask.
    """

    layer: ReversibleLayer
    shared: AttentionContext
    site: int

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, L, W) pair -> the layer's pair, and attention probabilities."""
        added, probabilities = self.layer.added_by_attention(second, self.shared, self.site)
        first = first + added
        second = second + self.layer.added_by_feed_forward(first, self.shared, self.site)
        return first, second, probabilities

    def inverse(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The pair that :meth:`forward` was given, out of the pair that it gave."""
        second = second - self.layer.added_by_feed_forward(first, self.shared, self.site)
        return first - self.layer.added_by_attention(second, self.shared, self.site)[0], second


def run_rebuilt(runs: list[LayerRun], hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The last layer's pair of states; of all layers' activations, the backward pass keeps these alone.

    Args:
        runs: the layers in turn.
        hidden: (B, L, W), the first layer's both inputs.
    """
    parameters = list({id(x): x for run in runs for x in run.layer.parameters() if x.requires_grad}.values())
    held: dict[Any, Tensor] = {}
    runs = [run._replace(shared=run.shared._replace(held_buckets=held)) for run in runs]
    first, second = _Rebuilt.apply(runs, hidden, *parameters)
    return first, second


class _Rebuilt(torch.autograd.Function):
    """All layers as one function of the first one's input and of their weights."""

    @staticmethod
    def forward(ctx: Any, runs: list[LayerRun], hidden: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        first, second = hidden, hidden
        for run in runs:
            first, second, _ = run.forward(first, second)
        device = hidden.device.type
        ctx.runs, ctx.parameters = runs, parameters
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(first, second)
        return first, second

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.saved_tensors
        first_grad, second_grad = grads
        device, dtype, enabled = ctx.autocast
        found: dict[int, Tensor] = {}
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            for run in reversed(ctx.runs):
                added, more = _function(run, first, second_grad, found, attention=False)
                second, first_grad = second - added, first_grad + more
                added, more = _function(run, second, first_grad, found, attention=True)
                first, second_grad = first - added, second_grad + more
        return None, first_grad + second_grad, *(found.get(id(x)) for x in ctx.parameters)


def _function(
    run: LayerRun, states: Tensor, grad: Tensor, found: dict[int, Tensor], attention: bool
) -> tuple[Tensor, Tensor]:
    """What one of the two functions adds, and the gradient of its input; gradients of weights are summed in ``found``.

    Args:
        run: the layer.
        states: (B, L, W) the function's input.
        grad: (B, L, W) gradient of what it adds.
        found: gradients of weights by identity.
        attention: which of the two.
    """
    weights = [weight for weight in run.layer.parameters() if weight.requires_grad]
    with torch.enable_grad():
        states = states.detach().requires_grad_()
        if attention:
            added = run.layer.added_by_attention(states, run.shared, run.site)[0]
        else:
            added = run.layer.added_by_feed_forward(states, run.shared, run.site)
    more, *of_weights = torch.autograd.grad(added, [states, *weights], grad.to(added.dtype), allow_unused=True)
    for weight, own in zip(weights, of_weights, strict=True):
        if own is not None:
            found[id(weight)] = found[id(weight)] + own if id(weight) in found else own
    return added.detach(), more


class ReversibleTransformer(Transformer):
    """The Transformer core over a pair of states, which begin alike and end side by side, under one norm.

    Args:
        config: the core's config.

    Attributes:
        keep_activations: keep what layers compute for the backward pass, instead of rebuilding it.
    """

    layer_type = ReversibleLayer

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self.keep_activations = False

    def forward(
        self,
        inputs: CoreInputs,
        state: Cache | Memory | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """As :meth:`zoo.core.transformer.Transformer.forward`; states are (B, L, 2 W)."""
        hidden, shared = self._begin(inputs, state, output_attentions or self.eager_attention)
        runs = self._runs(shared)
        states, attentions = [torch.cat([hidden, hidden], dim=-1)], []
        if torch.is_grad_enabled() and not (output_hidden_states or output_attentions or self.keep_activations):
            first, second = run_rebuilt(runs, hidden)
        else:
            first, second = hidden, hidden
            for run in runs:
                first, second, probabilities = run.forward(first, second)
                attentions.append(cast(Tensor, probabilities))
                if output_hidden_states:
                    states.append(torch.cat([first, second], dim=-1))
        states[-1] = hidden = self.final_norm(torch.cat([first, second], dim=-1))
        site = (self.config.num_hidden_layers + 1) * SITES_PER_LAYER
        return CoreOutput(
            last_hidden_state=shared.dropped(hidden, site, self.config.final_dropout),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            state=shared.cache,
        )

    def _runs(self, shared: AttentionContext) -> list[LayerRun]:
        """The layers in turn, with what they read."""
        return [
            LayerRun(
                cast(ReversibleLayer, self.layers[self.config.group_of(i)]),
                shared.of_layer(i, None),
                (i + 1) * SITES_PER_LAYER,
            )
            for i in range(self.config.num_hidden_layers)
        ]

"""Between transformers' conventions and the core's: layers, masks and orders, two streams of states, losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple as untyped_can_return_tuple

from zoo.config import CoreConfig
from zoo.core.encoder_decoder import DecoderLayer
from zoo.core.lstm import RecurrentLayer
from zoo.core.transformer import Layer
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, CoreOutput, QueryStream

_Forward = TypeVar("_Forward", bound=Callable[..., Any])

# ---- layers ---------------------------------------------------------------------------------------------------------


class RecomputableLayer(GradientCheckpointingLayer, Layer):
    """A Transformer's layer that transformers can have recomputed in the backward pass."""


class RecomputableDecoderLayer(GradientCheckpointingLayer, DecoderLayer):
    """The same of a decoder."""


class RecomputableRecurrentLayer(GradientCheckpointingLayer, RecurrentLayer):
    """The same of a recurrent core."""


def make_recomputable(core: nn.Module) -> None:
    """Let transformers find the core's layers; names, weights and numbers stay as they are."""
    classes = {
        Layer: RecomputableLayer,
        DecoderLayer: RecomputableDecoderLayer,
        RecurrentLayer: RecomputableRecurrentLayer,
    }
    for module in core.modules():
        if type(module) in classes:
            module.__class__ = classes[type(module)]


# ---- arguments ------------------------------------------------------------------------------------------------------

_SAID_ANYWAY = ("cache_position", "return_dict")  # the cache knows its own; ``can_return_tuple`` reads the other


def check_all_read(owner: str, core: CoreConfig, attention: str, given: Mapping[str, Any]) -> None:
    """Nothing that is given may go unread; what is ``None`` or ``False`` says nothing.

    Args:
        owner: the model's class.
        core: the core's config.
        attention: the model's.
        given: some arguments of the core by name, and all that no one knows.

    Raises:
        ZooError: an argument that this model does not read.
    """
    unread = {key: x for key, x in given.items() if x is not None and x is not False and key not in _SAID_ANYWAY}
    if core.task_type_vocab_size:
        unread.pop("task_type_ids", None)
    types = unread.get("token_type_ids")
    if types is not None and (core.type_vocab_size or core.relative_segments or not bool(types.any())):
        unread.pop("token_type_ids")
    # Generation says positions to every causal model; where they are relative, they follow from the order.
    if core.position_type in ("learned", "sinusoidal", "rotary") or attention == "causal":
        unread.pop("position_ids", None)
    if unread:
        raise ZooError(f"{owner} does not read {', '.join(unread)} with this core: leave that away.")


# ---- masks and orders -----------------------------------------------------------------------------------------------


def real_tokens(attention_mask: Tensor | None, input_mask: Tensor | None) -> Tensor | None:
    """The mask of real tokens out of XLNet's two ways to say it; ``input_mask`` has 1 for padding."""
    if input_mask is None:
        return attention_mask
    if attention_mask is not None:
        raise ZooError("attention_mask and input_mask say the same the other way round: give one of them.")
    return 1 - input_mask


def dense_mask(mask: Tensor | None) -> Tensor | None:
    """A mask over keys as attention; ``None`` where everything is real (looked up on a CPU only: it costs a wait)."""
    if mask is None:
        return None
    if mask.ndim != 2:
        raise ZooError(
            f"attention_mask has {mask.ndim} axes; (batch, tokens) is read, causality follows from the model."
        )
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return mask.bool()[:, None, :]


def with_order(
    inputs: CoreInputs, real: Tensor | None, perm_mask: Tensor | None, target_mapping: Tensor | None
) -> CoreInputs:
    """Inputs whose order of prediction is said as transformers' XLNet has it said.

    A token of the first stream attends to itself in any case; a state of the second one does if ``perm_mask`` lets it.

    Args:
        inputs: without an attention pattern.
        real: (B, L) 1 = a real token; ``None`` = all are.
        perm_mask: (B, L, L) 1 = the first position does not attend to the second; ``None`` = all attend to all.
        target_mapping: (B, T, L) 1 = that state stands at that position, once in a row and column at most; a row of
            zeros attends to nothing. ``None`` = no second stream.

    Raises:
        ZooError: other shapes, or a target that is no single position.
    """
    batch, length = inputs.input_ids.shape
    device = inputs.input_ids.device
    for name, value, shape in (
        ("perm_mask", perm_mask, (batch, length, length)),
        ("target_mapping", target_mapping, (batch, "targets", length)),
    ):
        if value is not None and (value.ndim != 3 or (value.shape[0], *value.shape[2:]) != (shape[0], *shape[2:])):
            raise ZooError(f"{name} has shape {tuple(value.shape)}; {shape} is needed.".replace("'", ""))
    if perm_mask is not None and perm_mask.shape[1] != length:
        raise ZooError(f"perm_mask has shape {tuple(perm_mask.shape)}; {(batch, length, length)} is needed.")
    attends = torch.ones(batch, length, length, dtype=torch.bool, device=device)
    if perm_mask is not None:
        attends = perm_mask == 0
    if real is not None:
        attends = attends & real.bool()[:, None, :]
    own = torch.eye(length, dtype=torch.bool, device=device)
    inputs = inputs._replace(attention_pattern=AttentionPattern(dense=attends | own))
    if target_mapping is None:
        return inputs
    asked = target_mapping != 0
    if not bool(((target_mapping == 1) == asked).all() & (asked.sum(1) <= 1).all() & (asked.sum(2) <= 1).all()):
        raise ZooError("target_mapping holds 0 and 1, at most a single 1 in each row and in each column.")
    positions = asked.int().argmax(2)
    dense = attends.gather(1, positions[:, :, None].expand(-1, -1, length)) & asked.any(2, keepdim=True)
    return inputs._replace(query=QueryStream(positions, AttentionPattern(dense=dense)))


# ---- two streams ----------------------------------------------------------------------------------------------------


def second_stream(output: CoreOutput, length: int) -> CoreOutput:
    """The output of a core that was asked for targets, as transformers' XLNet gives it.

    States are the second stream's; layers give the first one's and the second one's in turn, probabilities in pairs.

    Args:
        output: of both streams.
        length: L, positions of the first one.
    """
    assert output.query_states is not None
    states, attentions = output.hidden_states, output.attentions
    return output._replace(
        last_hidden_state=output.query_states,
        hidden_states=None if states is None else tuple(s for x in states for s in (x[:, :length], x[:, length:])),
        attentions=None if attentions is None else tuple((x[:, :, :length], x[:, :, length:]) for x in attentions),  # type: ignore[misc]
    )


def joined_streams(output: CoreOutput, asked: Tensor, positions: Tensor) -> CoreOutput:
    """The output with the second stream's states in the places that they were asked for.

    Args:
        output: of both streams.
        asked: (B, L) the places.
        positions: (B, T) where each state of the second stream stands; some stand where nothing was asked.
    """
    length, states = asked.shape[1], output.query_states
    assert states is not None
    row, slot = asked.gather(1, positions).nonzero(as_tuple=True)
    place = (row, positions[row, slot])
    return output._replace(
        last_hidden_state=output.last_hidden_state.index_put(place, states[row, slot]),
        hidden_states=None
        if output.hidden_states is None
        else tuple(both[:, :length].index_put(place, both[:, length:][row, slot]) for both in output.hidden_states),
        attentions=None
        if output.attentions is None
        else tuple(
            both[:, :, :length]
            .transpose(1, 2)
            .index_put(place, both[:, :, length:].transpose(1, 2)[row, slot])
            .transpose(1, 2)
            for both in output.attentions
        ),
    )


# ---- what all classes use -------------------------------------------------------------------------------------------


def can_return_tuple(forward: _Forward) -> _Forward:
    """Transformers' decorator for ``return_dict``, with its type kept."""
    decorated: _Forward = untyped_can_return_tuple(forward)
    return decorated


def mean_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Mean over labels other than -100, or their sum over a given global count."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1).to(logits.device)
    if count is None:
        return functional.cross_entropy(flat, wanted)
    total = functional.cross_entropy(flat, wanted, reduction="sum")
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)

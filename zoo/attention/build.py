"""The one place that chooses what a layer attends with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from zoo.attention.attention import Attention
from zoo.attention.mixer import TokenMixer
from zoo.attention.relative import RelativeAttention
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.settings.plugin import checked_class


def make_attention(config: CoreConfig, layer_index: int) -> nn.Module:
    """The attention of layer ``layer_index``, with torch's own initial values.

    Raises:
        ZooError: its class path names no such class, or does not take these arguments.
    """
    if config.position_type == "relative":
        return RelativeAttention(config)
    found = attention_class(config, layer_index)
    if found is None:
        return Attention(config)
    for name in ("qk_norm", "attn_logit_softcapping"):
        if getattr(config, name) and not issubclass(found[0], Attention):
            raise ZooError(f"model.{name} = {getattr(config, name)} is not read by {found[0].__name__}; leave it out.")
    return found[0](config, **found[1])


def check_caches(layers: Iterable[Any]) -> None:
    """Raise ZooError if a layer's attention cannot keep what it has read."""
    for attention in layers:
        if isinstance(attention, TokenMixer) and not attention.caches:
            raise ZooError(
                f"{type(attention).__name__} keeps no keys and values of earlier tokens: generate with use_cache=False."
            )


def attention_class(config: CoreConfig, layer_index: int) -> tuple[type[TokenMixer], dict[str, Any]] | None:
    """The class that layer ``layer_index`` attends with, and its arguments; ``None`` = the plain one."""
    entry = config.attention_of(layer_index)
    if entry is None:
        return None
    assert config.attention_layers is not None
    where = f"model.attention_layers[{layer_index % len(config.attention_layers)}]"
    return checked_class(TokenMixer, entry, where, given=("config",))

"""Configs of a core's parts: characters, recurrent layers, entity vectors, a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from zoo.errors import ZooError
from zoo.values import Amount, Count, Positive, Probability, Range, check_fields


@dataclass(frozen=True)
class CharacterConfig:
    """Token vectors out of a word's characters instead of a table (Kim et al. 2016; specs: ELMo, section 2).

    A character is a byte of UTF-8, a mark of a word's or sentence's beginning or end, or padding.

    Args:
        n_characters: rows of the character table; 261 are needed. The all-zero row of masked positions is not counted.
        max_characters_per_token: characters of a word, its two marks included; the rest is cut off.
        embedding_dim: width of a character's vector.
        filters: (width, number) of the convolutions.
        n_highway: highway layers.
        activation: of the convolutions, after the maximum over positions, and of the highway layers' transform.
    """

    n_characters: Annotated[int, Range(least=261)] = 261
    max_characters_per_token: Annotated[int, Range(least=3)] = 50
    embedding_dim: Count = 16
    filters: tuple[tuple[Count, Count], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    n_highway: Amount = 2
    activation: Literal["relu", "tanh"] = "relu"

    def __post_init__(self) -> None:
        """Raise ZooError if the part cannot be built."""
        where = "model.characters"
        object.__setattr__(self, "filters", tuple(tuple(pair) for pair in self.filters))
        check_fields(self, where)
        if not self.filters:
            raise ZooError(f"{where}.filters = {self.filters}: at least one pair (width, number), both above 0.")
        least = max(3, *(width for width, _ in self.filters))
        if self.max_characters_per_token < least:
            raise ZooError(
                f"{where}.max_characters_per_token is {self.max_characters_per_token}; the widest filter and a word "
                f"of one letter with its two marks need {least}."
            )
        if self.activation not in ("relu", "tanh"):
            raise ZooError(f"{where}.activation is {self.activation!r}; relu or tanh would work.")

    @property
    def features(self) -> int:
        """Filters of all widths: the width between the convolutions and the projection."""
        return sum(number for _, number in self.filters)


@dataclass(frozen=True)
class RecurrentConfig:
    """Two directions of LSTM layers with projections, instead of attention layers (specs: ELMo, section 2).

    ``hidden_size`` is twice the width of the projections: the forward half stands beside the backward half.

    Args:
        cell_size: width of the cells.
        cell_clip: bound on the cells, clipped before the output gate; ``null`` = none.
        projection_clip: bound on the projected outputs, which are also the recurrent input; ``null`` = none.
        skip_connections: the input of every layer but the first is added to its output, after the clipping.
        dropout: on every layer's input (what a skip connection adds has it too) and on the last layer's output.
    """

    cell_size: Count = 4096
    cell_clip: Positive | None = 3.0
    projection_clip: Positive | None = 3.0
    skip_connections: bool = True
    dropout: Probability = 0.1

    def __post_init__(self) -> None:
        """Raise ZooError if the part cannot be built."""
        check_fields(self, "model.recurrent")


@dataclass(frozen=True)
class FusionConfig:
    """Entity vectors that run beside the tokens and are mixed into them (specs: ERNIE-THU, section 2).

    Args:
        layer_types: of each layer, in the order they are run: ``plain`` (the vectors pass unchanged), ``mixed`` (they
            join the feed-forward part) or ``full`` (before that, they also attend to each other). Layers beyond the
            list are plain.
        entity_size: width of the vectors.
        num_attention_heads: heads of the attention among entities; must divide ``entity_size``.
    """

    layer_types: tuple[Literal["plain", "mixed", "full"], ...] = ()
    entity_size: Count = 100
    num_attention_heads: Count = 4

    def __post_init__(self) -> None:
        """Raise ZooError if the part cannot be built."""
        object.__setattr__(self, "layer_types", tuple(self.layer_types))
        check_fields(self, "model.fusion")
        known = ("plain", "mixed", "full")
        for number, kind in enumerate(self.layer_types):
            if kind not in known:
                raise ZooError(f"model.fusion.layer_types[{number}] is {kind!r}; {', '.join(known)} would work.")
        if self.entity_size % self.num_attention_heads:
            raise ZooError(
                f"model.fusion.num_attention_heads = {self.num_attention_heads} does not divide "
                f"model.fusion.entity_size = {self.entity_size}."
            )

    def kind_of(self, layer: int) -> str:
        """Kind of layer ``layer``."""
        return self.layer_types[layer] if layer < len(self.layer_types) else "plain"

    @property
    def last(self) -> int:
        """Number of the last layer that mixes, -1 = none does."""
        return max((number for number, kind in enumerate(self.layer_types) if kind != "plain"), default=-1)


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder beside the encoder that the other fields describe (Vaswani et al. 2017; specs: Transformer, section 2).

    Its layers attend to the tokens before, then to the encoder's last states. All that is not said here is as in the
    encoder; the two share the token embedding.

    Args:
        num_hidden_layers: its layers; ``null`` = as many as the encoder's.
        num_attention_heads: heads per layer; ``null`` = as many.
        intermediate_size: inner width of the feed-forward part; ``null`` = the same.
    """

    num_hidden_layers: Annotated[int, Range(least=1, most=2**16)] | None = None
    num_attention_heads: Count | None = None
    intermediate_size: Count | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if the part cannot be built."""
        check_fields(self, "model.decoder")

"""Facts about a core's architecture, with the names the transformers library uses for them."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class CoreConfig:
    """Architecture of a core. Every field is a fact that can be recombined, never a family's name.

    Args:
        vocab_size: rows of the token embedding; ``None`` takes the tokenizer's size.
        hidden_size: width of the hidden states.
        num_hidden_layers: layers that are run.
        num_attention_heads: heads per layer; must divide ``hidden_size``.
        num_key_value_heads: heads of keys and values, each shared by a group of query heads; ``None`` = as
            many as query heads.
        intermediate_size: inner width of the feed-forward part.
        embedding_size: width of the embedding tables; ``None`` = ``hidden_size`` (no factorisation).
        embedding_projection: linear map from ``embedding_size`` to ``hidden_size``; ``None`` = only where
            the two differ.
        num_hidden_groups: distinct sets of layer weights; ``None`` = one per layer. Layer ``i`` uses
            group ``floor(i / num_hidden_layers * num_hidden_groups)``.
        hidden_act: ``gelu`` (erf), ``gelu_new`` (tanh form), ``relu``, ``silu``.
        glu: gated feed-forward, act(x G) * (x V) before the output matrix (Shazeer 2020).
        norm: ``layer`` (LayerNorm) or ``rms`` (RMSNorm: no mean, no bias; Zhang & Sennrich 2019).
        norm_position: ``post`` (after the residual sum) or ``pre`` (before each part, plus a final norm).
        embedding_norm: LayerNorm after the embedding sum.
        position_type: ``learned``, ``sinusoidal``, ``rotary`` (queries and keys turned by their position, pairs
            k and k + D/2; Su et al. 2021) or ``none``.
        rope_theta: base of the rotary angles.
        max_position_embeddings: rows of the position table, ``position_offset`` included; without a table the
            length that the model is meant for, and no limit.
        position_offset: row of the first position (2 where a table keeps rows for padding).
        type_vocab_size: segment types; with 1 (a table of one row) or 0 (no table) segments look alike.
        task_type_vocab_size: task types; 0 = no table.
        attention_bias: biases on the attention projections.
        mlp_bias: biases on the feed-forward projections.
        layer_norm_eps: epsilon of every norm.
        hidden_dropout_prob: dropout on embeddings and on each part's output.
        attention_probs_dropout_prob: dropout on attention probabilities.
        initializer: ``normal`` or ``truncated_normal`` (cut at two standard deviations).
        initializer_range: standard deviation of the initial weights.
        residual_init_scale: scale the output projections' initial values by 1/sqrt(2 * layers).
        tie_word_embeddings: output matrix of token heads = token embedding.
        pooler: dense + tanh on the first token's state, as a part of the core.
        pad_token_id: row of the padding token; ``None`` = there is none.
    """

    vocab_size: int | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    num_key_value_heads: int | None = None
    intermediate_size: int = 512
    embedding_size: int | None = None
    embedding_projection: bool | None = None
    num_hidden_groups: int | None = None
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    glu: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["post", "pre"] = "post"
    embedding_norm: bool = True
    position_type: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    rope_theta: float = 10000.0
    max_position_embeddings: int = 512
    position_offset: int = 0
    type_vocab_size: int = 2
    task_type_vocab_size: int = 0
    attention_bias: bool = True
    mlp_bias: bool = True
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer: Literal["normal", "truncated_normal"] = "truncated_normal"
    initializer_range: float = 0.02
    residual_init_scale: bool = False
    tie_word_embeddings: bool = True
    pooler: bool = True
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse facts that cannot be built, naming the ones that would work."""
        positive = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in positive:
            if getattr(self, name) < 1:
                raise ZooError(f"model.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            works = [n for n in range(1, 65) if self.hidden_size % n == 0]
            raise ZooError(
                f"model.num_attention_heads = {self.num_attention_heads} does not divide model.hidden_size = "
                f"{self.hidden_size}; these would work: {', '.join(map(str, works))}."
            )
        if self.num_key_value_heads is not None and self.num_key_value_heads < 1:
            raise ZooError(f"model.num_key_value_heads is {self.num_key_value_heads}; it must be at least 1.")
        if self.num_attention_heads % self.key_value_heads:
            raise ZooError(
                f"model.num_key_value_heads = {self.num_key_value_heads} does not divide model.num_attention_heads = "
                f"{self.num_attention_heads}: every group of query heads shares one."
            )
        if self.position_type == "rotary" and self.head_width % 2:
            raise ZooError(
                f"model.position_type: rotary turns pairs, and a head is {self.head_width} wide (hidden_size / "
                "num_attention_heads); an even width is needed."
            )
        groups = self.num_hidden_groups
        if groups is not None and not 1 <= groups <= self.num_hidden_layers:
            raise ZooError(
                f"model.num_hidden_groups = {groups} must lie between 1 (all layers shared) and "
                f"model.num_hidden_layers = {self.num_hidden_layers} (all distinct)."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ZooError(f"model.{name} is {getattr(self, name)}; a probability in [0, 1) is needed.")
        if self.position_type == "learned" and self.max_position_embeddings <= self.position_offset:
            raise ZooError(
                f"model.max_position_embeddings = {self.max_position_embeddings} leaves no usable position after "
                f"model.position_offset = {self.position_offset}."
            )
        if self.embedding_projection is False and self.embedding_size not in (None, self.hidden_size):
            raise ZooError(
                f"model.embedding_size = {self.embedding_size} differs from model.hidden_size = {self.hidden_size}, "
                "so model.embedding_projection cannot be false."
            )

    @property
    def embedding_width(self) -> int:
        """Width of the embedding tables."""
        return self.embedding_size or self.hidden_size

    @property
    def has_embedding_projection(self) -> bool:
        """Whether a linear map stands between the embeddings and the first layer."""
        if self.embedding_projection is None:
            return self.embedding_width != self.hidden_size
        return self.embedding_projection

    @property
    def groups(self) -> int:
        """Distinct sets of layer weights."""
        return self.num_hidden_groups or self.num_hidden_layers

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def has_position_table(self) -> bool:
        """Whether positions are rows of a table, which limits the length."""
        return self.position_type in ("learned", "sinusoidal")

    @property
    def max_length(self) -> int:
        """Longest input, in tokens; without a position table there is no limit."""
        return self.max_position_embeddings - self.position_offset if self.has_position_table else sys.maxsize

    def group_of(self, layer: int) -> int:
        """Number of the weight set that layer ``layer`` uses (specs: ALBERT, section 2)."""
        return layer * self.groups // self.num_hidden_layers

    def replace(self, **changes: Any) -> CoreConfig:
        """A copy with some facts changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All facts as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> CoreConfig:
        """Read facts back; an unknown one is an error that names the nearest."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in facts:
            if name not in known:
                raise ZooError(f"unknown fact {name!r} about the core.{nearest(name, known)}")
        return cls(**facts)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; what is wrong with the file is said by name."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(f"{path} does not exist.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ZooError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ZooError(f"{path} holds a JSON {type(value).__name__}; an object was expected.")
    return value

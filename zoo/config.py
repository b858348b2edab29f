"""The config of a core: its architecture, with the names the transformers library uses for them."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from zoo.config_parts import CharacterConfig, DecoderConfig, FusionConfig, RecurrentConfig
from zoo.errors import ZooError, nearest
from zoo.values import Amount, Count, NotNegative, Positive, Probability, Range, check_fields

_PARTS: dict[str, Any] = {
    "characters": CharacterConfig,
    "recurrent": RecurrentConfig,
    "fusion": FusionConfig,
    "decoder": DecoderConfig,
}
"""Fields that are configs of a part."""


@dataclass(frozen=True)
class CoreConfig:
    """Architecture of a core. Every field can be recombined with the others; none is a family's name.

    Args:
        vocab_size: rows of the token embedding; ``None`` takes the tokenizer's size.
        hidden_size: width of the hidden states.
        num_hidden_layers: layers that are run, at most 2**16; 0 = a table of vectors alone.
        num_attention_heads: heads per layer; must divide ``hidden_size``, unless ``head_dim`` is given.
        head_dim: width of a head; ``None`` = ``hidden_size`` shared out among the heads.
        num_key_value_heads: heads of keys and values, each shared by a group of query heads; ``None`` = as
            many as query heads.
        intermediate_size: inner width of the feed-forward part.
        embedding_size: width of the embedding tables; ``None`` = that of the first layer's input, which is
            ``hidden_size``, or half of it with ``recurrent`` (no factorisation).
        embedding_projection: linear map from ``embedding_size`` to the first layer's input; ``None`` = only where
            the two differ.
        num_hidden_groups: distinct sets of layer weights; ``None`` = one per layer. Layer ``i`` uses
            group ``floor(i / num_hidden_layers * num_hidden_groups)``.
        hidden_act: ``gelu`` (erf), ``gelu_new`` (tanh form), ``relu``, ``silu``.
        glu: gated feed-forward, act(x G) * (x V) before the output matrix (Shazeer 2020).
        norm: ``layer`` (LayerNorm) or ``rms`` (RMSNorm: no mean, no bias; Zhang & Sennrich 2019).
        norm_position: ``post`` (after the residual sum) or ``pre`` (before each part, plus a final norm).
        embedding_norm: LayerNorm after the embedding sum.
        scale_embedding: token embeddings are multiplied by sqrt(hidden_size).
        position_type: ``learned``, ``sinusoidal``, ``rotary`` (queries and keys turned by their position, pairs
            k and k + D/2; Su et al. 2021), ``relative`` (scores read the distance to the key; Dai et al. 2019),
            ``relative_buckets`` (a number per head for each range of distances is added to scores; Raffel et al. 2020)
            or ``none``. The fields from ``untie_r`` to ``query_stream`` say more about ``relative``.
        sinusoid_layout: of ``sinusoidal``: ``interleaved``, ``halves`` or ``halves_inclusive``
            (:func:`zoo.core.functions.sinusoids`).
        relative_attention_num_buckets: of ``relative_buckets``: ranges of distances, of both directions together where
            tokens attend to both.
        relative_attention_max_distance: of ``relative_buckets``: farther distances are in the last range.
        rope_theta: base of the rotary angles.
        max_position_embeddings: rows of the position table, ``position_offset`` included; without a table the
            length that the model is meant for, and no limit.
        position_offset: row of the first position (2 where a table keeps rows for padding).
        untie_r: each set of layer weights has vectors u, v (and s) of its own in the relative scores; false = all
            layers share them.
        clamp_len: farther distances count as this one; -1 = none does.
        relative_segments: scores read whether query and key are of one segment (XLNet, section 2).
        mem_len: states of earlier tokens that every layer remembers for the next segment; ``None`` or 0 = none.
        reuse_len: only so many tokens from a segment's start are remembered; ``None`` or 0 = all.
        same_length: hide keys that are ``mem_len`` tokens back or more, so that all queries attend to equally many
            (for evaluation).
        query_stream: a learned start vector for a second stream of states (permutation language models).
        type_vocab_size: segment types; with 1 (a table of one row) or 0 (no table) segments look alike.
        task_type_vocab_size: task types; 0 = no table.
        scale_attention: scores are divided by the square root of a head's width.
        attention_bias: biases on the attention projections.
        mlp_bias: biases on the feed-forward projections.
        layer_norm_eps: epsilon of every norm.
        hidden_dropout_prob: dropout on embeddings and on each part's output.
        attention_probs_dropout_prob: dropout on attention probabilities.
        activation_dropout: dropout after the feed-forward activation.
        final_dropout: dropout on the last states.
        initializer: ``normal``, ``truncated_normal`` (cut at two standard deviations) or ``uniform``.
        initializer_range: standard deviation of the initial weights; of ``uniform`` ones the bound.
        residual_init_scale: scale the output projections' initial values by 1/sqrt(2 * layers).
        tie_word_embeddings: output matrix of token heads = token embedding.
        scale_logits: what token heads multiply with the output matrix is divided by sqrt(hidden_size).
        pooler: dense + tanh on the first token's state, as a part of the core.
        pad_token_id: row of the padding token; ``None`` = there is none.
        characters: read tokens by their characters instead of looking them up in a table; ``None`` = a table.
        recurrent: LSTM layers in the place of attention layers, whose fields are then not read; ``None`` = attention.
        fusion: entity vectors beside the tokens; ``None`` = there are none.
        decoder: a second stack of layers that reads the first one's states; ``None`` = there is none.
    """

    vocab_size: Count | None = None
    hidden_size: Count = 128
    num_hidden_layers: Annotated[int, Range(least=0, most=2**16)] = 2
    num_attention_heads: Count = 2
    head_dim: Count | None = None
    num_key_value_heads: Count | None = None
    intermediate_size: Count = 512
    embedding_size: Count | None = None
    embedding_projection: bool | None = None
    num_hidden_groups: Count | None = None
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"
    glu: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["post", "pre"] = "post"
    embedding_norm: bool = True
    scale_embedding: bool = False
    position_type: Literal["learned", "sinusoidal", "rotary", "relative", "relative_buckets", "none"] = "learned"
    sinusoid_layout: Literal["interleaved", "halves", "halves_inclusive"] = "interleaved"
    relative_attention_num_buckets: Annotated[int, Range(least=4)] = 32
    relative_attention_max_distance: Count = 128
    rope_theta: Positive = 10000.0
    max_position_embeddings: Amount = 512
    position_offset: Amount = 0
    untie_r: bool = False
    clamp_len: Annotated[int, Range(least=-1)] = -1
    relative_segments: bool = False
    mem_len: Amount | None = None
    reuse_len: Amount | None = None
    same_length: bool = False
    query_stream: bool = False
    type_vocab_size: Amount = 2
    task_type_vocab_size: Amount = 0
    scale_attention: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    layer_norm_eps: Positive = 1e-12
    hidden_dropout_prob: Probability = 0.1
    attention_probs_dropout_prob: Probability = 0.1
    activation_dropout: Probability = 0.0
    final_dropout: Probability = 0.0
    initializer: Literal["normal", "truncated_normal", "uniform"] = "truncated_normal"
    initializer_range: NotNegative = 0.02
    residual_init_scale: bool = False
    tie_word_embeddings: bool = True
    scale_logits: bool = False
    pooler: bool = True
    pad_token_id: Annotated[int, Range(least=-1)] | None = None
    characters: CharacterConfig | None = None
    recurrent: RecurrentConfig | None = None
    fusion: FusionConfig | None = None
    decoder: DecoderConfig | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if no core can be built, naming what would work."""
        check_fields(self, "model")
        checks = (_check_sizes, _check_embeddings, _check_parts, _check_relative, _check_buckets, _check_fusion)
        for check in (*checks, _check_decoder, _check_table):
            check(self)

    @property
    def input_width(self) -> int:
        """Width of the first layer's input: the states' own, or one direction's half of it."""
        return self.hidden_size if self.recurrent is None else self.hidden_size // 2

    @property
    def embedding_width(self) -> int:
        """Width of the embedding tables."""
        return self.embedding_size or self.input_width

    @property
    def has_embedding_projection(self) -> bool:
        """Whether a linear map stands between the embeddings and the first layer."""
        if self.embedding_projection is None:
            return self.embedding_width != self.input_width
        return self.embedding_projection

    @property
    def groups(self) -> int:
        """Distinct sets of layer weights."""
        return self.num_hidden_groups or self.num_hidden_layers

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

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

    @property
    def tokenizer_settings(self) -> dict[str, int]:
        """What a ``tokenizer_config.json`` has from its model: ``model_max_length``, where there is a limit."""
        return {"model_max_length": self.max_length} if self.has_position_table else {}

    @property
    def decoder_side(self) -> CoreConfig:
        """The config of the decoder's layers, as of a core without a decoder; only where there is one."""
        assert self.decoder is not None
        own = {name: value for name, value in dataclasses.asdict(self.decoder).items() if value is not None}
        return self.replace(**own, decoder=None)

    def group_of(self, layer: int) -> int:
        """Number of the weight set that layer ``layer`` uses (specs: ALBERT, section 2)."""
        return layer * self.groups // self.num_hidden_layers

    def replace(self, **changes: Any) -> CoreConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> CoreConfig:
        """Read :meth:`to_dict`'s values back; an unknown key is an error that names the nearest."""
        _raise_on_unknown_keys(cls, fields, "the core's config")
        values = dict(fields)
        for name, part in _PARTS.items():
            if isinstance(values.get(name), dict):
                _raise_on_unknown_keys(part, values[name], f"the core's {name} config")
                values[name] = part(**values[name])
        return cls(**values)


def _check_sizes(config: CoreConfig) -> None:
    """Raise ZooError if widths, heads or groups do not go together."""
    if config.head_dim is None and config.hidden_size % config.num_attention_heads:
        works = [n for n in range(1, 65) if config.hidden_size % n == 0]
        raise ZooError(
            f"model.num_attention_heads = {config.num_attention_heads} does not divide model.hidden_size = "
            f"{config.hidden_size}; these would work: {', '.join(map(str, works))}."
        )
    if config.num_attention_heads % config.key_value_heads:
        raise ZooError(
            f"model.num_key_value_heads = {config.num_key_value_heads} does not divide model.num_attention_heads = "
            f"{config.num_attention_heads}: every group of query heads shares one."
        )
    if config.position_type == "rotary" and config.head_width % 2:
        raise ZooError(
            f"model.position_type: rotary turns pairs, and a head is {config.head_width} wide (hidden_size / "
            "num_attention_heads); an even width is needed."
        )
    groups = config.num_hidden_groups
    if groups is not None and not 1 <= groups <= config.num_hidden_layers:
        raise ZooError(
            f"model.num_hidden_groups = {groups} must lie between 1 (all layers shared) and "
            f"model.num_hidden_layers = {config.num_hidden_layers} (all distinct)."
        )


def _check_embeddings(config: CoreConfig) -> None:
    """Raise ZooError if a position table has no usable row, or a projection is needed and missing."""
    if config.position_type == "learned" and config.max_position_embeddings <= config.position_offset:
        raise ZooError(
            f"model.max_position_embeddings = {config.max_position_embeddings} leaves no usable position after "
            f"model.position_offset = {config.position_offset}."
        )
    if config.embedding_projection is False and config.embedding_size not in (None, config.input_width):
        raise ZooError(
            f"model.embedding_size = {config.embedding_size} differs from {config.input_width}, the width of the first "
            "layer's input, so model.embedding_projection cannot be false."
        )


def _check_parts(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with characters or recurrent layers."""
    if config.characters is not None and config.tie_word_embeddings:
        raise ZooError(
            "model.characters leaves no embedding table that output matrices could be tied to; "
            "set model.tie_word_embeddings: false."
        )
    if config.recurrent is None:
        return
    if config.hidden_size % 2:
        raise ZooError(
            f"model.hidden_size = {config.hidden_size}: with model.recurrent it is two directions side by side and "
            "must be even."
        )
    if config.position_type in ("rotary", "relative", "relative_buckets"):
        raise ZooError(
            f"model.position_type: {config.position_type} is for attention layers; with model.recurrent: none."
        )


def _check_relative(config: CoreConfig) -> None:
    """Raise ZooError if fields about relative scores would be read by nothing, or contradict each other."""
    if config.position_type != "relative":
        for name in ("untie_r", "relative_segments", "mem_len", "same_length", "query_stream"):
            if getattr(config, name):
                raise ZooError(
                    f"model.{name} = {getattr(config, name)} speaks of relative scores, and model.position_type is "
                    f"{config.position_type}: set it to relative, or leave {name} out."
                )
    elif config.hidden_size % 2:
        raise ZooError(
            f"model.position_type: relative needs an even model.hidden_size (sines beside cosines), not "
            f"{config.hidden_size}."
        )
    if config.same_length and not config.mem_len:
        raise ZooError("model.same_length shows every query the same model.mem_len keys: give that a length.")


def _check_buckets(config: CoreConfig) -> None:
    """Raise ZooError if distances could not be sorted into their buckets."""
    if config.head_dim is not None and config.position_type == "relative":
        raise ZooError("model.head_dim does not go with model.position_type: relative; leave it out.")
    if config.position_type != "relative_buckets":
        return
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if buckets % 4 or farthest <= buckets // 2:
        raise ZooError(
            f"model.relative_attention_num_buckets = {buckets} must be a multiple of 4 (two directions, half of "
            f"each for single distances) and less than twice model.relative_attention_max_distance = {farthest}."
        )


def _check_decoder(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with a decoder."""
    if config.decoder is None:
        return
    needed = {"pooler": False, "fusion": None, "characters": None, "query_stream": False}
    for name, value in {**needed, "mem_len": None}.items():
        if getattr(config, name) != value and (getattr(config, name) or value):
            said = "false" if value is False else "null"
            raise ZooError(f"model.decoder needs model.{name}: {said}, not {getattr(config, name)}.")
    if config.num_hidden_layers == 0:
        raise ZooError("model.decoder reads an encoder's states: model.num_hidden_layers must be at least 1.")
    if config.position_type == "relative":
        raise ZooError(
            "model.position_type: relative is for one stack of layers; with model.decoder: learned, sinusoidal, "
            "rotary, relative_buckets or none."
        )
    _ = config.decoder_side  # its own checks


def _check_fusion(config: CoreConfig) -> None:
    """Raise ZooError if something does not go with entity vectors."""
    if config.fusion is None:
        return
    needed = {"norm_position": "post", "norm": "layer", "glu": False, "recurrent": None, "mem_len": None}
    for name, value in needed.items():
        if getattr(config, name) != value and (getattr(config, name) or value):
            raise ZooError(f"model.fusion needs model.{name}: {value}, not {getattr(config, name)}.")
    if config.position_type == "relative_buckets":
        raise ZooError("model.fusion does not go with model.position_type: relative_buckets.")
    if config.query_stream:
        raise ZooError("model.fusion does not go with a second stream (model.query_stream).")
    if len(config.fusion.layer_types) > config.num_hidden_layers:
        raise ZooError(
            f"model.fusion.layer_types names {len(config.fusion.layer_types)} layers, "
            f"model.num_hidden_layers is {config.num_hidden_layers}."
        )
    if config.fusion.last >= 0 and config.groups != config.num_hidden_layers:
        raise ZooError("model.fusion makes layers differ, so they cannot share weights (model.num_hidden_groups).")


def _check_table(config: CoreConfig) -> None:
    """Raise ZooError if a core without layers is told of anything but its table."""
    if config.num_hidden_layers:
        return
    needed: dict[str, Any] = {"position_type": "none", "type_vocab_size": 0, "task_type_vocab_size": 0}
    needed |= {"embedding_norm": False, "pooler": False, "hidden_dropout_prob": 0.0}
    needed |= {"characters": None, "recurrent": None, "fusion": None, "decoder": None}
    for name, value in needed.items():
        if getattr(config, name) != value:
            told = "null" if value is None else str(value).lower()
            raise ZooError(f"model.num_hidden_layers: 0 is a table of vectors alone: set model.{name}: {told}.")
    if config.has_embedding_projection:
        raise ZooError("model.num_hidden_layers: 0 is a table of vectors alone: leave model.embedding_size out.")
    if config.tie_word_embeddings:
        raise ZooError(
            "model.num_hidden_layers: 0 with model.tie_word_embeddings would make each word its own best context: set "
            "model.tie_word_embeddings: false, so that words as inputs and as outputs have a table each."
        )


def _raise_on_unknown_keys(cls: Any, given: dict[str, Any], where: str) -> None:
    known = {field.name for field in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            raise ZooError(f"unknown key {name!r} in {where}.{nearest(name, known)}")

"""The fields of a core's config: its architecture, with the names the transformers library uses for them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from zoo.config_parts import CharacterConfig, DecoderConfig, FusionConfig, RecurrentConfig
from zoo.values import Amount, Count, NotNegative, Positive, Probability, Range


@dataclass(frozen=True)
class CoreFields:
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
        hidden_act: ``gelu`` (erf), ``gelu_new`` (tanh form), ``relu``, ``silu``, ``sigmoid``, ``linear`` (none).
        glu: gated feed-forward, act(x G) * (x V) before the output matrix (Shazeer 2020); ``hidden_act`` makes it
            GLU (``sigmoid``), bilinear (``linear``), ReGLU, GEGLU or SwiGLU (``silu``).
        norm: ``layer`` (LayerNorm) or ``rms`` (RMSNorm: no mean, no bias; Zhang & Sennrich 2019).
        norm_position: ``post`` (after the residual sum) or ``pre`` (before each part, plus a final norm).
        norm_bias: LayerNorm has a bias; RMSNorm never has one.
        first_attention_norm: of ``pre``: the first layer has a norm before its attention, as the others do; false where
            the embeddings were normalised just before (ModernBERT).
        embedding_norm: norm after the embedding sum.
        scale_embedding: token embeddings are multiplied by sqrt(hidden_size).
        position_type: ``learned``, ``sinusoidal``, ``rotary`` (queries and keys turned by their position, pairs
            k and k + D/2; Su et al. 2021), ``relative`` (scores read the distance to the key; Dai et al. 2019),
            ``relative_buckets`` (a number per head for each range of distances is added to scores; Raffel et al. 2020)
            ``axial`` (two short tables, one for each axis of a rectangle; Kitaev et al. 2020) or ``none``. The fields
            from ``untie_r`` to ``query_stream`` say more about ``relative``.
        axial_pos_shape: of ``axial``: the rectangle's rows and columns, whose product is ``max_position_embeddings``;
            position p stands in row p // columns.
        axial_pos_embds_dim: of ``axial``: widths of the two tables, whose sum is the embeddings'.
        axial_norm_std: of ``axial``: standard deviation of the initial tables.
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
        attention_layers: classes of attention in turn, each with a ``class_path`` and, where it takes some,
            ``init_args``; layer ``i`` has entry ``i`` modulo their number; ``None`` = every token attends to all.
        feed_forward: layers have a feed-forward part after attention.
        reversible: layers run over a pair of states, from which the backward pass rebuilds their inputs instead of
            keeping them; the last states are both, side by side, ``2 * hidden_size`` wide.
        chunk_size_feed_forward: the feed-forward part works on so many tokens at a time, which takes less memory and
            changes nothing else; 0 = on all at once.
        depth_signal: every layer is told its number, and its tokens their positions, by sines that are added to its
            input (Dehghani et al. 2018, "Universal Transformers", whose layers share their weights).
        scale_attention: scores are divided by the square root of a head's width.
        qk_norm: every head's queries and keys are normalised before they are turned and multiplied, with gains that
            heads share (Henry et al. 2020; Dehghani et al. 2023).
        attn_logit_softcapping: scores s become c tanh(s / c) before the mask (Gemma 2); ``None`` = they stay.
        final_logit_softcapping: the same of the token heads' logits.
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
        z_loss_weight: while training, token heads add it times log(Z)^2 to a prediction's loss, Z being the sum
            of the exponentiated logits (Chowdhery et al. 2022, section 5).
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
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu", "sigmoid", "linear"] = "gelu"
    glu: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["post", "pre"] = "post"
    norm_bias: bool = True
    first_attention_norm: bool = True
    embedding_norm: bool = True
    scale_embedding: bool = False
    position_type: Literal["learned", "sinusoidal", "rotary", "relative", "relative_buckets", "axial", "none"] = (
        "learned"
    )
    axial_pos_shape: list[Count] | None = field(default=None, hash=False)
    axial_pos_embds_dim: list[Count] | None = field(default=None, hash=False)
    axial_norm_std: Positive = 1.0
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
    attention_layers: list[dict[str, Any]] | None = field(default=None, hash=False)
    feed_forward: bool = True
    reversible: bool = False
    chunk_size_feed_forward: Amount = 0
    depth_signal: bool = False
    scale_attention: bool = True
    qk_norm: bool = False
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
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
    z_loss_weight: NotNegative = 0.0
    pooler: bool = True
    pad_token_id: Annotated[int, Range(least=-1)] | None = None
    characters: CharacterConfig | None = None
    recurrent: RecurrentConfig | None = None
    fusion: FusionConfig | None = None
    decoder: DecoderConfig | None = None

    @property
    def input_width(self) -> int:
        """Width of the first layer's input: the states' own, or one direction's half of it."""
        return self.hidden_size if self.recurrent is None else self.hidden_size // 2

    @property
    def output_width(self) -> int:
        """Width of the last states: of a reversible core both of the pair."""
        return 2 * self.hidden_size if self.reversible else self.hidden_size

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
        return self.position_type in ("learned", "sinusoidal", "axial")

    @property
    def max_length(self) -> int:
        """Longest input, in tokens; without a position table there is no limit."""
        return self.max_position_embeddings - self.position_offset if self.has_position_table else sys.maxsize

    @property
    def tokenizer_settings(self) -> dict[str, int]:
        """What a ``tokenizer_config.json`` has from its model: ``model_max_length``, where there is a limit."""
        return {"model_max_length": self.max_length} if self.has_position_table else {}

    def attention_of(self, layer: int) -> dict[str, Any] | None:
        """What layer ``layer`` attends with, as ``class_path`` and ``init_args``; ``None`` = the plain class."""
        return self.attention_layers[layer % len(self.attention_layers)] if self.attention_layers else None

    def group_of(self, layer: int) -> int:
        """Number of the weight set that layer ``layer`` uses (specs: ALBERT, section 2)."""
        return layer * self.groups // self.num_hidden_layers

    def first_layer(self, group: int) -> int:
        """The first layer that uses weight set ``group``."""
        return -(-group * self.num_hidden_layers // self.groups)

"""Floating-point operations of the matrix products, counted from the config alone.

A product of (m, k) and (k, n) is 2mkn operations; the backward pass costs twice the forward one. Checked against
torch's own counter in ``tests/zoo/heads/test_cross_entropy.py``.
"""

from __future__ import annotations

from zoo.attention.build import attention_class
from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig


def core_flops(
    config: CoreConfig,
    rows: int,
    length: int,
    queries: int = 0,
    memory: int = 0,
    causal: bool = False,
    outputs: int | None = None,
    target_length: int = 0,
) -> int:
    """Forward operations of the core on ``rows`` rows of ``length`` (padded) tokens.

    Args:
        config: the core's config.
        rows: B.
        length: L.
        queries: T, states of a second stream in each row.
        memory: M, remembered tokens of each row.
        causal: relative scores ask for distances to the left only; a recurrent core runs one direction.
        outputs: states of all rows' tokens that the last layer is asked for; ``None`` = all. Of a decoder's last layer
            where there is a target.
        target_length: T, tokens that a decoder reads in each row; 0 = it is not run.
    """
    width, states, keys = config.hidden_size, length + queries, memory + length
    decoded = 0
    outputs = None if config.reversible else outputs  # whose last layer computes all states
    if config.decoder is not None and target_length and config.recurrent is None:
        decoded, outputs = _decoder_flops(config.decoder_side, rows, length, target_length, outputs), None
    if config.recurrent is not None:
        if config.decoder is not None and target_length:
            decoded = _recurrent_decoder_flops(config.decoder_side, config.recurrent, rows, length, target_length)
        layer = rows * length * _recurrent_flops(config.recurrent, config.input_width, 1 if causal else 2)
        return config.num_hidden_layers * layer + decoded + _ends_flops(config, rows, length)
    if config.attention_layers:
        return _mixed_flops(config, rows, length, outputs) + decoded + _ends_flops(config, rows, length)
    asking, inner = config.num_attention_heads * config.head_width, config.key_value_heads * config.head_width
    # What a state costs, then what a row of keys costs.
    state = 2 * 2 * width * asking + _inner_flops(config) + 2 * 2 * keys * asking
    row = 2 * keys * 2 * width * inner
    if config.position_type == "relative":  # distances have a row of their own, for their direction or dropout
        distances = keys + (1 if causal else length)
        state, row = state + 2 * distances * width, row + 2 * distances * width * width
    layers = config.num_hidden_layers * rows * (states * state + row)
    skipped = 0 if outputs is None else (rows * length - outputs) * state
    return layers - skipped + decoded + _fusion_flops(config, rows, length) + _ends_flops(config, rows, length)


def _mixed_flops(config: CoreConfig, rows: int, length: int, outputs: int | None) -> int:
    """All layers, each with the attention of its own that the config names; of the last one what is asked for."""
    plain = config.replace(attention_layers=None, num_hidden_layers=1, num_hidden_groups=None, pooler=False)
    plain = plain.replace(embedding_size=None, embedding_projection=None, characters=None, decoder=None)
    full, total, last = core_flops(plain, 1, length), 0, config.num_hidden_layers - 1
    for layer_index in range(config.num_hidden_layers):
        found = attention_class(config, layer_index)
        own = None if found is None else found[0].row_flops(config, length, **found[1])
        layer = rows * (full if own is None else own + length * _inner_flops(config))
        total += layer if outputs is None or layer_index < last else layer * outputs // (rows * length)
    return total


def _inner_flops(config: CoreConfig) -> int:
    """The feed-forward part of a layer, for one state."""
    if not config.feed_forward:
        return 0
    return 2 * (3 if config.glu else 2) * config.hidden_size * config.intermediate_size


def _decoder_flops(config: CoreConfig, rows: int, length: int, target_length: int, outputs: int | None) -> int:
    """The decoder's layers on targets of (B, T) tokens and sources of (B, L); arguments as in :func:`core_flops`."""
    width = config.hidden_size
    asking, inner = config.num_attention_heads * config.head_width, config.key_value_heads * config.head_width
    attended = target_length + length
    state = 2 * 2 * 2 * width * asking + _inner_flops(config) + 2 * 2 * attended * asking
    layer = rows * (target_length * state + attended * 2 * 2 * width * inner)
    skipped = 0 if outputs is None else (rows * target_length - outputs) * state
    return config.num_hidden_layers * layer - skipped + _projection_flops(config, rows, target_length)


def _recurrent_decoder_flops(
    config: CoreConfig, recurrent: RecurrentConfig, rows: int, length: int, target_length: int
) -> int:
    """Recurrent layers over targets of (B, T) tokens, their starts, and attention to sources of (B, L)."""
    width, cells = config.hidden_size, recurrent.cell_size
    layers = [config.input_width, *[width] * (config.num_hidden_layers - 1)]
    token = sum(2 * 4 * cells * (read + width) + 2 * cells * width for read in layers)
    token += 2 * 4 * width * width + 2 * 2 * length * width  # query, output, two halves of the last matrix; scores
    row = 2 * 2 * length * width * width + 2 * width * width * len(layers)
    return rows * (target_length * token + row) + _projection_flops(config, rows, target_length)


def _fusion_flops(config: CoreConfig, rows: int, length: int) -> int:
    """The entity stream of all layers; what the last one would leave behind is not computed."""
    total, fusion = 0, config.fusion
    for number, kind in enumerate(fusion.layer_types if fusion is not None else ()):
        assert fusion is not None
        width = fusion.entity_size
        if kind == "full":
            total += 2 * rows * length * 4 * width * width + 2 * 2 * rows * length * length * width
        if kind != "plain":
            total += (1 + (number != fusion.last)) * 2 * rows * length * width * config.intermediate_size
    return total


def _ends_flops(config: CoreConfig, rows: int, length: int) -> int:
    """Before the first layer and after the last."""
    total = 0 if config.characters is None else rows * length * _character_flops(config.characters, config)
    total += _projection_flops(config, rows, length)
    if config.pooler:
        total += 2 * rows * config.hidden_size**2
    return total


def _projection_flops(config: CoreConfig, rows: int, length: int) -> int:
    """The map from the embedding's width to the first layer's input."""
    return 2 * rows * length * config.embedding_width * config.input_width if config.has_embedding_projection else 0


def _recurrent_flops(config: RecurrentConfig, width: int, directions: int) -> int:
    """One token through one layer: gates of input and recurrent input, projection."""
    return directions * (2 * 4 * config.cell_size * 2 * width + 2 * config.cell_size * width)


def _character_flops(own: CharacterConfig, config: CoreConfig) -> int:
    """One word of full length; a batch's repeated and shorter words cost less."""
    places = own.max_characters_per_token + 1
    total = sum(2 * (places - width) * width * own.embedding_dim * number for width, number in own.filters)
    return total + 2 * own.features * (2 * own.n_highway * own.features + config.embedding_width)


def token_head_flops(
    config: CoreConfig, targets: int, transform: bool, half: bool = False, outputs: int | None = None
) -> int:
    """Forward operations of a token head on ``targets`` positions; see :class:`zoo.heads.token_heads.TokenHead`."""
    assert config.vocab_size is not None
    inner = config.output_width // 2 if half else config.output_width
    width = inner if config.reversible and not config.tie_word_embeddings else config.embedding_width
    dense = 2 * targets * inner * width if transform or width != inner else 0
    return dense + 2 * targets * width * (config.vocab_size if outputs is None else outputs)


def training_flops(forward: int) -> int:
    """Forward and backward operations of a training step."""
    return 3 * forward


def layer_parameters(config: CoreConfig) -> int:
    """About how many weights the layers have, without building them; a weight is multiplied once for each token."""
    target = 0 if config.decoder is None else 1
    once = core_flops(config.replace(pooler=False, characters=None), 1, 1, target_length=target) // 2
    return once * config.groups // max(config.num_hidden_layers, 1)


def embedding_parameters(config: CoreConfig, vocab_size: int) -> dict[str, int]:
    """Weights of tables, by the setting that makes their rows."""
    positions = config.max_position_embeddings if config.position_type == "learned" else 0
    axial = sum(n * d for n, d in zip(config.axial_pos_shape or (), config.axial_pos_embds_dim or (), strict=True))
    rows = {"vocab_size": 0 if config.characters else vocab_size, "max_position_embeddings": positions}
    if config.decoder is not None:
        rows["max_position_embeddings"] *= 2
    rows |= {"type_vocab_size": config.type_vocab_size, "task_type_vocab_size": config.task_type_vocab_size}
    found = {name: count * config.embedding_width for name, count in rows.items()}
    found["max_position_embeddings"] += axial
    if (own := config.characters) is not None:
        convolved = sum(width * own.embedding_dim * number for width, number in own.filters)
        mixed = own.features * (2 * own.n_highway * own.features + config.embedding_width)
        found["characters"] = own.n_characters * own.embedding_dim + convolved + mixed
    return found


def training_bytes(
    config: CoreConfig, vocab_size: int, rows: int, length: int, recompute: bool = False
) -> dict[str, float]:
    """At least how many bytes training takes, by what makes them: a table's setting, ``layers`` and ``rows``.

    Weights, gradients and the optimiser's two moments (16 bytes a weight), and what the layers keep of the rows for the
    backward pass.

    Args:
        config: the core's config.
        vocab_size: of the tokenizer.
        rows: B, in one pass.
        length: L.
        recompute: layers are run anew for the backward pass.
    """
    found = {name: 16.0 * count for name, count in embedding_parameters(config, vocab_size).items()}
    kept = 2 * config.hidden_size if recompute else 6 * config.hidden_size + config.intermediate_size
    layers = config.num_hidden_layers + (0 if config.decoder is None else config.decoder_side.num_hidden_layers)
    rows_bytes = 2.0 * rows * length * kept * layers
    return {**found, "layers": 16.0 * layer_parameters(config), "rows": rows_bytes}

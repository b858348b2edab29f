"""What flows into and out of a core, and the one place where numpy arrays become a core's inputs.

Shape legend, used everywhere::

    B  rows of the batch      H  attention heads      V  entries of the vocabulary
    L  tokens of a row        D  width of a head      T  positions that have targets
    W  hidden width           M  remembered tokens    N  entities of the batch
    E  embedding width        K  keys, M + L
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class AttentionPattern(NamedTuple):
    """Which positions attend to which, as structure, so that attention can choose its fastest kernel.

    Nothing set = every position attends to every other. Fields combine: ``causal`` with ``lengths`` hides both later
    positions and padding.

    Args:
        causal: position i attends to positions <= i only, and always to itself.
        lengths: (B,) real tokens of each row; later positions are padding, which no position attends to.
        documents: (B, L) number of the packed document a position belongs to; documents do not attend to
            each other, nor to what is remembered of another one.
        permutation_ranks: (B, L) rank in a factorisation order, whole numbers from 0 on: a position of the first stream
            attends to ranks up to its own, one of the second stream to those before it. Equal ranks of the first
            stream attend to each other; what is remembered comes before every rank.
        dense: boolean that broadcasts to (B, L, L), True = query attends to key. The general and the slowest case.
    """

    causal: bool = False
    lengths: Tensor | None = None
    documents: Tensor | None = None
    permutation_ranks: Tensor | None = None
    dense: Tensor | None = None


class QueryStream(NamedTuple):
    """A second stream of states through the same weights, reading the first one's keys and values.

    A state of it stands at a position of the row and attends neither to the token there nor to what comes later in
    the order.

    Args:
        positions: (B, T) position of each state in the row.
        attention_pattern: of its states to the row's tokens: ``permutation_ranks`` and ``documents`` are (B, L),
            ``dense`` is (B, T, L).
        hidden_states: (B, T, W) start vectors; absent = the core's own (``query_stream``).
    """

    positions: Tensor
    attention_pattern: AttentionPattern = AttentionPattern()
    hidden_states: Tensor | None = None


class DecoderInputs(NamedTuple):
    """What the decoder of an encoder-decoder core reads; the fields of :class:`CoreInputs` are then the source.

    Args:
        input_ids: (B, T) tokens that the decoder reads: where it predicts the next one, the target shifted right.
        attention_pattern: which of them attend to which; ``lengths`` are the target's. All attend to the source.
        position_ids: (B, T) positions; absent = 0, 1, 2, ...
        output_positions: (B, R) positions whose last states are read, as in :class:`CoreInputs`.
    """

    input_ids: Tensor
    attention_pattern: AttentionPattern = AttentionPattern(causal=True)
    position_ids: Tensor | None = None
    output_positions: Tensor | None = None


class CoreInputs(NamedTuple):
    """Inputs of a core; absent fields are ``None``. Nested named tuples move to a device unchanged.

    Args:
        input_ids: (B, L) token numbers.
        attention_pattern: which tokens attend to which.
        token_type_ids: (B, L) segment of each token.
        task_type_ids: (B,) or (B, L) task of each row or token.
        position_ids: (B, L) positions; absent = 0, 1, 2, ...
        reversed: (B,) rows whose text runs backwards: their relative distances change sign; absent = none.
        dropout_keys: (B,) int32, one hashed key per global row and step; absent = no dropout.
        output_positions: (B, R) positions whose last states are read, -1 = none; the last layer may compute these
            alone, and other last states may be NaN. Absent = all are read.
        query: second stream (permutation language models).
        entity_ids: (B, L) row of ``entity_vectors`` that is aligned with a token, 0 = none (knowledge-fused cores).
        entity_vectors: (N, width) vectors of the batch's entities; row 0 stands for none and is all zeros.
        character_ids: (B, L, characters) for cores that read characters.
        decoder: the target side of an encoder-decoder core; absent = it only encodes.
    """

    input_ids: Tensor
    attention_pattern: AttentionPattern = AttentionPattern()
    token_type_ids: Tensor | None = None
    task_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    reversed: Tensor | None = None
    dropout_keys: Tensor | None = None
    output_positions: Tensor | None = None
    query: QueryStream | None = None
    entity_ids: Tensor | None = None
    entity_vectors: Tensor | None = None
    character_ids: Tensor | None = None
    decoder: DecoderInputs | None = None


class CoreOutput(NamedTuple):
    """What a core gives back.

    Args:
        last_hidden_state: (B, L, W), where a decoder ran (B, T, W) its own; NaN where a state was not computed, see
            :class:`CoreInputs`.
        pooler_output: (B, W), where the core has a pooler.
        hidden_states: every layer's states, first the embeddings, where they were asked for; rows of a second
            stream stand after the first one's. Of a decoder where one ran, like ``attentions``.
        attentions: (B, H, L, K) probabilities of every layer, where they were asked for; rows as above.
        query_states: (B, T, W) the second stream's last states, where there was one.
        state: for the next call. What is carried from segment to segment (memory, an LSTM's carry) is a dictionary of
            detached tensors by name, rows in the batch's order; a cache of keys and values is the cache itself.
        encoder_last_hidden_state: (B, L, W) the encoder's last states, where a decoder ran.
        encoder_hidden_states: every encoder layer's, as ``hidden_states``.
        encoder_attentions: every encoder layer's, as ``attentions``.
        cross_attentions: (B, H, T, L) probabilities of every decoder layer's cross-attention, like ``attentions``.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    query_states: Tensor | None = None
    state: Any = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


def pack_inputs(
    ids: NDArray[np.integer],
    lengths: NDArray[np.int64],
    *,
    causal: bool = False,
    documents: NDArray[np.int32] | None = None,
    permutation_ranks: NDArray[np.int32] | None = None,
    token_types: NDArray[np.integer] | None = None,
    task_types: NDArray[np.int64] | None = None,
    reversed: NDArray[np.bool_] | None = None,
    **more: Tensor | None,
) -> CoreInputs:
    """Padded arrays to a core's inputs. Lengths that hide nothing are left out, so that attention needs no mask.

    Args:
        ids: (B, L) tokens; anything stands beyond a row's length.
        lengths: (B,) real tokens of each row.
        causal: positions attend to the past only.
        documents: (B, L) document of each token; documents do not attend to each other.
        permutation_ranks: (B, L) rank of each token in a factorisation order.
        token_types: (B, L) segment of each token.
        task_types: (B,) task of each row.
        reversed: (B,) rows whose text runs backwards.
        more: fields of :class:`CoreInputs` that are tensors already.
    """

    def tensor(array: NDArray[Any] | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array)

    full = bool((lengths == ids.shape[1]).all())
    return CoreInputs(
        input_ids=torch.from_numpy(ids.astype(np.int64)),
        attention_pattern=AttentionPattern(
            causal, None if full else tensor(lengths), tensor(documents), tensor(permutation_ranks)
        ),
        token_type_ids=None if token_types is None else torch.from_numpy(token_types.astype(np.int64)),
        task_type_ids=tensor(task_types),
        reversed=tensor(reversed),
        **more,  # type: ignore[arg-type]
    )

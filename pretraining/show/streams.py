"""What the states of a row attend to, from the functions that the core makes its masks with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pretraining.show.views import Bools, Ints, Stream
from zoo.attention.masks import attended_keys, make_mask
from zoo.config import CoreConfig
from zoo.inputs import AttentionPattern, CoreInputs


def read_streams(config: CoreConfig, inputs: CoreInputs, length: int) -> Iterator[Stream]:
    """Every stream of states of a collated row, its first ``length`` positions.

    What attends to what comes from the functions that the core itself makes its masks with.

    Args:
        config: which core it is.
        inputs: one row.
        length: its real tokens.
    """
    if config.num_hidden_layers == 0:  # each token is looked up by itself
        return
    width, pattern, query = inputs.input_ids.shape[1], inputs.attention_pattern, inputs.query
    everyone = list(range(length))
    found: list[tuple[str, list[int], Bools]]
    if config.recurrent is not None:  # no masks: a direction reads the row from its end
        forward = _masked_pairs(AttentionPattern(causal=True), width)[0]
        found = [("forward", everyone, forward), ("backward", everyone, forward.T)][: 1 if pattern.causal else 2]
    elif config.position_type == "relative":
        places, window = torch.arange(width)[None], config.mem_len if config.same_length else None
        found = [
            (
                "attention",
                everyone,
                _pairs(attended_keys(pattern, places, width, 0, False, window), width, width),
            )
        ]
        if query is not None:
            targets: list[int] = query.positions[0].tolist()
            attends = _pairs(
                attended_keys(query.attention_pattern, query.positions, width, 0, True, window), len(targets), width
            )
            found = [("content", *found[0][1:]), ("query", targets, attends)]
    else:
        found = [("attention", everyone, _masked_pairs(pattern, width)[0])]
    ranks = None if pattern.permutation_ranks is None else pattern.permutation_ranks[0, :length].numpy()
    verb = "attends to" if config.recurrent is None else "reads"
    for name, positions, matrix in found:
        cut = matrix[: len(positions), :length]
        yield Stream(name, tuple(positions), cut, _in_words(cut, positions, ranks, verb), bool(cut.all()))


def _masked_pairs(pattern: AttentionPattern, length: int) -> Bools:
    """(B or 1, L, L) whether a token attends to another, from the very mask that kernels are given."""
    mask = make_mask(pattern, length, torch.device("cpu"))
    attends = torch.ones(1, 1, length, length, dtype=torch.bool)
    if mask.allowed is not None:
        attends = attends & mask.allowed
    if mask.causal:
        attends = attends.tril()
    pairs: Bools = attends[:, 0].numpy()
    return pairs


def _pairs(attends: Tensor | None, rows: int, columns: int) -> Bools:
    """(Q, K) of the first row of an attention pattern, where ``None`` stands for all."""
    whole = torch.ones(1, rows, columns, dtype=torch.bool)
    pairs: Bools = (whole if attends is None else whole & attends)[0].numpy()
    return pairs


def _in_words(attends: Bools, positions: Sequence[int], ranks: Ints | None, verb: str) -> str:
    """A (Q, K) matrix in words; what it is, the matrix itself says."""
    if attends.all():
        return f"every token {verb} every token"
    attending, attended = np.array(positions, dtype=np.int64)[:, None], np.arange(attends.shape[1])[None, :]
    known = {f"every token {verb} itself and what stands before it": attended <= attending}
    known[f"every token {verb} itself and what stands after it"] = attended >= attending
    if ranks is not None:
        known[f"every token {verb} itself and what comes before it in the order"] = ranks[attended] <= ranks[attending]
        known[f"every state {verb} what comes before it in the order, not its own token"] = (
            ranks[attended] < ranks[attending]
        )
    for sentence, matrix in known.items():
        if np.array_equal(attends, matrix):
            return sentence
    to_itself = attends.shape[0] == attends.shape[1] and bool(attends.diagonal().all())
    if to_itself and all(np.array_equal(attends[i], attends[j]) for i, j in np.argwhere(attends)):
        return f"{len(np.unique(attends, axis=0))} groups of tokens that do not attend to each other"
    return f"{100 * attends.mean():.0f} % of the pairs attend to each other"

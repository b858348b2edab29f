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
    width, attention_pattern, query = inputs.input_ids.shape[1], inputs.attention_pattern, inputs.query
    everyone = list(range(length))
    found: list[tuple[str, list[int], Bools]]
    if config.recurrent is not None:  # no masks: a direction reads the row from its end
        forward = _masked_pairs(AttentionPattern(causal=True), width)[0]
        found = [("forward", everyone, forward), ("backward", everyone, forward.T)][
            : 1 if attention_pattern.causal else 2
        ]
    elif config.position_type == "relative":
        places, window = torch.arange(width)[None], config.mem_len if config.same_length else None
        found = [
            (
                "attention",
                everyone,
                _pairs(attended_keys(attention_pattern, places, width, 0, False, window), width, width),
            )
        ]
        if query is not None:
            who: list[int] = query.positions[0].tolist()
            seen = _pairs(
                attended_keys(query.attention_pattern, query.positions, width, 0, True, window), len(who), width
            )
            found = [("content", *found[0][1:]), ("query", who, seen)]
    else:
        found = [("attention", everyone, _masked_pairs(attention_pattern, width)[0])]
    order = (
        None if attention_pattern.permutation_ranks is None else attention_pattern.permutation_ranks[0, :length].numpy()
    )
    verb = "attends to" if config.recurrent is None else "reads"
    for name, lookers, matrix in found:
        cut = matrix[: len(lookers), :length]
        yield Stream(name, tuple(lookers), cut, _in_words(cut, lookers, order, verb), bool(cut.all()))


def _masked_pairs(attention_pattern: AttentionPattern, length: int) -> Bools:
    """(B or 1, L, L) whether a token attends to another, from the very mask that kernels are given."""
    mask = make_mask(attention_pattern, length, torch.device("cpu"))
    seen = torch.ones(1, 1, length, length, dtype=torch.bool)
    if mask.allowed is not None:
        seen = seen & mask.allowed
    if mask.causal:
        seen = seen.tril()
    pairs: Bools = seen[:, 0].numpy()
    return pairs


def _pairs(seen: Tensor | None, rows: int, columns: int) -> Bools:
    """(Q, K) of the first row of an attention pattern, where ``None`` stands for all."""
    whole = torch.ones(1, rows, columns, dtype=torch.bool)
    pairs: Bools = (whole if seen is None else whole & seen)[0].numpy()
    return pairs


def _in_words(seen: Bools, who: Sequence[int], order: Ints | None, verb: str) -> str:
    """A (Q, K) matrix in words; what it is, the matrix itself says."""
    if seen.all():
        return f"every token {verb} every token"
    looks, looked_at = np.array(who, dtype=np.int64)[:, None], np.arange(seen.shape[1])[None, :]
    known = {f"every token {verb} itself and what stands before it": looked_at <= looks}
    known[f"every token {verb} itself and what stands after it"] = looked_at >= looks
    if order is not None:
        known[f"every token {verb} itself and what comes before it in the order"] = order[looked_at] <= order[looks]
        known[f"every state {verb} what comes before it in the order, not its own token"] = (
            order[looked_at] < order[looks]
        )
    for sentence, matrix in known.items():
        if np.array_equal(seen, matrix):
            return sentence
    square = seen.shape[0] == seen.shape[1]
    if square and seen.diagonal().all() and all(np.array_equal(seen[i], seen[j]) for i, j in np.argwhere(seen)):
        return f"{len(np.unique(seen, axis=0))} groups of tokens that do not attend to each other"
    return f"{100 * seen.mean():.0f} % of the pairs attend to each other"

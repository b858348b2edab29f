"""Log-probabilities of single tokens: how objectives that predict tokens score a text, and fill in what is hidden."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.arrays import WORD_START, Ints, ragged_ranges
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, base_inputs, output_positions
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead

_LOGIT_BYTES = 128 * 2**20
_TOKENS_AT_ONCE = 16_384  # input tokens of the copies that are run at once


def token_log_probabilities(head: TokenHead, states: Tensor, embedding: Tensor, labels: Tensor) -> Tensor:
    """(T,) log-probability of each label; see :func:`token_answers`."""
    return token_answers(head, states, embedding, labels)[0]


@torch.no_grad()
def token_answers(head: TokenHead, states: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label, and whether it is the answer, computed in fp32 whatever the core's precision.

    Args:
        head: the objective's head.
        states: (T, W) states that predict.
        embedding: (V, E) the core's token embedding.
        labels: (T,) ids.

    Returns:
        (T,) log-probabilities in nats; and (T,) 1 where the label is the most probable entry, 0 where it is not, and a
        share of 1 where several entries are equally probable and it is one of them.
    """
    found, shares = [], []
    with torch.autocast(states.device.type, enabled=False):
        matrix = head.matrix(embedding).float()
        chunk = max(1, _LOGIT_BYTES // (4 * len(matrix)))
        dtype = next((p.dtype for p in head.parameters() if p.ndim > 1), torch.float32)
        for part, expected in zip(states.split(chunk), labels.split(chunk), strict=True):
            logits = head.features(part.to(dtype)).float() @ matrix.t()
            if head.bias is not None:
                logits += head.bias.float()
            logits = head.facts.capped(logits)
            own = logits.gather(1, expected[:, None]).squeeze(1)
            found.append(own - torch.logsumexp(logits, dim=-1))
            shares.append(_shares(logits, own))
    if not found:
        return states.new_zeros(0, dtype=torch.float32), states.new_zeros(0, dtype=torch.float32)
    return torch.cat(found), torch.cat(shares)


def _shares(logits: Tensor, own: Tensor) -> Tensor:
    """(T,) share of a row's greatest (T, V) logits that its ``own`` (T,) has. Few rows need a look at all of them."""
    greatest = logits.amax(dim=-1)
    shares = torch.zeros_like(own)
    right = torch.nonzero(own == greatest).squeeze(1)
    shares[right] = 1.0 / (logits[right] == greatest[right, None]).sum(dim=-1)
    return shares


class MaskedModel(NamedTuple):
    """What answers for hidden tokens.

    Args:
        run_core: runs the core.
        head: scores its states.
        embedding: (V, E) the core's token embedding.
        mask: id that hides a token; ``None`` = the tokenizer has none.
    """

    run_core: CoreRunner
    head: TokenHead
    embedding: Tensor
    mask: int | None


class _Questions(NamedTuple):
    """Hidden tokens that are asked for. (C,) each.

    Args:
        row: number of the row.
        column: of the token.
        begin: first column that is hidden in this row's copy.
        end: column after the last one.
    """

    row: Ints
    column: Ints
    begin: Ints
    end: Ints


@torch.no_grad()
def score_words(model: MaskedModel, rows: Examples, tokens_at_once: int = _TOKENS_AT_ONCE) -> NDArray[np.float64]:
    """(B,) pseudo-log-likelihood in nats, in the form "PLL-word-l2r".

    A token is predicted with itself and the later pieces of its word hidden (Kauf & Ivanova 2023, "A Better Way to Do
    Masked Language Model Scoring"). Template tokens are neither scored nor hidden.

    Args:
        model: what answers.
        rows: B rows, not corrupted.
        tokens_at_once: input tokens of the copies that are run at once.

    Raises:
        ZooError: the tokenizer has no mask token.
    """
    row, column = np.nonzero(~rows.special_tokens_mask)
    starts = ((rows.token_flags & WORD_START) != 0) | rows.special_tokens_mask
    # The next word start after each position, or the row's end.
    following = np.full((len(starts), rows.shape[1] + 1), rows.shape[1])
    following[:, :-1][starts] = np.nonzero(starts)[1]
    following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    asked = _Questions(row, column, column, following[row, column + 1])
    chance, _ = _ask(model, rows, asked, tokens_at_once)
    total = np.zeros(len(rows.lengths), dtype=np.float64)
    np.add.at(total, row, chance)
    return total


@torch.no_grad()
def fill_masked(
    model: MaskedModel, rows: Examples, start: Ints, size: Ints, together: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hide a stretch of each row and fill it in.

    Args:
        model: what answers.
        rows: B rows, not corrupted.
        start: (B,) first column of what is hidden.
        size: (B,) tokens hidden, at least one.
        together: all tokens at once, none of them knowing the others; else from left to right, each knowing the true
            ones before it.

    Returns:
        (B,) log-probability of the true tokens in nats, summed, which from left to right is the chain rule; and (B,)
        1 where each of them was the most probable one, so that filling in the model's own answers would have given
        them too, else 0. Entries that are equally probable share: of n, each would be filled in once in n times.

    Raises:
        ZooError: the tokenizer has no mask token.
    """
    row = np.repeat(np.arange(len(start)), size)
    column = ragged_ranges(start, size)
    begin = start[row] if together else column
    chance, right = _ask(model, rows, _Questions(row, column, begin, (start + size)[row]), _TOKENS_AT_ONCE)
    total, all_right = np.zeros(len(start)), np.ones(len(start))
    np.add.at(total, row, chance)
    np.multiply.at(all_right, row, right)
    return total, all_right


def _ask(
    model: MaskedModel, rows: Examples, asked: _Questions, tokens_at_once: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) log-probability of each token that is asked for; its share in being the most probable one."""
    order = np.argsort(rows.lengths[asked.row], kind="stable")  # copies of like length together: little padding
    chance, right = np.zeros(len(order)), np.zeros(len(order))
    start = 0
    while start < len(order):
        length = int(rows.lengths[asked.row[order[start]]])
        part = order[start : start + max(1, tokens_at_once // length)]
        chance[part], right[part] = _ask_copies(model, rows, _Questions(*(field[part] for field in asked)))
        start += len(part)
    return chance, right


def _ask_copies(
    model: MaskedModel, rows: Examples, asked: _Questions
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One copy of the row for each stretch that is hidden in it."""
    if model.mask is None:
        raise ZooError("MaskedLM cannot score a sentence with a tokenizer that has no mask token.")
    stretches, copy_of = np.unique(np.stack([asked.row, asked.begin, asked.end]), axis=1, return_inverse=True)
    copy_of = copy_of.reshape(-1)  # numpy 2.0 gives it another shape
    row, begin, end = stretches
    width = int(rows.lengths[row].max())
    columns = np.arange(width)[None, :]
    hidden = (columns >= begin[:, None]) & (columns < end[:, None])
    types = rows.token_type_ids
    copies = Examples(
        input_ids=np.where(hidden, np.int32(model.mask), rows.input_ids[row, :width]),
        lengths=rows.lengths[row],
        special_tokens_mask=rows.special_tokens_mask[row, :width],
        token_flags=rows.token_flags[row, :width],
        example_ids=rows.example_ids[row],
        document_ids=rows.document_ids[row],
        token_type_ids=None if types is None else types[row, :width],
    )
    read = output_positions([copy_of * width + asked.column], *copies.shape)
    states = model.run_core(base_inputs(copies)._replace(output_positions=read)).last_hidden_state
    picked = states[torch.from_numpy(copy_of), torch.from_numpy(asked.column)]
    labels = torch.from_numpy(rows.input_ids[asked.row, asked.column].astype(np.int64)).to(picked.device)
    chance, right = token_answers(model.head, picked, model.embedding, labels)
    return chance.cpu().double().numpy(), right.cpu().double().numpy()


def masking_shares(rows: Examples, mask: int | None) -> dict[str, float]:
    """Share of the tokens that were selected, and shares of these that were masked, and replaced by other tokens.

    Args:
        rows: with ``selected`` and ``original_ids`` among their targets.
        mask: id of the mask token.
    """
    selected = rows.targets["selected"]
    count = int(selected.sum())
    changed = (rows.input_ids != rows.targets["original_ids"]) & selected
    masked = (rows.input_ids == mask) & selected
    return {
        "selected": count / max(int(rows.lengths.sum()), 1),
        "masked": int(masked.sum()) / max(count, 1),
        "replaced": int((changed & ~masked).sum()) / max(count, 1),
    }

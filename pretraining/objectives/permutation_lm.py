"""Permutation language modelling: tokens are predicted one after the other in a random order (XLNet, section 3).

The text itself is not changed. A first stream of states reads it under permutation ranks; a second stream starts
at the predicted positions without their tokens and attends only to what comes before them in that order (Yang et al.
2019, 2.3).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from pretraining.masking.context_spans import ContextSpans, draw_permutation_ranks
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets, base_inputs
from pretraining.objectives.token_scoring import token_log_probabilities
from zoo.config import CoreConfig
from zoo.core.flops import token_head_flops
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs, QueryStream
from zoo.values import Count, NotNegative
from zoo.vocabulary import Vocabulary


class PermutationLM(Objective):
    """Predict selected tokens, each from the unselected ones and the selected ones before it in a random order.

    ``corrupt`` leaves ``rows.targets["selected"]`` and ``rows.targets["ranks"]``, both (B, L). Selected template tokens
    take part in the order and are not predicted.

    Args:
        select: which positions; default :class:`pretraining.masking.ContextSpans`, a sixth of the tokens.
        perm_size: positions of a block of the order
            (:func:`pretraining.masking.context_spans.draw_permutation_ranks`). It has to divide a full row's parts,
            unless one block holds them whole. Shorter rows end with a shorter one.
        score_orders: random orders that :meth:`score` averages over, beside left to right.
        weight: factor of the loss.
    """

    attention = "bidirectional"
    predicts_tokens = True
    select: Selector
    head: TokenHead

    def __init__(
        self,
        select: Selector | None = None,
        perm_size: Count | None = None,
        score_orders: Count = 4,
        weight: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        if perm_size is not None and perm_size < 1:
            raise ZooError(f"PermutationLM: perm_size is {perm_size}; at least 1, or null for whole parts.")
        if score_orders < 0:
            raise ZooError(f"PermutationLM: score_orders is {score_orders}; a number of orders is needed.")
        self.select = select or ContextSpans()
        self.required_fields = self.select.required_fields
        self.perm_size, self.score_orders, self.weight = perm_size, score_orders, weight

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: the tied output matrix with a bias."""
        if not config.query_stream:
            raise ZooError(
                "PermutationLM predicts from a second stream of states, which this core has no start vector for: set "
                "model.query_stream: true (and model.position_type: relative)."
            )
        self.vocabulary, self.config = vocabulary, config
        self.head = TokenHead(config, transform=False, bias=True)

    def check_layout(self, layout: Layout, length: int) -> None:
        """Raise ZooError if blocks do not divide what the next row goes on from, and the rest (as in the original)."""
        reused = layout.memory_span(length)
        parts = [length] if reused is None else [reused, length - reused]
        size = self.perm_size
        if size is not None and any(part > size and part % size for part in parts):
            found = " and ".join(str(part) for part in parts)
            raise ZooError(
                f"PermutationLM: blocks of perm_size = {size} positions do not divide a row's {found} tokens; a common "
                f"divisor ({math.gcd(*parts)} at most) would, or null for one order of each part."
            )

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Choose positions and draw the order; the tokens stay."""
        if "selected" in rows.targets:
            raise ZooError("two objectives of one task choose tokens of the same rows; give each a task of its own.")
        selected = self.select(rows, draw, self.vocabulary)
        return rows.with_targets(selected=selected, ranks=draw_permutation_ranks(rows, selected, draw, self.perm_size))

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """The order for both streams, and where the second one starts."""
        pattern = inputs.attention_pattern._replace(permutation_ranks=torch.from_numpy(rows.targets["ranks"]))
        row, column, slot = _targets(rows)
        positions = np.zeros((len(rows.lengths), int(slot.max(initial=0)) + 1), dtype=np.int64)
        positions[row, slot] = column  # where rows have fewer targets, nobody reads the rest
        return inputs._replace(attention_pattern=pattern, query=QueryStream(torch.from_numpy(positions), pattern))

    def targets(self, rows: Examples) -> Targets:
        """Every selected token that is no template token, at its place among the row's second states."""
        row, column, slot = _targets(rows)
        at = Targets.at(row * (int(slot.max(initial=0)) + 1) + slot, rows.input_ids[row, column])
        return at._replace(read=row[:0])  # of the first stream

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the selected tokens."""
        states = run_core().query_states
        assert states is not None  # inputs() asked for a second stream
        loss = self.head.loss(states, embedding, **batch.tensors)
        return LossTerm.by_row(loss, batch, states, self.weight)

    def head_flops(self, targets: int) -> int:
        """The head's forward operations."""
        return token_head_flops(self.config, targets, transform=False)

    @torch.no_grad()
    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) log-probability in nats, the mean over left to right and ``score_orders`` random orders.

        Each order gives the text's probability by the chain rule. All tokens attend to template tokens,
        which are not scored. The random orders are the same for all rows, so that texts of one length can be compared.
        """
        length = rows.shape[1]
        orders = Draw(0, 0).bits(np.arange(self.score_orders), length, "score.order").astype(np.int64)
        orders = np.concatenate([np.arange(length)[None, :], orders])
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        for order in orders:
            keys = np.where(rows.special_tokens_mask, -1, order[None, :])
            ranks = np.argsort(np.argsort(keys, axis=1, kind="stable"), axis=1)
            ranks = np.where(
                rows.special_tokens_mask, 0, 1 + ranks - rows.special_tokens_mask.sum(axis=1, keepdims=True)
            )
            asked = rows.with_targets(selected=~rows.special_tokens_mask, ranks=ranks.astype(np.int32))
            row, column, slot = _targets(asked)
            states = run_core(self.inputs(asked, base_inputs(asked))).query_states
            assert states is not None
            picked = states[torch.from_numpy(row), torch.from_numpy(slot)]
            labels = torch.from_numpy(rows.input_ids[row, column].astype(np.int64)).to(picked.device)
            chances = token_log_probabilities(self.head, picked, embedding, labels)
            np.add.at(total, row, chances.cpu().double().numpy())
        return total / len(orders)

    def describe(self, rows: Examples) -> dict[str, Any]:
        """Shares of the tokens."""
        real, selected = max(int(rows.lengths.sum()), 1), rows.targets["selected"]
        return {
            "selected": int(selected.sum()) / real,
            "predicted": len(_targets(rows)[0]) / real,
        }


def _targets(rows: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and number within the row of each predicted token, ascending."""
    predicted = rows.targets["selected"] & ~rows.special_tokens_mask
    row, column = np.nonzero(predicted)
    return row, column, np.cumsum(predicted, axis=1)[row, column] - 1

"""Causal language modelling: every token from those before it (GPT, section 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets, base_inputs
from pretraining.objectives.token_scoring import token_log_probabilities
from zoo.config import CoreConfig
from zoo.core.flops import token_head_flops
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs
from zoo.values import NotNegative
from zoo.vocabulary import Vocabulary


class CausalLM(Objective):
    """Predict the next token at every real position; at a row's last one where the layout knows what follows.

    Args:
        weight: factor of the loss.
        bias: a bias per vocabulary entry.
    """

    attention = "causal"
    predicts_tokens = True
    head: TokenHead

    def __init__(self, weight: NotNegative = 1.0, bias: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: the tied output matrix, without transform; a recurrent core's forward half is read."""
        self.config, self.one_half = config, config.recurrent is not None
        self.head = TokenHead(config, transform=False, bias=self.bias, half=self.one_half)

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """No position attends to later ones."""
        return inputs._replace(attention_pattern=inputs.attention_pattern._replace(causal=True))

    def targets(self, rows: Examples) -> Targets:
        """Position i is answered by token i + 1 of the same row, the last one by what follows the row."""
        asks = np.zeros(rows.shape, dtype=bool)
        asks[:, :-1] = rows.real[:, 1:]
        answers = np.zeros_like(rows.input_ids)
        answers[:, :-1] = rows.input_ids[:, 1:]
        if rows.next_token is not None:
            known = np.flatnonzero(rows.next_token >= 0)
            asks[known, rows.lengths[known] - 1] = True
            answers[known, rows.lengths[known] - 1] = rows.next_token[known]
        positions = np.flatnonzero(asks)
        return Targets.at(positions, answers.reshape(-1)[positions])

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the next tokens."""
        hidden = run_core().last_hidden_state
        loss = self.head.loss(hidden, embedding, **batch.tensors)
        return LossTerm.by_row(loss, batch, hidden, self.weight)

    def head_flops(self, targets: int) -> int:
        """The head's forward operations."""
        return token_head_flops(self.config, targets, transform=False, half=self.one_half)

    @torch.no_grad()
    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) log-probability in nats by the chain rule.

        Template tokens are not scored. A text's first token has a probability only where a template token
        stands before it; in bare rows the sum starts at the second token.
        """
        asked = np.zeros(rows.shape, dtype=bool)
        asked[:, :-1] = ~rows.special_tokens_mask[:, 1:]
        row, column = np.nonzero(asked)
        states = run_core(self.inputs(rows, base_inputs(rows))).last_hidden_state
        picked = states[torch.from_numpy(row), torch.from_numpy(column)]
        labels = torch.from_numpy(rows.input_ids[row, column + 1].astype(np.int64)).to(picked.device)
        chances = token_log_probabilities(self.head, picked, embedding, labels)
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        np.add.at(total, row, chances.cpu().double().numpy())
        return total

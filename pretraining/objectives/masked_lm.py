"""Masked language modelling: some tokens are hidden, and predicted from both sides (BERT; Devlin et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Prediction, Replacement, Selected, Selector
from pretraining.masking.tokens import Replace
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from pretraining.objectives.token_scoring import MaskedModel, masking_shares, score_words
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.core.flops import token_head_flops
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.values import NotNegative
from zoo.vocabulary import Vocabulary


class MaskedLM(Objective):
    """Predict hidden tokens from everything that is left. RoBERTa, ALBERT and whole-word masks have other parts.

    Args:
        select: which positions.
        replacement: what stands there instead; default :class:`pretraining.masking.Replace`, that is 80/10/10.
        predict: what is predicted; default the original tokens at the chosen positions.
        weight: factor of the loss.
        transform: dense, activation and LayerNorm before the output matrix; XLM has none.
    """

    attention, predicts_tokens = "bidirectional", True
    select: Selector

    def __init__(
        self,
        select: Selector,
        replacement: Replacement | None = None,
        predict: Prediction | None = None,
        weight: NotNegative = 1,
        transform: bool = True,
    ) -> None:
        super().__init__()
        self.select, self.required_fields, self.weight = select, select.required_fields, weight
        self.replacement, self.predict, self.transform = replacement or Replace(), predict or Selected(), transform
        self.shown = self.replacement.shown if isinstance(self.predict, Selected) else None

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: dense, activation, LayerNorm (``transform``), tied output matrix with a bias."""
        if vocabulary.mask is None and self.replacement.needs_mask:
            raise ZooError("MaskedLM: no mask token. Add one (data.tokenizer.new_tokens: ['[MASK]']), or use CausalLM.")
        self.vocabulary, self.config, self.head = vocabulary, config, TokenHead(config, self.transform, bias=True)

    def data_files(self) -> list[Path]:
        """What ``replacement`` reads."""
        return self.replacement.data_files()

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Let ``replacement`` learn the tokenizer's words."""
        self.replacement.bind_tokenizer(tokenizer)

    def check_store(self, store: Store) -> None:
        """Raise ZooError if ``select`` or ``replacement`` cannot be used on a text."""
        super().check_store(store)
        self.replacement.check(store)

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Choose positions and put something else there; notes ``selected`` and ``original_ids``, both (B, L)."""
        if "selected" in rows.targets:
            raise ZooError("two objectives of one task hide tokens of the same rows; give each a task of its own.")
        selected = self.select(rows, draw, self.vocabulary)
        ids = self.replacement(rows, selected, draw, self.vocabulary)
        return rows.replace(input_ids=ids).with_targets(selected=selected, original_ids=rows.input_ids)

    def targets(self, rows: Examples) -> Targets:
        """The original ids where ``predict`` wants them."""
        positions = np.flatnonzero(self.predict(rows, rows.targets["selected"]))
        return Targets.at(positions, rows.targets["original_ids"].reshape(-1)[positions])

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the hidden tokens."""
        states = run_core().last_hidden_state
        return LossTerm.by_row(self.head.loss(states, embedding, **batch.tensors), batch, states, self.weight)

    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) pseudo-log-likelihood in nats; see :func:`~pretraining.objectives.token_scoring.score_words`."""
        return score_words(MaskedModel(run_core, self.head, embedding, self.vocabulary.mask), rows)

    def head_flops(self, targets: int) -> int:
        """The head's forward operations."""
        return token_head_flops(self.config, targets, transform=self.transform)

    def describe(self, rows: Examples) -> dict[str, float]:
        """Shares of what happened to the tokens."""
        return masking_shares(rows, self.vocabulary.mask)

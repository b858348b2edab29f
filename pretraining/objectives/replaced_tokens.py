"""What a core learns of text in which another objective has put other tokens: which these are, or what stood there.

Replaced-token detection is ELECTRA's loss (Clark et al. 2020, section 3.1). Its controls read the same text and predict
the original tokens: at the chosen positions (Replace MLM), or at all of them (All-Tokens MLM; section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretraining.layouts.examples import Examples
from pretraining.masking.base import Prediction, Selected
from pretraining.masking.predictions import All
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from pretraining.objectives.hooks import Hooks
from zoo.config import CoreConfig
from zoo.core.flops import token_head_flops
from zoo.errors import ZooError
from zoo.heads.cross_entropy import TokenLoss
from zoo.heads.token_heads import LabelHead, TokenHead
from zoo.values import NotNegative
from zoo.vocabulary import Vocabulary

_LOGIT_BYTES = 64 * 2**20


class _OfChangedText(Objective):
    """Shared part: it changes nothing itself, and asks at positions that ``predict`` names."""

    attention = "bidirectional"
    predict: Prediction

    def check_task(self, before: Mapping[str, Hooks]) -> None:
        """Raise ZooError if nothing before it in the task changes tokens."""
        if not any(objective.select is not None for objective in before.values()):
            raise ZooError(
                f"{type(self).__name__} asks about tokens that an objective before it has replaced, and none does. "
                "List one first, such as pretraining.objectives.GeneratorLM: objectives: [generator, replaced_tokens]."
            )

    def targets(self, rows: Examples) -> Targets:
        """The original ids where ``predict`` wants them."""
        if "selected" not in rows.targets:
            raise ZooError(f"{type(self).__name__}: no objective before it in the task has replaced tokens.")
        positions = np.flatnonzero(self.predict(rows, rows.targets["selected"]))
        return Targets.at(positions, rows.targets["original_ids"].reshape(-1)[positions])


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """(B, L, W) -> (T, W)."""
    return states.reshape(-1, states.shape[-1]).index_select(0, positions)


class ReplacedTokens(_OfChangedText):
    """Tell which tokens were replaced: sigmoid cross-entropy at every real position, template tokens included.

    A sample that is the original token counts as original.

    Args:
        weight: factor of the loss (the paper's lambda).
        predict: at which positions; default all real ones. :class:`pretraining.masking.Selected` = the chosen ones
            alone (the paper's ELECTRA 15 %).
    """

    unasked = frozenset({"positions", "originals"})
    head: LabelHead

    def __init__(self, weight: NotNegative = 50, predict: Prediction | None = None) -> None:
        super().__init__()
        self.weight, self.predict = weight, predict or All()

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: dense, activation, one logit."""
        self.config, self.head = config, LabelHead(config, 1, kind="replaced", dense=config.hidden_act)

    def targets(self, rows: Examples) -> Targets:
        """The original ids where ``predict`` wants to know; whether they are read there is known after the draw."""
        found = super().targets(rows)
        tensors = {"positions": found.tensors["positions"], "originals": found.tensors["labels"]}
        return found._replace(tensors=tensors)

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed binary cross-entropy; the label is whether the core reads another token than the original one."""
        states, positions = run_core().last_hidden_state, batch.tensors["positions"]
        read = run_core.inputs.input_ids.reshape(-1).index_select(0, positions)
        replaced = read != batch.tensors["originals"]
        logits = self.head(_at(states, positions)).squeeze(-1).float()
        losses = functional.binary_cross_entropy_with_logits(logits, replaced.float(), reduction="none")
        right = ((logits.detach() > 0) == replaced).sum()
        return LossTerm.by_row(TokenLoss(losses.sum(), losses.detach(), right), batch, states, self.weight)

    def describe(self, rows: Examples) -> dict[str, Any]:
        """How many tokens it asks about."""
        return {"asks": f"of {self.targets(rows).count} tokens whether they were replaced"}

    def head_flops(self, targets: int) -> int:
        """A dense layer and one logit."""
        return 2 * targets * self.config.hidden_size * (self.config.hidden_size + 1)


class OriginalTokens(_OfChangedText):
    """Predict the original tokens of changed text: ELECTRA's controls Replace MLM and All-Tokens MLM.

    Args:
        predict: at which positions; default the chosen ones (Replace MLM). :class:`pretraining.masking.All` = every
            real one (All-Tokens MLM).
        copy: a share of the prediction that each position gives to the token that it reads, by a sigmoid of its state
            (the paper's copy mechanism); logits are computed twice instead of kept.
        weight: factor of the loss.
    """

    predicts_tokens = True
    head: TokenHead

    def __init__(self, predict: Prediction | None = None, copy: bool = False, weight: NotNegative = 1) -> None:
        super().__init__()
        self.predict, self.copy, self.weight = predict or Selected(), copy, weight
        self.shown = None  # how often the token itself is read depends on what replaces it

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head of a masked language model, and with ``copy`` one logit more."""
        self.config, self.head = config, TokenHead(config, transform=True, bias=True)
        self.copy_logit = nn.Linear(config.hidden_size, 1) if self.copy else None

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy."""
        states, positions, labels = run_core().last_hidden_state, batch.tensors["positions"], batch.tensors["labels"]
        if self.copy_logit is None:
            return LossTerm.by_row(self.head.loss(states, embedding, positions, labels), batch, states, self.weight)
        read = run_core.inputs.input_ids.reshape(-1).index_select(0, positions)
        losses = self._with_copies(_at(states, positions), embedding, labels, read == labels)
        return LossTerm.by_row(TokenLoss(losses.sum(), losses.detach(), None), batch, states, self.weight)

    def _with_copies(self, states: Tensor, embedding: Tensor, labels: Tensor, same: Tensor) -> Tensor:
        """(T,) -log(D [read = label] + (1 - D) p(label)), some positions at a time."""
        chunk = max(1, _LOGIT_BYTES // (4 * len(self.head.matrix(embedding))))
        parts = zip(states.split(chunk), labels.split(chunk), same.split(chunk), strict=True)
        found = [checkpoint(self._losses, part, embedding, *rest, use_reentrant=False) for part, *rest in parts]
        return torch.cat([states.new_zeros(0, dtype=torch.float32), *found])

    def _losses(self, states: Tensor, embedding: Tensor, labels: Tensor, same: Tensor) -> Tensor:
        assert self.copy_logit is not None
        logits = self.head(states, embedding).float()
        own = -functional.cross_entropy(logits, labels, reduction="none")
        copied = self.copy_logit(states).squeeze(-1).float()
        drawn = functional.logsigmoid(-copied) + own
        both = torch.logaddexp(functional.logsigmoid(copied), drawn)
        return -torch.where(same, both, drawn)

    def head_flops(self, targets: int) -> int:
        """The head's; with ``copy`` its forward pass is computed once more (a third of a training step)."""
        once = token_head_flops(self.config, targets, transform=True)
        return once + once // 3 if self.copy else once

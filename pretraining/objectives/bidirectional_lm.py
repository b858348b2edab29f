"""Bidirectional language modelling: every token from those before it, and from those after it (ELMo, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets, base_inputs
from pretraining.objectives.sampled_softmax import draw_negatives, sampled_cross_entropy
from pretraining.objectives.token_scoring import token_log_probabilities
from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.core.flops import core_flops, token_head_flops
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs, CoreOutput
from zoo.values import Count, NotNegative
from zoo.vocabulary import Vocabulary

_BACKWARD_KEYS = 0x2545F491  # dropout of a second pass must not repeat the first one's


class BidirectionalLM(Objective):
    """Predict the next token from the left, and the one before from the right, with one softmax.

    A row of n tokens makes n - 1 losses in each direction, so the mean over all is half the sum of the two directions'
    means, as in the original. On a recurrent core the two halves of the states answer; on another core the row is run
    a second time, reversed and causal. A row that goes on in the next batch also asks for the token that
    follows it.

    Args:
        weight: factor of the loss.
        outputs: predict only the first ``outputs`` tokens of the vocabulary, all others as the unknown one: words that
            can be read need not be words that can be predicted. ``null`` = all.
        sampled: while training, the softmax runs over the right answer and so many tokens, drawn once a step by
            Zipf's law; ids must therefore be sorted by frequency, as those of word-level tokenizers are. Held-out
            losses always have the full softmax, and so has training on a vocabulary less than twice as large.
        bias: a bias per vocabulary entry.
    """

    head: TokenHead

    def __init__(
        self, weight: NotNegative = 1.0, outputs: Count | None = None, sampled: Count | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        for name, value in (("outputs", outputs), ("sampled", sampled)):
            if value is not None and value < 1:
                raise ZooError(f"BidirectionalLM: {name} is {value}; at least 1, or null, is needed.")
        self.weight, self.outputs, self.sampled, self.bias = weight, outputs, sampled, bias
        self.predicts_tokens = sampled is None  # a loss over few tokens says nothing beside the corpus' entropy

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: an output matrix for both directions, tied where the core has a table of that width."""
        assert config.vocab_size is not None
        self.config, self.two_halves = config, config.recurrent is not None
        self.attention = "bidirectional" if self.two_halves else "causal"
        self.entries = min(self.outputs or config.vocab_size, config.vocab_size)
        self.unknown = vocabulary.unk
        fewer = self.entries if self.entries < vocabulary.size else None
        if fewer is not None and (self.unknown is None or self.unknown >= fewer):
            raise ZooError(
                f"BidirectionalLM: with outputs = {fewer} of {vocabulary.size} tokens the others are predicted as the "
                "unknown token, and the tokenizer has none among its first: train a word-level one (kind: word)."
            )
        for name in ("final_logit_softcapping", "z_loss_weight"):
            if self.sampled is not None and getattr(config, name):
                raise ZooError(
                    f"BidirectionalLM: model.{name} reads all logits, and sampled: {self.sampled} makes a few; set "
                    "sampled: null, or leave it out."
                )
        self.head = TokenHead(config, transform=False, bias=self.bias, half=self.two_halves, outputs=fewer)

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """A core whose states know both sides is run from left to right; two halves are apart by themselves."""
        if self.two_halves:
            return inputs
        return inputs._replace(attention_pattern=inputs.attention_pattern._replace(causal=True))

    def targets(self, rows: Examples) -> Targets:
        """Per target: flat ``positions`` that answer, ``labels``, and whether the ``backward`` direction does."""
        ids, real = rows.input_ids, rows.real
        following = np.full(len(ids), -1, dtype=ids.dtype) if rows.next_token is None else rows.next_token
        answers = np.full((2, *ids.shape), -1, dtype=np.int64)
        answers[0, :, :-1] = np.where(real[:, 1:], ids[:, 1:], -1)
        filled = np.flatnonzero(rows.lengths > 0)
        answers[0, filled, rows.lengths[filled] - 1] = following[filled]
        answers[1, :, 1:] = np.where(real[:, 1:], ids[:, :-1], -1)
        backward, positions = np.nonzero(answers.reshape(2, -1) >= 0)
        labels = self._labels(answers.reshape(2, -1)[backward, positions])
        tensors = {"positions": positions, "labels": labels, "backward": backward}
        return Targets({name: torch.from_numpy(values) for name, values in tensors.items()}, len(positions))

    def _labels(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids as they are predicted."""
        return ids if self.unknown is None else np.where(ids < self.entries, ids, self.unknown)

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of both directions."""
        states = self.direction_states(run_core, None)
        positions, labels = batch.tensors["positions"], batch.tensors["labels"]
        picked = states.reshape(-1, states.shape[-1]).index_select(0, 2 * positions + batch.tensors["backward"])
        if self.training and self.sampled is not None and 2 * self.sampled <= self.entries:
            # The loop seeds torch with (seed, step) at every step: a key that all processes and slices share.
            negatives = draw_negatives(torch.initial_seed(), self.sampled, self.entries)
            features, matrix = self.head.features(picked), self.head.matrix(embedding)
            loss = sampled_cross_entropy(features, matrix, self.head.bias, labels, *negatives)
        else:
            loss = self.head.cross_entropy(picked, embedding, labels)
        return LossTerm.by_row(loss, batch, states, self.weight)

    def direction_states(self, run_core: CoreRunner, inputs: CoreInputs | None) -> Tensor:
        """(B, L, 2, width) states of the forward and of the backward direction; ``None`` = of the batch."""
        output: CoreOutput = run_core() if inputs is None else run_core(inputs)
        if self.two_halves:
            return output.last_hidden_state.unflatten(-1, (2, -1))
        given = run_core.inputs if inputs is None else inputs
        index = _reversal(given)
        turned = _reversed(given, index, signed=self.config.position_type == "relative")
        backward = states_at(run_core(turned).last_hidden_state, index)
        return torch.stack([output.last_hidden_state, backward], dim=2)

    @torch.no_grad()
    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) sum of both directions' log-probabilities in nats, each by the chain rule.

        Template tokens are not scored. A text's first token has no forward, its last no backward probability where
        no template token stands beside it. Words beyond ``outputs`` count as the unknown token.
        """
        asked = np.zeros((*rows.shape, 2), dtype=bool)
        asked[:, :-1, 0] = ~rows.special_tokens_mask[:, 1:]
        asked[:, 1:, 1] = ~rows.special_tokens_mask[:, :-1] & rows.real[:, 1:]
        row, column, backward = np.nonzero(asked)
        states = self.direction_states(run_core, self.inputs(rows, base_inputs(rows)))
        picked = states[torch.from_numpy(row), torch.from_numpy(column), torch.from_numpy(backward)]
        expected = rows.input_ids[row, column + 1 - 2 * backward].astype(np.int64)
        labels = torch.from_numpy(self._labels(expected)).to(picked.device)
        chances = token_log_probabilities(self.head, picked, embedding, labels)
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        np.add.at(total, row, chances.cpu().double().numpy())
        return total

    def head_flops(self, targets: int) -> int:
        """The head's forward operations, and those of the second run of a core whose states are not two halves.

        Of that run's attention scores, which depend on the rows' length, nothing is known here.
        """
        asked = self.entries
        if self.sampled is not None and 2 * self.sampled <= self.entries:
            asked = self.sampled + 1
        head = token_head_flops(self.config, targets, transform=False, half=self.two_halves, outputs=asked)
        return head if self.two_halves else head + core_flops(self.config, targets // 2, 1)


# --- the row from its end ----------------------------------------------------------------------------------


def _reversal(inputs: CoreInputs) -> Tensor:
    """(B, L) column that stands at each place when every row is reversed within its true length; its own inverse."""
    batch, length = inputs.input_ids.shape
    columns = torch.arange(length, device=inputs.input_ids.device)[None, :]
    if inputs.attention_pattern.lengths is None:
        return (length - 1 - columns).expand(batch, length)
    ends = inputs.attention_pattern.lengths.to(columns.device)[:, None]
    return torch.where(columns < ends, ends - 1 - columns, columns)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """(B, L, ...) with its columns at the places that ``index`` (B, L) names."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def _reversed(inputs: CoreInputs, index: Tensor, signed: bool) -> CoreInputs:
    """The same rows from their end.

    Args:
        inputs: the rows.
        index: from :func:`_reversal`.
        signed: the core's distances have a sign, which then is the text's.
    """
    pattern = inputs.attention_pattern
    if pattern.dense is not None or pattern.permutation_ranks is not None or inputs.query is not None:
        raise ZooError(
            "BidirectionalLM reverses rows, and cannot reverse an attention pattern that is dense or made of "
            "permutation ranks; give the other objective a task of its own."
        )
    turned: dict[str, Any] = {}
    for name in ("input_ids", "token_type_ids", "task_type_ids", "entity_ids", "character_ids"):
        value = getattr(inputs, name)
        if value is not None and value.ndim > 1:
            turned[name] = _gather(value, index)
    if pattern.documents is not None:
        pattern = pattern._replace(documents=_gather(pattern.documents, index))
    if signed:
        backwards = torch.ones(len(index), dtype=torch.bool, device=index.device)
        turned["reversed"] = backwards if inputs.reversed is None else ~inputs.reversed
    keys = None if inputs.dropout_keys is None else inputs.dropout_keys ^ _BACKWARD_KEYS
    return inputs._replace(attention_pattern=pattern, dropout_keys=keys, **turned)

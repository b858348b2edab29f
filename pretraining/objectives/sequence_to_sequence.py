"""A decoder writes a text, token by token, of what an encoder read (Vaswani et al. 2017; Raffel, Lewis et al. 2020)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.arrays import Bools
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout
from pretraining.layouts.examples import Examples
from pretraining.layouts.translation_pairs import decoder_targets
from pretraining.masking.noise import Noise
from pretraining.masking.sentinels import SpanCorruption
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets, base_inputs
from pretraining.objectives.restored_words import hide_each_word
from pretraining.objectives.token_scoring import token_log_probabilities
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.core.flops import token_head_flops
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs, DecoderInputs
from zoo.values import NotNegative, Range
from zoo.vocabulary import Vocabulary


class SequenceToSequence(Objective):
    """Predict each token of a target from those before it and from the whole source.

    Without noise, the layout gives source and target (``pretraining.layouts.TranslationPairs``). With noise, a row of
    text is the target, and the source is what the noises leave of it, or both are what a noise says.

    With label smoothing, a label has the share 1 - smoothing, and each other entry smoothing / (V - 1) (tensor2tensor,
    fairseq). The training loss has the smoothed label's own entropy subtracted (:func:`smoothing_floor`), as in
    tensor2tensor, so that 0 is its least value. fairseq leaves it in, and gradients are the same. Held-out losses and
    scores know of no smoothing, so that they are log-probabilities.

    Args:
        noise: what happens to a row of text, in this order; absent = the layout has targets.
        label_smoothing: share that leaves each label.
        start: what the decoder reads first where ``noise`` makes the targets: ``sep`` (BART), ``pad`` (T5) or ``cls``.
        bias: a bias per vocabulary entry (Marian, BART).
        weight: factor of the loss.
    """

    attention, predicts_tokens = "bidirectional", True

    def __init__(
        self,
        noise: list[Noise] | None = None,
        label_smoothing: Annotated[float, Range(least=0, below=1)] = 0.0,
        start: Literal["sep", "pad", "cls"] = "sep",
        bias: bool = False,
        weight: NotNegative = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ZooError(f"SequenceToSequence: label_smoothing is {label_smoothing}; it must lie in [0, 1).")
        if start not in ("sep", "pad", "cls"):
            raise ZooError(f"SequenceToSequence: start is {start!r}; sep, pad or cls would work.")
        self.noise, self.label_smoothing, self.start = list(noise or ()), label_smoothing, start
        self.bias, self.weight, self.target_start = bias, weight, start if noise else None
        needed = [part.required_fields for part in self.noise]
        self.required_fields = frozenset().union(*needed) if noise else _TARGET_FIELDS

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: the tied output matrix, without transform."""
        if self.noise and getattr(vocabulary, self.start) is None:
            raise ZooError(f"SequenceToSequence: the tokenizer has no token to start with (start: {self.start}).")
        if vocabulary.mask is None and any(part.needs_mask for part in self.noise):
            raise ZooError(
                "SequenceToSequence: no mask token. Add one, for example data.tokenizer.new_tokens: ['<mask>']."
            )
        self.vocabulary, self.config = vocabulary, config
        self.head = TokenHead(config, transform=False, bias=self.bias)
        self.floor = smoothing_floor(self.label_smoothing, config.vocab_size or vocabulary.size)

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Let noises learn the tokenizer's words and sentinels."""
        for part in self.noise:
            part.bind_tokenizer(tokenizer)

    def check_model(self, config: CoreConfig) -> None:
        """Raise ZooError if the core has no decoder."""
        if config.decoder is None:
            raise ZooError("SequenceToSequence: the model has no decoder; give it one (model.decoder: {}).")

    def check_layout(self, layout: Layout, length: int) -> None:
        """Raise ZooError if noise would lose a layout's own targets, or does not suit rows of ``length`` tokens."""
        if self.noise and layout.provided_fields >= _TARGET_FIELDS:
            raise ZooError(
                f"SequenceToSequence: {type(layout).__name__} gives rows targets of their own, which noise would not "
                "leave: take a layout of running text, such as pretraining.layouts.FullSentences, or no noise."
            )
        for part in self.noise:
            part.check_length(length)

    def check_store(self, store: Store) -> None:
        """Raise ZooError if a noise would do nothing to a text."""
        for part in self.noise:
            part.check(store)

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Noise the rows, and note what the decoder reads and is asked for."""
        if not self.noise:
            return rows
        if rows.targets:
            raise ZooError("two objectives of one task change the same rows; give each a task of its own.")
        start, pad = getattr(self.vocabulary, self.start), self.vocabulary.pad or 0
        source = rows
        for part in self.noise:
            source = part(source, draw, self.vocabulary)
        if "labels" in source.targets:
            return source.with_targets(**shifted_labels(source.targets["labels"], start, pad))
        return source.with_targets(**decoder_targets(rows, start, pad))

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """The target for the decoder. Its padding is at the right, where no position before attends to it."""
        read = torch.from_numpy(rows.targets["decoder_input_ids"].astype(np.int64))
        return inputs._replace(decoder=DecoderInputs(read))

    def targets(self, rows: Examples) -> Targets:
        """Every real token of the target, at flat positions of the decoder's states."""
        labels = rows.targets["labels"].reshape(-1)
        positions = np.flatnonzero(labels >= 0)
        return Targets.at(positions, labels[positions])._replace(read=None)  # which would be of the source's states

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the targets."""
        states = run_core().last_hidden_state
        read = states.reshape(-1, states.shape[-1]).index_select(0, batch.tensors["positions"])
        smoothing = self.label_smoothing if self.training else 0.0
        loss = self.head.cross_entropy(read, embedding, batch.tensors["labels"], smoothing)
        if smoothing:
            loss = loss._replace(total=loss.total - self.floor * batch.count, nll=loss.nll - self.floor)
        return LossTerm.by_row(loss, batch, states, self.weight)

    def head_flops(self, targets: int) -> int:
        """The head's forward operations."""
        return token_head_flops(self.config, targets, transform=False)

    @torch.no_grad()
    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) log-probability in nats of each row's target, its end included, given its source.

        A row without a target is scored by a model that restores text, as a pseudo-log-likelihood: each word is hidden
        from the encoder by itself, and its tokens are scored as the decoder writes them. In BART's way the decoder
        also knows what stands before the word, so that these figures are not comparable with a masked model's.

        Raises:
            ZooError: rows without targets, and no noise that hides a word.
        """
        if rows.targets.keys() >= _TARGET_FIELDS:
            return self._score(run_core, embedding, rows, rows.targets["labels"] >= 0)
        spans = next((part for part in self.noise if isinstance(part, SpanCorruption)), None)
        token = self.vocabulary.mask if any(part.needs_mask for part in self.noise) else None
        if spans is not None:
            token = int(spans.sentinels[0])
        if token is None:
            raise ZooError(
                "SequenceToSequence does not say how it scores a text by itself: it scores a target given its source."
            )
        start, pad = getattr(self.vocabulary, self.start), self.vocabulary.pad or 0
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        for part in hide_each_word(rows, token, start, pad, self.vocabulary.sep if spans is not None else None):
            np.add.at(total, part.row, self._score(run_core, embedding, part.copies, part.asked))
        return total

    def _score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples, asked: Bools) -> NDArray[np.float64]:
        """(B,) log-probability of the labels that are ``asked`` (B, T) for."""
        row, column = np.nonzero(asked)
        states = run_core(self.inputs(rows, base_inputs(rows))).last_hidden_state
        labels = torch.from_numpy(rows.targets["labels"][row, column].astype(np.int64)).to(states.device)
        picked = states[torch.from_numpy(row), torch.from_numpy(column)]
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        np.add.at(total, row, token_log_probabilities(self.head, picked, embedding, labels).cpu().double().numpy())
        return total


_TARGET_FIELDS = frozenset({"decoder_input_ids", "labels", "target_lengths"})


def shifted_labels(labels: NDArray[np.int32], start: int, pad: int) -> dict[str, NDArray[np.int32]]:
    """``decoder_input_ids`` (B, T): labels (B, T), -100 beyond their end, shifted right behind a start token."""
    read = np.full_like(labels, start)
    read[:, 1:] = labels[:, :-1]
    return {"decoder_input_ids": np.where(labels < 0, np.int32(pad), read)}


def smoothing_floor(smoothing: float, entries: int) -> float:
    """Least cross-entropy of a smoothed label, in nats: its own entropy.

    Args:
        smoothing: share that the other entries get, evenly.
        entries: of the vocabulary.
    """
    if not smoothing:
        return 0.0
    return -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / (entries - 1))

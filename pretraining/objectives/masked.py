"""Masked language modelling: some tokens are hidden, and predicted from both sides.

BERT (Devlin et al. 2018), RoBERTa, ALBERT and whole-word masks are this class with other parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.choose import Choose
from pretraining.fill import Fill, Replace
from pretraining.objective import Encode, LossTerm, Objective, Targets, base_inputs
from pretraining.objectives.tokens import token_answers, token_loss, token_targets
from pretraining.predict import Predict, Selected
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from pretraining.tokenizer.flags import WORD_START
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.flops import token_head_flops
from zoo.heads import TokenHead
from zoo.vocabulary import Vocabulary

_SCORE_TOKENS = 16_384  # input tokens of the copies that are scored at once


class _Questions(NamedTuple):
    """Hidden tokens that are asked for. (C,) each.

    Args:
        row: number of the row.
        column: of the token.
        begin: first column that is hidden in this row's copy.
        end: column after the last one.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


class MaskedLM(Objective):
    """Predict hidden tokens from everything that is left.

    ``corrupt`` leaves ``rows.targets["selected"]`` and ``rows.targets["original_ids"]``, both (B, L).

    Args:
        choose: which positions.
        fill: what stands there instead; default :class:`pretraining.fill.Replace`, that is 80/10/10.
        predict: what is predicted; default the original tokens at the chosen positions.
        weight: factor of the loss.
    """

    visibility = "all"
    predicts_tokens = True
    choose: Choose
    head: TokenHead

    def __init__(
        self, choose: Choose, fill: Fill | None = None, predict: Predict | None = None, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.choose = choose
        self.needs = choose.needs
        self.fill = fill or Replace()
        self.predict = predict or Selected()
        self.weight = weight

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head: dense, activation, LayerNorm, tied output matrix with a bias."""
        if vocabulary.mask is None and self.fill.needs_mask:
            raise ZooError(
                "MaskedLM: the tokenizer has no mask token ([MASK] or <mask>), which hides tokens. Train or load a "
                "tokenizer that has one, add one (data.tokenizer.new_tokens: ['[MASK]']), or use the objective "
                "CausalLM, which needs none."
            )
        self.vocabulary, self.config = vocabulary, config
        self.head = TokenHead(config, transform=True, bias=True)

    def sources(self) -> list[Path]:
        """What ``fill`` reads."""
        return self.fill.sources()

    def bind(self, tokenizer: ZooTokenizer) -> None:
        """Let ``fill`` learn the tokenizer's words."""
        self.fill.bind(tokenizer)

    def check_store(self, store: Store) -> None:
        """Refuse text that ``choose`` or ``fill`` cannot be used on."""
        super().check_store(store)
        self.fill.check(store)

    def corrupt(self, rows: Rows, draw: Draw) -> Rows:
        """Choose positions, note the original ids, put something else there."""
        if "selected" in rows.targets:
            raise ZooError("two objectives of one task hide tokens of the same rows; give each a task of its own.")
        selected = self.choose(rows, draw, self.vocabulary)
        hidden = rows.replace(input_ids=self.fill(rows, selected, draw, self.vocabulary))
        return hidden.with_targets(selected=selected, original_ids=rows.input_ids)

    def targets(self, rows: Rows) -> Targets:
        """The original ids where ``predict`` wants them."""
        positions = np.flatnonzero(self.predict(rows, rows.targets["selected"]))
        return token_targets(positions, rows.targets["original_ids"].reshape(-1)[positions])

    def forward(self, encode: Encode, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the hidden tokens."""
        return token_loss(self.head, encode().last_hidden_state, embedding, batch, self.weight)

    @torch.no_grad()
    def score(self, encode: Encode, embedding: Tensor, rows: Rows) -> NDArray[np.float64]:
        """(B,) pseudo-log-likelihood in nats, in the form "PLL-word-l2r".

        A token is predicted with itself and the later pieces of its word hidden (Kauf & Ivanova 2023, "A Better
        Way to Do Masked Language Model Scoring"). Template tokens are neither scored nor hidden.
        """
        if self.vocabulary.mask is None:
            raise ZooError("MaskedLM cannot score a sentence with a tokenizer that has no mask token.")
        row, column = np.nonzero(~rows.special)
        starts = ((rows.flags & WORD_START) != 0) | rows.special
        # The next word start after each position, or the row's end.
        following = np.full((len(starts), rows.shape[1] + 1), rows.shape[1])
        following[:, :-1][starts] = np.nonzero(starts)[1]
        following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
        chance, _ = self._ask(encode, embedding, rows, _Questions(row, column, column, following[row, column + 1]))
        total = np.zeros(len(rows.lengths), dtype=np.float64)
        np.add.at(total, row, chance)
        return total

    @torch.no_grad()
    def fill_in(
        self,
        encode: Encode,
        embedding: Tensor,
        rows: Rows,
        start: NDArray[np.int64],
        size: NDArray[np.int64],
        together: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Hide a stretch of each row and fill it in.

        Args:
            encode: runs the core.
            embedding: (V, E) the core's token embedding.
            rows: B rows, not corrupted.
            start: (B,) first column of what is hidden.
            size: (B,) tokens hidden, at least one.
            together: all tokens at once, none of them knowing the others; else from left to right, each knowing the
                true ones before it.

        Returns:
            (B,) log-probability of the true tokens in nats, summed, which from left to right is the chain rule; and
            (B,) whether each of them was the most probable one, so that filling in the model's own answers would have
            given them too.
        """
        row = np.repeat(np.arange(len(start)), size)
        column = start[row] + np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
        begin = start[row] if together else column
        chance, right = self._ask(encode, embedding, rows, _Questions(row, column, begin, (start + size)[row]))
        total, all_right = np.zeros(len(start)), np.ones(len(start), dtype=bool)
        np.add.at(total, row, chance)
        all_right[row[~right]] = False
        return total, all_right

    def _ask(
        self, encode: Encode, embedding: Tensor, rows: Rows, asked: _Questions
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(C,) log-probability of each token that is asked for; whether it is the most probable one."""
        order = np.argsort(rows.lengths[asked.row], kind="stable")  # copies of like length together: little padding
        chance, right = np.zeros(len(order)), np.zeros(len(order), dtype=bool)
        start = 0
        while start < len(order):
            length = int(rows.lengths[asked.row[order[start]]])
            part = order[start : start + max(1, _SCORE_TOKENS // length)]
            some = _Questions(*(field[part] for field in asked))
            chance[part], right[part] = self._ask_copies(encode, embedding, rows, some)
            start += len(part)
        return chance, right

    def _ask_copies(
        self, encode: Encode, embedding: Tensor, rows: Rows, asked: _Questions
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """One copy of the row for each stretch that is hidden in it."""
        assert self.vocabulary.mask is not None
        stretches, copy_of = np.unique(np.stack([asked.row, asked.begin, asked.end]), axis=1, return_inverse=True)
        copy_of = copy_of.reshape(-1)  # numpy 2.0 gives it another shape
        row, begin, end = stretches
        width = int(rows.lengths[row].max())
        columns = np.arange(width)[None, :]
        hidden = (columns >= begin[:, None]) & (columns < end[:, None])
        input_ids = np.where(hidden, np.int32(self.vocabulary.mask), rows.input_ids[row, :width])
        types = rows.token_type_ids
        copies = Rows(
            input_ids=input_ids,
            lengths=rows.lengths[row],
            special=rows.special[row, :width],
            flags=rows.flags[row, :width],
            example=rows.example[row],
            document=rows.document[row],
            token_type_ids=None if types is None else types[row, :width],
        )
        states = encode(base_inputs(copies)).last_hidden_state
        picked = states[torch.from_numpy(copy_of), torch.from_numpy(asked.column)]
        labels = torch.from_numpy(rows.input_ids[asked.row, asked.column].astype(np.int64)).to(picked.device)
        chance, best = token_answers(self.head, picked, embedding, labels)
        return chance.cpu().double().numpy(), (best == labels).cpu().numpy()

    def head_flops(self, targets: int) -> int:
        """The head's forward operations."""
        return token_head_flops(self.config, targets, transform=True)

    def describe(self, rows: Rows) -> dict[str, Any]:
        """Shares of what happened to the tokens."""
        selected = rows.targets["selected"]
        count = int(selected.sum())
        changed = (rows.input_ids != rows.targets["original_ids"]) & selected
        masked = (rows.input_ids == self.vocabulary.mask) & selected
        return {
            "selected": count / max(int(rows.lengths.sum()), 1),
            "masked": int(masked.sum()) / max(count, 1),
            "replaced": int((changed & ~masked).sum()) / max(count, 1),
        }

"""Word vectors from the words nearby, with negative sampling (Mikolov et al. 2013; specs: word2vec, section 3)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets
from pretraining.objectives.windows import WindowBlocks, WordFrequencies, distinct, draw_reach, window_blocks
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.initial import Initial, constant
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.values import Count, Probability
from zoo.vocabulary import Vocabulary


class OutputVectors(nn.Embedding):
    """The second table: words as they are predicted. It starts at zero."""

    initial: ClassVar[dict[str, Initial]] = {"weight": constant(0.0)}


class WindowObjective(Objective):
    """What skip-gram and CBOW share: two tables, and a word told from noise by the words within a window.

    Words are first thinned out, then windows are laid over those that stay. Noise words are shared within a block of
    ``block`` words of a row, so that scores are products of matrices. Each of a block's noise words counts
    ``negatives`` / ``block`` times, so the expected loss is that of ``negatives`` draws for each prediction. A noise
    word that is the word to be predicted is left out. Losses are sums, as in the original, which takes a step for each.

    Args:
        window: most words to either side; each word draws how many, from 1 on.
        negatives: noise words for each prediction.
        subsample: share of the text above which a word is thinned out, 0 = none is.
        block: words that share noise words.
        sparse: gradients are of the rows that a batch reads, for optimisers that take such ones.
    """

    normalise = "sum"
    reads_rows = False
    shown = None
    select = None

    def __init__(
        self,
        window: Count = 5,
        negatives: Count = 5,
        subsample: Probability = 1e-3,
        block: Count = 16,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.window, self.negatives, self.subsample, self.block = window, negatives, subsample, block
        self.sparse_gradients = sparse
        self.frequencies: WordFrequencies | None = None

    def check_model(self, config: CoreConfig) -> None:
        """Raise ZooError if the core is more than a table."""
        if config.num_hidden_layers:
            raise ZooError(
                f"{type(self).__name__} trains a table of word vectors: set model.num_hidden_layers: 0, not "
                f"{config.num_hidden_layers}."
            )

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the table of words as they are predicted."""
        assert config.vocab_size is not None
        self.check_model(config)
        self.size, self.width, self.special_ids = config.vocab_size, config.hidden_size, vocabulary.special_ids
        self.out_embed = OutputVectors(config.vocab_size, config.hidden_size, sparse=self.sparse_gradients)

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Take the spelling of words, to describe rows."""
        self.tokenizer = tokenizer

    def describe(self, rows: Examples) -> dict[str, Any]:
        """How many predictions are made, and the noise words in the order of those that stay."""
        noise = [self.tokenizer.token(number) for number in rows.targets["noise"][rows.targets["kept"]]]
        return {"predictions": self.targets(rows).count, "noise": " ".join(noise)}

    def bind_store(self, store: Store) -> None:
        """Take the counts of words. Tokens that are special, the unknown one among them, are no words."""
        self.bind_counts(np.asarray(store.counts), str(store.path))

    def bind_counts(self, counts: np.ndarray, source: str) -> None:
        """Take how often each token of the vocabulary occurs.

        Raises:
            ZooError: there are fewer than two words.
        """
        words = np.zeros(self.size, dtype=np.int64)
        words[: len(counts)] = counts[: self.size]
        words[list(self.special_ids)] = 0
        if np.count_nonzero(words) < 2:
            raise ZooError(
                f"{source} has {np.count_nonzero(words)} different words of the vocabulary, and to tell a word from "
                "noise takes two: lower data.tokenizer.min_frequency, or give more text."
            )
        self.frequencies = WordFrequencies(words, self.subsample)

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Choose the words that stay (``kept``), how far each looks (``reach``), and ``noise`` words."""
        if self.frequencies is None:
            raise RuntimeError("bind_store comes first: without counts there is no noise")
        if "kept" in rows.targets:
            raise ZooError(f"{type(self).__name__} thins words out, and another objective has: it needs its own task.")
        kept = self.frequencies.keep(rows, draw)
        noise = self.frequencies.noise(rows, kept, draw)
        reach = np.where(kept, draw_reach(rows, self.window, draw), 0)
        return rows.with_targets(kept=kept, reach=reach, noise=noise)

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """The core looks each different word up once."""
        words = distinct(rows.input_ids[rows.targets["kept"]], self.size)[0]
        return inputs._replace(input_ids=torch.from_numpy(words)[None], attention_pattern=AttentionPattern())

    def targets(self, rows: Examples) -> Targets:
        """Places of context words among the core's states, words to be predicted and noise, and windows."""
        blocks = window_blocks(rows, self.window, self.block, self.size)
        words, places = distinct(np.concatenate([blocks.centres, blocks.noise], axis=1), self.size)
        count = self.predictions(blocks)
        tensors = {"context": blocks.context, "words": words, "answers": places, "real": blocks.real}
        tensors |= {"left": blocks.left, "right": blocks.right, "row": blocks.row, "row_count": count}
        return Targets({name: torch.from_numpy(values) for name, values in tensors.items()}, int(count.sum()))

    @abstractmethod
    def predictions(self, blocks: WindowBlocks) -> np.ndarray:
        """(B,) losses of each row."""

    @abstractmethod
    def block_losses(self, context: Tensor, answers: Tensor, near: Tensor, share: Tensor) -> Tensor:
        """(N,) summed losses of blocks.

        Args:
            context: (N, C + 2w, W) vectors of the words of a block and around it.
            answers: (N, 2C, W) of centres as they are predicted, and of noise words.
            near: (N, C + 2w, C) 1 where a word is in a centre's window, else 0.
            share: (N, C, C) how often a centre's prediction counts a noise word.
        """

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed losses: -log sigmoid(u_o v_i) - sum over noise of log sigmoid(-u_n v_i)."""
        tensors = batch.tensors
        states = run_core().last_hidden_state[0]
        context = states.index_select(0, tensors["context"].flatten()).view(*tensors["context"].shape, self.width)
        table = self.out_embed(tensors["words"])
        answers = table.index_select(0, tensors["answers"].flatten()).view(*tensors["answers"].shape, self.width)
        near = window_mask(tensors["left"], tensors["right"], self.window).to(states.dtype)
        centres, noise = tensors["answers"].split(self.block, dim=1)
        real = tensors["real"]
        told = (centres[:, :, None] != noise[:, None, :]) & real[:, None, :]
        share = told * (self.negatives / real.sum(1))[:, None, None]
        losses = self.block_losses(context, answers, near, share)
        rows = tensors["row_count"]
        total = torch.zeros(len(rows), dtype=torch.float32, device=losses.device)
        by_row = total.index_add(0, tensors["row"], losses.detach().float())
        return LossTerm(losses.float().sum(), batch.count, self.weight, by_row, rows.float())

    def head_flops(self, targets: int) -> int:
        """Of each prediction one product of vectors for the word, and one for each noise word."""
        return 2 * targets * (1 + self.negatives) * self.width


def window_mask(left: Tensor, right: Tensor, window: int) -> Tensor:
    """(N, C + 2w, C) whether a word is in a centre's window.

    Args:
        left: (N, C) words to the left that a centre looks at.
        right: (N, C) to the right.
        window: w.
    """
    size = left.shape[1]
    places = torch.arange(-window, size + window, device=left.device)
    distance = places[:, None] - torch.arange(size, device=left.device)[None, :]  # (C + 2w, C)
    return (distance >= -left[:, None, :]) & (distance <= right[:, None, :]) & (distance != 0)


class SkipGram(WindowObjective):
    """Predict a word from each of the words near it: as in the original's code, the nearby word is the input."""

    def predictions(self, blocks: WindowBlocks) -> np.ndarray:
        """(B,) pairs of a centre and a word near it."""
        return np.bincount(blocks.row, (blocks.left + blocks.right).sum(1), minlength=blocks.rows).astype(np.int64)

    def block_losses(self, context: Tensor, answers: Tensor, near: Tensor, share: Tensor) -> Tensor:
        """(N,) summed losses of blocks."""
        scores = torch.bmm(context, answers.transpose(1, 2))  # (N, C + 2w, 2C)
        size = near.shape[2]
        weights = torch.bmm(near, share)
        right = near * functional.softplus(-scores[:, :, :size])
        wrong = weights * functional.softplus(scores[:, :, size:])
        return right.sum((1, 2)) + wrong.sum((1, 2))


class ContinuousBagOfWords(WindowObjective):
    """Predict a word from the mean of the words near it; each of these takes the mean's whole gradient, undivided."""

    def predictions(self, blocks: WindowBlocks) -> np.ndarray:
        """(B,) centres with a word near them."""
        return np.bincount(blocks.row, (blocks.left + blocks.right > 0).sum(1), minlength=blocks.rows).astype(np.int64)

    def block_losses(self, context: Tensor, answers: Tensor, near: Tensor, share: Tensor) -> Tensor:
        """(N,) summed losses of blocks."""
        size = near.shape[2]
        near = near.transpose(1, 2)
        counts = near.sum(2, keepdim=True)
        total = torch.bmm(near, context)  # (N, C, W)
        mean = total - (total - total / counts.clamp(min=1)).detach()
        some = (counts > 0).to(mean.dtype)
        right = functional.softplus(-(mean * answers[:, :size]).sum(2, keepdim=True)) * some
        wrong = functional.softplus(torch.bmm(mean, answers[:, size:].transpose(1, 2))) * (share * some)
        return right.sum((1, 2)) + wrong.sum((1, 2))

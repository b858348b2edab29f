"""A small masked language model beside the core, whose samples stand in the text that the core reads (ELECTRA).

Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators" (specs: ELECTRA,
section 3). Worked example; the core reads the last line, and no gradient goes back through the draw::

    original    [CLS] the  chef cooked the  meal [SEP]
    generator   [CLS] the  chef [MASK] the [MASK][SEP]    85 % of the chosen tokens are hidden, 15 % stay
    core        [CLS] the  chef  ate   the  meal [SEP]    a draw may be right
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretraining.keyed_random import Draw, bits_at
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Replacement, Selector
from pretraining.masking.tokens import Replace
from pretraining.objectives.base import CoreRunner, LossTerm, Objective, Targets, base_inputs, output_positions
from pretraining.objectives.token_scoring import MaskedModel, masking_shares, score_words
from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.companion import Companion, narrowed
from zoo.core.flops import core_flops, token_head_flops
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs
from zoo.values import Count, NotNegative, Positive
from zoo.vocabulary import Vocabulary

_LOGIT_BYTES = 128 * 2**20
_NO_DRAW = -100  # as labels that are ignored are written everywhere


@torch.no_grad()
def draw_tokens(head: TokenHead, states: Tensor, embedding: Tensor, uniform: Tensor) -> Tensor:
    """One token for each state, drawn from the softmax of its scores (temperature 1), without a gradient.

    Args:
        head: scores the states.
        states: (T, W).
        embedding: (V, E) token embedding.
        uniform: (T,) float64 numbers in (0, 1), one for each draw: the token at that place of the distribution.

    Returns:
        (T,) ids.
    """
    found = [states.new_zeros(0, dtype=torch.int64)]
    with torch.autocast(states.device.type, enabled=False):
        matrix = head.matrix(embedding).float()
        chunk = max(1, _LOGIT_BYTES // (8 * len(matrix)))
        features = head.features(states.float())
        for part, numbers in zip(features.split(chunk), uniform.split(chunk), strict=True):
            logits = part @ matrix.t()
            if head.bias is not None:
                logits += head.bias.float()
            shares = torch.softmax(logits, dim=-1).cumsum(dim=-1, dtype=torch.float64)
            place = torch.searchsorted(shares, numbers[:, None] * shares[:, -1:], right=True)
            found.append(place.squeeze(1).clamp_(max=len(matrix) - 1))
    return torch.cat(found)


class GeneratorLM(Objective):
    """A narrow masked language model over the core's embeddings; its samples stand in the text for what comes after.

    Objectives after it in a task let the core read the original text with one sample at each chosen position. Samples
    are keyed by (seed, epoch, example, position), as masks are.

    Args:
        select: which positions.
        replacement: what the generator reads there; default the mask token at 85 %, the token itself at 15 %.
        fraction: of the core's width that the generator is wide.
        num_hidden_layers: its depth; ``None`` = the core's.
        weight: factor of its loss.
    """

    attention, predicts_tokens, draws_by_weights = "bidirectional", True, True
    score_note = "these are the generator's scores, a smaller model's than the one that is fine-tuned."
    unasked = frozenset({"uniform", "text", "read"})
    select: Selector
    companion: Companion

    def __init__(
        self,
        select: Selector,
        replacement: Replacement | None = None,
        fraction: Positive = 0.25,
        num_hidden_layers: Count | None = None,
        weight: NotNegative = 1,
    ) -> None:
        super().__init__()
        self.select, self.required_fields, self.weight = select, select.required_fields, weight
        self.replacement = replacement or Replace(mask=0.85, random=0.0, keep=0.15)
        self.fraction, self.num_hidden_layers = fraction, num_hidden_layers
        self.shown = self.replacement.shown

    # --- its core ---

    def check_model(self, config: CoreConfig) -> None:
        """Raise ZooError if the core is none whose embeddings a second one can read, or no such core can be built."""
        unfit = {
            "recurrent": config.recurrent is not None,
            "decoder": config.decoder is not None,
            "characters": config.characters is not None,
            "fusion": config.fusion is not None,
            "mem_len": bool(config.mem_len),
            "num_hidden_layers: 0": config.num_hidden_layers == 0,
        }
        if found := [name for name, is_so in unfit.items() if is_so]:
            raise ZooError(
                f"GeneratorLM needs a Transformer core that reads a table of tokens; in the way: model.{found[0]}. "
                "A core such as bert-tiny's would work."
            )
        narrowed(config, self.fraction, self.num_hidden_layers)

    def notes(self, config: CoreConfig) -> list[str]:
        """A warning where the generator is the larger of the two."""
        own = narrowed(config, self.fraction, self.num_hidden_layers)
        wider, deeper = own.hidden_size > config.hidden_size, own.num_hidden_layers > config.num_hidden_layers
        if not (wider or deeper):
            return []
        return [
            f"warning: the generator ({own.num_hidden_layers}/{own.hidden_size}) is larger than its discriminator "
            f"({config.num_hidden_layers}/{config.hidden_size}). Published ones have a quarter to a half of its width "
            "(fraction: 0.25): samples that are too good leave the discriminator little to learn."
        ]

    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the generator: layers, a projection of the shared embeddings, and a head over the vocabulary."""
        if vocabulary.mask is None and self.replacement.needs_mask:
            raise ZooError("GeneratorLM: no mask token. Add one (data.tokenizer.new_tokens: ['[MASK]']).")
        self.check_model(config)
        self.vocabulary = vocabulary
        own = narrowed(config, self.fraction, self.num_hidden_layers)
        self.companion = Companion(own, TokenHead(own, transform=True, bias=True))

    def bind_core(self, core: Core) -> None:
        """Share the core's embeddings."""
        self.companion.borrow(core)

    @property
    def token_head(self) -> TokenHead:
        """Scores the generator's states."""
        assert isinstance(self.companion.head, TokenHead)
        return self.companion.head

    # --- rows ---

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Hide tokens from the generator; notes ``selected``, ``original_ids`` (B, L), and keys of the draws (B,)."""
        if "selected" in rows.targets:
            raise ZooError("two objectives of one task hide tokens of the same rows; give each a task of its own.")
        selected = self.select(rows, draw, self.vocabulary)
        ids = self.replacement(rows, selected, draw, self.vocabulary)
        keys = draw.keys(rows.example_ids, "generate").view(np.int64)
        return rows.replace(input_ids=ids).with_targets(selected=selected, original_ids=rows.input_ids, draw_keys=keys)

    def targets(self, rows: Examples) -> Targets:
        """Original ids at the chosen positions, a number for each draw, and the text they are drawn into."""
        positions = np.flatnonzero(rows.targets["selected"])
        found, (row, column) = (
            Targets.at(positions, rows.targets["original_ids"].reshape(-1)[positions]),
            np.divmod(positions, rows.shape[1]),
        )
        bits = bits_at(rows.targets["draw_keys"][row].view(np.uint64), column)
        tensors = found.tensors | {
            "uniform": torch.from_numpy((bits + 0.5) * 2.0**-32),
            "text": torch.from_numpy(rows.targets["original_ids"].astype(np.int64)),
        }
        read = output_positions([positions], *rows.shape)
        # The core's own states are not read here.
        return Targets(tensors | ({} if read is None else {"read": read}), found.count, positions[:0])

    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Summed cross-entropy of the generator; from now on the core reads its samples."""
        tensors = batch.tensors
        states = self.companion(run_core.inputs._replace(output_positions=tensors.get("read")))
        loss = self.token_head.loss(states, embedding, tensors["positions"], tensors["labels"])
        run_core.inputs = run_core.inputs._replace(input_ids=self._with_samples(states, embedding, tensors))
        return LossTerm.by_row(loss, batch, states, self.weight)

    def _with_samples(self, states: Tensor, embedding: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """(B, L) the original text with a sample at each chosen position."""
        positions, text = tensors["positions"], tensors["text"]
        picked = states.detach().reshape(-1, states.shape[-1]).index_select(0, positions)
        samples = draw_tokens(self.token_head, picked, embedding, tensors["uniform"])
        return text.reshape(-1).scatter(0, positions, samples).view_as(text)

    def core_flops(self, rows: int, length: int, tensors: dict[str, Tensor]) -> int:
        """The generator's layers; its last one computes the chosen positions alone, where they are few."""
        outputs = len(tensors["positions"]) if "read" in tensors else None
        return core_flops(self.companion.config, rows, length, outputs=outputs)

    def head_flops(self, targets: int) -> int:
        """The head for the loss, and once more, without a backward pass, for the draws (a third of a training step)."""
        once = token_head_flops(self.companion.config, targets, transform=True)
        return once + once // 3

    # --- looking at it, and scoring by it ---

    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) pseudo-log-likelihood by the generator; :func:`~pretraining.objectives.token_scoring.score_words`."""
        own = CoreRunner(self.companion.core, base_inputs(rows))
        return score_words(MaskedModel(own, self.token_head, embedding, self.vocabulary.mask), rows)

    @torch.no_grad()
    def describe(self, rows: Examples) -> dict[str, Any]:
        """Shares of what happened to the tokens; the samples, and which of them are other tokens."""
        embeddings = self.companion.core.embeddings
        found, tensors = masking_shares(rows, self.vocabulary.mask), self.targets(rows).tensors
        inputs: CoreInputs = base_inputs(rows)
        text = self._with_samples(self.companion(inputs), embeddings.word_embeddings.weight, tensors).numpy()  # type: ignore[arg-type]
        drawn = np.where(rows.targets["selected"], text, _NO_DRAW)
        return {**found, "sampled_ids": drawn, "is_replaced": text != rows.targets["original_ids"]}

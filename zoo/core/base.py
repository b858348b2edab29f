"""The interface of every core, whichever layers it has."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.config import CoreConfig
from zoo.core.characters import CharacterEncoder
from zoo.core.embeddings import Embeddings
from zoo.core.functions import LayerCall, LayerOutput
from zoo.core.init import named_generator
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, CoreOutput
from zoo.vocabulary import Vocabulary


class Core(nn.Module, ABC):
    """What objectives, heads and the loop know of a core, whichever layers it has.

    Attributes:
        config: the core's config.
        embeddings: token vectors.
        layers: each set of weights once; one that layers share is called several times.
        pooler: dense layer of the pooled state, where the config has one.
        recompute_layers: recompute each layer in the backward pass instead of keeping its activations.
        run_layer: calls a layer with its arguments; training may put a compiled call here.
    """

    config: CoreConfig
    embeddings: Embeddings
    layers: nn.ModuleList
    pooler: nn.Linear | None
    recompute_layers: bool
    run_layer: LayerCall

    def call(self, layer: nn.Module, *arguments: Any) -> LayerOutput:
        """Run a layer as training wants it run: recomputed in the backward pass, compiled, or plainly."""
        if self.recompute_layers and torch.is_grad_enabled():
            output: LayerOutput = checkpoint(self.run_layer, layer, *arguments, use_reentrant=False)
            return output
        return self.run_layer(layer, *arguments)

    @property
    def token_embedding(self) -> Tensor:
        """(V, E) the token embedding, which tied heads multiply with; (0, E) in a core that reads characters."""
        table = self.embeddings.word_embeddings
        if isinstance(table, CharacterEncoder):
            return table.projection.weight.new_zeros(0, self.config.embedding_width)
        return table.weight

    @property
    def reads_characters(self) -> bool:
        """Whether tokens are read by their characters, which then have to be set (:meth:`set_spellings`)."""
        return self.config.characters is not None

    def set_spellings(self, words: Sequence[str], vocabulary: Vocabulary) -> None:
        """Note the characters of the vocabulary's words, by id; nothing to do where tokens are rows of a table."""
        table = self.embeddings.word_embeddings
        if isinstance(table, CharacterEncoder):
            table.set_spellings(words, vocabulary.cls, vocabulary.sep)

    def make_gradients_sparse(self) -> None:
        """From now on the table's gradient is of the rows that were looked up, for optimisers that take such ones."""
        if isinstance(self.embeddings.word_embeddings, nn.Embedding):
            self.embeddings.word_embeddings.sparse = True
            # torch's own optimisers leave these checks out as well as others do, and are warned about it.
            warnings.filterwarnings("ignore", message="Sparse invariant checks")

    @abstractmethod
    def forward(
        self,
        inputs: CoreInputs,
        state: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """Run the core on (B, L) ids; ``state`` is what an earlier call gave back."""

    def resize_token_embeddings(self, size: int, seed: int) -> None:
        """Change the vocabulary to ``size`` rows; new rows are drawn as at the start, keyed by their number.

        Raises:
            ZooError: tokens are read by their characters, so that new ones need theirs.
        """
        table = self.embeddings.word_embeddings
        if isinstance(table, CharacterEncoder):
            raise ZooError(
                f"this core reads the characters of its {len(table.spellings)} tokens and has no table to give {size} "
                "rows; words that are not among them go in as character_ids."
            )
        old = table.weight
        new = nn.Embedding(size, old.shape[1], device=old.device, dtype=old.dtype)
        with torch.no_grad():
            kept = min(size, old.shape[0])
            new.weight[:kept] = old[:kept]
            for row in range(kept, size):
                values = torch.empty(old.shape[1]).normal_(
                    0.0, self.config.initializer_range, generator=named_generator(seed, f"token-{row}")
                )
                new.weight[row] = values
        self.embeddings.word_embeddings = new
        self.config = self.config.replace(vocab_size=size)
        self.embeddings.config = self.config

"""The core without layers: a table of word vectors (Mikolov et al. 2013; specs: word2vec, section 2)."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.embeddings import Embeddings
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, CoreOutput


class Lookup(Core):
    """A token's state is its row of the table, whatever stands beside it: one vector for a word, in every sentence.

    Args:
        config: the core's config; ``num_hidden_layers`` must be 0.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute_layers = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList()
        self.pooler = None

    def forward(
        self,
        inputs: CoreInputs,
        state: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> CoreOutput:
        """Look the tokens up.

        Args:
            inputs: (B, L) ids; their attention pattern has nothing to hide here.
            state: nothing is remembered.
            output_hidden_states: also return the states as the only layer's.
            output_attentions: not possible here.

        Raises:
            ZooError: attention is asked for, or a second stream of states.
        """
        if output_attentions:
            raise ZooError("output_attentions: this core is a table of vectors; no token attends to another.")
        if inputs.query is not None:
            raise ZooError("this core is a table of vectors and has no second stream of states (query).")
        states = self.embeddings(inputs)
        return CoreOutput(last_hidden_state=states, hidden_states=(states,) if output_hidden_states else None)

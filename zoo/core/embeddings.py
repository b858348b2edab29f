"""Token, position, segment and task embeddings of a core."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.core.characters import CharacterEncoder
from zoo.core.functions import sinusoids
from zoo.dropout import keyed_dropout
from zoo.errors import ZooError
from zoo.initial import normal
from zoo.inputs import CoreInputs
from zoo.norms import make_norm


class AxialPositions(nn.Module):
    """Positions of a rectangle: a row's vector beside a column's (specs: Reformer, section 2).

    Args:
        config: the core's config.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.axial_pos_shape is not None
        assert config.axial_pos_embds_dim is not None
        (rows, self.columns), (width, other) = config.axial_pos_shape, config.axial_pos_embds_dim
        self.of_rows = nn.Parameter(torch.zeros(rows, 1, width))
        self.of_columns = nn.Parameter(torch.zeros(1, self.columns, other))
        drawn = normal(1.0 / config.axial_norm_std**2)
        self.initial = {"of_rows": drawn, "of_columns": drawn}

    def forward(self, hidden: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """(B, L, E) token vectors at their positions; ``past`` tokens of the rows were run before."""
        if position_ids is None:
            position_ids = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
        row = functional.embedding(position_ids // self.columns, self.of_rows[:, 0])
        column = functional.embedding(position_ids % self.columns, self.of_columns[0])
        return hidden + torch.cat([row, column], dim=-1)


class PositionedEmbeddings(nn.Module):
    """What the embeddings of either side add to token vectors: scale, positions, norm, dropout, the map to the width.

    Args:
        config: the core's config, or its decoder's side.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config

    def _add_positions(self) -> None:
        config = self.config
        self.position_embeddings: nn.Embedding | None = None
        self.axial = AxialPositions(config) if config.position_type == "axial" else None
        if config.position_type == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.embedding_width)
        elif config.position_type == "sinusoidal":
            self.register_buffer("sinusoids", self.make_sinusoids(), persistent=False)

    def _add_end(self) -> None:
        config, width = self.config, self.config.embedding_width
        self.scale = math.sqrt(config.hidden_size) if config.scale_embedding else None
        self.norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.projection = nn.Linear(width, config.input_width) if config.has_embedding_projection else nn.Identity()

    def make_sinusoids(self) -> Tensor:
        """(positions, E) the fixed table that the config describes."""
        return sinusoids(self.config.max_position_embeddings, self.config.embedding_width, self.config.sinusoid_layout)

    def placed(self, hidden: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """(B, L, E) token vectors, scaled, at their positions."""
        if self.scale is not None:
            hidden = hidden * self.scale
        if not self.config.has_position_table:
            return hidden
        if self.axial is not None:
            placed: Tensor = self.axial(hidden, position_ids, past)
            return placed
        length, offset = hidden.shape[1], self.config.position_offset
        table = self.position_embeddings.weight if self.position_embeddings is not None else self.sinusoids
        assert isinstance(table, Tensor)
        if position_ids is not None:
            return hidden + functional.embedding(position_ids + offset, table)
        return hidden + table[offset + past : offset + past + length]

    def finished(self, hidden: Tensor, dropout_keys: Tensor | None, site: int) -> Tensor:
        """(B, L, E) sums -> (B, L, width of the first layer's input)."""
        dropped = keyed_dropout(self.norm(hidden), dropout_keys, site, self.config.hidden_dropout_prob)
        projected: Tensor = self.projection(dropped)
        return projected


class DecoderEmbeddings(PositionedEmbeddings):
    """The decoder's: token vectors come from the encoder's table."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        self._add_positions()
        self._add_end()

    def forward(
        self, tokens: Tensor, position_ids: Tensor | None, dropout_keys: Tensor | None, site: int, past: int = 0
    ) -> Tensor:
        """(B, T, E) token vectors -> (B, T, W); ``past`` tokens of the rows were run before."""
        return self.finished(self.placed(tokens, position_ids, past), dropout_keys, site)


class Embeddings(PositionedEmbeddings):
    """Token + position + segment + task, norm, dropout, and the map to the hidden width where there is one."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__(config)
        if not config.vocab_size and config.characters is None:
            raise ZooError("model.vocab_size is not set: give it, or let the tokenizer decide by leaving it null.")
        width = config.embedding_width
        self.word_embeddings: nn.Embedding | CharacterEncoder
        if config.characters is None:
            self.word_embeddings = nn.Embedding(config.vocab_size or 0, width)
        else:
            self.word_embeddings = CharacterEncoder(config)
        self._add_positions()
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.task_type_embeddings = (
            nn.Embedding(config.task_type_vocab_size, width) if config.task_type_vocab_size else None
        )
        self._add_end()

    def forward(self, inputs: CoreInputs, past: int = 0) -> Tensor:
        """(B, L) ids -> (B, L, width of the first layer's input); ``past`` tokens of the rows were run before."""
        return self.finished(self.summed(inputs, past), inputs.dropout_keys, 0)

    def summed(self, inputs: CoreInputs, past: int = 0) -> Tensor:
        """(B, L) ids -> (B, L, E) the tables' sum, before the norm."""
        hidden: Tensor
        if isinstance(self.word_embeddings, CharacterEncoder):
            hidden = self.word_embeddings(inputs.input_ids, inputs.character_ids)
        elif inputs.character_ids is None:
            hidden = self.word_embeddings(inputs.input_ids)
        else:
            raise ZooError("this core has a table of tokens and does not read character_ids (model.characters: null).")
        hidden = self.placed(hidden, inputs.position_ids, past)
        if self.token_type_embeddings is not None:
            if inputs.token_type_ids is None or self.config.type_vocab_size == 1:  # one segment for all
                hidden = hidden + self.token_type_embeddings.weight[0]
            else:
                hidden = hidden + self.token_type_embeddings(inputs.token_type_ids)
        if self.task_type_embeddings is not None:
            tasks = inputs.task_type_ids
            if tasks is None:
                hidden = hidden + self.task_type_embeddings.weight[0]
            else:
                hidden = hidden + self.task_type_embeddings(tasks if tasks.ndim == 2 else tasks[:, None])
        return hidden

"""Token vectors out of characters: a convolution over the bytes of a word (Kim et al. 2016; specs: ELMo, section 2).

Character numbers: 0 to 255 are bytes of UTF-8, then come the five marks below. Inputs are numbered one higher, so that
0 can mean a masked position, whose vector is zero and not trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn import functional

from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig
from zoo.errors import ZooError
from zoo.initial import constant, normal, uniform

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD = range(256, 261)
_FIRST_MARK = 256
# Text in UTF-8 has no byte above 244: in a table of bytes the last five values stand for the five marks.
_SHIFT = 5


def character_table(
    words: Sequence[str], width: int, begin_sentence: int | None = None, end_sentence: int | None = None
) -> Tensor:
    """(V, width) uint8 spellings of words: mark, bytes (the first ``width`` - 2), mark, padding.

    Args:
        words: by token id.
        width: characters of a word, marks included.
        begin_sentence: id of the token that opens a sentence; its one character is the sentence's own mark.
        end_sentence: id of the token that closes one.
    """
    begin, end, pad = (bytes([mark - _SHIFT]) for mark in (BEGIN_WORD, END_WORD, PAD))
    texts = [word.encode("utf-8", "surrogatepass")[: width - 2] for word in words]
    for token, mark in ((begin_sentence, BEGIN_SENTENCE), (end_sentence, END_SENTENCE)):
        if token is not None and token < len(texts):
            texts[token] = bytes([mark - _SHIFT])
    rows = b"".join((begin + text + end).ljust(width, pad) for text in texts)
    return torch.from_numpy(np.frombuffer(rows, dtype=np.uint8).reshape(len(texts), width).copy())


def character_ids_of(table: Tensor) -> Tensor:
    """Rows of a spelling table -> int64 numbers of characters as the inputs have them, one higher than the byte."""
    wide = table.long()
    return wide + _SHIFT * (wide >= _FIRST_MARK - _SHIFT) + 1


def character_ids(sentences: Sequence[Sequence[str]], width: int, marks: bool = True) -> Tensor:
    """(B, L, width) int64 characters of sentences' words, 0 at padding, for ``CoreInputs.character_ids``.

    Args:
        sentences: words.
        width: characters of a word, marks included.
        marks: put the tokens that open and close a sentence around each.
    """
    rows = [character_table([*sentence, "", ""], width, len(sentence), len(sentence) + 1) for sentence in sentences]
    longest = max((len(sentence) for sentence in sentences), default=0) + 2 * marks
    ids = torch.zeros(len(sentences), longest, width, dtype=torch.int64)
    for number, table in enumerate(rows):
        words = character_ids_of(table)
        ordered = torch.cat([words[-2:-1], words[:-2], words[-1:]]) if marks else words[:-2]
        ids[number, : len(ordered)] = ordered
    return ids


class Highway(nn.Module):
    """y = g relu(W x + b) + (1 - g) x with g = sigmoid(V x + c); c starts at -2, so x passes at first.

    The original's file calls g ``carry``, although it opens the way for the transform (specs: ELMo, trap 2).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = _linear(width, width)
        self.gate = _linear(width, width, bias=-2.0)

    def forward(self, x: Tensor) -> Tensor:
        """(n, F) -> (n, F)."""
        gate = torch.sigmoid(self.gate(x))
        return torch.lerp(x, functional.relu(self.transform(x)), gate)


class CharacterEncoder(nn.Module):
    """Token ids or characters -> token vectors; stands where a core without ``characters`` has its table.

    Attributes:
        spellings: (V, C) uint8 spelling of every token of the vocabulary, saved with the weights, so that token ids
            suffice as inputs; a row of zeros is a token that has none yet (:meth:`set_spellings`).
    """

    spellings: Tensor

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.characters is not None
        self.config: CharacterConfig = config.characters
        own, dim = self.config, self.config.embedding_dim
        shape = (config.vocab_size or 0, own.max_characters_per_token)
        self.register_buffer("spellings", torch.zeros(shape, dtype=torch.uint8))
        self.characters = nn.Embedding(own.n_characters, dim)
        self.characters.initial = {"weight": uniform(1.0)}  # type: ignore[assignment]
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, number, width) for width, number in own.filters)
        for part, (width, _) in zip(self.convolutions, own.filters, strict=True):
            relu = own.activation == "relu"
            part.initial = {"weight": uniform(0.05) if relu else normal(width * dim)}  # type: ignore[assignment]
        self.activation = {"relu": torch.relu, "tanh": torch.tanh}[own.activation]
        self.highways = nn.Sequential(*(Highway(own.features) for _ in range(own.n_highway)))
        self.projection = _linear(own.features, config.embedding_width)

    def set_spellings(
        self, words: Sequence[str], begin_sentence: int | None = None, end_sentence: int | None = None
    ) -> None:
        """Note the spelling of the first tokens, in the order of their ids; see :func:`character_table`.

        Raises:
            ZooError: more words than the core has tokens.
        """
        if len(words) > len(self.spellings):
            raise ZooError(
                f"{len(words)} words are to get a row of characters, but the core has {len(self.spellings)} tokens."
            )
        table = character_table(words, self.config.max_characters_per_token, begin_sentence, end_sentence)
        self.spellings[: len(table)] = table.to(self.spellings.device)

    def forward(self, input_ids: Tensor, characters: Tensor | None = None) -> Tensor:
        """(B, L) token ids -> (B, L, E), every distinct token of the batch once.

        Args:
            input_ids: token ids; not read where characters are given.
            characters: (B, L, C) instead of the tokens' own spelling, for words outside the vocabulary.

        Raises:
            ZooError: a token without a spelling, or characters that the table does not have.
        """
        if characters is not None:
            self._check(characters)
            return self.encode(characters.reshape(-1, characters.shape[-1])).view(*characters.shape[:-1], -1)
        distinct, place = self._distinct(input_ids)
        return functional.embedding(place, self.encode(distinct))  # plain indexing would not repeat on threads

    # What depends on the numbers themselves is left out of compiled graphs, which could only break there. The public
    # decorator, torch.compiler.disable, would import the compiler, a second or two, wherever this file is read.
    @_disable_dynamo
    def _distinct(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C) characters of the batch's distinct tokens, and (B, L) the row of each position."""
        tokens, place = torch.unique(input_ids, return_inverse=True)
        if int(tokens.max()) >= len(self.spellings):
            raise ZooError(f"token {int(tokens.max())} is outside the {len(self.spellings)} tokens of this core.")
        rows = self.spellings[tokens]
        if not bool(rows[:, 0].all()):
            missing = tokens[rows[:, 0] == 0]
            raise ZooError(
                f"{len(missing)} tokens of this batch have no spelling, the first is number {int(missing[0])}: this "
                "core reads characters. Note the vocabulary's words with core.set_spellings(words, vocabulary), "
                "or give character_ids."
            )
        return character_ids_of(rows), place

    def encode(self, characters: Tensor) -> Tensor:
        """(n, C) characters -> (n, E)."""
        # The zero row is put before the table here, so that it can never be trained.
        table = functional.pad(self.characters.weight, (0, 0, 1, 0))
        embedded = functional.embedding(self._without_tail(characters), table).transpose(1, 2)
        # The maximum comes first: it commutes with these activations, and leaves them less to do.
        found = [self.activation(convolution(embedded).amax(-1)) for convolution in self.convolutions]
        result: Tensor = self.projection(self.highways(torch.cat(found, dim=-1)))
        return result

    @_disable_dynamo
    def _without_tail(self, characters: Tensor) -> Tensor:
        """Without trailing columns of padding, of which one window of the widest filter tells everything."""
        alike = (characters == characters[:, -1:]).all(0)
        varied = torch.nonzero(~alike)
        longest = int(varied[-1]) + 1 if len(varied) else 0
        return characters[:, : longest + max(width for width, _ in self.config.filters)]

    @_disable_dynamo
    def _check(self, characters: Tensor) -> None:
        width, highest = self.config.max_characters_per_token, self.config.n_characters
        if characters.shape[-1] != width:
            raise ZooError(
                f"character_ids have {characters.shape[-1]} characters a word, this core reads {width} "
                "(model.characters.max_characters_per_token)."
            )
        if characters.numel() and not 0 <= int(characters.min()) <= int(characters.max()) <= highest:
            raise ZooError(
                f"character_ids reach from {int(characters.min())} to {int(characters.max())}; 0 (masked) to {highest} "
                "are known here (model.characters.n_characters): bytes and marks are numbered from 1."
            )


def _linear(inner: int, outer: int, bias: float = 0.0) -> nn.Linear:
    """A linear map that starts with variance 1 / fan-in."""
    made = nn.Linear(inner, outer)
    made.initial = {"weight": normal(inner), "bias": constant(bias)}  # type: ignore[assignment]
    return made

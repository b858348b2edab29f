"""The interface of noises: what turns a clean row into what an encoder reads of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.vocabulary import Vocabulary


class Noise(ABC):
    """Turns a clean row into what an encoder reads, for a decoder that restores it; noises follow one another.

    Attributes:
        required_fields: per-token arrays of the store that it reads.
        needs_mask: whether the tokenizer must have a mask token.
    """

    required_fields: frozenset[str] = frozenset()
    needs_mask: bool = False

    @abstractmethod
    def __call__(self, rows: Examples, draw: Draw, vocabulary: Vocabulary) -> Examples:
        """The rows as an encoder reads them, of other lengths perhaps; template tokens stay.

        The decoder is asked for the row as it was before the first noise. A noise that asks for something else notes
        ``labels`` (B, T) int32, -100 beyond their end, and ``target_lengths`` (B,) int64 in ``targets``.
        """

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Take the ids of words and the like, once, before rows are noised."""
        return

    def check_length(self, length: int) -> None:
        """Raise ZooError, before any text is read, if it cannot be applied to rows of ``length`` tokens."""
        return

    def check(self, store: Store) -> None:
        """Raise ZooError, before training, if it would do nothing to a text."""
        return

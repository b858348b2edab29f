"""Words of texts and their characters, for cores that read characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import PreTokenizedString, Tokenizer
from torch import Tensor

from finetune.data.spans import MarkedSpan
from finetune.data.tasks import Task
from finetune.inputs.marks import MOST_CHARACTERS, Marked, Marker, Places, chunked, place_spans
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import extend, load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.core.characters import character_table
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata, open_weights


def stored_tokenizer(metadata: ModelMetadata) -> ZooTokenizer:
    """The model's tokenizer as its files have it; its vocabulary must fit the core's.

    Raises:
        ZooError: there is none, or it is another model's.
    """
    try:
        tokenizer = load_tokenizer(metadata.path)
    except ZooError as error:
        if not metadata.config.characters:
            raise
        raise ZooError(
            f"{error} This core reads characters, and words have to be found for it: a tokenizer is needed whose "
            "unit is the word (`zoo import SRC DST --vocabulary FILE` makes one of a list of words)."
        ) from error
    size, rows = tokenizer.vocabulary.size, metadata.config.vocab_size or 0
    if size > rows:
        raise ZooError(
            f"the tokenizer in {metadata.path} has {size} entries, the model's embedding {rows} rows; "
            "they are not of the same run."
        )
    return tokenizer


def task_tokenizer(stored: ZooTokenizer, metadata: ModelMetadata, marks: Sequence[str], segments: bool) -> ZooTokenizer:
    """A copy with every token of the template, whichever of its layouts the task needs.

    Args:
        stored: the model's own (:func:`stored_tokenizer`).
        metadata: the model folder's, with the template.
        marks: further new tokens (:func:`new_marks`).
        segments: the core tells two texts apart.

    Raises:
        ZooError: the core or the tokenizer has no room for new tokens.
    """
    template = metadata.template
    copy = ZooTokenizer(Tokenizer.from_str(stored.backend.to_str()), stored.roles)
    copy.segmenter = stored.segmenter
    wanted = TokenizerConfig(kind="file", path=str(metadata.path), new_tokens=[*template.tokens, *marks])
    tokenizer = extend(copy, wanted, template, special=list(marks))
    if metadata.config.characters and tokenizer.vocabulary.size > stored.vocabulary.size:
        lacking = [token for token in template.tokens if stored.backend.token_to_id(token) is None]
        raise ZooError(
            f"the template's {', '.join(lacking)} are no tokens of {metadata.path}, whose core reads characters and "
            "has no table for new ones to be added to; a template of its own tokens would work: "
            f"{', '.join(stored.roles.values())}."
        )
    tokenizer.set_template(template, segments)
    tokenizer.backend.encode_special_tokens = True  # "[SEP]" written in a text is text
    return tokenizer


def new_marks(stored: ZooTokenizer, metadata: ModelMetadata, task: Task, frozen: bool) -> list[str]:
    """Marks that get a row of the embedding; to a core that reads characters by words, a mark is a word.

    Args:
        stored: the model's own tokenizer.
        metadata: the model folder's.
        task: says what marks it needs.
        frozen: the core stays as it is, so that it cannot learn new tokens.

    Raises:
        ZooError: there is no row to be had.
    """
    lacking = [token for token in task.mark_tokens if stored.backend.token_to_id(token) is None]
    if not lacking or (metadata.config.characters and stored.whole_words):
        return []
    if metadata.config.characters or frozen:
        reason = (
            "whose core reads characters" if metadata.config.characters else "whose core stays as it is (use: features)"
        )
        raise ZooError(
            f"task {task.name!r} marks spans by {', '.join(lacking)}, no tokens of {metadata.path}, "
            f"{reason}, so that new ones cannot be learned; tokens that it has would work, such as # and $."
        )
    return lacking


def open_character_tokenizer(tokenizer: ZooTokenizer, metadata: ModelMetadata) -> CharacterTokenizer | None:
    """Finds words and their characters, for a core that reads characters by words; ``None`` for any other.

    Raises:
        ZooError: the core does not know the characters of the tokenizer's words.
    """
    if metadata.config.characters is None:
        return None
    spellings = open_weights(metadata.path)["core.embeddings.word_embeddings.spellings"]
    lacking = [i for i in range(tokenizer.vocabulary.size) if i >= len(spellings) or not spellings[i, 0]]
    if lacking:
        raise ZooError(
            f"the core in {metadata.path} reads characters and does not know those of {len(lacking)} of its "
            f"tokenizer's {tokenizer.vocabulary.size} tokens, the first is "
            f"{tokenizer.token(lacking[0])!r}; tell it by core.set_spellings(words, vocabulary) and save it."
        )
    if not tokenizer.whole_words:  # pieces of words: there are no others than those in the vocabulary
        return None
    return CharacterTokenizer(tokenizer.backend, spellings, tokenizer.vocabulary.unk)


def make_marker(
    task: Task,
    tokenizer: ZooTokenizer,
    characters: CharacterTokenizer | None,
    entities: dict[str, int],
    confidence: float,
) -> Marker | None:
    """What makes tokens of texts with spans; ``None`` for a task without.

    Args:
        task: says what stands around the spans of which fields.
        tokenizer: the task's.
        characters: finds the words of a core that reads characters, in the tokenizer's place.
        entities: numbers in the table by name; others are none.
        confidence: least confidence of a linker with which an entity is read.
    """
    if not task.span_fields:
        return None

    def number(token: str) -> int:
        found = tokenizer.backend.token_to_id(token) if characters is None else characters.number(token)
        assert found is not None
        return found

    def places(texts: list[str]) -> Places:
        if characters is not None:
            return characters.places(texts)
        (ids, _, sizes), found = tokenizer.encode_places(texts)
        return ids, sizes, found

    marks = {mark.field: (number(mark.before), number(mark.behind)) for mark in task.marks}

    def marker(texts: list[str], spans: list[tuple[MarkedSpan, ...]], where: list[str]) -> Marked:
        long = next((number for number, text in enumerate(texts) if len(text) > MOST_CHARACTERS), None)
        if long is not None:
            raise ZooError(
                f"{where[long]}: a text of {len(texts[long]):,} characters; where spans are, is known up to "
                f"{MOST_CHARACTERS:,}."
            )
        parts = [
            place_spans(places(texts[at]), spans[at], marks, entities, confidence, where[at])
            for at in chunked(len(texts))
        ]
        return Marked(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return marker


class WordCharacters(NamedTuple):
    """The words of T tokens by their characters, also those that the vocabulary lacks.

    Args:
        words: (T,) int32 row of each token's word in the table.
        table: (n, C) uint8 characters of the distinct words (:func:`zoo.core.characters.character_table`).
    """

    words: NDArray[np.int32]
    table: Tensor


class CharacterTokenizer:
    """Finds the words of texts, and their characters, for a core that reads characters.

    Args:
        tokenizer: its unit is the word.
        spellings: (V, C) uint8 the characters of each token, as the core has them.
        unknown: id of words without a token.
    """

    def __init__(self, tokenizer: Tokenizer, spellings: Tensor, unknown: int | None) -> None:
        self._normalizer, self._splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._unknown = unknown
        self.spellings, self._new = spellings, {}  # type: Tensor, dict[str, int]

    def words(self, text: str) -> list[str]:
        """The words as the tokenizer finds them."""
        plain = text if self._normalizer is None else self._normalizer.normalize_str(text)
        if self._splitter is None:
            return [plain]
        return [word for word, _ in self._splitter.pre_tokenize_str(plain)]

    def encode(self, texts: list[str], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(T,) ids of all texts and (N,) lengths; at most ``limit`` + 1 words are kept of each.

        A word that has no token gets a number of its own behind the vocabulary's.
        """
        ids: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            found = self.words(text)[: limit + 1]
            ids.extend(self.number(word) for word in found)
            lengths[number] = len(found)
        return np.array(ids, dtype=np.int32), lengths

    def places(self, texts: list[str]) -> Places:
        """All words of texts, numbered as by ``encode``, and where they stand."""
        ids: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        characters: list[tuple[int, int]] = []
        normalizer, splitter = self._normalizer, self._splitter
        for number, text in enumerate(texts):
            split = PreTokenizedString(text)
            if normalizer is not None:
                split.normalize(normalizer.normalize)
            if splitter is not None:
                splitter.pre_tokenize(split)
            found = split.get_splits(offset_referential="original", offset_type="char")
            ids.extend(self.number(word) for word, _, _ in found)
            characters.extend(place for _, place, _ in found)
            lengths[number] = len(found)
        return np.array(ids, np.int32), lengths, np.array(characters, np.int64).reshape(-1, 2)

    def number(self, word: str) -> int:
        """A word's token, or a number of its own behind the vocabulary's."""
        known = None if word in self._special else self._ids.get(word)  # "[SEP]" written in a text is text
        if known is not None:
            return known
        return self._new.setdefault(word, len(self.spellings) + len(self._new))

    def characters_of(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], WordCharacters]:
        """(T,) ids that the vocabulary has, and the characters of all tokens, of numbers as ``encode`` gives them."""
        size, width = self.spellings.shape
        distinct, words = np.unique(numbers, return_inverse=True)
        new = list(self._new)
        rows = [self.spellings[torch.from_numpy(distinct[distinct < size])]]
        rows.append(character_table([new[number - size] for number in distinct[distinct >= size]], width))
        ids = np.where(numbers < size, numbers, 0 if self._unknown is None else self._unknown)
        return ids.astype(np.int32), WordCharacters(words.astype(np.int32), torch.cat(rows))

"""The tokenizer: a ``tokenizers`` backend that ``AutoTokenizer`` opens, and what the zoo needs to know beyond it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, processors

from pretraining.text.segmenter import SegmenterName
from pretraining.tokenizer.entries import LONGEST_TEXT, FlatIds
from pretraining.tokenizer.units import word_marks
from pretraining.tokenizer.word_cache import WordCache
from zoo.config import CoreConfig
from zoo.errors import ZooError, nearest
from zoo.storage.files import write_atomic, write_json
from zoo.vocabulary import Template, Vocabulary, parse_layout

TextIds = tuple[NDArray[np.int32], NDArray[np.uint8]]
"""(n,) ids and (n,) flags of one text."""


class ZooTokenizer:
    """A ``tokenizers`` backend, and what the zoo needs to know beyond it.

    Args:
        backend: the tokenizer; special tokens added.
        roles: special tokens by role.

    Attributes:
        backend: the ``tokenizers.Tokenizer``.
        roles: special tokens by role.
        vocabulary: size and special ids.
        segmenter: what found the words of Chinese text, for whoever reads other text as that text was read; kept in the
            files. Where the unit is the word, it has to.
        notes: what was done to read it from files that are not quite what they should be.
    """

    def __init__(self, backend: Tokenizer, roles: dict[str, str]) -> None:
        self.backend = backend
        self.roles = {role: token for role, token in roles.items() if backend.token_to_id(token) is not None}
        ids = {role: backend.token_to_id(token) for role, token in self.roles.items()}
        highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.vocabulary = Vocabulary(size=highest + 1, **ids)
        self.template: Template | None = None
        self.segments = True
        self.segmenter: SegmenterName = "none"
        self.notes: tuple[str, ...] = ()
        self._words: WordCache | None = None
        self._marks = word_marks(backend)

    # -- encoding

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Encoding (``ids``, ``type_ids``, ``tokens``, ``offsets``) with the template's special tokens.

        Special tokens written out in the text are taken as such; :meth:`encode_batch` takes them as text.
        """
        return self.backend.encode(text, pair)

    def encode_batch(
        self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None
    ) -> list[TextIds]:
        """Ids and flags of plain texts, without special tokens.

        Args:
            texts: sentences. Special tokens written out in them are ordinary text.
            word_boundaries: for each text the character offsets at which a segmenter's words start, or
                ``None`` for the script's own: white space, and every Chinese character by itself.

        Returns:
            for each text (n,) int32 ids and (n,) uint8 flags: ``WORD_START`` where a word starts (the first
            piece always does), ``CAPITALISED`` at every piece of a word whose first letter was upper case.
        """
        ids, flags, sizes = self.encode_flat(texts, word_boundaries)
        edges = np.cumsum(sizes)[:-1]
        return list(zip(np.split(ids, edges), np.split(flags, edges))) if len(sizes) else []

    def encode_flat(
        self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None
    ) -> FlatIds:
        """As :meth:`encode_batch`, but end to end: all ids, all flags, and the (texts,) numbers of tokens."""
        return self._cache.encode(texts, word_boundaries or [None] * len(texts))[0]

    def encode_places(
        self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None
    ) -> tuple[FlatIds, NDArray[np.int64]]:
        """As :meth:`encode_flat`, and (n, 2) the characters [begin, end) of its text that each token stands for.

        White space at either side of a token is none of its characters. A token of white space only, or one that
        only marks where a word starts, has an empty place: where its space is, or just before the word.

        Raises:
            ValueError: a text of 131,072 characters and more.
        """
        if max(map(len, texts), default=0) > LONGEST_TEXT:
            raise ValueError(f"a text of {max(map(len, texts))} characters; places are known up to {LONGEST_TEXT}.")
        flat, places = self._cache.encode(texts, word_boundaries or [None] * len(texts), places=True)
        assert places is not None
        return flat, places

    @property
    def _cache(self) -> WordCache:
        if self._words is None:
            self._words = WordCache(self.backend, self._marks)
        return self._words

    def forget_words(self) -> None:
        """Empty the cache of words, as in a process that has encoded nothing yet."""
        self._words = None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))

    def token(self, index: int) -> str:
        """The token with this id.

        Raises:
            ZooError: outside the vocabulary.
        """
        found = self.backend.id_to_token(int(index))
        if found is None:
            raise ZooError(f"token id {index} is outside the vocabulary of {self.vocabulary.size} entries.")
        return str(found)

    @property
    def keeps_spaces(self) -> bool:
        """Whether a space before a sentence is part of its first token (byte-level vocabularies)."""
        return self._marks.marker == "Ġ"

    @property
    def marks_words(self) -> bool:
        """Whether a space is a mark at the start of the next token (byte-level and SentencePiece vocabularies)."""
        return self._marks.marks_space

    @property
    def lowercases(self) -> bool:
        """Whether case is folded."""
        folded = self.backend.normalizer.normalize_str("A") if self.backend.normalizer is not None else "A"
        return "A" not in folded

    @property
    def whole_words(self) -> bool:
        """Whether the unit is the word (word-level vocabularies)."""
        return isinstance(self.backend.model, models.WordLevel)

    def backend_key(self) -> str:
        """What the ids of plain text depend on, as text: the backend without its template."""
        state = json.loads(self.backend.to_str())
        return json.dumps({**state, "post_processor": None, "padding": None, "truncation": None}, sort_keys=True)

    def word_starts(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """(n,) 1 where a word starts, by the spelling of the tokens alone."""
        return self._marks.begin(ids).astype(np.uint8)

    def word_start_ids(self) -> NDArray[np.bool_]:
        """(V,) whether a token can start a word by its own spelling."""
        return self._marks.starts

    # -- template and files

    def set_template(self, template: Template, segments: bool = True) -> None:
        """Make ``encode`` (and ``AutoTokenizer`` after :meth:`save`) lay texts out as the template says.

        Args:
            template: layouts of one text and of two.
            segments: number the second text 1; ``False`` for models without segments.

        Raises:
            ZooError: a special token of the template is not in the vocabulary.
        """
        for name in template.tokens:
            if self.backend.token_to_id(name) is None:
                have = list(self.roles.values())
                raise ZooError(
                    f"template: {name!r} is no token of the vocabulary; special tokens are {', '.join(have) or 'none'}."
                    f"{nearest(name, have)}"
                )
        self.backend.post_processor = processors.TemplateProcessing(
            single=_with_types(template.single, segments),
            pair=_with_types(template.pair, segments),
            special_tokens=[(name, self.backend.token_to_id(name)) for name in template.tokens],
        )
        self.template, self.segments = template, segments

    def save(self, folder: str | Path, model: CoreConfig | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, each atomically.

        Args:
            folder: where to.
            model: config of the model that lies there, which may limit the length of a text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": token for role, token in self.roles.items()}
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if self.segments else ["input_ids", "attention_mask"]
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": inputs,
            "padding_side": self.template.padding_side if self.template else "right",
            "clean_up_tokenization_spaces": False,
            **({} if model is None else model.tokenizer_settings),
            **({} if self.segmenter == "none" else {"segmenter": self.segmenter}),
            **names,
        }
        write_atomic(folder / "tokenizer.json", self.backend.to_str(pretty=False), shared=True)
        write_json(folder / "tokenizer_config.json", config, shared=True)
        write_json(folder / "special_tokens_map.json", names, shared=True)


def _with_types(layout: str, segments: bool) -> str:
    """``[CLS] $A [SEP] $B [SEP]`` with segment numbers: everything after ``$A``'s own separators is 1."""
    return " ".join(f"{word}:{segment if segments else 0}" for word, segment in parse_layout(layout))

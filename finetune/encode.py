"""Labelled texts to padded batches: template, longest-first truncation, length groups. Whole arrays throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import PreTokenizedString, Tokenizer
from torch import Tensor

from finetune.data import Examples
from finetune.spans import Marked, Places, Span, respaced
from pretraining.random import Draw
from pretraining.segment import Segmenter, SegmenterName, join_words
from zoo.characters import spelling_table, spelt
from zoo.dropout import row_keys
from zoo.entities import Entities
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, pack_inputs
from zoo.vocabulary import Template, numbered

_GROUP = 64  # batches whose rows are sorted by length together
_CHUNK = 16_384  # texts handed to the tokenizer at a time


class SpeltWords(NamedTuple):
    """The words of T tokens by their characters, also those that the vocabulary lacks.

    Args:
        words: (T,) int32 row of each token's word in the table.
        table: (n, C) uint8 spellings of the distinct words (:func:`zoo.characters.spelling_table`).
    """

    words: NDArray[np.int32]
    table: Tensor


class Speller:
    """Finds the words of texts for a core that reads characters, and spells those that have no token.

    Args:
        tokenizer: its unit is the word.
        spellings: (V, C) uint8 the core's spelling of each token.
        unknown: id of words without a token.
    """

    def __init__(self, tokenizer: Tokenizer, spellings: Tensor, unknown: int | None) -> None:
        self._normalizer, self._splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
        self._ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self._special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self._unknown = unknown
        self._known, self._new = spellings, {}  # type: Tensor, dict[str, int]

    def words(self, text: str) -> list[str]:
        """The words as the tokenizer finds them."""
        plain = text if self._normalizer is None else self._normalizer.normalize_str(text)
        if self._splitter is None:
            return [plain]
        return [word for word, _ in self._splitter.pre_tokenize_str(plain)]

    def tokenize(self, texts: list[str], limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """As :func:`tokenize`, but a word that has no token gets a number of its own behind the vocabulary's."""
        ids: list[int] = []
        lengths = np.empty(len(texts), dtype=np.int64)
        for number, text in enumerate(texts):
            found = self.words(text)[: limit + 1]
            ids.extend(self.number(word) for word in found)
            lengths[number] = len(found)
        return np.array(ids, dtype=np.int32), lengths

    def places(self, texts: list[str]) -> Places:
        """All words of texts, numbered as by ``tokenize``, and where they stand."""
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
        return self._new.setdefault(word, len(self._known) + len(self._new))

    def spell(self, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int32], SpeltWords]:
        """(T,) ids that the vocabulary has, and the spelling of all tokens, of numbers as ``tokenize`` gives them."""
        size, width = self._known.shape
        distinct, words = np.unique(numbers, return_inverse=True)
        new = list(self._new)
        rows = [self._known[torch.from_numpy(distinct[distinct < size])]]
        rows.append(spelling_table([new[number - size] for number in distinct[distinct >= size]], width))
        ids = np.where(numbers < size, numbers, 0 if self._unknown is None else self._unknown)
        return ids.astype(np.int32), SpeltWords(words.astype(np.int32), torch.cat(rows))


@dataclass(frozen=True)
class Encoded:
    """N rows of token ids, one after the other.

    Args:
        ids: (T,) int32 all rows' tokens, template tokens in place.
        types: (T,) int8 segment of each token.
        offsets: (N + 1,) int64; row n is tokens [n, n + 1).
        labels: (N,) int64 class numbers.
        numbers: (N,) int64 row numbers in the source.
        cut: (N,) rows that lost tokens.
        lost: (N,) rows that lost a part of what is marked in them.
        entities: (T,) int32 entity number + 1 at the first token of a mention, 0 elsewhere.
        spelt: how the words are spelt, for cores that read characters; ``None`` = others.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    cut: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    entities: NDArray[np.int32]
    spelt: SpeltWords | None = None

    @property
    def truncated(self) -> int:
        """Rows that lost tokens."""
        return int(self.cut.sum())

    @property
    def marks_cut(self) -> int:
        """Rows that lost a part of what is marked in them."""
        return int(self.lost.sum())

    def __len__(self) -> int:
        """Rows."""
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each row."""
        return np.diff(self.offsets)


def template_words(template: Template, pair: bool) -> list[tuple[str, int]]:
    """The layout's words and their segments; ``$A`` and ``$B`` stand for the texts.

    Raises:
        ZooError: a text is missing or named twice.
    """
    layout = template.pair if pair else template.single
    words = numbered(layout)
    texts = ["$A", "$B"] if pair else ["$A"]
    if [word for word, _ in words if word.startswith("$")] != texts:
        kind = "pair" if pair else "single"
        raise ZooError(
            f"the template's {kind} layout is {layout!r}; it must name {' and '.join(texts)}, once, in order."
        )
    return words


def truncate(a: NDArray[np.int64], b: NDArray[np.int64], budget: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths after taking tokens off the end of the longer text, one by one, ties from the second.

    The closed form of BERT's ``_truncate_seq_pair`` (specs: BERT, section 5).
    """
    half = budget // 2
    return np.minimum(a, np.maximum(budget - half, budget - b)), np.minimum(b, np.maximum(half, budget - a))


def truncate_marked(a: Marked, b: Marked, budget: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """As :func:`truncate`, but of a text's marked stretch nothing is taken while the other has unmarked tokens.

    Where the two stretches alone are too long, they are what is truncated. Pairs without marks: :func:`truncate`.
    """
    least_a, least_b = truncate(a.stop - a.first, b.stop - b.first, budget)
    kept_a, kept_b = truncate(a.lengths, b.lengths, budget)
    return np.clip(kept_a, least_a, budget - least_b), np.clip(kept_b, least_b, budget - least_a)


def tokenize(texts: list[str], tokenizer: Tokenizer, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(T,) ids of all texts and (N,) lengths; at most ``limit`` + 1 tokens are kept of each."""
    ids: list[NDArray[np.int32]] = []
    lengths = np.empty(len(texts), dtype=np.int64)
    for start in range(0, len(texts), _CHUNK):
        encodings = tokenizer.encode_batch_fast(texts[start : start + _CHUNK], add_special_tokens=False)
        for number, encoding in enumerate(encodings, start=start):
            row = np.asarray(encoding.ids[: limit + 1], dtype=np.int32)
            ids.append(row)
            lengths[number] = len(row)
    return np.concatenate(ids) if ids else np.zeros(0, np.int32), lengths


Marker = Callable[[list[str], list[tuple[Span, ...]], list[str]], Marked]
"""Texts, their spans, and their sources for messages, to tokens with marks."""


def window(text: Marked, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) first of the tokens that are kept of each text.

    A text loses its end; so much of its beginning goes instead as brings in what is marked, from the first mark to the
    last. Where that is longer than what is kept, its beginning stays.
    """
    return np.minimum(np.maximum(text.stop - kept, 0), text.first)


def encode(
    examples: Examples,
    layout: list[tuple[str, int]],
    tokenizer: Tokenizer,
    max_length: int,
    speller: Speller | None = None,
    marker: Marker | None = None,
) -> Encoded:
    """Tokenise, truncate and lay out all rows.

    A row is cut where nothing is marked, if there is room for what is; if not, it is kept with what fits, and counted.

    Args:
        examples: N labelled rows.
        layout: words and segments (:func:`template_words`).
        tokenizer: the model's, with the layout's special tokens.
        max_length: longest row, special tokens included.
        speller: finds and spells the words of a core that reads characters.
        marker: makes tokens of texts that have spans.

    Raises:
        ZooError: no room for the texts, or what ``marker`` raises.
    """
    words = [word for word, _ in layout]
    budget = max_length - sum(not word.startswith("$") for word in words)
    if budget < len(words) - (max_length - budget):
        raise ZooError(f"max_length = {max_length} leaves no room beside the template {' '.join(words)!r}.")

    where = [f"{examples.source}, line {number + 1}" for number in examples.numbers]

    def read(texts: list[str], side: int) -> Marked:
        if marker is not None and examples.spans is not None:
            return marker(texts, [row[side] for row in examples.spans], where)
        found = tokenize(texts, tokenizer, budget) if speller is None else speller.tokenize(texts, budget)
        nothing = np.zeros_like(found[1])
        return Marked(*found, np.zeros_like(found[0]), nothing, nothing)

    first = read(examples.texts, 0)
    nothing = np.zeros_like(first.lengths)
    second = Marked(np.zeros(0, np.int32), nothing, np.zeros(0, np.int32), nothing, nothing)
    if examples.pairs is not None:
        second = read(examples.pairs, 1)
    a, b = truncate_marked(first, second, budget)
    parts = [a if word == "$A" else b if word == "$B" else np.ones_like(a) for word in words]
    ends = np.cumsum(np.stack(parts, axis=1), axis=1)  # (N, words) within the row
    offsets = np.concatenate([[0], np.cumsum(ends[:, -1])])
    ids, types = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], np.int8)
    entities = np.zeros(offsets[-1], np.int32)
    sources = {"$A": first, "$B": second}
    cut, lost = (np.zeros(len(examples), dtype=bool) for _ in range(2))
    for place, (word, segment) in enumerate(layout):
        at = _ragged(offsets[:-1] + ends[:, place] - parts[place], parts[place])
        if word in sources:
            text, kept = sources[word], parts[place]
            start = window(text, kept)
            taken = _ragged(np.cumsum(text.lengths) - text.lengths + start, kept)
            ids[at], entities[at] = text.ids[taken], text.entities[taken]
            cut |= kept < text.lengths
            lost |= start + kept < text.stop
        else:
            ids[at] = tokenizer.token_to_id(word)
        types[at] = segment
    spelt_words = None
    if speller is not None:
        ids, spelt_words = speller.spell(ids)
    return Encoded(ids, types, offsets, examples.labels, examples.numbers, cut, lost, entities, spelt_words)


def filled(rows: Encoded, pad: int) -> Encoded:
    """The rows with one token of padding in those that have none at all, so that there is something to read."""
    at = rows.offsets[:-1][rows.lengths == 0]
    offsets = np.append(0, np.cumsum(np.maximum(rows.lengths, 1)))
    spelt_words = rows.spelt
    if spelt_words is not None:
        table = torch.cat([spelt_words.table, spelling_table([""], spelt_words.table.shape[1])])
        spelt_words = SpeltWords(np.insert(spelt_words.words, at, len(table) - 1), table)
    ids, types, entities = np.insert(rows.ids, at, pad), np.insert(rows.types, at, 0), np.insert(rows.entities, at, 0)
    return replace(rows, ids=ids, types=types, offsets=offsets, entities=entities, spelt=spelt_words)


def segmented(examples: Examples, name: SegmenterName) -> Examples:
    """The texts with spaces between the words that a segmenter finds, for tokenizers whose unit is the word."""
    if name == "none":
        return examples
    segmenter = Segmenter(name)

    def spaced(text: str) -> str:
        found = segmenter.words(text)
        return text if found is None else join_words(*found)

    pairs = None if examples.pairs is None else [spaced(text) for text in examples.pairs]
    made = replace(examples, texts=[spaced(text) for text in examples.texts], pairs=pairs)
    if examples.spans is None:
        return made
    sides = [(examples.texts, made.texts), (examples.pairs or [], made.pairs or [])]
    spans = [
        tuple(respaced(own, sides[side][0][number], sides[side][1][number]) for side, own in enumerate(row))
        for number, row in enumerate(examples.spans)
    ]
    return replace(made, spans=spans)


def _ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... of each run, one run after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def training_batches(lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """One epoch's batches: every row once, rows of like length together, a pure function of the arguments.

    Rows are shuffled, sorted by length within groups of 64 batches, cut into batches (the last of the epoch may
    be smaller), and the batches shuffled.
    """
    draw = Draw(seed, epoch)
    order = draw.permutation(len(lengths), "finetune.rows")
    group = batch_size * _GROUP
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), group):
        rows = order[start : start + group]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.extend(rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    return [batches[i] for i in draw.permutation(len(batches), "finetune.batches")]


def evaluation_batches(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Batches of like length, in order of length."""
    order = np.argsort(lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def collate(
    data: Encoded,
    rows: NDArray[np.int64],
    pad: int,
    causal: bool,
    segments: bool,
    keys: tuple[int, int, NDArray[np.int64]] | None = None,
    table: Entities | None = None,
) -> tuple[CoreInputs, Tensor]:
    """Rows padded to the longest of them, and their labels.

    Args:
        data: the encoded rows.
        rows: (B,) which of them.
        pad: padding id.
        causal: positions see the past only.
        segments: the core tells segments apart.
        keys: seed, step and (B,) places in the global batch for dropout; ``None`` = no dropout.
        table: vectors of the entities, for a core that reads them.
    """
    starts, lengths = data.offsets[rows], data.lengths[rows]
    columns = np.arange(int(lengths.max()))
    real = columns[None, :] < lengths[:, None]
    at = np.where(real, starts[:, None] + columns[None, :], 0)
    ids = np.where(real, data.ids[at], pad)
    types = np.where(real, data.types[at], 0)
    characters = None
    if data.spelt is not None:
        characters = spelt(data.spelt.table[torch.from_numpy(np.where(real, data.spelt.words[at], 0))])
        characters = characters.masked_fill(~torch.from_numpy(real)[..., None], 0)
    entity_ids = entity_vectors = None
    if table is not None:
        read = np.where(real, data.entities[at], 0)
        known = np.unique(read[read > 0]).astype(np.int64)
        local = np.where(read > 0, np.searchsorted(known, read) + 1, 0)
        entity_ids = torch.from_numpy(local)
        entity_vectors = torch.from_numpy(table.rows(known - 1))
    inputs = pack_inputs(
        ids,
        lengths,
        causal=causal,
        token_types=types if segments else None,
        dropout_keys=None if keys is None else row_keys(*keys),
        character_ids=characters,
        entity_ids=entity_ids,
        entity_vectors=entity_vectors,
    )
    return inputs, torch.from_numpy(data.labels[rows])

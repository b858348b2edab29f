"""Labelled texts to rows of ids: template, truncation from the longer text first. Whole arrays throughout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune.data.examples import LabelledTexts
from finetune.data.spans import respaced
from finetune.inputs.batches import EncodedRows
from finetune.inputs.marks import Marked, Marker
from finetune.inputs.task_tokenizer import CharacterTokenizer
from pretraining.arrays import ragged_ranges
from pretraining.text.segmenter import Segmenter, SegmenterName, join_words
from zoo.errors import ZooError
from zoo.vocabulary import Template, parse_layout

_CHUNK = 16_384  # texts handed to the tokenizer at a time


def template_tokens(template: Template, pair: bool) -> list[tuple[str, int]]:
    """The layout's words and their segments; ``$A`` and ``$B`` stand for the texts.

    Raises:
        ZooError: a text is missing or named twice.
    """
    layout = template.pair if pair else template.single
    words = parse_layout(layout)
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


def window(text: Marked, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) first of the tokens that are kept of each text.

    A text loses its end; so much of its beginning goes instead as brings in what is marked, from the first mark to the
    last. Where that is longer than what is kept, its beginning stays.
    """
    return np.minimum(np.maximum(text.stop - kept, 0), text.first)


def encode(
    examples: LabelledTexts,
    layout: list[tuple[str, int]],
    tokenizer: Tokenizer,
    max_length: int,
    characters: CharacterTokenizer | None = None,
    marker: Marker | None = None,
) -> EncodedRows:
    """Tokenise, truncate and lay out all rows.

    A row is cut where nothing is marked, if there is room for what is; if not, it is kept with what fits, and counted.

    Args:
        examples: N labelled rows.
        layout: words and segments (:func:`template_tokens`).
        tokenizer: the model's, with the layout's special tokens.
        max_length: longest row, special tokens included.
        characters: finds words and their characters, for a core that reads characters.
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
        found = tokenize(texts, tokenizer, budget) if characters is None else characters.encode(texts, budget)
        nothing = np.zeros_like(found[1])
        return Marked(*found, np.zeros_like(found[0]), nothing, nothing)

    first = read(examples.texts, 0)
    nothing = np.zeros_like(first.lengths)
    second = Marked(np.zeros(0, np.int32), nothing, np.zeros(0, np.int32), nothing, nothing)
    if examples.pairs is not None:
        second = read(examples.pairs, 1)
    a, b = truncate_marked(first, second, budget)
    rows, _ = lay_out(layout, {"$A": (first, a), "$B": (second, b)}, tokenizer, characters)
    return rows


def lay_out(
    layout: list[tuple[str, int]],
    texts: dict[str, tuple[Marked, NDArray[np.int64]]],
    tokenizer: Tokenizer,
    characters: CharacterTokenizer | None = None,
) -> tuple[EncodedRows, dict[str, NDArray[np.int64]]]:
    """N rows with the words of the layout in place, and where each text begins in its row.

    Args:
        layout: words and segments.
        texts: what stands for ``$A`` and ``$B``: tokens of all rows, and (N,) how many of each row are kept.
        tokenizer: has the layout's special tokens.
        characters: knows the characters of words, for a core that reads characters.
    """
    count = len(texts["$A"][1])
    single = np.ones(count, dtype=np.int64)
    parts = [texts[word][1] if word in texts else single for word, _ in layout]
    ends = np.cumsum(np.stack(parts, axis=1), axis=1)  # (N, words) within the row
    offsets = np.concatenate([[0], np.cumsum(ends[:, -1])])
    ids, types = np.empty(offsets[-1], np.int32), np.zeros(offsets[-1], np.int8)
    entities = np.zeros(offsets[-1], np.int32)
    cut, lost = (np.zeros(count, dtype=bool) for _ in range(2))
    begins: dict[str, NDArray[np.int64]] = {}
    for place, (word, segment) in enumerate(layout):
        at = ragged_ranges(offsets[:-1] + ends[:, place] - parts[place], parts[place])
        if word in texts:
            text, kept = texts[word]
            begins[word] = ends[:, place] - parts[place]
            start = window(text, kept)
            taken = ragged_ranges(np.cumsum(text.lengths) - text.lengths + start, kept)
            ids[at], entities[at] = text.ids[taken], text.entities[taken]
            cut |= kept < text.lengths
            lost |= start + kept < text.stop
        else:
            ids[at] = tokenizer.token_to_id(word)
        types[at] = segment
    word_characters = None
    if characters is not None:
        ids, word_characters = characters.characters_of(ids)
    return EncodedRows(ids, types, offsets, cut, lost, entities, word_characters), begins


def spaced(texts: list[str], name: SegmenterName) -> list[str]:
    """Texts with spaces between the words that a segmenter finds, for tokenizers whose unit is the word."""
    if name == "none":
        return texts
    segmenter = Segmenter(name)
    found = [segmenter.words(text) for text in texts]
    return [text if words is None else join_words(*words) for text, words in zip(texts, found, strict=True)]


def with_word_spaces(examples: LabelledTexts, name: SegmenterName) -> LabelledTexts:
    """The same examples with their texts, and their spans, as :func:`spaced` makes them."""
    if name == "none":
        return examples
    pairs = None if examples.pairs is None else spaced(examples.pairs, name)
    made = replace(examples, texts=spaced(examples.texts, name), pairs=pairs)
    if examples.spans is None:
        return made
    sides = [(examples.texts, made.texts), (examples.pairs or [], made.pairs or [])]
    spans = [
        tuple(respaced(own, sides[side][0][number], sides[side][1][number]) for side, own in enumerate(row))
        for number, row in enumerate(examples.spans)
    ]
    return replace(made, spans=spans)

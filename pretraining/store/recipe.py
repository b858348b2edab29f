"""From text to ids: what is done with a chunk of a corpus."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.annotations.to_tokens import Annotations, Piece
from pretraining.arrays import SENTENCE_START
from pretraining.corpus.chunks import Chunk, read_chunks
from pretraining.corpus.config import LANGUAGE, CorpusConfig
from pretraining.corpus.records import Document, parse_chunk
from pretraining.corpus.sources import Source
from pretraining.store.beginnings import ENOUGH_CHARACTERS
from pretraining.store.shards import ShardArrays, token_dtype
from pretraining.text import sentences as splitter
from pretraining.text.segmenter import Segmenter, join_words
from pretraining.tokenizer.entries import FlatIds
from pretraining.tokenizer.tokenizer import ZooTokenizer

RECIPE = 2
"""Version of what is done between text and store; part of every fingerprint."""
_SENTENCES_AT_ONCE = 512


class Recipe:
    """What a worker does with a chunk: documents, sentences, words, ids."""

    def __init__(self, corpus: CorpusConfig, tokenizer: ZooTokenizer, joins: bool) -> None:
        self._field = corpus.text_field
        self._spans = splitter.sentence_spans if corpus.sentences == "rule" else splitter.line_spans
        self._segmenter = Segmenter(corpus.segmenter, corpus.user_dictionary)
        self._annotations = Annotations(corpus.annotations, tokenizer.lowercases)
        self._annotated = bool(corpus.annotations)
        self._languages = bool(corpus.languages)
        self._tokenizer = tokenizer
        self._joins = joins
        self._keeps_spaces = tokenizer.keeps_spaces
        self._dtype = token_dtype(tokenizer.vocabulary.size)

    def _sentences(self, document: Document, number: int) -> Iterator[Piece]:
        """Sentences of one of a document's paragraphs, with their word boundaries and spans.

        Where spaces are part of the tokens, a sentence keeps the space before it, so that a paragraph's
        tokens are those of the running text and decode to it.
        """
        line, where = document.lines[number], (document.file, document.line)
        notes = document.notes[number] if document.notes else {}
        edges = splitter.line_spans(line) if document.listed else self._spans(line)
        previous = 0
        for start, end in self._annotations.undivided(edges, notes) if notes else edges:
            text = line[start:end]
            found = self._segmenter.words(text)
            if found is None:
                spaced = self._keeps_spaces and 0 < previous < start
                encoded: tuple[str, list[int] | None] = (" " + text if spaced else text), None
            else:
                encoded = (join_words(*found), None) if self._joins else found
            spans = {}
            if self._annotated:
                spans = self._annotations.spans(text, start, notes, found or (text, None), encoded[0])
            yield Piece(*encoded, spans, where)
            previous = end

    def beginning(self, source: Source, corpus: CorpusConfig) -> NDArray[np.int64]:
        """Ids of about the first ``ENOUGH_CHARACTERS`` characters of a source."""
        pieces: list[Piece] = []
        characters = 0
        for chunk in itertools.islice(read_chunks(source, corpus), 1):
            for document in parse_chunk(chunk, self._field):
                for number in range(len(document.lines)):
                    if characters >= ENOUGH_CHARACTERS:
                        break
                    found = list(self._sentences(document, number))
                    characters += sum(len(piece.text) for piece in found)
                    pieces += found
        return self._encode(pieces)[0][0].astype(np.int64)

    def run(self, chunk: Chunk) -> ShardArrays:
        """One chunk's tokens. Sentences and documents without tokens are dropped."""
        pieces: list[Piece] = []
        lengths: list[int] = []
        spoken: list[int] = []  # number of each piece's language; of a pair the first line has the first
        continues, text_bytes = False, 0
        parts: list[tuple[FlatIds, dict[str, NDArray[Any]]]] = []
        for place, document in enumerate(parse_chunk(chunk, self._field, self._annotations.recorded)):
            continues |= place == 0 and document.continues
            lengths.append(0)
            for number in range(len(document.lines)):
                before = len(pieces)
                pieces.extend(self._sentences(document, number))
                text_bytes += len(document.lines[number].encode())
                lengths[-1] += len(pieces) - before
                if self._languages:
                    spoken += [chunk.language or number + 1] * (len(pieces) - before)
                if len(pieces) >= _SENTENCES_AT_ONCE:
                    parts.append(self._encode(pieces))
        parts.append(self._encode(pieces))
        sizes = np.concatenate([part[0][2] for part in parts])
        languages = np.repeat(np.array(spoken, dtype=np.int8), sizes if self._languages else 0)
        owner = np.repeat(np.arange(len(lengths)), lengths)[sizes > 0]
        documents = np.bincount(owner, minlength=len(lengths)).astype(np.int64)
        sizes = sizes[sizes > 0]
        tokens = np.concatenate([part[0][0] for part in parts]).astype(self._dtype)
        flags = np.concatenate([part[0][1] for part in parts])
        flags[np.cumsum(sizes) - sizes] |= SENTENCE_START
        arrays = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
        if self._languages:
            arrays[LANGUAGE] = languages
        return ShardArrays(tokens, flags, sizes, documents, continues, arrays, self._annotations.counted(), text_bytes)

    def _encode(self, pieces: list[Piece]) -> tuple[FlatIds, dict[str, NDArray[Any]]]:
        """Ids, flags and annotations of the pieces, which are taken away."""
        texts, words = [piece.text for piece in pieces], [piece.words for piece in pieces]
        arrays: dict[str, NDArray[Any]] = {}
        places = None
        if self._annotated and self._annotations.needs_places(pieces):
            encoded, places = self._tokenizer.encode_places(texts, words)
        else:
            encoded = self._tokenizer.encode_flat(texts, words)
        if self._annotated:
            arrays = self._annotations.arrays(pieces, encoded[2], places)
        pieces.clear()
        return encoded, arrays

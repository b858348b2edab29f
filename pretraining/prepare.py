"""Corpus to token store: all cores, bounded memory, restartable, never built twice.

The parent process reads: it cuts the sources into chunks, looks up which are finished already (a
chunk is known by its bytes and by what is done with it), and hands the others to worker processes
through pipes. A worker writes one *shard* per chunk, atomically. When all are there they are joined,
in order, into the store, whose folder appears by one rename. So a kill costs at most the chunks in
hand, a mended line only its own chunk, and the result does not depend on the number of processes.

Layout below the parent folder::

    wiki_en-1a2b3c4d/            finished stores (see pretraining.store)
    .work/wiki_en-5e6f7a8b/      lock, trained tokenizers and shards of unfinished ones
    .hashes.json                 content hashes of files by (path, size, time)
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait
from dataclasses import dataclass
from numpy.typing import NDArray
from pathlib import Path
from pretraining.annotations.base import make_annotator
from pretraining.annotations.to_tokens import Annotations
from pretraining.annotations.to_tokens import Found
from pretraining.annotations.to_tokens import Piece
from pretraining.annotations.to_tokens import describe
from pretraining.corpus.chunks import Chunk
from pretraining.corpus.chunks import load_hub
from pretraining.corpus.chunks import read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import Document
from pretraining.corpus.records import no_documents
from pretraining.corpus.records import parse_chunk
from pretraining.corpus.sources import Source
from pretraining.corpus.sources import resolve_sources
from pretraining.store.token_store import SCHEMA
from pretraining.store.token_store import Store
from pretraining.text.cjk import count_cjk
from pretraining.text.cjk import count_spaces_at_cjk
from pretraining.text.segmenter import Segmenter
from pretraining.text.segmenter import join_words
from pretraining.text.sentences import VERSION
from pretraining.text.sentences import line_spans
from pretraining.text.sentences import sentence_spans
from pretraining.tokenizer.config import MOST_UNKNOWN
from pretraining.tokenizer.config import SOME_UNKNOWN
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.entries import FlatIds
from pretraining.tokenizer.flags import SENTENCE_START
from pretraining.tokenizer.flags import WORD_START
from pretraining.tokenizer.load import extend
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer
from typing import Any
from typing import IO
from typing import NamedTuple
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.vocabulary import Template
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import numpy as np
import os
import shutil
import struct
import subprocess
import sys
import threading
import time

RECIPE = 1
"""Version of what is done between text and store; part of every fingerprint."""
_SENTENCES_AT_ONCE = 512


def prepare(
    corpus: CorpusConfig,
    tokenizer: TokenizerConfig,
    folder: str | Path,
    *,
    processes: int | None = None,
    template: Template | None = None,
    quiet: bool = False,
) -> Store:
    """Build the token store of a corpus, or open it where it is finished.

    Args:
        corpus: where the text is; or the folder of a store (of :func:`prepare_from_ids`), which is opened.
        tokenizer: what it becomes ids with; trained on the corpus unless its kind is ``file``.
        folder: parent folder; the store is ``folder/NAME-FINGERPRINT``.
        processes: worker processes; ``None`` = one per core.
        template: layout written into the store's tokenizer files; of the ids, only those of ``new_tokens`` that it
            names depend on it.
        quiet: no progress on stderr.

    Returns:
        the finished store, opened.

    Raises:
        ZooError: bad input (naming file and line), a tokenizer that knows less than half of the text, no room on the
            disk, a fingerprint that clashes.
    """
    if (prepared := prepared_store(corpus)) is not None:
        ignored = ", ".join(_ignored(prepared, corpus, tokenizer))
        without = f"; without effect, being otherwise there: {ignored}" if ignored else ""
        note(f"{corpus.files} is prepared already; its own tokenizer is used{without}", quiet)
        _check_known(prepared, quiet)
        return prepared
    job = _Job(corpus, tokenizer, Path(folder), quiet, template)
    if not job.finished():
        with _locked(job.work, quiet):
            if not job.finished():  # another process may have built it while we waited
                job.build(processes or os.cpu_count() or 1)
    store = job.open()
    _check_known(store, quiet)
    return store


def _ignored(store: Store, corpus: CorpusConfig, tokenizer: TokenizerConfig) -> list[str]:
    """Settings that ask for something else than a prepared store was made with, as far as it says how it was."""
    facts = store.meta.get("facts", {})
    found = []
    for name, annotator in corpus.annotations.items():
        try:
            asked = json.loads(json.dumps(annotator.facts()))
        except ZooError:  # its files are gone; they are not needed
            asked = None
        if facts.get("annotations", {}).get(name) != asked or asked is None:
            found.append(f"annotations.{name}")
    segmenter, own = facts.get("segmenter", {}), store.path.resolve()
    if corpus.segmenter not in ("none", segmenter.get("name")):
        found.append(f"segmenter {corpus.segmenter}")
    if corpus.user_dictionary is not None:
        path = Path(corpus.user_dictionary).expanduser()
        if not path.is_file() or _digest(path.read_bytes()) != segmenter.get("dictionary"):
            found.append(f"user_dictionary {corpus.user_dictionary}")
    if tokenizer.path is not None and Path(tokenizer.path).resolve() != own:
        given = load_tokenizer(tokenizer.path, tokenizer).backend.get_vocab()
        if given != load_tokenizer(own).backend.get_vocab():
            found.append(f"tokenizer {tokenizer.path}")
    return found


def _check_known(store: Store, quiet: bool) -> None:
    """Tell how many tokens are unknown, where they are many.

    Raises:
        ZooError: most are, and the tokenizer was not trained on this text.
    """
    if "unk" not in store.meta.get("special", {}):
        return
    unknown = load_tokenizer(store.path).vocabulary.unk
    share = 0.0 if unknown is None else int(store.counts[unknown]) / max(store.num_tokens, 1)
    if share > MOST_UNKNOWN and "backend" in store.meta.get("facts", {}).get("tokenizer", {}):
        raise _mostly_unknown(share, store.meta.get("source", store.path), None)
    if share > SOME_UNKNOWN:
        note(
            f"{store.path}: {share:.1%} of the tokens are unknown to the tokenizer ({store.meta['special']['unk']})",
            quiet,
        )


def _mostly_unknown(share: float, files: Any, path: str | None) -> ZooError:
    """What to do with a text of which the tokenizer knows hardly anything."""
    return ZooError(
        f"{share:.1%} of the tokens of {files} are unknown to the tokenizer{f' of {path}' if path else ''}, which was "
        "not trained on this text: is it of another language? Give text in the tokenizer's language; or, for a run, a "
        "tokenizer for this one: --data.tokenizer.path FOLDER, or one trained on the text: --data.tokenizer.kind "
        "wordpiece --data.tokenizer.path null."
    )


def prepared_store(corpus: CorpusConfig) -> Store | None:
    """The store that a corpus is instead of text, or ``None``."""
    files = corpus.files
    return Store(files) if isinstance(files, str) and (Path(files) / "meta.json").is_file() else None


class _Job:
    """One store to be built: its sources, its fingerprint and its folders."""

    def __init__(
        self,
        corpus: CorpusConfig,
        tokenizer: TokenizerConfig,
        folder: Path,
        quiet: bool,
        template: Template | None = None,
    ) -> None:
        self.corpus, self.tokenizer, self.folder, self.quiet = corpus, tokenizer, folder, quiet
        self.template = template
        self.sources = resolve_sources(corpus)
        self.segmenter = Segmenter(corpus.segmenter, corpus.user_dictionary)
        folder.mkdir(parents=True, exist_ok=True)
        self.contents = _identities(self.sources, corpus, folder)
        self.loaded = self._extended(load_tokenizer(tokenizer.path, tokenizer)) if tokenizer.path else None
        made_by = {"backend": _digest(self.loaded.backend.to_str())} if self.loaded else self._training_facts()
        recipe = {
            "recipe": RECIPE,
            "sentences": [corpus.sentences, VERSION],
            "segmenter": self.segmenter.facts,
            "text_field": corpus.text_field,
        }
        if corpus.annotations:
            recipe["annotations"] = {name: annotator.facts() for name, annotator in corpus.annotations.items()}
        self.facts: dict[str, Any] = {"schema": SCHEMA, "tokenizer": made_by, **recipe, "contents": self.contents}
        self.recipe = recipe
        self.fingerprint = _digest(json.dumps(self.facts, sort_keys=True))
        stem = _stem(corpus)
        self.path = folder / f"{stem}-{self.fingerprint[:8]}"
        self.work = folder / ".work" / f"{stem}-{_digest(json.dumps([made_by, recipe], sort_keys=True))[:8]}"

    def finished(self) -> bool:
        """Whether the store is there already."""
        return (self.path / "meta.json").exists()

    def open(self) -> Store:
        """The finished store."""
        store = Store(self.path)
        if store.fingerprint != self.fingerprint:
            raise ZooError(
                f"{self.path} was made from something else, though its name fits; move it away, start again."
            )
        return store

    def _extended(self, tokenizer: ZooTokenizer) -> ZooTokenizer:
        return extend(tokenizer, self.tokenizer, self.template)

    def _training_facts(self) -> dict[str, Any]:
        """What a trained tokenizer depends on beside the text, the tokens added to it included."""
        new, named = self.tokenizer.new_tokens, self.template.tokens if self.template else []
        added = {"new_tokens": [new, [token for token in new if token in named]]} if new else {}
        return {**self.tokenizer.facts(), **added}

    def build(self, processes: int) -> None:
        """Tokenizer, shards, store."""
        total = sum(source.size for source in self.sources)
        _check_disk(self.folder, self.sources, self.corpus)
        if self.corpus.annotations or self.corpus.segmenter != "none":
            check_beginnings(self.sources, self.corpus)
        if self.loaded is not None:
            self._check_language(self.loaded)
        _clean_abandoned(self.folder, self.work, self.quiet)
        tokenizer = self.loaded or self._extended(self._trained(total))
        if self.template is not None:
            _use_template(tokenizer, self.template)
        shards = _Shards(self, tokenizer, processes, total).run()
        if not any(shard.tokens for shard in shards):
            raise no_documents(self.corpus)
        self._join(shards, tokenizer, total)
        shutil.rmtree(self.work / "shards", ignore_errors=True)

    def _check_language(self, tokenizer: ZooTokenizer) -> None:
        """Refuse a loaded tokenizer to which most tokens at the beginnings of some sources are unknown."""
        unknown = tokenizer.vocabulary.unk
        if unknown is None:
            return
        joins = tokenizer.whole_words and self.segmenter.name != "none"
        recipe = _Recipe(dataclasses.replace(self.corpus, annotations={}), tokenizer, joins)
        ids = np.concatenate([recipe.beginning(source, self.corpus) for source in _some(self.sources)])
        share = float((ids == unknown).mean()) if len(ids) else 0.0
        if share > MOST_UNKNOWN:
            raise _mostly_unknown(share, f"the beginning of {self.corpus.files}", self.tokenizer.path)

    def _trained(self, total: int) -> ZooTokenizer:
        """A tokenizer trained on (a sample of) the corpus; trained once per sample."""
        sample = _Sample(self, total)
        place = self.work / f"tokenizer-{_digest(json.dumps([self.tokenizer.facts(), sample.identity]))[:16]}"
        if (place / "tokenizer.json").exists():
            return load_tokenizer(place, dataclasses.replace(self.tokenizer, special=self.tokenizer.roles))
        note(f"training the tokenizer ({self.tokenizer.kind}, {self.tokenizer.vocab_size} entries)", self.quiet)
        words_given = self.tokenizer.kind == "word" and self.segmenter.name != "none"
        try:
            trained = train_tokenizer(self.tokenizer, sample, words_given=words_given)
        except ZooError as error:
            raise ZooError(f"{self.corpus.files}: {error}") from error
        trained.save(place)
        return trained

    def _join(self, shards: list[_Shard], tokenizer: ZooTokenizer, total: int) -> None:
        """Shards to the store, in order."""
        dtypes = {name: annotator.dtype for name, annotator in self.corpus.annotations.items()}
        found = Found(self.corpus.annotations)
        writer = StoreWriter(self.path, tokenizer.vocabulary.size, dtypes)
        with writer:
            for shard in shards:
                part = read_shard(shard.path)
                writer.append(*part[:4], arrays=part.arrays, continues=shard.continues)
                found.add(part.arrays, part.left_out)
            tokenizer.save(writer.folder)
            meta: dict[str, Any] = {
                "facts": self.facts,
                "source": self.corpus.files,
                "source_bytes": total,
                "special": tokenizer.roles,
            }
            if self.corpus.annotations:
                meta["annotations"] = found.summary(writer.tokens)
            writer.finish(self.fingerprint, meta)
        note(
            f"{self.path}: {writer.tokens:,} tokens, {writer.sentences:,} sentences, {writer.documents:,} documents",
            self.quiet,
        )
        for name, entry in meta.get("annotations", {}).items():
            note(describe(name, entry), self.quiet)


def _use_template(tokenizer: ZooTokenizer, template: Template) -> None:
    """Put the template into the tokenizer where the vocabulary has its tokens; fine-tuning adds others."""
    if all(tokenizer.backend.token_to_id(name) is not None for name in template.tokens):
        tokenizer.set_template(template)


def _stem(corpus: CorpusConfig) -> str:
    """A short name for people; the fingerprint tells stores apart."""
    first = corpus.files if isinstance(corpus.files, str) else corpus.files[0]
    path = Path(first)
    if any(mark in path.name for mark in "*?["):
        path = path.parent
    name = path.name.split(".")[0] or path.resolve().name
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name)[:40] or "corpus"


def _digest(text: str | bytes) -> str:
    """32 hex digits."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


def note(text: str, quiet: bool) -> None:
    """One line on stderr."""
    if not quiet:
        print(f"prepare: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------- what was read


def _identities(sources: list[Source], corpus: CorpusConfig, folder: Path) -> list[list[Any]]:
    """Kind, size and content hash of every source; where it lies does not matter.

    Hashes are kept by (path, size, time of change), so that looking again costs nothing. A file changed
    within the last seconds is not trusted to change its time when it changes again.
    """
    place = folder / ".hashes.json"
    try:
        known: dict[str, list[Any]] = read_json(place) if place.exists() else {}
    except ZooError:
        known = {}
    found: list[list[Any]] = []
    changed = False
    for source in sources:
        if source.kind == "hub":
            data = load_hub(source.path, corpus)
            found.append(["hub", source.path, corpus.subset, corpus.split, str(data._fingerprint)])
            continue
        path = Path(source.path).resolve()
        status = path.stat()
        entry = known.get(str(path))
        if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
            entry = [status.st_size, status.st_mtime_ns, _file_hash(path)]
            if time.time() - status.st_mtime > 3:
                known[str(path)] = entry
                changed = True
        found.append([source.kind, source.gzipped, entry[0], entry[2]])
    if changed:
        _write_json(place, known)
    return found


def _file_hash(path: Path) -> str:
    """Content hash of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


class _Sample:
    """The text that a tokenizer is trained on: all chunks, or an even share of them chosen by hash.

    The share is a power of 1/2 and a chunk is chosen by its own bytes: mending a line elsewhere leaves
    the sample, and with it the tokenizer and all finished shards, as they were.
    """

    def __init__(self, job: _Job, total: int) -> None:
        self._job = job
        self._halvings = 0
        expanded = sum(_expanded(source) for source in job.sources)
        while expanded > job.tokenizer.train_bytes << self._halvings:
            self._halvings += 1
        self._total = total
        self.identity = [chunk.key for chunk in self._chunks("reading")]
        if not self.identity:
            raise no_documents(job.corpus)

    def _chunks(self, what: str) -> Iterator[Chunk]:
        progress = _Progress(what, self._total, self._job.quiet)
        before = 0
        for source in self._job.sources:
            for number, chunk in enumerate(read_chunks(source, self._job.corpus)):
                progress.show(before + chunk.position)
                first = before == 0 and number == 0  # so that the sample is never empty
                if first or int(chunk.key[:8], 16) & ((1 << self._halvings) - 1) == 0:
                    yield chunk
            before += source.size
        progress.end()

    def __iter__(self) -> Iterator[str]:
        segmenter = self._job.segmenter
        joins = self._job.tokenizer.kind == "word"
        for chunk in self._chunks("reading for the tokenizer"):
            for document in parse_chunk(chunk, self._job.corpus.text_field):
                for line in document.lines:
                    for start, end in line_spans(line):
                        text = line[start:end]
                        found = segmenter.words(text) if joins or segmenter.name == "space" else None
                        if found is None:
                            yield text
                        else:
                            yield join_words(*found) if joins else found[0]


def _expanded(source: Source) -> int:
    """About how many bytes of text a source holds."""
    if source.kind == "parquet":
        return source.size * 3
    return source.size * 4 if source.gzipped else source.size


def _check_disk(folder: Path, sources: list[Source], corpus: CorpusConfig) -> None:
    """Refuse to start where shards and store together will not fit.

    A token takes 3 or 5 bytes and those of its annotations, in the shards and, while they are joined, in the store once
    more; about one token per 3 bytes of text is the most that the shipped kinds make of running text.
    """
    each = 4 + sum(np.dtype(annotator.dtype).itemsize for annotator in corpus.annotations.values())
    needed = sum(_expanded(source) for source in sources) * 2 * each // 3 + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ZooError(
            f"{folder}: about {needed / 1e6:,.0f} MB are needed to prepare this corpus, {free / 1e6:,.0f} MB are free. "
            "Free some room, or name a folder on another disk."
        )


_LOOKED_AT = 8  # sources whose beginnings are looked at
_ENOUGH = 20_000  # characters that tell the language of a text
_FOREIGN = 1_000  # a text in another script has fewer than one Chinese character in so many: names, say
_LEAST_NAMES = 20  # names of entities, not one of which being known tells that they are names of another graph


def _some(sources: list[Source]) -> list[Source]:
    """Sources from all over the corpus whose beginnings are looked at."""
    return sources[:: max(len(sources) // _LOOKED_AT, 1)][:_LOOKED_AT]


def check_beginnings(sources: list[Source], corpus: CorpusConfig) -> None:
    """Look at the first chunks of some sources before any work is done.

    Raises:
        ZooError: a segmenter that finds nothing to do, texts without the fields that annotations read, files of
            annotators that cannot be read, or names of entities not one of which is known.
    """
    annotations = Annotations(corpus.annotations, lowercase=False)
    plain = next((source for source in sources if source.kind == "txt"), None)
    for name, annotator in annotations.recorded.items():
        if plain is not None and annotator.missing == "error":
            raise ZooError(
                f"corpus.annotations.{name} ({type(annotator).__name__}) reads a field of JSON records, and "
                f"{plain.path} is plain text. Give the text as .jsonl, one object per line, or say `missing: none`."
            )
    characters = chinese = spaces = 0
    names: dict[str, list[bool]] = {name: [] for name, a in annotations.recorded.items() if a.marks == "first"}
    for source in _some(sources):
        for chunk in itertools.islice(read_chunks(source, corpus), 1):
            for document in parse_chunk(chunk, corpus.text_field, annotations.recorded):
                for line in document.lines if corpus.segmenter != "none" else ():
                    characters += len(line)
                    chinese += count_cjk(line)
                    spaces += count_spaces_at_cjk(line)
                for note in document.notes:
                    for name, known in names.items():
                        known += [code > 0 for _, _, code in note.get(name, ())]
    for name, known in names.items():
        if len(known) >= _LEAST_NAMES and not any(known):
            raise ZooError(
                f"corpus.annotations.{name}: not one of the {len(known):,} entities that the first records name is in "
                "the file of entities. Are they names of the same kind, such as Q42?"
            )
    if corpus.segmenter != "none" and characters >= _ENOUGH and chinese * _FOREIGN < characters:
        found = f"are only {chinese} Chinese characters" if chinese else "is no Chinese character"
        raise ZooError(
            f"corpus.segmenter is {corpus.segmenter!r}, but there {found} in the first {characters:,} "
            f"of {corpus.files!r}. `corpus.segmenter: none` is for text in other scripts (configs/data/en.yaml)."
        )
    if corpus.segmenter == "space" and chinese >= _ENOUGH and spaces * 100 < chinese:
        raise ZooError(
            f"corpus.segmenter: space takes words that spaces stand between, and beside {chinese:,} Chinese characters "
            f"of {corpus.files!r} there are {spaces:,} spaces: it is not segmented. `rjieba` finds its words."
        )


# --------------------------------------------------------------------------------------- from text to ids


class _Recipe:
    """What a worker does with a chunk: documents, sentences, words, ids."""

    def __init__(self, corpus: CorpusConfig, tokenizer: ZooTokenizer, joins: bool) -> None:
        self._field = corpus.text_field
        self._spans = sentence_spans if corpus.sentences == "rule" else line_spans
        self._segmenter = Segmenter(corpus.segmenter, corpus.user_dictionary)
        self._annotations = Annotations(corpus.annotations, tokenizer.lowercases)
        self._annotated = bool(corpus.annotations)
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
        edges = line_spans(line) if document.listed else self._spans(line)
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
        """Ids of about the first ``_ENOUGH`` characters of a source."""
        pieces: list[Piece] = []
        characters = 0
        for chunk in itertools.islice(read_chunks(source, corpus), 1):
            for document in parse_chunk(chunk, self._field):
                for number in range(len(document.lines)):
                    if characters >= _ENOUGH:
                        break
                    found = list(self._sentences(document, number))
                    characters += sum(len(piece.text) for piece in found)
                    pieces += found
        return self._encode(pieces)[0][0].astype(np.int64)

    def run(self, chunk: Chunk) -> ShardArrays:
        """One chunk's tokens. Sentences and documents without tokens are dropped."""
        pieces: list[Piece] = []
        lengths: list[int] = []
        continues = False
        parts: list[tuple[FlatIds, dict[str, NDArray[Any]]]] = []
        for place, document in enumerate(parse_chunk(chunk, self._field, self._annotations.recorded)):
            continues |= place == 0 and document.continues
            lengths.append(0)
            for number in range(len(document.lines)):
                before = len(pieces)
                pieces.extend(self._sentences(document, number))
                lengths[-1] += len(pieces) - before
                if len(pieces) >= _SENTENCES_AT_ONCE:
                    parts.append(self._encode(pieces))
        parts.append(self._encode(pieces))
        sizes = np.concatenate([part[0][2] for part in parts])
        owner = np.repeat(np.arange(len(lengths)), lengths)[sizes > 0]
        documents = np.bincount(owner, minlength=len(lengths)).astype(np.int64)
        sizes = sizes[sizes > 0]
        tokens = np.concatenate([part[0][0] for part in parts]).astype(self._dtype)
        flags = np.concatenate([part[0][1] for part in parts])
        flags[np.cumsum(sizes) - sizes] |= SENTENCE_START
        arrays = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
        return ShardArrays(tokens, flags, sizes, documents, continues, arrays, self._annotations.counted())

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


def token_dtype(vocab_size: int) -> str:
    """Smallest type of the store's tokens that holds every id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


# ------------------------------------------------------------------------------------------------- shards


class ShardArrays(NamedTuple):
    """One chunk, tokenised.

    Args:
        tokens: (n,) ids.
        flags: (n,) bits of :mod:`pretraining.store`.
        sentences: (s,) tokens per sentence, none 0.
        documents: (d,) sentences per document; 0 where nothing was left of it.
        continues: the first document goes on from the shard before.
        arrays: (n,) annotations by name.
        left_out: spans that were left out of them, by name and reason.
    """

    tokens: NDArray[Any]
    flags: NDArray[np.uint8]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]
    continues: bool
    arrays: dict[str, NDArray[Any]] = {}  # noqa: RUF012
    left_out: dict[str, dict[str, int]] = {}  # noqa: RUF012


@dataclass(frozen=True)
class _Shard:
    path: Path
    tokens: int
    continues: bool


_HEADER = struct.Struct("<8sq")
_MAGIC = b"ZOOSHRD2"


def write_shard(path: Path, shard: ShardArrays) -> None:
    """Write one shard atomically: magic, length of a JSON header with all sizes, the header, the arrays."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    parts = [*shard[:4], *shard.arrays.values()]
    names = ["tokens", "flags", "sentences", "documents", *(f"array-{name}" for name in shard.arrays)]
    head = {
        "parts": {name: [array.dtype.str, len(array)] for name, array in zip(names, parts)},
        "continues": shard.continues,
        "left_out": shard.left_out,
    }
    written = json.dumps(head).encode()
    with temporary.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, len(written)) + written)
        for array in parts:
            file.write(array.tobytes())
    temporary.replace(path)


def _shard_head(file: IO[bytes]) -> dict[str, Any] | None:
    """A shard's header, or ``None`` where it is not whole or of another version."""
    try:
        magic, length = _HEADER.unpack(file.read(_HEADER.size))
        head: dict[str, Any] | None = json.loads(file.read(length)) if magic == _MAGIC else None
    except (struct.error, ValueError):
        return None
    return head


def shard_info(path: Path) -> _Shard | None:
    """What a finished shard holds, or ``None`` where it is missing or not whole."""
    try:
        with path.open("rb") as file:
            head = _shard_head(file)
            if head is None:
                return None
            whole = file.tell() + sum(np.dtype(dtype).itemsize * size for dtype, size in head["parts"].values())
            if os.fstat(file.fileno()).st_size != whole:
                return None
    except FileNotFoundError:
        return None
    return _Shard(path, head["parts"]["tokens"][1], head["continues"])


def read_shard(path: Path) -> ShardArrays:
    """A finished shard."""
    with path.open("rb") as file:
        head = _shard_head(file)
        assert head is not None
        parts = {
            name: np.frombuffer(file.read(np.dtype(dtype).itemsize * size), dtype=dtype)
            for name, (dtype, size) in head["parts"].items()
        }
    arrays = {name.removeprefix("array-"): part for name, part in parts.items() if name.startswith("array-")}
    tokens, flags, sentences, documents = (parts[name] for name in ("tokens", "flags", "sentences", "documents"))
    return ShardArrays(tokens, flags, sentences, documents, head["continues"], arrays, head["left_out"])


class _Shards:
    """Turns all chunks into shards, reusing the finished ones."""

    def __init__(self, job: _Job, tokenizer: ZooTokenizer, processes: int, total: int) -> None:
        self._job, self._processes, self._total = job, processes, total
        self._tokenizer = tokenizer
        self._joins = tokenizer.whole_words and job.segmenter.name != "none"
        tokenizer.segmenter = job.segmenter.name
        self._folder = job.work / "shards"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._salt = _digest(tokenizer.backend_key() + json.dumps(job.recipe, sort_keys=True))
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def run(self) -> list[_Shard]:
        """All shards in order.

        Raises:
            ZooError: the first bad chunk's message; shards finished by then stay for the next start.
        """
        paths: list[Path] = []
        running: dict[Future[None], int] = {}
        errors: dict[int, BaseException] = {}
        progress = _Progress("encoding", self._total, self._job.quiet)
        with _Workers(self._spec(), self._processes) as workers:
            for chunk, position in self._chunks(errors):
                path = self._folder / f"{_digest(self._salt + chunk.key)}.shard"
                paths.append(path)
                progress.show(position)
                if shard_info(path) is not None or path in paths[-65:-1]:
                    progress.skip(len(chunk.data))
                    continue
                running[workers.submit(chunk, path)] = len(paths) - 1
                if len(running) >= 2 * self._processes:
                    self._collect(running, errors, all_of_them=False)
                if errors:
                    break
            while running:
                self._collect(running, errors, all_of_them=True)
        progress.end()
        if errors:
            raise errors[min(errors)]
        found = [shard_info(path) for path in paths]
        return [shard for shard in found if shard is not None]

    def _chunks(self, errors: dict[int, BaseException]) -> Iterator[tuple[Chunk, int]]:
        """Chunks with their position in the whole; a reading error ends them, after what is in hand."""
        before = number = 0
        try:
            for source in self._job.sources:
                for chunk in read_chunks(source, self._job.corpus):
                    yield chunk, before + chunk.position
                    number += 1
                before += source.size
        except ZooError as error:
            errors[number] = error

    @staticmethod
    def _collect(running: dict[Future[None], int], errors: dict[int, BaseException], *, all_of_them: bool) -> None:
        """Take finished work out of ``running``; note what failed."""
        done, _ = wait(running, return_when=FIRST_COMPLETED if not all_of_them else "ALL_COMPLETED")
        for future in done:
            number = running.pop(future)
            error = future.exception()
            if error is not None:
                errors[number] = error

    def _spec(self) -> dict[str, Any]:
        """What a worker has to know, as JSON; the tokenizer goes by file."""
        place = self._job.work / "encoding"
        self._tokenizer.save(place)
        return {"corpus": self._job.corpus.spec, "tokenizer": str(place), "joins": self._joins}


def _recipe_from(spec: dict[str, Any]) -> _Recipe:
    """The worker's side of :meth:`_Shards._spec`."""
    annotators = {
        name: make_annotator(own, f"corpus.annotations.{name}") for name, own in spec["corpus"]["annotations"].items()
    }
    corpus = CorpusConfig(**{**spec["corpus"], "annotations": annotators})
    return _Recipe(corpus, load_tokenizer(spec["tokenizer"]), spec["joins"])


class _Workers:
    """Worker processes behind threads; with one process the work is done here.

    They are plain subprocesses that read chunks from a pipe: nothing of the parent's state is forked,
    its main module is not imported again, and they end when the parent does, however it ends.
    """

    def __init__(self, spec: dict[str, Any], processes: int) -> None:
        self._spec, self._processes = spec, processes
        self._pool = ThreadPoolExecutor(processes)
        self._own = threading.local()
        self._children: list[subprocess.Popen[bytes]] = []
        self._recipe = _recipe_from(spec) if processes == 1 else None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(wait=failure[0] is None, cancel_futures=True)
        for child in self._children:
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
        for child in self._children:
            if failure[0] is not None:
                child.kill()
            child.wait()

    def submit(self, chunk: Chunk, path: Path) -> Future[None]:
        """Turn a chunk into a shard file."""
        return self._pool.submit(self._here if self._recipe is not None else self._there, chunk, path)

    def _here(self, chunk: Chunk, path: Path) -> None:
        assert self._recipe is not None
        write_shard(path, self._recipe.run(chunk))

    def _there(self, chunk: Chunk, path: Path) -> None:
        if not hasattr(self._own, "child"):
            self._own.child = self._start()
        child = self._own.child
        head = {**dataclasses.asdict(dataclasses.replace(chunk, data=b"")), "path": str(path), "bytes": len(chunk.data)}
        del head["data"]
        try:
            child.stdin.write(json.dumps(head).encode() + b"\n")
            child.stdin.write(chunk.data)
            child.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; the empty answer below says so
        line = child.stdout.readline()
        if not line:
            raise ZooError(
                f"a worker process died (exit code {child.wait()}) on {chunk.file}:{chunk.line}; out of memory is the "
                "usual reason: fewer processes need less. Finished parts are kept."
            )
        answer = json.loads(line)
        if answer.get("errno"):
            raise OSError(answer["errno"], answer["error"], str(path))
        if answer.get("error"):
            raise (ZooError if answer["expected"] else RuntimeError)(answer["error"])

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "pretraining.prepare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=False,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(self._spec).encode() + b"\n")
        child.stdin.flush()
        self._children.append(child)
        return child


def _worker(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """A worker's life: one JSON line and the chunk's bytes in, one JSON line out, until the pipe closes."""
    recipe: _Recipe | None = None
    spec = json.loads(stdin.readline())
    while line := stdin.readline():
        head = json.loads(line)
        path, size = Path(head.pop("path")), head.pop("bytes")
        data = stdin.read(size)
        if len(data) < size:
            return  # the parent was killed
        answer: dict[str, Any] = {}
        try:
            recipe = recipe or _recipe_from(spec)
            write_shard(path, recipe.run(Chunk(data, **head)))
        except ZooError as error:
            answer = {"error": str(error), "expected": True}
        except OSError as error:
            answer = {"error": error.strerror or str(error), "expected": False, "errno": error.errno or 5}
        except Exception as error:
            import traceback

            answer = {"error": "".join(traceback.format_exception(error)), "expected": False}
        stdout.write(json.dumps(answer).encode() + b"\n")
        stdout.flush()


# ----------------------------------------------------------------------------------------- writing stores


class StoreWriter:
    """Writes a store into a hidden folder beside its place and renames it there when it is finished.

    Args:
        path: where the store will be.
        vocab_size: entries of the vocabulary.
        arrays: types of the named per-token arrays, by name.
    """

    def __init__(self, path: Path, vocab_size: int, arrays: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._arrays = dict(arrays or {})
        self.folder = path.with_name(f".{path.name}.partial")
        self._vocab_size, self._dtype = vocab_size, token_dtype(vocab_size)
        self._counts = np.zeros(vocab_size, dtype=np.int64)
        self._pending = 0
        self.tokens = self.sentences = self.documents = 0

    def __enter__(self) -> StoreWriter:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        names = ("tokens", "flags", "sentences", "documents", *(f"array-{name}" for name in self._arrays))
        self._files = {name: (self.folder / f"{name}.bin").open("wb") for name in names}
        for name in ("sentences", "documents"):
            self._files[name].write(np.zeros(1, dtype=np.int64).tobytes())
        return self

    def __exit__(self, *failure: object) -> None:
        for file in self._files.values():
            file.close()
        if failure[0] is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def append(
        self,
        tokens: NDArray[Any],
        flags: NDArray[np.uint8],
        sentences: NDArray[np.int64],
        documents: NDArray[np.int64],
        *,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        continues: bool = False,
    ) -> None:
        """Add tokenised documents.

        Args:
            tokens: (n,) ids.
            flags: (n,) flag bits.
            sentences: (s,) tokens per sentence.
            documents: (d,) sentences per document; those with 0 are dropped.
            arrays: (n,) values of every named array.
            continues: the first document is the rest of the last one added.
        """
        for name, dtype in self._arrays.items():
            values = (arrays or {})[name]
            assert len(values) == len(tokens)
            self._files[f"array-{name}"].write(values.astype(dtype, copy=False).tobytes())
        self._files["tokens"].write(tokens.astype(self._dtype, copy=False).tobytes())
        self._files["flags"].write(flags.tobytes())
        self._files["sentences"].write((np.cumsum(sentences) + self.tokens).astype(np.int64).tobytes())
        self._counts += np.bincount(tokens, minlength=self._vocab_size)
        self.tokens += len(tokens)
        lengths = documents.tolist()
        if not continues:
            self._close_document()
        for place, length in enumerate(lengths):
            if place:
                self._close_document()
            self._pending += length
        self.sentences += len(sentences)

    def _close_document(self) -> None:
        """End the document that is open, where it holds anything."""
        if self._pending:
            self._written = getattr(self, "_written", 0) + self._pending
            self._files["documents"].write(np.array([self._written], dtype=np.int64).tobytes())
            self.documents += 1
            self._pending = 0

    def finish(self, fingerprint: str, extra: dict[str, Any]) -> None:
        """Counts and meta.json, then the rename that makes the store appear."""
        self._close_document()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        (self.folder / "counts.bin").write_bytes(self._counts.tobytes())
        meta = {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "token_dtype": self._dtype,
            "vocab_size": self._vocab_size,
            "tokens": self.tokens,
            "sentences": self.sentences,
            "documents": self.documents,
            "arrays": self._arrays,
            **extra,
        }
        _write_json(self.folder / "meta.json", meta)
        shutil.rmtree(self.path, ignore_errors=True)  # an unfinished or damaged one: a finished one is never rebuilt
        self.folder.replace(self.path)


def _sentences_of_ids(document: Sequence[Sequence[int]], number: int, size: int) -> list[NDArray[np.int64]]:
    """The sentences of document ``number`` that have tokens, none of them outside a vocabulary of ``size`` entries."""
    kept = [np.asarray(sentence, dtype=np.int64) for sentence in document if len(sentence)]
    for place, ids in enumerate(kept):
        if ids.min() < 0 or ids.max() >= size:
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise ZooError(
                f"document {number}, sentence {place}: id {wrong} is outside the vocabulary of {size} entries."
            )
    return kept


def prepare_from_ids(
    documents: Iterable[Sequence[Sequence[int]]],
    tokenizer: ZooTokenizer,
    folder: str | Path,
    *,
    name: str = "ids",
    template: Template | None = None,
    arrays: Mapping[str, Iterable[Sequence[Sequence[int]]]] | None = None,
) -> Store:
    """A store of documents that are tokenised already.

    Args:
        documents: documents as lists of sentences as lists of ids; read once, not held in memory.
        tokenizer: what the ids belong to.
        folder: parent folder.
        name: the store is ``folder/NAME-FINGERPRINT``.
        template: layout written into the store's tokenizer files.
        arrays: named int32 values of the tokens, document by document as the ids are.

    Raises:
        ZooError: an id outside the vocabulary (naming document and sentence), values that are not one for each token,
            or no tokens at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if template is not None:
        _use_template(tokenizer, template)
    temporary = folder / f"{name}-{os.getpid()}"
    writer = StoreWriter(temporary, tokenizer.vocabulary.size, dict.fromkeys(arrays or {}, "int32"))
    digest = hashlib.blake2b(f"{SCHEMA} {RECIPE} {tokenizer.backend_key()}".encode(), digest_size=16)
    values = {array: iter(of_documents) for array, of_documents in (arrays or {}).items()}
    with writer:
        for number, document in enumerate(documents):
            flat: dict[str, NDArray[Any]] = {}
            for array, of_documents in values.items():
                found = next(of_documents, [])
                if [len(own) for own in found] != [len(sentence) for sentence in document]:
                    raise ZooError(f"document {number}: {array!r} does not have one value for each token.")
                flat[array] = np.array([value for own in found for value in own], dtype="<i4")
                digest.update(array.encode() + flat[array].tobytes())
            kept = _sentences_of_ids(document, number, tokenizer.vocabulary.size)
            lengths = np.array([len(ids) for ids in kept], dtype=np.int64)
            tokens = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
            flags = tokenizer.word_starts(tokens) * np.uint8(WORD_START)
            flags[np.cumsum(lengths) - lengths] |= SENTENCE_START | WORD_START
            digest.update(tokens.tobytes() + lengths.tobytes() + b"/")
            writer.append(tokens, flags, lengths, np.array([len(kept)], dtype=np.int64), arrays=flat)
        if not writer.tokens:
            raise ZooError("prepare_from_ids: there is not a single token in the documents.")
        fingerprint = digest.hexdigest()
        final = folder / f"{name}-{fingerprint[:8]}"
        if (final / "meta.json").exists():
            shutil.rmtree(writer.folder)
            return Store(final)
        tokenizer.save(writer.folder)
        writer.path = final
        writer.finish(fingerprint, {"special": tokenizer.roles})
    return Store(final)


# ------------------------------------------------------------------------------------- lock and progress


@contextlib.contextmanager
def _locked(folder: Path, quiet: bool) -> Iterator[None]:
    """Hold the folder's lock; wait for another preparation of the same store, saying so."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            note(f"waiting for another process that prepares this store ({file.read().strip() or 'unknown'})", quiet)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()}\n")
        file.flush()
        yield


_ABANDONED = 14 * 24 * 3600.0
"""Seconds after which nobody is expected to go on with an unfinished store."""


def _clean_abandoned(folder: Path, own: Path, quiet: bool) -> None:
    """Remove shards and half-written stores that nobody has touched for two weeks.

    The lock of a work folder is held meanwhile and stays where it is. What is removed would only be made again.
    """
    for work in (folder / ".work").glob("*"):
        if work != own and (work / "shards").is_dir() and _age(work) > _ABANDONED:
            with (work / "lock").open("a") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work / "shards", ignore_errors=True)
                note(f"removed shards of an unfinished store that nobody went on with ({work})", quiet)
    for partial in folder.glob(".*.partial"):
        if _age(partial) > _ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def _age(folder: Path) -> float:
    """Seconds since anything in a folder changed."""
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
    return time.time() - max(times, default=time.time())


class _Progress:
    """One line: share done, MB/s, time left. Rewritten on a terminal, else a line every ten seconds."""

    def __init__(self, what: str, total: int, quiet: bool) -> None:
        self._what, self._total, self._quiet = what, max(total, 1), quiet
        self._start = self._shown = time.monotonic()
        self._done = self._skipped = 0
        self._terminal = sys.stderr.isatty()

    def skip(self, size: int) -> None:
        """Bytes that were finished before and do not count for the rate."""
        self._skipped += size

    def show(self, done: int) -> None:
        """Tell how far the reading is."""
        self._done = done
        now = time.monotonic()
        if self._quiet or now - self._shown < (0.5 if self._terminal else 10):
            return
        self._shown = now
        rate = max(done - self._skipped, 0) / max(now - self._start, 1e-9)
        left = f"{(self._total - done) / rate:,.0f} s left" if rate and done <= self._total else "…"
        line = f"prepare: {self._what} {done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s, {left}"
        print(
            f"\r{line:<78}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        """Close the line."""
        if self._quiet:
            return
        spent = time.monotonic() - self._start
        rate = max(self._done - self._skipped, 0) / max(spent, 1e-9)
        line = f"prepare: {self._what} {self._done / 1e6:,.1f} MB in {spent:,.1f} s ({rate / 1e6:.1f} MB/s)"
        print(f"\r{line:<78}" if self._terminal else line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _worker(sys.stdin.buffer, sys.stdout.buffer)

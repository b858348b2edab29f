"""A store to be built: its sources, its fingerprint, its folders, and the text that its tokenizer is trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretraining.corpus.chunks import Chunk, load_hub, read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import no_documents, parse_chunk
from pretraining.corpus.sources import Source, resolve_sources
from pretraining.store.recipe import RECIPE
from pretraining.store.token_store import SCHEMA, Store
from pretraining.text import sentences as splitter
from pretraining.text.segmenter import Segmenter, join_words
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import extend, load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.runtime.progress import ReadingProgress
from zoo.storage.files import file_digest, read_json, text_digest, write_json
from zoo.vocabulary import Template


class StoreJob:
    """One store to be built: its sources, its fingerprint and its folders. How it is built, it does not know.

    Args:
        corpus: where the text is.
        tokenizer: what it becomes ids with.
        folder: parent folder of the store.
        quiet: no progress on stderr.
        template: layout written into the store's tokenizer files.

    Attributes:
        sources: files and hub data sets, in order.
        size: bytes of them all.
        loaded: the tokenizer, where it is not trained on the text.
        request: what is asked for: all that the store depends on but a trained tokenizer's content.
        shard_recipe: the part of it that is neither text nor tokenizer.
        work: folder of what is unfinished.
    """

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
        self.notes: list[str] = []
        self.sources = resolve_sources(corpus, self.notes)
        self.size = sum(source.size for source in self.sources)
        self.segmenter = Segmenter(corpus.segmenter, corpus.user_dictionary)
        folder.mkdir(parents=True, exist_ok=True)
        self.contents = _identities(self.sources, corpus, folder)
        self.loaded = self._load(tokenizer) if tokenizer.path else None
        self._content = _content(self.loaded) if self.loaded else None
        made_by = {"backend": self._content} if self.loaded else self._training_recipe()
        shard_recipe = {
            "recipe": RECIPE,
            "sentences": [corpus.sentences, splitter.VERSION],
            "segmenter": self.segmenter.recipe,
            "text_field": corpus.text_field,
        }
        if corpus.languages:
            shard_recipe |= {"languages": corpus.language_names, "parallel": corpus.parallel}
        if corpus.annotations:
            shard_recipe["annotations"] = {name: annotator.recipe() for name, annotator in corpus.annotations.items()}
        self.request: dict[str, Any] = {
            "schema": SCHEMA,
            "tokenizer": made_by,
            **shard_recipe,
            "contents": self.contents,
        }
        self.shard_recipe = shard_recipe  # what is done with any chunk; the files that there are do not matter to it
        self._stem = stem = _stem(corpus)
        self.work = folder / ".work" / f"{stem}-{text_digest(json.dumps([made_by, shard_recipe], sort_keys=True))[:8]}"

    @property
    def recipe(self) -> dict[str, Any]:
        """What the store depends on: what is asked for, and the content of the tokenizer, which has to be known."""
        assert self._content is not None, "the tokenizer is not trained yet"
        return {**self.request, "tokenizer": {**self.request["tokenizer"], "backend": self._content}}

    @property
    def fingerprint(self) -> str:
        """Digest of the recipe."""
        return text_digest(json.dumps(self.recipe, sort_keys=True))

    @property
    def path(self) -> Path:
        """Where the store is, or will be."""
        return self.folder / f"{self._stem}-{self.fingerprint[:8]}"

    def take(self, tokenizer: ZooTokenizer) -> None:
        """Take the tokenizer that was trained: its content is part of the fingerprint."""
        self._content = _content(tokenizer)

    def finished(self) -> bool:
        """Whether the store is there already."""
        if self._content is None:
            self._content = self._content_there()
        return self._content is not None and (self.path / "meta.json").exists()

    def _content_there(self) -> str | None:
        """The tokenizer's content of a finished store that was made of what is asked for."""
        for path in sorted(self.folder.glob(f"{self._stem}-*/meta.json")):
            try:
                recipe = read_json(path).get("recipe", {})
            except ZooError:  # a store that is damaged is made anew
                continue
            made_by = dict(recipe.get("tokenizer", {}))
            content = made_by.pop("backend", None)
            if isinstance(content, str) and {**recipe, "tokenizer": made_by} == json.loads(json.dumps(self.request)):
                return content
        return None

    def open(self) -> Store:
        """The finished store."""
        store = Store(self.path)
        if store.fingerprint != self.fingerprint:
            raise ZooError(
                f"{self.path} was made from something else, though its name fits; move it away, start again."
            )
        return store

    def extended(self, tokenizer: ZooTokenizer) -> ZooTokenizer:
        """The tokenizer with the new tokens of the settings."""
        return extend(tokenizer, self.tokenizer, self.template)

    def _load(self, config: TokenizerConfig) -> ZooTokenizer:
        """The tokenizer that the settings name, extended; what was done to read it is noted."""
        loaded = load_tokenizer(str(config.path), config)
        self.notes += [f"tokenizer.path: {line}" for line in loaded.notes]
        return self.extended(loaded)

    def _training_recipe(self) -> dict[str, Any]:
        """What a trained tokenizer depends on beside the text, the tokens added to it included."""
        new, named = self.tokenizer.new_tokens, self.template.tokens if self.template else []
        added = {"new_tokens": [new, [token for token in new if token in named]]} if new else {}
        sentinels = {"sentinels": self.tokenizer.sentinels} if self.tokenizer.sentinels else {}
        return {**self.tokenizer.recipe(), **added, **sentinels}


def _content(tokenizer: ZooTokenizer) -> str:
    """Digest of all that ids depend on; the template is no part of it."""
    return text_digest(tokenizer.backend_key())


def _stem(corpus: CorpusConfig) -> str:
    """A short name for people; the fingerprint tells stores apart."""
    first = corpus.files if isinstance(corpus.files, str) else corpus.files[0]
    path = Path(first)
    if any(mark in path.name for mark in "*?["):
        path = path.parent
    name = path.name.split(".")[0] or path.resolve().name
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in name)[:40] or "corpus"


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
        entry: list[Any] = [source.kind, source.gzipped]
        for path in (Path(name).resolve() for name in (source.path, source.target) if name is not None):
            status = path.stat()
            seen = known.get(str(path))
            if seen is None or seen[:2] != [status.st_size, status.st_mtime_ns]:
                seen = [status.st_size, status.st_mtime_ns, file_digest(path)]
                if time.time() - status.st_mtime > 3:
                    known[str(path)] = seen
                    changed = True
            entry += [seen[0], seen[2]]
        found.append(entry)
    if changed:
        write_json(place, known, shared=True)
    return found


class TrainingSample:
    """The text that a tokenizer is trained on: all chunks, or an even share of them chosen by hash.

    The share is a power of 1/2 and a chunk is chosen by its own bytes: mending a line elsewhere leaves
    the sample, and with it the tokenizer and all finished shards, as they were.
    """

    def __init__(self, job: StoreJob) -> None:
        self._job = job
        self._halvings = 0
        expanded = sum(expanded_size(source) for source in job.sources)
        while expanded > job.tokenizer.train_bytes << self._halvings:
            self._halvings += 1
        self.identity = [chunk.key for chunk in self._chunks("reading")]
        if not self.identity:
            raise no_documents(job.corpus)

    def _chunks(self, what: str) -> Iterator[Chunk]:
        progress = ReadingProgress(f"prepare: {what}", self._job.size, not self._job.quiet)
        before = 0
        for source in self._job.sources:
            for number, chunk in enumerate(read_chunks(source, self._job.corpus)):
                progress.reached(before + chunk.position)
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
                    for start, end in splitter.line_spans(line):
                        text = line[start:end]
                        found = segmenter.words(text) if joins or segmenter.name == "space" else None
                        if found is None:
                            yield text
                        else:
                            yield join_words(*found) if joins else found[0]


def expanded_size(source: Source) -> int:
    """About how many bytes of text a source holds."""
    if source.kind == "parquet":
        return source.size * 3
    return source.size * 4 if source.gzipped else source.size

"""Building a store: the tokenizer, a shard for each chunk, and the shards joined in order."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.annotations.to_tokens import Found, describe
from pretraining.corpus.chunks import Chunk, read_chunks
from pretraining.corpus.config import LANGUAGE
from pretraining.corpus.parallel import count_pairs
from pretraining.corpus.records import no_documents
from pretraining.store.beginnings import check_beginnings, mostly_unknown, some_sources
from pretraining.store.job import StoreJob, TrainingSample, expanded_size
from pretraining.store.recipe import Recipe
from pretraining.store.shards import Shard, read_shard, shard_info
from pretraining.store.workers import Workers
from pretraining.store.writer import StoreWriter, clean_abandoned
from pretraining.tokenizer.config import MOST_UNKNOWN
from pretraining.tokenizer.load import load_tokenizer, use_template
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.tokenizer.train import train_tokenizer
from zoo.errors import ZooError
from zoo.runtime.progress import ReadingProgress, note
from zoo.storage.files import text_digest


def build_store(job: StoreJob, processes: int) -> None:
    """Tokenizer, shards, store.

    Args:
        job: what to build, and where; its lock is held.
        processes: worker processes.

    Raises:
        ZooError: bad input (naming file and line), a tokenizer that knows less than half of the text, no room on the
            disk.
    """
    for line in job.notes:
        note(f"prepare: {line}", not job.quiet)
    for source in job.sources if job.corpus.parallel else ():
        note(f"prepare: {source.files}: {count_pairs(source.files, job.corpus.languages or ()).told}", not job.quiet)
    _check_disk(job)
    if job.corpus.annotations or job.corpus.segmenter != "none":
        check_beginnings(job.sources, job.corpus)
    if job.loaded is not None:
        _check_language(job, job.loaded)
    clean_abandoned(job.folder, job.work, job.quiet)
    tokenizer = job.loaded or job.extended(_trained(job))
    job.take(tokenizer)
    if job.template is not None:
        use_template(tokenizer, job.template)
    shards = ShardBuilder(job, tokenizer, processes).run()
    if not any(shard.tokens for shard in shards):
        raise no_documents(job.corpus)
    _join(job, shards, tokenizer)
    shutil.rmtree(job.work / "shards", ignore_errors=True)


def _check_disk(job: StoreJob) -> None:
    """Raise ZooError if shards and store together will not fit on the disk.

    A token takes 3 or 5 bytes and those of its annotations, in the shards and, while they are joined, in the store once
    more; about one token per 3 bytes of text is the most that the shipped kinds make of running text.
    """
    each = 4 + sum(np.dtype(annotator.dtype).itemsize for annotator in job.corpus.annotations.values())
    needed = sum(expanded_size(source) for source in job.sources) * 2 * each // 3 + 2**20
    free = shutil.disk_usage(job.folder).free
    if free < needed:
        raise ZooError(
            f"{job.folder}: about {needed / 1e6:,.0f} MB are needed to prepare this corpus, {free / 1e6:,.0f} MB are "
            "free. Free some room, or name a folder on another disk."
        )


def _check_language(job: StoreJob, tokenizer: ZooTokenizer) -> None:
    """Raise ZooError if most tokens at the beginnings of some sources are unknown to a loaded tokenizer."""
    unknown = tokenizer.vocabulary.unk
    if unknown is None:
        return
    recipe = Recipe(dataclasses.replace(job.corpus, annotations={}), tokenizer, _joins_words(job, tokenizer))
    ids = np.concatenate([recipe.beginning(source, job.corpus) for source in some_sources(job.sources)])
    share = float((ids == unknown).mean()) if len(ids) else 0.0
    if share > MOST_UNKNOWN:
        raise mostly_unknown(share, f"the beginning of {job.corpus.files}", job.tokenizer.path)


def _joins_words(job: StoreJob, tokenizer: ZooTokenizer) -> bool:
    """Whether words that a segmenter finds are handed to the tokenizer with spaces between them."""
    return tokenizer.whole_words and job.segmenter.name != "none"


def _trained(job: StoreJob) -> ZooTokenizer:
    """A tokenizer trained on (a sample of) the corpus; trained once per sample."""
    sample, config = TrainingSample(job), job.tokenizer
    place = job.work / f"tokenizer-{text_digest(json.dumps([config.recipe(), sample.identity]))[:16]}"
    if (place / "tokenizer.json").exists():
        return load_tokenizer(place, dataclasses.replace(config, special=config.roles))
    note(f"prepare: training the tokenizer ({config.kind}, {config.vocab_size} entries)", not job.quiet)
    words_given = config.kind == "word" and job.segmenter.name != "none"
    try:
        trained = train_tokenizer(config, sample, words_given=words_given)
    except ZooError as error:
        raise ZooError(f"{job.corpus.files}: {error}") from error
    trained.save(place)
    return trained


def _join(job: StoreJob, shards: list[Shard], tokenizer: ZooTokenizer) -> None:
    """Shards to the store, in order."""
    dtypes = {name: annotator.dtype for name, annotator in job.corpus.annotations.items()}
    dtypes |= {LANGUAGE: "int8"} if job.corpus.languages else {}
    found = Found(job.corpus.annotations)
    writer, text_bytes = StoreWriter(job.path, tokenizer.vocabulary.size, dtypes), 0
    with writer:
        for shard in shards:
            part = read_shard(shard.path)
            writer.append(*part[:4], arrays=part.arrays, continues=shard.continues)
            found.add(part.arrays, part.left_out)
            text_bytes += part.text_bytes
        tokenizer.save(writer.folder)
        meta: dict[str, Any] = {
            "recipe": job.recipe,
            "source": job.corpus.files,
            "source_bytes": job.size,
            "text_bytes": text_bytes,
            "special": tokenizer.roles,
        }
        if job.corpus.annotations:
            meta["annotations"] = found.summary(writer.tokens)
        writer.finish(job.fingerprint, meta)
    counts = f"{writer.tokens:,} tokens, {writer.sentences:,} sentences, {writer.documents:,} documents"
    note(f"prepare: {job.path}: {counts}", not job.quiet)
    for name, entry in meta.get("annotations", {}).items():
        note(f"prepare: {describe(name, entry)}", not job.quiet)


class ShardBuilder:
    """Turns all chunks into shards, reusing the finished ones.

    Args:
        job: whose text.
        tokenizer: what it becomes ids with; it is told the segmenter.
        processes: worker processes.
    """

    def __init__(self, job: StoreJob, tokenizer: ZooTokenizer, processes: int) -> None:
        self._job, self._processes, self._tokenizer = job, processes, tokenizer
        self._joins = _joins_words(job, tokenizer)
        tokenizer.segmenter = job.segmenter.name
        self._folder = job.work / "shards"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._salt = text_digest(tokenizer.backend_key() + json.dumps(job.shard_recipe, sort_keys=True))
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def run(self) -> list[Shard]:
        """All shards in order.

        Raises:
            ZooError: the first bad chunk's message; shards finished by then stay for the next start.
        """
        paths: list[Path] = []
        running: dict[Future[None], int] = {}
        errors: dict[int, BaseException] = {}
        progress = ReadingProgress("prepare: encoding", self._job.size, not self._job.quiet)
        with Workers(self._spec(), self._processes) as workers:
            for chunk, position in self._chunks(errors):
                path = self._folder / f"{text_digest(self._salt + chunk.key)}.shard"
                paths.append(path)
                progress.reached(position)
                if shard_info(path) is not None or path in paths[-65:-1]:
                    progress.skip_bytes(len(chunk.data))
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

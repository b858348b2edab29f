"""The token stores of a run: its main text, and those of tasks with text of their own."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.sources import Source, resolve_sources
from pretraining.objectives.base import Objective
from pretraining.store.beginnings import check_beginnings
from pretraining.store.job import StoreJob
from pretraining.store.prepare import prepare_store, prepared_store
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.config import PretrainConfig
from zoo.errors import ZooError


class TokenStores(NamedTuple):
    """Prepared text.

    Args:
        main: the run's; its tokenizer is the run's.
        by_task: of those tasks that have a corpus of their own.
        sources: by objective, digest of the files that it reads beside the text.
    """

    main: Store
    by_task: dict[str, Store]
    sources: Mapping[str, str] = MappingProxyType({})

    def for_task(self, task: str) -> Store:
        """What a task reads."""
        return self.by_task.get(task, self.main)

    def common(self, tasks: Iterable[str]) -> Store:
        """The text that some tasks read; the main one where they read several."""
        read = {store.fingerprint: store for store in map(self.for_task, tasks)}
        return next(iter(read.values())) if len(read) == 1 else self.main

    def bits_per_byte(self, tasks: Iterable[str], nats: float) -> float | None:
        """A loss per token of some tasks' text as bits per byte of it; ``None`` where its bytes are not known.

        A token counts for as many bytes as one of the text does on average.

        Args:
            tasks: whose text it is; of several texts there is no such figure.
            nats: the loss.
        """
        read = {store.fingerprint: store.bytes_per_token for store in map(self.for_task, tasks)}
        size = next(iter(read.values())) if len(read) == 1 else None
        return None if size is None else nats / math.log(2) / size

    @property
    def tokens(self) -> int:
        """Tokens of all of them."""
        return sum(store.num_tokens for store in (self.main, *self.by_task.values()))

    @property
    def fingerprints(self) -> dict[str, Any]:
        """What ``run.json`` keeps of them."""
        of_tasks = {name: store.fingerprint for name, store in self.by_task.items()}
        others = {"task_fingerprints": of_tasks, "source_fingerprints": dict(self.sources)}
        return {"data_fingerprint": self.main.fingerprint, **{key: found for key, found in others.items() if found}}


def run_store(config: PretrainConfig, show: bool) -> Store:
    """The token store of a run's corpus, built or found finished."""
    data = config.data
    return prepare_store(
        data.corpus, data.tokenizer, data.stores, processes=data.processes, template=config.template, quiet=not show
    )


def run_stores(config: PretrainConfig, show: bool) -> TokenStores:
    """The token stores of a run and of those of its tasks that have a corpus of their own.

    Raises:
        ZooError: a task's text is missing or bad, naming the task; or a file that an objective reads, likewise.
    """
    sources, data, corpora = check_sources(config), config.data, task_corpora(config)
    for name, corpus in corpora.items():  # before the run's own text, which can take hours
        try:
            found = resolve_sources(corpus)
        except ZooError as error:
            raise ZooError(
                f"tasks.{name}.corpus: {error} Give its text with --tasks.{name}.corpus.files PATH, or leave the task "
                f"out with --tasks.{name} null."
            ) from error
        try:
            check_beginnings(found, corpus)
        except ZooError as error:
            raise ZooError(f"tasks.{name}.corpus: {error}") from error
    main, by_task = run_store(config, show), dict[str, Store]()
    tokenizer = tokenizer_of(main)
    for name, corpus in corpora.items():
        try:
            by_task[name] = prepare_store(corpus, tokenizer, data.stores, processes=data.processes, quiet=not show)
        except ZooError as error:
            raise ZooError(f"tasks.{name}.corpus: {error}") from error
    return TokenStores(main, by_task, sources)


def task_corpora(config: PretrainConfig) -> dict[str, CorpusConfig]:
    """Text of those tasks that have some of their own."""
    return {name: task.corpus for name, task in config.tasks.items() if task.corpus is not None}


def tokenizer_of(main: Store) -> TokenizerConfig:
    """What tasks with text of their own read it with: the run's tokenizer."""
    return TokenizerConfig(kind="file", path=str(main.path), special=load_tokenizer(main.path).roles)


def look_for_stores(config: PretrainConfig) -> tuple[TokenStores | None, list[str]]:
    """The stores of a run where all are prepared, and a line on each of its texts; nothing is prepared.

    Raises:
        ZooError: a text, a tokenizer or a file that an objective reads is missing or bad.
    """
    sources, data, lines, found = check_sources(config), config.data, list[str](), dict[str, Store]()
    tokenizer, folder = data.tokenizer, Path(data.stores)
    with tempfile.TemporaryDirectory() as nowhere:
        for name, corpus in {"": data.corpus, **task_corpora(config)}.items():
            store, size = prepared_store(corpus), ""
            if store is None:
                texts = resolve_sources(corpus)
                check_beginnings(texts, corpus)
                size = _in_words(texts)
            if store is None and (not name or "" in found):  # a task reads with the tokenizer of the run's text
                template = None if name else config.template
                job = StoreJob(corpus, tokenizer, folder if folder.is_dir() else Path(nowhere), True, template)
                store = job.open() if job.finished() else None
            if store is not None:
                found[name] = store
                tokenizer = tokenizer if name else tokenizer_of(store)
                size += f"{'; ' * bool(size)}prepared: {store.path}, {store.num_documents:,} documents, "
                size += f"{store.num_tokens:,} tokens, vocabulary {store.meta['vocab_size']:,}"
            else:
                size += "; not prepared yet, which the run does first"
            lines.append(f"{f'task {name}' if name else 'text'}: {size}")
    whole = len(found) == len(lines)
    return (TokenStores(found.pop(""), found, sources) if whole else None), lines


def _in_words(texts: list[Source]) -> str:
    """How many files of how many bytes, and which data sets of the hub."""
    files, hub = [text for text in texts if text.kind != "hub"], [text.path for text in texts if text.kind == "hub"]
    size = f"{len(files):,} file{'s' * (len(files) > 1)} of {sum(text.size for text in files):,} bytes"
    return " and ".join([*[size] * bool(files), *(f"{name} of the hub" for name in hub)])


def check_sources(config: PretrainConfig) -> dict[str, str]:
    """By objective, digest of the files that it reads beside the text, for those that read some.

    Raises:
        ZooError: one is missing or cannot be read, naming the objective.
    """
    return {name: digest for name, objective in config.objectives.items() if (digest := _sources(name, objective))}


def _sources(name: str, objective: Objective) -> str:
    try:
        contents = [path.read_bytes() for path in objective.data_files()]
    except ZooError as error:
        raise ZooError(f"objectives.{name}: {error}") from error
    digests = [hashlib.blake2b(content, digest_size=16).digest() for content in contents]
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest() if digests else ""

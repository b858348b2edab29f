"""The token stores of a run: its main text, and those of tasks with text of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pretraining.corpus.sources import resolve_sources
from pretraining.objectives.base import Objective
from pretraining.store.beginnings import check_beginnings
from pretraining.store.prepare import prepare_store
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
    sources = check_sources(config)
    data, corpora = config.data, {name: task.corpus for name, task in config.tasks.items() if task.corpus is not None}
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
    tokenizer = TokenizerConfig(kind="file", path=str(main.path), special=load_tokenizer(main.path).roles)
    for name, corpus in corpora.items():
        try:
            by_task[name] = prepare_store(corpus, tokenizer, data.stores, processes=data.processes, quiet=not show)
        except ZooError as error:
            raise ZooError(f"tasks.{name}.corpus: {error}") from error
    return TokenStores(main, by_task, sources)


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

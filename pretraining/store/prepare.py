"""Corpus to token store: all cores, bounded memory, restartable, never built twice.

The parent process reads: it cuts the sources into chunks, looks up which are finished already (a
chunk is known by its bytes and by what is done with it), and hands the others to worker processes
through pipes. A worker writes one *shard* per chunk, atomically. When all are there they are joined,
in order, into the store, whose folder appears by one rename. So a kill costs at most the chunks in
hand, a mended line only its own chunk, and the result does not depend on the number of processes.

Layout below the parent folder::

    wiki_en-1a2b3c4d/            finished stores (see pretraining.store.token_store)
    .work/wiki_en-5e6f7a8b/      lock, trained tokenizers and shards of unfinished ones
    .hashes.json                 content hashes of files by (path, size, time)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pretraining.corpus.config import CorpusConfig
from pretraining.store.beginnings import mostly_unknown
from pretraining.store.build import build_store
from pretraining.store.job import Job
from pretraining.store.token_store import Store
from pretraining.store.work_folder import work_lock
from pretraining.tokenizer.config import MOST_UNKNOWN, SOME_UNKNOWN, TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.runtime.progress import note
from zoo.storage.files import file_digest
from zoo.vocabulary import Template


def prepare_store(
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
        corpus: where the text is; or the folder of a store, as :func:`~pretraining.store.from_ids.prepare_from_ids`
            makes one of ids, which is opened.
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
        note(f"prepare: {corpus.files} is prepared already; its own tokenizer is used{without}", not quiet)
        _check_known(prepared, quiet)
        return prepared
    job = Job(corpus, tokenizer, Path(folder), quiet, template)
    if not job.finished():
        with work_lock(job.work, quiet):
            if not job.finished():  # another process may have built it while we waited
                build_store(job, processes or os.cpu_count() or 1)
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
        if not path.is_file() or file_digest(path) != segmenter.get("dictionary"):
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
        raise mostly_unknown(share, store.meta.get("source", store.path), None)
    if share > SOME_UNKNOWN:
        note(
            f"prepare: {store.path}: {share:.1%} of the tokens are unknown to the tokenizer "
            f"({store.meta['special']['unk']})",
            not quiet,
        )


def prepared_store(corpus: CorpusConfig) -> Store | None:
    """The store that a corpus is instead of text, or ``None``."""
    files = corpus.files
    return Store(files) if isinstance(files, str) and (Path(files) / "meta.json").is_file() else None

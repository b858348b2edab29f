"""A token store, built or found finished: from a corpus, or from documents that are ids already."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import SENTENCE_START, WORD_START
from pretraining.corpus.config import CorpusConfig
from pretraining.store.beginnings import mostly_unknown
from pretraining.store.build import build_store
from pretraining.store.job import StoreJob
from pretraining.store.recipe import RECIPE
from pretraining.store.token_store import SCHEMA, Store
from pretraining.store.writer import StoreWriter, work_lock
from pretraining.tokenizer.config import MOST_UNKNOWN, SOME_UNKNOWN, TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer, use_template
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.runtime.progress import note
from zoo.storage.files import file_digest
from zoo.vocabulary import Template

# --- from a corpus ---------------------------------------------------------------------------------


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
        corpus: where the text is; or the folder of a store, as :func:`~pretraining.store.prepare.prepare_from_ids`
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
    job = StoreJob(corpus, tokenizer, Path(folder), quiet, template)
    if not job.finished():
        with work_lock(job.work, quiet):
            if not job.finished():  # another process may have built it while we waited
                build_store(job, processes or os.cpu_count() or 1)
    store = job.open()
    _check_known(store, quiet)
    return store


def _ignored(store: Store, corpus: CorpusConfig, tokenizer: TokenizerConfig) -> list[str]:
    """Settings that ask for something else than a prepared store was made with, as far as it says how it was."""
    recipe = store.meta.get("recipe", {})
    found = []
    for name, annotator in corpus.annotations.items():
        try:
            asked = json.loads(json.dumps(annotator.recipe()))
        except ZooError:  # its files are gone; they are not needed
            asked = None
        if recipe.get("annotations", {}).get(name) != asked or asked is None:
            found.append(f"annotations.{name}")
    segmenter, own = recipe.get("segmenter", {}), store.path.resolve()
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
    loaded = set(store.meta.get("recipe", {}).get("tokenizer", {})) == {
        "backend"
    }  # a trained one has its settings, too
    if share > MOST_UNKNOWN and loaded:
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


# --- from documents that are ids already -----------------------------------------------------------


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
        use_template(tokenizer, template)
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

"""A store of documents that are tokenised already."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretraining.store.recipe import RECIPE
from pretraining.store.token_store import SCHEMA, Store
from pretraining.store.writer import StoreWriter
from pretraining.tokenizer.flags import SENTENCE_START, WORD_START
from pretraining.tokenizer.load import use_template
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Template


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

"""Tiny token stores written directly in the documented format, from synthetic ids."""

import json
from pathlib import Path

import numpy as np

from pretraining.arrays import SENTENCE_START, WORD_START
from pretraining.layouts.examples import Examples
from pretraining.store.token_store import SCHEMA, Store
from zoo.vocabulary import Vocabulary

BERT_LIKE = Vocabulary(size=1000, pad=0, unk=1, cls=2, sep=3, mask=4)
ROBERTA_LIKE = Vocabulary(size=1000, pad=1, unk=3, cls=0, sep=2, mask=999)
GPT_LIKE = Vocabulary(size=1000)
FIRST_ID = 5


def write_store(path: Path, documents, flags=None, vocab_size=1000, arrays=None) -> Store:
    """``documents`` is a list of lists of sentences, each a list of ids; ``flags`` one array per token."""
    path.mkdir(parents=True, exist_ok=True)
    sentences = [sentence for document in documents for sentence in document]
    tokens = np.concatenate([np.asarray(s, dtype=np.uint16) for s in sentences] or [np.zeros(0, np.uint16)])
    if flags is None:
        flags = np.full(len(tokens), WORD_START, dtype=np.uint8)
    edges = np.append(0, np.cumsum([len(s) for s in sentences])).astype(np.int64)
    flags = np.asarray(flags, dtype=np.uint8).copy()
    flags[edges[:-1][edges[:-1] < len(flags)]] |= SENTENCE_START | WORD_START
    tokens.astype("<u2").tofile(path / "tokens.bin")
    flags.tofile(path / "flags.bin")
    edges.tofile(path / "sentences.bin")
    np.append(0, np.cumsum([len(d) for d in documents])).astype(np.int64).tofile(path / "documents.bin")
    np.bincount(tokens, minlength=vocab_size).astype(np.int64).tofile(path / "counts.bin")
    for name, values in (arrays or {}).items():
        values.tofile(path / f"array-{name}.bin")
    meta = {
        "schema": SCHEMA,
        "fingerprint": "synthetic",
        "tokens": len(tokens),
        "sentences": len(sentences),
        "documents": len(documents),
        "vocab_size": vocab_size,
        "token_dtype": "uint16",
        "arrays": {name: str(values.dtype) for name, values in (arrays or {}).items()},
    }
    (path / "meta.json").write_text(json.dumps(meta))
    return Store(path)


def synthetic_documents(seed=0, count=50, sentences=(3, 20), length=(5, 30), vocab_size=1000):
    """Random documents; ranges are inclusive."""
    rng = np.random.default_rng(seed)
    return [
        [
            rng.integers(FIRST_ID, vocab_size - 1, rng.integers(length[0], length[1] + 1)).tolist()
            for _ in range(rng.integers(sentences[0], sentences[1] + 1))
        ]
        for _ in range(count)
    ]


def synthetic_store(path: Path, seed=0, word_start_share=1.0, **kwargs) -> Store:
    """A store of random documents, where a share of the tokens start a word."""
    documents = synthetic_documents(seed, **kwargs)
    total = sum(len(s) for d in documents for s in d)
    starts = np.random.default_rng(seed + 1).random(total) < word_start_share
    return write_store(path, documents, flags=np.where(starts, WORD_START, 0))


def full_rows(count: int, length: int, seed=0, word_start_share=1.0, vocabulary=BERT_LIKE, separators=1) -> Examples:
    """Rows ``cls tokens sep [tokens sep]`` without padding, for statistics."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(FIRST_ID, vocabulary.size - 1, (count, length)).astype(np.int32)
    flags = np.where(rng.random((count, length)) < word_start_share, WORD_START, 0).astype(np.uint8)
    special = np.zeros((count, length), dtype=bool)
    special[:, 0] = special[:, -1] = True
    if separators == 2:
        special[:, length // 2] = True
    ids[special] = vocabulary.sep
    ids[:, 0] = vocabulary.cls
    flags[special] = WORD_START
    example = np.arange(count, dtype=np.int64)
    return Examples(ids, np.full(count, length, dtype=np.int64), special, flags, example, document_ids=example)


def take(rows: Examples, indices, width=None) -> Examples:
    """Some rows, cut or padded to ``width`` columns."""
    width = width or rows.shape[1]

    def part(values, fill):
        if values is None or values.ndim == 1:
            return None if values is None else values[indices]
        out = np.full((len(indices), width), fill, dtype=values.dtype)
        copied = min(width, values.shape[1])
        out[:, :copied] = values[indices, :copied]
        return out

    def of_target(name, values):
        return values[indices] if name in ("decoder_input_ids", "labels") else part(values, 0)  # as long as they were

    return Examples(
        input_ids=part(rows.input_ids, 0),
        lengths=rows.lengths[indices],
        special_tokens_mask=part(rows.special_tokens_mask, True),
        token_flags=part(rows.token_flags, WORD_START),
        example_ids=rows.example_ids[indices],
        document_ids=rows.document_ids[indices],
        token_type_ids=part(rows.token_type_ids, 0),
        row_labels=part(rows.row_labels, 0),
        arrays={name: part(values, 0) for name, values in rows.arrays.items()},
        targets={name: of_target(name, values) for name, values in rows.targets.items()},
    )

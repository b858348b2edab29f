"""``python benchmarks/masking.py``: tokens per second of masking and collation, beside transformers' collator.

    python benchmarks/masking.py [--batch 256] [--length 128] [--rounds 40] [--chinese]

One process, one thread, pinned to one core. Both arms start from rows in memory (transformers: a list of
dictionaries with ids, special-token masks and offsets, as ``datasets`` yields them) and end with torch
tensors for the core and for the loss; the arms take turns, and the median is printed. "with gather" adds
what only ours includes here: fetching the rows from the memory-mapped token store.

``--chinese``: instead, the shipped Chinese sample, prepared with a segmenter's words and with phrases and entities, and
each way of masking beside single tokens: "ours" as above, "choose" the choice of positions alone. "similar": with
similar words instead of the mask token, from the shipped list.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from pretraining.annotations.lexicon import Lexicon, Words
from pretraining.arrays import WORD_START
from pretraining.corpus.config import CorpusConfig
from pretraining.keyed_random import Draw
from pretraining.layouts.base import Layout, Plan
from pretraining.layouts.examples import Examples
from pretraining.layouts.full_sentences import FullSentences
from pretraining.masking.base import Selector
from pretraining.masking.ngrams import NGrams
from pretraining.masking.similar_words import SimilarWords
from pretraining.masking.tokens import RandomTokens
from pretraining.masking.words import KnowledgeUnits, RandomSpans, WholeWords
from pretraining.objectives import MaskedLM
from pretraining.objectives.base import collate
from pretraining.store.prepare import prepare_store
from pretraining.store.token_store import SCHEMA, Store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from zoo.config import CoreConfig
from zoo.vocabulary import Vocabulary

VOCABULARY = Vocabulary(size=30_522, pad=0, unk=1, cls=2, sep=3, mask=4)
PARTS: dict[str, Selector] = {
    "token masks": RandomTokens(),
    "token masks (stochastic)": RandomTokens(budget="stochastic", include_special=True),
    "whole words": WholeWords(),
    "random spans": RandomSpans(),
    "n-gram masks": NGrams(),
}


def make_store(folder: Path, tokens: int) -> Store:
    """Random ids, one document, sentences of 20 tokens, four of five tokens starting a word."""
    rng = np.random.default_rng(0)
    sentences = tokens // 20
    ids = rng.integers(5, VOCABULARY.size, sentences * 20).astype(np.uint16)
    ids.tofile(folder / "tokens.bin")
    np.where(rng.random(len(ids)) < 0.8, WORD_START, 0).astype(np.uint8).tofile(folder / "flags.bin")
    (np.arange(sentences + 1, dtype=np.int64) * 20).tofile(folder / "sentences.bin")
    np.array([0, sentences], dtype=np.int64).tofile(folder / "documents.bin")
    np.bincount(ids, minlength=VOCABULARY.size).astype(np.int64).tofile(folder / "counts.bin")
    meta = {
        "schema": SCHEMA,
        "fingerprint": "benchmark",
        "tokens": len(ids),
        "sentences": sentences,
        "documents": 1,
        "vocab_size": VOCABULARY.size,
        "token_dtype": "uint16",
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return Store(folder)


def theirs(whole_words: bool) -> Callable[[list[dict[str, Any]]], Any] | None:
    """The collator of transformers with a tokenizer of the same size; ``None`` where it is not installed."""
    try:
        from tokenizers import Tokenizer, models
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast
    except ImportError:
        return None
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {name: i for i, name in enumerate([*names, *(f"w{i}" for i in range(5, VOCABULARY.size))])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DataCollatorForLanguageModeling(tokenizer, whole_word_mask=whole_words)


def as_examples(rows: Examples, offsets: bool) -> list[dict[str, Any]]:
    """Rows as the lists that transformers' collator is given."""
    found = []
    for row in range(len(rows.lengths)):
        end = rows.lengths[row]
        example = {
            "input_ids": rows.input_ids[row, :end].tolist(),
            "special_tokens_mask": rows.special_tokens_mask[row, :end].astype(int).tolist(),
        }
        if offsets:
            starts = np.cumsum((rows.token_flags[row, :end] & WORD_START) != 0) + np.arange(end)
            example["offset_mapping"] = [(int(s), int(s) + 1) for s in starts]
        found.append(example)
    return found


def rate(times: list[float], tokens: int) -> float:
    """Millions of tokens per second at the median."""
    return tokens / statistics.median(times) / 1e6


def measure(
    name: str, choose: Selector, layout: Layout, store: Store, plan: Plan, batches: list[np.ndarray], length: int
) -> None:
    """One line of the table."""
    objective = MaskedLM(choose)
    objective.build(CoreConfig(vocab_size=VOCABULARY.size), VOCABULARY)
    whole_words = isinstance(choose, WholeWords | NGrams)
    peer = theirs(whole_words)
    batch_rows = [layout.rows(store, plan, batch, length, VOCABULARY) for batch in batches]
    ours: list[float] = []
    gathered: list[float] = []
    peers: list[float] = []
    for number, (batch, rows) in enumerate(zip(batches, batch_rows, strict=True)):
        start = time.perf_counter()
        collate(objective.corrupt(rows, Draw(0, number)), {"masked": objective})
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        fresh = layout.rows(store, plan, batch, length, VOCABULARY)
        collate(objective.corrupt(fresh, Draw(1, number)), {"masked": objective})
        gathered.append(time.perf_counter() - start)
        if peer is not None and number % 4 == 0:  # the slower arm needs fewer rounds
            examples = as_examples(rows, whole_words)
            start = time.perf_counter()
            peer(examples)
            peers.append(time.perf_counter() - start)
    tokens = int(batch_rows[0].lengths.sum())
    line = f"{name:26} {rate(ours, tokens):8.1f} {rate(gathered, tokens):12.1f}"
    if peers:
        line += f" {rate(peers, tokens):13.2f} {rate(ours, tokens) / rate(peers, tokens):8.1f}x"
    print(line, flush=True)


CHINESE: dict[str, Selector] = {
    "token masks": RandomTokens(),
    "whole words": WholeWords(),
    "whole words, independent": WholeWords(budget="bernoulli"),
    "phrases": KnowledgeUnits("phrase"),
    "phrases, independent": KnowledgeUnits("phrase", budget="bernoulli"),
    "entities, then phrases": KnowledgeUnits(["entity", "phrase"]),
    "random spans": RandomSpans(),
    "n-gram masks": NGrams(),
}


def chinese(folder: Path, batch: int, length: int, rounds: int) -> None:
    """The table of ``--chinese``; all ways take turns, so that a busy machine slows them alike."""
    lexicon = Lexicon("zoo:sample/lexicon/entities-zh.txt")
    corpus = CorpusConfig("zoo:sample/zh", segmenter="rjieba", annotations={"phrase": Words(2), "entity": lexicon})
    tokenizer = TokenizerConfig(kind="wordpiece", vocab_size=8192, lowercase=True)
    store = prepare_store(corpus, tokenizer, str(folder), processes=1, quiet=True)
    words = load_tokenizer(store.path)
    vocabulary, layout = words.vocabulary, FullSentences()
    plan = layout.plan(store, np.arange(store.num_documents), length, vocabulary, Draw(0, 0))
    order = Draw(0, 0).permutation(len(plan), "rows")
    objectives = {name: MaskedLM(choose) for name, choose in CHINESE.items()}
    for name in ("whole words", "n-gram masks"):
        similar = SimilarWords("zoo:sample/lexicon/similar-zh.txt")
        objectives[f"{name}, similar"] = MaskedLM(CHINESE[name], similar)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in objectives}
    for objective in objectives.values():
        objective.build(CoreConfig(vocab_size=vocabulary.size), vocabulary)
        objective.bind_tokenizer(words)
    tokens = []
    for number in range(rounds):
        first = number * batch % max(len(order) - batch, 1)
        rows = layout.rows(store, plan, order[first : first + batch], length, vocabulary)
        tokens.append(int(rows.lengths.sum()))
        for name, objective in objectives.items():
            start = time.perf_counter()
            collate(objective.corrupt(rows, Draw(0, number)), {"masked": objective})
            middle = time.perf_counter()
            objective.select(rows, Draw(0, number), vocabulary)
            times[name].append((middle - start, time.perf_counter() - middle))
    count = int((np.asarray(store.flags) & WORD_START).sum())
    print(f"{store.num_tokens:,} tokens in {count:,} words; million tokens/s on one core, median of {rounds}")
    print(f"{'':26} {'ours':>8} {'against tokens':>15} {'choose':>8}")
    base = statistics.median(whole for whole, _ in times["token masks"])
    for name, found in times.items():
        whole, choice = (statistics.median(part) for part in zip(*found, strict=True))
        each = statistics.median(tokens) / 1e6
        print(f"{name:26} {each / whole:8.1f} {whole / base:14.2f}x {each / choice:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--chinese", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.chinese:
        with tempfile.TemporaryDirectory() as folder:
            chinese(Path(folder), options.batch, options.length, options.rounds)
        return
    layout = FullSentences()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), 4_000_000)
        plan = layout.plan(store, np.arange(1), options.length, VOCABULARY, Draw(0, 0))
        order = Draw(0, 0).permutation(len(plan), "rows")
        if len(order) < options.batch:
            sys.exit(f"--batch {options.batch} is more than the {len(order)} rows of this benchmark's text")
        count = len(order) // options.batch
        pick = [number % count * options.batch for number in range(options.rounds)]
        batches = [order[start : start + options.batch] for start in pick]
        print(f"million tokens/s on one core, batch {options.batch} x {options.length}, median of {options.rounds}")
        print(f"{'':26} {'ours':>8} {'with gather':>12} {'transformers':>13} {'ratio':>9}")
        for name, choose in PARTS.items():
            measure(name, choose, layout, store, plan, batches, options.length)
    print("transformers' figure beside whole words, spans and n-grams is its whole_word_mask (all-[MASK]).")


if __name__ == "__main__":
    main()

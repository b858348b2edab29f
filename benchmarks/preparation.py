"""``python benchmarks/preparation.py``: text to token store on one core, in characters per second.

Segmentation and annotations are also timed by themselves.

Each arm does what a worker process of ``zoo prepare`` does with the chunks of a corpus: reading, sentences, words, ids,
annotations, shards on the disk. The tokenizer is trained before and not timed. Two arms are the segmenter's words and
the lexicon's entries of the same sentences alone. Processor time is what other jobs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pretraining.annotations.lexicon import Lexicon, Words
from pretraining.corpus.chunks import Chunk, read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import parse_chunk
from pretraining.corpus.sources import resolve_sources
from pretraining.store.recipe import Recipe
from pretraining.store.shards import write_shard
from pretraining.text.segmenter import Segmenter
from pretraining.text.sentences import sentence_spans
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import train_tokenizer


def main() -> None:
    """Measure every arm in turns and print the medians."""
    options = _arguments()
    corpus = CorpusConfig(options.files)
    chunks = list(itertools.islice(_chunks(corpus), options.chunks))
    sentences = [line[a:b] for chunk in chunks for line in _lines(chunk) for a, b in sentence_spans(line)]
    size = sum(map(len, sentences))
    config = TokenizerConfig(kind=options.kind, vocab_size=options.vocab_size)
    tokenizer = train_tokenizer(config, sentences[:40_000])
    arms: dict[str, Callable[[], object]] = {}
    plain = {"none": corpus}
    if options.segmenter != "none":
        plain[options.segmenter] = dataclasses.replace(corpus, segmenter=options.segmenter)
        segmenter = Segmenter(options.segmenter)
        arms[f"segment ({options.segmenter}) alone"] = lambda: [segmenter.words(text) for text in sentences]
        plain[f"{options.segmenter}, words annotated"] = dataclasses.replace(
            plain[options.segmenter], annotations={"phrase": Words()}
        )
    if options.lexicon:
        lexicon = Lexicon(options.lexicon)
        lexicon.ready(tokenizer.lowercases)
        arms["lexicon alone"] = lambda: [lexicon.find(text, None) for text in sentences]
        best = plain[options.segmenter]
        plain[f"{options.segmenter}, lexicon annotated"] = dataclasses.replace(best, annotations={"entity": lexicon})
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in plain.items():
            arms[f"prepare, {name}"] = lambda s=settings: _prepare(chunks, s, tokenizer, Path(folder))  # type: ignore[misc]
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, work in arms.items():
                begin, processor = time.perf_counter(), time.process_time()
                work()
                seconds[name].append((time.perf_counter() - begin, time.process_time() - processor))
    print(f"{size:,} characters in {len(sentences):,} sentences of {options.files}, {options.kind}")
    print(f"{'arm':<36} {'characters/s of processor time':>32} {'by the clock':>14}")
    for name, measured in seconds.items():
        clock, processor = (statistics.median(column) for column in zip(*measured))
        print(f"{name:<36} {size / processor:>32,.0f} {size / clock:>14,.0f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", default="zoo:sample/zh")
    parser.add_argument("--segmenter", default="rjieba", choices=["none", "rjieba", "space"])
    parser.add_argument("--lexicon", help="word lists, as for Lexicon")
    parser.add_argument("--kind", default="wordpiece")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--chunks", type=int, default=3, help="chunks of 4 MB that are read")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _chunks(corpus: CorpusConfig) -> Iterator[Chunk]:
    for source in resolve_sources(corpus):
        yield from read_chunks(source, corpus)


def _lines(chunk: Chunk) -> Iterator[str]:
    for document in parse_chunk(chunk):
        yield from document.lines


def _prepare(chunks: list[Chunk], corpus: CorpusConfig, tokenizer: object, folder: Path) -> None:
    """Chunks to shards, with a worker's cold start: nothing is cached from the round before."""
    recipe = Recipe(corpus, tokenizer, False)  # type: ignore[arg-type]
    tokenizer.forget_words()  # type: ignore[attr-defined]
    for number, chunk in enumerate(chunks):
        write_shard(folder / f"{number}.shard", recipe.run(chunk))


if __name__ == "__main__":
    main()

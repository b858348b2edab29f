"""``python benchmarks/vectors.py --files TEXT --pairs MEN``: word vectors beside gensim's, in words/s and quality.

    python benchmarks/vectors.py --files ../shared/data/corpus_en --pairs ../shared/data/wordsim/EN-MEN-TR-3k.txt \
        [--workers 2] [--epochs 5] [--rounds 1] [--config word2vec-tiny] [--set KEY=VALUE ...]

Both arms read the same words in the same rows, several epochs of them, at the settings of the config: width, window,
noise words, thinning out. gensim has ``--workers`` threads and its own default rates, we have as many threads of torch.
The arms take turns. Beside words/s stand words per second of processor time, which a busy machine changes less. What is
timed is training alone: our rows are made within it, gensim's words lie in memory. Words
are those that are in the vocabulary, before any are thinned out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from accelerate import Accelerator

from pretraining.objectives import SkipGram
from pretraining.objectives.skip_gram import WindowObjective
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tools.word_vectors import WordVectors, word_ids
from pretraining.training.assemble import make_tasks, with_vocabulary
from pretraining.training.budget import make_trainer
from pretraining.training.config import PretrainConfig
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import build_model, tokens_by_id
from pretraining.training.state import budget_used
from pretraining.training.stores import run_stores
from zoo.runtime.signals import StopRequest


def settings(options: argparse.Namespace, tokens: int) -> PretrainConfig:
    """The config's, on this text, for so many tokens."""
    argv = ["--config", options.config, "--data.corpus.files", options.files, "--data.stores", options.stores]
    argv += ["--data.validation_tokens", "0", "--train.tokens", str(tokens)]
    for pair in options.set:
        key, _, value = pair.partition("=")
        argv += [f"--{key}", value]
    return load_pretrain_config(argv).value


def clocks() -> tuple[float, float]:
    """Seconds of the clock, and of this process's processors."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both since then."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def ours(options: argparse.Namespace) -> tuple[tuple[float, float], np.ndarray]:
    """Seconds of training, of the clock and of processors, and (V, width) vectors."""
    torch.set_num_threads(options.workers)
    stores = run_stores(settings(options, 1), False)
    config = settings(options, options.epochs * stores.main.num_tokens)
    tokenizer = load_tokenizer(stores.main.path)
    core = with_vocabulary(config.model, tokenizer.vocabulary)
    model = build_model(core, config.objectives, tokenizer.vocabulary, config.seed.init, tokenizer).train()
    data, _ = make_tasks(config, stores, tokenizer.vocabulary)
    accelerator = Accelerator(cpu=True)
    trainer = make_trainer(config, accelerator, model, data)
    trainer.model = accelerator.prepare(model)
    start = clocks()
    while budget_used(config.train, trainer.state.counters) < 1:
        trainer.train_step(StopRequest())
    return since(start), model.core.token_embedding.detach().numpy()


def theirs(
    options: argparse.Namespace, rows: list[list[str]], words: list[str]
) -> tuple[tuple[float, float], np.ndarray]:
    """The same of gensim."""
    from gensim.models import Word2Vec

    config = settings(options, 1)
    (objective,) = config.objectives.values()
    assert isinstance(objective, WindowObjective)
    skip_gram = isinstance(objective, SkipGram)
    model = Word2Vec(
        vector_size=config.model.hidden_size,
        window=objective.window,
        negative=objective.negatives,
        sample=objective.subsample,
        sg=int(skip_gram),
        alpha=0.025 if skip_gram else 0.05,
        min_count=1,
        workers=options.workers,
        seed=1,
    )
    model.build_vocab(rows)
    start = clocks()
    model.train(rows, total_examples=model.corpus_count, epochs=options.epochs)
    seconds = since(start)
    vectors = np.zeros((len(words), config.model.hidden_size), dtype=np.float32)
    for number, word in enumerate(words):
        if word in model.wv:
            vectors[number] = model.wv[word]
    return seconds, vectors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", required=True)
    parser.add_argument("--pairs", required=True, nargs="+")
    parser.add_argument("--config", default="word2vec-tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stores", default=str(Path(tempfile.gettempdir()) / "vectors-stores"))
    parser.add_argument("--set", nargs="*", default=[])
    options = parser.parse_args()
    store = run_stores(settings(options, 1), True).main
    tokenizer = load_tokenizer(store.path)
    words, kept = tokens_by_id(tokenizer), word_ids(tokenizer)
    tokens, edges, length = np.asarray(store.tokens), store.document_tokens(), settings(options, 1).data.sequence_length
    is_word = np.zeros(len(words), dtype=bool)
    is_word[kept] = True
    rows = []
    for first, end in itertools.pairwise(edges):
        for start in range(int(first), int(end), length):
            part = tokens[start : min(start + length, int(end))]
            rows.append([words[n] for n in part[is_word[part]]])
    total = options.epochs * sum(map(len, rows))
    speeds: dict[str, list[float]] = {"ours": [], "gensim": []}
    for _ in range(options.rounds):
        for name in speeds:
            seconds, vectors = ours(options) if name == "ours" else theirs(options, rows, words)
            speeds[name].append(total / seconds[0])
            made = WordVectors([words[n] for n in kept], vectors[kept], name)
            found = ", ".join(f"{Path(p).stem} {made.similarity(Path(p)).correlation:.4f}" for p in options.pairs)
            print(
                f"{name:<7} {total / seconds[0]:9,.0f} words/s {total / seconds[1]:9,.0f} of a processor  {found}",
                flush=True,
            )
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{total:,} words; ours / gensim {medians['ours'] / medians['gensim']:.2f}")


if __name__ == "__main__":
    main()

"""``python benchmarks/permutation.py``: a training step of a permutation language model beside one of a masked one.

    python benchmarks/permutation.py [--rounds 7] [--steps 3] [--rows 32] [--length 128] [--layers 4] [--hidden 256]

Same widths, layers, vocabulary, rows, dropout, optimiser and threads; a step is choosing tokens, collation, forward and
backward pass, and the optimiser's step. The arms take turns within a round, so that a busy machine slows all alike, and
ratios are medians over rounds: of the time on the clock, and of the processor's, which other jobs disturb less.

Arms: BERT's core with masked LM; the core with relative scores and two streams, without memory and with one of three
quarters of a row; and, to tell what costs what, the same core with masked LM (one stream).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.tokens import RandomTokens
from pretraining.objectives import MaskedLM, PermutationLM
from pretraining.objectives.base import Objective, collate
from pretraining.training.model import PretrainingModel, build_model
from zoo.config import CoreConfig
from zoo.dropout import row_keys
from zoo.vocabulary import Vocabulary

IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
Options = argparse.Namespace


def make_rows(options: Options, reused: bool) -> Examples:
    """Full rows ``text sep text sep cls``, without padding."""
    rng, shape = np.random.default_rng(0), (options.rows, options.length)
    ids = rng.integers(len(IDS), options.vocab, shape).astype(np.int32)
    special = np.zeros(shape, dtype=bool)
    special[:, [3 * options.length // 4, -2, -1]] = True
    ids[special] = IDS["sep"]
    number = np.arange(options.rows)
    return Examples(
        input_ids=ids,
        lengths=np.full(options.rows, options.length),
        special_tokens_mask=special,
        token_flags=np.where(rng.random(shape) < 0.75, WORD_START, 0).astype(np.uint8),
        example_ids=number,
        document_ids=number,
        token_type_ids=(np.cumsum(special, axis=1) > 1).astype(np.int32),
        reuse_length=np.full(options.rows, options.length // 2) if reused else None,
        reversed=number >= options.rows // 2 if reused else None,
    )


def core_config(options: Options, relative: bool, memory: bool) -> CoreConfig:
    """Either core at the same shape."""
    shared: dict[str, Any] = {
        "vocab_size": options.vocab,
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": 4 * options.hidden,
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.dropout,
        "max_position_embeddings": max(512, options.length),
        "pooler": False,
    }
    if not relative:
        return CoreConfig(**shared)
    return CoreConfig(
        **shared,
        position_type="relative",
        untie_r=True,
        relative_segments=True,
        query_stream=True,
        embedding_norm=False,
        type_vocab_size=0,
        attention_bias=False,
        final_dropout=options.dropout,
        mem_len=3 * options.length // 4 if memory else None,
        reuse_len=options.length // 2 if memory else None,
    )


class Arm:
    """A model with its rows; a call trains some steps and says how long one took."""

    def __init__(self, options: Options, objective: Objective, relative: bool, memory: bool) -> None:
        vocabulary = Vocabulary(options.vocab, **IDS)
        self.objectives, self.rows = {"x": objective}, make_rows(options, relative)
        self.model: PretrainingModel = build_model(
            core_config(options, relative, memory), self.objectives, vocabulary, 0
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.state, self.number = None, 0
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def run(self, steps: int, timed: bool = True) -> None:
        """Train so many steps, and note what one took."""
        start, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            rows = self.objectives["x"].corrupt(self.rows, Draw(0, self.number))
            batch = collate(rows, self.objectives)
            keys = row_keys(0, self.number, np.arange(len(rows.lengths)))
            batch = batch._replace(inputs=batch.inputs._replace(dropout_keys=keys))
            terms, self.state = self.model(batch, self.state)
            (terms["x"].total / batch.counts["x"]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.number += 1
        if timed:
            self.seconds.append((time.perf_counter() - start) / steps)
            self.processor.append((time.process_time() - used) / steps)


ARMS: dict[str, Callable[[Options], Arm]] = {
    "masked, BERT's core": lambda o: Arm(o, MaskedLM(RandomTokens(rate=1 / 6)), False, False),
    "masked, relative core": lambda o: Arm(o, MaskedLM(RandomTokens(rate=1 / 6)), True, False),
    "permutation": lambda o: Arm(o, PermutationLM(), True, False),
    "permutation, memory": lambda o: Arm(o, PermutationLM(), True, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"rounds": 7, "steps": 3, "rows": 32, "length": 128, "layers": 4, "hidden": 256, "heads": 4}
    for name, value in {**defaults, "vocab": 30522, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arms = {name: make(options) for name, make in ARMS.items()}
    for arm in arms.values():
        arm.run(2, timed=False)
    for _ in range(options.rounds):
        for arm in arms.values():
            arm.run(options.steps)
    base = next(iter(arms.values()))
    print(
        f"{options.rows} x {options.length}, {options.layers}/{options.hidden}, {options.vocab} tokens, fp32, "
        f"{options.threads} threads, dropout {options.dropout}; median of {options.rounds} rounds"
    )
    for name, arm in arms.items():
        clock, processor = ratios(arm.seconds, base.seconds), ratios(arm.processor, base.processor)
        print(
            f"{name:<24} {1000 * statistics.median(arm.seconds):8.0f} ms a step   {clock} clock   {processor} processor"
        )


def ratios(own: list[float], base: list[float]) -> str:
    """Median, least and greatest over rounds."""
    found = sorted(a / b for a, b in zip(own, base, strict=True))
    return f"{statistics.median(found):.2f} x ({found[0]:.2f}-{found[-1]:.2f})"


if __name__ == "__main__":
    main()

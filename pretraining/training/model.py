"""The module that is trained: a core and the objectives with their heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from pretraining.objectives.base import Batch, CoreRunner, LossTerm, Objective, Targets
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.build import make_core
from zoo.core.flops import core_flops, training_flops
from zoo.core.init import initialise
from zoo.inputs import CoreOutput
from zoo.vocabulary import Vocabulary


class PretrainingModel(nn.Module):
    """Core and objectives in one module, so that data parallelism gets all gradients.

    Args:
        core: the core.
        objectives: built objectives by name; their parameters are the heads.

    Attributes:
        compiled: what runs the core in its stead; ``None`` = nothing does.
    """

    core: Core

    def __init__(self, core: Core, objectives: dict[str, Objective]) -> None:
        super().__init__()
        self.core = core
        self.compiled: Callable[..., CoreOutput] | None = None
        self.heads = nn.ModuleDict(objectives)
        self.objectives = objectives

    def forward(self, batch: Batch, state: Any = None) -> tuple[dict[str, LossTerm], Any]:
        """Loss terms by objective for those the batch has targets of, and the core's new state."""
        run_core = CoreRunner(self.compiled or self.core, batch.inputs, state)
        embedding = self.core.token_embedding
        terms = {}
        for name, tensors in batch.targets.items():
            terms[name] = self.objectives[name](run_core, embedding, Targets(tensors, batch.counts[name]))
        return terms, run_core.new_state

    def flops(self, batch: Batch, memory: int = 0) -> int:
        """Operations of the matrix products of a step on ``batch``, whose rows remember ``memory`` tokens."""
        inputs, (rows, length) = batch.inputs, batch.inputs.input_ids.shape
        target, queries = inputs.decoder, 0 if inputs.query is None else inputs.query.positions.shape[1]
        read = (target or inputs).output_positions  # on the CPU still, where numpy counts without a wait
        outputs = None if read is None else int(np.count_nonzero(read.numpy() >= 0))
        causal, decoded = inputs.attention_pattern.causal, 0 if target is None else target.input_ids.shape[1]
        core = core_flops(self.core.config, rows, length, queries, memory, causal, outputs, decoded)
        heads = sum(self.objectives[name].head_flops(count) for name, count in batch.counts.items())
        own = sum(self.objectives[name].core_flops(rows, length, found) for name, found in batch.targets.items())
        return training_flops(core + heads + own)


def tokens_by_id(tokenizer: ZooTokenizer) -> list[str]:
    """Every token by its id, empty where an id is nobody's."""
    words = [""] * tokenizer.vocabulary.size
    for word, number in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        words[number] = word
    return words


def build_model(
    config: CoreConfig,
    objectives: dict[str, Objective],
    vocabulary: Vocabulary,
    seed: int,
    tokenizer: ZooTokenizer | None = None,
) -> PretrainingModel:
    """Core and heads with initial values keyed by ``seed`` and parameter names.

    Args:
        config: of the core.
        objectives: what it is trained by.
        vocabulary: of the tokenizer.
        seed: the run's ``seed.init``.
        tokenizer: says how tokens are spelt; a core that reads characters, and objectives that look words up, cannot
            run without.
    """
    core = make_core(config)
    if core.reads_characters and tokenizer is not None:
        core.set_spellings(tokens_by_id(tokenizer), vocabulary)
    for objective in objectives.values():
        objective.build(config, vocabulary)
        if tokenizer is not None:
            objective.bind_tokenizer(tokenizer)
        objective.bind_core(core)
    if any(objective.sparse_gradients for objective in objectives.values()):
        core.make_gradients_sparse()
    model = PretrainingModel(core, objectives)
    initialise(core, config, seed, "core.")
    initialise(model.heads, config, seed, "heads.")
    return model

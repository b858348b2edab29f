"""The module that is trained: a core and the objectives with their heads."""

from __future__ import annotations

from typing import Any

from torch import nn

from pretraining.objective import Batch, LossTerm, Objective, Targets
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.core import Core, make_core
from zoo.init import initialise
from zoo.inputs import CoreInputs, CoreOutput
from zoo.vocabulary import Vocabulary


class Encoder:
    """The core as objectives see it: the batch's own inputs are run once, however many ask."""

    def __init__(self, core: nn.Module, inputs: CoreInputs, state: Any = None) -> None:
        self.core, self.inputs, self.state = core, inputs, state
        self._shared: CoreOutput | None = None

    def __call__(self, inputs: CoreInputs | None = None) -> CoreOutput:
        """The core's output of ``inputs``, or, without, of the batch; the latter carries the state on."""
        if inputs is not None:
            return self.core(inputs)
        if self._shared is None:
            self._shared = self.core(self.inputs, self.state)
        return self._shared

    @property
    def carried(self) -> Any:
        """The state after this batch, ``None`` where no objective ran the core on it."""
        return None if self._shared is None else self._shared.state


class PretrainingModel(nn.Module):
    """Core and objectives in one module, so that data parallelism sees all gradients.

    Args:
        core: the core.
        objectives: built objectives by name; their parameters are the heads.
    """

    core: Core

    def __init__(self, core: Core, objectives: dict[str, Objective]) -> None:
        super().__init__()
        self.core = core
        self.heads = nn.ModuleDict(objectives)

    def forward(self, batch: Batch, state: Any = None) -> tuple[dict[str, LossTerm], Any]:
        """Loss terms by objective for those the batch has targets of, and the core's new state."""
        encode = Encoder(self.core, batch.inputs, state)
        embedding = self.core.token_embedding
        terms = {}
        for name, tensors in batch.targets.items():
            objective = self.heads[name]
            assert isinstance(objective, Objective)
            terms[name] = objective(encode, embedding, Targets(tensors, batch.counts[name]))
        return terms, encode.carried


def words_of(tokenizer: ZooTokenizer) -> list[str]:
    """Every token by its id, empty where an id is nobody's."""
    known = tokenizer.backend.get_vocab(with_added_tokens=True)
    words = [""] * tokenizer.vocabulary.size
    for word, number in known.items():
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
        config: the core's facts.
        objectives: what it is trained by.
        vocabulary: of the tokenizer.
        seed: the run's ``seed.init``.
        tokenizer: says how tokens are spelt; a core that reads characters, and objectives that look words up, cannot
            run without.
    """
    core = make_core(config)
    if core.spells and tokenizer is not None:
        core.spell(words_of(tokenizer), vocabulary)
    for objective in objectives.values():
        objective.build(config, vocabulary)
        if tokenizer is not None:
            objective.bind(tokenizer)
    model = PretrainingModel(core, objectives)
    initialise(core, config, seed, "core.")
    initialise(model.heads, config, seed, "heads.")
    return model

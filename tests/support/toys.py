"""Two toy tasks, and tiny untrained models that learn them within seconds: what tests of fine-tuning share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from finetune.data.examples import LabelledTexts, TaskSplits
from finetune.data.tasks import Task
from finetune.training.loop import step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig
from zoo.core.build import build_core
from zoo.model_folder import ModelMetadata, save_model_folder
from zoo.vocabulary import Template, Vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "same", "red", "blue", "green", *"abcdefghijklmn"]
SINGLE = Task(name="mood", columns=("text",), labels=("neg", "pos"), metrics=("accuracy", "f1"), epochs=6)
PAIR = Task(name="colour", columns=("a", "b"), labels=("other", "same"), epochs=15)
_TINY = CoreConfig(
    vocab_size=len(WORDS), hidden_size=32, num_attention_heads=2, intermediate_size=64, initializer_range=0.1
)  # a wide start, so that an untrained core learns a toy task within seconds
_CAUSAL = _TINY.replace(type_vocab_size=0, pooler=False, norm_position="pre", embedding_norm=False)
_LAST = Template("_start_ $A _extract_", "_start_ $A _delimiter_ $B _extract_", pooling="last")


class Toy(NamedTuple):
    """Facts of a model folder."""

    config: CoreConfig
    template: Template
    attention: str


POOLED = Toy(_TINY.replace(pad_token_id=0), Template(), "bidirectional")
FIRST = Toy(_TINY.replace(pooler=False, pad_token_id=0), Template(), "bidirectional")
LAST = Toy(_CAUSAL, _LAST, "causal")
_RELATIVE = _TINY.replace(
    type_vocab_size=0, pooler=False, embedding_norm=False, attention_bias=False, position_type="relative", mem_len=3
)  # a memory shorter than most rows
MEMORY = Toy(_RELATIVE, _LAST, "causal")
PERMUTED = Toy(
    _RELATIVE.replace(
        reuse_len=2,
        untie_r=True,
        relative_segments=True,
        query_stream=True,
        pad_token_id=0,
        activation_dropout=0.1,
        final_dropout=0.1,
    ),
    Template("$A [SEP] [CLS]:2", "$A [SEP] $B [SEP] [CLS]:2", pooling="last", padding_side="left"),
    "bidirectional",
)
SPELT = Toy(
    _TINY.replace(
        type_vocab_size=0,
        pooler=False,
        embedding_norm=False,
        position_type="none",
        hidden_dropout_prob=0.0,
        tie_word_embeddings=False,
        characters=CharacterConfig(261, 10, 8, ((1, 8), (2, 16), (3, 16)), 1),
        recurrent=RecurrentConfig(cell_size=48),
    ),
    Template("[SEP] $A [SEP]", "[SEP] $A [SEP] $B [SEP]", pooling="ends"),
    "bidirectional",
)

STATIC = Toy(
    _TINY.replace(
        num_hidden_layers=0,
        type_vocab_size=0,
        pooler=False,
        embedding_norm=False,
        position_type="none",
        hidden_dropout_prob=0.0,
        tie_word_embeddings=False,
    ),
    Template("$A", "$A [SEP] $B"),
    "bidirectional",
)


def make_model(folder: Path, toy: Toy, seed: int = 0, words: list[str] | None = None) -> Path:
    """A model folder with random weights."""
    core = build_core(toy.config, seed)
    core.set_spellings(words or WORDS, Vocabulary(len(words or WORDS), *range(5)))
    if core.reads_characters:  # new filters tell words apart by a thousandth only
        with torch.no_grad():
            for part in core.embeddings.word_embeddings.convolutions:
                part.weight.mul_(20.0)
    save_model_folder(folder, core, {}, ModelMetadata(*toy))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words or WORDS) if word}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(WORDS[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_data(folder: Path) -> Path:
    """A single-text task that one word decides, and a pair task that comparing decides."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 320), ("dev", 96)):
        single, pair = ["text\tlabel"], ["a\tb\tlabel"]
        for _ in range(count):
            filler = [*generator.choice(list("abcdefghijklmn"), size=generator.integers(2, 12))]
            label = int(generator.random() < 0.6)
            filler.insert(int(generator.integers(len(filler) + 1)), ("bad", "good")[label])
            single.append(" ".join(filler) + "\t" + SINGLE.labels[label])
            first, second = generator.choice(["red", "blue"], size=2)
            pair.append(f"{first}\t{second}\t{PAIR.labels[int(first == second)]}")
        for task, lines in ((SINGLE, single), (PAIR, pair)):
            (folder / task.name).mkdir(parents=True, exist_ok=True)
            (folder / task.name / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rows_of(texts: list[str], pairs: list[str] | None = None) -> TaskSplits:
    """Texts without labels, as both parts of a task."""
    rows = LabelledTexts(
        texts, pairs, np.zeros(len(texts), np.int64), numbers=np.arange(len(texts)), skipped=0, source="test"
    )
    return TaskSplits(rows, rows)


class Share(Processes):
    """One of several processes, as seen by the code that shares out rows."""

    def __init__(self, rank: int, world: int) -> None:
        object.__setattr__(
            self, "accelerator", type("A", (), {"process_index": rank, "num_processes": world, "device": "cpu"})
        )


def check_shares(model: nn.Module, prepared: PreparedTask, rows: NDArray[np.int64]) -> None:
    """Gradients of two processes' shares of a batch add up to those of the whole."""

    def gradients(shares: list[Processes]) -> list[torch.Tensor]:
        model.zero_grad()
        for share in shares:
            step_loss(model, prepared, rows, (1, 7), share).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, parts = gradients([Processes()]), gradients([Share(0, 2), Share(1, 2)])
    assert len(whole) == len(parts) > 0
    for one, two in zip(whole, parts, strict=True):  # the same dropout: its keys follow the place in the global batch
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)

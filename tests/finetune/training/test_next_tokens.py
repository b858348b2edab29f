"""The auxiliary loss of the next token (specs: GPT, section 5, check 8)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from toys import LAST, PAIR, POOLED, SINGLE, WORDS, make_data, make_model, rows_of

from finetune.config import FinetuneSettings
from finetune.training.loop import predict, step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from finetune.training.run import finetune
from pretraining.tokenizer.load import load_tokenizer
from zoo.core.build import build_core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.model_folder import ModelMetadata, save_model_folder

GPT = {"kind": "token", "transform": False, "bias": False}
SETTINGS = FinetuneSettings(lr=2e-3, limit=64, classifier_dropout=0.0)


def with_head(folder: Path, head: dict[str, object] = GPT) -> Path:
    """A causal toy that keeps the head over tokens it was pretrained with."""
    make_model(folder, LAST)
    torch.manual_seed(0)
    core = build_core(LAST.config, 0)
    heads = {"causal_lm": build_head(LAST.config, head)}
    save_model_folder(folder, core, heads, ModelMetadata(*LAST))
    return folder


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_head(tmp_path_factory.mktemp("gpt") / "model")


def test_the_loss_is_that_of_the_task_and_a_part_of_the_next_token_s(gpt: Path) -> None:
    texts = ["a good b", "c", "d bad e f g h", "i red j"]
    data, rows = rows_of(texts), np.arange(4)
    plain, both = (PreparedTask(gpt, SINGLE, data, replace(SETTINGS, lm_weight=w)) for w in (0.0, 0.5))
    model = both.model(1)
    model.core.eval()
    task = step_loss(plain.model(1), plain, rows, (1, 0), ALONE)  # keyed dropout: the same in both
    found = step_loss(model.train(), both, rows, (1, 0), ALONE)
    inputs = both.batch("train", rows, (1, 0, rows)).inputs
    hidden = model.core(inputs).last_hidden_state
    logits = hidden @ model.core.token_embedding.t()
    expected = 0.0
    lengths = both.train.sequences.lengths
    for row, length in enumerate(lengths):
        expected += functional.cross_entropy(logits[row, : length - 1], inputs.input_ids[row, 1:length])
    assert float(found) == pytest.approx(float(task + 0.5 * expected), rel=1e-6)
    found.backward()
    assert model.core.token_embedding.grad is not None


def test_both_orders_of_a_pair_count(gpt: Path) -> None:
    data = rows_of(["a red b", "blue"], ["green", "a"])
    one, both = (
        PreparedTask(gpt, replace(PAIR, symmetric=symmetric), data, replace(SETTINGS, lm_weight=0.5))
        for symmetric in (False, True)
    )
    extra = []
    for prepared in (one, both):
        weighed = step_loss(prepared.model(1).train(), prepared, np.arange(2), (1, 0), ALONE)
        none = PreparedTask(gpt, prepared.task, data, SETTINGS)
        extra.append(float(weighed - step_loss(none.model(1), none, np.arange(2), (1, 0), ALONE)))
    assert extra[1] == pytest.approx(2 * extra[0], rel=0.2)


def test_a_task_is_learned_beside_it_and_scores_read_the_task_alone(gpt: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    settings = FinetuneSettings(lr=2e-3, epochs=6, batch_size=16, lm_weight=0.5)
    result = finetune(gpt, SINGLE, data, 1, settings, tmp_path / "out", progress=False, save_model=True)
    assert result.scores["accuracy"] > 0.9
    prepared = PreparedTask(gpt, SINGLE, data, replace(SETTINGS, lm_weight=0.5))
    assert np.asarray(predict(prepared.model(1), prepared)).shape == (64, 2)
    assert load_tokenizer(tmp_path / "out" / "model").vocabulary.size > len(WORDS)


def test_what_has_no_next_token_is_told_before_training(gpt: Path, tmp_path: Path) -> None:
    data, settings = rows_of(["a"]), replace(SETTINGS, lm_weight=0.5)
    with pytest.raises(ZooError, match="attends to both sides"):
        PreparedTask(make_model(tmp_path / "bert", POOLED), SINGLE, data, settings)
    with pytest.raises(ZooError, match=r"needs a head over tokens, .* none"):
        PreparedTask(make_model(tmp_path / "bare", LAST), SINGLE, data, settings)
    with pytest.raises(ZooError, match="new tokens have no entry"):
        PreparedTask(with_head(tmp_path / "biased", {**GPT, "bias": True}), SINGLE, data, settings).model(1)
    with pytest.raises(ZooError, match="leaves it as it is"):
        FinetuneSettings(lm_weight=0.5, use="probe")

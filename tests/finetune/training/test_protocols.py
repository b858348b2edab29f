"""Ways of fine-tuning: what is trained, from where, for how long; and what a killed training resumes from."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import FIRST, LAST, MEMORY, PAIR, PERMUTED, POOLED, SINGLE, SPELT, Toy, make_data, make_model

from finetune.config import FinetuneSettings, LoraSettings
from finetune.models.adapt import merge_lora, rate_groups
from finetune.training.loop import Checkpoints, LoopState, predict, train
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from finetune.training.run import finetune
from zoo.errors import ZooError
from zoo.model_folder import open_weights
from zoo.runtime.progress import Progress

SETTINGS = FinetuneSettings(lr=2e-3, epochs=2, batch_size=16, limit=96)
SILENT = Progress("", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("pooled") / "model", POOLED)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether all weights are the same, bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# --- what is trained -------------------------------------------------------------------------------------------


def changed(prepared: PreparedTask) -> set[str]:
    """Parameters of a core that two epochs change."""
    model = prepared.model(1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, prepared, 1, ALONE, SILENT)
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


def test_a_probe_changes_the_head_alone(pooled: Path, data: Path) -> None:
    found = changed(PreparedTask(pooled, SINGLE, data, dataclasses.replace(SETTINGS, use="probe")))
    assert found == {"head.output.weight", "head.output.bias"}


def test_a_probed_core_has_no_dropout(pooled: Path, data: Path) -> None:
    settings = dataclasses.replace(SETTINGS, use="probe", classifier_dropout=0.0)
    prepared = PreparedTask(pooled, SINGLE, data, settings)
    model, rows = prepared.model(1), np.arange(4)
    one, two = (model(prepared.batch("train", rows, (1, step, rows)).inputs) for step in (0, 1))
    assert torch.equal(one, two)


@pytest.mark.parametrize("toy", [POOLED, FIRST, LAST, MEMORY, PERMUTED], ids=["pooler", "first", "gpt", "xl", "xlnet"])
def test_lora_changes_its_own_weights_and_merges_into_the_core(toy: Toy, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = make_model(tmp_path / "model", toy)
    prepared = PreparedTask(folder, SINGLE, data, dataclasses.replace(SETTINGS, use="lora", lora=LoraSettings(rank=4)))
    names = [name for name, _ in prepared.model(1).core.named_parameters()]
    assert any("lora_A" in name for name in names)
    found = changed(prepared)
    assert all("lora_" in name or name.startswith("head.") for name in found)
    model = prepared.model(1)
    again = prepared.model(1)
    assert all(
        torch.equal(*pair) for pair in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    train(model, prepared, 1, ALONE, SILENT)
    apart = predict(model, prepared)
    merge_lora(model.core)
    assert not any("lora" in name for name in model.state_dict())
    np.testing.assert_allclose(predict(model, prepared), apart, atol=2e-6)


def test_lora_learns_and_its_model_is_kept_as_any_other(pooled: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = FinetuneSettings(lr=3e-3, epochs=6, batch_size=16, use="lora")
    result = finetune(pooled, SINGLE, data, 1, settings, tmp_path / "out", progress=False, save_model=True)
    assert result.scores["accuracy"] > 0.85 > result.majority["accuracy"]
    kept, before = open_weights(tmp_path / "out" / "model"), open_weights(pooled)
    assert {name for name in kept if name.startswith("core.")} == {name for name in before if name.startswith("core.")}
    assert not torch.equal(kept["core.layers.0.attention.query.weight"], before["core.layers.0.attention.query.weight"])
    assert torch.equal(kept["core.layers.0.output_norm.weight"], before["core.layers.0.output_norm.weight"])


def test_lora_without_matching_maps_says_which_there_are(pooled: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = dataclasses.replace(SETTINGS, use="lora", lora=LoraSettings(matrices=["queries"]))
    with pytest.raises(ZooError, match=r"finds nothing to update .*attention\.query"):
        PreparedTask(pooled, SINGLE, data, settings).model(1)
    spelt = make_model(tmp_path / "model", SPELT)
    with pytest.raises(ZooError, match="no linear maps of their own"):
        PreparedTask(spelt, SINGLE, data, dataclasses.replace(SETTINGS, use="lora")).model(1)


def test_lower_layers_have_lower_rates(pooled: Path, data: Path) -> None:
    prepared = PreparedTask(pooled, SINGLE, data, dataclasses.replace(SETTINGS, layer_decay=0.5))
    model = prepared.model(1)
    rates = {name: group["rate"] for group in rate_groups(model, 0.01, 0.5) for name in group["param_names"]}
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rates["core.embeddings.word_embeddings.weight"] == 0.5**4
    assert rates["core.layers.0.attention.query.weight"] == 0.5**3
    assert rates["core.layers.1.output.bias"] == 0.5**2
    assert rates["core.pooler.weight"] == 0.5
    assert rates["head.output.weight"] == 1.0
    decays = {name: g["weight_decay"] for g in rate_groups(model, 0.01, 0.5) for name in g["param_names"]}
    assert decays["core.layers.1.output.bias"] == 0.0 < decays["core.layers.1.output.weight"]


def test_classes_weigh_by_the_inverse_of_their_frequency(pooled: Path, data: Path) -> None:
    plain, weighed = (
        PreparedTask(pooled, SINGLE, data, dataclasses.replace(SETTINGS, class_weights=how))
        for how in ("none", "balanced")
    )
    labels = weighed.data.train.labels
    targets = weighed.batch("train", np.arange(len(labels))).targets
    sums = [targets[1][targets[0] == label].sum().item() for label in (0, 1)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    assert sum(sums) == pytest.approx(len(labels), rel=1e-5)
    scores = torch.randn(len(labels), 2)
    (gold,) = plain.batch("train", np.arange(len(labels))).targets
    expected = torch.nn.functional.cross_entropy(
        scores,
        gold,
        weight=targets[1].new_tensor([len(labels) / (2 * int((labels == label).sum())) for label in (0, 1)]),
        reduction="sum",
    )
    torch.testing.assert_close(weighed.kind.loss(scores, targets), expected)


# --- how long --------------------------------------------------------------------------------------------------


def test_patience_keeps_the_best_epoch_of_rows_held_back(pooled: Path, data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=2e-3, epochs=30, batch_size=16, limit=160, patience=2, held_back=0.2)
    prepared = PreparedTask(pooled, SINGLE, data, settings)
    held, own = prepared.parts["validation"], prepared.parts["train"]
    assert (len(held), len(own)) == (32, 128)
    assert not set(held.numbers) & set(own.numbers)
    model = prepared.model(1)
    state = train(model, prepared, 1, ALONE, SILENT)
    assert state.best_epoch is not None
    assert len(state.held_scores) == state.best_epoch + 2 < 30
    scores = prepared.kind.scores(SINGLE, held, predict(model, prepared, part="validation"))
    assert scores["accuracy"] == max(state.held_scores)
    result = finetune(pooled, SINGLE, prepared, 1, settings, tmp_path / "out", progress=False)
    assert result.held_scores == state.held_scores
    assert result.train_rows == 128


def test_too_few_rows_to_hold_any_back(pooled: Path, data: Path) -> None:
    with pytest.raises(ZooError, match=r"0\.1 of 4 training rows cannot be held back"):
        PreparedTask(pooled, SINGLE, data, FinetuneSettings(limit=4, patience=1))


# --- from where ------------------------------------------------------------------------------------------------


def test_a_core_that_was_fine_tuned_on_another_task_is_the_start(pooled: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "finetune", "--model", str(pooled), "--data", str(data), "--output", str(out)]
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(
        "- {name: mood, columns: [text], labels: [neg, pos]}\n"
        "- {name: colour, columns: [a, b], labels: [other, same]}\n"
    )
    command += ["--task_file", str(tasks), "--tasks", "colour", "--from_task", "mood", "--seeds", "1,2"]
    command += ["--epochs", "1", "--limit", "64", "--lr", "2e-3", "--progress", "false"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "colour (from mood)" in done.stdout
    assert "mood  " in done.stdout
    results = {
        (task, seed): json.loads((out / task / f"seed-{seed}" / "result.json").read_text())
        for task in ("mood", "colour")
        for seed in (1, 2)
    }
    starts = [results["colour", seed]["fingerprint"]["start"] for seed in (1, 2)]
    assert starts[0] != starts[1]
    assert "start" not in results["mood", 1]["fingerprint"]
    assert "from_task" not in results["mood", 1]["fingerprint"]["settings"]
    assert (out / "mood" / "seed-1" / "model" / "model.safetensors").exists()
    assert not (out / "colour" / "seed-1" / "model").exists()
    again = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    alone = finetune(
        pooled,
        dataclasses.replace(PAIR, epochs=3),
        data,
        1,
        FinetuneSettings(lr=2e-3, epochs=1, limit=64, from_task="mood"),
        tmp_path / "alone",
        progress=False,
        start=out / "mood" / "seed-1" / "model",
    )
    assert alone.scores == results["colour", 1]["scores"]
    assert alone.train_loss == results["colour", 1]["train_loss"]


def test_a_source_that_is_the_only_task(pooled: Path, data: Path) -> None:
    command = [sys.executable, "-m", "finetune", "--model", str(pooled), "--data", str(data)]
    done = subprocess.run(
        [*command, "--tasks", "rte", "--from_task", "rte"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "as in --from_task mnli --tasks rte,mrpc" in done.stderr


# --- a killed training -----------------------------------------------------------------------------------------


class Killed(Exception):
    """What stands for a kill."""


class KillAfter(Checkpoints):
    """A checkpoint at every step that is asked for, and an end after some of them."""

    left = 0

    def due(self) -> bool:
        return True

    def save(self, *arguments: object, **named: object) -> None:
        super().save(*arguments, **named)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("use", ["finetune", "features", "lora"])
@pytest.mark.parametrize("stop", [3, 8])
def test_a_killed_training_goes_on_to_the_same_result(
    use: str, stop: int, pooled: Path, data: Path, tmp_path: Path
) -> None:
    if use == "lora":
        pytest.importorskip("peft")
    settings = dataclasses.replace(SETTINGS, use=use, patience=None if use == "features" else 3)

    def fresh() -> tuple[PreparedTask, torch.nn.Module]:
        prepared = PreparedTask(pooled, SINGLE, data, settings)
        model = prepared.model(1)
        prepared.keep_layers(model, torch.device("cpu"))
        return prepared, model

    prepared, whole = fresh()
    expected = train(whole, prepared, 1, ALONE, SILENT)
    prepared, killed = fresh()
    checkpoints = KillAfter(tmp_path, {"task": "mood"}, 1.0)
    checkpoints.left = stop
    with pytest.raises(Killed):
        train(killed, prepared, 1, ALONE, SILENT, checkpoints)
    prepared, resumed = fresh()
    state = train(resumed, prepared, 1, ALONE, SILENT, Checkpoints(tmp_path, {"task": "mood"}, 0.0))
    assert all(
        torch.equal(*pair) for pair in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert state.held_scores == expected.held_scores
    assert state.step == expected.step
    np.testing.assert_allclose(state.losses, expected.losses, rtol=1e-6)  # sums are added in two parts


def test_a_checkpoint_of_another_training_is_not_read(pooled: Path, data: Path, tmp_path: Path) -> None:
    prepared = PreparedTask(pooled, SINGLE, data, SETTINGS)
    model = prepared.model(1)
    checkpoints = KillAfter(tmp_path, {"task": "mood"}, 1.0)
    checkpoints.left = 1
    with pytest.raises(Killed):
        train(model, prepared, 1, ALONE, SILENT, checkpoints)
    with pytest.raises(ZooError, match="of other weights, rows or settings that was not finished"):
        train(model, prepared, 1, ALONE, SILENT, Checkpoints(tmp_path, {"task": "other"}, 0.0))


def test_a_finished_training_leaves_no_checkpoint(pooled: Path, data: Path, tmp_path: Path) -> None:
    finetune(pooled, SINGLE, data, 1, SETTINGS, tmp_path, progress=False, checkpoint_minutes=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "predictions.tsv",
        "result.json",
        "timing.json",
    ]
    assert LoopState().best_epoch is None


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"use": "probes"}, "Did you mean 'probe'"),
        ({"use": "lora", "layer_decay": 0.9}, "layer_decay is for use: finetune"),
        ({"layer_decay": 1.5}, "layer_decay = 1.5"),
        ({"patience": 0}, "patience = 0"),
        ({"lora": LoraSettings, "held_back": 1.0}, "held_back = 1.0"),
    ],
)
def test_settings_that_cannot_work(change: dict[str, object], part: str) -> None:
    change.pop("lora", None)
    with pytest.raises(ZooError, match=part):
        FinetuneSettings(**change)

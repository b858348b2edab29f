"""Frozen layers as features: for any core, kept or not, mixed, saved, reported, and refused where they cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import LAST, PAIR, POOLED, SINGLE, SPELT, STATIC, Share, rows_of
from transformers import AutoModel, AutoModelForSequenceClassification

import zoo.hf  # noqa: F401  makes model toy_folders known to the Auto classes
from finetune.__main__ import jobs_of
from finetune.config import FeatureSettings, FinetuneConfig, FinetuneSettings
from finetune.inputs.features import known_template
from finetune.results.report import notes, summary
from finetune.training.loop import predict, step_loss
from finetune.training.places import folder_of
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import finetune
from finetune.training.saved import open_saved
from zoo.core.build import build_core
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.scalar_mix import FrozenCore, ScalarMixes
from zoo.heads.task_network import TaskNetwork, pooled
from zoo.model_folder import open_weights, read_metadata
from zoo.settings.load import load_settings
from zoo.vocabulary import Template

TOYS = {"pooled": POOLED, "last": LAST, "spelt": SPELT, "static": STATIC}
FEATURES = FeatureSettings(hidden_size=16, dropout=0.1)
SETTINGS = FinetuneSettings(lr=1e-2, use="features", features=FEATURES)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tuned(toy_folders, toy_data, tmp_path_factory) -> tuple[Path, object, object]:
    """A pair task learned from two mixes: folder, result and what was prepared."""
    place = tmp_path_factory.mktemp("tuned")
    settings = FinetuneSettings(lr=1e-2, epochs=4, use="features", features=FeatureSettings(2, hidden_size=16))
    prepared = PreparedTask(toy_folders["pooled"], PAIR, toy_data, settings)
    result = finetune(
        toy_folders["pooled"], PAIR, prepared, 1, settings, place / "colour" / "seed-1", progress=False, save_model=True
    )
    return place / "colour" / "seed-1", result, prepared


def test_a_table_of_vectors_answers_nothing_by_itself(toy_folders, toy_data: Path) -> None:
    for use in ("finetune", "probe"):
        with pytest.raises(ZooError, match=r"a table of word vectors.*--config features"):
            PreparedTask(toy_folders["static"], SINGLE, toy_data, FinetuneSettings(use=use))


# --- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_a_frozen_core_is_enough_for_a_task_network(name: str, toy_folders, toy_data: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(lr=1e-2, epochs=16, use="features", features=FEATURES)
    result = finetune(toy_folders[name], SINGLE, toy_data, 1, settings, tmp_path, progress=False)
    assert result.scores["accuracy"] > 0.95
    ((mix,),) = ([m["shares"] for m in result.mixes],)
    assert len(mix) == TOYS[name].config.num_hidden_layers + 1
    assert sum(mix) == pytest.approx(1.0)


def test_texts_of_a_pair_are_compared(tuned) -> None:
    """Which only the network can do here: the core reads each by itself."""
    _, result, prepared = tuned
    assert result.scores["accuracy"] > 0.95
    first, second = prepared.train.sequences.texts
    assert set(first.types) == set(second.types) == {0}
    assert {row.tolist()[0] for row in np.split(first.ids, first.offsets[1:-1])} == {2}  # each with [CLS] of its own
    assert {row.tolist()[0] for row in np.split(second.ids, second.offsets[1:-1])} == {2}


def test_the_core_stays_as_it_is(tuned, toy_folders) -> None:
    place, *_ = tuned
    before, after = open_weights(toy_folders["pooled"]), open_weights(place / "model")
    names = [name for name in before if name.startswith("core.")]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert {name.split(".")[1] for name in after if name.startswith("heads.")} == {"mixes", "classifier"}


def test_every_new_weight_gets_a_gradient_and_no_old_one(toy_folders, toy_data: Path) -> None:
    prepared = PreparedTask(
        toy_folders["spelt"], PAIR, toy_data, FinetuneSettings(use="features", features=FeatureSettings(2))
    )
    model = prepared.model(1)
    (step_loss(model, prepared, np.arange(8), (1, 0), Processes()) + model.penalty()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("features.core."), name
        assert parameter.requires_grad != name.startswith("features.core.")
    heads = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert heads == {"features", "network"}


def test_a_large_lambda_keeps_the_plain_mean(toy_folders, toy_data: Path, tmp_path: Path) -> None:
    """The published observation (specs: ELMo, section 1), on the shares themselves."""

    def spread(strength: float) -> float:
        own = FeatureSettings(hidden_size=16, dropout=0.0, regulariser=strength)
        settings = FinetuneSettings(lr=1e-2, epochs=4, use="features", features=own)
        result = finetune(
            toy_folders["pooled"], SINGLE, toy_data, 1, settings, tmp_path / str(strength), progress=False
        )
        shares = result.mixes[0]["shares"]
        return max(shares) - min(shares)

    assert spread(100.0) < 0.01 < 0.05 < spread(0.0)


def test_the_regulariser_is_in_the_loss(toy_folders, toy_data: Path) -> None:
    prepared = PreparedTask(toy_folders["pooled"], SINGLE, toy_data, SETTINGS)
    model = prepared.model(1)
    with torch.no_grad():
        model.features.mixes[0].weights.copy_(torch.tensor([1.0, -2.0, 0.5]))
    assert model.penalty().item() == pytest.approx(0.001 * 5.25)


# --- layers, kept or not -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("task", [SINGLE, PAIR], ids=lambda task: task.name)
def test_kept_layers_are_those_that_the_core_gives(name: str, task, toy_folders, toy_data: Path) -> None:
    settings = FinetuneSettings(limit=40, use="features", features=FeatureSettings(2, hidden_size=8))
    kept, run = (PreparedTask(toy_folders[name], task, toy_data, settings) for _ in range(2))
    model = run.model(1)
    kept.keep_layers(model, torch.device("cpu"))
    assert len(kept.train.sequences.layers) == len(kept.train.sequences.texts)
    assert not run.train.sequences.layers
    np.testing.assert_allclose(predict(model, kept), predict(model, run), atol=1e-6)
    rows, key = np.array([3, 0, 7]), (1, 5, np.arange(3))
    torch.testing.assert_close(
        model(kept.batch("train", rows, key).inputs), model(run.batch("train", rows, key).inputs)
    )


def test_layers_are_of_the_texts_own_tokens(toy_folders, toy_data: Path) -> None:
    prepared = PreparedTask(toy_folders["pooled"], SINGLE, rows_of(["a b c", "d"]), SETTINGS)
    model = prepared.model(1)
    inputs = prepared.batch("train", np.array([0])).inputs.texts[0].inputs
    prepared.keep_layers(model, torch.device("cpu"))
    assert prepared.train.sequences.layers[0].shape == (4, 3, 32)
    states = torch.stack(model.core(inputs, output_hidden_states=True).hidden_states, dim=2)
    torch.testing.assert_close(prepared.train.sequences.layers[0][:3], states[0, 1:4])


def test_no_more_is_kept_than_there_is_room_for(toy_folders, toy_data: Path) -> None:
    none = FinetuneSettings(use="features", features=FeatureSettings(cache_mb=0))
    prepared = PreparedTask(toy_folders["pooled"], SINGLE, toy_data, none)
    prepared.keep_layers(prepared.model(1), torch.device("cpu"))
    assert not prepared.train.sequences.layers
    assert not prepared.evaluation.sequences.layers


@pytest.mark.parametrize("name", TOYS)
def test_empty_texts_can_be_read(name: str, toy_folders) -> None:
    """With template tokens or, where fine-tuning would add them, without any."""
    for task, rows in ((SINGLE, rows_of(["", "good"])), (PAIR, rows_of(["", "red"], ["red", ""]))):
        prepared = PreparedTask(toy_folders[name], task, rows, SETTINGS)
        alone = PreparedTask(toy_folders[name], task, rows.__class__(rows.train, rows.evaluation), SETTINGS)
        model = prepared.model(1)
        together = predict(model, prepared)
        assert np.isfinite(together).all()
        prepared.keep_layers(model, torch.device("cpu"))
        np.testing.assert_allclose(predict(model, prepared), together, atol=1e-6)
        single = model(alone.batch("evaluation", np.array([0])).inputs).double().softmax(-1).detach().numpy()
        np.testing.assert_allclose(single[0], together[0], atol=1e-6)


def test_tokens_that_a_frozen_core_cannot_learn_are_left_out(toy_folders, toy_data: Path) -> None:
    prepared = PreparedTask(toy_folders["last"], PAIR, toy_data, SETTINGS)
    assert (prepared.metadata.template.single, prepared.metadata.template.pair) == ("$A", "$A $B")
    assert prepared.model(1).core.config.vocab_size == 25
    template = Template("<s>:3 $A </s>", "<s> $A </s>:5 $B <x> </s>:1")
    found = known_template(template, lambda word: word != "<x>")
    assert (found.single, found.pair) == ("<s>:3 $A </s>", "<s> $A </s>:5 $B </s>:1")


@pytest.mark.parametrize("count", [16, 5, 1])
def test_shares_of_a_batch_add_up_to_the_whole(toy_folders, toy_data: Path, count: int) -> None:
    prepared = PreparedTask(toy_folders["pooled"], PAIR, toy_data, SETTINGS)
    model, rows = prepared.model(1), np.arange(count) * 3

    def gradients(shares: list[Processes]) -> list[torch.Tensor]:
        model.zero_grad()
        for share in shares:
            step_loss(model, prepared, rows, (1, 7), share).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, parts = gradients([Processes()]), gradients([Share(0, 2), Share(1, 2)])
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


# --- the network ---------------------------------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    config = POOLED.config
    network = TaskNetwork(config, 3, mixes=2, hidden_size=8, pair=True)
    texts = [[torch.randn(2, length, 32) for _ in range(2)] for length in (5, 7)]
    lengths = [torch.tensor([5, 2]), torch.tensor([3, 7])]
    expected = network(texts, lengths)
    for mixes, own in zip(texts, lengths, strict=True):
        for row, length in enumerate(own):
            for mix in mixes:
                mix[row, length:] = 100.0
    wider = [[torch.nn.functional.pad(mix, (0, 0, 0, 3), value=-50.0) for mix in mixes] for mixes in texts]
    torch.testing.assert_close(network(wider, lengths), expected)
    alone = network([[mix[1:, :2] for mix in texts[0]], [mix[1:] for mix in texts[1]]], [n[1:] for n in lengths])
    torch.testing.assert_close(alone, expected[1:])


def test_pooling_is_mean_and_maximum_over_real_tokens() -> None:
    states = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [99.0, 99.0]]])
    assert pooled(states, torch.tensor([2])).tolist() == [[2.0, -3.0, 3.0, -2.0]]


def test_the_second_mix_stands_beside_the_reader() -> None:
    network = TaskNetwork(POOLED.config, 2, mixes=2, hidden_size=8)
    first, second = torch.randn(1, 4, 32), torch.randn(1, 4, 32, requires_grad=True)
    seen = []
    network.dense.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network([[first, second]], [torch.tensor([4])])
    assert seen[0].shape == (1, 2 * (16 + 32))
    torch.testing.assert_close(seen[0][0, 16:48], second[0].mean(0))


def test_mixes_of_a_row_drop_different_elements() -> None:
    features = FrozenCore(build_core(POOLED.config, 0), mixes=2, dropout=0.5)
    layers, keys = [torch.ones(2, 3, 32)] * 3, row_keys(0, 1, range(2))
    found = [features.mix(layers, None, keys, text) for text in (0, 1)]
    masks = [mix == 0 for text in found for mix in text]
    assert all(not torch.equal(masks[i], masks[j]) for i in range(4) for j in range(i))
    assert 0.3 < torch.stack(masks).float().mean() < 0.7


def test_heads_are_made_again_from_their_configs() -> None:
    for head in (
        ScalarMixes(POOLED.config, 2, layer_norm=True),
        TaskNetwork(POOLED.config, 3, mixes=2, hidden_size=8, pair=True, labels=["a", "b", "c"]),
    ):
        again = build_head(POOLED.config, json.loads(json.dumps(head.head_config)))
        assert again.head_config == head.head_config
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in head.named_parameters()}


# --- kept, asked again, reported -----------------------------------------------------------------------------


def test_a_kept_network_answers_as_it_was_scored(tuned, toy_data: Path) -> None:
    place, _, prepared = tuned
    lines = (place / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    expected = np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])
    saved, rows = open_saved(place / "model"), prepared.data.evaluation
    assert saved.task.labels == PAIR.labels
    found = saved.predict(saved.asked([*zip(rows.texts, rows.pairs)]))
    np.testing.assert_allclose(found.answers, expected, atol=2e-6)
    with pytest.raises(ZooError, match=r"reads 2 texts a row \(a, b\); 1 given"):
        saved.asked([["red"]])


def test_what_a_kept_network_is_not(tuned, toy_folders) -> None:
    place, *_ = tuned
    core = AutoModel.from_pretrained(place / "model")
    assert torch.equal(
        core.core.token_embedding, open_weights(toy_folders["pooled"])["core.embeddings.word_embeddings.weight"]
    )
    with pytest.raises(ZooError, match=r"reads each text by itself; transformers has no such class.*open_saved"):
        AutoModelForSequenceClassification.from_pretrained(place / "model")
    with pytest.raises(ZooError, match="is not fine-tuned; its heads are: none"):
        open_saved(toy_folders["pooled"])
    metadata = read_metadata(place / "model").heads
    assert {name: head["kind"] for name, head in metadata.items()} == {"mixes": "mixes", "classifier": "features"}


def test_shares_are_in_result_and_report(tuned) -> None:
    place, result, _ = tuned
    stored = json.loads((place / "result.json").read_text(encoding="utf-8"))
    assert stored["mixes"] == result.mixes
    assert [len(mix["shares"]) for mix in result.mixes] == [3, 3]
    rows = summary([result])
    assert rows[0]["mixes"] == {"1": result.mixes}
    told = " ".join(notes(rows))
    first = " ".join(f"{100 * share:.1f}" for share in result.mixes[0]["shares"])
    assert f"token vectors first, mean over seeds: colour {first} and " in told


# --- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"features.regulariser": -0.1}, "features.regulariser = -0.1; a number of at least 0"),
        ({"features.mixes": 0}, "features.mixes = 0; a whole number from 1 to 2"),
        ({"features.mixes": 3}, "features.mixes = 3; a whole number from 1 to 2"),
        ({"features.dropout": 1.0}, "features.dropout = 1.0"),
        ({"features.hidden_size": 0}, "features.hidden_size = 0"),
        ({"features.cache_mb": -1}, "features.cache_mb = -1"),
        ({"features.mixs": 2}, "unknown key 'features.mixs'. Did you mean 'mixes'"),
        ({"use": "frozen"}, "use"),
    ],
)
def test_settings_that_mean_nothing(settings: dict, part: str) -> None:
    argv = [word for key, value in {"model": "x", **settings}.items() for word in (f"--{key}", str(value))]
    with pytest.raises(ZooError, match=part):
        load_settings(FinetuneConfig, argv, "python -m finetune", "finetune")


def test_no_mix_at_all() -> None:
    with pytest.raises(ZooError, match="0 mixes"):
        FrozenCore(build_core(POOLED.config, 0), mixes=0)
    with pytest.raises(ZooError, match="not 3"):
        TaskNetwork(POOLED.config, 2, mixes=3)


def test_the_shipped_settings_reach_the_children_of_a_pool(tmp_path: Path) -> None:
    argv = ["--config", "features", "--model", str(tmp_path), "--tasks", "rte", "--features.mixes", "2"]
    config = load_settings(FinetuneConfig, argv, "python -m finetune", "finetune").value
    assert (config.use, config.lr, config.features.mixes, config.features.regulariser) == ("features", 1e-3, 2, 0.001)
    (job,) = jobs_of(config, [PAIR], [1], tmp_path)
    assert job.done == folder_of(tmp_path, "colour", 1) / "result.json"
    again = load_settings(FinetuneConfig, list(job.argv[3:]), "python -m finetune", "finetune").value
    assert again.settings == config.settings


def test_settings_of_features_decide_results_only_where_they_are_used() -> None:
    plain, changed = FinetuneSettings(), FinetuneSettings(features=FeatureSettings(mixes=2))
    assert plain.to_dict() == changed.to_dict()
    assert FinetuneSettings(**SETTINGS.to_dict()) == SETTINGS

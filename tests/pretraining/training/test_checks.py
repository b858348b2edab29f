"""What is refused before any text is read."""

import pytest

from pretraining.training.assemble import check_optimizer
from pretraining.training.checks import check_layouts, check_memory_needed, check_objectives, memory_needed
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import build_model
from pretraining.training.pretrain import pretrain
from zoo.errors import ZooError
from zoo.runtime.processes import check_trackers, device_memory
from zoo.vocabulary import Vocabulary

HUGE = 10**9


def settings(*more):
    return load_pretrain_config(["--config", "bert-tiny", *map(str, more)])


@pytest.mark.parametrize(
    "more",
    [
        ("--model.hidden_size", HUGE),
        ("--model.intermediate_size", HUGE),
        ("--model.num_hidden_layers", HUGE),
        ("--model.vocab_size", HUGE),
        ("--train.batch_size", HUGE),
        ("--model.max_position_embeddings", HUGE, "--data.sequence_length", HUGE),
        ("--model.position_type", "rotary", "--data.sequence_length", HUGE),
    ],
)
def test_a_size_that_no_memory_holds_is_refused_before_it_is_asked_for(more, tmp_path):
    with pytest.raises(ZooError, match=r"would need at least [\d,.]+ GB of memory, and [\d,.]+ GB are here"):
        pretrain(settings(*more, "--run_folder", tmp_path / "run", "--data.stores", tmp_path / "stores"), False)
    assert not (tmp_path / "stores").exists()


def test_characters_are_counted():
    config = load_pretrain_config(["--config", "elmo-tiny", "--model.characters.embedding_dim", str(HUGE)]).value
    with pytest.raises(ZooError, match=r"comes from model\.characters"):
        check_memory_needed(config, 1)


def test_a_tokenizer_has_a_largest_size():
    with pytest.raises(ZooError, match=r"vocab_size = 1000000000; a whole number from 1 to 16,777,216"):
        settings("--data.tokenizer.vocab_size", HUGE)


def test_the_arithmetic_is_near_the_models_size():
    config = settings("--model.vocab_size", 8192).value
    model = build_model(config.model, config.objectives, Vocabulary(8192, 0, 1, 2, 3, 4), 0)
    weights = 16 * sum(p.numel() for p in model.parameters())
    needed = memory_needed(config, 1)
    counted = sum(value for name, value in needed.items() if name.startswith("model."))
    assert 0.9 * weights < counted < 1.05 * weights
    assert device_memory() > 2**28
    check_memory_needed(config, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torch.optim.AdamW", {"betas": "[0.9,1.5]"}, "Invalid beta parameter at index 1: 1.5"),
        ("torch.optim.LBFGS", {}, "parameter groups"),
        ("torch.optim.SparseAdam", {}, "dense gradients"),
    ],
)
def test_an_optimiser_that_makes_no_step(name, arguments, message):
    words = [word for key, value in arguments.items() for word in (f"--train.optimizer.init_args.{key}", value)]
    with pytest.raises(ZooError, match=message):
        check_optimizer(settings("--train.optimizer.class_path", name, *words).value.train)


@pytest.mark.parametrize("name", ["torch.optim.SGD", "pretraining.optim.Lamb"])
def test_an_optimiser_that_does(name):
    check_optimizer(settings("--train.optimizer.class_path", name).value.train)


def test_what_needs_no_data_is_checked_without():
    wrong = load_pretrain_config(["--config", "xlnet-tiny", "--model.reuse_len", "5"]).value
    with pytest.raises(ZooError, match=r"model\.reuse_len"):
        check_layouts(wrong)
    causal = {"objectives": {"clm": {"class_path": "pretraining.objectives.CausalLM"}}}
    mixed = load_pretrain_config(
        ["--config", "bert-tiny", "--tasks.pairs.objectives", "masked_lm,clm"], {"objectives": causal["objectives"]}
    ).value
    with pytest.raises(ZooError, match="different attention"):
        check_layouts(mixed)
    with pytest.raises(ZooError, match=r"objectives\.next_sentence: .*no pooler"):
        check_objectives(settings("--model.pooler", "false").value)
    pooled = settings("--template.pooling", "ends").value
    with pytest.raises(ZooError, match="pooling"):
        check_objectives(pooled)


def test_a_tracker_that_is_not_there_is_refused():
    check_trackers([])
    with pytest.raises(ZooError, match="Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


def test_a_tracker_that_is_not_installed_is_named_by_its_package(monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ZooError, match="pip install tensorboard"):
        check_trackers(["tensorboard"])

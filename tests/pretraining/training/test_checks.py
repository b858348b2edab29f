"""What is refused before any text is read."""

import contextlib
import re
import sys

import pytest
from training import arguments, train

from pretraining.__main__ import main
from pretraining.layouts import (
    BufferedPairs,
    Dialogue,
    DocumentSegments,
    MinimumMarked,
    SentenceDistance,
    SentencePairs,
)
from pretraining.tools.plan import plan_run
from pretraining.training.assemble import check_optimizer
from pretraining.training.checks import check_layouts, check_memory_needed, check_objectives, memory_needed
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import build_model
from pretraining.training.pretrain import pretrain
from pretraining.training.stores import run_stores
from zoo.errors import ZooError
from zoo.runtime.locks import RUN_LOCK
from zoo.runtime.processes import check_shared_folder, check_trackers, device_memory
from zoo.storage.files import read_json, write_json
from zoo.vocabulary import Vocabulary

HUGE = 10**9


def settings(*more):
    return load_pretrain_config(["--config", "bert-tiny", *map(str, more)])


@pytest.mark.parametrize(
    "more",
    [
        ("--model.hidden_size", HUGE),
        ("--model.intermediate_size", HUGE),
        ("--model.num_hidden_layers", "65536", "--model.hidden_size", "16384"),
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
    averaging = settings("--model.vocab_size", 8192, "--train.average.class_path", "pretraining.optim.EMA").value
    assert memory_needed(averaging, 1) == {**needed, "train.average": pytest.approx(counted / 4)}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torch.optim.AdamW", {"betas": "[0.9,1.5]"}, "Invalid beta parameter at index 1: 1.5"),
        (
            "pretraining.optim.MuonAdamW",
            {"matrices": "[kernel]"},
            "finds no matrix in the layers, by the endings kernel",
        ),
        ("torch.optim.LBFGS", {}, "parameter groups"),
        ("torch.optim.SparseAdam", {}, "dense gradients"),
    ],
)
def test_an_optimiser_that_makes_no_step(name, arguments, message):
    words = [word for key, value in arguments.items() for word in (f"--train.optimizer.init_args.{key}", value)]
    with pytest.raises(ZooError, match=message):
        check_optimizer(settings("--train.optimizer.class_path", name, *words).value.train)


@pytest.mark.parametrize("name", ["torch.optim.SGD", "pretraining.optim.Lamb", "pretraining.optim.MuonAdamW"])
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


# ---- --dry_run -------------------------------------------------------------------------------------------------------


def dry(argv, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pretraining", *argv, "--dry_run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def line_of(lines, word):
    return next(line for line in lines if line.startswith(f"{word}: "))


def test_a_dry_run_says_what_would_run_and_what_is_done(tmp_path, capsys, monkeypatch):
    argv = arguments(tmp_path, steps=3)
    lines = dry(argv, capsys, monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]  # neither a run folder nor a store
    size = (tmp_path / "text.txt").stat().st_size
    assert line_of(lines, "text") == f"text: 1 file of {size:,} bytes; not prepared yet, which the run does first"
    assert line_of(lines, "tokenizer").endswith("to be trained, vocabulary of at most 600")
    assert line_of(lines, "batch") == "batch: 8 rows = 1 x 1 x 8, of 48 tokens, fp32"
    assert line_of(lines, "budget") == "budget: 3 steps, at most 1,152 tokens"
    assert line_of(lines, "output").endswith(", a new run")
    folder = train(argv)
    lines = dry(argv, capsys, monkeypatch)
    record = read_json(folder / "run.json")
    assert f"{record['parameters']:,} parameters, {record['core_parameters']:,} in the core" in line_of(lines, "model")
    assert "prepared: " in line_of(lines, "text")
    assert line_of(lines, "output") == f"output: {folder}, which is finished: nothing would be trained"
    write_json(folder / "run.json", {**record, "finished": False})
    assert line_of(dry(argv, capsys, monkeypatch), "output").endswith(", a run that goes on from step-000000003")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train.micro_batch_size": 3}, "not a multiple"),
        ({"data.corpus.files": "nowhere.txt"}, "nowhere.txt"),
        ({"data.sequence_length": 4}, "no room for two segments"),
        ({"model.hidden_size": HUGE}, "would need at least"),
        ({"train.trackers": "[tensorbord]"}, "is no tracker"),
        ({"data.tokenizer.kind": "file", "data.tokenizer.path": "nowhere"}, "nowhere"),
    ],
)
def test_a_dry_run_finds_what_would_stop_the_run(more, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        plan_run(load_pretrain_config(arguments(tmp_path, **more)))


def test_a_dry_run_lays_out_a_text_that_is_prepared(tmp_path):
    argv = arguments(tmp_path)
    run_stores(load_pretrain_config(argv).value, False)
    tokens = plan_run(load_pretrain_config([*argv, "--train.steps", "null", "--train.tokens", "9000"])).lines
    budget = line_of(tokens, "budget")
    assert re.fullmatch(r"budget: about \d+ steps, 9,000 tokens, 0\.\d\d times the text", budget)
    more = {"model.mem_len": 24, "train.batch_size": 20_000, "train.micro_batch_size": 8}
    many = load_pretrain_config(arguments(tmp_path, "transformer-xl", **more))
    run_stores(many.value, False)
    with pytest.raises(
        ZooError, match="fewer than the 20000 parallel rows"
    ):  # what only the text can tell is found, too
        plan_run(many)


LENGTHS = [("bert", 4, "two segments"), ("roberta", 2, "text beside cls"), ("gpt", 1, "nothing to predict")]
LENGTHS += [
    ("albert", 4, "two segments"),
    ("xlnet", 8, "two segments and"),
    ("transformer-xl", 1, "nothing to predict"),
]


@pytest.mark.parametrize(("family", "length", "message"), LENGTHS)
def test_rows_without_room_are_refused_before_any_text_is_read(family, length, message, tmp_path):
    config = load_pretrain_config(["--config", f"{family}-tiny", "--data.sequence_length", str(length)]).value
    with pytest.raises(ZooError, match=message):
        check_layouts(config)


def test_layouts_around_a_layout_pass_its_least_length_on():
    pairs = SentencePairs("next_or_random")
    for layout in (
        BufferedPairs(),
        MinimumMarked(pairs, "entity", 1),
        DocumentSegments(),
        SentenceDistance(),
        Dialogue(),
    ):
        with pytest.raises(ZooError, match="no room for"):
            layout.check_length(1)
        layout.check_length(48)


def test_machines_without_shared_storage_are_told(tmp_path, monkeypatch):
    """The second process sees no lock of this run, or that of another one."""

    class Second:
        num_processes, process_index, is_main_process = 2, 1, False

    def from_main(values, src):
        values[:] = ["process 7 of the first machine"]

    monkeypatch.setattr("torch.distributed.broadcast_object_list", from_main)
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda messages, own: messages.__setitem__(1, own))
    for text in (None, "process 8", "process 7 of the first machine"):
        if text is not None:
            (tmp_path / RUN_LOCK).write_text(text)
        expected = contextlib.nullcontext() if text == "process 7 of the first machine" else None
        with expected or pytest.raises(ZooError, match=r"process 1 of 2 does not see the run folder .* shared storage"):
            check_shared_folder(Second(), tmp_path, patience=0.0)

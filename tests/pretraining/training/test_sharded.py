"""Weights shared out over real processes (FSDP2, gloo): the course of one process, exact resume, other numbers."""

import functools
import json
import shutil

import pytest
from entity_toys import entity_arguments
from ranks import FSDP2, Ranks
from training import arguments, assert_same_course, outcome, train, write_corpus

from pretraining.training.load_config import load_pretrain_config, run_folder_of
from zoo.storage.tensors import open_tensors

pytestmark = pytest.mark.slow
OPTIMIZER = "train.optimizer.class_path"
MORE = {"train.batch_size": 12, "train.micro_batch_size": 2, "train.save_every": 4, "train.validate_every": 6}
TWO = {"model.num_hidden_layers": 2}
FAMILIES = {
    "bert": {"train.average.class_path": "pretraining.optim.EMA"},
    "albert": {**TWO, "model.num_hidden_groups": 1, OPTIMIZER: "pretraining.optim.Lamb"},  # layers run twice
    "transformer-xl": {**TWO, "model.mem_len": 24, "train.gradient_checkpointing": True},
    "ernie-thu": TWO,  # reads a frozen table of entities
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(place):
    with Ranks(place) as started:
        yield started


@functools.cache
def entities(place):
    (place / "entities").mkdir()
    return entity_arguments(place / "entities")


def of(place, family, output):
    more = FAMILIES[family]
    argv = arguments(place, family, **{**MORE, **more}, output=place / output)
    if family == "ernie-thu":
        argv += entities(place)
    return argv


def folder_of(argv):
    return run_folder_of(load_pretrain_config(argv))


@pytest.fixture(scope="module")
def sharded(place, ranks):
    """A run of two processes that share the weights, per family, made when first asked for."""
    made = {}

    def get(family):
        if family not in made:
            argv = of(place, family, "sharded")
            code, printed = ranks.run(argv, 2, FSDP2)
            assert code == 0, printed[-3000:]
            assert "shared out over 2 processes (FSDP2)" in printed
            made[family] = folder_of(argv)
        return made[family]

    return get


@pytest.fixture(scope="module")
def alone(place):
    """The same in one process."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = train(of(place, family, "alone"))
        return made[family]

    return get


def cut_back(run, output):
    """A copy of a run as it was at its checkpoint before the last, in another ``--output``."""
    folder = output / run.name
    shutil.copytree(run, folder)
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "finished": False}))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_two_that_share_take_the_course_of_one(sharded, alone, family):
    assert_same_course(sharded(family), alone(family))
    ours, theirs = (open_tensors(run(family) / "model.safetensors") for run in (sharded, alone))
    assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    assert not list(sharded(family).rglob("*.distcp"))  # torch's own format, which is a pickle


@pytest.mark.parametrize("family", ["bert", "transformer-xl"])
def test_they_go_on_bit_for_bit(sharded, ranks, place, family, tmp_path):
    folder = cut_back(sharded(family), tmp_path)
    parts = list((folder / "checkpoints" / "step-000000008" / "shards").iterdir())
    assert len(parts) == 2
    code, printed = ranks.run([*of(place, family, "sharded"), "--output", str(tmp_path)], 2, FSDP2)
    assert code == 0, printed[-3000:]
    assert "continuing from step 8" in printed
    assert "rounding only" not in printed
    assert outcome(folder) == outcome(sharded(family))


@pytest.mark.parametrize(
    ("start", "processes", "variables"),
    [("sharded", 1, {}), ("sharded", 3, FSDP2), ("sharded", 2, {}), ("alone", 2, FSDP2)],
    ids=["sharded to one", "sharded to three", "sharded to copies", "one to sharded"],
)
def test_another_number_of_processes_goes_on(place, ranks, start, processes, variables, request, tmp_path):
    run = request.getfixturevalue(start)("bert")
    folder = cut_back(run, tmp_path)
    code, printed = ranks.run([*of(place, "bert", "any"), "--output", str(tmp_path)], processes, variables)
    assert code == 0, printed[-3000:]
    assert "continuing from step 8" in printed
    assert "losses will agree to rounding only" in printed
    assert_same_course(folder, run)


@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        ({OPTIMIZER: "torch.optim.Adafactor"}, FSDP2, "train.optimizer does not work on weights that are shared out"),
        ({}, {**FSDP2, "FSDP_VERSION": "1"}, "asks for FSDP 1: say fsdp_version: 2"),
        ({}, {**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: weights stay on their device"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed, which no run uses: configs/accelerate/fsdp2"),
    ],
)
def test_what_cannot_work_is_said_before_work(place, ranks, settings, variables, message, tmp_path):
    argv = [*arguments(place, "bert", **{**MORE, **settings}), "--output", str(tmp_path)]
    code, printed = ranks.run(argv, 2, variables)
    assert code == 2
    assert "Traceback" not in printed
    assert f"error: {message}" in printed or message in printed.split("error: ")[1]
    assert not list(tmp_path.rglob("step-*"))

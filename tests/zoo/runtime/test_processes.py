"""One process and two real ones (gloo) see the same rows, masks and rates, and lose the same to rounding."""

import contextlib
import json
import os
import signal
import socket

import pytest
from places import ROOT
from training import (
    arguments,
    assert_same_course,
    finish,
    goes_on,
    last_step,
    launch,
    outcome,
    processes_of,
    start,
    train,
    wait_for,
    write_corpus,
)

from pretraining.training.checkpoint import find_checkpoint
from pretraining.training.load_config import load_pretrain_config, run_folder_of

pytestmark = pytest.mark.slow
STEPS = 40
MORE = {"train.save_every": 7, "train.validate_every": 15, "train.micro_batch_size": 2}  # accumulates in both
CONFIGS = ROOT / "configs" / "accelerate"
CPU_2 = ["--config_file", str(CONFIGS / "cpu-2.yaml")]
SWITCHES = {  # what each process does for itself must come to the same in all of them
    "bert": {},
    "gpt": {
        "train.optimizer.class_path": "pretraining.optim.MuonAdamW",
        "train.optimizer.init_args.precision": "fp32",  # bf16 makes more of how sums are rounded
        "train.average.class_path": "pretraining.optim.EMA",
    },
}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

LATE = """
import os, sys, threading, time

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import pretraining.training.pretrain  # what it imports before there is a group, DDP would import afterwards
from zoo.runtime.processes import leave_group_together
from zoo.runtime.signals import Stopped


class Late(torch.Tensor):
    def __del__(self):
        letting_go.set()
        time.sleep(0.5)


def run(rank):
    model = DistributedDataParallel(nn.Linear(2, 2))
    with leave_group_together():
        if rank == 0:
            distributed.all_reduce(torch.zeros(1).as_subclass(Late), async_op=True)
            os.write(begin[1], b"+")  # from here on the group's thread alone has the tensor
            letting_go.wait()
        else:
            os.read(begin[0], 1)
            distributed.all_reduce(torch.zeros(1))
        raise Stopped


letting_go, begin = threading.Event(), os.pipe()
rank = 1 if os.fork() == 0 else 0
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
run(rank)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(place):
    """Also where a test fails half-way: every run here reads the corpus in ``place``."""
    yield
    for process in processes_of(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def two(place, warm):
    """An uninterrupted run of two processes per family, and what was printed, made when first asked for.

    BERT's is accelerate's launcher's.
    """
    made = {}

    def get(family):
        if family not in made:
            argv = arguments(place, family, steps=STEPS, **MORE, **SWITCHES[family])
            both = launch(argv, flags=CPU_2) if family == "bert" else warm.launch(argv, processes=2)
            made[family] = (run_folder_of(load_pretrain_config(argv)), finish(both))
        return made[family]

    return get


def refusal(process):
    """What a run printed that must end with an error soon."""
    out = process.communicate(timeout=100)[0]
    assert process.returncode != 0
    assert "Traceback" not in out.split("error: ")[0], out[-3000:]
    return out


def record(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_two_processes_take_the_same_course_as_one(place, two, family, tmp_path):
    folder, out = two(family)
    assert "2 processes x 1 threads" in out
    assert "batch 8 = 2 x 2 x 2" in out
    assert record(folder)["processes"] == 2
    argv = [*arguments(place, family, steps=STEPS, **MORE, **SWITCHES[family]), "--output", str(tmp_path)]
    config = load_pretrain_config(argv)
    assert config.value.model.hidden_dropout_prob == config.value.model.attention_probs_dropout_prob == 0.1
    alone = train(argv)
    assert record(alone)["processes"] == 1
    assert_same_course(folder, alone)
    lines = [(folder / "validation.jsonl").read_text(), (alone / "validation.jsonl").read_text()]
    per_document = [[json.loads(line) for line in text.splitlines()] for text in lines]
    for a, b in zip(*per_document, strict=True):
        assert (a["documents"], a["counts"]) == (b["documents"], b["counts"])
        assert a["totals"] == pytest.approx(b["totals"], rel=1e-4)


def test_one_micro_batch_takes_the_same_course(place, two, warm, tmp_path):
    """Without accumulation: four rows in each process."""
    argv = [*arguments(place, "bert", steps=STEPS, **{**MORE, "train.micro_batch_size": "null"})]
    argv += ["--output", str(tmp_path)]
    out = finish(warm.launch(argv, processes=2))
    assert "2 processes x 1 threads" in out
    assert "batch 8 = 2 x 1 x 4" in out
    folder = run_folder_of(load_pretrain_config(argv))
    assert record(folder)["processes"] == 2
    assert_same_course(folder, two("bert")[0])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_hosts_take_the_course_of_one(place, two, tmp_path):
    """Two launchers that know each other by address alone, with what ships for four machines."""
    argv = [*arguments(place, "bert", steps=STEPS, **MORE), "--output", str(tmp_path)]
    flags = ["--config_file", str(CONFIGS / "ddp-4-nodes.yaml"), "--num_machines", "2", "--num_processes", "2"]
    flags += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    hosts = [launch(argv, flags=[*flags, "--machine_rank", str(rank)]) for rank in (0, 1)]
    printed = [finish(host) for host in hosts]
    assert [text.count("2 processes x 1 threads") for text in printed] == [1, 0]
    assert outcome(run_folder_of(load_pretrain_config(argv))) == outcome(two("bert")[0])


def test_two_processes_killed_and_started_again_end_bit_for_bit_the_same(place, two, warm, tmp_path):
    expected = outcome(two("bert")[0])
    argv = [*arguments(place, "bert", steps=STEPS, **MORE), "--output", str(tmp_path / "killed")]
    folder = run_folder_of(load_pretrain_config(argv))
    both = warm.launch(argv, processes=2)
    wait_for(lambda: last_step(folder) >= 10, process=both)
    both.send_signal(signal.SIGKILL)
    both.communicate()
    assert last_step(folder) < STEPS, "it ended before it could be killed: more steps are needed"

    # The launcher alone, here torchrun: both its orphans save and go, whatever they were doing.
    under_way = goes_on(folder, int(find_checkpoint(folder).name.removeprefix("step-")), 5)
    launcher = start([*TORCHRUN, "-m", "pretraining", *argv])
    wait_for(under_way, process=launcher)
    os.kill(launcher.pid, signal.SIGKILL)
    assert "2 processes x 1 threads" in launcher.communicate(timeout=60)[0]
    wait_for(lambda: not processes_of(tmp_path), seconds=60)

    assert "continuing from step" in finish(warm.launch(argv, processes=2))
    assert outcome(folder) == expected


def test_a_process_ends_while_a_thread_of_its_group_still_lets_go_of_a_tensor(place):
    """It never did where the wrapped model was the group's last owner: then the two wait for each other."""
    process = start(["-c", LATE, str(place / "group")])
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 143, out[-3000:]
    assert "Traceback" not in out


def test_flags_that_start_one_process_only_say_so(place, warm, tmp_path):
    """`--num_processes 2` without `--multi_gpu` starts one process on a machine without a GPU."""
    argv = [*arguments(place, "gpt", steps=3), "--output", str(tmp_path)]
    out = finish(warm.start("forking_launcher", "--num_processes", 2, "-m", "pretraining", *argv))
    assert "1 process x 1 threads" in out or "1 processes x 1 threads" in out
    assert record(run_folder_of(load_pretrain_config(argv)))["processes"] == 1


def test_a_precision_flag_of_the_launcher_is_refused(place, warm, tmp_path):
    argv = [*arguments(place, "gpt", steps=3), "--output", str(tmp_path)]
    flags = ["--num_processes", 1, "--mixed_precision", "bf16"]
    out = refusal(warm.start("forking_launcher", *flags, "-m", "pretraining", *argv))
    assert "the launcher asks for mixed precision 'bf16' but the settings say train.precision = fp32" in out
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.corpus.files": "/missing/text.txt"}, "/missing/text.txt does not exist"),  # the main process only
        ({"train.batch_size": 9}, "train.batch_size = 9 is not a multiple"),  # every process
        ({"train.lr": 1e30, "train.max_grad_norm": 0}, "the run diverged"),  # in the middle of the loop
    ],
)
def test_an_error_ends_all_processes_soon(place, change, message, warm, tmp_path):
    """Without a launcher, which would end the others."""
    argv = [*arguments(place, "gpt", steps=STEPS, **change), "--output", str(tmp_path)]
    out = refusal(warm.launch(argv, processes=2))
    assert f"error: {message}" in out or message in out.split("error: ")[1]
    assert out.count("error: ") - out.count("Error: ") <= 2

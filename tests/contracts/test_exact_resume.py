"""Real runs under a real launcher, killed at any moment: they go on by themselves and end bit for bit the same."""

import contextlib
import os
import signal

import pytest
from training import (
    arguments,
    children,
    finish,
    goes_on,
    last_step,
    launch,
    outcome,
    processes_of,
    train,
    wait_for,
    write_corpus,
)

from pretraining.training.checkpoint import find_checkpoint
from pretraining.training.load_config import load_pretrain_config, run_folder_of

pytestmark = pytest.mark.slow
STEPS = 150
FEW = 10  # steps a run must have made before it is killed: not a multiple of save_every


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(place):
    """Also where a test fails half-way: every run here reads the corpus in ``place``."""
    yield
    for process in processes_of(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kill_child(launcher):
    (child,) = children(launcher.pid)
    os.kill(child, signal.SIGKILL)


def kill_launcher(launcher):
    os.kill(launcher.pid, signal.SIGKILL)


def kill_group(launcher):
    os.killpg(launcher.pid, signal.SIGKILL)


def end_child(launcher):
    (child,) = children(launcher.pid)
    os.kill(child, signal.SIGTERM)


def end_launcher(launcher):
    os.kill(launcher.pid, signal.SIGTERM)


def launched(warm, folder, argv):
    """The run under accelerate's launcher, both of them forks."""
    return warm.start("forking_launcher", "--num_processes", 1, "-m", "pretraining", *argv, logs=folder)


def cut_short(warm, place, argv, strike):
    """Start the run, strike some steps after it came up, and wait until nothing of it is left.

    Returns:
        the step that it resumed from and all that it printed.
    """
    folder = run_folder_of(load_pretrain_config(argv))
    checkpoint = find_checkpoint(folder)
    begun = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    under_way = goes_on(folder, begun, FEW)
    launcher = launched(warm, place, argv)
    wait_for(under_way, process=launcher)
    assert last_step(folder) < STEPS, "it ended before it could be killed: more steps are needed"
    strike(launcher)
    assert launcher.wait(timeout=60) != 0
    wait_for(lambda: not processes_of(place), seconds=60)
    return begun, launcher.output()


def checkpoint_step(folder):
    return int(find_checkpoint(folder).name.removeprefix("step-"))


@pytest.mark.parametrize(
    ("family", "lost", "saved"),  # what a strike does follows from the signal, not from the family: each is tried once
    [
        ("bert", [kill_child], [kill_launcher, end_child]),
        ("gpt", [kill_group], [end_launcher]),
    ],
)
def test_killed_in_every_way_and_started_again_it_ends_bit_for_bit_the_same(place, family, lost, saved, warm, tmp_path):
    more = {"train.save_every": 7, "train.validate_every": 60, "train.micro_batch_size": 4}
    argv = arguments(place, family, steps=STEPS, **more)
    whole = [*argv, "--output", str(tmp_path / "whole")]
    expected = outcome(train(whole))

    argv = [*argv, "--output", str(tmp_path / "killed"), "--train.prefetch", "yes"]  # which changes no result
    folder = run_folder_of(load_pretrain_config(argv))
    assert folder.name == run_folder_of(load_pretrain_config(whole)).name

    for strike in lost:
        begun, _ = cut_short(warm, tmp_path, argv, strike)
        reached = last_step(folder)
        assert begun + FEW <= reached < STEPS
        assert checkpoint_step(folder) % 7 == 0
    # SIGTERM, or the launcher's death, of which the kernel tells its orphan: it saves where it is and goes.
    for strike in saved:
        begun, out = cut_short(warm, tmp_path, argv, strike)
        assert checkpoint_step(folder) == last_step(folder) > begun
        assert f"stopped at step {last_step(folder)}, saved" in out
        assert "Traceback" not in out.split("stopped at step")[0]

    begun = checkpoint_step(folder)
    assert f"continuing from step {begun} " in finish(launched(warm, tmp_path, argv))
    assert outcome(folder) == expected
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_killed_while_a_checkpoint_is_written(place, warm, tmp_path):
    """Every checkpoint that carries its final name is whole; what a kill left half written is passed over."""
    more = {"train.save_every": 1, "train.validate_every": 0, "model.hidden_size": 128}
    argv = [*arguments(place, "gpt", steps=60, **more), "--output", str(tmp_path / "killed")]
    folder = run_folder_of(load_pretrain_config(argv))
    half, begun = [], 0

    def writing():
        return any((folder / "checkpoints").glob(".writing-*"))

    for _ in range(3):
        launcher = launched(warm, tmp_path, argv)
        wait_for(lambda: last_step(folder) >= begun + 3, process=launcher)  # noqa: B023
        wait_for(writing, process=launcher, every=0)
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.communicate(timeout=60)
        wait_for(lambda: not processes_of(tmp_path), seconds=60)
        half += [path.name for path in (folder / "checkpoints").glob(".writing-*")]
        begun = checkpoint_step(folder)
        assert last_step(folder) - 1 <= begun <= last_step(folder)
        if half:
            break
    assert half, "no kill fell into the writing of a checkpoint"
    finish(launched(warm, tmp_path, argv))
    assert not list((folder / "checkpoints").glob(".writing-*"))
    whole = [*argv, "--output", str(tmp_path / "whole"), "--train.save_every", "1000"]
    assert outcome(folder) == outcome(train(whole))


@pytest.mark.parametrize("processes", [1, 2])
def test_orphans_of_a_launcher_that_died_during_the_start_do_not_go_on(place, processes, tmp_path):
    """Nor do two wait to find each other through the launcher that is dead."""
    argv = [*arguments(place, "gpt", steps=STEPS), "--output", str(tmp_path / "killed")]
    launcher = launch(argv, processes)
    wait_for(lambda: len(children(launcher.pid)) >= processes, process=launcher, every=0)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    wait_for(lambda: not processes_of(tmp_path), seconds=60)
    assert last_step(run_folder_of(load_pretrain_config(argv))) == 0


def test_sigterm_during_the_preparation_leaves_at_once(warm, tmp_path):
    """Preparing a large corpus can take an hour; what it has finished is kept, so there is nothing to wait for."""
    write_corpus(tmp_path)
    large = tmp_path / "large.txt"
    with large.open("w", encoding="utf-8") as stream:
        for number in range(60_000):
            stream.write(f"This is sentence {number} of many. Another one follows it here.\n\n")
    argv = arguments(tmp_path, "gpt", **{"data.corpus.files": large, "data.tokenizer.vocab_size": 8000})
    launcher = launched(warm, tmp_path, argv)
    wait_for(lambda: list((tmp_path / "stores").glob("*")), process=launcher)
    (child,) = children(launcher.pid)
    os.kill(child, signal.SIGTERM)
    out = launcher.communicate(timeout=60)[0]
    assert launcher.returncode != 0
    assert "exit status 143" in out
    assert not processes_of(tmp_path)
    assert not list((tmp_path / "stores").glob("*/meta.json"))

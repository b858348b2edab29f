"""The loop in one process: learning, resume, budgets, refusal of what cannot work."""

import json
import math
import shutil
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import training
from training import FAMILIES, Killed, arguments, interrupt_at, log_lines, outcome, train, write_corpus

from pretraining.objectives.base import make_batch
from pretraining.objectives.causal_lm import CausalLM
from pretraining.training import record
from pretraining.training.checks import accumulation_of
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from pretraining.training.pretrain import pretrain
from pretraining.training.run import Run
from pretraining.training.state import task_at
from pretraining.training.step import Trainer, weighted_loss
from pretraining.training.stores import run_stores
from zoo.errors import ZooError
from zoo.model_folder import load_core, read_metadata
from zoo.runtime.locks import run_lock
from zoo.runtime.signals import Stopped, StopRequest
from zoo.storage.tensors import load_tensors


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose corpus and stores the tests of this module share."""
    folder = tmp_path_factory.mktemp("train")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def finished(place):
    """An uninterrupted run per family."""
    return {family: train(arguments(place, family)) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_folder_is_a_model_folder(finished, family):
    folder = finished[family]
    core, metadata = load_core(folder)
    assert metadata.attention == ("causal" if family == "gpt" else "bidirectional")
    assert core.config.vocab_size <= 600
    record = json.loads((folder / "run.json").read_text())
    assert record["finished"]
    assert record["step"] == 12
    assert record["config"]["name"] == f"{family}-tiny"
    assert {"versions", "commit", "machine", "data_fingerprint", "seed", "unigram_entropy"} <= record.keys()
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder)("A small test.")["input_ids"]
    lines = log_lines(folder)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert not any({"stage", "tasks"} & line.keys() for line in lines)  # there is nothing to tell apart
    validation = [line for line in lines if "validation" in line]
    assert [line["step"] for line in validation] == [5, 10, 12]
    documents = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    term = validation[-1]["validation"]["terms"][documents[-1]["objective"]]
    assert sum(documents[-1]["totals"]) / sum(documents[-1]["counts"]) == pytest.approx(term["loss"])
    assert len(documents[-1]["documents"]) == validation[-1]["validation"]["documents"] >= 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("killed_at", [2, 7])
def test_interrupted_and_continued_is_bit_identical(place, finished, family, killed_at, monkeypatch, tmp_path):
    argv = [*arguments(place, family), "--output", str(tmp_path), "--train.prefetch", "yes"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, killed_at)
        train(argv)
    assert outcome(train(argv)) == outcome(finished[family])


def test_resume_in_the_middle_of_accumulation_and_of_an_epoch(place, monkeypatch, tmp_path):
    argv = arguments(place, "bert", steps=14, **{"train.micro_batch_size": 2, "data.mask_copies": 2})
    whole = train([*argv, "--output", str(tmp_path / "a")])
    calls = []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 4 * 9 + 2:  # the second of four micro batches of step 9
            raise Killed
        return weighted_loss(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pretraining.training.step.weighted_loss", cut)
        train([*argv, "--output", str(tmp_path / "b"), "--train.prefetch", "yes"])
    assert outcome(train([*argv, "--output", str(tmp_path / "b")])) == outcome(whole)


def test_resume_between_two_log_lines(place, monkeypatch, tmp_path):
    """The sums since the last log line are part of the checkpoint, with every digit."""
    argv = arguments(place, "bert", steps=22, **{"train.log_every": 10, "train.save_every": 3})
    whole = train([*argv, "--output", str(tmp_path / "a")])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 17)
        train([*argv, "--output", str(tmp_path / "b")])
    assert outcome(train([*argv, "--output", str(tmp_path / "b")])) == outcome(whole)


def test_a_step_counts_once_in_the_timing_however_often_it_was_done(place, monkeypatch, tmp_path):
    """A clock that a step moves by one second: what is done again after a kill takes the place of what was lost."""
    clock, step = [0.0], Trainer.train_step

    def timed(self, stop):
        clock[0] += 1.0
        return step(self, stop)

    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Trainer, "train_step", timed)
    more = {"train.log_every": 10, "train.save_every": 3, "train.validate_every": 0, "output": tmp_path}
    argv = arguments(place, "bert", steps=22, **more)
    for killed_at in (2, 14, 21):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt_at(patch, killed_at)
            train(argv)
    lines = [json.loads(line) for line in (train(argv) / "timing.jsonl").read_text().splitlines()]
    assert [(line["step"], line["seconds"]) for line in lines] == [(10, 10.0), (20, 10.0), (22, 2.0)]
    tokens = [line["tokens"] for line in log_lines(run_folder_of(load_pretrain_config(argv))) if "loss" in line]
    assert sum(line["seconds"] * line["tokens_per_second"] for line in lines) == pytest.approx(tokens[-1])


def test_an_objective_without_a_held_out_target_has_no_held_out_loss(tmp_path, monkeypatch, capsys):
    forward = CausalLM.forward

    def none_held_out(self, *given):
        term = forward(self, *given)
        return term if self.training else term._replace(count=0, row_count=torch.zeros_like(term.row_count))

    monkeypatch.setattr(CausalLM, "forward", none_held_out)
    argv = arguments(tmp_path, "gpt", 2, train__validate_every=2)
    folder = pretrain(load_pretrain_config(argv), show=True)
    assert not any("validation" in line for line in log_lines(folder))
    assert "validation at step 2: the held-out rows have no target." in capsys.readouterr().err


def test_averaged_weights_are_what_a_run_ends_with(place, finished, monkeypatch, tmp_path):
    """They change no step, are kept bit for bit when the run is cut short, and the last weights lie beside them."""
    share = {"train.average.class_path": "pretraining.optim.TailMean", "train.average.init_args.share": 0.5}
    argv = arguments(place, "bert", **share, **{"train.save_every": 1, "train.keep": 12, "output": tmp_path})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 9)
        train(argv)
    folder = train(argv)
    weights = [load_tensors(folder / f"checkpoints/step-{step:09d}/model.safetensors") for step in range(7, 13)]
    made = {name: tensor for name, tensor in load_tensors(folder / "model.safetensors").items() if "core." in name}
    assert len(made) > 20
    for name, tensor in made.items():
        assert torch.allclose(tensor, torch.stack([w[name] for w in weights]).mean(dim=0), atol=1e-6), name
    last, plain = (path / "model.safetensors" for path in (folder / "last_weights", finished["bert"]))
    assert last.read_bytes() == plain.read_bytes() != (folder / "model.safetensors").read_bytes()
    load_core(folder / "last_weights")
    plain, averaged = log_lines(finished["bert"]), log_lines(folder)
    assert [line for line in averaged if "loss" in line] == [line for line in plain if "loss" in line]
    held_out = [[line for line in lines if "validation" in line] for lines in (plain, averaged)]
    same = [one["validation"] == other["validation"] for one, other in zip(*held_out, strict=True)]
    assert same == [True, False, False]  # the sixth step is before the last half
    assert [line.get("averaged") for line in held_out[1]] == [None, 4, 6]
    assert json.loads((folder / "last_weights" / "run.json").read_text())["finished"]


@pytest.mark.parametrize("family", ["albert", "gpt"])
def test_muon_with_a_moving_average_goes_on_bit_for_bit(place, family, monkeypatch, tmp_path):
    switches = {
        "train.optimizer.class_path": "pretraining.optim.MuonAdamW",
        "train.average.class_path": "pretraining.optim.EMA",
        "train.average.init_args.decay": 0.8,
    }
    argv = arguments(place, family, steps=8, **switches)
    whole, cut = ([*argv, "--output", str(tmp_path / part)] for part in ("whole", "cut"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(cut)
    one, other = train(whole), train(cut)
    assert outcome(one) == outcome(other)
    last = "last_weights/model.safetensors"
    assert (one / last).read_bytes() == (other / last).read_bytes()


def test_resume_passes_over_a_half_written_checkpoint(place, finished, monkeypatch, tmp_path):
    argv = [*arguments(place, "gpt"), "--output", str(tmp_path)]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 8)
        train(argv)
    folder = run_folder_of(load_pretrain_config(argv))
    newest = max((folder / "checkpoints").glob("step-*"))
    assert newest.name.endswith("6")
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copytree(newest, newest.with_name(".writing-000000009"))
    assert outcome(train(argv)) == outcome(finished["gpt"])


def test_sigterm_saves_and_leaves_and_continues(place, finished, monkeypatch, tmp_path):
    argv = [*arguments(place, "bert"), "--output", str(tmp_path)]
    original = Trainer.train_step

    def ask(self, stop: StopRequest):
        if self.state.counters.step == 4:
            stop.asked = True
        return original(self, stop)

    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(Trainer, "train_step", ask)
        train(argv)
    assert stopped.value.code == 143
    folder = run_folder_of(load_pretrain_config(argv))
    assert max((folder / "checkpoints").glob("step-*")).name.endswith("5")
    assert outcome(train(argv)) == outcome(finished["bert"])


def test_accumulation_changes_rounding_only(place, finished, tmp_path):
    argv = arguments(place, "bert", **{"train.micro_batch_size": 2})
    split = log_lines(train([*argv, "--output", str(tmp_path)]))
    whole = log_lines(finished["bert"])
    for a, b in zip(split, whole, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert (a["tokens"], a["lr"]) == (b["tokens"], b["lr"])


def test_a_finished_run_is_recognised(finished, place):
    folder = finished["bert"]
    before = (folder / "run.json").stat().st_mtime_ns
    assert train(arguments(place, "bert")) == folder
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused_by_key(finished, place):
    argv = [*arguments(place, "bert", **{"train.lr": 0.5}), "--run_folder", str(finished["bert"])]
    with pytest.raises(ZooError, match=r"train\.lr: 0\.001 -> 0\.5"):
        train(argv)


def test_a_second_writer_is_refused(place, tmp_path):
    import fcntl

    argv = [*arguments(place, "bert"), "--output", str(tmp_path)]
    folder = run_folder_of(load_pretrain_config(argv))
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ZooError, match="one writer"):
            train(argv)


def test_an_unused_run_folder_is_removed(tmp_path):
    """Only what was made for it, and only where nothing else is in it."""
    for name, before, within, left in (
        ("new", [], [], []),
        ("there already", ["empty"], [], ["empty"]),
        ("used", [], ["new/log.jsonl"], ["new", "new/.lock", "new/log.jsonl"]),
        ("an older lock", ["new", "new/.lock"], [], ["new", "new/.lock"]),
    ):
        place = tmp_path / name
        for path in before:
            place.joinpath(path).mkdir(parents=True) if "." not in path else place.joinpath(path).touch()
        with pytest.raises(ZooError, match="refused"), run_lock(place / ("empty" if "empty" in before else "new")):
            for path in within:
                (place / path).touch()
            raise ZooError("refused")
        assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == left, name


def test_a_lock_that_was_removed_while_it_was_waited_for_is_none(tmp_path):
    """Who waited takes the lock that is there now, so that who comes after that finds a writer."""
    folder, waiting, ready, done = tmp_path / "run", threading.Event(), threading.Event(), threading.Event()

    def second():
        with run_lock(folder, on_wait=lambda holder: waiting.set()):
            ready.set()
            done.wait(30)

    with run_lock(folder):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
    assert ready.wait(30)
    try:
        with pytest.raises(ZooError, match="one writer"), run_lock(folder, patience=0.0):
            pass
        assert (folder / ".lock").exists()
    finally:
        done.set()
        thread.join()
    assert not folder.exists()


_LIBRARY = """
import ctypes, sys, threading
from zoo.runtime.signals import stop_on_sigterm

libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)  # the next lock waits, and a signal does not interrupt it

def release():
    sys.stdin.readline()
    libc.pthread_mutex_unlock(mutex)

threading.Thread(target=release, daemon=True).start()
with stop_on_sigterm(grace=0.1) as request:
    request.patient = {patient}
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)
    print(request.asked)
"""


_FORK = """
import os, signal, time
from zoo.runtime.signals import stop_on_sigterm

with stop_on_sigterm(grace=0.1) as request:
    if not (child := os.fork()):
        time.sleep(60)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    time.sleep(0.5)
    print(request.asked)
"""


def test_sigterm_for_a_forked_child_is_its_own():
    """A pool's `terminate` ends its children, and neither asks nor ends the run."""
    process = training.start(["-c", _FORK])
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, f"{signal.SIGTERM.value}\nFalse\n")


@pytest.mark.parametrize("patient", [False, True])
def test_sigterm_ends_a_process_that_is_inside_of_a_library(patient):
    """Which never looks at signals, as the training of a tokenizer does not; the loop, which is patient, goes on."""
    process = training.start(["-c", _LIBRARY.format(patient=patient)], stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        if patient:
            time.sleep(0.5)  # several times the grace, which must not end it
        else:
            process.wait(timeout=60)
        printed, _ = process.communicate("\n" if patient else None, timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed) == ((0, "True\n") if patient else (143, ""))


def test_changed_text_is_not_mixed_into_an_old_run(tmp_path, monkeypatch):
    argv = arguments(tmp_path, "gpt")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(argv)
    corpus = tmp_path / "text.txt"
    corpus.write_text(corpus.read_text() + "\n\nOne more document. It has two sentences.\n")
    with pytest.raises(ZooError, match="other data"):
        train(argv)


def test_a_finished_run_is_not_taken_for_one_on_changed_text(tmp_path):
    argv = arguments(tmp_path, "gpt", steps=2)
    train(argv)
    corpus = tmp_path / "text.txt"
    corpus.write_text(corpus.read_text() + "\n\nOne more document. It has two sentences.\n")
    with pytest.raises(ZooError, match="other data"):
        train(argv)


@pytest.mark.parametrize(
    ("stages", "message"),
    [("{a: {until: 0.5, tasks: {pairs: 1}}}", "until: 1"), ("{a: {until: 1, tasks: {}}}", "at least one task"),
     ("{a: {until: 1, tasks: {pairs: 0}}}", "above 0"), ("{a: {until: 1, tasks: {pair: 1}}}", "'pairs'")],
)  # fmt: skip
def test_stages_that_cannot_run_are_refused(place, stages, message):
    with pytest.raises(ZooError, match=message):
        load_pretrain_config([*arguments(place, "bert"), "--stages", stages])


def test_scoring_does_not_import_what_run_json_names(finished, tmp_path):
    from pretraining.scoring.scorer import Scorer

    folder = tmp_path / "run"
    shutil.copytree(finished["bert"], folder)
    text = (folder / "run.json").read_text().replace("pretraining.masking.RandomTokens", "somebody.elses.Chooser")
    (folder / "run.json").write_text(text)
    with pytest.raises(ZooError, match=r"somebody\.elses\.Chooser.*--trust_code"):
        Scorer(folder)


@pytest.mark.parametrize("budget", ["tokens", "flops"])
def test_budgets_share_one_path(place, budget, tmp_path):
    amount = 2500 if budget == "tokens" else 3e8
    argv = arguments(place, "gpt", **{"train.steps": "null", f"train.{budget}": amount, "output": tmp_path})
    lines = [line for line in log_lines(train(argv)) if "loss" in line]
    assert lines[-1][budget] >= amount > lines[-2][budget]
    assert lines[0]["lr"] == 0
    assert lines[-1]["lr"] < max(line["lr"] for line in lines) / 2


def test_the_log_counts_what_the_batches_hold(place, tmp_path):
    """Loss is a sum over all targets of a window, divided once by their global number."""
    settings = load_pretrain_config([*arguments(place, "bert", steps=2), "--output", str(tmp_path)])
    seen = []
    original = Trainer.micro_batches

    def note(self, task):
        batches = original(self, task)
        seen.append(sum(int((b.inputs.input_ids != 0).sum()) for b in batches))
        assert [b.counts["masked_lm"] for b in batches] == [len(b.targets["masked_lm"]["labels"]) for b in batches]
        return batches

    from pretraining.training.pretrain import pretrain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "micro_batches", note)
        folder = pretrain(settings, show=False)
    lines = [line for line in log_lines(folder) if "loss" in line]
    assert lines[-1]["tokens"] == sum(seen)
    assert lines[0]["loss"] == pytest.approx(sum(lines[0]["terms"].values()))


def test_schedule_of_tasks_is_keyed_and_shared_out():
    from pretraining.training.config import StageConfig

    stages = {"a": StageConfig(0.5, {"x": 1.0}), "b": StageConfig(1.0, {"x": 0.25, "y": 0.75})}
    names = [task_at(stages, ["x", "y"], step, step / 8000, seed=3) for step in range(8000)]
    assert set(names[:4000]) == {"x"}
    for start, end in ((4000, 8000), (4000, 4100), (5017, 5317), (7001, 8000)):
        assert abs(names[start:end].count("y") - 0.75 * (end - start)) <= 3  # of 300 draws' own, 15 would be usual
    others = {tuple(task_at(stages, ["x", "y"], step, 1.0, seed) for step in range(4000, 4050)) for seed in range(20)}
    assert len(others) > 15
    assert names == [task_at(stages, ["x", "y"], step, step / 8000, seed=3) for step in range(8000)]


def test_two_tasks_in_stages_train_and_resume(place, monkeypatch, tmp_path, capsys):
    from pretraining.training.pretrain import pretrain

    more = {
        "objectives.causal_lm.class_path": "pretraining.objectives.CausalLM",
        "tasks.blocks.layout.class_path": "pretraining.layouts.Blocks",
        "tasks.blocks.objectives": "[causal_lm]",
        "stages.first.until": 0.5,
        "stages.first.tasks.pairs": 1.0,
        "stages.second.until": 1.0,
        "stages.second.tasks": "{pairs: 0.5, blocks: 0.5}",
    }
    argv = arguments(place, "bert", steps=20, **more)
    whole = train([*argv, "--output", str(tmp_path / "a")])
    names = {tuple(line["terms"]) for line in log_lines(whole) if "loss" in line}
    assert names == {("masked_lm", "next_sentence"), ("causal_lm",)}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 16)
        train([*argv, "--output", str(tmp_path / "b")])
    again = [*argv, "--output", str(tmp_path / "b"), "--train.prefetch", "yes"]
    resumed = pretrain(load_pretrain_config(again), show=True)
    assert outcome(resumed) == outcome(whole)
    shown = capsys.readouterr().err
    assert "validation of pairs at step 20: masked_lm" in shown
    assert "validation of blocks at step 20: causal_lm" in shown


def test_learning_goes_below_the_unigram_entropy(place, tmp_path):
    argv = arguments(place, "gpt", steps=400, **{"train.lr": 5e-3, "train.save_every": 1000, "output": tmp_path})
    folder = train(argv)
    losses = [line["loss"] for line in log_lines(folder) if "loss" in line]
    entropy = json.loads((folder / "run.json").read_text())["unigram_entropy"]
    assert losses[0] > math.log(500)
    assert sum(losses[-20:]) / 20 < entropy - 0.25


def test_a_stuck_run_is_told_once(place, tmp_path, capsys):
    from pretraining.training.pretrain import pretrain

    argv = arguments(place, "gpt", **{"train.lr": 1e-9, "output": tmp_path})
    pretrain(load_pretrain_config(argv), show=True)
    assert capsys.readouterr().err.count("hardly better than guessing") == 1


def test_bf16_trains(place, tmp_path):
    argv = arguments(place, "bert", **{"train.precision": "bf16", "output": tmp_path})
    losses = [line["loss"] for line in log_lines(train(argv)) if "loss" in line]
    assert all(math.isfinite(loss) for loss in losses)
    _, metadata = load_core(train(argv))
    assert metadata.config.hidden_size == 32


def test_batches_that_do_not_divide_are_refused_with_one_that_does():
    assert accumulation_of(32, None, 2) == (16, 1)
    assert accumulation_of(32, 4, 2) == (4, 4)
    with pytest.raises(ZooError, match="30 would be"):
        accumulation_of(32, 3, 2)


def test_static_copies_repeat_and_dynamic_masks_do_not(place, tmp_path):
    argv = [*arguments(place, "bert", **{"data.mask_copies": 2}), "--output", str(tmp_path)]
    settings = load_pretrain_config(argv)
    from zoo.runtime.processes import start_processes

    accelerator = start_processes("fp32", 1, [], tmp_path)
    run = Run(settings, tmp_path, accelerator, run_stores(settings.value, False), False)
    data = run.data["pairs"]
    plan, _ = data.plan(0)
    indices = torch.arange(min(16, len(plan))).numpy()

    def masks(epoch):
        return make_batch([data.rows(epoch, indices)], data.objectives, data.pad).inputs.input_ids

    assert torch.equal(masks(0), masks(2))
    assert not torch.equal(masks(0), masks(1))
    data.mask_copies = None
    assert masks(0).shape != masks(2).shape or not torch.equal(masks(0), masks(2))


def test_facts_of_a_foreign_folder_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ZooError, match="type 'bert'"):
        read_metadata(tmp_path)
    with pytest.raises(ZooError, match="not a folder"):
        read_metadata(tmp_path / "missing")


def test_a_task_can_have_text_of_its_own(place, tmp_path):
    corpus = tmp_path / "own.txt"
    corpus.write_text("\n\n".join(f"the {n} cat sat on the mat .\nthe dog ran {n} times ." for n in range(40)))
    argv = arguments(place, "bert", **{"output": tmp_path, "tasks.pairs.corpus.files": corpus, "train.steps": 2})
    record = json.loads((train(argv) / "run.json").read_text())
    assert record["task_fingerprints"]["pairs"] != record["data_fingerprint"]
    corpus.write_text("other text\n\n" * 40)
    with pytest.raises(ZooError, match="task_fingerprints"):
        train([*argv, "--run_folder", str(next(tmp_path.glob("*/run.json")).parent)])
    missing = arguments(place, "bert", **{"output": tmp_path, "tasks.pairs.corpus.files": tmp_path / "none.txt"})
    with pytest.raises(ZooError, match=r"tasks\.pairs\.corpus: .*none\.txt"):
        train(missing)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.reuse_len": 8}, "set it to"),
        ({"tasks.segments.layout.class_path": "pretraining.layouts.Blocks"}, "shuffles its rows"),
    ],
)
def test_a_memory_that_does_not_fit_its_rows_is_refused(place, tmp_path, changes, message):
    family = "xlnet" if "model.reuse_len" in changes else "transformer-xl"
    with pytest.raises(ZooError, match=message):
        train(arguments(place, family, output=tmp_path, **changes))


def test_a_template_that_the_core_cannot_serve_is_refused_before_training(place, tmp_path):
    with pytest.raises(ZooError, match="first or last would work"):
        train(arguments(place, "bert", output=tmp_path, **{"template.pooling": "ends"}))


def test_validation_does_without_losses_by_row(tmp_path, monkeypatch):
    """An objective need not say them; its loss is the same, and no document has one of its own."""

    def held_out(name):
        folder = train(arguments(tmp_path, "gpt", 2, train__validate_every=2, output=tmp_path / name))
        found = next(line["validation"] for line in log_lines(folder) if "validation" in line)
        return found, json.loads((folder / "validation.jsonl").read_text().splitlines()[0])

    known, by_document = held_out("known")
    assert sum(by_document["counts"]) == known["terms"]["causal_lm"]["count"]
    forward = CausalLM.forward
    monkeypatch.setattr(CausalLM, "forward", lambda *given: forward(*given)._replace(row_total=None, row_count=None))
    other, none = held_out("other")
    assert other["terms"]["causal_lm"] == pytest.approx(known["terms"]["causal_lm"], rel=1e-5)
    assert (other["documents"], none["documents"], none["totals"], none["counts"]) == (0, [], [], [])

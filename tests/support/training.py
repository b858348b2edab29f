"""What tests of the loop share: a small corpus and settings that run in a second."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretraining.training.load_config import load_pretrain_config, run_folder_of
from pretraining.training.pretrain import pretrain
from pretraining.training.run import Run
from pretraining.training.step import Trainer
from zoo.model_folder import pack_model
from zoo.runtime.signals import StopRequest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "zoo" / "sample"
FAMILIES = ("bert", "roberta", "albert", "gpt")


def write_corpus(folder: Path, documents: int = 60) -> Path:
    """The first documents of the shipped English sample as one file."""
    text = (SAMPLE / "en" / "wikipedia.txt").read_text(encoding="utf-8")
    path = folder / "text.txt"
    path.write_text("\n\n".join(text.split("\n\n")[:documents]) + "\n", encoding="utf-8")
    return path


def arguments(folder: Path, family: str = "bert", steps: int = 12, **more: object) -> list[str]:
    """Command line of a tiny run in ``folder``."""
    corpus = folder / "text.txt"
    if not corpus.exists():
        write_corpus(folder)
    values: dict[str, object] = {
        "data.corpus.files": corpus,
        "data.stores": folder / "stores",
        "data.processes": 1,
        "data.tokenizer.vocab_size": 600,
        "data.sequence_length": 48,
        "data.validation_tokens": 1500,
        "model.hidden_size": 32,
        "model.num_hidden_layers": 1,
        "model.intermediate_size": 64,
        "train.steps": steps,
        "train.tokens": "null",
        "train.batch_size": 8,
        "train.log_every": 1,
        "train.save_every": 3,
        "train.validate_every": 5,
        "train.threads": 1,
        "train.precision": "fp32",
        "output": folder / "runs",
        **more,
    }
    if family == "albert":
        values.setdefault("model.embedding_size", 16)
    argv = ["--config", f"{family}-tiny"]
    for key, value in values.items():
        argv += [f"--{key.replace('__', '.')}", str(value)]
    return argv


def train(argv: list[str]) -> Path:
    """Run in this process."""
    return pretrain(load_pretrain_config(argv), show=False)


def outcome(folder: Path) -> tuple[bytes, bytes, bytes]:
    """What must repeat bit for bit: weights, log, per-document validation losses."""
    return tuple((folder / n).read_bytes() for n in ("model.safetensors", "log.jsonl", "validation.jsonl"))


def log_lines(folder: Path) -> list[dict]:
    """The log's records."""
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Killed(BaseException):
    """Stands for a kill inside the process: nothing in the code may catch it."""


def interrupt_at(monkeypatch, step: int) -> None:
    """The step with this number is cut short, as by a kill."""
    original = Trainer.train_step

    def cut(self: Trainer, stop: StopRequest):
        if self.state.counters.step == step:
            raise Killed
        return original(self, stop)

    monkeypatch.setattr(Trainer, "train_step", cut)


def launch(argv: list[str], processes: int = 1, flags: list[str] | None = None) -> subprocess.Popen:
    """A real run under accelerate's launcher, in its own process group.

    Args:
        argv: the run's own command line.
        processes: how many; the launcher's flags that really start so many on a CPU are added.
        flags: the launcher's flags instead of those.
    """
    if flags is None:
        several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else []
        flags = [*several, "--num_processes", str(processes)]
    return start(["-m", "accelerate.commands.launch", *flags, "-m", "pretraining", *argv])


def chinese_articles(count: int = 25) -> list[str]:
    """The first articles of the shipped Chinese text."""
    return (SAMPLE / "zh" / "wikipedia.txt").read_text(encoding="utf-8").split("\n\n")[:count]


def start(arguments: list[str], **options: Any) -> subprocess.Popen:
    """A Python process in its own process group, both its outputs in one pipe."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def wait_for(condition, seconds: float = 120.0, process: subprocess.Popen | None = None, every: float = 0.02) -> None:
    """Wait until ``condition()`` holds, asking ``every`` so many seconds; the process must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} too early:\n{process.communicate()[0][-3000:]}")
        if time.monotonic() > end:
            raise AssertionError("waited too long")
        time.sleep(every)


def last_step(folder: Path) -> int:
    """The last optimiser step whose line is in the log; a line that is being written does not count."""
    path = folder / "log.jsonl"
    if not path.exists():
        return 0
    whole, _, _ = path.read_text().rpartition("\n")
    return max((json.loads(line)["step"] for line in whole.splitlines()), default=0)


def timing_lines(folder: Path) -> list[str]:
    """Whole lines of the timing log."""
    path = folder / "timing.jsonl"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def goes_on(folder: Path, begun: int, few: int) -> Callable[[], bool]:
    """Whether a run that is started again from step ``begun``, with a log line a step, has made ``few`` steps.

    Args:
        folder: the run's; what it holds is noted now, before the start.
        begun: step of the checkpoint.
        few: steps.
    """
    place, before = begun + few - 1, timing_lines(folder)
    old = before[place : place + 1]  # cut off at the start, it never comes again to the last digit

    def asked() -> bool:
        now = timing_lines(folder)[place : place + 1]
        return bool(now) and now != old

    return asked


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in found]


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names ``folder``, or that print into it: launchers, trainers, workers.

    Dead ones are not listed.
    """
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        try:
            named = (place / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in named or str(folder) in str((place / "fd" / "1").readlink()):
                found.append(int(place.name))
        except OSError:  # it has just gone
            continue
    return found


def reset_threads() -> None:
    """Undo what a run in this process set."""
    torch.set_num_threads(2)


def finish(process, seconds=150):
    out = process.communicate(timeout=seconds)[0]
    assert process.returncode == 0, out[-3000:]
    return out


def assert_same_course(one, other):
    """Steps, tokens, learning rates exactly; losses to rounding."""
    for a, b in zip(log_lines(one), log_lines(other), strict=True):
        assert (a["step"], a["tokens"]) == (b["step"], b["tokens"])
        if "loss" in a:
            assert (a["lr"], a["epoch"], a["flops"]) == (b["lr"], b["epoch"], b["flops"])
            assert a["terms"] == {name: pytest.approx(value, rel=1e-5) for name, value in b["terms"].items()}
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
        else:
            first, second = a["validation"], b["validation"]
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
            assert {k: t["count"] for k, t in first["terms"].items()} == {
                k: t["count"] for k, t in second["terms"].items()
            }


def first_weights(monkeypatch, argv: list[str]) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors (a folder's names) and ``start`` record of a run before its first step."""
    seen: dict[str, torch.Tensor] = {}

    def stop(self: Run, request) -> None:
        packed = pack_model(self.raw_model.core, dict(self.raw_model.heads.items()))
        seen.update({name: tensor.clone() for name, tensor in packed.items()})
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "loop", stop)
        train(argv)
    return seen, json.loads((run_folder_of(load_pretrain_config(argv)) / "run.json").read_text())["init_from"]


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or bool(os.environ.get("ATEN_CPU_CAPABILITY")),
    reason="layers are compiled where there is g++ and ATEN_CPU_CAPABILITY is not set",
)

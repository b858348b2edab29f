"""Trackers have the figures of the log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import Killed, arguments, interrupt_at, train

from zoo.runtime.processes import has_gpu, sums_type


@pytest.fixture
def fresh_accelerator():
    """Accelerate chooses a device once a process; what this test makes it choose is forgotten."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_tensorboard_has_the_figures_of_the_log(tmp_path: Path) -> None:
    folder = train(arguments(tmp_path, steps=4, train__trackers="tensorboard", train__validate_every=2, name="seen"))
    events = EventAccumulator(str(folder / "seen")).Reload()
    found = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    expected = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if held_out := record.get("validation"):
            at, place = held_out, f"validation/{held_out['task']}/"
            values = {name: term["loss"] for name, term in held_out["terms"].items()}
        else:
            at, place, values = record, "", {"lr": record["lr"], **record["terms"]}
        expected |= {(place + name, record["step"]): value for name, value in {"loss": at["loss"], **values}.items()}
    assert len(expected) > 4 * 4
    assert found == {key: float(np.float32(value)) for key, value in expected.items()}  # events hold fp32


def test_a_resumed_run_sends_each_step_to_trackers_once(tmp_path: Path) -> None:
    """Killed twice, the second time before it came as far as the first."""
    settings = {"train__trackers": "tensorboard", "train__validate_every": 2, "train__save_every": 3, "name": "seen"}
    argv = arguments(tmp_path, steps=6, **settings)
    for step in (5, 4):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            interrupt_at(patch, step)
            train(argv)
    folder = train(argv)
    events = EventAccumulator(str(folder / "seen"), purge_orphaned_data=False).Reload()
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == ([2, 4, 6] if tag.startswith("validation/") else [1, 2, 3, 4, 5, 6])


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_gpu_of_a_mac_is_taken_where_torch_has_it(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert not has_gpu()
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_built", lambda: True)
    assert has_gpu()
    device = Accelerator(cpu=not has_gpu()).device
    assert device.type == "mps"
    assert str(sums_type(device)) == "torch.float32"

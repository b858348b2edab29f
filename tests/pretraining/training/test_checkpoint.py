import json
import shutil

import pytest
import torch

from pretraining.optim.optimizers import Lamb
from pretraining.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from zoo.errors import ZooError
from zoo.storage.tensors import load_state


def trained(cls=torch.optim.AdamW):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    optimizer = cls(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD, Lamb, torch.optim.Adagrad])
def test_model_and_optimiser_come_back_bit_for_bit(tmp_path, cls):
    model, optimizer = trained(cls)
    path = save_checkpoint(tmp_path, 3, model, optimizer, {"window": {"a": [0.1 + 0.2, 3]}}, keep=2)
    other, fresh = trained(cls)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    state = load_checkpoint(path, other, fresh)
    assert state == {"window": {"a": [0.1 + 0.2, 3]}}
    for module, step in ((model, optimizer), (other, fresh)):
        torch.manual_seed(1)
        module(torch.randn(5, 4)).square().sum().backward()
        step.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_old_ones_are_pruned_but_never_the_last_good_one(tmp_path):
    model, optimizer = trained()
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, model, optimizer, {"step": step}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000000003", "step-000000004"]


def test_pruning_does_not_count_damaged_later_ones(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    later = save_checkpoint(tmp_path, 3, model, optimizer, {}, keep=2)
    (later / "manifest.json").unlink()
    good = save_checkpoint(tmp_path, 2, model, optimizer, {"again": 1}, keep=1)
    assert find_checkpoint(tmp_path) == good
    assert list((tmp_path / "checkpoints").iterdir()) == [good]


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip", "no manifest", "half written"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    model, optimizer = trained()
    good = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=5)
    bad = save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=5)
    weights = bad / "model.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "remove":
        weights.unlink()
    elif damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == "no manifest":
        (bad / "manifest.json").unlink()
    else:
        shutil.move(bad, bad.with_name(".writing-000000002"))
    notes = []
    assert find_checkpoint(tmp_path, notes.append) == good
    assert ["step-000000002 is incomplete or damaged" in note for note in notes] == [True] * (damage != "half written")


def test_no_checkpoint_is_none(tmp_path):
    assert find_checkpoint(tmp_path) is None


def test_a_checkpoint_of_another_shape_names_the_tensors(tmp_path):
    model, optimizer = trained()
    path = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    other = torch.nn.Sequential(torch.nn.Linear(4, 5))
    with pytest.raises(ZooError, match="does not fit this model"):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))
    with pytest.raises(ZooError, match=r"missing weight\..*'weigth'"):
        load_state(torch.nn.Linear(2, 2, bias=False), {"weigth": torch.zeros(2, 2)}, "x")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    model, optimizer = trained()
    good = save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pretraining.training.checkpoint.save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    assert find_checkpoint(tmp_path) == good
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
    assert json.loads((good / "state.json").read_text())["optimizer_groups"]["groups"] == [[0, 1, 2, 3]]

"""``zoo average``: the mean of checkpoints opens as a model, or it is said why there is none."""

import numpy as np
import pytest
import torch
from training import arguments, train, write_corpus

from pretraining.scoring.scorer import Scorer
from pretraining.tools.average import average_command
from zoo.errors import ZooError
from zoo.model_folder import load_core, open_weights
from zoo.storage.tensors import load_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("average")
    write_corpus(place, documents=8)
    return train(arguments(place, "bert", steps=9, **{"train.keep": 3, "train.validate_every": 0}))


def test_the_mean_of_the_last_checkpoints_opens_as_a_model(run, capsys):
    assert average_command([str(run), "--last", "2"]) == 0
    assert "step-000000006, step-000000009" in capsys.readouterr().out
    made, last = open_weights(run / "average-2"), open_weights(run)
    assert set(made) == set(last)
    parts = [load_tensors(run / "checkpoints" / f"step-{step:09d}" / "model.safetensors") for step in (6, 9)]
    for name, theirs in {"heads.masked_lm.dense.weight": "heads.masked_lm.head.dense.weight"}.items():
        assert torch.allclose(made[name], (parts[0][theirs] + parts[1][theirs]) / 2, atol=1e-7)
    for name in (name for name in made if name.startswith("core.")):
        assert torch.allclose(made[name], (parts[0][name] + parts[1][name]) / 2, atol=1e-7)
        assert torch.equal(last[name], parts[1][name])
    assert load_core(run / "average-2")[1].config == load_core(run)[1].config
    assert np.isfinite(Scorer(str(run / "average-2"), "masked_lm").score(["The town lies by the river."])).all()
    assert not list((run / "average-2").glob("*.jsonl"))


def test_what_cannot_be_averaged_is_explained(run, tmp_path):
    with pytest.raises(ZooError, match=r"5 checkpoints are to be averaged, and 3 are there .* --train.keep 5"):
        average_command([str(run)])
    average_command([str(run), "--last", "3", "--output", str(tmp_path / "mean")])
    with pytest.raises(ZooError, match="exists already"):
        average_command([str(run), "--last", "3", "--output", str(tmp_path / "mean")])
    with pytest.raises(ZooError, match=r"config\.json|run\.json|no such"):
        average_command([str(tmp_path / "nothing")])
    with pytest.raises(ZooError, match="last"):
        average_command([str(run), "--last", "1"])

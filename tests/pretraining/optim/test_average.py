import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from pretraining.optim.average import EMA, AveragedWeights, TailMean
from zoo.errors import ZooError


def take_step(model, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("rule", "theirs"), [(EMA(0.1), get_ema_multi_avg_fn(0.1)), (TailMean(1.0), get_swa_multi_avg_fn())]
)
def test_they_are_those_of_torch(rule, theirs):
    """The smallest decay is the same from the first step on: it is no more than one tenth there."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ours, expected, averaged = AveragedWeights(rule, model), AveragedModel(model, multi_avg_fn=theirs), 0
    for step in range(5):
        take_step(model, step)
        averaged = ours.update(averaged, (step + 1) / 5)
        expected.update_parameters(model)
    assert averaged == 5
    for name, parameter in expected.module.named_parameters():
        assert torch.allclose(ours.averages[name], parameter, atol=1e-6)


def test_a_short_run_forgets_its_first_steps():
    model = nn.Linear(1, 1)
    ours, averaged = AveragedWeights(EMA(0.999), model), 0
    for step in range(30):
        with torch.no_grad():
            model.weight.fill_(1.0 if step == 0 else 0.0)
        averaged = ours.update(averaged, step / 30)
    assert float(ours.averages["weight"]) < 1e-6


def test_the_tail_is_the_last_steps_and_never_empty():
    model = nn.Linear(1, 1)
    for share, expected in ((0.3, 8.0), (0.001, 9.0)):
        ours, averaged = AveragedWeights(TailMean(share), model), 0
        for step in range(10):
            with torch.no_grad():
                model.weight.fill_(step)
            averaged = ours.update(averaged, (step + 1) / 10)
        assert float(ours.averages["weight"]) == pytest.approx(expected)
    with pytest.raises(ZooError, match="share"):
        TailMean(0.0)


def test_in_place_it_gives_and_takes_back_and_leaves_what_is_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[1].weight.requires_grad_(False)
    ours = AveragedWeights(EMA(0.5), model)
    with ours.in_place():  # there are none yet
        pass
    averaged = ours.update(0, 0.1)
    take_step(model, 1)
    ours.update(averaged, 0.2)
    before, places = copy.deepcopy(model.state_dict()), [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), ours.in_place():
        assert torch.equal(model[1].weight, before["1.weight"])
        assert not torch.equal(model[0].weight, before["0.weight"])
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert places == [p.data_ptr() for p in model.parameters()]

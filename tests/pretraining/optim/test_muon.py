import copy

import pytest
import torch
from torch import nn

from pretraining.optim.muon import MuonAdamW, orthogonalised
from pretraining.optim.optimizers import parameter_groups
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import PretrainingModel
from zoo.core.build import make_core
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

ARGUMENTS = {"precision": "bf16", "lr_ratio": 3.0, "momentum": 0.9, "betas": (0.8, 0.99), "eps": 1e-7}


class TinyModel(nn.Module):
    """A table, two layers of one matrix each, of which one is a stack of two."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(6, 4)
        layer.projection = nn.Parameter(torch.randn(2, 3, 4))
        self.core = nn.ModuleDict({"table": nn.Embedding(7, 6), "layers": nn.ModuleList([layer, nn.Linear(4, 4)])})


def set_gradients(models, step):
    """The same for all of them; the second layer has none in the first step, as a head that joins later."""
    generator = torch.Generator().manual_seed(step)
    values = [torch.randn(p.shape, generator=generator) for p in models[0].parameters()]
    for model in models:
        for (name, parameter), value in zip(model.named_parameters(), values, strict=True):
            parameter.grad = None if step == 0 and "layers.1" in name else value.clone()


def test_it_is_torchs_muon_and_torchs_adamw():
    torch.manual_seed(0)
    ours = TinyModel()
    theirs = copy.deepcopy(ours)
    optimizer = MuonAdamW(parameter_groups(ours.named_parameters(), 0.1, ["bias"]), **ARGUMENTS)
    first, second = theirs.core["layers"]
    stack = [nn.Parameter(part.detach().clone()) for part in first.projection]
    muon = torch.optim.Muon(
        [first.weight, second.weight, *stack], momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    shared = {"betas": (0.8, 0.99), "eps": 1e-7, "fused": True}
    spared = [first.bias, second.bias]
    adamw = torch.optim.AdamW(
        [{"params": [theirs.core["table"].weight], "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}],
        **shared,
    )
    for step in range(4):
        lr = 0.01 * (step + 1)
        set_gradients([ours, theirs], step)
        for part, gradient in zip(stack, first.projection.grad, strict=True):
            part.grad = gradient.clone()
        for group in optimizer.param_groups:  # as the training step does
            group["lr"] = lr
        for group in muon.param_groups:
            group["lr"] = 3.0 * lr
        for group in adamw.param_groups:
            group["lr"] = lr
        for one in (optimizer, muon, adamw):
            one.step()
    assert torch.equal(ours.core["layers"][0].projection, torch.stack(stack))
    for name, parameter in theirs.named_parameters():
        if not name.endswith("projection"):
            assert torch.equal(parameter, ours.get_parameter(name)), name


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)])
def test_in_fp32_it_is_the_same_iteration_more_exactly(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    wide = orthogonalised(matrix.double(), 5, torch.float64)
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert (left.T @ wide @ right.T - torch.eye(min(shape))).abs().max() < 0.4
    assert torch.allclose(orthogonalised(matrix, 5, torch.float32).double(), wide, atol=1e-4)
    assert torch.allclose(orthogonalised(matrix, 5, torch.bfloat16).double(), wide, atol=0.1)


def test_its_state_goes_on_bit_for_bit():
    torch.manual_seed(0)
    whole = TinyModel()
    cut = copy.deepcopy(whole)
    optimizers = [MuonAdamW(parameter_groups(m.named_parameters(), 0.1, ["bias"])) for m in (whole, cut)]
    for step in range(6):
        set_gradients([whole, cut], step)
        for optimizer in optimizers:
            optimizer.step()
        if step == 2:
            state = copy.deepcopy(optimizers[1].state_dict())
            optimizers[1] = MuonAdamW(parameter_groups(cut.named_parameters(), 0.1, ["bias"]))
            optimizers[1].load_state_dict(state)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, other)


EXPECTED = {  # attention and feed-forward; an LSTM's gates and projection; entities' own that somebody reads
    "bert-tiny": 2 * 6,
    "albert-tiny": 6,
    "elmo-tiny": 2 * 3,
    "xlnet-tiny": 2 * 7,
    "ernie-thu-tiny": 2 * 6 + 5,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_of_every_kind_of_core_it_takes_the_layers_matrices(name):
    config = load_pretrain_config(["--config", name]).value
    with torch.device("meta"):
        core = make_core(config.model.replace(vocab_size=90))
        for objective in config.objectives.values():
            objective.build(core.config, Vocabulary(90, 0, 1, 2, 3, 4))
    model = PretrainingModel(core, config.objectives)
    optimizer = MuonAdamW(parameter_groups(model.named_parameters(), 0.1, ["bias", "norm"]))
    taken = [name for group in optimizer.param_groups if "lr_ratio" in group for name in group["param_names"]]
    whole = [name for group in optimizer.param_groups for name in group["param_names"]]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(whole) == sorted(trained)
    assert len(taken) == EXPECTED[name]
    assert all("layers" in name and "bias" not in name and "terms" not in name for name in taken)


def test_what_it_cannot_tell_apart_is_an_error():
    model = TinyModel()
    with pytest.raises(ZooError, match="param_names"):
        MuonAdamW(model.parameters())
    groups = parameter_groups(model.named_parameters(), 0.1, [])
    with pytest.raises(ZooError, match="finds no matrix in the layers, by the endings kernel"):
        MuonAdamW(groups, matrices=("kernel",))

import pytest
import torch
from torch import nn

from zoo.linear import Linear


def results(kind, bias, autocast):
    """Output, gradients and the types of the (6, 5) tensors that the backward pass keeps."""
    torch.manual_seed(0)
    layer, x, kept = kind(5, 6, bias=bias), torch.randn(2, 3, 5, requires_grad=True), []

    def note(tensor):
        if tensor.shape in ((6, 5), (5, 6)) and tensor.untyped_storage().data_ptr() != layer.weight.data_ptr():
            kept.append(tensor.dtype)
        return tensor

    watched = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), watched:
        y = layer(x)
    y.square().sum().backward()
    return [y, x.grad, *(p.grad for p in layer.parameters())], kept


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_results_are_torchs(bias, autocast):
    for own, torchs in zip(results(Linear, bias, autocast)[0], results(nn.Linear, bias, autocast)[0], strict=True):
        assert own.dtype == torchs.dtype
        assert torch.equal(own, torchs)


def test_no_converted_weight_is_kept():
    assert torch.bfloat16 in results(nn.Linear, True, True)[1]
    assert results(Linear, True, True)[1] == []


def test_a_frozen_weight_gets_no_gradient():
    layer, x = Linear(5, 6), torch.randn(3, 5, requires_grad=True)
    layer.weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad.abs().sum() > 0
    assert torch.equal(layer.bias.grad, torch.full((6,), 3.0))


def test_without_gradients_it_is_torchs_layer():
    layer, x = Linear(5, 6), torch.randn(3, 5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))

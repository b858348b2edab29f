import numpy as np
import pytest
import torch
from torch import nn
from training import needs_compiler

from zoo.dropout import dropped_product, keyed_dropout, row_keys


def dropped(shape, keys, site=8, p=0.1):
    return (keyed_dropout(torch.ones(shape), keys, site, p) == 0).float()


def test_rate_and_scale_are_exact_in_expectation():
    keys = row_keys(1, 7, range(64))
    for p in (0.1, 0.5, 0.013):
        x = keyed_dropout(torch.ones(64, 128, 64), keys, 9, p)
        n = x.numel()
        assert abs(float((x == 0).float().mean()) - p) < 4 * (p * (1 - p) / n) ** 0.5
        assert float(x.max()) == pytest.approx(1 / (1 - p), rel=1e-6)


def test_masks_of_rows_steps_sites_and_elements_are_independent():
    p, shape = 0.3, (32, 64, 64)
    base = dropped(shape, row_keys(1, 7, range(32)), 8, p)
    n = base.numel()
    bound = 5 * p * p / (n * p * p) ** 0.5  # five standard errors of the share dropped in both, roughly
    others = [
        dropped(shape, row_keys(1, 8, range(32)), 8, p),
        dropped(shape, row_keys(2, 7, range(32)), 8, p),
        dropped(shape, row_keys(1, 7, range(32)), 9, p),
        dropped(shape, row_keys(1, 7, range(1, 33)), 8, p),
        base.roll(1, 0),
        base.roll(1, 1),
        base.roll(1, 2),
        base.roll((1, 1), (1, 2)),
    ]
    for other in others:
        assert abs(float((base * other).mean()) - p * p) < bound
    # Four corners of rectangles over rows and elements: a weak hash of (row xor element) shows here.
    flat = base.view(32, -1)
    corners = flat * flat.roll(1, 0) * flat.roll(3, 1) * flat.roll((1, 3), (0, 1))
    assert abs(float(corners.mean()) - p**4) < 6 * (p**4 / n) ** 0.5


def test_mask_does_not_depend_on_padding_or_on_how_rows_are_split():
    keys = row_keys(1, 7, range(6))
    long, short = dropped((6, 20, 8), keys), dropped((6, 12, 8), keys)
    assert torch.equal(long[:, :12], short)
    heads = dropped((6, 2, 20, 20), keys), dropped((6, 2, 12, 12), keys)
    assert torch.equal(heads[0][:, :, :12, :12], heads[1])
    parts = torch.cat([dropped((3, 20, 8), row_keys(1, 7, range(3))), dropped((3, 20, 8), row_keys(1, 7, range(3, 6)))])
    assert torch.equal(parts, long)


def test_gradient_uses_the_same_mask():
    keys = row_keys(1, 7, range(4))
    x = torch.randn(4, 5, 6, requires_grad=True)
    y = keyed_dropout(x, keys, 3, 0.4)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.where(y == 0, torch.zeros(()), torch.tensor(1 / 0.6)))
    half = keyed_dropout(x.detach().bfloat16(), keys, 3, 0.4)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half == 0, y == 0)


def test_no_keys_or_no_rate_is_identity():
    x = torch.randn(2, 3)
    assert keyed_dropout(x, None, 1, 0.5) is x
    assert keyed_dropout(x, row_keys(0, 0, range(2)), 1, 0.0) is x


def test_a_place_may_be_a_tensor():
    x, keys = torch.randn(4, 5, 6), row_keys(1, 7, range(4))
    for site in (0, 9, 800):
        assert torch.equal(keyed_dropout(x, keys, site, 0.3), keyed_dropout(x, keys, torch.full((), site), 0.3))


def test_keys_are_a_function_of_seed_step_and_row():
    a = row_keys(3, 5, np.arange(1000))
    assert torch.equal(a, row_keys(3, 5, range(1000)))
    assert len(set(a.tolist())) == 1000
    assert not torch.equal(a, row_keys(3, 6, range(1000)))


class Dropping(nn.Module):
    """A rate that is a module's attribute, which dynamic compilation makes an input of the graph."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """(B, L, W) -> (B, L, W)."""
        return keyed_dropout(x, keys, 3, self.p)


@pytest.mark.slow
@needs_compiler
def test_compiled_for_any_shape_it_drops_the_same_bit_for_bit():
    keys = row_keys(1, 7, range(4))
    module = Dropping(0.1)
    compiled = torch.compile(module, dynamic=True)
    for p, length in ((0.1, 9), (1 / 3, 14)):
        module.p = p
        found = []
        for run in (module, compiled):
            x = torch.linspace(-3.0, 3.0, 4 * length * 16).view(4, length, 16).requires_grad_()
            y = run(x, keys)
            (y * torch.arange(16.0)).sum().backward()
            found.append((y.detach(), x.grad))
        assert float((found[0][0] == 0).float().mean()) == pytest.approx(p, abs=0.06)
        for eager, other in zip(*found, strict=True):
            assert torch.equal(eager, other), p


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chosen", [False, True])
def test_a_dropped_product_is_dropout_and_a_product(dtype, chosen):
    torch.manual_seed(0)
    keys = row_keys(1, 2, range(3))
    positions = torch.tensor([[0, 4], [1, 2], [3, 3]]) if chosen else None
    x = torch.rand(3, 2, 2 if chosen else 5, 5)
    values = torch.randn(3, 2, 5, 4).to(dtype)
    results = []
    for own in (True, False):
        a, b = x.clone().requires_grad_(), values.clone().requires_grad_()
        if own:
            product = dropped_product(a, b, keys, 7, 0.3, positions)
        else:
            product = keyed_dropout(a, keys, 7, 0.3, positions).to(dtype) @ b
        product.float().square().sum().backward()
        results.append((product, a.grad, b.grad))
    for own_result, plain in zip(*results, strict=True):
        assert torch.equal(own_result, plain)

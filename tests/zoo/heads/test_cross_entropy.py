import pytest
import torch
from torch.nn import functional

import zoo.heads.cross_entropy
from zoo.config import CoreConfig
from zoo.core.flops import core_flops, token_head_flops, training_flops
from zoo.heads.cross_entropy import LogitFacts


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_torch_cross_entropy_with_gradients(chunk_rows, bias):
    torch.manual_seed(0)
    leaves = [torch.randn(50, 16), torch.randn(301, 16), torch.randn(301)]
    labels = torch.randint(0, 301, (50,))
    results = []
    for own in (True, False):
        features, weight, offset = (x.clone().requires_grad_() for x in leaves)
        if own:
            loss = zoo.heads.cross_entropy.linear_cross_entropy(
                features, weight, offset if bias else None, labels, chunk_bytes=4 * 301 * chunk_rows
            )
            total = loss.total
            assert loss.correct is None
        else:
            logits = functional.linear(features, weight, offset if bias else None)
            total = functional.cross_entropy(logits, labels, reduction="sum")
            assert torch.allclose(results[0][1], functional.cross_entropy(logits, labels, reduction="none"), atol=1e-5)
        (total / 7).backward()
        results.append((total, loss.nll, features.grad, weight.grad, offset.grad))
    for a, b in zip(results[0], results[1], strict=True):
        if a is not None:
            assert torch.allclose(a, b, atol=2e-5, rtol=1e-5)


def test_no_targets_gives_zeros_not_nan():
    features, weight = torch.zeros(0, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    loss = zoo.heads.cross_entropy.linear_cross_entropy(features, weight, None, torch.zeros(0, dtype=torch.long))
    loss.total.backward()
    assert loss.total.item() == 0
    assert weight.grad.abs().max() == 0


def test_hits_are_counted_without_gradients():
    weight = torch.eye(5, requires_grad=True)  # as in validation: a parameter, but no gradient wanted
    labels = torch.tensor([0, 1, 2, 3])
    features = weight.detach()[torch.tensor([0, 1, 4, 3])]
    with torch.no_grad():
        assert zoo.heads.cross_entropy.linear_cross_entropy(features, weight, None, labels).correct == 3


def test_bf16_agrees_to_its_rounding():
    torch.manual_seed(0)
    features, weight = torch.randn(64, 32), torch.randn(500, 32) * 0.1
    labels = torch.randint(0, 500, (64,))
    exact = zoo.heads.cross_entropy.linear_cross_entropy(features, weight, None, labels).total
    with torch.autocast("cpu", torch.bfloat16):
        rounded = zoo.heads.cross_entropy.linear_cross_entropy(features, weight, None, labels).total
    assert rounded.dtype == torch.float32
    assert abs(float(rounded - exact)) / float(exact) < 2**-8


@pytest.mark.parametrize("outputs", [None, 7])
@pytest.mark.parametrize("facts", [{}, {"embedding_size": 16, "num_hidden_groups": 1}, {"pooler": False}])
def test_analytic_flops_equal_torchs_counter(facts, outputs):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from zoo.core.transformer import Transformer
    from zoo.heads.token_heads import TokenHead
    from zoo.inputs import CoreInputs

    config = CoreConfig(
        vocab_size=301, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, **facts
    )
    core, head = Transformer(config), TokenHead(config)
    ids = torch.randint(0, 301, (4, 20))
    # The written-out kernel: torch's counter does not know the fused one on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = core(CoreInputs(ids, output_positions=None if outputs is None else torch.arange(outputs).repeat(4, 1)))
        states = output.last_hidden_state[:, :outputs].reshape(-1, 32)
        logits = head(states[:9], core.token_embedding)
        forward = counter.get_total_flops()
        loss = logits.sum() + (0 if output.pooler_output is None else output.pooler_output.sum())
        loss.backward()
    own = core_flops(config, 4, 20, outputs=None if outputs is None else 4 * outputs) + token_head_flops(
        config, 9, transform=True
    )
    assert own == forward
    assert training_flops(own) == counter.get_total_flops()


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_smoothed_labels_are_fairseqs_with_gradients(chunk_rows):
    """1 - e for the label, e / (V - 1) for each other entry (specs: Transformer, 3); torch's are others."""
    torch.manual_seed(0)
    leaves = [torch.randn(50, 16), torch.randn(301, 16), torch.randn(301)]
    labels, smoothing = torch.randint(0, 301, (50,)), 0.1
    features, weight, offset = ours = [x.clone().requires_grad_() for x in leaves]
    loss = zoo.heads.cross_entropy.linear_cross_entropy(
        features, weight, offset, labels, chunk_bytes=4 * 301 * chunk_rows, facts=LogitFacts(smoothing)
    )
    theirs = [x.clone().requires_grad_() for x in leaves]
    chances = torch.log_softmax(functional.linear(*theirs), dim=-1)
    shares = torch.full_like(chances, smoothing / 300).scatter(1, labels[:, None], 1 - smoothing)
    expected = -(shares * chances).sum(-1)
    (loss.total / 7).backward()
    (expected.sum() / 7).backward()
    assert torch.allclose(loss.nll, expected, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        again = zoo.heads.cross_entropy.linear_cross_entropy(*leaves, labels, facts=LogitFacts(smoothing))
    assert torch.allclose(again.nll, loss.nll, atol=1e-5)
    stock = functional.cross_entropy(functional.linear(*leaves), labels, label_smoothing=smoothing, reduction="sum")
    assert abs(float(stock - loss.total.detach())) > 1e-2

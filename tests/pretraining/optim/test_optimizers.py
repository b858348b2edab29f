import math

import numpy as np
import pytest
import torch

from pretraining.optim.learning_rate import Noam, WarmupDecay, noam_peak
from pretraining.optim.optimizers import AdamW, Lamb, parameter_groups
from zoo.errors import ZooError


def test_bert_schedule_numbers():
    schedule, total, warm = WarmupDecay(0.01, "linear", "start"), 1000, 10
    assert schedule.factor(0) == 0
    assert schedule.factor(warm / total) == pytest.approx(1 - warm / total)
    assert schedule.factor(5 / total) == pytest.approx(0.5)
    assert schedule.factor(1.0) == 0


def test_roberta_and_gpt_schedule_numbers():
    roberta = WarmupDecay(0.06, "linear", "warmup_end")
    assert roberta.factor(0.06) == pytest.approx(1)
    assert roberta.factor(0.53) == pytest.approx(0.5)
    assert roberta.factor(1.0) == pytest.approx(0)
    gpt = WarmupDecay(0.02, "cosine", "warmup_end")
    assert gpt.factor(0.02) == pytest.approx(1)
    assert gpt.factor(0.51) == pytest.approx(0.5)
    assert gpt.factor(1.0) == pytest.approx(0)
    assert Noam(0.1).factor(0.1) == pytest.approx(1)
    assert Noam(0.1).factor(0.4) == pytest.approx(0.5)
    with pytest.raises(ZooError, match="warmup"):
        WarmupDecay(1.5)


@pytest.mark.parametrize(
    ("width", "step", "rate"),
    [(512, 1, 1.747e-7), (512, 4000, 6.988e-4), (512, 100_000, 1.398e-4), (1024, 4000, 4.941e-4)],
)
def test_noam_has_the_papers_rates(width, step, rate):
    """specs: Transformer, 4 and 8.4; 100,000 steps with a warm-up of 4,000."""
    ours = noam_peak(width, 4000) * Noam(0.04).factor(step / 100_000)
    assert ours == pytest.approx(rate, rel=5e-4)
    assert ours == pytest.approx(width**-0.5 * min(step**-0.5, step * 4000**-1.5))


def test_inverse_root_schedules_of_fairseq_and_t5():
    fairseq = Noam(0.04, start=1e-7 / 5e-4)
    assert 5e-4 * fairseq.factor(0) == pytest.approx(1e-7)
    assert 5e-4 * fairseq.factor(0.02) == pytest.approx((5e-4 + 1e-7) / 2)
    assert fairseq.factor(0.16) == pytest.approx(0.5)
    t5, total = Noam(0.1, start=1), 100_000
    for step in (0, 5_000, 10_000, 40_000, 100_000):
        assert 0.01 * t5.factor(step / total) == pytest.approx(max(step, 10_000) ** -0.5)


def steps(optimizer_class, parameter, grads, **arguments):
    optimizer = optimizer_class([parameter], **arguments)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter


def test_adamw_with_correction_equals_torchs():
    torch.manual_seed(0)
    start, grads = torch.randn(6, 5), [torch.randn(6, 5) for _ in range(5)]
    arguments = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6}
    ours = steps(AdamW, torch.nn.Parameter(start.clone()), grads, **arguments, bias_correction=True)
    theirs = steps(torch.optim.AdamW, torch.nn.Parameter(start.clone()), grads, **arguments, weight_decay=0.0)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_parameter_that_joins_late_is_corrected_by_its_own_steps():
    early, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = AdamW([early, late], lr=0.1, bias_correction=True)
    for step in range(4):
        early.grad = torch.full((3,), 0.5)
        late.grad = torch.full((3,), 0.5) if step == 3 else None
        optimizer.step()
    assert torch.allclose(late, torch.full((3,), 0.9), atol=1e-4)  # a first step moves by the learning rate


def reference(start, grads, lr, decay, trust, eps=1e-6):
    p, m, v = start.astype(np.float64), 0.0, 0.0
    for g in grads:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        update = m / (np.sqrt(v) + eps) + decay * p
        ratio = np.linalg.norm(p) / np.linalg.norm(update) if trust and np.linalg.norm(p) > 0 else 1.0
        p = p - lr * ratio * update
    return p


@pytest.mark.parametrize(("cls", "trust"), [(AdamW, False), (Lamb, True)])
def test_against_the_published_update(cls, trust):
    generator = np.random.default_rng(0)
    start, grads = generator.normal(size=(4, 3)), [generator.normal(size=(4, 3)) for _ in range(4)]
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    found = steps(cls, parameter, [torch.tensor(g, dtype=torch.float32) for g in grads], lr=0.01, weight_decay=0.1)
    assert np.allclose(found.detach().numpy(), reference(start, grads, 0.01, 0.1, trust), atol=1e-5)


def test_lamb_ratio_is_one_without_decay_and_for_zero_norms():
    generator = np.random.default_rng(0)
    start, grads = generator.normal(size=7), [generator.normal(size=7) for _ in range(3)]
    spared = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    optimizer = Lamb([{"params": [spared], "weight_decay": 0.0}], lr=0.01)
    for g in grads:
        spared.grad = torch.tensor(g, dtype=torch.float32)
        optimizer.step()
    assert np.allclose(spared.detach().numpy(), reference(start, grads, 0.01, 0.0, False), atol=1e-5)
    ratios = Lamb.trust_ratios([torch.zeros(3), torch.ones(3)], [torch.ones(3), torch.zeros(3)])
    assert [float(r) for r in ratios] == [1.0, 1.0]


def test_groups_decay_only_where_it_belongs():
    model = torch.nn.ModuleDict({"dense": torch.nn.Linear(3, 3), "norm": torch.nn.LayerNorm(3)})
    decayed, spared = parameter_groups(model.named_parameters(), 0.01, ["bias", "norm"])
    assert [p.shape for p in decayed["params"]] == [(3, 3)]
    assert len(spared["params"]) == 3
    assert spared["weight_decay"] == 0
    assert len(parameter_groups(model.named_parameters(), 0.01, [])) == 1
    assert math.isclose(decayed["weight_decay"], 0.01)

"""The facts of a modern block, each by itself (specs: LLaMA block, section 8), and with the others in a core."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo.attention.attention import Attention
from zoo.attention.context import AttentionContext, KeyValueCache
from zoo.attention.masks import Mask
from zoo.attention.positions import rotary_angles, rotate
from zoo.config import CoreConfig
from zoo.core.build import build_core, make_core
from zoo.core.transformer import Layer
from zoo.errors import ZooError
from zoo.heads.cross_entropy import LogitFacts, linear_cross_entropy
from zoo.heads.token_heads import TokenHead
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.norms import RMSNorm

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK = {
    "norm": "rms",
    "norm_position": "pre",
    "glu": True,
    "hidden_act": "silu",
    "position_type": "rotary",
    "embedding_norm": False,
    "attention_bias": False,
    "mlp_bias": False,
    "type_vocab_size": 0,
    "pooler": False,
    "layer_norm_eps": 1e-6,
    "initializer_range": 0.3,
}
SMALL = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
WHOLE = AttentionContext(Mask(None, False))

SIZES = {  # specs: section 2
    "7B": (4096, 32, 32, 32, 11008, 6_738_415_616),
    "13B": (5120, 40, 40, 40, 13824, 13_015_864_320),
    "33B": (6656, 60, 52, 52, 17920, 32_528_943_616),
    "65B": (8192, 80, 64, 64, 22016, 65_285_660_672),
    "Llama 2 70B": (8192, 80, 64, 8, 28672, 68_976_648_192),
}


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_the_published_number_of_parameters(name):
    width, layers, heads, shared, inner, expected = SIZES[name]
    config = CoreConfig(
        **{
            **BLOCK,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
            "hidden_size": width,
            "intermediate_size": inner,
        },
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
    )
    with torch.device("meta"):
        core, head = make_core(config), TokenHead(config, transform=False, bias=False)
    assert numbers(core) + numbers(head) == expected
    if name == "7B":
        assert numbers(core.layers[0]) == 202_383_360


def test_inner_widths_follow_the_rule_of_the_original():
    def rule(width: int, times: float = 1.0, multiple: int = 256) -> int:
        return -(-int(times * int(2 * 4 * width / 3)) // multiple) * multiple

    for width, _, _, shared, inner, _ in SIZES.values():
        assert inner == (rule(width) if shared > 8 else rule(width, 1.3, 4096))
    assert rule(8192, 1.3) == 28416  # so the 70B needs its own multiple, too


def test_root_mean_squares_know_scale_and_keep_the_mean():
    x, norm = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), RMSNorm(16, eps=1e-12)
    assert torch.allclose(norm(7 * x), norm(x), atol=1e-5)
    assert torch.allclose(norm(x).square().mean(-1), torch.ones(5), atol=1e-5)
    assert not torch.allclose(norm(x + 1), norm(x), atol=1e-2)  # as LayerNorm would have it
    low = torch.full((1, 16), 300.0, dtype=torch.float16)  # whose squares are no halves any more
    assert torch.isfinite(norm.half()(low)).all()


def test_turned_queries_and_keys_know_their_distance_alone():
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, 1, 9, 8, generator=generator) for _ in range(2))
    at = [rotary_angles(torch.arange(shift, shift + 9)[None], 8, 10000.0) for shift in (0, 5)]
    turned = [(rotate(query, angles), rotate(key, angles)) for angles in at]
    assert torch.allclose(turned[0][0].norm(dim=-1), query.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[0][0][:, :, 0], query[:, :, 0])
    here, there = (q @ k.transpose(-1, -2) for q, k in turned)
    assert (here - there).abs().max() < 1e-5
    # Pairs (0, 1), (2, 3), ... by complex numbers: the same scores once rows are permuted (section 2).
    angles = torch.outer(torch.arange(9.0), 10000.0 ** (-torch.arange(0, 8, 2) / 8))
    order = torch.arange(8).view(4, 2).t().reshape(-1)

    def interleaved(x):
        pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    assert torch.allclose(interleaved(query)[..., order], rotate(query[..., order], at[0]), atol=1e-6)


def inner_of(x: torch.Tensor, **facts) -> torch.Tensor:
    layer = Layer(CoreConfig(**SMALL, **{**BLOCK, **facts}))
    torch.manual_seed(3)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.output(layer._inner(x, None))


@pytest.mark.parametrize("act", ["sigmoid", "linear", "relu", "gelu", "silu"])
def test_gated_feed_forward_parts_are_the_papers(act):
    """GLU, bilinear, ReGLU, GEGLU, SwiGLU (Shazeer 2020, equations 5 and 6)."""
    layer = Layer(CoreConfig(**SMALL, **{**BLOCK, "hidden_act": act}))
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    named = {"sigmoid": torch.sigmoid, "linear": nn.Identity(), "silu": functional.silu}
    function = named.get(act) or getattr(functional, act)
    expected = (function(x @ layer.gate.weight.t()) * (x @ layer.intermediate.weight.t())) @ layer.output.weight.t()
    assert torch.allclose(layer.output(layer._inner(x, None)), expected, atol=1e-5)
    if act in ("linear", "relu"):
        assert torch.allclose(inner_of(3 * x, hidden_act=act), 9 * inner_of(x, hidden_act=act), rtol=1e-4, atol=1e-2)
    if act == "silu":
        nn.init.zeros_(layer.gate.weight)
        assert layer.output(layer._inner(x, None)).abs().max() == 0


def test_a_gate_with_two_thirds_of_the_width_has_as_many_weights():
    def size(inner: int, glu: bool) -> int:
        layer = Layer(CoreConfig(**{**BLOCK, "glu": glu}, hidden_size=768, intermediate_size=inner))
        return sum(numbers(part) for part in (layer.gate, layer.intermediate, layer.output) if part is not None)

    assert size(2048, True) == size(3072, False) == 4_718_592


@pytest.mark.parametrize("shared", [4, 1, 2])
def test_shared_key_heads_are_repeated_ones(shared):
    config = CoreConfig(**SMALL, **BLOCK)
    grouped, plain = Attention(config.replace(num_key_value_heads=shared)), Attention(config)
    plain.load_state_dict(
        grouped.state_dict() | {f"{n}.weight": plain.get_parameter(f"{n}.weight") for n in ("key", "value")}
    )
    with torch.no_grad():
        for name in ("key", "value"):
            weight = getattr(grouped, name).weight.unflatten(0, (shared, 6))
            getattr(plain, name).weight.copy_(weight.repeat_interleave(4 // shared, dim=0).flatten(0, 1))
    x = torch.randn(2, 7, 24)
    assert torch.allclose(grouped(x, WHOLE, 0)[0], plain(x, WHOLE, 0)[0], atol=1e-6)


def test_nothing_comes_from_later_tokens_and_a_cache_changes_nothing():
    core = build_core(CoreConfig(**SMALL, **BLOCK, num_key_value_heads=2, qk_norm=True, attn_logit_softcapping=5.0))
    core.eval()
    ids = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(5))
    seen = []
    hook = core.embeddings.register_forward_hook(lambda *given: seen.append(given[2]) or given[2].retain_grad())
    whole = core(CoreInputs(ids, AttentionPattern(causal=True))).last_hidden_state
    hook.remove()
    whole[:, 3].sum().backward()
    assert seen[0].grad[:, :4].abs().min(dim=-1).values.max() > 0
    assert seen[0].grad[:, 4:].abs().max() == 0
    cache = KeyValueCache()
    with torch.no_grad():
        parts = [
            core(CoreInputs(ids[:, a:b], AttentionPattern(causal=True)), state=cache).last_hidden_state
            for a, b in itertools.pairwise((0, 4, 5, 9))
        ]
    assert (torch.cat(parts, 1) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_normalised_queries_and_keys_and_capped_scores(norm):
    """The formulas written out, RMSNorm beside transformers' Qwen3, whose heads are normalised alike."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    config = CoreConfig(**SMALL, **{**BLOCK, "norm": norm}, qk_norm=True, attn_logit_softcapping=1.5)
    attention, x = Attention(config), torch.randn(2, 7, 24)
    gains = [attention.query_norm.weight, attention.key_norm.weight]
    for gain in gains:
        nn.init.normal_(gain)
    parts = [getattr(attention, name)(x).unflatten(-1, (4, 6)).transpose(1, 2) for name in ("query", "key", "value")]
    for place, gain in enumerate(gains):
        stock = Qwen3RMSNorm(6, eps=1e-6) if norm == "rms" else nn.LayerNorm(6, eps=1e-6)
        stock.weight = gain
        parts[place] = stock(parts[place])
    scores = parts[0] @ parts[1].transpose(-1, -2) / 6**0.5
    capped = 1.5 * torch.tanh(scores / 1.5)
    causal = capped.masked_fill(torch.ones(7, 7).triu(1).bool(), -1e30).softmax(-1)
    expected = attention.output((causal @ parts[2]).transpose(1, 2).flatten(2))
    found, probabilities = attention(x, AttentionContext(Mask(None, True)), 0)
    assert probabilities is None
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("z_weight", "smoothing"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.1)])
@pytest.mark.parametrize("chunk_rows", [1, 1000])
def test_capped_logits_and_z_loss_are_autograds(softcap, z_weight, smoothing, chunk_rows):
    torch.manual_seed(0)
    leaves, labels = [torch.randn(20, 16), torch.randn(51, 16), torch.randn(51)], torch.randint(0, 51, (20,))
    ours, theirs = ([x.clone().requires_grad_() for x in leaves] for _ in range(2))
    facts = LogitFacts(smoothing, softcap, z_weight)
    loss = linear_cross_entropy(*ours, labels, chunk_bytes=4 * 51 * chunk_rows, facts=facts)
    logits = functional.linear(*theirs)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    shares = torch.full_like(logits, smoothing / 50).scatter(1, labels[:, None], 1 - smoothing)
    nll = -(shares * logits.log_softmax(-1)).sum(-1)
    total = nll.sum() + z_weight * logits.logsumexp(-1).square().sum()
    (loss.total / 7).backward()
    (total / 7).backward()
    assert torch.allclose(loss.nll, nll, atol=1e-5)
    assert torch.allclose(loss.total, total, rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=2e-5, rtol=1e-5)
    with torch.no_grad():  # held-out losses have no z-loss in them
        held = linear_cross_entropy(*leaves, labels, facts=facts)
    assert torch.allclose(held.total, nll.sum(), rtol=1e-5)


def test_a_token_head_caps_everywhere():
    config = CoreConfig(**SMALL, **BLOCK, final_logit_softcapping=2.0, z_loss_weight=0.01)
    head, states = TokenHead(config, transform=False, bias=False), torch.randn(5, 24)
    embedding, labels = 3 * torch.randn(31, 24), torch.arange(5)
    logits = head(states, embedding)
    assert logits.abs().max() <= 2.0
    loss = head.loss(states[None], embedding, torch.arange(5), labels)
    assert torch.allclose(loss.nll, functional.cross_entropy(logits, labels, reduction="none"), atol=1e-5)


def test_a_first_layer_without_norm_and_norms_without_bias():
    facts = {**SMALL, "norm_position": "pre", "norm_bias": False, "attention_bias": False, "mlp_bias": False}
    core = make_core(CoreConfig(**facts, first_attention_norm=False, position_type="rotary", pooler=False))
    assert isinstance(core.layers[0].attention_norm, nn.Identity)
    assert isinstance(core.layers[1].attention_norm, nn.LayerNorm)
    assert [name for name, _ in core.named_parameters() if name.endswith("bias")] == []
    assert TokenHead(core.config).norm.bias is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_attention_heads": 8, "hidden_size": 24}, "rotary turns pairs, and a head is 3 wide"),
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3 does not divide"),
        ({"attn_logit_softcapping": 0.0}, "attn_logit_softcapping"),
        ({"final_logit_softcapping": -30.0}, "final_logit_softcapping"),
        ({"z_loss_weight": -1e-4}, "z_loss_weight"),
        ({"norm_position": "post", "first_attention_norm": False}, "first_attention_norm: false leaves out"),
        ({"num_hidden_groups": 1, "first_attention_norm": False}, "cannot share weights"),
        ({"position_type": "relative", "qk_norm": True}, "qk_norm = True is for plain attention"),
        ({"position_type": "relative", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is for plain"),
    ],
)
def test_blocks_that_cannot_be_are_refused(facts, message):
    with pytest.raises(ZooError, match=message):
        CoreConfig(**{**SMALL, **BLOCK, **facts})

"""XLNet beside transformers' (random weights): one stream and two, memory, segments; weights there and back."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import XLNetConfig, XLNetForSequenceClassification, XLNetLMHeadModel, XLNetModel

from zoo.config import CoreConfig
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.heads.token_heads import TokenHead
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream
from zoo.settings.yaml_files import read_yaml, shipped_configs
from zoo.weights.read import read_checkpoint
from zoo.weights.table import HEAD_OPERATIONS
from zoo.weights.write import write_checkpoint

V, B, L, T = 61, 4, 11, 3
SHAPES = {
    "plain": {"d_model": 24, "n_layer": 3, "n_head": 4, "d_inner": 40},
    "clamped": {"d_model": 20, "n_layer": 2, "n_head": 2, "d_inner": 36, "clamp_len": 4, "ff_activation": "gelu_new"},
    "one head": {"d_model": 12, "n_layer": 1, "n_head": 1, "d_inner": 16, "ff_activation": "relu"},
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def make_stock(shape: str, kind=XLNetLMHeadModel, **more):
    """A model of theirs with normal weights, biases and gains."""
    config = XLNetConfig(vocab_size=V, dropout=0.0, **SHAPES[shape], **{"mem_len": None, **more})
    model = kind(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


class Ours(nn.Module):
    """A core and its heads, read from theirs through the weight table."""

    def __init__(self, theirs, **changes):
        super().__init__()
        tied = theirs.all_tied_weights_keys
        state = {name: value for name, value in theirs.state_dict().items() if name not in tied}
        config = {**theirs.config.to_dict(), "architectures": [type(theirs).__name__]}
        self.model = read_checkpoint(config, state)
        facts = self.model.metadata
        self.core = Transformer(facts.config)
        self.heads = nn.ModuleDict({name: build_head(facts.config, head) for name, head in facts.heads.items()})
        self.load_state_dict(dict(self.model.tensors))
        self.core.config = self.core.relative.config = facts.config.replace(**changes)

    def logits(self, states):
        return self.heads["permutation_lm"](states, self.core.token_embedding)


def draw(shape, high, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def largest(ours, theirs):
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()


def orders_and_masks(seed=0):
    """Random ranks (0 = seen by all) and positions of targets; their permutation mask and one-hot targets of it."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(B, L, generator=generator).argsort(1)
    ranks = (ranks - 5).clamp(min=0)  # six plain tokens
    positions = torch.stack([(row > 0).nonzero()[torch.randperm(5, generator=generator)[:T], 0] for row in ranks])
    # what a query may not see; the first stream opens its own diagonal there, plain tokens see each other
    hidden = (ranks[:, :, None] <= ranks[:, None, :]) & (ranks[:, None, :] > 0)
    mapping = functional.one_hot(positions, L).float()
    return ranks, positions, hidden.float(), mapping


def largest_gradient_difference(theirs, ours):
    """In any parameter, as a part of that parameter's largest gradient where that is above 1."""
    mine = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    for name, p in ours.named_parameters():
        mine.setdefault(name, torch.zeros_like(p))
    converted = write_checkpoint(ours.model.metadata, mine, "xlnet").tensors
    found = {}
    for name, p in theirs.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        found[name] = largest(converted[name], expected) / max(1.0, expected.abs().max().item())
    assert set(found) == set(converted)
    return max(found.values())


# ---- parity -----------------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("segments", [False, True])
def test_one_stream(shape, side, segments):
    theirs = make_stock(shape)
    ours = Ours(theirs)
    ids, types = draw((B, L), V), draw((B, L), 3, 1) if segments else None
    lengths = torch.tensor([L, L - 2, 3, 1])
    real = torch.arange(L)[None] < (lengths if side else torch.full((B,), L))[:, None]
    real = real.flip(1) if side == "left" else real
    visible = {
        None: AttentionPattern(),
        "right": AttentionPattern(lengths=lengths),
        "left": AttentionPattern(dense=real[:, None, :]),
    }
    expected = theirs(ids, attention_mask=real.float(), token_type_ids=types, output_hidden_states=True)
    found = ours.core(CoreInputs(ids, visible[side], types), output_hidden_states=True)
    written = ours.core(CoreInputs(ids, visible[side], types), output_attentions=True)
    for mine, reference in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert largest(mine[real], reference[real]) <= 1e-5
    assert largest(written.last_hidden_state[real], found.last_hidden_state[real]) <= 1e-5
    logits = ours.logits(found.last_hidden_state)
    assert largest(logits[real], expected.logits[real]) <= 1e-5
    weight = torch.linspace(-1, 1, logits.numel()).view(logits.shape) * real[..., None]
    (logits * weight).sum().backward()
    (expected.logits * weight).sum().backward()
    assert largest_gradient_difference(theirs, ours) <= 1e-5


@every_shape
@pytest.mark.parametrize("memory", [False, True])
def test_two_streams(shape, memory):
    theirs = make_stock(shape, mem_len=9 if memory else None, reuse_len=6 if memory else None)
    ours = Ours(theirs)
    ranks, positions, hidden, mapping = orders_and_masks()
    types, mems, state = draw((B, L), 3, 1), None, None
    for step in range(3 if memory else 1):
        ids = draw((B, L), V, 2 + step)
        expected = theirs(
            ids,
            perm_mask=hidden,
            target_mapping=mapping,
            token_type_ids=types,
            mems=mems,
            use_mems=memory,
            output_hidden_states=True,
            output_attentions=True,
        )
        query = QueryStream(positions, AttentionPattern(permutation_ranks=ranks))
        inputs = CoreInputs(ids, AttentionPattern(permutation_ranks=ranks), types, query=query)
        found = ours.core(inputs, state, output_hidden_states=True, output_attentions=True)
        mems, state = expected.mems, found.state
        if memory:
            assert {len(m) for m in mems} == {m.shape[1] for m in state.values()} == {min(6 * (step + 1), 9)}
            assert max(largest(m, n.transpose(0, 1)) for m, n in zip(state.values(), mems, strict=True)) <= 1e-5
    assert (state is None) == (not memory)
    theirs_first, theirs_second = expected.hidden_states[0::2], expected.hidden_states[1::2]
    for mine, first, second in zip(found.hidden_states, theirs_first, theirs_second, strict=True):
        assert largest(mine, torch.cat([first, second], dim=1)) <= 1e-5
    for mine, (first, second) in zip(found.attentions, expected.attentions, strict=True):
        chosen = second[torch.arange(B)[:, None], :, positions].transpose(1, 2)
        assert largest(mine, torch.cat([first, chosen], dim=2)) <= 1e-5
    logits = ours.logits(found.query_states)
    assert largest(logits, expected.logits) <= 1e-5
    weight = torch.linspace(-1, 1, logits.numel()).view(logits.shape)
    (logits * weight).sum().backward()
    (expected.logits * weight).sum().backward()
    assert largest_gradient_difference(theirs, ours) <= 1e-5


def test_reversed_rows_are_their_second_half_of_a_batch():
    theirs = make_stock("plain")
    ours = Ours(theirs)
    theirs.transformer.bi_data = True
    ids = draw((B, L), V)
    expected = theirs(ids).logits
    found = ours.core(CoreInputs(ids, reversed=torch.tensor([False, False, True, True])))
    assert largest(ours.logits(found.last_hidden_state), expected) <= 1e-5


def test_half_precision_is_as_close_as_theirs():
    theirs = make_stock("plain", XLNetModel)
    ids = draw((B, L), V)
    exact = theirs(ids).last_hidden_state
    ours = Ours(theirs).core.to(torch.bfloat16)
    mine = (ours(CoreInputs(ids)).last_hidden_state.float() - exact).square().mean()
    other = (theirs.to(torch.bfloat16)(ids).last_hidden_state.float() - exact).square().mean()
    assert mine < 2 * other < 0.01
    with torch.autocast("cpu", torch.bfloat16):
        again = Ours(make_stock("plain", XLNetModel)).core(CoreInputs(ids)).last_hidden_state
    assert (again.float() - exact).square().mean() < 0.01


def test_classification_reads_the_last_state():
    theirs = make_stock("plain", XLNetForSequenceClassification, num_labels=3)
    ours = Ours(theirs)
    ids = draw((B, L), V)
    states = ours.core(CoreInputs(ids)).last_hidden_state
    assert ours.model.metadata.template.pooling == "last"
    assert largest(ours.heads["classifier"](states[:, -1]), theirs(ids).logits) <= 1e-5


# ---- weights ----------------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("kind", [XLNetLMHeadModel, XLNetForSequenceClassification, XLNetModel])
def test_weights_come_back_bit_for_bit(shape, kind):
    theirs = make_stock(shape, kind)
    ours = Ours(theirs)
    back = write_checkpoint(ours.model.metadata, ours.state_dict())
    stored = {name: value for name, value in theirs.state_dict().items() if name not in theirs.all_tied_weights_keys}
    assert set(back.tensors) == set(stored)
    assert all(torch.equal(back.tensors[name], value) for name, value in stored.items())
    assert back.config["architectures"] == [kind.__name__]
    again = kind(XLNetConfig(**{k: v for k, v in back.config.items() if k != "architectures"}))
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_what_xlnet_cannot_say_is_refused():
    ours = Ours(make_stock("plain"))
    facts = dataclasses.replace(ours.model.metadata, config=ours.model.metadata.config.replace(scale_embedding=True))
    with pytest.raises(ZooError, match="scale_embedding"):
        write_checkpoint(facts, ours.state_dict(), "xlnet")
    state = make_stock("plain").state_dict()
    config = make_stock("plain", attn_type="uni").config.to_dict()
    with pytest.raises(ZooError, match="attn_type"):
        read_checkpoint(config, state)


def test_operations_by_head_undo_each_other():
    there = torch.randn(12, 3, 5)
    for operation in HEAD_OPERATIONS.values():
        (ours,) = operation(3).to_ours([there])
        assert sorted(ours.shape) == [12, 15]
        assert torch.equal(operation(3).to_theirs([ours])[0], there)


# ---- published sizes --------------------------------------------------------------------------------------


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "core", "whole", "layer"),
    [
        ("xlnet-base", 116_718_336, 116_750_336, 7_678_464),
        ("xlnet-large", 360_268_800, 360_300_800, 13_645_824),
        ("transformer-xl-base", 41_055_232, 41_055_436, 3_412_480),
        ("transformer-xl-large", 277_231_616, 277_231_820, 11_542_528),
    ],
)
def test_published_counts(name, core, whole, layer):
    config = CoreConfig.from_dict(read_yaml(shipped_configs() / "model" / f"{name}.yaml", "model"))
    with torch.device("meta"):
        model, head = Transformer(config), TokenHead(config, transform=False, bias=True)
    assert (size(model), size(model) + size(head), size(model.layers[0])) == (core, whole, layer)


def test_wikitext_base_without_adaptive_softmax():
    """The 16-layer model's layers and table; its 3 clusters of an adaptive softmax add 3 rows and biases."""
    config = CoreConfig.from_dict(read_yaml(shipped_configs() / "model" / "transformer-xl-base.yaml", "model"))
    config = config.replace(
        vocab_size=267_735, hidden_size=410, num_hidden_layers=16, num_attention_heads=10, intermediate_size=2100
    )
    with torch.device("meta"):
        model, head = Transformer(config), TokenHead(config, transform=False, bias=True)
    clusters = 3 * 410 + 3
    assert size(model) + size(head) + clusters == 151_107_538

"""Hashed and local attention: the numeric checks of the specification, patterns, and what is refused."""

import math

import pytest
import torch

from zoo.attention import LocalSelfAttention, LSHSelfAttention
from zoo.attention.context import AttentionContext
from zoo.attention.masks import Mask
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.flops import core_flops
from zoo.dropout import keyed_normal, row_keys
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "pooler": False,
    "type_vocab_size": 0,
    "max_position_embeddings": 512,
    "position_type": "none",
}
pytestmark = pytest.mark.usefixtures("one_thread")


def lsh(**arguments) -> dict:
    return {"class_path": "zoo.attention.LSHSelfAttention", "init_args": {"chunk_length": 8, **arguments}}


def local(**arguments) -> dict:
    return {"class_path": "zoo.attention.LocalSelfAttention", "init_args": {"chunk_length": 8, **arguments}}


def hasher(buckets, head: int = 64, rounds: int = 1, seed: int = 0) -> LSHSelfAttention:
    config = CoreConfig(**{**TINY, "num_attention_heads": 1, "head_dim": head})
    return LSHSelfAttention(config, chunk_length=8, num_buckets=buckets, num_hashes=rounds, hash_seed=seed)


def mixer(kind=LSHSelfAttention, **arguments):
    torch.manual_seed(1)
    return kind(CoreConfig(**{**TINY, "attention_probs_dropout_prob": 0.0}), **arguments)


def context(causal: bool, lengths=None, **more) -> AttentionContext:
    return AttentionContext(Mask(None, causal), causal=causal, lengths=lengths, **more)


def test_opposite_vectors_are_half_the_buckets_apart_and_length_does_not_count():
    states = torch.randn(1, 1, 500, 64, generator=torch.Generator().manual_seed(1))
    own = hasher(32)
    found = own.hashes(states)
    assert torch.equal(own.hashes(-states), (found + 16) % 32)
    assert torch.equal(own.hashes(3.7 * states), found)
    factors = hasher([4, 8]).hashes(states)
    assert 0 <= factors.min() < factors.max() < 32


def test_shares_of_buckets_average_but_are_not_equal():
    states = torch.randn(1, 1, 20000, 64, generator=torch.Generator().manual_seed(1))
    shares = torch.bincount(hasher(32).hashes(states).flatten().int(), minlength=32) / 20000
    assert shares.mean() == pytest.approx(1 / 32)
    assert shares.min() > 0.005
    assert shares.max() < 0.08
    assert shares.max() - shares.min() > 0.005


@pytest.mark.parametrize(
    ("cosine", "expected"), [(0.99, 0.842), (0.95, 0.665), (0.9, 0.548), (0.7, 0.303), (0.5, 0.174), (0.0, 0.031)]
)
def test_collisions(cosine, expected):
    generator = torch.Generator().manual_seed(2)
    one, other = torch.nn.functional.normalize(torch.randn(2, 2000, 64, generator=generator), dim=-1)
    other = torch.nn.functional.normalize(other - (other * one).sum(-1, keepdim=True) * one, dim=-1)
    other = cosine * one + math.sqrt(1 - cosine**2) * other
    hashed = [hasher(32, rounds=4, seed=seed) for seed in range(10)]
    same = torch.cat([h.hashes(one[None, None]) == h.hashes(other[None, None]) for h in hashed])
    assert same.float().mean() == pytest.approx(expected, abs=0.02)
    if cosine == 0.95:
        assert same.any(2).float().mean() == pytest.approx(0.987, abs=0.01)


@pytest.mark.parametrize("causal", [True, False])
def test_one_chunk_is_full_attention_with_shared_queries_and_the_rule_of_itself(causal):
    own, hidden = mixer(chunk_length=24), torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(3))
    query, value = own.split(own.query_key(hidden)), own.split(own.value(hidden))
    scores = query @ torch.nn.functional.normalize(query, dim=-1).transpose(-1, -2)
    if causal:
        scores = scores.masked_fill(torch.ones(24, 24, dtype=torch.bool).triu(1), -1e9)
    scores = scores.masked_fill(torch.eye(24, dtype=torch.bool), -1e5)
    expected = own.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    found, _ = own(hidden, context(causal), 8)
    assert (found - expected).abs().max() < 1e-5
    own.before = 0  # sorted by hash into one chunk without a neighbour, nothing changes
    order = own._order(query.detach(), None, context(causal), 8)
    mixed, *_ = own._in_chunks(query, value, order, 24, None, context(causal), 8)
    assert (own.output(mixed.transpose(1, 2).flatten(2)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("layer", [lsh(num_hashes=2), local()], ids=["hashed", "local"])
def test_no_gradient_reaches_later_tokens_and_none_reaches_padding(layer):
    config = CoreConfig(**TINY, attention_layers=[layer], norm_position="pre")
    core = build_core(config, seed=1).eval()
    states = torch.zeros(1, 43, 16)
    core.embeddings.register_forward_hook(lambda module, args, out: states.copy_(out.detach()))
    core(CoreInputs(torch.arange(43)[None]))
    for place in (0, 7, 8, 20, 42):
        given = states.clone().requires_grad_()
        handle = core.embeddings.register_forward_hook(lambda module, args, out, given=given: given)
        output = core(CoreInputs(torch.arange(43)[None], AttentionPattern(True))).last_hidden_state
        output[0, place].sum().backward()
        assert (given.grad[0, place + 1 :] == 0).all()
        given.grad = None
        pattern = AttentionPattern(False, torch.tensor([21]))
        core(CoreInputs(torch.arange(43)[None], pattern)).last_hidden_state[0, min(place, 20)].square().sum().backward()
        assert (given.grad[0, 21:] == 0).all()
        assert (given.grad[0, :21] != 0).any()
        handle.remove()


def test_the_first_token_attends_to_itself_and_others_never_do_where_they_need_not():
    hidden = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(3))
    for rounds, close in ((1, 1e-6), (3, 5e-3)):  # between rounds, shares of -100,000 are rounded
        own = mixer(chunk_length=8, num_hashes=rounds)
        _, table = own(hidden, context(True, eager_attention=True), 8)
        assert table.shape == (2, 2, 64, 64)
        assert (table.sum(-1) - 1).abs().max() < close
        assert (table[:, :, 0, 0] - 1).abs().max() < close
        assert (table.triu(1) == 0).all()
    _, table = mixer(chunk_length=8)(hidden, context(False, eager_attention=True), 8)
    assert (table.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_a_local_token_sees_its_chunk_and_the_one_before():
    own, hidden = mixer(LocalSelfAttention, chunk_length=8), torch.randn(1, 30, 16)
    _, table = own(hidden, context(True, eager_attention=True), 8)
    place = torch.arange(30)
    seen = (place[:, None] >= place) & (place[:, None] // 8 - place // 8 <= 1)
    assert torch.equal(table[0, 0] > 0, seen)


def test_rows_of_any_length_and_padding():
    own = mixer(chunk_length=8, num_hashes=2, num_buckets=4)
    hidden = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(5))
    for length in (1, 7, 8, 9, 16, 33):
        alone, _ = own(hidden[:, :length], context(False), 8)
        assert alone.shape == (1, length, 16)
        assert alone.isfinite().all()
    padded, _ = own(hidden, context(False, torch.tensor([33])), 8)
    alone, _ = own(hidden[:, :33], context(False, torch.tensor([33])), 8)
    assert (padded[:, :33] - alone).abs().max() < 1e-6  # both have padding to 40, and no token attends to it


def test_rotations_in_training_are_of_the_row_and_step_alone():
    own, states = hasher(8, rounds=2), torch.randn(3, 1, 64, 64)
    keys = row_keys(1, 5, [0, 1, 2])
    found = own.hashes(states, (keys, 8))
    assert torch.equal(found[1:], own.hashes(states[1:], (keys[1:], 8)))
    assert not torch.equal(found, own.hashes(states, (row_keys(1, 6, [0, 1, 2]), 8)))
    assert not torch.equal(found, own.hashes(states, (keys, 16)))
    assert torch.equal(own.hashes(states), own.hashes(states))
    drawn = keyed_normal(keys, 8, 50000)
    assert drawn.mean().abs() < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert drawn.pow(4).mean() == pytest.approx(3, abs=0.15)
    assert torch.corrcoef(drawn)[0, 1].abs() < 0.02


@pytest.mark.parametrize(
    ("layer", "changes", "words"),
    [
        (lsh(num_buckets=7), {}, "num_buckets = 7.*even"),
        (lsh(num_buckets=[4, 3]), {}, "even"),
        (lsh(chunk_length=513), {}, "chunk_length = 513 is longer.*512"),
        (local(chunk_length=0), {}, "chunk_length"),
        (local(window=3), {}, "window"),
        (lsh(), {"position_type": "rotary"}, "position_type"),
        (lsh(), {"num_key_value_heads": 1}, "num_key_value_heads"),
    ],
)
def test_what_cannot_be_is_said_before_training(layer, changes, words):
    with pytest.raises(ZooError, match=words):
        build_core(CoreConfig(**{**TINY, **changes}, attention_layers=[layer]))


def test_patterns_that_are_not_read_and_caches_are_refused():
    core = build_core(CoreConfig(**TINY, attention_layers=[lsh()]))
    ids = torch.zeros(1, 20, dtype=torch.long)
    with pytest.raises(ZooError, match="packed documents"):
        core(CoreInputs(ids, AttentionPattern(True, documents=ids)))
    from zoo.attention.context import KeyValueCache

    with pytest.raises(ZooError, match="use_cache=False"):
        core(CoreInputs(ids, AttentionPattern(True)), KeyValueCache())


def test_operations_grow_as_the_length():
    config = CoreConfig(**TINY, attention_layers=[lsh(), local()])
    assert core_flops(config, 1, 512) == 2 * core_flops(config, 1, 256)
    assert core_flops(config, 1, 512) < core_flops(config.replace(attention_layers=None), 1, 512)

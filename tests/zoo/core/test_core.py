"""The core by itself; tests/zoo/weights/test_parity.py has it beside transformers' models."""

import math

import pytest
import torch
from gradients import UNORDERED, backward_steps

from zoo.attention.positions import states_at
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.functions import sinusoids
from zoo.core.transformer import Transformer
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream

V, W, N, H, F = 120, 32, 3, 4, 64
SHAPE = {
    "vocab_size": V,
    "hidden_size": W,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "intermediate_size": F,
    "max_position_embeddings": 40,
}


def test_visibility_decides_what_is_seen():
    core = build_core(CoreConfig(**SHAPE)).eval()
    ids = torch.randint(0, V, (1, 6))
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % V

    def state(at, visible, which):
        return core(CoreInputs(which, visible)).last_hidden_state[0, at]

    everything, causal = AttentionPattern(), AttentionPattern(causal=True)
    assert not torch.equal(state(1, everything, ids), state(1, everything, changed))
    assert torch.equal(state(1, causal, ids), state(1, causal, changed))
    documents = AttentionPattern(documents=torch.tensor([[0, 0, 0, 1, 1, 1]]))
    assert torch.equal(state(1, documents, ids), state(1, documents, changed))
    assert not torch.equal(state(5, documents, ids), state(5, documents, changed))
    dense = torch.ones(1, 6, 6, dtype=torch.bool)
    dense[:, 1, 4] = False
    one_layer = build_core(CoreConfig(**{**SHAPE, "num_hidden_layers": 1})).eval()
    before = one_layer(CoreInputs(ids, AttentionPattern(dense=dense))).last_hidden_state
    after = one_layer(CoreInputs(changed, AttentionPattern(dense=dense))).last_hidden_state
    assert torch.equal(before[0, 1], after[0, 1])
    assert not torch.equal(before[0, 2], after[0, 2])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_written_out_attention_equals_the_fused_kernel(causal, padded):
    config = CoreConfig(**SHAPE, attention_probs_dropout_prob=1e-9, hidden_dropout_prob=0.0)
    core = build_core(config)
    ids = torch.randint(0, V, (2, 9))
    visible = AttentionPattern(causal=causal, lengths=torch.tensor([9, 4]) if padded else None)
    keys = torch.tensor([3, 4], dtype=torch.int32)
    fused = core(CoreInputs(ids, visible)).last_hidden_state
    written = core(CoreInputs(ids, visible, dropout_keys=keys)).last_hidden_state
    real = torch.arange(9)[None, :, None] < (torch.tensor([9, 4]) if padded else torch.tensor([9, 9]))[:, None, None]
    assert ((fused - written) * real).abs().max() < 1e-5


def test_gradient_checkpointing_changes_nothing():
    config = CoreConfig(**SHAPE)
    ids = torch.randint(0, V, (2, 9))
    keys = torch.tensor([3, 4], dtype=torch.int32)
    grads = []
    for on in (False, True):
        core = build_core(config, seed=3)
        core.recompute_layers = on
        core(CoreInputs(ids, dropout_keys=keys)).last_hidden_state.square().sum().backward()
        grads.append([p.grad for p in core.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_initial_values_depend_on_seed_name_and_shape_only():
    small = build_core(CoreConfig(**{**SHAPE, "num_hidden_layers": 2}), seed=5)
    large = build_core(CoreConfig(**{**SHAPE, "num_hidden_layers": 4, "type_vocab_size": 0}), seed=5)
    other = build_core(CoreConfig(**{**SHAPE, "num_hidden_layers": 2}), seed=6)
    shared = dict(large.named_parameters())
    for name, parameter in small.named_parameters():
        if name in shared:
            assert torch.equal(parameter, shared[name]), name
    name = "layers.1.attention.query.weight"
    assert not torch.equal(small.get_parameter(name), other.get_parameter(name))
    weight = small.embeddings.word_embeddings.weight
    assert weight.abs().max() <= 0.04  # cut at two standard deviations
    assert 0.015 < weight.std() < 0.02


def test_residual_scaling_and_biases():
    config = CoreConfig(**SHAPE, initializer="normal", residual_init_scale=True)
    core = build_core(config, seed=1)
    layer = core.layers[0]
    ratio = (layer.output.weight.std() / layer.intermediate.weight.std()).item()
    assert ratio == pytest.approx(1 / math.sqrt(2 * N), rel=0.1)
    assert all(p.abs().max() == 0 for n, p in core.named_parameters() if n.endswith("bias"))


def test_tied_head_has_no_storage_of_its_own():
    config = CoreConfig(**SHAPE)
    core, head = build_core(config), TokenHead(config)
    assert head.matrix(core.token_embedding) is core.token_embedding
    assert all(p.shape[0] != V or p.ndim == 1 for p in head.parameters())
    untied = TokenHead(config.replace(tie_word_embeddings=False))
    assert untied.matrix(core.token_embedding) is not core.token_embedding


def test_shared_layers_do_not_grow_with_depth():
    def count(layers):
        config = CoreConfig(**{**SHAPE, "num_hidden_layers": layers}, num_hidden_groups=1)
        return sum(p.numel() for p in Transformer(config).parameters())

    assert count(2) == count(12)


def test_groups_follow_floor_rule():
    config = CoreConfig(**{**SHAPE, "num_hidden_layers": 12}, num_hidden_groups=5)
    assert [config.group_of(i) for i in range(12)] == [i * 5 // 12 for i in range(12)]


def test_post_norm_output_is_normalised_and_pre_norm_has_a_final_norm():
    for position in ("post", "pre"):
        core = build_core(CoreConfig(**SHAPE, norm_position=position)).eval()
        out = core(CoreInputs(torch.randint(0, V, (2, 9)))).last_hidden_state
        assert out.mean(-1).abs().max() < 1e-5
        assert (out.var(-1, unbiased=False) - 1).abs().max() < 1e-3


def test_sinusoids_follow_the_paper():
    table = sinusoids(50, 16)
    assert table[0].tolist() == [0.0, 1.0] * 8
    assert table[7, 4] == pytest.approx(math.sin(7 / 10000 ** (4 / 16)), abs=1e-5)
    assert table[7, 5] == pytest.approx(math.cos(7 / 10000 ** (4 / 16)), abs=1e-5)


def test_resized_vocabulary_keeps_old_rows_and_keys_new_ones():
    core = build_core(CoreConfig(**SHAPE), seed=1)
    old = core.token_embedding.detach().clone()
    core.resize_token_embeddings(V + 3, seed=9)
    again = build_core(CoreConfig(**SHAPE), seed=2)
    again.resize_token_embeddings(V + 3, seed=9)
    assert torch.equal(core.token_embedding[:V], old)
    assert torch.equal(core.token_embedding[V:], again.token_embedding[V:])
    assert core.config.vocab_size == V + 3


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_attention_heads": 5}, "does not divide"),
        ({"num_hidden_groups": 9}, "num_hidden_groups"),
        ({"hidden_dropout_prob": 1.5}, "from 0 to below 1"),
        ({"position_offset": 40}, "position_offset"),
        ({"embedding_size": 8, "embedding_projection": False}, "embedding_projection"),
        ({"hidden_size": 0}, "at least 1"),
    ],
)
def test_impossible_facts_are_refused(facts, message):
    with pytest.raises(ZooError, match=message):
        CoreConfig(**{**SHAPE, **facts})


def test_rows_that_are_too_long_and_unread_fields_are_refused():
    core = build_core(CoreConfig(**SHAPE))
    with pytest.raises(ZooError, match="longer than the 40 positions"):
        core(CoreInputs(torch.zeros(1, 41, dtype=torch.long)))
    stream = QueryStream(torch.zeros(1, 2, W), torch.zeros(1, 2, dtype=torch.long), AttentionPattern())
    with pytest.raises(ZooError, match="does not read query"):
        core(CoreInputs(torch.zeros(1, 4, dtype=torch.long), query=stream))
    with pytest.raises(ZooError, match="permutation ranks"):
        core(CoreInputs(torch.zeros(1, 4, dtype=torch.long), AttentionPattern(permutation_ranks=torch.zeros(1, 4))))


def test_an_unknown_fact_names_the_nearest():
    with pytest.raises(ZooError, match="'hidden_size'"):
        CoreConfig.from_dict({"hiden_size": 3})


@pytest.mark.parametrize("types", [0, 1])
def test_a_core_without_segment_types_reads_pairs_all_the_same(types):
    core = build_core(CoreConfig(**SHAPE, type_vocab_size=types)).eval()
    ids = torch.randint(0, V, (2, 6))
    segments = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2)
    assert torch.equal(core(CoreInputs(ids)).last_hidden_state, core(CoreInputs(ids, AttentionPattern(), segments))[0])


def test_states_at_columns_are_those_of_plain_indexing_with_their_gradients():
    """Also of columns that are asked for twice, and counted from the end."""
    states = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    one, two = states.clone().requires_grad_(), states.clone().requires_grad_()
    rows = torch.arange(3)
    for columns in (torch.tensor([4, 0, -1]), torch.tensor([[1, 1, 3], [0, 4, 4], [2, -5, 2]])):
        found, expected = states_at(one, columns), two[rows if columns.ndim == 1 else rows[:, None], columns]
        assert torch.equal(found, expected)
        assert "IndexBackward0" in backward_steps(expected.sum())
        assert not UNORDERED & backward_steps(found.sum())
        weights = torch.randn_like(found)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(one.grad, two.grad)


CORES = {
    "positions": {},
    "rotary": {"position_type": "rotary", "num_key_value_heads": 2, "norm": "rms", "norm_position": "pre", "glu": True},
    "relative": {"position_type": "relative", "untie_r": True, "relative_segments": True, "type_vocab_size": 0},
    "remembering": {"position_type": "relative", "mem_len": 8, "type_vocab_size": 0},
}
WAYS = {
    "all": AttentionPattern(),
    "lengths": AttentionPattern(lengths=torch.tensor([9, 12, 10])),
    "causal": AttentionPattern(causal=True),
    "causal lengths": AttentionPattern(causal=True, lengths=torch.tensor([9, 12, 10])),
    "documents": AttentionPattern(documents=torch.arange(12).expand(3, -1) // 5),
    "dense": AttentionPattern(dense=torch.ones(12, 12).tril(3).bool()[None]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CORES)
def test_some_states_are_those_that_all_would_be(kind, way):
    """Of the last layer alone, in each pattern, with dropout and memory; their gradients, too, and NaN elsewhere."""
    core = build_core(
        CoreConfig(vocab_size=V, hidden_size=W, num_hidden_layers=2, num_attention_heads=H, intermediate_size=F)
        .replace(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2, pooler=False)
        .replace(**CORES[kind])
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, V, (3, 12), generator=generator)
    types = torch.arange(12).expand(3, -1) // 6 if CORES[kind].get("relative_segments") else None
    inputs = CoreInputs(ids, WAYS[way], token_type_ids=types, dropout_keys=row_keys(1, 2, range(3)))
    state = None
    if "mem_len" in CORES[kind] and WAYS[way].documents is None and way != "dense":
        state = {name: value.detach() for name, value in core(inputs).state.items()}
    wanted = torch.tensor([[0, 3, 8, 5], [4, -1, -1, -1], [7, 2, -1, -1]])
    row, slot = torch.nonzero(wanted >= 0, as_tuple=True)
    column, directions, found = wanted[row, slot], torch.randn(len(row), W, generator=generator), []
    for positions in (None, wanted):
        core.zero_grad()
        states = core(inputs._replace(output_positions=positions), state).last_hidden_state
        (states[row, column] * directions).sum().backward()
        found.append([states[row, column].detach(), *(p.grad.clone() for p in core.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    computed = torch.zeros(3, 12, dtype=torch.bool).index_put((row, column), torch.tensor(True))
    assert torch.equal(states.isnan().all(-1), ~computed)

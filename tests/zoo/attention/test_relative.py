"""Relative scores, memory and the second stream of the core (specs: Transformer-XL and XLNet, section 8)."""

import math

import numpy as np
import pytest
import torch
from stores import synthetic_store

from pretraining.keyed_random import Draw
from pretraining.layouts.segments import Segments
from pretraining.objectives import CausalLM
from pretraining.objectives.base import Targets, collate
from zoo.attention.context import KeyValueCache
from zoo.attention.masks import attended_keys
from zoo.attention.positions import encode_distances, shift
from zoo.attention.relative import RelativeBias
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.flops import core_flops, training_flops
from zoo.core.transformer import Transformer
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream
from zoo.model_folder import ModelMetadata
from zoo.vocabulary import Template, Vocabulary

V, B, W, N = 97, 3, 32, 3
CAUSAL = CoreConfig(
    vocab_size=V,
    hidden_size=W,
    num_hidden_layers=N,
    num_attention_heads=4,
    intermediate_size=48,
    hidden_act="relu",
    embedding_norm=False,
    scale_embedding=True,
    position_type="relative",
    mem_len=8,
    type_vocab_size=0,
    attention_bias=False,
    pooler=False,
    initializer_range=0.2,
)
BOTH = CAUSAL.replace(untie_r=True, relative_segments=True, query_stream=True, scale_embedding=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape, high=V, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def make(config=CAUSAL, seed=3, **changes) -> Transformer:
    core = build_core(config.replace(**changes), seed).eval()
    with torch.no_grad():  # gains and biases too, so that their mistakes would show
        for name, parameter in core.named_parameters():
            if parameter.ndim < 2:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    return core


def causal(ids, **more):
    return CoreInputs(ids, AttentionPattern(causal=True), **more)


def largest(a, b):
    assert a.shape == b.shape
    return (a - b).abs().max().item()


# ---- scores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "past", "one_sided"), [(5, 0, False), (4, 7, False), (6, 3, True), (1, 9, True)])
def test_shift_against_a_double_loop(length, past, one_sided):
    keys = past + length
    distances = torch.arange(keys, -1 if one_sided else -length, -1)
    scores = torch.randn(2, 3, length + 2, len(distances))  # two rows of a second stream below
    found = shift(scores, length, keys)
    for i in range(length):
        for j in range(keys):
            if not one_sided or past + i - j >= 0:
                column = (distances == past + i - j).nonzero().item()
                assert torch.equal(found[:, :, i, j], scores[:, :, i, column])


def test_distances_are_encoded_as_sines_then_cosines():
    table = encode_distances(torch.tensor([-3, 0, 7]), 16)
    assert table.shape == (3, 16)
    assert table[1].tolist() == [0.0] * 8 + [1.0] * 8
    assert table[2, 4].item() == pytest.approx(math.sin(7 / 10000 ** (8 / 16)), abs=1e-6)
    assert torch.equal(table[0, :8], -encode_distances(torch.tensor([3]), 16)[0, :8])


def naive_scores(core, layer, hidden, memory, ids_differ, sign):
    """Scores of one layer by the formula, one query and key at a time: (H, L, M + L), scaled."""
    attention = core.layers[layer].attention
    terms = attention.terms or core.relative.terms
    sources = torch.cat([memory, hidden])
    heads = attention.heads
    q = attention.query(hidden).view(-1, heads, W // heads)
    k = attention.key(sources).view(-1, heads, W // heads)
    found = torch.zeros(heads, len(q), len(k))
    for i in range(len(q)):
        for j in range(len(k)):
            distance = torch.tensor([sign * (len(memory) + i - j)])
            if core.config.clamp_len > 0:
                distance = distance.clamp(-core.config.clamp_len, core.config.clamp_len)
            r = attention.position(encode_distances(distance, W)).view(heads, -1)
            score = ((q[i] + terms.content) * k[j]).sum(-1) + ((q[i] + terms.position) * r).sum(-1)
            if ids_differ is not None:
                score = score + ((q[i] + terms.segment) * terms.segments[int(ids_differ[i, j])]).sum(-1)
            found[:, i, j] = score
    return found / math.sqrt(W // heads)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("changes", [{}, {"clamp_len": 3}, {"untie_r": False}, {"num_key_value_heads": 4}])
def test_probabilities_against_the_formula(sign, changes):
    core = make(BOTH, num_hidden_layers=1, **changes)
    ids, types = draw(1, 6), draw(1, 6, high=3, seed=1)
    memory = {"memory_0": torch.randn(1, 5, W)}
    inputs = CoreInputs(ids, token_type_ids=types, reversed=torch.tensor([sign < 0]))
    found = core(inputs, memory, output_attentions=True, output_hidden_states=True)
    different = types[0][:, None] != torch.cat([torch.zeros(5, dtype=torch.long), types[0]])[None]
    scores = naive_scores(core, 0, found.hidden_states[0][0], memory["memory_0"][0], different, sign)
    assert largest(found.attentions[0][0], scores.softmax(-1)) < 1e-5


def test_without_vectors_and_distances_it_is_plain_attention():
    core = make()
    plain = make(position_type="none", mem_len=None)
    with torch.no_grad():
        for parameter in core.relative.parameters():
            parameter.zero_()
        for layer in core.layers:
            layer.attention.position.weight.zero_()
    state = {name: value for name, value in core.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(state)
    ids = draw(B, 9)
    assert largest(core(causal(ids)).last_hidden_state, plain(causal(ids)).last_hidden_state) < 1e-5


def test_positions_play_no_part():
    core, ids = make(), draw(B, 9)
    shifted = causal(ids, position_ids=torch.arange(40, 49).expand(B, 9))
    assert torch.equal(core(shifted).last_hidden_state, core(causal(ids)).last_hidden_state)


def test_relabelled_segments_change_nothing():
    core = make(BOTH, mem_len=None)
    ids, types = draw(B, 9), draw(B, 9, high=2, seed=1)
    states = [core(CoreInputs(ids, token_type_ids=t)).last_hidden_state for t in (types, 1 - types, None)]
    assert torch.equal(states[0], states[1])
    assert not torch.allclose(states[0], states[2])
    one = core(CoreInputs(ids, token_type_ids=torch.ones_like(types))).last_hidden_state
    assert largest(one, states[2]) < 1e-5, "a single segment is the same as none"


def test_reversed_rows_read_the_mirrored_text():
    """Negated distances on reversed text give the states of the text, in reversed order."""
    core = make(BOTH, mem_len=None)
    ids = draw(B, 9)
    forward = core(CoreInputs(ids)).last_hidden_state
    mirrored = core(CoreInputs(ids.flip(1), reversed=torch.ones(B, dtype=torch.bool))).last_hidden_state
    assert largest(forward, mirrored.flip(1)) < 1e-5
    mixed = core(CoreInputs(ids, reversed=torch.tensor([False, True, False]))).last_hidden_state
    assert largest(mixed[[0, 2]], forward[[0, 2]]) < 1e-5
    assert largest(mixed[1], forward[1]) > 1e-2


# ---- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"norm_position": "pre"}, {"num_hidden_groups": 1}, {"untie_r": True}])
def test_two_segments_are_one_pass(changes):
    core = make(**changes)
    ids = draw(B, 16)
    whole = core(causal(ids)).last_hidden_state
    first = core(causal(ids[:, :8]))
    second = core(causal(ids[:, 8:]), first.state)
    assert largest(torch.cat([first.last_hidden_state, second.last_hidden_state], 1), whole) < 1e-5


def test_no_gradient_reaches_the_segment_before():
    core = make()
    ids = torch.arange(16).view(1, 16)
    first = core(causal(ids[:, :8]))
    core(causal(ids[:, 8:]), first.state).last_hidden_state.sum().backward()
    gradient = core.token_embedding.grad.abs().sum(1)
    assert (gradient[:8] == 0).all()
    assert (gradient[8:16] > 0).all()
    assert all(not m.requires_grad for m in first.state.values())


@pytest.mark.parametrize(
    ("mem_len", "reuse_len", "expected"),
    [(8, None, [5, 8, 8, 8]), (12, None, [5, 10, 12, 12]), (3, None, [3, 3, 3, 3]), (9, 4, [4, 8, 9, 9])],
)
def test_length_of_the_memory(mem_len, reuse_len, expected):
    core, state = make(mem_len=mem_len, reuse_len=reuse_len), None
    inputs = []
    for step, length in enumerate(expected):
        output = core(causal(draw(B, 5, seed=step)), state, output_hidden_states=True)
        inputs.append(output.hidden_states[:-1])
        state = output.state
        assert list(state) == [f"memory_{i}" for i in range(N)]
        for number, memory in enumerate(state.values()):
            seen = torch.cat([layers[number][:, : reuse_len or 5] for layers in inputs], 1)
            assert memory.shape == (B, length, W)
            assert torch.equal(memory, seen[:, -mem_len:])


def test_published_lengths_of_the_memory():
    core, state, lengths = make(BOTH, num_hidden_layers=1, mem_len=384, reuse_len=256), None, []
    for step in range(3):
        state = core(CoreInputs(draw(1, 512, seed=step)), state).state
        lengths.append(state["memory_0"].shape[1])
    assert lengths == [256, 384, 384]
    assert not state["memory_0"].requires_grad


def test_what_lies_further_back_than_all_layers_reach_changes_nothing():
    core = make()
    texts = [draw(B, 8, seed=step) for step in range(N + 2)]
    outputs = []
    for first in (texts[0], texts[0].flip(0)):
        state = None
        outputs.append([])
        for segment in [first, *texts[1:]]:
            output = core(causal(segment), state)
            outputs[-1].append(output.last_hidden_state)
            state = output.state
    same = [torch.equal(a, b) for a, b in zip(*outputs, strict=True)]
    assert same == [False] * (N + 1) + [True]


def test_the_same_number_of_keys_for_all():
    core = make(same_length=True)
    first = core(causal(draw(B, 8)))
    attentions = core(causal(draw(B, 5, seed=1)), first.state, output_attentions=True).attentions[0]
    seen = attentions[0, 0] > 0
    assert seen.shape == (5, 13)
    for i in range(5):
        assert seen[i].nonzero()[:, 0].tolist() == list(range(i + 1, i + 9))


def test_a_state_that_does_not_fit_is_refused():
    core = make()
    state = core(causal(draw(B, 4))).state
    with pytest.raises(ZooError, match="rows of a state"):
        core(causal(draw(2, 4)), state)
    with pytest.raises(ZooError, match="memory_0"):
        core(causal(draw(B, 4)), {"carry": state["memory_0"]})
    with pytest.raises(ZooError, match="mem_len"):
        make(mem_len=None)(causal(draw(B, 4)), state)
    assert make(mem_len=None)(causal(draw(B, 4))).state is None
    with pytest.raises(ZooError, match="start vector"):
        core(causal(draw(B, 4), query=QueryStream(draw(B, 2, high=4))))


# ---- generation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mem_len", [40, 6, None])
def test_generation_with_memory_and_with_a_cache_agree(mem_len):
    """Token by token: the memory of states, a cache of keys and values, and, while all is remembered, one pass."""
    core, ids = make(mem_len=mem_len), draw(B, 4)
    cache, state, text = KeyValueCache(), None, ids
    by_memory, by_cache, piece = [], [], ids
    for _ in range(12):
        by_cache.append(core(causal(piece), cache).last_hidden_state[:, -1])
        if mem_len:
            output = core(causal(piece), state)
            state = output.state
            by_memory.append(output.last_hidden_state[:, -1])
            assert largest(by_memory[-1], by_cache[-1]) < 1e-5
        if mem_len != 6:
            assert largest(by_cache[-1], core(causal(text)).last_hidden_state[:, -1]) < 1e-5
        piece = (by_cache[-1] @ core.token_embedding.T).argmax(-1, keepdim=True)
        text = torch.cat([text, piece], 1)
    assert text.shape == (B, 16)


def test_transformers_generates_what_the_memory_says():
    """Its own loop, with its cache, beam by beam and padded at the left."""
    import zoo.hf

    core, head = make(mem_len=6), {"kind": "token", "transform": False, "bias": True}
    metadata = ModelMetadata(core.config, Template("$A", "$A", "last"), "causal", {"lm": head})
    model = zoo.hf.ZooForCausalLM(zoo.hf.ZooConfig.of(metadata)).eval()
    model.core.load_state_dict(core.state_dict())
    torch.nn.init.normal_(model.head.bias, generator=torch.Generator().manual_seed(0))
    ids, options = draw(2, 5, high=V - 1) + 1, {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0}
    text, piece, state = ids, ids, None
    for _ in range(10):
        output = core(causal(piece), state)
        state = output.state
        piece = model.head(output.last_hidden_state[:, -1], core.token_embedding).argmax(-1, keepdim=True)
        text = torch.cat([text, piece], 1)
    assert model.generate(ids, **options).tolist() == text.tolist()
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids[:1]], 1)
    found = model.generate(padded, attention_mask=(padded > 0).long(), **options)
    assert found[0, 3:].tolist() == text[0].tolist()
    assert model.generate(ids, num_beams=3, **options).shape[1] == 15


def test_a_cache_reads_padding_at_the_left():
    core, ids = make(mem_len=None), draw(2, 6)
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    cache = KeyValueCache()
    for part in (slice(0, 4), slice(4, 5), slice(5, 6)):
        visible = AttentionPattern(causal=True, dense=real[:, None, : part.stop])
        output = core(CoreInputs(ids[:, part], visible), cache).last_hidden_state
    alone = core(causal(ids[:1, 2:])).last_hidden_state
    assert largest(output[0, -1], alone[0, -1]) < 1e-5


# ---- attention patterns -----------------------------------------------------------------------------------


def test_logits_have_no_gradient_from_later_tokens():
    core = make()
    ids = torch.arange(9).view(1, 9)
    output = core(causal(ids)).last_hidden_state
    for i in range(9):
        core.zero_grad()
        output[0, i].sum().backward(retain_graph=True)
        gradient = core.token_embedding.grad.abs().sum(1)
        assert (gradient[: i + 1] > 0).all()
        assert (gradient[i + 1 :] == 0).all()


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("past", [0, 3])
def test_visibility_of_both_streams_against_a_loop(second, past):
    length, generator = 6, torch.Generator().manual_seed(2)
    lengths = torch.tensor([6, 4])
    orders = torch.randint(0, 4, (2, length), generator=generator)
    documents = torch.randint(0, 2, (2, length), generator=generator)
    dense = torch.rand(2, 3 if second else length, length, generator=generator) < 0.7
    positions = torch.tensor([[0, 5, 2], [3, 1, 1]]) if second else torch.arange(length)[None]
    cases = {
        "lengths": lambda b, q, i, j: j < lengths[b],
        "causal": lambda b, q, i, j: j < i if second else j <= i,
        "permutation_ranks": lambda b, q, i, j: orders[b, j] < orders[b, i] if second else orders[b, j] <= orders[b, i],
        "documents": lambda b, q, i, j: documents[b, i] == documents[b, j],
        "dense": lambda b, q, i, j: dense[b, q, j],
    }
    values = {"lengths": lengths, "causal": True, "permutation_ranks": orders, "documents": documents, "dense": dense}
    for chosen in [[name] for name in cases] + [["lengths", "permutation_ranks", "documents", "dense"]]:
        visible = AttentionPattern(**{name: values[name] for name in chosen})
        found = attended_keys(visible, positions, length, past, second)
        found = found.expand(2, positions.shape[1], past + length)
        for b in range(2):
            for q, i in enumerate(positions[b if second else 0].tolist()):
                expected = [True] * past + [all(bool(cases[c](b, q, i, j)) for c in chosen) for j in range(length)]
                assert found[b, q].tolist() == expected, (chosen, b, q)
    assert attended_keys(AttentionPattern(), positions, length, past, second) is None
    near = attended_keys(AttentionPattern(), positions, length, past, second, window=2)
    assert near[0, 0].tolist() == [positions[0, 0] - j < 2 for j in range(-past, length)]


def test_a_query_that_may_see_nothing_learns_nothing():
    """Every token is a target and nothing is remembered: the first one in the order has no key."""
    core = make(BOTH, mem_len=None)
    ids = torch.arange(5).view(1, 5)
    orders = torch.tensor([[3, 1, 0, 2, 4]])
    query = QueryStream(torch.arange(5)[None], AttentionPattern(permutation_ranks=orders))
    for written in (False, True):
        core.eager_attention = written
        output = core(
            CoreInputs(ids, AttentionPattern(permutation_ranks=orders), query=query), output_attentions=written
        )
        for i in range(5):
            core.zero_grad()
            output.query_states[0, i].sum().backward(retain_graph=True)
            gradient = core.token_embedding.grad.abs().sum(1)[:5]
            assert ((gradient > 0) == (orders[0] < orders[0, i])).all()
            assert torch.isfinite(output.query_states).all()
    assert output.attentions[0][0, :, 5 + 2].abs().max() == 0


def test_streams_share_all_weights():
    """A second state that starts with the token's own embedding and sees what the token sees is the token's state."""
    core = make(BOTH)
    ids, types = draw(B, 7), draw(B, 7, high=3, seed=1)
    state = core(CoreInputs(draw(B, 7, seed=2))).state
    dense = torch.rand(B, 7, 7, generator=torch.Generator().manual_seed(0)) < 0.8
    positions = torch.tensor([[0, 3], [6, 2], [4, 4]])
    rows = torch.arange(B)[:, None]
    query = QueryStream(
        positions, AttentionPattern(dense=dense[rows, positions]), core.token_embedding[ids[rows, positions]]
    )
    reversed_rows = torch.tensor([True, False, True])
    inputs = CoreInputs(ids, AttentionPattern(dense=dense), types, reversed=reversed_rows, query=query)
    output = core(inputs, state)
    assert largest(output.query_states, output.last_hidden_state[rows, positions]) < 1e-5


# ---- dropout, checkpointing, kernels ----------------------------------------------------------------------


def with_two_streams(keys, rows=slice(None)):
    ids, orders = draw(4, 9), draw(4, 9, high=5, seed=1)
    positions = torch.tensor([[0, 3], [6, 2], [4, 1], [8, 8]])
    visible = AttentionPattern(permutation_ranks=orders[rows])
    return CoreInputs(
        ids[rows],
        visible,
        draw(4, 9, high=3, seed=4)[rows],
        reversed=torch.tensor([False, True, False, True])[rows],
        dropout_keys=None if keys is None else keys[rows],
        query=QueryStream(positions[rows], visible),
    )


def test_dropout_follows_the_global_row():
    core = make(BOTH, activation_dropout=0.2, final_dropout=0.3)
    keys = row_keys(0, 5, range(4))
    whole, again = (core(with_two_streams(keys)) for _ in range(2))
    assert torch.equal(whole.query_states, again.query_states)
    assert not torch.equal(whole.query_states, core(with_two_streams(row_keys(0, 6, range(4)))).query_states)
    for rows in (slice(0, 2), slice(2, 4)):
        part = core(with_two_streams(keys, rows))
        assert largest(part.last_hidden_state, whole.last_hidden_state[rows]) < 1e-5
        assert largest(part.query_states, whole.query_states[rows]) < 1e-5


@pytest.mark.parametrize("place", ["hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"])
def test_every_dropout_is_read(place):
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    core = make(BOTH, **{**off, place: 0.5})
    keys = row_keys(0, 5, range(4))
    assert not torch.equal(core(with_two_streams(keys)).query_states, core(with_two_streams(None)).query_states)


def test_final_dropout_zeroes_last_states():
    core = make(BOTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, final_dropout=0.4)
    states = core(with_two_streams(row_keys(0, 5, range(4)))).query_states
    assert 0.3 < (states == 0).float().mean() < 0.5


def test_distances_are_dropped_too():
    """With nothing else to drop: the embeddings' own mask falls away where all tokens are alike."""
    core = make(BOTH, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.0)
    distances = {}
    core.layers[0].attention.position.register_forward_pre_hook(lambda module, args: distances.update(r=args[0]))
    core(with_two_streams(row_keys(0, 5, range(4))))
    assert distances["r"].shape == (4, 18, W)
    assert 0.4 < (distances["r"] == 0).float().mean() < 0.6
    assert not torch.equal(distances["r"][0] == 0, distances["r"][2] == 0)
    core(CoreInputs(draw(4, 9)))
    assert distances["r"].shape == (1, 18, W)


def test_gradient_checkpointing_changes_nothing():
    grads = []
    for on in (False, True):
        core = make(BOTH)
        core.recompute_layers = on
        state = core(with_two_streams(None)).state
        core.zero_grad()
        core(with_two_streams(row_keys(0, 5, range(4))), state).query_states.square().sum().backward()
        grads.append({n: p.grad for n, p in core.named_parameters() if p.grad is not None})
    assert len(grads[0]) == sum(1 for _ in core.parameters()) > 30
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_fused_and_written_out_scores_agree():
    core = make(BOTH)
    state = core(with_two_streams(None)).state
    fused = core(with_two_streams(None), state)
    core.eager_attention = True
    written = core(with_two_streams(None), state, output_attentions=True)
    assert largest(fused.query_states, written.query_states) < 1e-5
    assert largest(fused.last_hidden_state, written.last_hidden_state) < 1e-5
    assert written.attentions[0].shape == (4, 4, 9 + 2, 8 + 9)
    assert (written.attentions[0].sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("dropped", [False, True])
def test_mixed_precision_trains_both_streams(dropped):
    core, keys = make(BOTH), row_keys(0, 5, range(4)) if dropped else None
    exact = core(with_two_streams(keys)).query_states
    with torch.autocast("cpu", torch.bfloat16):
        state = core(with_two_streams(keys)).state
        rounded = core(with_two_streams(keys)).query_states
        loss = core(with_two_streams(keys), state).query_states.float().square().sum()
    loss.backward()
    assert 0 < largest(exact, rounded.float()) < 0.2
    assert all(torch.isfinite(p.grad).all() for p in core.parameters())


def test_single_steps_give_the_same_bias():
    """The fused bias and its gradients against shift, gather, concatenation and additions."""
    length, past, rows = 5, 3, 7
    keys = past + length
    scores = torch.randn(2, 3, rows, keys + length, requires_grad=True)
    gain = torch.randn(2, 3, rows, requires_grad=True)
    columns = (length - torch.tensor([[4, 0], [2, 2]]))[:, None, :, None] + torch.arange(keys)
    penalty = torch.randn(2, 1, rows, keys)
    differs = torch.randint(0, 2, (2, 1, rows, keys)).float()
    found = RelativeBias.apply(scores, gain, 0.5, length, keys, columns, penalty, differs)
    second = scores[:, :, length:].gather(3, columns.expand(-1, 3, -1, -1))
    expected = torch.cat([shift(scores, length, keys), second], 2) * 0.5
    expected = expected + penalty + 0.5 * gain[..., None] * differs
    assert largest(found, expected) < 1e-6
    weight = torch.randn(found.shape)
    for mine, reference in zip(*(torch.autograd.grad(o, (scores, gain), weight) for o in (found, expected))):
        assert largest(mine, reference) < 1e-5


def test_grouped_keys():
    grouped, full = make(BOTH, num_key_value_heads=2), make(BOTH)
    state = grouped.state_dict()
    for number in range(N):
        for name in ("key", "value"):
            key = f"layers.{number}.attention.{name}.weight"
            state[key] = state[key].view(2, 8, W).repeat_interleave(2, dim=0).reshape(W, W)
    full.load_state_dict(state)
    assert largest(grouped(with_two_streams(None)).query_states, full(with_two_streams(None)).query_states) < 1e-5


# ---- facts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"position_type": "learned"}, "speaks of relative scores"),
        ({"hidden_size": 33, "num_attention_heads": 3}, "even"),
        ({"mem_len": -1}, "mem_len = -1; a whole number of at least 0"),
        ({"mem_len": None, "same_length": True}, "mem_len"),
        ({"final_dropout": 1.0}, "from 0 to below 1"),
    ],
)
def test_facts_that_contradict_are_refused(facts, message):
    with pytest.raises(ZooError, match=message):
        CAUSAL.replace(**facts)


def test_other_cores_refuse_what_they_do_not_read():
    core = build_core(CoreConfig(vocab_size=V, hidden_size=W, intermediate_size=48))
    with pytest.raises(ZooError, match="reversed"):
        core(CoreInputs(draw(2, 4), reversed=torch.tensor([True, False])))
    with pytest.raises(ZooError, match="remembers nothing"):
        core(CoreInputs(draw(2, 4)), {"memory_0": torch.zeros(2, 1, W)})


@pytest.mark.parametrize(("queries", "memory", "sided"), [(0, 0, False), (3, 0, False), (3, 5, False), (0, 6, True)])
def test_analytic_flops_equal_torchs_counter(queries, memory, sided):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    core = make(BOTH, mem_len=8)
    state = {f"memory_{i}": torch.randn(B, memory, W) for i in range(N)} if memory else None
    query = QueryStream(torch.zeros(B, queries, dtype=torch.long)) if queries else None
    inputs = CoreInputs(
        draw(B, 9),
        AttentionPattern(causal=sided),
        query=query,
        reversed=None if sided else torch.zeros(B, dtype=torch.bool),
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = core(inputs, state)
        forward = counter.get_total_flops()
        states = output.last_hidden_state.sum()
        (states if output.query_states is None else states + output.query_states.sum()).backward()
    own = core_flops(core.config, B, 9, queries=queries, memory=memory, causal=sided)
    encoded = N * 2 * (memory + 9 + (1 if sided else 9)) * W * W  # a row's distances times their matrix
    if sided:  # one direction and no dropout: distances are encoded once, not for every row
        own -= (B - 1) * encoded
    assert own == forward
    unasked = encoded * (1 if sided else B)  # distances are no parameters and get no gradient
    assert training_flops(own) == counter.get_total_flops() + unasked


# ---- language model ---------------------------------------------------------------------------------------


def test_an_untrained_causal_model_guesses_uniformly_at_every_position(tmp_path):
    vocabulary = Vocabulary(204)
    store = synthetic_store(tmp_path, vocab_size=205)
    layout = Segments()
    layout.parallel_rows = 4
    plan = layout.plan(store, np.arange(store.num_documents), 24, vocabulary, Draw(0, 0))
    objective = CausalLM(bias=True)
    config = CAUSAL.replace(vocab_size=204, initializer_range=0.02)
    objective.build(config, vocabulary)
    core, state, losses = build_core(config), None, []
    for step in range(4):
        rows = layout.rows(store, plan, np.arange(4 * step, 4 * step + 4), 24, vocabulary)
        batch = collate(rows, {"x": objective})
        output = core(batch.inputs, state)
        state = output.state
        term = objective(lambda output=output: output, core.token_embedding, Targets(batch.targets["x"], 96))
        assert batch.counts["x"] == 4 * 24, "every position is asked"
        losses.append(term.total.item() / 96)
    assert all(abs(loss - math.log(204)) < 0.1 for loss in losses)
    following = rows.next_token.tolist()
    again = layout.rows(store, plan, np.arange(16, 20), 24, vocabulary)
    assert following == again.input_ids[:, 0].tolist()

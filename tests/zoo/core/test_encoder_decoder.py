"""The encoder-decoder core by itself: what its tokens see, its sizes, its numbers in every way to run it."""

import math

import pytest
import torch
from gradients import UNORDERED, backward_steps
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.attention.buckets import buckets_of
from zoo.config import CoreConfig
from zoo.config_parts import DecoderConfig
from zoo.core.build import build_core, make_core
from zoo.core.flops import core_flops
from zoo.core.functions import sinusoids
from zoo.core.target_reader import GenerationState
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.inputs import AttentionPattern, CoreInputs, DecoderInputs

B, L, T, V, W = 2, 9, 7, 61, 24
CONFIG = CoreConfig(
    vocab_size=V,
    hidden_size=W,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=40,
    max_position_embeddings=16,
    position_type="sinusoidal",
    embedding_norm=False,
    scale_embedding=True,
    type_vocab_size=0,
    pooler=False,
    initializer_range=0.3,
    decoder=DecoderConfig(),
)
KINDS = {
    "post-norm": {},
    "pre-norm": {"norm_position": "pre"},
    "learned": {"position_type": "learned", "embedding_norm": True, "position_offset": 2},
    "buckets": {
        "position_type": "relative_buckets",
        "norm": "rms",
        "norm_position": "pre",
        "scale_attention": False,
        "scale_embedding": False,
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": 5,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 6,
    },
    "rotary, shared heads": {"position_type": "rotary", "num_key_value_heads": 2, "glu": True},
    "another decoder": {"decoder": DecoderConfig(3, 2, 28), "embedding_size": 12},
}
PLAIN = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def core_of(kind, **more):
    return build_core(CONFIG.replace(**{**KINDS[kind], **more}), seed=3).double()


def ids(length, seed=0):
    return torch.randint(0, V, (B, length), generator=torch.Generator().manual_seed(seed))


def inputs(**more):
    return CoreInputs(ids(L), decoder=DecoderInputs(ids(T, 1)))._replace(**more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_knows_the_whole_source_and_no_later_input(kind):
    core, given = core_of(kind), inputs()
    table, tokens = core.token_embedding.detach(), {}
    embed = torch.nn.functional.embedding

    def leaves(which, weight):  # the rows that are looked up, as tensors that take gradients
        tokens[len(tokens)] = found = embed(which, table).requires_grad_()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.Embedding,
            "forward",
            lambda self, x: leaves(x, self.weight) if len(self.weight) == V else embed(x, self.weight),
        )
        patch.setattr("zoo.core.encoder_decoder.functional.embedding", leaves)
        output = core(given)
    source, target = tokens[0], tokens[1]
    for place in range(T):
        of_source, of_target = torch.autograd.grad(
            output.last_hidden_state[:, place].sin().sum(), (source, target), retain_graph=True
        )
        seen = of_target.abs().sum(-1) > 0
        assert seen[:, : place + 1].all()
        assert not of_target[:, place + 1 :].any()
        assert (of_source.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_at_either_side_changes_nothing(kind):
    core = core_of(kind)
    short = CoreInputs(ids(L)[:, :5], decoder=DecoderInputs(ids(T, 1)[:, :4]))
    lengths = torch.tensor([5, 5]), torch.tensor([4, 4])
    padded = inputs(attention_pattern=AttentionPattern(lengths=lengths[0]))
    padded = padded._replace(decoder=padded.decoder._replace(attention_pattern=AttentionPattern(True, lengths[1])))
    expected, found = core(short), core(padded)
    assert torch.allclose(expected.last_hidden_state, found.last_hidden_state[:, :4], atol=1e-12)
    assert torch.allclose(expected.encoder_last_hidden_state, found.encoder_last_hidden_state[:, :5], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_gives_what_the_whole_target_gives(kind):
    core = core_of(kind)
    pattern = AttentionPattern(lengths=torch.tensor([L, 6]))
    given = inputs(attention_pattern=pattern)
    expected, pieces, start = core(given), [], 0
    state, calls = GenerationState.empty(), []
    core.embeddings.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for size in (1, 3, 1, T - 5):
            piece = given._replace(decoder=DecoderInputs(given.decoder.input_ids[:, start : start + size]))
            output = core(piece, state)
            pieces.append(output.last_hidden_state)
            state, start = output.state, start + size
    assert len(calls) == 1  # the source is read once
    assert torch.allclose(torch.cat(pieces, 1), expected.last_hidden_state, atol=1e-12)
    keys = state.cross.held(0)[0]
    assert keys.shape[2] == L


@pytest.mark.parametrize("kind", ["post-norm", "buckets", "another decoder"])
def test_every_way_to_run_it_gives_the_same_gradients(kind):
    keys = torch.from_numpy(row_keys(1, 2, range(B)).numpy())
    given = inputs(dropout_keys=keys)
    read = torch.tensor([[1, 3, -1], [6, 0, 2]])

    def gradients(recompute=False, outputs=None):
        core = core_of(kind)
        core.recompute_layers = recompute
        states = core(given._replace(decoder=given.decoder._replace(output_positions=outputs))).last_hidden_state
        wanted = torch.cat([states[0, [1, 3]], states[1, [6, 0, 2]]])
        wanted.sin().sum().backward()
        return {name: p.grad for name, p in core.named_parameters()}

    plain = gradients()
    assert all(g is not None and g.abs().sum() > 0 for name, g in plain.items() if not name.endswith("key.bias"))
    for other in (gradients(recompute=True), gradients(outputs=read)):
        for name, value in plain.items():
            assert torch.allclose(value, other[name], atol=1e-10), name


def test_dropout_of_the_two_sides_is_drawn_apart():
    core = core_of("post-norm", attention_probs_dropout_prob=0.0)
    given = inputs(dropout_keys=torch.from_numpy(row_keys(1, 2, range(B)).numpy()))
    same = given._replace(decoder=DecoderInputs(given.input_ids))
    output = core(same, output_hidden_states=True)
    dropped = [states[0] == 0 for states in (output.encoder_hidden_states, output.hidden_states)]
    assert 0.02 < dropped[0].double().mean() < 0.25
    assert not torch.equal(*dropped)


@pytest.mark.parametrize("kind", ["post-norm", "buckets"])
def test_written_out_attention_equals_the_fused_kernel(kind):
    core, given = core_of(kind), inputs(attention_pattern=AttentionPattern(lengths=torch.tensor([L, 6])))
    fused, written = core(given), core(given, output_attentions=True)
    assert torch.allclose(fused.last_hidden_state, written.last_hidden_state, atol=1e-5)  # softmax in fp32
    for probabilities in (*written.attentions, *written.cross_attentions):
        assert torch.allclose(probabilities.sum(-1), torch.ones(()).to(probabilities))
    for probabilities in written.cross_attentions:
        assert probabilities.shape == (B, 4, T, L)
        assert not probabilities[1, :, :, 6:].any()  # exactly 0
    for probabilities in written.attentions:
        assert not probabilities.triu(1).any()


def test_without_a_decoders_inputs_it_encodes():
    core, given = core_of("post-norm"), inputs()
    alone = core(given._replace(decoder=None))
    assert torch.equal(alone.last_hidden_state, core(given).encoder_last_hidden_state)
    assert alone.encoder_last_hidden_state is None
    with pytest.raises(ZooError, match="state of generation"):
        core(given._replace(decoder=None), GenerationState.empty())


@pytest.mark.parametrize(
    ("facts", "biased", "unbiased"),
    [((512, 6, 8, 2048), 44_138_496, 44_101_632), ((1024, 6, 16, 4096), 176_357_376, 176_283_648)],
)
def test_published_sizes(facts, biased, unbiased):
    """Specs: Transformer, check 1, and check 8: any number of heads."""
    width, layers, heads, inner = facts
    config = CONFIG.replace(
        vocab_size=37000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
    )
    for bias, expected in ((True, biased), (False, unbiased)):
        for count in {heads, 1, 4, 32}:
            with torch.device("meta"):
                core = make_core(config.replace(attention_bias=bias, num_attention_heads=count))
            assert sum(p.numel() for p in core.parameters()) == expected + 37000 * width


def test_one_table_serves_three_uses():
    core, head = core_of("post-norm"), TokenHead(CONFIG, transform=False, bias=False)
    assert not list(head.parameters())
    assert head.matrix(core.token_embedding) is core.embeddings.word_embeddings.weight
    assert [n for n, p in core.named_parameters() if p.shape[0] == V] == ["embeddings.word_embeddings.weight"]
    core.resize_token_embeddings(V + 3, seed=1)
    larger = inputs()._replace(decoder=DecoderInputs(torch.full((B, 1), V + 2)))
    assert core(larger).last_hidden_state.isfinite().all()


def test_without_positions_the_encoder_only_permutes():
    """Specs: Transformer, check 7."""
    core = core_of("post-norm", position_type="none")
    order = torch.randperm(L, generator=torch.Generator().manual_seed(1))
    given = CoreInputs(ids(L))
    moved = core(given._replace(input_ids=given.input_ids[:, order])).last_hidden_state
    assert torch.allclose(core(given).last_hidden_state[:, order], moved, atol=1e-12)


def test_sinusoids():
    """Specs: Transformer, check 6: the start, the norm of a row, a rotation; and the other two layouts."""
    width = 32
    table = sinusoids(60, width)
    assert table[0].tolist() == [0.0, 1.0] * (width // 2)
    assert torch.allclose(table.norm(dim=1), torch.full((60,), math.sqrt(width / 2)), atol=1e-4)
    pairs = torch.view_as_complex(table.view(60, width // 2, 2).flip(-1).contiguous())  # cos + i sin
    assert torch.allclose(pairs[5:], pairs[:-5] * pairs[5], atol=1e-5)
    halves = sinusoids(60, width, "halves")
    assert torch.equal(halves, torch.cat([table[:, 0::2], table[:, 1::2]], 1))
    inclusive = sinusoids(60, width, "halves_inclusive")
    assert torch.equal(inclusive[:, 0], halves[:, 0])
    assert inclusive[1, width // 2 - 1] == pytest.approx(1e-4)
    assert torch.allclose(halves[1, width // 2 - 1], torch.tensor(10000.0 ** -(1 - 2 / width)).sin())


def test_ranges_of_distances():
    """Half of a direction's buckets are single distances; the last holds the farthest (Raffel et al. 2020, 2.1)."""
    distances = torch.arange(-300, 301)
    both = buckets_of(distances, 32, 128, both_sides=True)
    assert both[300].item() == 0
    assert both[300 - 7 : 300].tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert both[301 : 301 + 7].tolist() == [17, 18, 19, 20, 21, 22, 23]
    assert set(both[:173].tolist()) == {15}
    assert set(both[428:].tolist()) == {31}
    left = buckets_of(distances, 32, 128, both_sides=False)
    assert not left[300:].any()
    assert left[300 - 15 : 300].tolist() == list(range(15, 0, -1))
    assert (left[:-1] >= left[1:]).all()


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("kind", ["post-norm", "another decoder", "rotary, shared heads", "buckets"])
def test_operations_are_counted(kind, outputs):
    core = core_of(kind, **PLAIN).float()
    given = inputs()
    read = None if outputs is None else torch.arange(outputs)[None].expand(B, -1)
    given = given._replace(decoder=given.decoder._replace(output_positions=read))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        core(given)
    own = core_flops(core.config, B, L, outputs=None if outputs is None else B * outputs, target_length=T)
    assert own == counter.get_total_flops()


def test_a_tiny_core_learns_to_copy():
    """Specs: Transformer, check 9, with the states of one batch of ten symbols."""
    core = build_core(CONFIG.replace(**PLAIN, initializer_range=0.1, norm_position="pre"), seed=0)
    source = ids(L) % 10 + 2
    given = CoreInputs(source, decoder=DecoderInputs(torch.cat([torch.ones(B, 1).long(), source[:, :-1]], 1)))
    head, optimizer = TokenHead(core.config, False, False), torch.optim.Adam(core.parameters(), lr=0.01)
    for _ in range(60):
        logits = head(core(given).last_hidden_state, core.token_embedding)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), source.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_gradients_add_in_one_order():
    output = core_of("buckets").float()(inputs())
    assert not UNORDERED & backward_steps(output.last_hidden_state.sum())


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"pooler": True}, "model.pooler: false"),
        ({"position_type": "relative"}, "one stack of layers"),
        ({"decoder": DecoderConfig(num_attention_heads=5)}, "does not divide"),
        ({"position_type": "relative_buckets", "relative_attention_num_buckets": 6}, "multiple of 4"),
        ({"position_type": "relative_buckets", "relative_attention_max_distance": 16}, "less than twice"),
    ],
)
def test_what_cannot_be_built_is_refused(facts, message):
    with pytest.raises(ZooError, match=message):
        CONFIG.replace(**facts)


def test_what_cannot_be_run_is_refused():
    core = core_of("post-norm")
    with pytest.raises(ZooError, match="a target of 17 tokens is longer than the 16"):
        core(inputs(decoder=DecoderInputs(ids(17))))
    with pytest.raises(ZooError, match="documents on both sides"):
        core(inputs(attention_pattern=AttentionPattern(documents=torch.zeros(B, L))))
    with pytest.raises(ZooError, match="does not read decoder"):
        build_core(CONFIG.replace(decoder=None))(inputs())
    with pytest.raises(ZooError, match="position_ids are not read"):
        core_of("buckets")(inputs(position_ids=torch.zeros(B, L, dtype=torch.long)))

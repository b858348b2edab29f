"""Reversible layers, the feed-forward part in slices, axial positions."""

import pytest
import torch

from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.reversible import LayerRun
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "pooler": False,
    "norm_position": "pre",
    "embedding_norm": False,
    "type_vocab_size": 0,
    "position_type": "axial",
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [4, 12],
    "max_position_embeddings": 64,
    "reversible": True,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
LAYERS = [
    {"class_path": "zoo.attention.LocalSelfAttention", "init_args": {"chunk_length": 8}},
    {"class_path": "zoo.attention.LSHSelfAttention", "init_args": {"chunk_length": 8, "num_hashes": 2}},
]
pytestmark = pytest.mark.usefixtures("one_thread")


def inputs_of(causal: bool, length: int = 50) -> CoreInputs:
    ids = torch.randint(0, 50, (3, length), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([length, length - 9, 7])
    return CoreInputs(ids, AttentionPattern(causal, lengths), dropout_keys=row_keys(1, 2, [0, 1, 2]))


def gradients(core, inputs) -> dict:
    core.zero_grad()
    states = core(inputs).last_hidden_state
    real = torch.arange(states.shape[1]) < inputs.attention_pattern.lengths[:, None]
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2)))[real].sum().backward()
    return {name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes", [{}, {"attention_layers": None}, {"attention_layers": LAYERS[1:], "num_hidden_groups": 2}]
)
@pytest.mark.parametrize("causal", [True, False])
def test_rebuilt_activations_have_the_gradients_of_stored_ones(causal, changes):
    core = build_core(CoreConfig(**{**TINY, "attention_layers": LAYERS, **changes}))
    rebuilt = gradients(core, inputs_of(causal))
    core.keep_activations = True
    kept = gradients(core, inputs_of(causal))
    assert rebuilt.keys() == kept.keys()
    for name, expected in kept.items():
        assert (rebuilt[name] - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), name


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_inverse_undoes_the_layer(dtype, close):
    core = build_core(CoreConfig(**TINY, attention_layers=LAYERS)).to(dtype)
    inputs = inputs_of(True)._replace(dropout_keys=None)
    _, shared = core._begin(inputs, None, False)
    first, second = torch.randn(2, 3, 50, 16, dtype=dtype, generator=torch.Generator().manual_seed(3))
    for number, layer in enumerate(core.layers):
        run = LayerRun(layer, shared._replace(held_buckets={}), 8 * number)
        with torch.no_grad():
            one, other, _ = run.forward(first, second)
            back = run.inverse(one, other)
        assert max((back[0] - first).abs().max(), (back[1] - second).abs().max()) < close


def kept_bytes(layers: int, reversible: bool) -> int:
    """What the forward pass leaves for the backward pass."""
    config = CoreConfig(**{**TINY, "num_hidden_layers": layers, "attention_layers": LAYERS, "reversible": reversible})
    core, found = build_core(config), {}
    parameters = {p.data_ptr() for p in core.parameters()}

    def pack(x):
        if x.data_ptr() not in parameters:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        core(inputs_of(True))
    return sum(found.values())


def test_what_is_kept_does_not_grow_with_depth():
    two, eight = kept_bytes(2, True), kept_bytes(8, True)
    assert eight == two
    assert kept_bytes(8, False) > 3 * kept_bytes(2, False)


def test_the_feed_forward_part_in_slices_changes_nothing():
    for reversible in (True, False):
        config = CoreConfig(**{**TINY, "attention_layers": LAYERS, "activation_dropout": 0.1, "reversible": reversible})
        whole, sliced = (build_core(config.replace(chunk_size_feed_forward=size)) for size in (0, 7))
        inputs = inputs_of(True)
        difference = whole(inputs).last_hidden_state - sliced(inputs).last_hidden_state
        assert difference.abs().max() < 1e-6
        found = gradients(sliced, inputs)
        for name, expected in gradients(whole, inputs).items():
            assert (found[name] - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


def test_axial_positions():
    core = build_core(CoreConfig(**TINY))
    own = core.embeddings.axial
    assert sum(p.numel() for p in own.parameters()) == 8 * 4 + 8 * 12
    assert own.of_rows.std().item() == pytest.approx(1, abs=0.35)
    found = own(torch.zeros(1, 64, 16), None, 0)[0]
    assert torch.equal(found[8:16, :4], found[8:9, :4].expand(8, 4))  # a row's places share its vector
    assert torch.equal(found[3::8, 4:], found[3:4, 4:].expand(8, 12))
    given = own(torch.zeros(1, 3, 16), torch.tensor([[9, 0, 63]]), 0)[0]
    assert torch.equal(given, found[[9, 0, 63]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axial_pos_shape": [8, 7]}, r"makes 56 positions.*is 64.*\[8, 8\]"),
        ({"axial_pos_shape": None}, "axial_pos_shape"),
        ({"axial_pos_shape": [4, 4, 4]}, "two whole numbers"),
        ({"axial_pos_embds_dim": [4, 4]}, "adds up to 8.*16"),
        ({"position_type": "learned"}, "axial_pos_shape.*position_type: axial"),
        ({"norm_position": "post"}, "norm_position: pre"),
        ({"pooler": True}, "pooler: false"),
        ({"position_offset": 2}, "position_offset"),
    ],
)
def test_what_does_not_go_together_is_said(changes, words):
    with pytest.raises(ZooError, match=words):
        CoreConfig(**{**TINY, **changes})


def test_rows_longer_than_the_tables_are_refused():
    with pytest.raises(ZooError, match="64"):
        build_core(CoreConfig(**TINY))(CoreInputs(torch.zeros(1, 65, dtype=torch.long)))

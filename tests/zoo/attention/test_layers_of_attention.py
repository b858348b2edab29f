"""``model.attention_layers``: classes named by path, in turn over the layers; and the window, beside a reference."""

import json

import pytest
import torch

from zoo.attention import Attention, SlidingWindow
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.flops import core_flops
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs

TINY = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "pooler": False}
PLAIN = {"class_path": "zoo.attention.Attention"}


def window(size: int = 4, **more) -> dict:
    return {"class_path": "zoo.attention.SlidingWindow", "init_args": {"window": size, **more}}


def core_of(layers, **more):
    return build_core(CoreConfig(**{**TINY, "max_position_embeddings": 512, **more}, attention_layers=layers)).eval()


class Doubled(Attention):
    """A class of a user's own."""

    def __init__(self, config: CoreConfig, factor: float = 2.0) -> None:
        super().__init__(config)
        self.factor = factor

    def forward(self, hidden, shared, site):
        found, probabilities = super().forward(hidden, shared, site)
        return self.factor * found, probabilities


def test_layers_take_entries_in_turn_and_the_plain_class_is_the_default():
    core = core_of([PLAIN, window()])
    assert [type(layer.attention) for layer in core.layers] == [Attention, SlidingWindow, Attention]
    ids = torch.arange(20).view(2, 10)
    plain, named = core_of(None), core_of([PLAIN])
    inputs = CoreInputs(ids, AttentionPattern(False))
    assert torch.equal(plain(inputs).last_hidden_state, named(inputs).last_hidden_state)


def test_a_class_of_ones_own_works_by_its_path_and_is_written_and_read():
    config = CoreConfig(**TINY, attention_layers=[{"class_path": f"{__name__}.Doubled", "init_args": {"factor": 3}}])
    back = CoreConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert hash(back) == hash(config)
    assert build_core(back).layers[0].attention.factor == 3.0


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "empty"),
        ([{"class": "zoo.attention.Attention"}], "unknown key 'class'.*class_path"),
        ([{"class_path": "zoo.attention.SlidingWindows"}], "Did you mean 'SlidingWindow'"),
        ([{"class_path": "zoo.config.CoreConfig"}], "no TokenMixer"),
        ([window(0)], r"attention_layers\[0\].init_args.window = 0; a whole number of at least 1"),
        ([PLAIN, window("wide")], r"attention_layers\[1\].init_args: .*window"),
        ([window(4, globals=1)], "unknown key.*globals.*global_tokens"),
        ([{"class_path": "zoo.attention.SlidingWindow"}], "window"),
        ([window(4, config={})], "not yours to give"),
        ([window(4, rope_theta=100.0)], "rotary"),
    ],
)
def test_mistakes_are_told_before_training(layers, message):
    with pytest.raises(ZooError, match=message):
        core_of(layers)


def test_layers_that_share_weights_cannot_attend_in_two_ways():
    with pytest.raises(ZooError, match="share their weights"):
        core_of([PLAIN, window()], num_hidden_groups=1)
    assert len(core_of([window()], num_hidden_groups=1).layers) == 1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 64])
@pytest.mark.parametrize("padded", [False, True])
def test_blocks_and_a_mask_and_full_attention_under_that_mask_agree(causal, size, padded):
    """230 tokens are computed in blocks; probabilities are asked for to have the mask; the rule is written out here."""
    core, length = core_of([window(size)], num_hidden_layers=1), 230
    lengths = torch.tensor([length, 7]) if padded else None
    ids = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(1))
    inputs = CoreInputs(ids, AttentionPattern(causal, lengths))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    near = (distance >= 0) & (distance < size) if causal else distance.abs() <= size // 2
    real = torch.ones(2, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    dense = (near & real[:, None, :]) | (distance == 0)
    reference = core_of(None, num_hidden_layers=1)(CoreInputs(ids, AttentionPattern(False, dense=dense)))
    blocks = core(inputs).last_hidden_state
    masked = core(inputs, output_attentions=True)
    assert (blocks - reference.last_hidden_state)[real].abs().max() < 1e-5
    assert (masked.last_hidden_state - reference.last_hidden_state)[real].abs().max() < 1e-5
    hidden = ~dense & real[:, :, None]
    assert (masked.attentions[0].transpose(0, 1)[:, hidden] < 1e-9).all()


@pytest.mark.parametrize("causal", [False, True])
def test_no_gradient_comes_from_outside_the_window(causal):
    core = core_of([window(5)], num_hidden_layers=1, position_type="none")
    for length in (40, 230):
        ids = torch.arange(length)[None] % 50
        embedded = core.embeddings.word_embeddings(ids).detach().requires_grad_()
        handle = core.embeddings.word_embeddings.register_forward_hook(lambda *_, given=embedded: given)
        core(CoreInputs(ids, AttentionPattern(causal))).last_hidden_state[0, 20, 0].backward()
        handle.remove()
        touched = embedded.grad[0].abs().sum(-1).nonzero().flatten().tolist()
        assert touched == (list(range(16, 21)) if causal else list(range(18, 23)))


def test_global_tokens_see_all_and_are_seen_by_all():
    core = core_of([window(2, global_tokens=1)], num_hidden_layers=1)
    ids = torch.arange(12)[None]
    seen = core(CoreInputs(ids, AttentionPattern(False)), output_attentions=True).attentions[0][0, 0] > 0
    distance = (torch.arange(12)[:, None] - torch.arange(12)).abs()
    expected = distance <= 1
    expected[0], expected[:, 0] = True, True
    assert torch.equal(seen, expected)


def test_a_rotary_base_of_its_own():
    own = core_of([window(64, rope_theta=100.0)], position_type="rotary")
    same = core_of([window(64)], position_type="rotary", rope_theta=100.0)
    other = core_of([window(64)], position_type="rotary")
    inputs = CoreInputs(torch.arange(10)[None], AttentionPattern(False))
    assert torch.equal(own(inputs).last_hidden_state, same(inputs).last_hidden_state)
    assert not torch.allclose(own(inputs).last_hidden_state, other(inputs).last_hidden_state)


def test_layers_without_a_feed_forward_part():
    core = core_of(None, feed_forward=False)
    assert not any("intermediate" in name for name, _ in core.named_parameters())
    assert core(CoreInputs(torch.arange(10)[None], AttentionPattern(False))).last_hidden_state.shape == (1, 10, 16)
    config = core.config
    assert core_flops(config, 1, 10) == core_flops(config.replace(feed_forward=True), 1, 10) - 3 * 10 * 4 * 16 * 24

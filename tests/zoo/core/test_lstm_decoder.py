"""The LSTM encoder-decoder with attention: what a state knows, the same numbers in every way to run it."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.config import CoreConfig
from zoo.config_parts import DecoderConfig, RecurrentConfig
from zoo.core.build import build_core
from zoo.core.flops import core_flops
from zoo.core.target_reader import GenerationState
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, DecoderInputs

B, L, T, V = 2, 9, 7, 61
CONFIG = CoreConfig(
    vocab_size=V,
    hidden_size=24,
    num_hidden_layers=2,
    position_type="none",
    embedding_norm=False,
    type_vocab_size=0,
    pooler=False,
    initializer_range=0.3,
    recurrent=RecurrentConfig(cell_size=20, cell_clip=None, projection_clip=None, dropout=0.2),
    decoder=DecoderConfig(num_hidden_layers=3),
)


def inputs(seed=0, **more):
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(0, V, (B, n), generator=draw) for n in (L, T))
    return CoreInputs(source, decoder=DecoderInputs(target))._replace(**more)


def core_of(**more):
    return build_core(CONFIG.replace(**more), seed=3)


def test_a_state_knows_the_whole_source_and_no_later_input():
    core, given = core_of(), inputs()
    expected = core(given).last_hidden_state
    for place in range(T):
        target = given.decoder.input_ids.clone()
        target[:, place] = (target[:, place] + 1) % V
        found = core(given._replace(decoder=DecoderInputs(target))).last_hidden_state
        same = (found == expected).all(-1)
        assert same[:, :place].all()
        assert not same[:, place:].any()
    for place in range(L):
        source = given.input_ids.clone()
        source[:, place] = (source[:, place] + 1) % V
        assert not (core(given._replace(input_ids=source)).last_hidden_state == expected).all(-1).any()


def test_padding_changes_nothing():
    core, given = core_of(), inputs()
    short = CoreInputs(given.input_ids[:, :5], decoder=DecoderInputs(given.decoder.input_ids[:, :4]))
    padded = given._replace(attention_pattern=AttentionPattern(lengths=torch.tensor([5, 5])))
    assert torch.allclose(core(short).last_hidden_state, core(padded).last_hidden_state[:, :4], atol=1e-6)


def test_token_by_token_gives_what_the_whole_target_gives():
    core, given = core_of(), inputs(attention_pattern=AttentionPattern(lengths=torch.tensor([L, 6])))
    expected, pieces, start, state = core(given), [], 0, GenerationState.empty()
    with torch.no_grad():
        for size in (1, 3, 1, T - 5):
            output = core(
                given._replace(decoder=DecoderInputs(given.decoder.input_ids[:, start : start + size])), state
            )
            pieces.append(output.last_hidden_state)
            state, start = output.state, start + size
    assert torch.allclose(torch.cat(pieces, 1), expected.last_hidden_state, atol=1e-6)


def test_recomputed_layers_have_the_same_gradients_and_all_have_one():
    keys, found = torch.from_numpy(row_keys(1, 2, range(B)).numpy()), []
    for again in (False, True):
        core = core_of()
        core.recompute_layers = again
        core(inputs(dropout_keys=keys)).last_hidden_state.sin().sum().backward()
        found.append({name: p.grad for name, p in core.named_parameters()})
    assert all(g is not None and g.abs().sum() > 0 for name, g in found[0].items() if not name.endswith("key.bias"))
    assert all(torch.allclose(value, found[1][name], atol=1e-6) for name, value in found[0].items())


def test_attention_is_shown_and_hides_padding():
    core, given = core_of(), inputs(attention_pattern=AttentionPattern(lengths=torch.tensor([L, 6])))
    written, plain = core(given, output_attentions=False), core(given, output_hidden_states=True)
    assert torch.equal(written.last_hidden_state, plain.last_hidden_state)
    assert len(plain.hidden_states) == 4
    assert len(plain.encoder_hidden_states) == 3


def test_the_start_of_a_layer_gets_its_gradient():
    """As autograd computes it, by differences in double precision."""
    from zoo.core.lstm import RecurrentLayer

    layer = RecurrentLayer(RecurrentConfig(4, None, None), 3, 1).double()
    inputs, cell = torch.randn(1, 5, 2, 3, dtype=torch.double), torch.randn(1, 2, 4, dtype=torch.double)
    start = torch.randn(1, 2, 3, dtype=torch.double, requires_grad=True)
    weights = torch.arange(36, dtype=torch.double).cos().view(1, 6, 2, 3)
    (found,) = torch.autograd.grad((layer(inputs, start, cell)[0] * weights).sum(), start)
    for place in range(6):
        step = torch.zeros(6, dtype=torch.double)
        step[place] = 1e-6
        ends = [(layer(inputs, start + s * step.view_as(start), cell)[0] * weights).sum() for s in (1, -1)]
        assert (ends[0] - ends[1]).item() / 2e-6 == pytest.approx(found.flatten()[place].item(), abs=1e-6)


def test_operations_are_counted():
    core = core_of()
    # The counter does not know the product in place.
    in_place = {torch.ops.aten.baddbmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2]}
    with (
        FlopCounterMode(display=False, custom_mapping=in_place) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        core(inputs())
    assert core_flops(core.config, B, L, target_length=T) == counter.get_total_flops()


@pytest.mark.parametrize("beams", [1, 3])
def test_it_generates_as_any_other_with_its_carry_in_the_cache(beams):
    from zoo import hf
    from zoo.model_folder import ModelMetadata

    heads = {"lm": {"kind": "token", "transform": False, "bias": True}}
    config = hf.ZooConfig.of(ModelMetadata(CONFIG, heads=heads, decoder_start_token_id=1))
    torch.manual_seed(4)
    model = hf.ZooForConditionalGeneration(config).eval()
    mask = torch.ones(B, L, dtype=torch.long)
    mask[1, 5:] = 0
    ways = {"num_beams": beams, "max_length": 9, "eos_token_id": 2, "pad_token_id": 0, "no_repeat_ngram_size": 1}
    given = {"input_ids": inputs().input_ids, "attention_mask": mask, **ways}
    assert torch.equal(model.generate(**given), model.generate(**given, use_cache=False))


def test_what_it_cannot_do_is_refused():
    core = core_of()
    with pytest.raises(ZooError, match="both directions"):
        core(inputs(attention_pattern=AttentionPattern(causal=True)))
    with pytest.raises(ZooError, match="from left to right"):
        core(inputs(decoder=inputs().decoder._replace(attention_pattern=AttentionPattern())))

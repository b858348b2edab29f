"""The recurrent core: against a plain implementation and torch's, its state, its lengths, what it refuses."""

import json
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretraining.objectives import CausalLM
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import PretrainingModel
from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig
from zoo.core.build import build_core, make_core
from zoo.core.characters import CharacterEncoder
from zoo.core.flops import core_flops
from zoo.core.init import initialise
from zoo.core.lstm import BidirectionalLSTM
from zoo.core.transformer import Transformer
from zoo.dropout import keyed_dropout, row_keys
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream
from zoo.model_folder import ModelMetadata, load_core, save_model_folder
from zoo.vocabulary import Vocabulary

V, P, C, LAYERS = 60, 6, 10, 2
SHAPE = {
    "vocab_size": V,
    "hidden_size": 2 * P,
    "num_hidden_layers": LAYERS,
    "embedding_norm": False,
    "position_type": "none",
    "type_vocab_size": 0,
    "hidden_dropout_prob": 0.0,
    "pooler": False,
    "initializer_range": 1.0,
}


def facts(**recurrent) -> CoreConfig:
    return CoreConfig(**SHAPE, recurrent=RecurrentConfig(**{"cell_size": C, **recurrent}))


def strong(core: BidirectionalLSTM, factor: float) -> BidirectionalLSTM:
    """Weights so large that cells and outputs reach their bounds."""
    with torch.no_grad():
        for layer in core.layers:
            for parameter in layer.parameters():
                parameter.mul_(factor)
            layer.bias.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(1))
    return core


def some_ids(rows=4, length=9, seed=0):
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain(core: BidirectionalLSTM, tokens, lengths, state=None, masks=None):
    """The same core, row by row and step by step, in the words of the specification.

    ``masks`` are factors of each layer's input and of the last output.
    """
    size, bound = core.recurrent.cell_size, core.recurrent
    outputs = [[torch.cat([t, t], -1) for t in tokens]]
    masks = masks or [torch.ones(len(tokens), tokens.shape[1], 2 * P)] * (LAYERS + 1)
    last = {"hidden": torch.zeros(len(tokens), LAYERS, 2, P), "cell": torch.zeros(len(tokens), LAYERS, 2, C)}
    last = {name: values.to(tokens.dtype) for name, values in last.items()}
    for number, layer in enumerate(core.layers):
        found = []
        for row, below in enumerate(outputs[-1]):
            below = below * masks[number][row]
            halves = []
            for direction in range(2):
                order = range(lengths[row]) if direction == 0 else reversed(range(lengths[row]))
                h = tokens.new_zeros(P) if state is None else state["hidden"][row, number, direction]
                c = tokens.new_zeros(C) if state is None else state["cell"][row, number, direction]
                made = [tokens.new_zeros(P)] * len(below)
                for k in order:
                    x = below[k, direction * P : (direction + 1) * P]
                    z = layer.input_weight[direction] @ x + layer.recurrent_weight[direction] @ h
                    i, f, o, g = (z + layer.bias[direction]).split(size)
                    c = i.sigmoid() * g.tanh() + (f + 1.0).sigmoid() * c
                    c = c if bound.cell_clip is None else c.clamp(-bound.cell_clip, bound.cell_clip)
                    h = layer.projection[direction] @ (o.sigmoid() * c.tanh())
                    h = h if bound.projection_clip is None else h.clamp(-bound.projection_clip, bound.projection_clip)
                    made[k] = h
                last["hidden"][row, number, direction], last["cell"][row, number, direction] = h.detach(), c.detach()
                halves.append(torch.stack(made))
            output = torch.cat(halves, -1)
            found.append(output + below if number and bound.skip_connections else output)
        outputs.append(found)
    layers = [torch.stack(rows) for rows in outputs]
    return layers, layers[-1] * masks[-1], last


# --- against other implementations ---


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("clips", "factor"), [((3.0, 3.0), 6.0), ((0.5, 0.2), 3.0), ((None, None), 3.0)])
def test_values_and_gradients_of_a_plain_implementation(skip, clips, factor):
    """In double precision. Where weights reach the bounds, a rounding grows with every step: ``factor`` is the smallest
    at which both bounds act (12 times the weights would make 10,000 times the difference).
    """
    config = facts(skip_connections=skip, cell_clip=clips[0], projection_clip=clips[1], dropout=0.0)
    core = strong(build_core(config, seed=1), factor).double()
    ids, lengths = some_ids(), [9, 4, 1, 7]
    real = torch.arange(9)[None, :, None] < torch.tensor(lengths)[:, None, None]
    toward = torch.randn(4, 9, 2 * P, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * real

    found = core(CoreInputs(ids, AttentionPattern(lengths=torch.tensor(lengths))), output_hidden_states=True)
    (found.last_hidden_state * toward).sum().backward()
    grads = {name: p.grad.clone() for name, p in core.named_parameters()}
    core.zero_grad()
    layers, expected, last = plain(core, core.embeddings(CoreInputs(ids)), lengths)
    (expected * toward).sum().backward()

    torch.testing.assert_close(found.last_hidden_state * real, expected * real)
    for ours, theirs in zip(found.hidden_states, layers, strict=True):
        torch.testing.assert_close(ours * real, theirs * real)
    for name, values in last.items():
        torch.testing.assert_close(found.state[name], values)
    for name, parameter in core.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, msg=lambda text, name=name: f"{name}: {text}")
    if clips[0] is not None:  # the bounds did act, so their gradients were compared too
        assert (found.state["cell"].abs() == clips[0]).any()
        assert (found.state["hidden"].abs() == clips[1]).any()


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_torch_lstm_without_bounds():
    core = build_core(facts(cell_clip=None, projection_clip=None, skip_connections=False), seed=2)
    ids = some_ids()
    order = torch.cat(
        [torch.arange(0, C), torch.arange(C, 2 * C), torch.arange(3 * C, 4 * C), torch.arange(2 * C, 3 * C)]
    )
    tokens = core.embeddings(CoreInputs(ids))
    halves = []
    for direction in range(2):
        stack = nn.LSTM(P, C, LAYERS, proj_size=P, batch_first=True)
        for number, layer in enumerate(core.layers):
            weights = layer.weights(2)
            new = {
                f"weight_ih_l{number}": weights.inputs[direction][order],
                f"weight_hh_l{number}": weights.recurrent[direction][order],
                f"bias_ih_l{number}": weights.bias[direction][order],
                f"bias_hh_l{number}": torch.zeros(4 * C),
                f"weight_hr_l{number}": weights.projection[direction],
            }
            for name, values in new.items():
                getattr(stack, name).data.copy_(values)
        halves.append(stack(tokens)[0] if direction == 0 else stack(tokens.flip(1))[0].flip(1))
    torch.testing.assert_close(core(CoreInputs(ids)).last_hidden_state, torch.cat(halves, -1), rtol=1e-5, atol=1e-6)


def test_a_second_backward_pass_is_refused():
    core = build_core(facts())
    loss = core(CoreInputs(some_ids())).last_hidden_state.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


# --- what the specification asks for (section 8) ---


def test_bounds():
    core = strong(build_core(facts()), 30.0)
    output = core(CoreInputs(some_ids(8, 20)), output_hidden_states=True)
    _, first, second = output.hidden_states
    assert first.abs().max() == 3.0  # reached, not passed
    assert 3.0 < second.abs().max() <= 6.0  # the residual is added behind the bound
    assert output.state["cell"].abs().max() == 3.0
    assert output.state["hidden"].abs().max() == 3.0  # without the residual


def test_cells_never_pass_their_bound():
    """At every step of every layer, not only where a row ends."""
    core, seen = strong(build_core(facts()), 30.0), []
    for layer in core.layers:
        layer.register_forward_hook(lambda module, given, found: seen.append(found))
    core(CoreInputs(some_ids(8, 20)))
    assert len(seen) == LAYERS
    for hiddens, cells in seen:
        assert cells.shape == (2, 21, 8, C)
        assert cells.abs().max() == 3.0
        assert hiddens.abs().max() == 3.0


def test_token_layer_is_doubled():
    core = build_core(facts())
    first = core(CoreInputs(some_ids()), output_hidden_states=True).hidden_states[0]
    assert torch.equal(first[..., :P], first[..., P:])


@pytest.mark.parametrize("at", [0, 3, 8])
def test_halves_see_one_side_and_the_token_itself(at):
    core = build_core(facts())
    ids = torch.arange(9)[None]
    for half, seen in ((slice(None, P), range(at + 1)), (slice(P, None), range(at, 9))):
        core.zero_grad()
        core(CoreInputs(ids)).last_hidden_state[0, at, half].square().sum().backward()
        gradient = core.token_embedding.grad.abs().sum(1)
        assert [k for k in range(9) if gradient[k] > 0] == list(seen)


def test_two_windows_with_state_are_one_in_values_but_not_in_gradients():
    core = build_core(facts())
    ids = torch.arange(40)[None].repeat(2, 1)
    whole = core(CoreInputs(ids, AttentionPattern(causal=True)))
    first = core(CoreInputs(ids[:, :20], AttentionPattern(causal=True)))
    second = core(CoreInputs(ids[:, 20:], AttentionPattern(causal=True)), first.state)
    both = torch.cat([first.last_hidden_state, second.last_hidden_state], 1)
    torch.testing.assert_close(both, whole.last_hidden_state, rtol=1e-5, atol=1e-6)
    for name, values in second.state.items():
        assert not values.requires_grad
        torch.testing.assert_close(values, whole.state[name], rtol=1e-5, atol=1e-6)
    second.last_hidden_state.sum().backward()
    gradient = core.token_embedding.grad.abs().sum(1)
    assert (gradient[:20] == 0).all()
    assert (gradient[20:40] > 0).all()


def test_the_backward_direction_carries_its_state_too():
    """Reading windows from the text's end, the backward direction goes on as the forward one does."""
    core = build_core(facts())
    ids = some_ids(3, 10)
    whole = core(CoreInputs(ids)).last_hidden_state[..., P:]
    late = core(CoreInputs(ids[:, 5:]))
    early = core(CoreInputs(ids[:, :5]), late.state).last_hidden_state[..., P:]
    torch.testing.assert_close(early, whole[:, :5], rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing_and_the_state_stands_at_the_true_end():
    core = build_core(facts())
    ids, lengths = some_ids(4, 9), torch.tensor([9, 4, 0, 7])
    output = core(CoreInputs(ids, AttentionPattern(lengths=lengths)), output_hidden_states=True)
    longer = torch.cat([ids, some_ids(4, 5, seed=7)], 1)
    padded = core(CoreInputs(longer, AttentionPattern(lengths=lengths)), output_hidden_states=True)
    for row, length in enumerate(lengths):
        alone = core(CoreInputs(ids[row : row + 1, : max(length, 1)], AttentionPattern(lengths=lengths[row : row + 1])))
        for found in (output, padded):
            for name in ("hidden", "cell"):
                torch.testing.assert_close(found.state[name][row], alone.state[name][0])
            torch.testing.assert_close(found.last_hidden_state[row, :length], alone.last_hidden_state[0, :length])
    assert (output.state["hidden"][2] == 0).all()


def test_state_rows_follow_the_batch():
    core = build_core(facts())
    first, second = some_ids(4, 5), some_ids(4, 6, seed=1)
    state = core(CoreInputs(first)).state
    assert {name: tuple(values.shape) for name, values in state.items()} == {
        "hidden": (4, LAYERS, 2, P),
        "cell": (4, LAYERS, 2, C),
    }
    expected = core(CoreInputs(second), state)
    order = torch.tensor([2, 0, 3, 1])
    permuted = core(CoreInputs(second[order]), {name: values[order] for name, values in state.items()})
    torch.testing.assert_close(permuted.last_hidden_state, expected.last_hidden_state[order])
    torch.testing.assert_close(permuted.state["cell"], expected.state["cell"][order])


def test_causal_rows_run_one_direction():
    core = build_core(facts())
    ids = some_ids()
    both, one = (
        core(CoreInputs(ids), output_hidden_states=True),
        core(CoreInputs(ids, AttentionPattern(causal=True)), output_hidden_states=True),
    )
    torch.testing.assert_close(one.last_hidden_state[..., :P], both.last_hidden_state[..., :P])
    for states in one.hidden_states[1:]:
        assert (states[..., P:] == 0).all()
    start = {"hidden": torch.randn(4, LAYERS, 2, P), "cell": torch.randn(4, LAYERS, 2, C)}
    after = core(CoreInputs(ids, AttentionPattern(causal=True)), start).state
    for name, values in start.items():  # what the other direction remembered is still there
        torch.testing.assert_close(after[name][:, :, 1], values[:, :, 1])
    one.last_hidden_state.sum().backward()
    assert all((p.grad[1] == 0).all() and (p.grad[0] != 0).any() for p in core.layers.parameters())


# --- dropout, checkpointing, precision ---


@pytest.mark.parametrize("skip", [True, False])
def test_dropout_stands_where_the_original_has_it(skip):
    """On every layer's input, so that the residual has it too, and on the last output; not on the states between."""
    core = build_core(facts(dropout=0.3, skip_connections=skip)).double()
    ids, keys = some_ids(), row_keys(1, 2, range(4))
    ones = torch.ones(4, 9, 2 * P)
    masks = [keyed_dropout(ones, keys, 8 * (number + 1), 0.3).double() for number in range(LAYERS + 1)]
    assert 0.2 < (masks[0] == 0).double().mean() < 0.4
    assert not torch.equal(masks[0][..., :P], masks[0][..., P:])  # the directions have masks of their own
    layers, last, _ = plain(core, core.embeddings(CoreInputs(ids)), [9] * 4, masks=masks)
    found = core(CoreInputs(ids, dropout_keys=keys), output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, last, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found.hidden_states, layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_dropout_does_not_depend_on_padding_or_neighbours():
    core = build_core(facts(dropout=0.3))
    ids, lengths, keys = some_ids(4, 9), torch.tensor([9, 4, 6, 7]), row_keys(1, 2, range(4))
    whole = core(CoreInputs(ids, AttentionPattern(lengths=lengths), dropout_keys=keys)).last_hidden_state
    part = core(
        CoreInputs(ids[1:3, :6], AttentionPattern(lengths=lengths[1:3]), dropout_keys=keys[1:3])
    ).last_hidden_state
    torch.testing.assert_close(part[0, :4], whole[1, :4])
    torch.testing.assert_close(part[1], whole[2, :6])


def test_recomputed_layers_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        core = build_core(facts(dropout=0.2))
        core.recompute_layers = recompute
        state = core(CoreInputs(some_ids(seed=5))).state
        output = core(CoreInputs(some_ids(), dropout_keys=row_keys(0, 0, range(4))), state)
        output.last_hidden_state.square().sum().backward()
        gradients.append({name: p.grad for name, p in core.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_low_precision_products():
    core = build_core(facts(dropout=0.0, cell_size=32))
    ids = some_ids()
    exact = core(CoreInputs(ids)).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        output = core(CoreInputs(ids))
        output.last_hidden_state.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in core.parameters())
    assert output.state["cell"].dtype == torch.float32
    torch.testing.assert_close(output.last_hidden_state.float(), exact, rtol=0.1, atol=0.02)


# --- facts, folders, what is refused ---


def test_facts_choose_the_core():
    assert isinstance(make_core(facts()), BidirectionalLSTM)
    assert isinstance(make_core(CoreConfig(vocab_size=V)), Transformer)
    spelt = CharacterConfig(filters=((1, 4), (2, 8)), n_highway=1)
    both = facts().replace(characters=spelt, tie_word_embeddings=False)
    core = make_core(both)
    assert isinstance(core, BidirectionalLSTM)
    assert isinstance(core.embeddings.word_embeddings, CharacterEncoder)
    assert both.embedding_width == both.input_width == P
    assert core.token_embedding.shape == (0, P)
    factorised = make_core(facts().replace(embedding_size=3))
    assert factorised.token_embedding.shape == (V, 3)
    assert factorised(CoreInputs(some_ids())).last_hidden_state.shape == (4, 9, 2 * P)
    shared = build_core(facts().replace(num_hidden_layers=3, num_hidden_groups=1))
    assert len(shared.layers) == 1
    assert shared(CoreInputs(some_ids())).state["cell"].shape == (4, 3, 2, C)


def test_initial_values_follow_the_names():
    core = build_core(facts(), seed=3)
    bound = (6 / (2 * P + 4 * C)) ** 0.5
    for layer in core.layers:
        assert 0.9 * bound < layer.input_weight.abs().max() <= bound
        assert (layer.bias == 0).all()
        assert (layer.weights(2).bias[:, C : 2 * C] == 1.0).all()
    again, other = build_core(facts(), seed=3), build_core(facts(), seed=4)
    assert torch.equal(core.layers[1].projection, again.layers[1].projection)
    assert not torch.equal(core.layers[1].projection, other.layers[1].projection)
    single = build_core(facts().replace(num_hidden_layers=1), seed=3)
    assert torch.equal(core.layers[0].input_weight, single.layers[0].input_weight)
    assert not torch.equal(make_core(facts()).layers[0].input_weight, torch.zeros(2, 4 * C, P))
    pickle.dumps(core)  # closures among its parts would break transformers' and torch's own saving


def test_facts_read_back():
    config = facts().replace(characters=CharacterConfig(filters=[[1, 4], [2, 8]]), tie_word_embeddings=False)
    as_json = json.loads(json.dumps(config.to_dict()))
    assert config.to_dict() == as_json
    assert CoreConfig.from_dict(as_json) == config
    assert hash(CoreConfig.from_dict(as_json)) == hash(config)
    as_json["recurrent"]["cell_sise"] = as_json["recurrent"].pop("cell_size")
    with pytest.raises(ZooError, match="unknown key 'cell_sise' in the core's recurrent config"):
        CoreConfig.from_dict(as_json)


def test_facts_from_the_command_line():
    argv = ["--config", "gpt-tiny", "--model.recurrent.cell_size", "32", "--model.position_type", "none"]
    argv += ["--model.characters.filters", "[[1, 4], [3, 8]]", "--model.tie_word_embeddings", "false"]
    settings = load_pretrain_config(argv)
    model = settings.value.model
    assert model.recurrent == RecurrentConfig(cell_size=32)
    assert model.characters == CharacterConfig(filters=((1, 4), (3, 8)))
    assert load_pretrain_config([], settings.resolved).value.model == model
    with pytest.raises(ZooError, match="cell_clips"):
        load_pretrain_config(["--config", "gpt-tiny", "--model.recurrent.cell_clips", "3"])


def test_model_folder(tmp_path):
    spelt = CharacterConfig(filters=((1, 4), (2, 8)), n_highway=1)
    for config in (facts(), facts().replace(characters=spelt, tie_word_embeddings=False, vocab_size=3)):
        core = build_core(config)
        core.set_spellings(["a", "b", "c"], Vocabulary(3))
        save_model_folder(tmp_path / "model", core, {}, ModelMetadata(config))
        loaded, found = load_core(tmp_path / "model")
        assert found.config == config
        ids = some_ids() % 3
        assert torch.equal(loaded(CoreInputs(ids)).last_hidden_state, core(CoreInputs(ids)).last_hidden_state)


def test_pooler():
    core = build_core(facts().replace(pooler=True))
    output = core(CoreInputs(some_ids()))
    torch.testing.assert_close(output.pooler_output, core.pooler(output.last_hidden_state[:, 0]).tanh())


def test_counted_operations():
    spelt = CharacterConfig(max_characters_per_token=8, embedding_dim=4, filters=((1, 5), (3, 6)), n_highway=1)
    config = CoreConfig(**{**SHAPE, "vocab_size": 24}, recurrent=RecurrentConfig(cell_size=C))
    config = config.replace(characters=spelt, tie_word_embeddings=False)
    core = build_core(config)
    ids = torch.arange(24).view(3, 8)  # every word once, and none short, so that nothing is saved
    core.set_spellings(["abcdef"] * 24, Vocabulary(24))
    for causal in (False, True):
        # The counter does not know the product in place.
        in_place = {torch.ops.aten.baddbmm_: lambda total, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2]}
        with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.no_grad():
            core(CoreInputs(ids, AttentionPattern(causal=causal)))
        assert counter.get_total_flops() == core_flops(config, 3, 8, causal=causal)


def test_wrong_facts_are_named():
    with pytest.raises(ZooError, match="must be even"):
        facts().replace(hidden_size=13, num_attention_heads=1)
    with pytest.raises(ZooError, match="rotary is for attention"):
        facts().replace(position_type="rotary")
    with pytest.raises(ZooError, match="cell_clip = 0"):
        RecurrentConfig(cell_clip=0.0)
    with pytest.raises(ZooError, match="cell_size = 0"):
        RecurrentConfig(cell_size=0)
    with pytest.raises(ZooError, match="from 0 to below 1"):
        RecurrentConfig(dropout=1.0)
    with pytest.raises(ZooError, match="tie_word_embeddings: false"):
        facts().replace(characters=CharacterConfig())
    with pytest.raises(ZooError, match="first layer's input"):
        facts().replace(embedding_size=2 * P, embedding_projection=False)


def test_what_it_cannot_read_is_named():
    core = build_core(facts())
    ids = some_ids()
    see_all = torch.ones(1, 9, 9, dtype=torch.bool)
    for visible in (
        AttentionPattern(dense=see_all),
        AttentionPattern(documents=ids),
        AttentionPattern(permutation_ranks=ids),
    ):
        with pytest.raises(ZooError, match="does not read attention_pattern"):
            core(CoreInputs(ids, visible))
    with pytest.raises(ZooError, match="does not read query"):
        core(CoreInputs(ids, query=QueryStream(ids)))
    with pytest.raises(ZooError, match="no attention"):
        core(CoreInputs(ids), output_attentions=True)
    with pytest.raises(ZooError, match="character_ids"):
        core(CoreInputs(ids, character_ids=ids[..., None]))
    state = core(CoreInputs(ids)).state
    with pytest.raises(ZooError, match=r"'hidden' has shape \(3, 2, 2, 6\); \(4, 2, 2, 6\) is needed"):
        core(CoreInputs(ids), {name: values[:3] for name, values in state.items()})
    with pytest.raises(ZooError, match="'hidden' has shape None"):
        core(CoreInputs(ids), {"memory_0": state["hidden"]})
    with pytest.raises(ZooError, match="longer than"):
        make_core(facts().replace(position_type="learned", max_position_embeddings=5))(CoreInputs(ids))


def test_in_a_model_with_an_objective():
    """Through the module that is trained, as the loop calls it."""
    config, objective = facts(), CausalLM()
    objective.build(config, Vocabulary(V))
    model = PretrainingModel(build_core(config), {"lm": objective})
    initialise(model.heads, config, 0, "heads.")
    assert objective.head.matrix(model.core.token_embedding) is model.core.token_embedding

"""Every pattern of attention beside an eager reference written here; leaks by gradient; padding; caches; learning."""

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from zoo.attention import AdaptiveSpan, Synthesizer
from zoo.attention.context import AttentionContext, KeyValueCache
from zoo.attention.masks import Mask, make_mask
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.flops import core_flops
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs

HEADS, WIDTH, LENGTH = 2, 16, 20
TINY = {
    "vocab_size": 50,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "pooler": False,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
    "position_type": "none",
}
PATTERNS = {
    "plain": ("Attention", {}),
    "strided": ("Strided", {"stride": 4}),
    "strided split": ("Strided", {"stride": 4, "heads": "split"}),
    "strided far": ("Strided", {"stride": 4, "heads": "far"}),
    "fixed": ("Fixed", {"stride": 6, "summary": 2}),
    "fixed split": ("Fixed", {"stride": 6, "summary": 1, "heads": "split"}),
    "window": ("SlidingWindow", {"window": 5}),
    "window global": ("SlidingWindow", {"window": 3, "global_tokens": 2}),
    "span": ("AdaptiveSpan", {"max_span": 40, "ramp": 3}),
    "gaussian": ("GaussianPrior", {"deviation": 3}),
    "dense": ("Synthesizer", {"kind": "dense", "max_length": 24}),
    "random": ("Synthesizer", {"kind": "random", "max_length": 24}),
    "mixed": ("Synthesizer", {"kind": "mixed", "max_length": 24}),
    "light": ("LightConvolution", {"kernel": 5}),
    "dynamic": ("DynamicConvolution", {"kernel": 4}),
    "all": ("AllAttention", {"vectors": 7}),
}
everywhere = pytest.mark.parametrize("name", PATTERNS)
both_ways = pytest.mark.parametrize("causal", [False, True])


def core_of(name: str, **more):
    class_path, init_args = PATTERNS[name]
    entry = {"class_path": f"zoo.attention.{class_path}", "init_args": init_args}
    return build_core(CoreConfig(**{**TINY, **more}, attention_layers=[entry])).eval()


def some_ids(rows: int = 2, length: int = LENGTH):
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(3))


def seen_by_rule(name: str, causal: bool, length: int = LENGTH):
    """(H, L, L): the paper's rule, place by place."""
    args, seen = PATTERNS[name][1], torch.zeros(HEADS, length, length, dtype=torch.bool)
    for head in range(HEADS):
        for i in range(length):
            for j in range(i + 1 if causal else length):
                stride, far = args.get("stride"), abs(i - j)
                if name.startswith("strided"):
                    parts = [far <= stride, (i - j) % stride == 0]
                elif name.startswith("fixed"):
                    parts = [i // stride == j // stride, j % stride >= stride - args["summary"]]
                elif name.startswith("window"):
                    free = args.get("global_tokens", 0)
                    parts = [far <= (args["window"] - 1 if causal else args["window"] // 2), min(i, j) < free]
                elif name in ("light", "dynamic"):
                    before = args["kernel"] - 1 if causal else args["kernel"] // 2
                    parts = [-before <= j - i <= args["kernel"] - 1 - before]
                elif name == "span":
                    parts = [far < 3 + 40 * torch.tensor(-3.0).sigmoid()]
                else:
                    parts = [True]
                kinds = {"split": parts[head : head + 1], "far": parts[1:]}
                seen[head, i, j] = any(kinds.get(args.get("heads", ""), parts)) or i == j
    return seen


def by_heads(states):
    return states.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def reference(name: str, mixer, hidden, causal: bool):
    """(B, L, W) -> (B, L, W) by whole matrices of probabilities."""
    seen, distance = seen_by_rule(name, causal), torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    if name in ("light", "dynamic"):
        gated = functional.linear(hidden, mixer.input.weight, mixer.input.bias)
        states = gated[..., :WIDTH] * gated[..., WIDTH:].sigmoid()
        kernel = mixer.kernel
        logits = mixer.weights[None, :, None] if name == "light" else by_heads(states @ mixer.weights_of.weight.T)
        weights, full = logits.softmax(-1), torch.zeros(2, HEADS, LENGTH, LENGTH)
        before = kernel - 1 if causal else kernel // 2
        for tap in range(kernel):
            full = full + weights[..., tap, None] * (distance == before - tap)
        return mixer.output((full @ by_heads(states)).transpose(1, 2).flatten(2))
    value, scores = by_heads(mixer.value(hidden)), None
    if name not in ("dense", "random"):
        query, key = by_heads(mixer.query(hidden)), by_heads(mixer.key(hidden))
        scores = query @ key.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
    if name == "gaussian":
        w, b = mixer.sharpness[:, None, None], mixer.offset[:, None, None]
        scores = scores - (w * distance**2 + b).abs()
    if name == "dense":
        scores = by_heads(mixer.inner(hidden).relu()) @ mixer.scores[:, :, :LENGTH]
    if name == "random":
        scores = mixer.scores[None, :, :LENGTH, :LENGTH]
    if name == "mixed":
        share = mixer.shares.exp() / mixer.shares.exp().sum(0)
        scores = share[0, :, None, None] * mixer.scores[:, :LENGTH, :LENGTH] + share[1, :, None, None] * scores
    weights = scores.exp() * seen
    if name == "span":
        weights = weights * ((3 + 40 * mixer.span.sigmoid()[:, None, None] - distance.abs()) / 3).clamp(0, 1)
    if name == "all":
        stored = (query @ mixer.persistent_key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).exp()
        total = weights.sum(-1, keepdim=True) + stored.sum(-1, keepdim=True)
        mixed = (weights @ value + stored @ mixer.persistent_value) / total
    else:
        mixed = weights / weights.sum(-1, keepdim=True) @ value
    return mixer.output(mixed.transpose(1, 2).flatten(2))


@everywhere
@both_ways
def test_states_and_gradients_are_the_references(name, causal):
    mixer = core_of(name).layers[0].attention
    if name == "mixed":
        with torch.no_grad():
            mixer.shares[0] = 0.7
    hidden = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))
    context = AttentionContext(make_mask(AttentionPattern(causal), LENGTH, hidden.device), causal=causal)
    found = []
    for eager in (None, False, True):
        given = hidden.clone().requires_grad_()
        if eager is None:
            states = reference(name, mixer, given, causal)
        else:
            states = mixer(given, context._replace(eager_attention=eager), 0)[0]
        parameters = list(mixer.parameters())
        gradients = torch.autograd.grad((states * weight).sum(), [given, *parameters], allow_unused=True)
        found.append((states.detach(), *gradients))
    for ours in found[1:]:
        for one, other in zip(ours, found[0], strict=True):
            assert (one - other).abs().max() < 1e-5 * max(1.0, float(other.abs().max()))


@everywhere
@both_ways
def test_gradients_come_from_the_tokens_in_sight_alone(name, causal):
    mixer, place = core_of(name).layers[0].attention, 9
    hidden = torch.randn(1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    context = AttentionContext(make_mask(AttentionPattern(causal), LENGTH, hidden.device), causal=causal)
    mixer(hidden, context, 0)[0][0, place].square().sum().backward()
    touched = hidden.grad[0].abs().sum(-1) > 0
    assert torch.equal(touched, seen_by_rule(name, causal)[:, place].any(0))


@everywhere
@both_ways
def test_padding_and_states_that_are_not_asked_for_change_nothing(name, causal):
    core, ids = core_of(name), some_ids()
    short = core(CoreInputs(ids[:, :13], AttentionPattern(causal))).last_hidden_state
    padded = CoreInputs(ids, AttentionPattern(causal, torch.tensor([13, 13])))
    whole = core(padded).last_hidden_state
    assert whole.isfinite().all()
    assert (whole[:, :13] - short).abs().max() < 1e-5
    some = core(padded._replace(output_positions=torch.tensor([[2, 12], [0, -1]]))).last_hidden_state
    assert (some[0, [2, 12]] - short[0, [2, 12]]).abs().max() < 1e-5
    assert (some[1, 0] - short[1, 0]).abs().max() < 1e-5


@everywhere
@both_ways
def test_packed_documents_do_not_see_each_other(name, causal):
    core, ids = core_of(name), some_ids()
    pattern = AttentionPattern(causal, documents=(torch.arange(LENGTH) >= 11).long().expand(2, -1))
    changed = torch.cat([ids[:, :11], (ids[:, 11:] + 1) % 50], dim=1)
    one, other = (core(CoreInputs(given, pattern)).last_hidden_state for given in (ids, changed))
    assert torch.equal(one[:, :11], other[:, :11])
    assert not torch.equal(one[:, 11:], other[:, 11:])


@everywhere
def test_generation_with_a_cache_gives_the_states_of_the_whole_row(name):
    core, ids, cache = core_of(name, position_type="rotary"), some_ids(), KeyValueCache()
    whole = core(CoreInputs(ids, AttentionPattern(True))).last_hidden_state
    parts = [ids[:, :6], ids[:, 6:9], *ids[:, 9:].split(1, dim=1)]
    with torch.no_grad():
        read = [core(CoreInputs(part, AttentionPattern(True)), state=cache).last_hidden_state for part in parts]
    assert (torch.cat(read, dim=1) - whole).abs().max() < 1e-5


@everywhere
def test_a_batch_is_learnt_by_heart_and_every_parameter_takes_part(name):
    core = core_of(name, position_type="learned", feed_forward=name != "all", num_hidden_layers=1)
    core.train()
    ids, optimizer = some_ids(4), torch.optim.Adam(core.parameters(), lr=0.03)
    hidden = torch.randint(0, LENGTH, (4, 3), generator=torch.Generator().manual_seed(0))
    masked = ids.scatter(1, hidden, 49)
    for _ in range(25):
        states = core(CoreInputs(masked, AttentionPattern(False))).last_hidden_state
        logits = (states @ core.token_embedding.T).gather(1, hidden[..., None].expand(-1, -1, 50))
        loss = functional.cross_entropy(logits.flatten(0, 1), ids.gather(1, hidden).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    blind = [key for key, p in core.named_parameters() if p.grad is None or not p.grad.any()]
    assert [key for key in blind if not key.endswith("key.bias")] == []  # a bias of all keys moves no probability


@pytest.mark.parametrize(
    ("class_path", "init_args", "message"),
    [
        ("Strided", {"stride": 0}, "at least 1"),
        ("Strided", {"stride": 4, "heads": "mixed"}, "merged"),
        ("Fixed", {"stride": 4, "summary": 5}, "at most 4 work"),
        ("SlidingWindow", {"window": 0}, "at least 1"),
        ("SlidingWindow", {"window": 4, "global_tokens": 600}, "at most 512 tokens"),
        ("LightConvolution", {"kernel": 0}, "at least 1"),
        ("AllAttention", {"vectors": 0}, "at least 1"),
        ("AdaptiveSpan", {"max_span": 16, "penalty": -1.0}, "penalty"),
        ("Synthesizer", {"kind": "sparse"}, "dense"),
        ("GaussianPrior", {"deviation": 0}, "above 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_training(class_path, init_args, message):
    entry = {"class_path": f"zoo.attention.{class_path}", "init_args": init_args}
    with pytest.raises(ZooError, match=message):
        build_core(CoreConfig(**{**TINY, "position_type": "learned"}, attention_layers=[entry]))


def test_rows_longer_than_the_scores_are_refused():
    with pytest.raises(ZooError, match="row of 30 tokens, and scores of 24"):
        core_of("random")(CoreInputs(some_ids(1, 30), AttentionPattern(False)))


def test_a_span_is_measured_and_its_price_pushes_it_down():
    layer = AdaptiveSpan(CoreConfig(**TINY), max_span=100, penalty=0.5)
    with torch.no_grad():
        layer.span.copy_(torch.tensor([0.0, 2.0]))
    expected = 100 * torch.tensor([0.0, 2.0]).sigmoid()
    assert layer.figures() == pytest.approx({"span": float(expected.mean()), "longest_span": float(expected.max())})
    layer.penalty().backward()
    assert float(layer.penalty().detach()) == pytest.approx(0.5 * float(expected.mean()))
    assert (layer.span.grad > 0).all()


def test_a_depth_signal_tells_layers_apart_that_share_weights():
    plain, told = (
        build_core(CoreConfig(**TINY, num_hidden_groups=1, depth_signal=signal)).eval() for signal in (False, True)
    )
    ids = some_ids()
    assert plain.state_dict().keys() == told.state_dict().keys()
    states = told.embeddings(CoreInputs(ids, AttentionPattern(False)), 0)
    context = AttentionContext(Mask(None, False))
    for number in (1, 2):
        angles = [
            torch.cat([a.sin(), a.cos()], -1) for a in (_angles(torch.arange(LENGTH)), _angles(torch.tensor(number)))
        ]
        states = told.layers[0](states + angles[0] + angles[1], context, 8 * number)[0]
    assert (told(CoreInputs(ids, AttentionPattern(False))).last_hidden_state - states).abs().max() < 1e-5
    assert not torch.allclose(plain(CoreInputs(ids, AttentionPattern(False))).last_hidden_state, states)
    with pytest.raises(ZooError, match=r"even model\.hidden_size"):
        CoreConfig(**{**TINY, "hidden_size": 9, "num_attention_heads": 1}, depth_signal=True)


def _angles(places):
    return places[..., None] / 10000 ** (torch.arange(0, WIDTH, 2) / WIDTH)


def test_no_product_is_left_in_a_synthesizer_that_needs_none():
    names = {name.split(".")[0] for name, _ in Synthesizer(CoreConfig(**TINY), kind="random").named_parameters()}
    assert names == {"scores", "value", "output"}


def test_operations_of_layers_that_are_no_full_attention():
    plain = CoreConfig(**TINY, num_hidden_groups=1)
    for name in ("light", "dynamic", "all"):
        class_path, init_args = PATTERNS[name]
        config = plain.replace(attention_layers=[{"class_path": f"zoo.attention.{class_path}", "init_args": init_args}])
        core, inputs = build_core(config).eval(), CoreInputs(some_ids(1), AttentionPattern(False))
        with FlopCounterMode(display=False) as counter:
            core(inputs, output_attentions=True)
        products = 0 if name == "all" else 2 * 2 * LENGTH * WIDTH * init_args["kernel"]  # sums of slices, uncounted
        assert core_flops(config, 1, LENGTH) == counter.get_total_flops() + products

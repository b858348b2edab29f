"""A generator beside the core and what the core learns of its samples (specs: ELECTRA, section 8)."""

import math

import numpy as np
import pytest
import torch
from stock import END, randomise
from stores import BERT_LIKE, FIRST_ID, take
from torch.nn import functional
from training import Killed, arguments, interrupt_at, log_lines, outcome, train
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking.base import Selected
from pretraining.masking.predictions import All
from pretraining.masking.repeated import RepeatedTokens
from pretraining.objectives import CausalLM, GeneratorLM, OriginalTokens, ReplacedTokens
from pretraining.objectives.base import CoreRunner, make_batch
from pretraining.objectives.generator import draw_tokens
from pretraining.tools.configs import count_parameters
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.model import build_model
from pretraining.training.pretrain import check_settings
from zoo.config import CoreConfig
from zoo.core.companion import narrowed
from zoo.core.flops import core_flops, token_head_flops, training_flops
from zoo.dropout import row_keys
from zoo.errors import ZooError
from zoo.heads.token_heads import TokenHead
from zoo.model_folder import ModelMetadata, companion_model, pack_model
from zoo.weights.commands import export_folder
from zoo.weights.write import write_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = CoreConfig(
    vocab_size=BERT_LIKE.size,
    embedding_size=24,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    pooler=False,
    pad_token_id=0,
)
DRAW = Draw(seed=3, epoch=0)
NAMES = ("generator", "replaced_tokens")


def rows_of(count=16, length=40, seed=0) -> Examples:
    """Rows of different lengths."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(length // 2, length - 1, count)
    texts = [(rng.integers(FIRST_ID, BERT_LIKE.size, size), np.ones(size)) for size in sizes]
    return examples_from_tokens(texts, BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep])


def select(rate=0.15, **more):
    return RepeatedTokens(rate, **more)


def built(config=TINY, seed=0, **objectives):
    """A model with a generator and these other objectives."""
    made = {"generator": GeneratorLM(select(), fraction=0.5), **(objectives or {"replaced_tokens": ReplacedTokens()})}
    return build_model(config, made, BERT_LIKE, seed), made


def batch_of(objectives, rows=None, draw=DRAW):
    return make_batch([(rows_of() if rows is None else rows, draw)], objectives, BERT_LIKE.pad)


def joint(terms):
    """Each term divided by its own count, and weighted: what the loop minimises."""
    return sum(term.weight * term.total / term.count for term in terms.values())


def read_by_core(model, batch):
    """(B, L) ids that the core read."""
    seen = []
    hook = model.core.register_forward_pre_hook(lambda module, args: seen.append(args[0].input_ids))
    model(batch)
    hook.remove()
    assert len(seen) == 1
    return seen[0]


# --- parity with the two stock classes ---


def stock_pair(config, generator):
    """Their discriminator and generator with our weights; the tables are the same, as theirs are two."""
    shared = {"vocab_size": config.vocab_size, "max_position_embeddings": 64, "hidden_act": "gelu"}
    shared |= {"embedding_size": config.embedding_width, "bos_token_id": END, "eos_token_id": END}
    found = []
    for own, kind in ((config, ElectraForPreTraining), (generator, ElectraForMaskedLM)):
        sizes = {k: getattr(own, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        facts = ElectraConfig(**shared, **sizes, intermediate_size=own.intermediate_size)
        found.append(kind._from_config(facts, attn_implementation="eager").eval())
    return found


def export(model, objectives):
    """Both halves under the stock names, as ``zoo export`` writes them."""
    heads = dict(objectives)
    tensors = pack_model(model.core, heads)
    companion = objectives["generator"].companion
    metadata = ModelMetadata(
        model.core.config,
        heads={"replaced_tokens": dict(objectives["replaced_tokens"].head.head_config)},
        companions={"generator": companion.describe()},
    )
    discriminator = write_checkpoint(metadata, tensors)
    generator = write_checkpoint(*companion_model(metadata, tensors, "generator"), family="electra")
    assert discriminator.config["architectures"] == ["ElectraForPreTraining"]
    assert generator.config["architectures"] == ["ElectraForMaskedLM"]
    return discriminator, generator


@pytest.mark.parametrize("embedding_size", [24, 32])
def test_states_logits_joint_loss_and_gradients_are_those_of_two_stock_models(embedding_size):
    """The reference is composed of the stock classes, on the tokens that were sampled here."""
    model, objectives = built(TINY.replace(embedding_size=embedding_size))
    randomise(model, 1)
    model.eval()
    batch = batch_of(objectives)
    terms, _ = model(batch)
    joint(terms).backward()
    replaced = read_by_core(model, batch)
    discriminator, generator = export(model, objectives)
    stock, small = stock_pair(model.core.config, objectives["generator"].companion.config)
    for theirs, written in ((stock, discriminator), (small, generator)):
        missing, unknown = theirs.load_state_dict(dict(written.tensors), strict=False)
        assert not unknown
        assert set(missing) <= {"generator_lm_head.weight", *(n for n in missing if n.endswith("_ids"))}
        theirs.tie_weights()
    mask = torch.arange(batch.inputs.input_ids.shape[1])[None] < batch.inputs.attention_pattern.lengths[:, None]

    tensors = batch.targets["generator"]
    masked = small(input_ids=batch.inputs.input_ids, attention_mask=mask.long(), output_hidden_states=True)
    chosen = masked.logits.reshape(-1, 1000)[tensors["positions"]]
    first = functional.cross_entropy(chosen, tensors["labels"])
    seen = stock(input_ids=replaced, attention_mask=mask.long(), output_hidden_states=True)
    labels = (replaced != tensors["text"])[mask]
    second = functional.binary_cross_entropy_with_logits(seen.logits[mask], labels.float())
    loss = first + 50 * second
    loss.backward()

    ours = {name: terms[name].total / terms[name].count for name in NAMES}
    torch.testing.assert_close(ours["generator"], first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours["replaced_tokens"], second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joint(terms), loss, rtol=1e-5, atol=1e-5)
    states = model.core(batch.inputs._replace(input_ids=replaced, output_positions=None)).last_hidden_state
    torch.testing.assert_close(states[mask], seen.hidden_states[-1][mask], rtol=1e-5, atol=1e-5)
    logits = objectives["replaced_tokens"].head(states).squeeze(-1)
    torch.testing.assert_close(logits[mask], seen.logits[mask], rtol=1e-5, atol=1e-5)
    states = objectives["generator"].companion(batch.inputs._replace(output_positions=None))
    torch.testing.assert_close(states[mask], masked.hidden_states[-1][mask], rtol=1e-5, atol=1e-5)

    gradients = gradient_export(model, objectives)
    pair = [dict(stock.named_parameters()), dict(small.named_parameters())]
    for names, other in (pair, pair[::-1]):
        written = gradients[0] if names is pair[0] else gradients[1]
        for name, parameter in names.items():
            expected = parameter.grad
            if "embeddings." in name:  # theirs are two copies of tensors that are one here
                expected = expected + other[name].grad
            scale = expected.abs().max().clamp_min(1e-2)  # gradients of key biases are rounding alone
            assert (written[name] - expected).abs().max() / scale < 1e-5, name


def gradient_export(model, objectives):
    """Gradients of our parameters under the stock names of both halves."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    written = [dict(part.tensors) for part in export(model, objectives)]
    found = [{name: value.clone() for name, value in part.items()} for part in written]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(kept[name])
    return found


# --- sections 2 and 8 of the specs: sizes ---


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("electra-small", 13_549_057, 4_620_026),
        ("electra-base", 109_483_009, 33_740_602),
        ("electra-large", 335_142_913, 51_295_290),
    ],
)
def test_published_sizes(name, discriminator, generator):
    config = load_pretrain_config(["--config", name]).value
    core, whole = count_parameters(config)
    width = config.model.embedding_width
    head = (config.model.hidden_size + 1) * (config.model.hidden_size + 1)
    tables = (30522 + 512 + 2) * width + 2 * width
    assert core + head == discriminator
    assert whole - discriminator + tables == generator
    assert head == config.model.hidden_size**2 + config.model.hidden_size + config.model.hidden_size + 1


def test_a_generator_as_wide_as_the_small_discriminator():
    argv = ["--config", "electra-small", "--objectives.generator.init_args.fraction", "1"]
    core, whole = count_parameters(load_pretrain_config(argv).value)
    assert whole - core - 257 * 257 + (30522 + 512 + 2) * 128 + 256 == 13_546_682


@pytest.mark.parametrize(
    ("hidden", "heads", "fraction", "expected"),
    [(256, 4, 0.25, (64, 1, 256)), (768, 12, 0.3333333, (256, 4, 1024)), (1024, 16, 0.25, (256, 4, 1024))],
)
def test_the_generators_shape(hidden, heads, fraction, expected):
    config = TINY.replace(hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden)
    own = narrowed(config, fraction)
    assert (own.hidden_size, own.num_attention_heads, own.intermediate_size) == expected
    assert own.num_hidden_layers == config.num_hidden_layers
    assert own.embedding_width == config.embedding_width


# --- choosing ---


@pytest.mark.parametrize(("length", "limit", "expected"), [(128, 19, 19), (512, 79, 77)])
def test_choices_repeat_so_fewer_different_tokens_are_chosen(length, limit, expected):
    """n = round(0.15 x length); at 128 tokens about 93 % of the choices are different ones."""
    rows = examples_from_tokens(
        [(np.arange(5, 3 + length), np.ones(length - 2))] * 400, BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep]
    ).replace(example_ids=np.arange(400))
    chooser = select(max_predictions=limit)
    assert (chooser.budget_of(rows, DRAW) == expected).all()
    chosen = chooser(rows, DRAW, BERT_LIKE)
    assert not (chosen & rows.special_tokens_mask).any()
    candidates = length - 2
    different = candidates * (1 - (1 - 1 / candidates) ** expected)
    assert chosen.sum(axis=1).mean() == pytest.approx(different, rel=0.01)
    if length == 128:
        assert chosen.sum(axis=1).mean() / expected == pytest.approx(0.93, abs=0.01)
    assert (chosen.sum(axis=0)[1:-1] > 0).mean() > 0.99


def test_choices_that_repeat_do_not_depend_on_padding_or_neighbours():
    rows = rows_of(6)
    chosen = select(0.3)(rows, DRAW, BERT_LIKE)
    wide = rows.replace(
        input_ids=np.pad(rows.input_ids, ((0, 0), (0, 9))),
        special_tokens_mask=np.pad(rows.special_tokens_mask, ((0, 0), (0, 9)), constant_values=True),
        token_flags=np.pad(rows.token_flags, ((0, 0), (0, 9))),
    )
    assert (select(0.3)(wide, DRAW, BERT_LIKE)[:, : rows.shape[1]] == chosen).all()


def test_the_generator_reads_masks_at_85_percent_and_the_token_itself_at_15():
    generator = GeneratorLM(select(0.3))
    generator.build(TINY, BERT_LIKE)
    rows = generator.corrupt(rows_of(400), DRAW)
    chosen = rows.targets["selected"]
    read, original = rows.input_ids[chosen], rows.targets["original_ids"][chosen]
    assert ((read == BERT_LIKE.mask) | (read == original)).all()  # never a random token
    assert (read == original).mean() == pytest.approx(0.15, abs=0.015)
    assert (rows.input_ids[~chosen] == rows.targets["original_ids"][~chosen]).all()


# --- sampling ---


def test_draws_follow_the_softmax_and_are_no_argmax():
    torch.manual_seed(0)
    config = TINY.replace(vocab_size=12, hidden_size=24, num_attention_heads=2)
    head, embedding = TokenHead(config), torch.randn(12, 24)
    states = torch.randn(1, 24).expand(20_000, 24)
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    shares = torch.bincount(draw_tokens(head, states, embedding, uniform), minlength=12) / 20_000
    torch.testing.assert_close(shares, torch.softmax(head(states[0], embedding), -1).detach(), atol=2e-4, rtol=0)
    assert draw_tokens(head, states[:0], embedding, uniform[:0]).shape == (0,)


def test_samples_stand_in_the_original_text_at_the_chosen_positions_alone():
    """Also where the generator read the token itself; special tokens and padding are never replaced."""
    model, objectives = built()
    rows = rows_of()
    batch = batch_of(objectives, rows)
    read = read_by_core(model, batch).numpy()
    corrupted = objectives["generator"].corrupt(rows, DRAW)
    chosen = corrupted.targets["selected"]
    assert (read[~chosen] == rows.input_ids[~chosen]).all()
    assert (read[rows.special_tokens_mask] == rows.input_ids[rows.special_tokens_mask]).all()
    kept = chosen & (corrupted.input_ids == rows.input_ids)
    assert (read[kept] != rows.input_ids[kept]).mean() > 0.9  # an untrained generator
    others = [read_by_core(model, batch_of(objectives, rows, draw)).numpy() for draw in (DRAW, Draw(3, 1))]
    assert (others[0] == read).all()
    assert (others[1] != read).any()


def test_samples_do_not_depend_on_the_batch():
    model, objectives = built()
    rows = rows_of(8)
    whole = read_by_core(model, batch_of(objectives, rows))
    for part in (np.array([5]), np.array([7, 2])):
        alone = read_by_core(model, batch_of(objectives, take(rows, part)))
        assert (alone == whole[part][:, : alone.shape[1]]).all()


# --- losses ---


def test_losses_before_training():
    """ln V, ln 2, and their weighted sum: 45.0 with a vocabulary of 30,522."""
    model, objectives = built(TINY.replace(vocab_size=30522))
    terms, _ = model(batch_of(objectives))
    means = {name: float(term.total.detach() / term.count) for name, term in terms.items()}
    assert means["generator"] == pytest.approx(math.log(30522), abs=0.05)
    assert means["replaced_tokens"] == pytest.approx(math.log(2), abs=0.05)
    assert float(joint(terms).detach()) == pytest.approx(45.0, abs=2.0)
    assert terms["generator"].weight == 1
    assert terms["replaced_tokens"].weight == 50


def test_labels_are_one_where_another_token_stands_and_an_oracle_leaves_none():
    model, objectives = built()
    rows = rows_of()
    batch = batch_of(objectives, rows)
    head = objectives["replaced_tokens"].head
    with torch.no_grad():  # says "replaced" everywhere
        head.output.weight.zero_()
        head.output.bias.fill_(1.0)
    share = len(batch.targets["generator"]["positions"]) / int(rows.lengths.sum())
    term = model(batch)[0]["replaced_tokens"]
    replaced = (read_by_core(model, batch).numpy() != rows.input_ids).sum()
    assert float(term.correct) == replaced
    assert term.count == rows.lengths.sum()  # template tokens included, padding left out
    assert replaced / term.count <= share
    labels = batch.targets["generator"]["labels"]
    objectives["generator"]._with_samples = lambda states, embedding, tensors: tensors["text"]
    assert float(model(batch)[0]["replaced_tokens"].correct) == 0
    assert len(labels)


def test_no_gradient_crosses_the_draw_and_the_tables_get_both():
    model, objectives = built()
    batch = batch_of(objectives)
    terms, _ = model(batch)
    own = dict(objectives["generator"].named_parameters())
    for name, tables in (("replaced_tokens", True), ("generator", True)):
        model.zero_grad()
        terms[name].total.backward(retain_graph=True)
        assert all((p.grad is None or not p.grad.any()) == (name == "replaced_tokens") for p in own.values())
        assert bool(model.core.token_embedding.grad.any()) == tables
        layers = [p.grad for p in model.core.layers.parameters()]
        assert all((g is None) == (name == "generator") for g in layers)
    assert not [name for name in model.state_dict() if name.startswith("heads.") and "word_embeddings" in name]
    assert sum(p is model.core.token_embedding for p in model.parameters()) == 1


def test_electra_15_changes_the_loss_mask_alone():
    whole, some = built(), built(replaced_tokens=ReplacedTokens(predict=Selected()))
    batches = [batch_of(objectives) for _, objectives in (whole, some)]
    assert (read_by_core(whole[0], batches[0]) == read_by_core(some[0], batches[1])).all()
    assert batches[1].counts["replaced_tokens"] == batches[1].counts["generator"]
    assert set(batches[1].targets["replaced_tokens"]["positions"].tolist()) < set(
        batches[0].targets["replaced_tokens"]["positions"].tolist()
    )


@pytest.mark.parametrize(
    ("predict", "copies"), [(Selected(), False), (All(), False), (All(), True)], ids=["replace", "all", "all, copy"]
)
def test_controls_predict_the_original_tokens(predict, copies):
    model, objectives = built(original_tokens=OriginalTokens(predict, copy=copies))
    batch = batch_of(objectives)
    term = model(batch)[0]["original_tokens"]
    assert term.count == (batch.counts["generator"] if isinstance(predict, Selected) else batch.tokens)
    read, objective = read_by_core(model, batch), objectives["original_tokens"]
    found = batch.targets["original_tokens"]
    states = model.core(batch.inputs._replace(input_ids=read)).last_hidden_state.reshape(-1, 32)[found["positions"]]
    log_p = torch.log_softmax(objective.head(states, model.core.token_embedding), -1)
    expected = log_p.gather(1, found["labels"][:, None]).squeeze(1).exp()
    if copies:
        share = objective.copy_logit(states).squeeze(-1).sigmoid()
        same = read.reshape(-1)[found["positions"]] == found["labels"]
        expected = share * same + (1 - share) * expected
    torch.testing.assert_close(term.total, -expected.log().sum(), rtol=1e-5, atol=1e-4)
    term.total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


def test_both_learn_one_batch():
    others = {"replaced_tokens": ReplacedTokens(), "original_tokens": OriginalTokens(All(), copy=True)}
    model, objectives = built(**others)
    batch = batch_of(objectives, rows_of(6))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = None
    for _ in range(80):
        terms, _ = model(batch)
        first = first or {name: float(term.total.detach()) for name, term in terms.items()}
        optimizer.zero_grad()
        joint(terms).backward()
        optimizer.step()
    assert all(float(term.total.detach()) < 0.3 * first[name] for name, term in terms.items())


def test_dropout_of_the_two_is_not_the_same():
    """One width, so that equal keys would give equal masks."""
    config = TINY.replace(hidden_dropout_prob=0.5)
    generator = GeneratorLM(select(), fraction=1.0)
    model = build_model(config, {"generator": generator, "replaced_tokens": ReplacedTokens()}, BERT_LIKE, 0)
    generator.companion.core.load_state_dict(
        {k: v for k, v in model.core.state_dict().items() if k in generator.companion.core.state_dict()}
    )
    inputs = batch_of({"generator": generator}).inputs._replace(output_positions=None)
    plain = [core(inputs) for core in (lambda x: model.core(x).last_hidden_state, generator.companion)]
    torch.testing.assert_close(*plain)
    keyed = inputs._replace(dropout_keys=row_keys(1, 2, np.arange(16)))
    assert not torch.allclose(model.core(keyed).last_hidden_state, generator.companion(keyed))


def test_flops_are_those_of_both_models():
    model, objectives = built()
    batch = batch_of(objectives)
    (rows, length), counts = batch.inputs.input_ids.shape, batch.counts
    own = objectives["generator"].companion.config
    picked = len(batch.targets["generator"]["positions"])
    head = token_head_flops(own, picked, transform=True)
    expected = core_flops(TINY, rows, length) + core_flops(own, rows, length, outputs=picked)
    expected += head + head // 3 + 2 * counts["replaced_tokens"] * 32 * 33
    assert model.flops(batch) == training_flops(expected)


# --- runs ---


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("electra")


def argv_of(place, output, **more):
    small = {"model.embedding_size": 16, "objectives.generator.init_args.fraction": 0.5, "train.precision": "fp32"}
    return arguments(place, "electra", 4, **small, **{"output": place / output, "train.save_every": 2, **more})


def test_a_killed_run_goes_on_bit_for_bit_and_both_halves_are_exported(place, monkeypatch):
    whole = train(argv_of(place, "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Killed):
            train(argv_of(place, "killed"))
    assert outcome(train(argv_of(place, "killed"))) == outcome(whole)
    assert set(log_lines(whole)[0]["terms"]) == set(NAMES)
    for part, kind in ((None, AutoModelForPreTraining), ("generator", AutoModelForMaskedLM)):
        target = place / f"exported-{part}"
        report = export_folder(whole, target, part=part)
        _, told = kind.from_pretrained(target, output_loading_info=True)
        assert not any(told.values()), told
        assert any("--part generator" in line for line in report) == (part is None)
    with pytest.raises(ZooError, match=r"no part 'x'.*generator"):
        export_folder(whole, place / "none", part="x")


# --- what cannot work ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--objectives.replaced_tokens.init_args.weight -1", r"weight.*-1"),
        ("--objectives.generator.init_args.fraction 0", "fraction"),
        ("--objectives.generator.init_args.fraction 0.001", "has no width"),
        ("--model.embedding_projection false --model.embedding_size 128", "without a projection"),
        ("--tasks.pairs.objectives [replaced_tokens]", "none does. List one first"),
        ("--tasks.pairs.objectives [replaced_tokens,generator]", "none does. List one first"),
        ("--model.num_attention_heads 4 --objectives.generator.init_args.fraction 0.99", "is not a multiple of its"),
    ],
)
def test_settings_that_cannot_work(words, message, tmp_path):
    with pytest.raises(ZooError, match=message):
        check_settings(load_pretrain_config(["--config", "electra-tiny", *words.split()]), tmp_path / "run", 1)


def test_cores_without_tables_to_share():
    with pytest.raises(ZooError, match=r"in the way: model\.num_hidden_layers: 0"):
        GeneratorLM(select()).check_model(
            CoreConfig(
                vocab_size=9,
                num_hidden_layers=0,
                position_type="none",
                type_vocab_size=0,
                embedding_norm=False,
                hidden_dropout_prob=0.0,
                pooler=False,
                tie_word_embeddings=False,
            )
        )


def test_a_generator_larger_than_its_discriminator_is_warned_of():
    assert not GeneratorLM(select(), fraction=1.0).notes(TINY)
    (line,) = GeneratorLM(select(), fraction=2.0).notes(TINY)
    assert "the generator (2/64) is larger than its discriminator (2/32)" in line
    assert GeneratorLM(select(), num_hidden_layers=3).notes(TINY)


def test_a_discriminator_scores_no_sentence_and_the_generator_does():
    model, objectives = built()
    rows = rows_of(3, 12)
    run_core = CoreRunner(model.core, None)
    scores = objectives["generator"].score(run_core, model.core.token_embedding, rows)
    assert (scores < 0).all()
    with pytest.raises(ZooError, match="does not say how it scores"):
        objectives["replaced_tokens"].score(run_core, model.core.token_embedding, rows)


def test_nothing_before_it_changes_tokens():
    with pytest.raises(ZooError, match="none does"):
        ReplacedTokens().check_task({"next": CausalLM()})

"""Characters, the two-way language model, the mix of layers, and ELMo's own files."""

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import rounding
from elmo_files import FIXTURE, arrays, batches, needs_fixture, token_vectors, top_layers
from stores import BERT_LIKE, GPT_LIKE, take
from torch.nn import functional
from training import Killed, arguments, finish, interrupt_at, log_lines, outcome, train

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking.tokens import RandomTokens
from pretraining.objectives import BidirectionalLM, CausalLM, MaskedLM
from pretraining.objectives.base import CoreRunner, Targets, base_inputs, collate
from pretraining.objectives.sampled_softmax import draw_negatives, log_expected, sampled_cross_entropy
from pretraining.scoring.scorer import Scorer
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.train import train_tokenizer
from pretraining.training.model import build_model, tokens_by_id
from zoo import cli
from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig
from zoo.core.build import build_core
from zoo.core.characters import CharacterEncoder, character_ids, character_ids_of, character_table
from zoo.core.init import initialise
from zoo.dropout import keyed_dropout, row_keys
from zoo.errors import ZooError
from zoo.heads.scalar_mix import FrozenCore, ScalarMix, normalise_jointly
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import load_core, open_weights, read_metadata
from zoo.settings.yaml_files import read_yaml, shipped_configs
from zoo.storage.tensors import load_tensors
from zoo.vocabulary import Vocabulary
from zoo.weights.commands import export_folder, import_folder
from zoo.weights.elmo.arrays import config_of, load_elmo, options_of, save_elmo

h5py = pytest.importorskip("h5py")
SPELT = CharacterConfig(
    max_characters_per_token=12, embedding_dim=4, filters=((1, 4), (2, 5), (3, 6)), n_highway=2, activation="relu"
)
BARE = {"embedding_norm": False, "position_type": "none", "type_vocab_size": 0, "hidden_dropout_prob": 0.0}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "word", "another", "Zürich", "extraordinarily", "的"]
SPECIAL = Vocabulary(len(WORDS), pad=0, unk=1, cls=2, sep=3, mask=4)
SPELLINGS = "embeddings.word_embeddings.spellings"
ELMO = CoreConfig(
    vocab_size=len(WORDS),
    hidden_size=16,
    **BARE,
    pooler=False,
    tie_word_embeddings=False,
    characters=SPELT,
    recurrent=RecurrentConfig(cell_size=12, dropout=0.0),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def spelling_core(config=ELMO, words=WORDS, vocabulary=SPECIAL):
    core = build_core(config, seed=1)
    core.set_spellings(words, vocabulary)
    return core


# --- characters ---


def test_a_word_is_marks_and_bytes():
    table = character_table(["a"], 50)
    assert (character_ids_of(table)[0] - 1).tolist() == [258, 97, 259, *[260] * 47]
    marked = character_ids_of(character_table(["[CLS]", "[SEP]", "x"], 6, begin_sentence=0, end_sentence=1)) - 1
    assert marked.tolist() == [[258, 256, 259, *[260] * 3], [258, 257, 259, *[260] * 3], [258, 120, 259, *[260] * 3]]


def test_words_are_cut_by_bytes_not_by_letters():
    ids = character_ids_of(character_table(["ü" * 40, "b" * 60], 50)) - 1
    assert ids[0, 1:49].tolist() == list(("ü" * 24).encode())
    assert ids[0, [0, 49]].tolist() == [258, 259]
    assert ids[1, 1:49].tolist() == [ord("b")] * 48
    three = character_ids_of(character_table(["的的"], 6)) - 1  # cut within a letter
    assert three[0].tolist() == [258, *"的的".encode()[:4], 259]


def test_every_character_of_text_is_kept():
    """The five marks stand in the table for bytes that no text has."""
    text = "".join(map(chr, (*range(1, 0x800, 7), 0xFFFD, 0x10FFFF, 0xD800)))
    raw = text.encode("utf-8", "surrogatepass")
    found = character_ids_of(character_table([text], len(raw) + 2))[0] - 1
    assert bytes(found[1:-1].tolist()) == raw


def test_sentences_of_characters():
    ids = character_ids([["a", "bc"], ["d"]], 6)
    assert ids.shape == (2, 4, 6)
    assert (ids[1, 3] == 0).all()
    assert (ids[0, :, 1] - 1).tolist() == [256, 97, 98, 257]
    assert torch.equal(
        character_ids([["a", "bc"]], 6, marks=False)[0], character_ids_of(character_table(["a", "bc"], 6))
    )


def test_encoder_by_hand():
    encoder = spelling_core().embeddings.word_embeddings
    x = functional.pad(encoder.characters.weight, (0, 0, 1, 0))[character_ids_of(encoder.spellings[6])]  # (C, E)
    found = []
    for convolution, (width, number) in zip(encoder.convolutions, SPELT.filters, strict=True):
        windows = torch.stack([x[k : k + width] for k in range(12 - width + 1)])  # (n, width, E)
        values = torch.einsum("nwe,few->nf", windows, convolution.weight) + convolution.bias
        found.append(values.amax(0).relu())
        assert values.shape == (12 - width + 1, number)
    y = torch.cat(found)
    for highway in encoder.highways:
        gate = torch.sigmoid(highway.gate(y))
        y = gate * torch.relu(highway.transform(y)) + (1 - gate) * y
    torch.testing.assert_close(encoder(torch.tensor([[6]]))[0, 0], encoder.projection(y))


def test_initial_values_of_the_encoder():
    config = ELMO.replace(characters=CharacterConfig(filters=((1, 32), (2, 96)), n_highway=1))
    encoder = build_core(config).embeddings.word_embeddings
    assert 0.99 < encoder.characters.weight.abs().max() <= 1.0
    assert 0.045 < encoder.convolutions[1].weight.abs().max() <= 0.05
    assert (encoder.highways[0].gate.bias == -2.0).all()
    assert (encoder.highways[0].transform.bias == 0.0).all()
    for part in (encoder.highways[0].gate, encoder.highways[0].transform, encoder.projection):
        assert float(part.weight.detach().std()) == pytest.approx(128**-0.5, rel=0.1)


def test_padding_takes_part_and_leaving_its_repetition_out_changes_nothing():
    """Against windows over all 12 characters, the padding's included."""
    encoder = spelling_core().embeddings.word_embeddings
    with torch.no_grad():
        encoder.characters.weight[260] = 5.0  # padding's vector decides the maximum
        encoder.convolutions[0].weight.fill_(1.0)
    ids = torch.arange(len(WORDS))[None]
    short = torch.tensor([[5, 6]])
    whole, part = encoder(ids), encoder(short)
    embedded = encoder.characters.weight[character_ids_of(encoder.spellings) - 1].transpose(1, 2)
    features = [torch.relu(convolution(embedded)).amax(-1) for convolution in encoder.convolutions]
    torch.testing.assert_close(whole[0], encoder.projection(encoder.highways(torch.cat(features, -1))))
    torch.testing.assert_close(whole[:, 5:7], part)


def test_masked_characters_have_no_vector():
    """Character 0: the vector is that of all zeros, and nothing of it is trained."""
    core = spelling_core()
    masked = torch.zeros(1, 1, 12, dtype=torch.int64)
    encoder = core.embeddings.word_embeddings
    values = torch.cat([part.bias.relu() for part in encoder.convolutions])
    found = encoder(torch.zeros(1, 1, dtype=torch.int64), masked)
    torch.testing.assert_close(found[0, 0], encoder.projection(encoder.highways(values)))
    found.sum().backward()
    assert (encoder.characters.weight.grad == 0).all()
    assert encoder.characters.weight.shape == (261, 4)


def test_given_characters_override_the_spelling():
    core = spelling_core()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(core(CoreInputs(ids)).last_hidden_state, core(CoreInputs(ids)).last_hidden_state)
    spelled = character_ids([["a", "word", "another"]], 12, marks=False)
    given = core(CoreInputs(torch.ones_like(ids), character_ids=spelled)).last_hidden_state
    torch.testing.assert_close(given, core(CoreInputs(ids)).last_hidden_state)
    unseen = character_ids([["a", "neverseen", "another"]], 12, marks=False)
    other = core(CoreInputs(ids, character_ids=unseen)).last_hidden_state
    assert not torch.allclose(other, given)


def test_repeated_words_are_computed_once():
    encoder = spelling_core().embeddings.word_embeddings
    seen = []
    encoder.projection.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    ids = torch.tensor([[5, 6, 5], [6, 6, 7]])
    vectors = encoder(ids)
    assert seen == [3]
    torch.testing.assert_close(vectors[0, 0], vectors[0, 2])
    vectors[..., 0].sum().backward()
    once = encoder.projection.bias.grad.clone()
    assert once[0] == 6  # every occurrence counts


def test_a_transformer_reads_characters_too():
    config = CoreConfig(vocab_size=len(WORDS), hidden_size=16, characters=SPELT, tie_word_embeddings=False)
    core = spelling_core(config)
    output = core(CoreInputs(torch.tensor([[2, 5, 6, 3]])))
    output.last_hidden_state.square().sum().backward()
    assert core.embeddings.word_embeddings.characters.weight.grad[97].abs().sum() > 0  # the letter a
    factorised = config.replace(embedding_size=6)
    assert spelling_core(factorised)(CoreInputs(torch.tensor([[2, 5]]))).last_hidden_state.shape == (1, 2, 16)


def test_words_of_a_tokenizer():
    text = ["the cat sat on the mat , the cat ran ."] * 3
    tokenizer = train_tokenizer(TokenizerConfig(kind="word", vocab_size=100, min_frequency=1), text)
    words = tokens_by_id(tokenizer)
    assert words[: len(tokenizer.roles)] == list(tokenizer.roles.values())
    assert words.index("the") == tokenizer.backend.token_to_id("the")
    size = tokenizer.vocabulary.size
    model = build_model(ELMO.replace(vocab_size=size), {}, tokenizer.vocabulary, 0, tokenizer)
    table = model.core.embeddings.word_embeddings.spellings
    assert torch.equal(table, character_table(words, 12, tokenizer.vocabulary.cls, tokenizer.vocabulary.sep))


def test_what_is_wrong_with_characters_is_named():
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ZooError, match=r"2 tokens of this batch have no spelling.*character_ids"):
        build_core(ELMO)(CoreInputs(ids))
    partly = spelling_core(words=WORDS[:6])
    with pytest.raises(ZooError, match="1 tokens of this batch have no spelling, the first is number 6"):
        partly(CoreInputs(ids))
    with pytest.raises(ZooError, match="outside the 11 tokens"):
        spelling_core()(CoreInputs(torch.tensor([[11]])))
    with pytest.raises(ZooError, match="12 words are to get a row of characters"):
        spelling_core(words=[*WORDS, "x"])
    wrong = torch.zeros(1, 2, 11, dtype=torch.int64)
    with pytest.raises(ZooError, match="have 11 characters a word, this core reads 12"):
        spelling_core()(CoreInputs(ids, character_ids=wrong))
    for value in (262, -1):
        with pytest.raises(ZooError, match=f"{value}.*bytes and marks are numbered from 1"):
            spelling_core()(CoreInputs(ids, character_ids=torch.full((1, 2, 12), value)))
    with pytest.raises(ZooError, match="no table to give 12 rows"):
        spelling_core().resize_token_embeddings(12, 0)
    for change in ({"n_characters": 256}, {"filters": ()}, {"filters": ((0, 4),)}, {"max_characters_per_token": 6}):
        with pytest.raises(ZooError, match=f"characters.{next(iter(change))}|at least one pair"):
            CharacterConfig(**change)


# --- the objective ---

TWO_WAY = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=16,
    **BARE,
    pooler=False,
    initializer_range=0.3,
    recurrent=RecurrentConfig(cell_size=12, dropout=0.0),
)
ONE_WAY = CoreConfig(vocab_size=BERT_LIKE.size, hidden_size=16, intermediate_size=32, initializer_range=0.3)
CORES = {"recurrent": TWO_WAY, "transformer": ONE_WAY}
every_core = pytest.mark.parametrize("config", CORES.values(), ids=CORES)


def text_rows(lengths=(7, 4, 5), seed=0, special=True) -> Examples:
    rng = np.random.default_rng(seed)
    texts = [rng.permutation(np.arange(10, 900))[:n].tolist() for n in lengths]
    ends = ([BERT_LIKE.cls], [BERT_LIKE.sep]) if special else ((), ())
    return examples_from_tokens([(ids, [1] * len(ids)) for ids in texts], BERT_LIKE, *ends)


def make(config, objective=None, vocabulary=BERT_LIKE):
    objective = objective or BidirectionalLM()
    objective.build(config, vocabulary)
    core = build_core(config)
    initialise(objective, config, 0, "heads.x.")
    return core, objective


def loss_of(core, objective, rows):
    batch = collate(rows, {"x": objective})
    run_core = CoreRunner(core, batch.inputs)
    return objective(run_core, core.token_embedding, Targets(batch.targets["x"], batch.counts["x"]))


def by_hand(core, objective, rows, ends=0):
    """Sums of forward and backward losses, one target at a time; ``ends`` places at each end are no targets."""
    sums = np.zeros(2)
    for row, length in enumerate(rows.lengths):
        ids = torch.from_numpy(rows.input_ids[row, :length].astype(np.int64))[None]
        if core.config.recurrent is not None:
            both = core(CoreInputs(ids)).last_hidden_state[0].chunk(2, -1)
        else:
            see = AttentionPattern(causal=True)
            both = [
                core(CoreInputs(ids, see)).last_hidden_state[0],
                core(CoreInputs(ids.flip(1), see)).last_hidden_state[0],
            ]
            both[1] = both[1].flip(0)
        for direction, step in ((0, 1), (1, -1)):
            log_p = objective.head(both[direction], core.token_embedding).log_softmax(-1)
            for k in range(length):
                if ends <= k + step < length - ends:
                    sums[direction] -= log_p[k, ids[0, k + step]].item()
    return sums


@every_core
def test_both_directions_by_hand(config):
    core, objective = make(config)
    rows = text_rows()
    term = loss_of(core, objective, rows)
    forward, backward = by_hand(core, objective, rows)
    assert term.count == 2 * (rows.lengths - 1).sum()
    assert term.total.item() == pytest.approx(forward + backward, rel=1e-5)
    halves = (rows.lengths - 1).sum()  # the mean is half the sum of the directions' means
    assert term.total.item() / term.count == pytest.approx(0.5 * (forward + backward) / halves, rel=1e-5)


@every_core
def test_an_untrained_model_guesses(config):
    core, objective = make(config.replace(initializer_range=1e-3))
    term = loss_of(core, objective, text_rows())
    assert term.total.item() / term.count == pytest.approx(math.log(BERT_LIKE.size), abs=0.02)


@every_core
def test_each_direction_sees_its_own_side_only(config):
    core, objective = make(config)
    rows = text_rows((9,))
    batch = collate(rows, {"x": objective})
    targets = batch.targets["x"]
    for number in range(batch.counts["x"]):
        one = Targets({name: values[number : number + 1] for name, values in targets.items()}, 1)
        core.zero_grad()
        objective(CoreRunner(core, batch.inputs), core.token_embedding.detach(), one).total.backward()
        gradient = core.token_embedding.grad.abs().sum(1)[torch.from_numpy(rows.input_ids[0]).long()]
        k = int(targets["positions"][number])
        seen = range(k, 11) if targets["backward"][number] else range(k + 1)
        assert [n for n in range(11) if gradient[n] > 0] == list(seen)


@every_core
def test_one_softmax_learns_from_both_directions(config):
    core, objective = make(config.replace(tie_word_embeddings=False))
    rows = text_rows()
    batch = collate(rows, {"x": objective})
    gradients = []
    for wanted in ([0], [1], [0, 1]):
        keep = torch.isin(batch.targets["x"]["backward"], torch.tensor(wanted))
        part = Targets({name: values[keep] for name, values in batch.targets["x"].items()}, int(keep.sum()))
        objective.zero_grad()
        objective(CoreRunner(core, batch.inputs), core.token_embedding, part).total.backward()
        gradients.append(objective.head.decoder.weight.grad.clone())
    assert gradients[0].abs().sum() > 0
    assert gradients[1].abs().sum() > 0
    torch.testing.assert_close(gradients[0] + gradients[1], gradients[2], rtol=1e-4, atol=1e-5)
    tied = make(config)[1]
    assert tied.head.decoder is None


def test_one_character_encoder_learns_from_both_directions():
    config = TWO_WAY.replace(characters=SPELT, tie_word_embeddings=False)
    core, objective = make(config)
    core.set_spellings([f"w{number}" for number in range(BERT_LIKE.size)], BERT_LIKE)
    batch = collate(text_rows(), {"x": objective})
    encoder, gradients = core.embeddings.word_embeddings, []
    for wanted in ([0], [1], [0, 1]):
        keep = torch.isin(batch.targets["x"]["backward"], torch.tensor(wanted))
        part = Targets({name: values[keep] for name, values in batch.targets["x"].items()}, int(keep.sum()))
        core.zero_grad()
        objective(CoreRunner(core, batch.inputs), core.token_embedding, part).total.backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    for name, whole in gradients[2].items():
        assert all(part[name].abs().sum() > 0 for part in gradients), name
        torch.testing.assert_close(gradients[0][name] + gradients[1][name], whole, rtol=1e-3, atol=1e-5)


def test_the_published_vocabulary_is_guessed_from_13_58_nats():
    entries = 793_471
    config = TWO_WAY.replace(vocab_size=entries, initializer_range=1e-3)
    core, objective = make(config, vocabulary=dataclasses.replace(BERT_LIKE, size=entries))
    term = loss_of(core, objective, text_rows())
    assert term.total.item() / term.count == pytest.approx(math.log(entries), abs=0.02)
    assert math.log(entries) == pytest.approx(13.58, abs=0.005)


@every_core
def test_scores_are_both_chains(config):
    core, objective = make(config)
    rows = text_rows()
    scores = objective.score(CoreRunner(core, base_inputs(rows)), core.token_embedding, rows)
    for row, length in enumerate(rows.lengths):
        # the last forward target is [SEP], the last backward one [CLS]: template tokens are not scored
        forward, backward = by_hand(core, objective, take(rows, np.array([row]), int(length)), ends=1)
        assert scores[row] == pytest.approx(-(forward + backward), rel=1e-4)


def test_a_stream_asks_for_what_follows():
    rows = text_rows(special=False).replace(next_token=np.array([7, -1, 8], dtype=np.int32))
    _, objective = make(TWO_WAY)
    targets = objective.targets(rows)
    assert targets.count == 2 * (rows.lengths - 1).sum() + 2
    positions, labels = targets.tensors["positions"].numpy(), targets.tensors["labels"].numpy()
    forward = dict(zip(positions[targets.tensors["backward"].numpy() == 0].tolist(), labels.tolist(), strict=False))
    assert forward[6] == 7
    assert forward[2 * 7 + 4] == 8
    assert 7 + 3 not in forward


def test_rare_words_are_read_but_not_predicted():
    core, objective = make(TWO_WAY.replace(tie_word_embeddings=False), BidirectionalLM(outputs=100))
    assert objective.head.head_config == {
        "kind": "token",
        "transform": False,
        "bias": True,
        "half": True,
        "outputs": 100,
    }
    assert objective.head.decoder.weight.shape == (100, 8)
    labels = objective.targets(text_rows()).tensors["labels"]
    assert labels.max() < 100
    assert (labels == BERT_LIKE.unk).any()
    assert torch.isfinite(loss_of(core, objective, text_rows()).total)
    everything = make(TWO_WAY, BidirectionalLM(outputs=5000))[1]
    assert "outputs" not in everything.head.head_config
    with pytest.raises(ZooError, match="the tokenizer has none among its first"):
        BidirectionalLM(outputs=100).build(TWO_WAY, GPT_LIKE)
    with pytest.raises(ZooError, match="cannot have the token embedding as its matrix"):
        BidirectionalLM(outputs=100).build(TWO_WAY, BERT_LIKE)


def test_dropout_of_the_second_pass_is_its_own():
    """Rows of one word are the same from both ends, so that only dropout tells the directions apart."""
    core, objective = make(ONE_WAY.replace(hidden_dropout_prob=0.3))
    rows = text_rows((5, 5))
    rows = rows.replace(input_ids=np.full_like(rows.input_ids, 20))
    batch = collate(rows, {"x": objective})

    def losses(keys):
        """Of the forward and of the backward direction."""
        run_core, targets = CoreRunner(core, batch.inputs._replace(dropout_keys=keys)), batch.targets["x"]
        halves = [{name: values[targets["backward"] == way] for name, values in targets.items()} for way in (0, 1)]
        return [objective(run_core, core.token_embedding, Targets(half, len(half["labels"]))).total for half in halves]

    torch.testing.assert_close(*losses(None))
    forward, backward = losses(row_keys(0, 0, range(2)))
    assert not torch.allclose(forward, backward)


def test_visibility_follows_the_core():
    assert make(TWO_WAY)[1].attention == "bidirectional"
    assert make(ONE_WAY)[1].attention == "causal"
    dense = AttentionPattern(causal=True, dense=torch.ones(1, 7, 7, dtype=torch.bool))
    core, objective = make(ONE_WAY)
    with pytest.raises(ZooError, match="cannot reverse an attention pattern"):
        objective(CoreRunner(core, CoreInputs(torch.full((1, 7), 9), dense)), core.token_embedding, Targets({}, 0))


# --- the sampled softmax ---


def test_negatives_are_log_uniform_and_repeat():
    ids, draws = draw_negatives(5, 200, 1000)
    assert len(set(ids.tolist())) == 200
    assert draws >= 200
    assert 0 <= ids.min() <= ids.max() < 1000
    again, _ = draw_negatives(5, 200, 1000)
    assert (ids == again).all()
    other, _ = draw_negatives(6, 200, 1000)
    assert (ids != other).any()
    counts, expected, runs = np.zeros(1000), np.zeros(1000), 400
    for key in range(runs):
        found, draws = draw_negatives(key, 60, 1000)
        counts[found] += 1
        expected += log_expected(torch.arange(1000), 1000, draws).double().exp().numpy()
    for part in (slice(0, 5), slice(5, 50), slice(50, 300), slice(300, 1000)):
        assert counts[part].sum() == pytest.approx(expected[part].sum(), rel=0.05)
    shares = log_expected(torch.arange(1000), 1000, 1).double().exp()
    assert shares.sum() == pytest.approx(1.0, abs=1e-4)


def test_sampled_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(4, 6, generator=generator), torch.randn(50, 6, generator=generator)
    bias, labels = torch.randn(50, generator=generator), torch.tensor([0, 7, 49, 7])
    ids, draws = draw_negatives(1, 10, 50)
    assert 0 in ids  # one label is among the negatives
    found = sampled_cross_entropy(features, weight, bias, labels, ids, draws)
    for row, label in enumerate(labels.tolist()):
        known = [label, *(k for k in ids.tolist() if k != label)]
        chance = [1 - (1 - math.log((k + 2) / (k + 1)) / math.log(51)) ** draws for k in known]
        logits = features[row] @ weight[known].T + bias[known] - torch.tensor(chance).log()
        assert found.nll[row].item() == pytest.approx(-logits.log_softmax(0)[0].item(), rel=1e-4)
    assert found.total.item() == pytest.approx(found.nll.sum().item())


def test_gradients_of_the_sampled_loss_point_where_the_full_ones_do():
    """Averaged over many draws; the estimate is biased, its direction is not far off."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 8, generator=generator)
    labels = torch.arange(0, 200, 7)
    features = (0.5 * torch.randn(len(labels), 8, generator=generator)).requires_grad_()
    (full,) = torch.autograd.grad(functional.cross_entropy(features @ weight.T, labels, reduction="sum"), features)
    total = torch.zeros_like(full)
    for key in range(200):
        loss = sampled_cross_entropy(features, weight, None, labels, *draw_negatives(key, 40, 200))
        total += torch.autograd.grad(loss.total, features)[0]
    assert functional.cosine_similarity(total.flatten(), full.flatten(), dim=0) > 0.98


def test_sampled_while_training_full_while_validating():
    core, objective = make(TWO_WAY, BidirectionalLM(sampled=50))
    full, rows = make(TWO_WAY)[1], text_rows()
    exact = loss_of(core, full, rows).total.item()
    torch.manual_seed(3)
    sampled = loss_of(core, objective, rows)
    state = torch.get_rng_state()
    assert loss_of(core, objective, rows).total.item() == sampled.total.item()  # keyed by the seed alone
    assert torch.equal(torch.get_rng_state(), state)  # and nothing is drawn from torch's generator
    torch.manual_seed(4)
    assert loss_of(core, objective, rows).total.item() != sampled.total.item()
    assert sampled.total.item() != pytest.approx(exact)
    assert sampled.row_total.sum().item() == pytest.approx(sampled.total.item(), rel=1e-5)
    objective.eval()
    assert loss_of(core, objective, rows).total.item() == pytest.approx(exact, rel=1e-6)
    objective.train()
    most = make(TWO_WAY, BidirectionalLM(sampled=501))[1]  # more than half of the vocabulary: no gain
    assert loss_of(core, most, rows).total.item() == pytest.approx(exact, rel=1e-6)
    assert objective.head_flops(10) < full.head_flops(10)
    with pytest.raises(ZooError, match="sampled is 0"):
        BidirectionalLM(sampled=0)


# --- objectives and cores are independent choices ---

SPELLING = {"characters": SPELT, "tie_word_embeddings": False}
ALL_CORES = {
    "attention": ONE_WAY,
    "recurrent": TWO_WAY,
    "attention, characters": ONE_WAY.replace(**SPELLING),
    "recurrent, characters": TWO_WAY.replace(**SPELLING),
    "recurrent, narrow table": TWO_WAY.replace(embedding_size=5),
}
ALL_OBJECTIVES = {
    "two-way": BidirectionalLM,
    "two-way, sampled": lambda: BidirectionalLM(sampled=100),
    "causal": CausalLM,
    "masked": lambda: MaskedLM(RandomTokens(rate=0.3)),
}


@pytest.mark.parametrize("objective", ALL_OBJECTIVES.values(), ids=ALL_OBJECTIVES)
@pytest.mark.parametrize("config", ALL_CORES.values(), ids=ALL_CORES)
def test_every_objective_learns_on_every_core(config, objective):
    core, objective = make(config.replace(initializer_range=0.05), objective())
    core.set_spellings([f"w{number}" for number in range(BERT_LIKE.size)], BERT_LIKE)
    rows = objective.corrupt(text_rows((10, 6, 8)), Draw(0, 0))
    parameters = [*core.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(40):
        term = loss_of(core, objective.train(), rows)
        optimizer.zero_grad()
        (term.total / term.count).backward()
        optimizer.step()
        losses.append(float(term.total.detach()) / term.count)
    unused = [name for name, p in core.named_parameters() if p.grad is None]
    assert all("pooler" in name or "token_type" in name for name in unused)
    assert losses[-1] < 0.5 * losses[0]
    scored = objective.eval().score(CoreRunner(core, base_inputs(rows)), core.token_embedding, text_rows((3, 5)))
    assert (scored < 0).all()


# --- through the loop ---


def elmo_run(folder: Path, **more: object) -> list[str]:
    """A tiny run: characters, state from batch to batch, Adagrad, the sampled softmax."""
    return arguments(
        folder,
        "elmo",
        **{
            "steps": 8,
            "data.tokenizer.vocab_size": 3000,
            "data.sequence_length": 20,
            "model.recurrent.cell_size": 24,
            "objectives.bidirectional_lm.init_args.outputs": 500,
            "objectives.bidirectional_lm.init_args.sampled": 50,
            "train.batch_size": 8,
            "train.micro_batch_size": 4,
            **more,
        },
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("elmo")


@pytest.fixture(scope="module")
def run(place):
    return train(elmo_run(place, output=place / "whole"))


def test_a_run_writes_a_model_that_spells(run):
    core, model = load_core(run)
    assert model.attention == "bidirectional"
    tokenizer = load_tokenizer(run)
    words = tokens_by_id(tokenizer)
    assert len(words) > 1000
    table = core.embeddings.word_embeddings.spellings
    assert torch.equal(table, character_table(words, 50, tokenizer.vocabulary.cls, tokenizer.vocabulary.sep))
    assert model.heads["bidirectional_lm"]["outputs"] == 500
    loss = [row["validation"]["loss"] for row in log_lines(run) if "validation" in row] or [0.0]
    assert all(math.isfinite(value) for value in loss)


def test_a_killed_run_goes_on_with_its_state(place, run, monkeypatch, tmp_path):
    argv = elmo_run(place, output=tmp_path)
    for step in (2, 5):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            with pytest.raises(Killed):
                train(argv)
    assert outcome(train(argv)) == outcome(run)
    remembered = load_tensors(next((run / "checkpoints").glob("step-*8")) / "recurrent_state.safetensors")
    assert any(
        name.endswith("cell") and len(values) == 8 and values.abs().max() > 0 for name, values in remembered.items()
    )


@pytest.mark.slow
def test_two_processes_take_the_same_steps(place, run, warm, tmp_path):
    """The same rows, states, dropout and negatives: the losses agree to rounding."""
    assert "2 processes" in finish(warm.launch(elmo_run(place, output=tmp_path), processes=2))
    first, second = open_weights(run), open_weights(next(tmp_path.iterdir()))
    assert max((first[name].float() - second[name].float()).abs().max() for name in first) < 1e-4


def test_a_run_scores_sentences(run):
    scorer = Scorer(run)
    scores = scorer.score(["The town lies near the river .", "It was ."])
    assert scores.shape == (2,)
    assert (scores < 0).all()


def test_transformers_opens_the_states_of_a_run(run):
    """Its head predicts neighbours from halves of the states, which no class there does."""
    from transformers import AutoModel, AutoModelForMaskedLM

    import zoo.hf

    core = load_core(run)[0]
    ids = torch.from_numpy(load_tokenizer(run).encode_batch(["The town lies near the river ."])[0][0]).long()[None]
    with torch.no_grad():
        found = AutoModel.from_pretrained(run)(ids).last_hidden_state
        torch.testing.assert_close(found, core(CoreInputs(ids)).last_hidden_state)
    with pytest.raises(ZooError, match=r"every direction from its own half .* `zoo score`"):
        AutoModelForMaskedLM.from_pretrained(run)
    assert isinstance(zoo.hf.from_folder(run), zoo.hf.ZooModel)


# --- the mix ---


def test_mix_starts_as_the_mean_and_can_choose():
    layers = [torch.randn(2, 5, 8) for _ in range(3)]
    mix = ScalarMix(3)
    torch.testing.assert_close(mix(layers), torch.stack(layers).mean(0))
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([-1e9, 0.0, -1e9]))
    torch.testing.assert_close(mix(layers), layers[1])
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.1, 0.7, -0.4]))
        before = mix(layers)
        mix.weights.add_(5.0)
        mix.gamma.fill_(2.0)
    torch.testing.assert_close(mix(layers), 2.0 * before)
    assert sum(mix.shares()) == pytest.approx(1.0)
    with pytest.raises(ZooError, match="of 3 layers, 2 were given"):
        mix(layers[:2])


def test_norm_is_over_all_real_tokens_and_dimensions_at_once():
    states, real = torch.randn(2, 5, 8) * 3 + 1, torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = normalise_jointly(states, real)[real]
    assert found.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert found.square().mean().item() == pytest.approx(1.0, rel=1e-4)
    assert found.mean(-1).abs().max() > 0.05  # not per token
    other = states.clone()
    other[0, 3:] = 100.0
    torch.testing.assert_close(normalise_jointly(other, real)[real], found)
    whole = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(normalise_jointly(states, whole), normalise_jointly(states, None))
    layers = [states, 10 * states]
    torch.testing.assert_close(ScalarMix(2, layer_norm=True)(layers, real), normalise_jointly(states, real))


def test_regulariser_pulls_towards_the_mean():
    mix = ScalarMix(4)
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    assert mix.regulariser().item() == pytest.approx(5.25)
    shifted = mix.weights + 1 / 4  # the published form, of weights that softmax cannot tell apart
    assert (shifted - 1 / 4).square().sum().item() == pytest.approx(5.25)
    assert ScalarMix(4).regulariser().item() == 0.0


def test_frozen_features():
    core = spelling_core()
    features = FrozenCore(core, mixes=2, dropout=0.5)
    ids, lengths = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]), torch.tensor([4, 3])
    inputs = CoreInputs(ids, AttentionPattern(lengths=lengths))
    first, second = features(inputs)
    torch.testing.assert_close(first, second)
    states = core(inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(first, torch.stack(states).mean(0))
    keys = row_keys(0, 1, range(2))
    dropped = features(inputs._replace(dropout_keys=keys))
    torch.testing.assert_close(dropped[0], keyed_dropout(first, keys, 1 << 21, 0.5))
    assert not torch.allclose(dropped[0], dropped[1])
    (dropped[0].sum() + dropped[1].sum() + features.regulariser()).backward()
    assert all(p.grad is None for p in core.parameters())
    trained = [name for name, p in features.named_parameters() if p.requires_grad]
    assert trained == [f"mixes.{n}.{name}" for n in range(2) for name in ("weights", "gamma")]
    assert all(p.grad.abs().sum() > 0 for mix in features.mixes for p in mix.parameters())


# --- ELMo's own files ---


def published(name):
    return CoreConfig.from_dict(read_yaml(shipped_configs() / "model" / f"{name}.yaml", "model"))


@pytest.mark.parametrize(("name", "count"), [("base", 93_600_848), ("medium", 28_027_728), ("small", 13_593_296)])
def test_published_sizes(name, count):
    config = published(f"elmo-{name}")
    with torch.device("meta"):
        core = build_core(config)
    assert sum(p.numel() for p in core.parameters()) == count
    assert config_of(options_of(config)) == config.replace(initializer_range=config.input_width**-0.5, vocab_size=None)


def test_parts_of_the_published_model():
    with torch.device("meta"):
        core = build_core(published("elmo-base"))

    def size(part):
        return sum(p.numel() for p in part.parameters())

    encoder = core.embeddings.word_embeddings
    assert isinstance(encoder, CharacterEncoder)
    assert [size(p) for p in (encoder.characters, encoder.convolutions, encoder.highways, encoder.projection)] == [
        4_176,
        199_168,
        16_785_408,
        1_049_088,
    ]
    assert [size(layer) for layer in core.layers] == [2 * 18_890_752] * 2


def stored_rounding(core, values) -> float:
    """Of values that are float32 results, too: each layer sums the values of the cell below."""
    return rounding(float(np.abs(values).max()), core.config.recurrent.cell_size, core.config.num_hidden_layers)


def check_ten_batches(core):
    """The top layer's vectors of the fixture's sentences, with the state carried on."""
    for found, values in top_layers(core):
        np.testing.assert_allclose(found, values, rtol=0, atol=stored_rounding(core, values))


@needs_fixture
def test_parity_with_state_carried_over_ten_batches():
    core = load_elmo(FIXTURE / "options.json", FIXTURE / "lm_weights.hdf5")
    assert sum(p.numel() for p in core.parameters()) == 105_120
    check_ten_batches(core)


def gates_in_another_order(core):
    """Blocks read as i, f, g, o, which is torch's order, instead of TensorFlow's i, g, f, o."""
    for layer in core.layers:
        for values in (layer.input_weight, layer.recurrent_weight, layer.bias):
            i, f, o, g = values.detach().clone().chunk(4, dim=1)
            values.copy_(torch.cat([i, g, o, f], dim=1))


def gates_that_carry(core):
    """What the file calls a carry gate lets the input pass instead of the transform."""
    for highway in core.embeddings.word_embeddings.highways:
        highway.gate.weight.neg_()
        highway.gate.bias.neg_()


def no_skip_connections(core):
    core.recurrent = dataclasses.replace(core.recurrent, skip_connections=False)


def no_forget_bias(core):
    for layer in core.layers:
        layer.bias.chunk(4, dim=1)[1].sub_(1.0)


def words_without_marks(core):
    """Begin and end of a word read as padding."""
    table = core.embeddings.word_embeddings.characters.weight
    table[258:260] = table[260]


MISTAKES = [gates_in_another_order, gates_that_carry, no_skip_connections, no_forget_bias, words_without_marks]


@needs_fixture
@pytest.mark.parametrize("mistake", [None, *MISTAKES], ids=lambda mistake: getattr(mistake, "__name__", "none"))
def test_each_rule_of_the_files_shows_in_the_first_sentences(mistake):
    """From zero state the rules reproduce all three lists; each broken rule misses by far more than rounding."""
    core = load_elmo(FIXTURE / "options.json", FIXTURE / "lm_weights.hdf5")
    sentences, expected = next(batches())
    with torch.no_grad():
        if mistake is not None:
            mistake(core)
        found = []
        for sentence, values in zip(sentences, expected, strict=True):
            ids = character_ids([sentence], 50)
            states = core(
                CoreInputs(torch.zeros(ids.shape[:2], dtype=torch.int64), character_ids=ids)
            ).last_hidden_state
            both = states[0, 1:-1].unflatten(-1, (2, -1)).transpose(0, 1)
            found.append(float((both - torch.from_numpy(values)).abs().max()))
            if mistake is None:
                np.testing.assert_allclose(both.numpy(), values, rtol=0, atol=stored_rounding(core, values))
    assert len(found) == 3
    assert mistake is None or 0.01 < min(found) <= max(found) < 10


@needs_fixture
def test_parity_of_token_vectors_by_vocabulary():
    words = (FIXTURE / "vocab_test.txt").read_text().rstrip("\n").split("\n")
    special = Vocabulary(len(words), cls=words.index("<S>"), sep=words.index("</S>"))
    core = load_elmo(FIXTURE / "options.json", FIXTURE / "lm_weights.hdf5", words, special)
    found, expected = token_vectors(core)
    features = core.config.characters.features
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(float(np.abs(expected).max()), features))


@needs_fixture
def test_the_files_survive_bit_for_bit(tmp_path):
    core = load_elmo(FIXTURE / "options.json", FIXTURE / "lm_weights.hdf5")
    save_elmo(core, tmp_path / "options.json", tmp_path / "weights.hdf5")
    old, new = json.loads((FIXTURE / "options.json").read_text()), json.loads((tmp_path / "options.json").read_text())
    assert {name: new[name] for name in old} == old
    assert same_arrays(FIXTURE / "lm_weights.hdf5", tmp_path / "weights.hdf5") == 33


def same_arrays(one, other) -> int:
    """How many arrays two files hold; they must be alike in names, types and every bit."""
    found = arrays(one), arrays(other)
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert values.dtype == found[1][name].dtype
        np.testing.assert_array_equal(values, found[1][name], err_msg=name, strict=True)
    return len(found[0])


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_any_core_of_the_kind_is_written_and_read(tmp_path, skip, activation):
    config = ELMO.replace(
        vocab_size=None,
        num_hidden_layers=3,
        characters=CharacterConfig(filters=((2, 5), (3, 6)), activation=activation, n_highway=1),
        recurrent=RecurrentConfig(cell_size=12, cell_clip=None, skip_connections=skip, dropout=0.0),
    )
    core = build_core(config, seed=4)
    save_elmo(core, tmp_path / "options.json", tmp_path / "weights.hdf5")
    loaded = load_elmo(tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert loaded.config.recurrent == config.recurrent
    ids = character_ids([["some", "words"], ["more"]], 50)
    inputs = CoreInputs(
        torch.zeros(2, 4, dtype=torch.int64), AttentionPattern(lengths=torch.tensor([4, 3])), character_ids=ids
    )
    assert torch.equal(loaded(inputs).last_hidden_state, core(inputs).last_hidden_state)


def test_gates_are_in_tensorflows_order_in_the_file(tmp_path):
    core = build_core(ELMO.replace(vocab_size=None))
    with torch.no_grad():
        for number, gate in enumerate(("i", "f", "o", "g")):
            core.layers[1].bias[1, 12 * number : 12 * (number + 1)] = ord(gate)
    save_elmo(core, tmp_path / "options.json", tmp_path / "weights.hdf5")
    with h5py.File(tmp_path / "weights.hdf5") as file:
        bias = file["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B"][...]
        kernel = file["RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_0"][...]
    assert [chr(int(value)) for value in bias[::12]] == ["i", "g", "f", "o"]
    weights = core.layers[0]
    expected = torch.cat([weights.input_weight[0, :12], weights.recurrent_weight[0, :12]], dim=1)
    np.testing.assert_array_equal(kernel[:, :12].T, expected.detach().numpy())


@pytest.fixture
def pair(tmp_path):
    """Small options and weights."""
    save_elmo(build_core(ELMO.replace(vocab_size=None)), tmp_path / "options.json", tmp_path / "weights.hdf5")
    return tmp_path / "options.json", tmp_path / "weights.hdf5"


def change(path, **changes):
    facts = json.loads(path.read_text())
    for name, value in changes.items():
        group, key = name.split("__")
        facts[group][key] = value
    path.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lstm__dim": 13}, r"W_P_0 has shape \(12, 8\), the options make it \(13, 8\)"),
        ({"lstm__n_layers": 3}, "no RNN_0/RNN/MultiRNNCell/Cell2"),
        ({"lstm__n_layers": 1}, "Cell1/LSTMCell/B belongs to nothing that the options name"),
        ({"char_cnn__n_highway": 3}, "no CNN_high_2/W_carry"),
        ({"char_cnn__filters": [[1, 4], [2, 5]]}, "CNN/W_cnn_2 belongs to nothing"),
        ({"char_cnn__filters": [[1, 4], [2, 5], [3, 7]]}, "W_cnn_2 has shape"),
        ({"char_cnn__n_characters": 300}, "n_characters is 300"),
        ({"lstm__projection_dim": "8"}, "projection_dim is '8'; a whole number"),
        ({"lstm__projection_dim": 64}, "lstm.projection_dim = 64 beside lstm.dim = 12"),
        ({"char_cnn__filters": 5}, r"filters is 5; a list of \[width, number\]"),
        ({"char_cnn__activation": "selu"}, "relu or tanh"),
        ({"char_cnn__max_characters_per_token": None}, "max_characters_per_token is None"),
    ],
)
def test_options_that_disagree_with_the_weights(pair, changes, said):
    change(pair[0], **changes)
    with pytest.raises(ZooError, match=said):
        load_elmo(*pair)


def test_files_that_are_not_what_they_should_be(pair, tmp_path):
    options, weights = pair
    with pytest.raises(ZooError, match=r"nowhere.hdf5 is not a file"):
        load_elmo(options, tmp_path / "nowhere.hdf5")
    with pytest.raises(ZooError, match=r"nowhere.json does not exist"):
        load_elmo(tmp_path / "nowhere.json", weights)
    short = tmp_path / "short.hdf5"
    for kept in (0, 100, weights.stat().st_size // 2):
        short.write_bytes(weights.read_bytes()[:kept])
        with pytest.raises(ZooError, match=r"short.hdf5 is not a readable hdf5 file.*is the copy complete"):
            load_elmo(options, short)
    foreign = tmp_path / "foreign.hdf5"
    with h5py.File(foreign, "w") as file:
        file["model_weights/dense/kernel"] = np.zeros((3, 3), dtype="f4")
    with pytest.raises(ZooError, match=r"belongs to nothing|no CNN"):
        load_elmo(options, foreign)
    with h5py.File(foreign, "w") as file:
        file["names"] = ["a", "b"]
    with pytest.raises(ZooError, match="not floating-point numbers"):
        load_elmo(options, foreign)
    with h5py.File(weights, "a") as file:
        file["char_embed"][3, 1] = np.nan
    with pytest.raises(ZooError, match="char_embed holds values that are not finite"):
        load_elmo(options, weights)
    options.write_text(json.dumps({"char_cnn": {}, "lstms": {}}))
    with pytest.raises(ZooError, match=r"has no 'lstm'.*lstms"):
        load_elmo(options, weights)


def test_cores_that_the_files_cannot_express(tmp_path):
    for config, said in (
        (TWO_WAY, "must both be set"),
        (ELMO.replace(pooler=True), "pooler is True"),
        (ELMO.replace(num_hidden_groups=1), "shared layers"),
        (ELMO.replace(recurrent=RecurrentConfig(cell_size=8)), "not wider than the projection"),
        (ELMO.replace(characters=CharacterConfig(filters=((1, 8),))), "as many as the projection"),
    ):
        with pytest.raises(ZooError, match=said):
            save_elmo(build_core(config), tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert not list(tmp_path.iterdir())


# --- the commands ---


@needs_fixture
def test_commands_bring_a_model_in_and_out_again(tmp_path, capsys):
    assert cli.dispatch(["import", str(FIXTURE), str(tmp_path / "model")]) == 0
    assert "458 words of vocab_test.txt" in capsys.readouterr().out
    core, model = load_core(tmp_path / "model")
    check_ten_batches(core)
    assert (model.origin, model.attention, model.heads) == ("elmo", "bidirectional", {})
    assert json.loads((tmp_path / "model" / "import.json").read_text())["source"] == "allennlp"
    tokenizer = load_tokenizer(tmp_path / "model")  # ids are enough, and mean what the vocabulary says
    words = (FIXTURE / "vocab_test.txt").read_text().split("\n")
    assert tokens_by_id(tokenizer) == words
    assert tokenizer.encode_batch(["good Why neverseen"])[0][0].tolist() == [0, 1, words.index("<UNK>")]
    tokenizer.set_template(model.template)
    ids = tokenizer.encode("good Why").ids
    assert [words[number] for number in ids] == ["<S>", "good", "Why", "</S>"]
    given = character_ids([["good", "Why"]], 50)
    by_id = core(CoreInputs(torch.tensor([ids]))).last_hidden_state
    by_character = core(CoreInputs(torch.zeros(1, 4, dtype=torch.int64), character_ids=given)).last_hidden_state
    torch.testing.assert_close(by_id, by_character)

    for argv in ([], ["--family", "elmo"]):
        target = tmp_path / f"out{len(argv)}"
        assert cli.dispatch(["export", str(tmp_path / "model"), str(target), *argv]) == 0
        assert same_arrays(FIXTURE / "lm_weights.hdf5", target / "weights.hdf5") == 33
        old, new = (json.loads((folder / "options.json").read_text()) for folder in (FIXTURE, target))
        assert {name: new[name] for name in old} == old
        assert (target / "vocab.txt").read_text().rstrip("\n") == (FIXTURE / "vocab_test.txt").read_text()
    assert "library_name: allennlp" in (tmp_path / "out0" / "README.md").read_text()


def test_a_run_goes_out_and_comes_back(run, tmp_path):
    """Words that the run spells otherwise get their names, and the vectors of a text stay."""
    report = export_folder(run, tmp_path / "out")
    assert "left out, its files have no place for it: head bidirectional_lm" in report
    assert any("[UNK] as <UNK>, [CLS] as <S>, [SEP] as </S>" in line for line in report)
    with pytest.raises(ZooError, match=r"As BERT this model cannot be expressed"):
        export_folder(run, tmp_path / "bert", "bert")
    import_folder(tmp_path / "out", tmp_path / "back")
    (old, _), (new, metadata) = load_core(run), load_core(tmp_path / "back")
    for name in ("characters", "recurrent", "hidden_size", "num_hidden_layers", "vocab_size"):
        assert getattr(new.config, name) == getattr(old.config, name)
    text = "The town is near the river ."
    found = []
    for folder, core in ((run, old), (tmp_path / "back", new)):
        ids = load_tokenizer(folder).encode_batch([text])[0][0]
        found.append((ids.tolist(), core(CoreInputs(torch.from_numpy(ids).long()[None])).last_hidden_state))
    assert found[0][0] == found[1][0]
    assert load_tokenizer(run).vocabulary.unk not in found[0][0]
    torch.testing.assert_close(found[0][1], found[1][1])  # tensors lie elsewhere in memory: not bit for bit
    weights, again = old.state_dict(), new.state_dict()
    (unknown,) = {row for row, same in enumerate((weights[SPELLINGS] == again[SPELLINGS]).all(1)) if not same}
    assert tokens_by_id(load_tokenizer(run))[unknown] == "[UNK]"
    assert all(torch.equal(weights[name], again[name]) for name in weights if name != SPELLINGS)
    assert metadata.template.single == "<S> $A </S>"


@pytest.mark.parametrize("skip", [True, False])
def test_both_layouts_come_in(tmp_path, skip):
    """Released names and bilm-tf's own; training's options; a vocabulary from elsewhere; arrays left behind."""
    core = build_core(
        ELMO.replace(vocab_size=None, recurrent=RecurrentConfig(cell_size=12, skip_connections=skip)), seed=3
    )
    place = tmp_path / "theirs"
    place.mkdir()
    save_elmo(core, place / "small_options.json", place / "small_weights.hdf5")
    change(place / "small_options.json", char_cnn__n_characters=261)  # as in training
    (tmp_path / "words.txt").write_text("<S>\n</S>\n!!!MAXTERMID\na\nword\n")
    with h5py.File(place / "small_weights.hdf5", "a") as file:
        file["global_step"] = np.float32(3.0)
    with pytest.raises(ZooError, match="global_step belongs to nothing"):
        import_folder(place, tmp_path / "model")
    report = import_folder(place, tmp_path / "model", ["global_step"], str(tmp_path / "words.txt"))
    assert any("lacks <UNK>: added as its last words" in line for line in report)
    loaded, metadata = load_core(tmp_path / "model")
    assert metadata.config.recurrent.skip_connections is skip
    assert metadata.config.vocab_size == 5
    ids = character_ids([["some", "words"]], 12)
    inputs = CoreInputs(torch.zeros(1, 4, dtype=torch.int64), character_ids=ids)
    assert torch.equal(loaded(inputs).last_hidden_state, core(inputs).last_hidden_state)


@pytest.fixture
def theirs(pair):
    """A folder in ELMo's format, with a vocabulary, beside nothing else."""
    folder = pair[0].parent / "theirs"
    folder.mkdir()
    for path in pair:
        path.rename(folder / path.name)
    (folder / "vocab.txt").write_text("<S>\n</S>\n<UNK>\na\nword\n")
    return folder


def damaged_weights(folder):
    (folder / "weights.hdf5").write_bytes((folder / "weights.hdf5").read_bytes()[:3000])


def foreign_weights(folder):
    with h5py.File(folder / "weights.hdf5", "w") as file:
        file["model_weights/dense/kernel"] = np.zeros((3, 3), dtype="f4")


def second_model(folder):
    shutil.copyfile(folder / "weights.hdf5", folder / "other.hdf5")


def append(text):
    return lambda folder: (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text() + text)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged_weights, "is not a readable hdf5 file.*is the copy complete"),
        (foreign_weights, "model_weights/dense/kernel belongs to nothing"),
        (second_model, r"2 hdf5 files with weights of ELMo \(other.hdf5, weights.hdf5\); exactly one"),
        (lambda folder: (folder / "weights.hdf5").unlink(), "no hdf5 file at all"),
        (lambda folder: (folder / "options.json").unlink(), r"0 files options.json \(none\)"),
        (lambda folder: (folder / "options.json").write_text("{"), "broken JSON"),
        (lambda folder: change(folder / "options.json", lstm__dim=13), r"the options make it \(13, 8\)"),
        (lambda folder: change(folder / "options.json", lstm__n_layers=1), "belongs to nothing that the options name"),
        (append("word\n"), "'word' stands in line 5 and in line 6"),
        (append("\nend\n"), "line 6 is empty"),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe"), "invalid UTF-8"),
        (lambda folder: shutil.copyfile(folder / "vocab.txt", folder / "vocab2.txt"), "several vocabularies"),
        (
            lambda folder: (folder / "options.json").write_text(
                (folder / "options.json").read_text().replace("{", '{"n_tokens_vocab": 4,', 1)
            ),
            "has 5 words, .*n_tokens_vocab = 4",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_and_nothing_is_written(theirs, tmp_path, spoil, said):
    spoil(theirs)
    with pytest.raises(ZooError, match=said):
        import_folder(theirs, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [theirs]


def test_without_h5py_the_commands_say_what_to_install(theirs, tmp_path, monkeypatch):
    import_folder(theirs, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for command in (lambda: import_folder(theirs, tmp_path / "new"), lambda: export_folder(tmp_path / "model", "new")):
        with pytest.raises(ZooError, match=r"pip install 'sesame-zoo\[elmo\]'"):
            command()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "theirs"]


def test_a_model_without_words_reads_characters(theirs, tmp_path):
    (theirs / "vocab.txt").unlink()
    report = import_folder(theirs, tmp_path / "model")
    assert any("reads character_ids only" in line for line in report)
    assert read_metadata(tmp_path / "model").config.vocab_size is None
    report = export_folder(tmp_path / "model", tmp_path / "out")
    assert "no tokenizer there, so no vocabulary was written" in report
    assert same_arrays(theirs / "weights.hdf5", tmp_path / "out" / "weights.hdf5") == 1 + 2 * 3 + 2 * 4 + 2 + 4 * 3
    with pytest.raises(ZooError, match="--vocabulary is for folders with ELMo's"):
        import_folder(tmp_path / "model", tmp_path / "again", vocabulary="x.txt")


def test_cores_of_another_kind_are_not_written(tmp_path, shared):
    gpt = shared.finished_run("gpt")
    with pytest.raises(ZooError, match="characters and recurrent must both be set"):
        export_folder(gpt, tmp_path / "out", "elmo")
    assert not list(tmp_path.iterdir())

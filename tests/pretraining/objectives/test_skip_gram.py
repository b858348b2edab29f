"""Skip-gram and CBOW: the numeric checks of their spec (specs: word2vec, section 8), and what the loss says by hand."""

import math

import numpy as np
import pytest
import torch
from ranks import Ranks
from shared import FACTS
from stores import BERT_LIKE, FIRST_ID, synthetic_store
from training import Killed, arguments, assert_same_course, interrupt_at, log_lines, outcome, train

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.objectives import ContinuousBagOfWords, SkipGram
from pretraining.objectives.base import CoreRunner, Targets, base_inputs, collate
from pretraining.objectives.windows import WordFrequencies, draw_reach, window_blocks
from pretraining.optim.learning_rate import WarmupDecay
from pretraining.show.command import show_command
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.core.init import initialise
from zoo.errors import ZooError
from zoo.model_folder import load_core

TABLE = CoreConfig(
    vocab_size=BERT_LIKE.size,
    hidden_size=20,
    num_hidden_layers=0,
    num_attention_heads=1,
    position_type="none",
    type_vocab_size=0,
    embedding_norm=False,
    hidden_dropout_prob=0.0,
    initializer="uniform",
    initializer_range=0.5 / 20,
    tie_word_embeddings=False,
    pooler=False,
)
DRAW = Draw(seed=3, epoch=0)


def text_rows(ids: np.ndarray) -> Examples:
    """Rows of words alone."""
    count, length = ids.shape
    number = np.arange(count)
    return Examples(
        input_ids=ids.astype(np.int32),
        lengths=np.full(count, length),
        special_tokens_mask=np.zeros(ids.shape, dtype=bool),
        token_flags=np.ones(ids.shape, dtype=np.uint8),
        example_ids=number,
        document_ids=number,
    )


def random_rows(count=200, length=300) -> Examples:
    return text_rows(np.random.default_rng(0).integers(FIRST_ID, 400, (count, length)))


def ready(objective, seed=0):
    """Core and objective with initial values, all words equally frequent."""
    objective.build(TABLE, BERT_LIKE)
    objective.bind_counts(np.full(BERT_LIKE.size, 10), "the test's text")
    initialise(objective, TABLE, seed, "heads.x.")
    return build_core(TABLE, seed), objective


def loss_of(core, objective, rows):
    batch = collate(rows, {"x": objective})
    targets = Targets(batch.targets["x"], batch.counts["x"])
    return objective(CoreRunner(core, batch.inputs), core.token_embedding, targets)


# --- the checks of the spec ---


def test_noise_follows_the_counts_to_the_power_of_three_quarters():
    counts = np.zeros(1000)
    counts[[7, 9]] = 100, 1
    words = WordFrequencies(counts, 0.0)
    rows = random_rows(400, 1000)
    noise = words.noise(rows, np.ones(rows.shape, dtype=bool), DRAW)
    seven, nine = (noise == 7).sum(), (noise == 9).sum()
    assert seven + nine == noise.size
    assert seven / nine == pytest.approx(31.62, rel=0.03)


def test_frequent_words_are_thinned_out_as_the_original_does():
    share = np.array([0.07, 2.618e-3, 2.7e-3, 1e-4])
    counts = np.append(share, 1 - share.sum()) * 1e9
    kept = WordFrequencies(counts, 1e-3).kept
    assert kept[0] == pytest.approx(0.1338, abs=1e-4)
    assert WordFrequencies(counts, 1e-5).kept[0] == pytest.approx(0.01210, abs=1e-5)
    assert kept[1] == pytest.approx(1.0, abs=1e-4)
    assert kept[2] < 1.0
    assert kept[3] == 1.0
    assert (WordFrequencies(counts, 0.0).kept == 1).all()
    rows = text_rows(np.zeros((100, 1000)))
    assert WordFrequencies(counts, 1e-3).keep(rows, DRAW).mean() == pytest.approx(0.1338, abs=5e-3)


def test_windows_are_as_wide_as_the_original_draws_them():
    rows = random_rows()
    reach = draw_reach(rows, 5, DRAW)
    assert reach.mean() == pytest.approx(3, abs=0.02)
    assert (reach >= 5).mean() == pytest.approx(0.2, abs=0.01)
    assert (reach >= 1).all()
    _, objective = ready(SkipGram(subsample=0.0))
    assert objective.targets(objective.corrupt(rows, DRAW)).count / rows.input_ids.size == pytest.approx(6, rel=0.02)


@pytest.mark.parametrize("make", [SkipGram, ContinuousBagOfWords])
def test_loss_and_gradients_at_the_start(make):
    core, objective = ready(make())
    rows = random_rows(8, 100)
    term = loss_of(core, objective, objective.corrupt(rows, DRAW))
    # Noise that is the word to be predicted is left out, which a vocabulary of a thousand seldom sees.
    assert term.total.item() / term.count == pytest.approx(6 * math.log(2), rel=5e-3)
    term.total.backward()
    assert (core.token_embedding.grad == 0).all()
    assert objective.out_embed.weight.grad.abs().sum() > 0


def test_a_step_by_hand():
    """Two words, each the other's only neighbour: u and v move by the old values of the other."""
    core, objective = ready(SkipGram(window=1, negatives=2, subsample=0.0, block=2))
    torch.nn.init.normal_(objective.out_embed.weight, std=0.5)
    rows = objective.corrupt(text_rows(np.array([[10, 11]])), DRAW)
    rows = rows.with_targets(noise=np.array([[20, 11]], dtype=np.int32))  # 11 is no noise where 11 is predicted
    v, u = core.token_embedding.detach().clone(), objective.out_embed.weight.detach().clone()
    term = loss_of(core, objective, rows)
    assert term.count == 2
    term.total.backward()

    def sigmoid(a, b):
        return torch.sigmoid(v[a] @ u[b])

    # A centre's loss: the word beside it is the input. Each noise word stands for 2 draws / 2 words.
    expected_v11 = (1 - sigmoid(11, 10)) * u[10] - sigmoid(11, 20) * u[20] - sigmoid(11, 11) * u[11]
    expected_v10 = (1 - sigmoid(10, 11)) * u[11] - sigmoid(10, 20) * u[20]
    torch.testing.assert_close(-core.token_embedding.grad[11], expected_v11)
    torch.testing.assert_close(-core.token_embedding.grad[10], expected_v10)
    torch.testing.assert_close(-objective.out_embed.weight.grad[10], (1 - sigmoid(11, 10)) * v[11])
    noise = -sigmoid(11, 20) * v[11] - sigmoid(10, 20) * v[10]
    torch.testing.assert_close(-objective.out_embed.weight.grad[20], noise)


def test_learning_rate_falls_with_the_words_read():
    schedule = WarmupDecay(warmup=0.0, decay="linear", floor=1e-4)
    assert schedule.factor(0.5) == pytest.approx(0.5)
    assert schedule.factor(0.0) == 1.0
    assert schedule.factor(1.0) == 1e-4


def test_a_words_vector_is_the_same_in_every_sentence():
    core, _ = ready(SkipGram())
    a, b = (base_inputs(text_rows(np.array([[w, 9, x]]))) for w, x in ((7, 8), (30, 31)))
    assert (core(a).last_hidden_state[0, 1] - core(b).last_hidden_state[0, 1]).abs().max() == 0


def test_two_tables_and_nothing_else():
    core, objective = ready(SkipGram())
    sizes = [p.numel() for p in [*core.parameters(), *objective.parameters()]]
    assert sum(sizes) == 2 * BERT_LIKE.size * TABLE.hidden_size
    assert core.token_embedding.abs().max() <= 0.5 / TABLE.hidden_size
    assert core.token_embedding.std().item() == pytest.approx(0.5 / TABLE.hidden_size / math.sqrt(3), rel=0.02)
    with pytest.raises(ZooError, match="its own best context"):
        TABLE.replace(tie_word_embeddings=True)


def test_products_come_to_pmi_less_the_log_of_the_noise():
    """On a small text the best scores are log p(a, b) / (p(a) p(b)) - log K, with the noise's own shares."""
    generator = np.random.default_rng(1)
    chances = generator.dirichlet(np.full(36, 1.0)).reshape(6, 6)
    pairs = generator.choice(36, size=2500, p=chances.reshape(-1))
    ids = FIRST_ID + np.stack(np.divmod(pairs, 6), axis=1)
    rows = text_rows(ids)
    core, objective = ready(SkipGram(window=1, negatives=3, subsample=0.0, block=2))
    counts = np.bincount(ids.reshape(-1), minlength=BERT_LIKE.size)
    objective.bind_counts(counts, "the test's text")
    optimizer = torch.optim.Adam([*core.parameters(), *objective.parameters()], lr=0.05)
    for step in range(120):
        term = loss_of(core, objective, objective.corrupt(rows, Draw(0, step)))
        optimizer.zero_grad()
        term.total.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.975
    together = np.zeros((6, 6))
    np.add.at(together, (ids[:, 0] - FIRST_ID, ids[:, 1] - FIRST_ID), 1)
    together += together.T
    noise = counts[FIRST_ID : FIRST_ID + 6] ** 0.75
    noise /= noise.sum()
    inputs = together.sum(1)
    # A noise word that is the word predicted does not count.
    expected = np.log(together / (inputs[:, None] * noise[None, :] * 3 * (1 - together / inputs[:, None])))
    words = slice(FIRST_ID, FIRST_ID + 6)
    found = (core.token_embedding[words] @ objective.out_embed.weight[words].T).detach().numpy()
    often = together > 90
    assert often.sum() > 10
    assert np.abs(found - expected)[often].max() < 0.4


# --- windows ---


@pytest.mark.parametrize("block", [3, 16])
def test_blocks_hold_every_pair_within_reach_once(block):
    rng = np.random.default_rng(2)
    rows = text_rows(rng.permutation(np.arange(FIRST_ID, 905)).reshape(20, 45))
    _, objective = ready(SkipGram(window=4, subsample=0.0, block=block))
    rows = objective.corrupt(rows.replace(lengths=rng.integers(0, 46, 20)), DRAW)
    expected = set()
    for row in range(20):
        places = np.flatnonzero(rows.targets["kept"][row])
        assert len(places) == rows.lengths[row]
        for n, place in enumerate(places):
            reach = rows.targets["reach"][row, place]
            near = [m for m in range(max(n - reach, 0), min(n + reach + 1, len(places))) if m != n]
            expected |= {(rows.input_ids[row, place], rows.input_ids[row, places[m]]) for m in near}
    found = window_blocks(rows, 4, block, BERT_LIKE.size)
    pairs = [
        (found.centres[n, c], found.words[found.context[n, c + 4 + offset]])
        for n, c in np.argwhere(found.real)
        for offset in range(-found.left[n, c], found.right[n, c] + 1)
        if offset
    ]
    assert len(pairs) == len(set(pairs)) == objective.targets(rows).count
    assert set(pairs) == expected


def test_words_are_thinned_out_before_windows_are_laid():
    """Removed words vanish, so that windows reach further."""
    ids = np.full((1, 9), 7)
    ids[0, [0, 8]] = 20, 21
    rows = text_rows(ids)
    _, objective = ready(SkipGram(window=1, subsample=1e-9))
    counts = np.zeros(1000, dtype=np.int64)
    counts[[7, 20, 21]] = 10**9, 1, 1
    objective.bind_counts(counts, "the test's text")
    assert objective.targets(objective.corrupt(rows, DRAW)).count == 2


def test_each_context_word_takes_the_whole_gradient_of_the_mean():
    core, objective = ready(ContinuousBagOfWords(window=1, negatives=1, subsample=0.0, block=3))
    torch.nn.init.normal_(objective.out_embed.weight, std=0.5)
    rows = objective.corrupt(text_rows(np.array([[10, 11, 12]])), DRAW)
    rows = rows.with_targets(noise=np.array([[50, 50, 50]], dtype=np.int32))
    v, u = core.token_embedding.detach().clone(), objective.out_embed.weight.detach().clone()
    term = loss_of(core, objective, rows)
    assert term.count == 3
    term.total.backward()
    for word in (10, 12):  # both are the context of the word between them
        of_mean = word_error((v[10] + v[12]) / 2, u[11], u[50])
        torch.testing.assert_close(-core.token_embedding.grad[word], of_mean)
    alone = word_error(v[11], u[10], u[50]) + word_error(v[11], u[12], u[50])
    torch.testing.assert_close(-core.token_embedding.grad[11], alone)


def word_error(mean, right, noise):
    return (1 - torch.sigmoid(mean @ right)) * right - torch.sigmoid(mean @ noise) * noise


# --- what cannot work ---


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ZooError, match=r"set model.num_hidden_layers: 0, not 2"):
        SkipGram().check_model(CoreConfig(vocab_size=10))
    _, objective = ready(SkipGram())
    with pytest.raises(ZooError, match=r"0 different words of the vocabulary.*min_frequency"):
        objective.bind_counts(np.r_[np.full(5, 9), np.zeros(995)], "some text")
    rows = objective.corrupt(random_rows(2, 20), DRAW)
    with pytest.raises(ZooError, match="needs its own task"):
        ready(ContinuousBagOfWords())[1].corrupt(rows, DRAW)
    objective.bind_store(synthetic_store(tmp_path / "store"))
    for name, value in {"pooler": True, "position_type": "learned", "embedding_norm": True}.items():
        with pytest.raises(ZooError, match=f"a table of vectors alone: set model.{name}"):
            TABLE.replace(**{name: value})


def test_an_optimiser_that_takes_no_gradients_of_rows_is_named(tmp_path):
    argv = run_arguments(tmp_path, **{"train.optimizer.class_path": "torch.optim.AdamW"})
    with pytest.raises(ZooError, match=r"does not support sparse gradients.*torch.optim.Adagrad"):
        train(argv)


# --- runs ---


def run_arguments(folder, steps=6, **more):
    return arguments(folder, "word2vec", steps, **FACTS["word2vec"], **{"model.hidden_size": 16, **more})


@pytest.mark.parametrize("objective", ["SkipGram", "ContinuousBagOfWords"])
def test_a_run_learns_and_is_logged(tmp_path, objective):
    path = f"pretraining.objectives.{objective}"
    folder = train(run_arguments(tmp_path, 40, **{"objectives.skip_gram.class_path": path}))
    lines = [line for line in log_lines(folder) if "terms" in line]
    assert lines[0]["terms"]["skip_gram"] == pytest.approx(6 * math.log(2), rel=0.02)
    assert lines[-1]["terms"]["skip_gram"] < lines[0]["terms"]["skip_gram"] - 0.1
    core, _ = load_core(folder)
    assert core.token_embedding.shape[1] == 16


def test_interrupted_and_continued_it_is_bit_identical(shared, monkeypatch, tmp_path):
    whole = shared.finished_run("word2vec")
    argv = shared.settings("word2vec", output=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 7)
        train(argv)
    assert outcome(train(argv)) == outcome(whole)


def test_two_processes_take_the_same_course(shared, tmp_path):
    """Gradients of different rows in each process add up."""
    whole = shared.finished_run("word2vec")
    with Ranks(tmp_path) as ranks:
        code, out = ranks.run(shared.settings("word2vec", output=tmp_path / "runs"))
    assert code == 0, out
    (together,) = (tmp_path / "runs").iterdir()
    assert_same_course(whole, together)
    one, two = (load_core(folder)[0].token_embedding for folder in (whole, together))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_text_is_shown_with_what_stays_of_it(shared, capsys):
    run = shared.finished_run("word2vec")
    assert show_command(["--run", str(run), " ".join(["The town lies by the river."] * 12)]) == 0
    shown = capsys.readouterr().out
    for line in ("kept", "reach", "skip_gram", "predictions", "noise"):
        assert line in shown

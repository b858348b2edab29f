"""Hidden words restored: which are chosen, what is asked, and that an ablation can read it."""

import copy
import itertools
import json
import tracemalloc

import numpy as np
import pytest
import torch
from stores import write_store
from training import SAMPLE, arguments, train

from ablation.config import build, load_ablation
from ablation.grid import hidden_words
from ablation.results.report import is_accuracy
from pretraining.keyed_random import Draw
from pretraining.layouts.gather import examples_from_tokens
from pretraining.objectives.base import base_inputs
from pretraining.objectives.token_scoring import fill_masked
from pretraining.scoring.cloze import (
    Answers,
    Cloze,
    ClozeConfig,
    by_frequency,
    cloze_command,
    cloze_of_run,
    measures,
    metrics,
)
from pretraining.scoring.cloze_items import (
    DocumentTokens,
    SentenceTokens,
    choose_entities,
    choose_words,
    ngram_frequency,
    read_text,
)
from pretraining.scoring.scorer import Scorer
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.train import train_tokenizer
from zoo.errors import ZooError

DRAW = Draw(0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on some Chinese articles with entities."""
    pytest.importorskip("rjieba")
    place = tmp_path_factory.mktemp("cloze")
    text = (SAMPLE / "zh" / "wikipedia.txt").read_text(encoding="utf-8").split("\n\n")[:60]
    (place / "text.txt").write_text("\n\n".join(text), encoding="utf-8")
    annotation = "pretraining.annotations.Lexicon"
    more = {
        "data.corpus.annotations.entity.class_path": annotation,
        "data.corpus.annotations.entity.init_args.files": "zoo:sample/lexicon/entities-zh.txt",
        "data.tokenizer.vocab_size": 3000,
        "data.validation_tokens": 6000,
    }
    argv = arguments(place, "bert-wwm", steps=4, **more)
    argv[1] = "bert-wwm-tiny-zh"
    return train(argv)


def some_text(seed=0, count=4000):
    """Words of 1 to 4 tokens in sentences; every tenth word is a unit of the array."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, count)
    start = np.append(0, np.cumsum(sizes))
    total = int(start[-1])
    starts = np.zeros(total + 1, dtype=bool)
    starts[start] = True
    bounds = np.append(start[:-1:10], total)
    codes = np.zeros(total, dtype=np.uint8)
    for word in range(0, count, 10):
        codes[start[word] : start[word + 1]] = 2
        codes[start[word]] = 1
    sentence = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    return SentenceTokens(rng.integers(5, 30, total), starts, sentence, bounds, rng.random(total) < 0.95, codes)


def test_words_are_whole_of_letters_and_limited():
    text = some_text()
    every = choose_words(text, 4, 10_000, DRAW)
    for length, items in every.items():
        assert (items.size == length).all()
        assert text.starts[items.start].all()
        assert text.starts[items.start + length].all()
        for step in range(length):
            assert text.good[items.start + step].all()
            assert step == 0 or not text.starts[items.start + step].any()
        few = choose_words(text, 4, 50, DRAW)[length]
        assert len(few.start) == 50
        assert set(few.start) <= set(items.start)
    assert len(every[1].start) > 800


def test_controls_match_entities_in_length_and_frequency():
    text = some_text(count=20_000)
    training = np.random.default_rng(1).integers(5, 30, 50_000)
    entities, controls = choose_entities(text, training, 2, 1000, DRAW)
    assert (entities.size == controls.size).all()
    assert len(entities.start) > 300
    assert (text.codes[entities.start] == 1).all()
    for items, inside in ((entities, True), (controls, False)):
        for start, size in zip(items.start[::7], items.size[::7], strict=True):
            assert (text.codes[start : start + size] > 0).all() == inside
            assert text.starts[start]
            assert text.starts[start + size]
            assert text.sentence[start] == text.sentence[start + size - 1]

    def often(items):
        windows = np.lib.stride_tricks.sliding_window_view(training, 2)
        own = items.start[items.size == 2]
        return np.array([(windows == text.ids[s : s + 2]).all(axis=1).sum() for s in own])

    assert abs(often(entities).mean() - often(controls).mean()) < 6  # of about 80
    with pytest.raises(ZooError, match="no unit of 9 tokens"):
        choose_entities(text, training, 9, 1000, DRAW)


TEXT = "emma 3 was emmas été 4th 中国 of 北 .\n"


@pytest.mark.parametrize("kind", ["unigram", "bytebpe", "wordpiece", "word", "suffix"])
def test_words_of_letters_whatever_marks_them(tmp_path, kind):
    """The words ask for letters, the vocabularies write ``▁emma``, ``Ġemma``, ``##s``, ``emma</w>``, and bytes."""
    if kind == "suffix":
        letters = sorted({c for c in TEXT if not c.isspace()} | set("e"))
        merges = ["e m", "em m", "emm a</w>"]
        pieces = ["<unk>", *letters, *(f"{c}</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
        (tmp_path / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
        (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n")
        tokenizer = load_tokenizer(tmp_path)
    else:
        config = TokenizerConfig(kind=kind, vocab_size=320 if kind == "bytebpe" else 60, min_frequency=1)
        tokenizer = train_tokenizer(config, [TEXT] * 3)
    ids, flags = tokenizer.encode_batch([TEXT.strip()])[0]
    store = write_store(tmp_path / "store", [[ids.tolist()]], flags)
    text = read_text(store, np.array([0]), tokenizer, None)
    word = np.flatnonzero(text.starts)
    ours = [tokenizer.decode(text.ids[a:b]) for a, b in itertools.pairwise(word) if text.good[a:b].all()]
    found = ["".join(text.split()) for text in ours]
    assert {"emma", "was", "emmas", "of"} <= set(found)
    assert all(found)
    assert {"中", "中国", "北"} & set(found)  # also where a character is three tokens
    assert not any(set(text) & set("34.") for text in found)
    assert (text.good[word[:-1]] == np.logical_and.reduceat(text.good, word[:-1])).all()


def test_a_unigram_run_is_asked_about_words(tmp_path):
    folder = train(arguments(tmp_path, "albert", steps=1, **{"data.tokenizer.kind": "unigram"}))
    found = cloze_of_run(ClozeConfig(str(folder), items=20))
    assert {name: group["items"] for name, group in found["words"].items()} == dict.fromkeys("1234", 20)


def test_training_text_is_counted_in_portions(tmp_path):
    """The same counts as of all tokens at once, also of stretches across portions; and no copy of the text."""
    rng = np.random.default_rng(0)
    documents = [[rng.integers(5, 30, rng.integers(1, 300)).tolist()] for _ in range(300)]
    store = write_store(tmp_path / "store", [*documents[:7], [], *documents[7:]])
    chosen = np.flatnonzero(rng.random(301) < 0.8)
    offsets = store.document_tokens()
    at_once = np.concatenate([store.tokens[offsets[d] : offsets[d + 1]] for d in chosen])
    training = DocumentTokens(store, chosen)
    assert len(training) == len(at_once)
    assert np.array_equal(training[100:40_000], at_once[100:])
    text = some_text()
    windows = np.lib.stride_tricks.sliding_window_view(at_once, 3)
    starts = np.arange(0, 300, 7)
    expected = [(windows == text.ids[s : s + 3]).all(axis=1).sum() for s in starts]
    for portion in (100, 2**20):
        assert ngram_frequency(text.ids, starts, 3, training, portion).tolist() == expected
    assert ngram_frequency(text.ids, starts, 3, DocumentTokens(store, chosen[:0])).tolist() == [0] * len(starts)


def test_memory_does_not_grow_with_the_training_text(tmp_path):
    one = np.random.default_rng(0).integers(5, 30, 1000).tolist()
    store = write_store(tmp_path / "store", [[one]] * 1000)
    tracemalloc.start()
    try:
        choose_entities(some_text(count=500), DocumentTokens(store, np.arange(1000)), 2, 1000, DRAW, portion=10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < store.num_tokens  # less than a byte for each


def test_a_word_is_filled_in_from_left_to_right(run):
    """Against one row at a time: the model reads the true tokens before, never the hidden ones."""
    scorer = Scorer(run)
    vocabulary, objective = scorer.tokenizer.vocabulary, scorer.objective
    ids, flags = scorer.tokenizer.encode_batch(["中国的首都是北京市。"])[0]
    rows = examples_from_tokens([(ids, flags)], vocabulary, scorer.prefix, scorer.suffix)
    model = Cloze(scorer).model(rows)
    chance, right = fill_masked(model, rows, np.array([3]), np.array([3]))
    expected, all_best = 0.0, True
    for step in range(3):
        hidden = rows.input_ids.copy()
        hidden[0, 3 + step : 6] = vocabulary.mask
        with torch.no_grad():
            states = scorer.core(base_inputs(rows.replace(input_ids=hidden))).last_hidden_state
            logits = objective.head(states[:, 3 + step], scorer.core.token_embedding)[0]
        truth = int(rows.input_ids[0, 3 + step])
        expected += float(torch.log_softmax(logits, 0)[truth])
        all_best &= int(logits.argmax()) == truth
    assert chance[0] == pytest.approx(expected, abs=5e-6)
    assert right[0] == all_best
    other = rows.input_ids.copy()
    other[0, 5] = 99
    again, _ = fill_masked(model, rows, np.array([3]), np.array([2]))
    last, _ = fill_masked(model, rows.replace(input_ids=other), np.array([3]), np.array([2]))
    assert again[0] != last[0]  # what is not hidden counts


def test_equally_probable_entries_share(run):
    """A head that knows nothing: every entry is as probable, and the first is not the answer for all that."""
    scorer = Scorer(run)
    vocabulary = scorer.tokenizer.vocabulary
    encoded = scorer.tokenizer.encode_batch(["中国的首都是北京市。"])
    rows = examples_from_tokens(encoded, vocabulary, scorer.prefix, scorer.suffix)
    model = Cloze(scorer).model(rows)
    blank = model._replace(embedding=torch.zeros_like(model.embedding), head=copy.deepcopy(model.head))
    with torch.no_grad():
        for parameter in blank.head.parameters():
            parameter.zero_()
    for size, together in ((1, False), (2, False), (2, True)):
        _, right = fill_masked(blank, rows, np.array([3]), np.array([size]), together)
        assert right[0] == pytest.approx(len(model.embedding) ** -size, rel=1e-5)


def test_a_word_is_asked_for_at_once(run):
    """Against one pass with the whole word hidden: the chances of its tokens, none of which knows another."""
    scorer = Scorer(run)
    vocabulary, objective = scorer.tokenizer.vocabulary, scorer.objective
    encoded = scorer.tokenizer.encode_batch(["中国的首都是北京市。", "它有一座古老的石桥。"])
    rows = examples_from_tokens(encoded, vocabulary, scorer.prefix, scorer.suffix)
    model, embedding = Cloze(scorer).model(rows), scorer.core.token_embedding
    start, size = np.array([3, 5]), np.array([3, 2])
    chance, right = fill_masked(model, rows, start, size, together=True)
    hidden = rows.input_ids.copy()
    hidden[0, 3:6] = hidden[1, 5:7] = vocabulary.mask
    with torch.no_grad():
        states = scorer.core(base_inputs(rows.replace(input_ids=hidden))).last_hidden_state
        log_chance = torch.log_softmax(objective.head(states, embedding), -1)
    for row, (a, n) in enumerate(zip(start, size, strict=True)):
        truth = torch.from_numpy(rows.input_ids[row, a : a + n].astype(np.int64))
        own = log_chance[row, a : a + n]
        assert chance[row] == pytest.approx(float(own.gather(1, truth[:, None]).double().sum()), abs=5e-6)
        assert right[row] == bool((own.argmax(1) == truth).all())
    one_by_one, _ = fill_masked(model, rows, start, size)
    assert (abs(one_by_one - chance) > 1e-5).all()  # hardly trained: what it sees changes little


def test_figures_of_a_run(run, capsys):
    assert cloze_command([str(run), "--items", "60", "--entity", "entity"]) == 0
    stored = json.loads((run / "cloze.json").read_text())
    assert set(stored["words"]) == {"1", "2", "3", "4"}
    assert {group["items"] for group in stored["words"].values()} <= set(range(1, 61))
    assert stored["entity"]["items"] == stored["control"]["items"] > 5
    assert "by frequency" in capsys.readouterr().out
    found = cloze_of_run(ClozeConfig(str(run), items=60, entity="entity"))
    assert found["words"] == stored["words"]
    named = measures(found)
    assert named["nats.longer-1"] == pytest.approx(named["nats.longer"] - named["nats.1"])
    assert named["exact.entity-control"] == pytest.approx(named["exact.entity"] - named["exact.control"])
    longer = [stored["words"][n] for n in "234"]
    assert named["exact.longer"] == pytest.approx(
        sum(g["exact"] * g["items"] for g in longer) / sum(g["items"] for g in longer)
    )
    assert 5 < named["nats.2"] < 9  # hardly trained: close to the logarithm of 3,000


def test_frequencies_are_the_floor():
    text = some_text()
    counts = np.bincount(text.ids, minlength=text.ids.max() + 3)
    items = choose_words(text, 3, 50, Draw(0, 0))[3]
    found = by_frequency(text, items, counts)
    share = (counts + 1) / (len(text.ids) + len(counts))
    expected = [sum(np.log(share[text.ids[s : s + 3]])) for s in items.start]
    assert len(expected) > 10
    assert found == pytest.approx(expected)
    answers = Answers(items.size, found, items.size > 3, 2 * found, items.size > 2, found)
    means = metrics(answers)
    assert means["unigram"] == means["nats"] == pytest.approx(-np.mean(expected) / 3)
    assert means["nats_at_once"] == pytest.approx(2 * means["nats"])
    assert (means["exact"], means["exact_at_once"]) == (0, 1)


def test_any_text_can_be_asked_about(run, tmp_path):
    (tmp_path / "own.txt").write_text("北京是中国的首都。上海是中国的城市。\n", encoding="utf-8")
    argv = [str(run), "--corpus.files", str(tmp_path / "own.txt"), "--corpus.segmenter", "rjieba"]
    argv += ["--stores", str(tmp_path / "stores"), "--output", str(tmp_path / "out.json")]
    assert cloze_command(argv) == 0
    assert json.loads((tmp_path / "out.json").read_text())["words"]["2"]["items"] == 6


def test_another_text_is_read_as_the_runs_was_and_leaves_its_figures_alone(run, tmp_path, capsys):
    own, dictionary = run / "cloze.json", tmp_path / "words.txt"
    own.write_text("{}")
    text = tmp_path / "own.txt"
    text.write_text("北京是中国的首都。上海是中国的城市。\n", encoding="utf-8")
    argv = [str(run), "--corpus.files", str(text), "--stores", str(tmp_path / "stores")]
    assert cloze_command(argv) == 0
    assert own.read_text() == "{}"
    assert "segmenter rjieba" in capsys.readouterr().out
    (place,) = run.glob("cloze-own-*.json")
    stored = json.loads(place.read_text())
    assert stored["words"]["2"]["items"] == 6
    assert (stored["asked"]["corpus"]["files"], stored["asked"]["corpus"]["segmenter"]) == (str(text), "rjieba")
    assert place.name == f"cloze-{stored['text']['store']}.json"
    assert stored["text"]["segmenter"]["name"] == "rjieba"
    assert cloze_command([*argv, "--corpus.segmenter", "none"]) == 0
    assert len(list(run.glob("cloze-own-*.json"))) == 2  # what is asked for counts
    dictionary.write_text("是中国的 100000\n", encoding="utf-8")
    record = json.loads((run / "run.json").read_text())
    record["config"]["data"]["corpus"]["user_dictionary"] = str(dictionary)
    (tmp_path / "run").mkdir()
    for file in run.iterdir():
        if file.is_file() and not file.name.startswith("cloze"):
            (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert cloze_command([str(tmp_path / "run"), *argv[1:]]) == 0
    (place,) = (tmp_path / "run").glob("cloze-own-*.json")
    assert json.loads(place.read_text())["words"]["4"]["items"] == 2


def test_what_cannot_be_asked_is_said(run, shared):
    with pytest.raises(ZooError, match=r"no array 'phrase' \(it has entity\)"):
        cloze_of_run(ClozeConfig(str(run), entity="phrase"))
    with pytest.raises(ZooError, match="at least 1"):
        ClozeConfig(str(run), items=0)
    gpt = shared.finished_run("gpt")
    with pytest.raises(ZooError, match="CausalLM, which cannot fill"):
        cloze_of_run(ClozeConfig(str(gpt)))
    nothing = shared.finished_run("bert", steps=1, **{"data.validation_tokens": 0})
    with pytest.raises(ZooError, match="held no documents out"):
        cloze_of_run(ClozeConfig(str(nothing)))


def test_an_ablation_reads_it(run):
    assert hidden_words(run, {"items": 40, "entity": "entity"}) == measures(
        cloze_of_run(ClozeConfig(str(run), items=40, entity="entity"))
    )
    assert load_ablation(["--config", "units-zh"]).primary.measure == "cloze.nats_at_once.longer-1"
    wanted = {"name": "x", "primary": "cloze.nats.2", "changes": {"a": {}}}
    with pytest.raises(ZooError, match=r"needs `cloze: \{\}`"):
        build(wanted)
    with pytest.raises(ZooError, match=r"cloze\.item is no setting .* 'items'"):
        build({**wanted, "cloze": {"item": 5}})
    assert build({**wanted, "cloze": {}}).cloze == {}
    assert [is_accuracy(f"cloze.{name}") for name in ("nats.longer-1", "exact.2")] == [False, True]

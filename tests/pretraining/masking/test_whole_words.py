"""Whole-word masking in Chinese and English: the numeric checks of specs/bert-wwm.md, on rows and on prepared text."""

import shutil

import numpy as np
import pytest
import torch
from stores import BERT_LIKE, FIRST_ID, full_rows, write_store
from training import Killed, arguments, chinese_articles, interrupt_at, log_lines, outcome, train

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.gather import examples_from_tokens
from pretraining.layouts.sentence_pairs import SentencePairs
from pretraining.masking.groups import word_starts
from pretraining.masking.similar_words import SimilarWords
from pretraining.masking.tokens import RandomTokens, Replace
from pretraining.masking.words import WholeWords
from pretraining.objectives import MaskedLM
from pretraining.objectives.token_scoring import fill_masked
from pretraining.scoring.cloze import Cloze
from pretraining.scoring.scorer import Scorer
from pretraining.text.segmenter import Segmenter
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tools.configs import count_parameters
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.stores import run_store
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import open_weights
from zoo.storage.files import read_json
from zoo.weights.commands import export_folder, import_folder

LENGTHS = (0.40, 0.45, 0.10, 0.05)  # of words with 1, 2, 3, 4 characters (specs, section 8, check 9)


def rows_of_words(count, length, seed=0, shares=LENGTHS, separators=2):
    """Full rows whose words have 1 to 4 characters; and the length of the word at each position."""
    rows = full_rows(count, length, seed, separators=separators)
    drawn = np.random.default_rng(seed).choice(4, (count, length), p=shares) + 1
    opens = np.zeros((count, length + 5), dtype=bool)
    at, row = np.zeros(count, dtype=int), np.arange(count)
    for step in range(length):
        opens[row, at] = True
        at = np.minimum(at + drawn[:, step], length + 4)
    flags = np.where(opens[:, :length] | rows.special_tokens_mask, WORD_START, 0).astype(np.uint8)
    rows = rows.replace(token_flags=flags)
    start = word_starts(rows, ~rows.special_tokens_mask)
    number = np.cumsum(start, axis=1)
    sizes = np.zeros((count, length), dtype=int)
    for line in range(count):
        sizes[line] = np.bincount(number[line][~rows.special_tokens_mask[line]], minlength=length + 1)[number[line]]
    return rows, np.where(rows.special_tokens_mask, 0, sizes)


@pytest.mark.parametrize(
    ("length", "expected"), [(128, (0.170, 0.151, 0.142, 0.136)), (512, (0.156, 0.150, 0.150, 0.150))]
)
def test_longer_words_are_a_little_rarer(length, expected):
    """Check 9: at the edge of the budget a long word is skipped and a short one taken."""
    rows, sizes = rows_of_words(4000 if length == 128 else 1500, length)
    chosen = WholeWords(max_predictions=20 if length == 128 else 77)(rows, Draw(0, 0), BERT_LIKE)
    for size, share in enumerate(expected, 1):
        assert abs(chosen[sizes == size].mean() - share) < 0.01


@pytest.mark.parametrize(("length", "limit", "most"), [(128, 20, 19), (512, 77, 77)])
def test_targets_per_row(length, limit, most):
    """Checks 4 and 5: never more than 19 (77), nearly always exactly so many; 14.8 % (15.0 %) of the tokens."""
    rows, _ = rows_of_words(1000, length)
    counts = WholeWords(max_predictions=limit)(rows, Draw(0, 0), BERT_LIKE).sum(axis=1)
    assert counts.max() == most
    assert (counts == most).mean() > 0.999
    if length == 128:
        assert abs(counts.sum() / (1000 * 128) - 0.148) < 0.001


@pytest.mark.parametrize("count", ["nearest", "bernoulli"])
def test_modes_are_drawn_per_character(count):
    """Check 6: 80/10/10, independent within a word: both characters are masked with the chance 0.64."""
    rows, sizes = rows_of_words(5000, 128)
    chosen = WholeWords(budget=count)(rows, Draw(0, 0), BERT_LIKE)
    ids = Replace()(rows, chosen, Draw(0, 0), BERT_LIKE)
    masked, kept = ids == BERT_LIKE.mask, ids == rows.input_ids
    shares = masked[chosen].mean(), kept[chosen].mean(), (~masked & ~kept)[chosen].mean()
    assert np.abs(np.array(shares) - [0.8, 0.1, 0.1]).max() < 0.005
    first = chosen & word_starts(rows, ~rows.special_tokens_mask) & (sizes == 2)
    row, column = np.nonzero(first)
    assert len(row) > 20_000
    assert abs((masked[row, column] & masked[row, column + 1]).mean() - 0.64) < 0.01
    per_word = Replace(per="word")(rows, chosen, Draw(0, 0), BERT_LIKE) == BERT_LIKE.mask
    assert abs((per_word[row, column] & per_word[row, column + 1]).mean() - 0.8) < 0.01
    assert (ids == rows.input_ids)[~chosen].all()


def test_words_of_one_character_are_berts_masks():
    """Check 7: with one-character words the very tokens are chosen that single-token masks choose."""
    rows = full_rows(2000, 128, separators=2)
    words = WholeWords(max_predictions=20)(rows, Draw(0, 3), BERT_LIKE)
    assert (words == RandomTokens(max_predictions=20)(rows, Draw(0, 3), BERT_LIKE)).all()


def test_a_word_does_not_cross_the_separator(tmp_path):
    """Trap 4: pairs cut at the front of B leave the rest of a word behind the separator; it is a word of its own."""
    rng = np.random.default_rng(0)
    documents = [[rng.integers(FIRST_ID, 999, 12).tolist() for _ in range(8)] for _ in range(30)]
    flags = (rng.random(30 * 8 * 12) < 0.4).astype(np.uint8) * WORD_START
    store = write_store(tmp_path, documents, flags)
    layout = SentencePairs("next_or_random")
    plan = layout.plan(store, np.arange(30), 24, BERT_LIKE, Draw(0, 0))
    rows = layout.rows(store, plan, np.arange(len(plan)), 24, BERT_LIKE)
    after = np.zeros_like(rows.special_tokens_mask)
    after[:, 1:] = rows.special_tokens_mask[:, :-1] & ~rows.special_tokens_mask[:, 1:]
    cut = after & ((rows.token_flags & WORD_START) == 0)
    assert cut.sum() > 50  # rests of words stand behind [CLS] and [SEP]
    start = word_starts(rows, ~rows.special_tokens_mask)
    assert start[cut].all()
    objective = MaskedLM(WholeWords())
    objective.build(CoreConfig(vocab_size=1000, hidden_size=16, num_attention_heads=2), BERT_LIKE)
    chosen = objective.corrupt(rows, Draw(0, 0)).targets["selected"]
    row, column = np.nonzero(cut & (rows.token_type_ids == 1))
    before = chosen[row, column - 2]  # the last token of A
    assert (chosen[row, column] != before).any()


def test_text_without_word_boundaries_is_refused(tmp_path):
    """Trap 1: without a segmenter every Chinese character is a word, and whole words would be characters."""
    documents = [[list(range(5, 105))] * 50 for _ in range(4)]
    store = write_store(tmp_path / "characters", documents)
    with pytest.raises(ZooError, match="segmenter: rjieba"):
        MaskedLM(WholeWords()).check_store(store)
    flags = np.tile(np.array([WORD_START, 0], dtype=np.uint8), 50 * 50 * 4)
    MaskedLM(WholeWords()).check_store(write_store(tmp_path / "words", documents, flags))


@pytest.mark.parametrize(
    ("name", "core", "whole"),
    [
        ("bert-wwm-base-zh", 102_267_648, 102_882_442),
        ("bert-wwm-ext-base-zh", 102_267_648, 102_882_442),
        ("roberta-wwm-ext-base-zh", 102_267_648, 102_882_442 - 1_538),  # no next-sentence head
        ("roberta-wwm-ext-large-zh", 325_522_432, 326_597_258 - 2_050),
        ("rbt3-zh", 38_476_800, 38_476_800 + 613_256),
        ("rbtl3-zh", 61_001_728, 61_001_728 + 1_072_776),
    ],
)
def test_published_counts(name, core, whole):
    """Check 1: of the whole family, with the heads that each config trains."""
    assert count_parameters(load_pretrain_config(["--config", name]).value) == (core, whole)


def test_published_counts_of_other_parts():
    """Check 1: the masked model has no pooler; RBT4 and RBT6 are more layers of the same."""
    config = load_pretrain_config(["--config", "roberta-wwm-ext-base-zh", "--model.pooler", "false"]).value
    assert count_parameters(config)[1] == 102_290_312
    for layers, count in ((4, 45_564_672), (6, 59_740_416)):
        config = load_pretrain_config(["--config", "rbt3-zh", "--model.num_hidden_layers", str(layers)]).value
        assert count_parameters(config)[0] == count


# --- prepared Chinese text -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Some articles of the shipped sample, prepared as the config says: store, tokenizer, objective, one batch."""
    pytest.importorskip("rjieba")
    folder = tmp_path_factory.mktemp("wwm")
    text = chinese_articles()
    (folder / "zh.txt").write_text("\n\n".join(text), encoding="utf-8")
    argv = ["--config", "bert-wwm-tiny-zh", "--data.corpus.files", str(folder / "zh.txt")]
    argv += ["--data.tokenizer.vocab_size", "3000", "--data.processes", "1", "--data.stores", str(folder / "stores")]
    config = load_pretrain_config(argv).value
    store = run_store(config, False)
    tokenizer = load_tokenizer(store.path)
    objective = config.objectives["masked_lm"]
    objective.build(
        CoreConfig(vocab_size=tokenizer.vocabulary.size, hidden_size=16, num_attention_heads=2), tokenizer.vocabulary
    )
    objective.check_store(store)
    layout = config.tasks["pairs"].layout
    plan = layout.plan(store, np.arange(store.num_documents), 128, tokenizer.vocabulary, Draw(0, 0))
    rows = layout.rows(store, plan, np.arange(len(plan)), 128, tokenizer.vocabulary)
    return store, tokenizer, objective, rows


def test_chinese_text_without_words_is_refused(prepared, tmp_path):
    """Although its few English words are of several tokens; with the segmenter's words the fixture passes."""
    segmented, _, objective, _ = prepared
    argv = ["--config", "bert-wwm-tiny-zh", "--data.corpus.files", segmented.meta["source"], "--data.processes", "1"]
    argv += ["--data.corpus.segmenter", "none", "--data.tokenizer.kind", "file"]
    argv += ["--data.tokenizer.path", str(segmented.path), "--data.stores", str(tmp_path)]
    store = run_store(load_pretrain_config(argv).value, False)
    assert ((np.asarray(store.flags) & WORD_START) == 0).any()  # the English words
    with pytest.raises(ZooError, match=r"no Chinese token of .* \(data.corpus.segmenter: rjieba, or `space`"):
        objective.check_store(store)
    with pytest.raises(ZooError, match=r"no Chinese token of .* \(data.corpus.segmenter: rjieba, or `space`"):
        SimilarWords("unread").check(store)


def test_chinese_words_are_hidden_whole(prepared):
    """Checks 3 and 8: every word wholly or not at all; labels are the text's ids.

    That these are never pieces that continue a word: test_tokenizer.py, with a vocabulary that has such pieces.
    """
    _, _, objective, rows = prepared
    hidden = objective.corrupt(rows, Draw(0, 0))
    chosen, start = hidden.targets["selected"], word_starts(rows, ~rows.special_tokens_mask)
    inner = ~start & ~rows.special_tokens_mask
    assert inner.mean() > 0.25  # words of several characters are the rule
    row, column = np.nonzero(inner)
    assert (chosen[row, column] == chosen[row, column - 1]).all()
    assert (hidden.input_ids[~chosen] == rows.input_ids[~chosen]).all()
    assert (hidden.targets["original_ids"] == rows.input_ids).all()
    labels = objective.targets(hidden).tensors["labels"]
    assert (labels.numpy() == rows.input_ids[chosen]).all()


def test_chinese_rows_are_masked_within_their_budget(prepared):
    _, _, objective, rows = prepared
    full = rows.lengths == 128
    assert full.sum() > 20
    counts = objective.corrupt(rows, Draw(0, 0)).targets["selected"].sum(axis=1)
    assert counts.max() <= 19
    assert (counts[full] == 19).mean() > 0.98


def test_latin_words_in_chinese_text_stay_whole(prepared):
    """A Latin word or number is a word of its own, with all its pieces."""
    store, tokenizer, _, _ = prepared
    tokens, flags = np.asarray(store.tokens), np.asarray(store.flags)
    pieces = np.array([tokenizer.token(i).startswith("##") for i in range(tokenizer.vocabulary.size)])
    genuine = pieces[tokens]
    assert genuine.sum() > 50
    assert not (flags[genuine] & WORD_START).any()


# --- runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("rjieba")
    folder = tmp_path_factory.mktemp("runs")
    text = chinese_articles()
    (folder / "text.txt").write_text("\n\n".join(text), encoding="utf-8")
    return folder


def settings(place, name, output, steps=8, **more):
    argv = arguments(place, steps=steps, **{"model.num_hidden_layers": 4, "output": output, **more})
    argv[1] = name
    return argv


@pytest.fixture(scope="module")
def wwm(place):
    return train(settings(place, "bert-wwm-tiny-zh", place / "runs"))


def test_a_run_goes_on_bit_for_bit(wwm, place, tmp_path, monkeypatch):
    argv = settings(place, "bert-wwm-tiny-zh", tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            train(argv)
    assert outcome(train(argv)) == outcome(wwm)


def test_ext_goes_on_from_wwm_with_a_schedule_of_its_own(wwm, place, tmp_path):
    ext = train(settings(place, "bert-wwm-ext-tiny-zh", tmp_path, 10, **{"init_from.model": wwm}))
    report = read_json(ext / "run.json")["init_from"]
    assert report["fresh"] == []
    assert report["left"] == []
    rates = [line["lr"] for line in log_lines(ext) if "lr" in line]
    assert max(rates) == pytest.approx(1e-3, rel=0.2)
    before = [line["terms"]["masked_lm"] for line in log_lines(wwm) if "terms" in line]
    after = [line["terms"]["masked_lm"] for line in log_lines(ext) if "terms" in line]
    assert after[0] < before[0] - 0.1


def test_rbt_takes_the_first_layers(place, tmp_path):
    """RoBERTa-wwm-ext has no pair head; RBT3 starts from the first three of its layers."""
    small = {"model.num_attention_heads": 2, "model.vocab_size": "null"}
    whole = train(settings(place, "roberta-wwm-ext-base-zh", tmp_path, 2, **small))
    heads = {key.split(".")[1] for key in open_weights(whole) if key.startswith("heads.")}
    assert heads == {"masked_lm"}
    argv = settings(place, "rbt3-zh", tmp_path, 1, **{**small, "init_from.model": whole, "init_from.layers": 3})
    del argv[argv.index("--model.num_hidden_layers") : argv.index("--model.num_hidden_layers") + 2]
    part = train(argv)
    assert read_json(part / "run.json")["init_from"]["layers"] == [0, 1, 2]
    layers = {key.split(".")[2] for key in open_weights(part) if key.startswith("core.layers.")}
    assert layers == {"0", "1", "2"}


def test_weights_are_berts(wwm, tmp_path):
    """Check 2: exported, it has the names of a stock BERT; brought back in, it scores the same."""
    transformers = pytest.importorskip("transformers")
    export_folder(wwm, tmp_path / "out")
    stock = transformers.BertForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(stock[1][kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    import_folder(tmp_path / "out", tmp_path / "in")
    texts = ["中国的首都是北京。", "今天天气很reliable。"]
    assert np.array_equal(Scorer(tmp_path / "in").score(texts), Scorer(wwm).score(texts))


SENTENCE = "中华人民共和国的首都是北京。"


def decided(run, segmenter=None):
    """A scorer whose core says more of its input than one of a few steps does."""
    scorer = Scorer(run, segmenter=segmenter)
    with torch.no_grad():
        for parameter in scorer.core.parameters():
            parameter.mul_(8.0)
    return scorer


def test_the_words_of_the_run_are_hidden_in_scoring(wwm, tmp_path):
    """PLL-word-l2r: what each word gets that is hidden whole and filled in from left to right, by the run's words."""
    scorer = decided(wwm)
    text, starts = Segmenter("rjieba").words(SENTENCE)
    sizes = np.diff([*starts, len(text)])
    assert sizes.max() > 2
    encoded = scorer.tokenizer.encode_batch([text])  # without words: each character is one
    assert len(encoded[0][0]) == len(text)
    rows = examples_from_tokens(encoded * len(starts), scorer.tokenizer.vocabulary, scorer.prefix, scorer.suffix)
    begin = len(scorer.prefix) + np.array(starts)
    found, _ = fill_masked(Cloze(scorer).model(rows), rows, begin, sizes)
    score = scorer.score([SENTENCE])[0]
    assert score == pytest.approx(found.sum(), rel=1e-5)
    characters = decided(wwm, "none").score([SENTENCE])[0]
    assert characters != pytest.approx(score, rel=1e-3)
    shutil.copytree(wwm, tmp_path / "moved", ignore=shutil.ignore_patterns("run.json", "checkpoints"))
    assert decided(tmp_path / "moved").score([SENTENCE])[0] == score  # the tokenizer's files say it, too
    spaced = " ".join(text[a : a + size] for a, size in zip(starts, sizes, strict=True))
    assert decided(wwm, "space").score([spaced])[0] == pytest.approx(score, rel=1e-6)
    with pytest.raises(ZooError, match=r"^--segmenter space takes text with spaces between Chinese words, and these"):
        Scorer(wwm, segmenter="space").score([SENTENCE])


def test_words_that_are_the_unit_are_found_in_scoring(place, tmp_path):
    small = {"data.tokenizer.vocab_size": 6000, "objectives.bidirectional_lm.init_args.outputs": 2000}
    scorer = Scorer(train(settings(place, "elmo-tiny-zh", tmp_path, 1, **small)))
    ids, _ = scorer.encoded([SENTENCE])[0]
    words = [scorer.tokenizer.token(i) for i in ids]
    _, starts = Segmenter("rjieba").words(SENTENCE)
    assert len(words) == len(starts)
    assert "北京" in words

"""Rows of translations: shifted targets, both directions, shuffled pairs, what does not fit."""

import numpy as np
import pytest
from pair_toys import pair_store, sentences
from stores import synthetic_store

from pretraining.keyed_random import Draw
from pretraining.layouts import TranslationPairs
from pretraining.layouts.examples import Examples
from pretraining.objectives import CausalLM
from pretraining.objectives.base import collate
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

DRAW = Draw(1, 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return pair_store(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def tokenizer(store):
    return load_tokenizer(store.path)


def rows_of(layout, store, vocabulary, length=48, draw=DRAW):
    plan = layout.plan(store, np.arange(store.num_documents), length, vocabulary, draw)
    return layout.rows(store, plan, np.arange(len(plan)), length, vocabulary)


def said(ids, tokenizer):
    special = set(tokenizer.vocabulary.special_ids)
    return tokenizer.decode([i for i in ids.tolist() if i >= 0 and i not in special])


def test_a_source_stands_in_the_row_and_its_translation_in_the_targets(store, tokenizer):
    vocabulary = tokenizer.vocabulary
    rows = rows_of(TranslationPairs(), store, vocabulary)
    read, labels, lengths = (rows.targets[k] for k in ("decoder_input_ids", "labels", "target_lengths"))
    assert read.dtype == labels.dtype == np.int32
    assert read.shape == labels.shape == (len(sentences()), lengths.max())
    for row, (source, target) in enumerate(sentences()):
        end = lengths[row]
        assert said(rows.input_ids[row], tokenizer) == source
        assert said(labels[row], tokenizer) == target
        assert rows.input_ids[row, rows.lengths[row] - 1] == labels[row, end - 1] == vocabulary.sep
        assert read[row, 0] == vocabulary.pad
        assert (read[row, 1:end] == labels[row, : end - 1]).all()
        assert (labels[row, end:] == -100).all()
        assert (read[row, end:] == vocabulary.pad).all()
    assert collate(rows, {"lm": CausalLM()}).tokens == rows.lengths.sum() + lengths.sum()


def test_rows_of_bart_open_on_both_sides(store, tokenizer):
    vocabulary = tokenizer.vocabulary
    rows = rows_of(TranslationPairs(start="sep", opens=True), store, vocabulary)
    assert (rows.input_ids[:, 0] == vocabulary.cls).all()
    assert (rows.targets["decoder_input_ids"][:, :2] == [vocabulary.sep, vocabulary.cls]).all()
    assert (rows.targets["labels"][:, 0] == vocabulary.cls).all()


def test_directions(store, tokenizer):
    there = rows_of(TranslationPairs(), store, tokenizer.vocabulary)
    back = rows_of(TranslationPairs("backward"), store, tokenizer.vocabulary)
    both = rows_of(TranslationPairs("both"), store, tokenizer.vocabulary)
    assert said(back.input_ids[3], tokenizer) == sentences()[3][1]
    assert said(back.targets["labels"][3], tokenizer) == sentences()[3][0]
    count = len(sentences())
    assert len(both.lengths) == 2 * count
    assert both.lengths.tolist() == [*there.lengths, *back.lengths]
    assert (both.document_ids == np.tile(np.arange(count), 2)).all()


def test_shuffled_pairs_have_the_same_sentences_and_other_partners(store, tokenizer):
    plain = rows_of(TranslationPairs(), store, tokenizer.vocabulary)
    layout = TranslationPairs(shuffle_pairs=True)
    shuffled = [rows_of(layout, store, tokenizer.vocabulary, draw=Draw(1, epoch)) for epoch in (0, 0, 1)]
    labels = [r.targets["labels"] for r in shuffled]
    assert (labels[0] == labels[1]).all()
    assert (labels[0] != labels[2]).any()
    assert (shuffled[0].input_ids == plain.input_ids).all()
    assert sorted(map(tuple, labels[0])) == sorted(map(tuple, plain.targets["labels"]))
    assert (labels[0] == plain.targets["labels"]).all(axis=1).mean() < 0.05


def test_targets_are_padded_to_their_own_longest(store, tokenizer):
    layout, vocabulary = TranslationPairs(), tokenizer.vocabulary
    plan = layout.plan(store, np.arange(store.num_documents), 48, vocabulary, DRAW)
    whole = layout.rows(store, plan, np.arange(len(plan)), 48, vocabulary)
    parts = [layout.rows(store, plan, np.array([row]), 48, vocabulary) for row in range(len(plan))]
    joined = Examples.concatenate(parts, vocabulary.pad)
    for name, values in whole.targets.items():
        assert (joined.targets[name] == values).all()
    assert (joined.input_ids == whole.input_ids).all()


def test_pairs_that_do_not_fit_are_left_out_and_said_once(store, tokenizer, capsys):
    vocabulary = tokenizer.vocabulary
    longest = rows_of(TranslationPairs(), store, vocabulary).targets["target_lengths"].max()
    layout = TranslationPairs()
    few = rows_of(layout, store, vocabulary, int(longest) - 1)
    assert 0 < len(few.lengths) < len(sentences())
    rows_of(layout, store, vocabulary, int(longest) - 1)
    assert capsys.readouterr().err.count("do not fit a row of") == 1
    with pytest.raises(ZooError, match=r"none of 180 pairs .* fits a row of 3 tokens; raise data.sequence_length"):
        rows_of(layout, store, vocabulary, 3)


def test_what_cannot_be_laid_out_is_refused(store, tokenizer, tmp_path):
    layout, vocabulary = TranslationPairs(), tokenizer.vocabulary
    with pytest.raises(ZooError, match="holds no translations"):
        rows_of(layout, synthetic_store(tmp_path / "plain"), vocabulary)
    with pytest.raises(ZooError, match="no padding token to start with"):
        rows_of(layout, store, Vocabulary(120, sep=3))
    with pytest.raises(ZooError, match="has no a separator"):
        rows_of(layout, store, Vocabulary(120, pad=0))
    with pytest.raises(ZooError, match="direction is 'sideways'"):
        TranslationPairs("sideways")
    with pytest.raises(ZooError, match="no room"):
        layout.check_length(1)


def test_a_language_whose_text_comes_to_no_token_is_refused(tmp_path, tokenizer):
    nothing = pair_store(tmp_path, [(source, "\u0301") for source, _ in sentences()])
    with pytest.raises(ZooError, match=r"none of 180 pairs .* has a token in both languages \(en, de\)"):
        rows_of(TranslationPairs(), nothing, tokenizer.vocabulary)

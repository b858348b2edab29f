"""Rows of translations and of several languages: targets, languages, positions, shuffled pairs, shares, what fits."""

import copy

import numpy as np
import pytest
from pair_toys import pair_store, sentences
from stores import synthetic_store

from pretraining.keyed_random import Draw
from pretraining.layouts import Blocks, LanguageStreams, TranslationPairs, TranslationRows
from pretraining.layouts.examples import Examples
from pretraining.layouts.language_streams import row_counts
from pretraining.masking import RandomTokens
from pretraining.objectives import CausalLM, MaskedLM
from pretraining.objectives.base import base_inputs, collate
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


# ---- both in one row ------------------------------------------------------------------------------------------------


def test_both_languages_stand_in_a_row_and_positions_begin_anew(store, tokenizer):
    vocabulary = tokenizer.vocabulary
    rows = rows_of(TranslationRows(), store, vocabulary)
    inputs = base_inputs(rows)
    positions, types = inputs.position_ids.numpy(), rows.token_type_ids
    assert len(rows.lengths) == len(sentences())
    for row, pair in enumerate(sentences()):
        ids = rows.input_ids[row, : rows.lengths[row]]
        middle = int(np.flatnonzero(ids == vocabulary.cls)[1])
        assert [said(ids[:middle], tokenizer), said(ids[middle:], tokenizer)] == list(pair)
        assert ids[[0, middle - 1, middle, -1]].tolist() == [vocabulary.cls, vocabulary.sep] * 2
        places = rows.special_tokens_mask[row, : rows.lengths[row]]
        assert np.flatnonzero(places).tolist() == [0, middle - 1, middle, len(ids) - 1]
        assert types[row, : len(ids)].tolist() == [0] * middle + [1] * (len(ids) - middle)
        assert positions[row, : len(ids)].tolist() == [*range(middle), *range(len(ids) - middle)]
    assert (rows.arrays["language"] == np.where(rows.special_tokens_mask, 0, types + 1)).all()


def test_positions_run_on_where_that_is_wanted(store, tokenizer):
    rows = rows_of(TranslationRows(reset_positions=False), store, tokenizer.vocabulary)
    assert base_inputs(rows).position_ids is None


def test_rows_the_other_way_have_the_languages_the_other_way(store, tokenizer):
    vocabulary = tokenizer.vocabulary
    rows = rows_of(TranslationRows("both"), store, vocabulary)
    count = len(sentences())
    assert len(rows.lengths) == 2 * count
    assert (rows.token_type_ids[:count, 0] == 0).all()
    assert (rows.token_type_ids[count:, 0] == 1).all()
    assert (rows.lengths[:count] == rows.lengths[count:]).all()
    assert said(rows.input_ids[count], tokenizer).startswith(sentences()[0][1])


def test_masks_fall_on_both_sides(store, tokenizer):
    objective = MaskedLM(RandomTokens(0.3))
    objective.vocabulary = tokenizer.vocabulary
    rows = objective.corrupt(rows_of(TranslationRows(), store, tokenizer.vocabulary), DRAW)
    selected = rows.targets["selected"]
    shares = [(selected & (rows.arrays["language"] == side)).sum() / selected.sum() for side in (1, 2)]
    assert min(shares) > 0.35
    assert not (selected & rows.special_tokens_mask).any()


def test_shuffled_rows_keep_every_sentence(store, tokenizer):
    plain = rows_of(TranslationRows(), store, tokenizer.vocabulary)
    shuffled = rows_of(TranslationRows(shuffle_pairs=True), store, tokenizer.vocabulary)
    again = rows_of(TranslationRows(shuffle_pairs=True), store, tokenizer.vocabulary)
    assert (shuffled.input_ids == again.input_ids).all()
    for side in (1, 2):
        kept = [
            sorted(tuple(i[a == side]) for i, a in zip(r.input_ids, r.arrays["language"], strict=True))
            for r in (plain, shuffled)
        ]
        assert kept[0] == kept[1]
    same = [{tuple(i[:n]) for i, n in zip(r.input_ids, r.lengths, strict=True)} for r in (plain, shuffled)]
    assert len(same[0] & same[1]) < 0.1 * len(sentences())


# ---- one language in each row ---------------------------------------------------------------------------------------


def test_rows_of_streams_are_of_one_language_and_nothing_is_lost(store, tokenizer):
    layout = LanguageStreams(Blocks(separator=True, separator_after="sentences"))
    plan = layout.plan(store, np.arange(store.num_documents), 24, tokenizer.vocabulary, DRAW)
    rows = layout.rows(store, plan, np.arange(len(plan)), 24, tokenizer.vocabulary)
    text = ~rows.special_tokens_mask
    assert (rows.arrays["language"][text] == rows.token_type_ids[text] + 1).all()
    assert (rows.token_type_ids == rows.token_type_ids[:, :1] * rows.real).all()
    assert text.sum() == store.num_tokens
    assert sorted(rows.input_ids[text]) == sorted(np.asarray(store.tokens))
    assert ((plan.documents >= 0) & (plan.documents < store.num_documents)).all()
    part = layout.plan(store, np.arange(7), 24, tokenizer.vocabulary, DRAW)
    assert set(part.documents) <= set(range(7))


def test_rare_languages_come_oftener():
    sizes = np.array([900, 90, 10])
    assert row_counts(sizes, 1.0).tolist() == [900, 90, 10]
    assert row_counts(sizes, 0.0).tolist() == [333, 334, 333]
    shares = row_counts(sizes, 0.5) / 1000
    expected = np.sqrt(sizes / 1000) / np.sqrt(sizes / 1000).sum()
    assert np.abs(shares - expected).max() < 0.001
    assert row_counts(np.array([5, 0]), 0.0).tolist() == [5, 0]


def test_shares_of_languages_follow_alpha_and_draws_are_keyed(store, tokenizer):
    more = copy.copy(store)
    edges, first = np.asarray(store.sentences), np.asarray(store.documents)
    array = np.ones(store.num_tokens, dtype=np.int8)
    array[: edges[first[20]]] = 2  # 20 documents of a second language, of 180
    more.arrays, more.meta = {"language": array}, {**store.meta, "recipe": {"languages": ["en", "de"]}}
    counts = {}
    for alpha in (1.0, 0.5, 0.0):
        layout = LanguageStreams(Blocks(separate_documents=True), alpha)
        plans = [layout.plan(more, np.arange(180), 48, tokenizer.vocabulary, Draw(1, epoch)) for epoch in (0, 0, 1)]
        assert all(len(plan) == 180 for plan in plans)
        assert (plans[0].piece_starts == plans[1].piece_starts).all()
        assert (plans[0].piece_starts == plans[2].piece_starts).all() == (alpha == 1.0)
        counts[alpha] = int((plans[0].documents < 20).sum())
    assert counts == {1.0: 20, 0.5: 47, 0.0: 90}


def test_streams_need_to_know_the_language(store, tokenizer, tmp_path):
    with pytest.raises(ZooError, match="does not say which language"):
        rows_of(LanguageStreams(Blocks()), synthetic_store(tmp_path / "plain"), tokenizer.vocabulary)
    with pytest.raises(ZooError, match="no room for two texts"):
        TranslationRows().check_length(5)

"""BART's five noises: statistics, what stays, and that they follow one another."""

import numpy as np
import pytest
from stores import BERT_LIKE, FIRST_ID, GPT_LIKE, full_rows, take

from pretraining.arrays import SENTENCE_START, WORD_START
from pretraining.keyed_random import Draw
from pretraining.masking import (
    DocumentRotation,
    RandomTokens,
    SentencePermutation,
    SpanCorruption,
    TextInfilling,
    TokenDeletion,
    TokenMasking,
    WholeWords,
)
from zoo.errors import ZooError

NOISES = {
    "token masking": TokenMasking(),
    "token deletion": TokenDeletion(),
    "infilling": TextInfilling(),
    "infilling, tokens": TextInfilling(unit="tokens", mean_length=0.5),
    "permutation": SentencePermutation(),
    "rotation": DocumentRotation(),
}
every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)


def rows_of(count=64, length=80, share=0.7, seed=0, separators=2):
    """Rows of two documents with sentences of 7 tokens or so, all ids of a row different, lengths different."""
    rows = full_rows(count, length, seed, word_start_share=share, separators=separators)
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((count, BERT_LIKE.size - FIRST_ID)), axis=1)[:, :length].astype(np.int32) + FIRST_ID
    lengths = rng.integers(3, length + 1, count)
    lengths[0] = length
    behind = np.arange(length)[None, :] >= lengths[:, None]
    special = rows.special_tokens_mask | behind
    special[np.arange(count), lengths - 1] = True
    starts = rng.random((count, length)) < 0.15
    flags = np.where(starts, WORD_START | SENTENCE_START, rows.token_flags)
    return rows.replace(
        input_ids=np.where(behind, 0, np.where(special, BERT_LIKE.sep, ids)).astype(np.int32),
        lengths=lengths,
        special_tokens_mask=special,
        token_flags=np.where(special, WORD_START, flags).astype(np.uint8),
        arrays={"unit": ids.astype(np.uint16)},
        token_type_ids=np.where(behind, 0, np.arange(length) > length // 2).astype(np.int32),
    )


def words_of(rows, number):
    """The row's tokens."""
    return rows.input_ids[number, : rows.lengths[number]].tolist()


# --- what holds for every noise ---


@every_noise
def test_template_tokens_stay_and_nothing_comes_from_elsewhere(noise):
    rows = rows_of()
    noised = noise(rows, Draw(1, 0), BERT_LIKE)
    assert (noised.input_ids[~noised.real] == BERT_LIKE.pad).all()
    assert noised.special_tokens_mask[~noised.real].all()
    for number in range(len(rows.lengths)):
        before, after = words_of(rows, number), words_of(noised, number)
        assert before.count(BERT_LIKE.sep) == after.count(BERT_LIKE.sep)
        kept = [token for token in after if token not in (BERT_LIKE.sep, BERT_LIKE.mask)]
        assert len(set(kept)) == len(kept)
        assert set(kept) <= set(before)
    own = noised.real & (noised.input_ids != BERT_LIKE.mask) & ~noised.special_tokens_mask
    assert (noised.arrays["unit"][own] == noised.input_ids[own]).all()  # annotations go along


@every_noise
def test_batch_and_padding_change_nothing(noise):
    rows, draw = rows_of(), Draw(1, 2)
    whole, part = noise(rows, draw, BERT_LIKE), noise(take(rows, np.arange(9, 30), width=95), draw, BERT_LIKE)
    assert [words_of(part, n) for n in range(21)] == [words_of(whole, n) for n in range(9, 30)]
    other = noise(rows, Draw(1, 3), BERT_LIKE)
    assert [words_of(other, n) for n in range(64)] != [words_of(whole, n) for n in range(64)]


@every_noise
def test_rows_without_text_and_of_one_token(noise):
    rows = full_rows(3, 2)
    assert words_of(noise(rows, Draw(0, 0), BERT_LIKE), 0) == words_of(rows, 0)
    single = noise(full_rows(50, 3), Draw(0, 0), BERT_LIKE)
    assert (single.lengths <= 3).all()


# --- each ---


def test_masking_replaces_one_for_one():
    rows = rows_of(200)
    noised = TokenMasking(RandomTokens(0.3))(rows, Draw(0, 0), BERT_LIKE)
    masked = noised.input_ids == BERT_LIKE.mask
    assert (masked == RandomTokens(0.3)(rows, Draw(0, 0), BERT_LIKE)).all()
    assert (noised.input_ids[~masked] == rows.input_ids[~masked]).all()


def test_deletion_takes_out_what_is_selected_and_keeps_the_order():
    rows, select = rows_of(100), WholeWords(0.3)
    gone = select(rows, Draw(0, 0), BERT_LIKE)
    noised = TokenDeletion(select)(rows, Draw(0, 0), BERT_LIKE)
    for number in range(100):
        assert words_of(noised, number) == rows.input_ids[number][(rows.real & ~gone)[number]].tolist()


def test_infilling_hides_its_share_of_the_words_in_spans_of_poisson_lengths():
    rows = full_rows(400, 502, word_start_share=1.0)
    noised = TextInfilling(0.3, 3.0)(rows, Draw(0, 0), BERT_LIKE)
    hidden, lengths = [], []
    for number in range(400):
        after = words_of(noised, number)
        spans = after.count(BERT_LIKE.mask)
        hidden.append(500 - (len(after) - 2 - spans))
        lengths.append(spans)
    assert set(hidden) == {150}
    assert np.mean(lengths) == pytest.approx(50, rel=0.03)  # 150 / 3, the last one cut short


def test_infilling_lengths_have_poissons_chances():
    rows = full_rows(400, 302, word_start_share=1.0)
    rows = rows.replace(input_ids=np.where(rows.special_tokens_mask, rows.input_ids, np.arange(302) + FIRST_ID))
    noised = TextInfilling(0.2, 3.0)(rows.replace(input_ids=rows.input_ids.astype(np.int32)), Draw(0, 0), BERT_LIKE)
    sizes = np.zeros(10)
    for number in range(400):
        after = words_of(noised, number)[1:-1]
        text = [FIRST_ID, *(t for t in after), FIRST_ID + 301]
        for place in [p for p, token in enumerate(text) if token == BERT_LIKE.mask]:
            if BERT_LIKE.mask in (text[place - 1], text[place + 1]):
                continue  # neighbours hide who covers what
            sizes[min(text[place + 1] - text[place - 1] - 1, 9)] += 1
    shares = sizes / sizes.sum()
    expected = [np.exp(-3) * 3**k / np.prod(range(1, k + 1)) for k in range(7)]
    assert np.abs(shares[:7] - expected).max() < 0.015


def test_infilling_never_makes_a_row_longer_and_covers_every_place_alike():
    rows = full_rows(3000, 42, word_start_share=0.6)
    noised = TextInfilling(0.25, 2.0)(rows, Draw(0, 0), BERT_LIKE)
    assert (noised.lengths <= rows.lengths).all()
    kept = np.zeros(42)
    same = full_rows(3000, 42, word_start_share=1.0)
    same = same.replace(input_ids=np.where(same.special_tokens_mask, same.input_ids, np.arange(42) + FIRST_ID))
    same = same.replace(input_ids=same.input_ids.astype(np.int32))
    after = TextInfilling(0.25, 2.0)(same, Draw(0, 0), BERT_LIKE).input_ids
    for place in range(1, 41):
        kept[place] = (after == place + FIRST_ID).any(axis=1).mean()
    assert np.abs(kept[8:34] - 0.735).max() < 0.04  # at a row's ends fewer spans reach a word


def test_infilling_with_random_tokens_instead_of_masks():
    rows = rows_of(200)
    plain = TextInfilling()(rows, Draw(0, 0), BERT_LIKE)
    mixed = TextInfilling(random=0.5)(rows, Draw(0, 0), BERT_LIKE)
    assert (plain.lengths == mixed.lengths).all()
    at = (plain.input_ids == BERT_LIKE.mask) & plain.real
    assert (mixed.input_ids[at] == BERT_LIKE.mask).mean() == pytest.approx(0.5, abs=0.05)
    assert (mixed.input_ids[~at] == plain.input_ids[~at]).all()
    with pytest.raises(ZooError, match="mask token"):
        TextInfilling()(rows, Draw(0, 0), GPT_LIKE)


def test_sentences_change_places_within_their_document():
    rows = rows_of(200)
    noised = SentencePermutation()(rows, Draw(0, 0), BERT_LIKE)
    changed = 0
    for number in range(200):
        for before, after in zip(_documents(rows, number), _documents(noised, number), strict=True):
            assert sorted(before) == sorted(after)
            changed += before != after
    assert changed > 100
    assert (noised.special_tokens_mask == rows.special_tokens_mask).all()


def test_every_order_of_sentences_is_equally_likely():
    rows = full_rows(3000, 11)
    flags = rows.token_flags.copy()
    flags[:, [1, 4, 7]] |= SENTENCE_START
    noised = SentencePermutation()(rows.replace(token_flags=flags), Draw(0, 0), BERT_LIKE)
    firsts = noised.input_ids[:, [1]] == rows.input_ids[:, [1, 4, 7]]
    assert np.abs(firsts.mean(axis=0) - 1 / 3).max() < 0.04


def test_rotation_begins_anywhere_and_keeps_the_circle():
    rows = full_rows(4000, 12)
    noised = DocumentRotation()(rows, Draw(0, 0), BERT_LIKE)
    turns = np.zeros(10)
    for number in range(4000):
        before, after = words_of(rows, number)[1:-1], words_of(noised, number)[1:-1]
        turn = next(n for n in range(10) if before[n:] + before[:n] == after)
        turns[turn] += 1
    assert ((turns - 400) ** 2 / 400).sum() < 27.9  # chi square, 9 degrees of freedom, p = 0.001
    half = DocumentRotation(0.5)(rows, Draw(0, 0), BERT_LIKE)
    assert (half.input_ids != rows.input_ids).any(axis=1).mean() == pytest.approx(0.45, abs=0.03)


def _documents(rows, number):
    found, here = [], []
    for token in words_of(rows, number):
        if token == BERT_LIKE.sep:
            found.append(here)
            here = []
        else:
            here.append(token)
    return [tuple(document) for document in found]


# --- together ---


def test_noises_follow_one_another():
    rows, draw = rows_of(100), Draw(0, 0)
    noised = rows
    for noise in (SentencePermutation(), TextInfilling(), TokenDeletion(RandomTokens(0.1)), DocumentRotation()):
        noised = noise(noised, draw, BERT_LIKE)
    assert noised.lengths.sum() < rows.lengths.sum()
    spans = SpanCorruption()
    spans.sentinels = np.arange(999, 899, -1, dtype=np.int32)
    asked = spans(SentencePermutation()(rows, draw, BERT_LIKE), draw, BERT_LIKE)
    assert (asked.targets["target_lengths"] > 0).all()


@pytest.mark.parametrize("settings", [{"rate": 0.0}, {"rate": 1.5}, {"mean_length": 0.0}, {"mean_length": 99.0}])
def test_impossible_infilling(settings):
    with pytest.raises(ZooError, match="must lie in"):
        TextInfilling(**settings)

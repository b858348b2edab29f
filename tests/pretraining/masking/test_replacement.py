"""Fillers: shares, what random tokens may be, and that nothing else is touched."""

import numpy as np
import pytest
from scipy import stats
from stores import BERT_LIKE, GPT_LIKE, ROBERTA_LIKE, full_rows, take

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.masking.base import Selected
from pretraining.masking.ngrams import NGrams
from pretraining.masking.predictions import All
from pretraining.masking.tokens import RandomTokens, Replace, random_ids
from pretraining.masking.words import WholeWords
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

ROWS = full_rows(4000, 128, word_start_share=0.8)


def shares(fill, rows, selected, vocabulary):
    """(masked, kept, replaced) among the selected; a redrawn original counts as kept."""
    ids = fill(rows, selected, Draw(0, 0), vocabulary)
    new, old = ids[selected], rows.input_ids[selected]
    masked = (new == vocabulary.mask) & (old != vocabulary.mask)
    kept = new == old
    return masked.mean(), kept.mean(), (~masked & ~kept).mean()


@pytest.mark.parametrize("choose", [RandomTokens(), WholeWords(), NGrams()], ids=["tokens", "words", "n-grams"])
def test_80_10_10(choose):
    """specs: bert check 4, albert check 6, roberta check 3 (their widest tolerance is 0.01, here 0.005)."""
    selected = choose(ROWS, Draw(0, 0), BERT_LIKE)
    assert selected.sum() > 50_000
    found = shares(Replace(), ROWS, selected, BERT_LIKE)
    redrawn = 0.1 / BERT_LIKE.size
    assert np.abs(np.array(found) - [0.8 + redrawn, 0.1 + redrawn, 0.1 - 2 * redrawn]).max() < 0.005


@pytest.mark.parametrize("mix", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.8, 0.2, 0), (0, 0.8, 0.2), (0.8, 0, 0.2)])
def test_other_mixes(mix):
    selected = RandomTokens()(ROWS, Draw(0, 0), BERT_LIKE)
    mask, replaced, keep = mix
    found = shares(Replace(mask=mask, random=replaced, keep=keep), ROWS, selected, BERT_LIKE)
    assert np.abs(np.array(found) - [mask, keep, replaced]).max() < 0.006
    if mix == (1, 0, 0):
        assert found == (1, 0, 0)
    if mix == (0, 0, 1):
        assert found == (0, 1, 0)


def test_nothing_else_is_touched_and_the_input_stays():
    before = ROWS.input_ids.copy()
    selected = RandomTokens()(ROWS, Draw(0, 0), BERT_LIKE)
    ids = Replace()(ROWS, selected, Draw(0, 0), BERT_LIKE)
    assert (ids[~selected] == before[~selected]).all()
    assert (ROWS.input_ids == before).all()
    assert ids.dtype == np.int32


def test_random_tokens_are_uniform_over_the_whole_vocabulary():
    vocabulary = Vocabulary(size=50, pad=0, unk=1, cls=2, sep=3, mask=4)
    ids = random_ids(Draw(0, 0).bits(np.arange(1000), 200, "x").ravel(), vocabulary, exclude_special=False)
    assert stats.chisquare(np.bincount(ids, minlength=50)).pvalue > 1e-4  # specials included


def test_random_tokens_do_not_depend_on_the_decision_for_them():
    selected = RandomTokens(rate=0.5)(ROWS, Draw(0, 0), BERT_LIKE)
    ids = Replace(mask=0.6, random=0.2, keep=0.2)(ROWS, selected, Draw(0, 0), BERT_LIKE)
    replaced = ids[selected & (ids != ROWS.input_ids) & (ids != BERT_LIKE.mask)]
    assert len(replaced) > 40_000
    assert stats.chisquare(np.bincount(replaced // 50, minlength=20)[1:]).pvalue > 1e-4  # bin 0 lacks the mask


@pytest.mark.parametrize(
    "vocabulary", [ROBERTA_LIKE, BERT_LIKE, Vocabulary(size=40, pad=39, unk=7, cls=38, sep=0, mask=9)]
)
def test_random_tokens_without_special_ones(vocabulary):
    """specs/roberta.md check 6 and point 5: never the first four ids; the mask token stays possible."""
    ids = random_ids(Draw(0, 0).bits(np.arange(1000), 200, "x").ravel(), vocabulary, exclude_special=True)
    counts = np.bincount(ids, minlength=vocabulary.size)
    banned = [vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep]
    assert counts[banned].sum() == 0
    assert stats.chisquare(np.delete(counts, banned)).pvalue > 1e-4


def test_roberta_replacements():
    rows = full_rows(4000, 128, vocabulary=ROBERTA_LIKE)
    selected = RandomTokens(budget="stochastic", include_special=True)(rows, Draw(0, 0), ROBERTA_LIKE)
    fill = Replace(mask=0, random=1, keep=0, random_excludes_special=True)
    assert fill(rows, selected, Draw(0, 0), ROBERTA_LIKE)[selected].min() > 3


def test_one_decision_per_word():
    words = WholeWords()(ROWS, Draw(0, 0), BERT_LIKE)
    keep = Replace(mask=0.8, random=0, keep=0.2, per="word")  # a random token could be the mask itself
    ids = keep(ROWS, words, Draw(0, 0), BERT_LIKE)
    masked, inside = ids == BERT_LIKE.mask, words[:, 1:] & words[:, :-1]
    joined = inside & ((ROWS.token_flags[:, 1:] & WORD_START) == 0)
    assert joined.sum() > 1000
    assert (masked[:, 1:] == masked[:, :-1])[joined].all()
    assert abs(masked[words].mean() - 0.8) < 0.01
    by_token = Replace()(ROWS, words, Draw(0, 0), BERT_LIKE) == BERT_LIKE.mask
    assert (by_token[:, 1:] != by_token[:, :-1])[joined].mean() > 0.2


@pytest.mark.parametrize("per", ["token", "word"])
def test_batch_and_padding_do_not_matter(per):
    rows, draw = take(ROWS, np.arange(32)), Draw(3, 1)
    selected = WholeWords()(rows, draw, BERT_LIKE)
    whole = Replace(per=per)(rows, selected, draw, BERT_LIKE)
    for part in (np.arange(16), np.arange(16, 32)):
        wide = np.concatenate([selected[part], np.zeros((16, 12), bool)], axis=1)
        ids = Replace(per=per)(take(rows, part, width=140), wide, draw, BERT_LIKE)
        assert (ids[:, :128] == whole[part]).all()


def test_impossible_settings():
    with pytest.raises(ZooError, match="add up to 1"):
        Replace(mask=0.8, random=0.1, keep=0.2)
    with pytest.raises(ZooError, match="negative"):
        Replace(mask=1.1, random=-0.1, keep=0.0)
    with pytest.raises(ZooError, match="'token' or 'word'"):
        Replace(per="sentence")
    with pytest.raises(ZooError, match="no mask token"):
        Replace()(ROWS, RandomTokens()(ROWS, Draw(0, 0), GPT_LIKE), Draw(0, 0), GPT_LIKE)


def test_what_is_predicted():
    rows = take(ROWS, np.arange(4), width=130)
    selected = RandomTokens()(rows, Draw(0, 0), BERT_LIKE)
    assert (Selected()(rows, selected) == selected).all()
    assert (All()(rows, selected) == rows.real).all()

"""Span corruption: T5's spans, its sentinels, and that nothing is lost."""

import itertools

import numpy as np
import pytest
from stores import BERT_LIKE, FIRST_ID, full_rows, take
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pretraining.keyed_random import Draw
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking import PartitionedSpans, RandomSpans, RandomTokens, SpanCorruption
from pretraining.masking.sentinels import length_before
from pretraining.tokenizer.config import SENTINEL
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError

SENTINELS = np.arange(BERT_LIKE.size - 1, BERT_LIKE.size - 101, -1, dtype=np.int32)


def corruption(select=None, sentinels=SENTINELS):
    noise = SpanCorruption(select)
    noise.sentinels = sentinels
    return noise


def texts(*sizes):
    """Rows without template tokens, of ids below all sentinels."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(FIRST_ID, BERT_LIKE.size - 200, size) for size in sizes]
    return examples_from_tokens([(part, np.ones(len(part))) for part in ids], BERT_LIKE)


def spans_of(row):
    """Lengths of the stretches of one value."""
    return [(value, len(list(group))) for value, group in itertools.groupby(row.tolist())]


# --- which spans ---


@pytest.mark.parametrize(
    ("tokens", "noise", "spans"), [(512, 77, 26), (568, 85, 28), (20, 3, 1), (10, 2, 1), (2, 1, 1)]
)
def test_as_many_tokens_and_spans_as_t5s_code_counts(tokens, noise, spans):
    rows = texts(*[tokens] * 20)
    chosen = PartitionedSpans()(rows, Draw(0, 0), BERT_LIKE)
    assert (chosen.sum(axis=1) == noise).all()
    for row in chosen:
        found = spans_of(row)
        assert len(found) == 2 * spans  # the rest and noise by turns
        assert not found[0][0]
        assert found[-1][0]


def test_every_partition_is_equally_likely():
    rows = texts(*[9] * 4000)
    chosen = PartitionedSpans(density=0.45, mean_length=2)(rows, Draw(3, 0), BERT_LIKE)  # 4 of 9 in 2 spans
    found, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(found) == 3 * 4  # cuts of 4 tokens, times cuts of 5
    expected = 4000 / 12
    assert ((counts - expected) ** 2 / expected).sum() < 31.3  # chi square, 11 degrees of freedom, p = 0.001


def test_lengths_are_those_of_a_uniform_partition():
    chosen = PartitionedSpans()(texts(*[568] * 300), Draw(0, 0), BERT_LIKE)
    lengths = np.array([size for row in chosen for value, size in spans_of(row) if value])
    assert lengths.mean() == pytest.approx(85 / 28)
    # Of 84 places 27 are cuts: a span has one token with the chance 27 / 84.
    assert (lengths == 1).mean() == pytest.approx(27 / 84, abs=0.02)


def test_rows_of_no_token_or_one_have_no_noise():
    assert not PartitionedSpans()(texts(0, 1, 1), Draw(0, 0), BERT_LIKE).any()


def test_density_and_lengths_that_make_no_spans_are_refused():
    with pytest.raises(ZooError, match="between 0 and 1"):
        PartitionedSpans(density=1.0)
    with pytest.raises(ZooError, match="mean_length"):
        PartitionedSpans(mean_length=0.5)
    chosen = PartitionedSpans(density=0.9, mean_length=1)(texts(10), Draw(0, 0), BERT_LIKE)
    assert chosen.sum() == 9
    assert len(spans_of(chosen[0])) == 2  # one token is left, so there is one span


# --- source and target ---


@pytest.mark.parametrize("select", [None, RandomTokens(0.4), RandomSpans(0.3)])
def test_source_and_target_together_have_all_tokens(select):
    rows = full_rows(40, 60, word_start_share=0.7)
    rows = rows.replace(input_ids=np.minimum(rows.input_ids, SENTINELS[-1] - 1))  # none is in the text
    noised = corruption(select)(rows, Draw(1, 0), BERT_LIKE)
    assert (noised.targets["labels"] != -100).sum(axis=1).tolist() == noised.targets["target_lengths"].tolist()
    for number in range(40):
        source = noised.input_ids[number, : noised.lengths[number]].tolist()
        target = noised.targets["labels"][number, : noised.targets["target_lengths"][number]].tolist()
        assert target[-1] == BERT_LIKE.sep
        spans = dict[int, list[int]]()
        for token in target[:-1]:
            if token in SENTINELS:
                spans[token] = []
            else:
                spans[next(reversed(spans))].append(token)
        assert list(spans) == SENTINELS[: len(spans)].tolist()  # counted downwards from the largest id
        back = [part for token in source for part in (spans.pop(token) if token in spans else [token])]
        assert not spans
        assert back == rows.input_ids[number].tolist()


def test_a_bare_row_gets_an_end_and_a_closed_one_no_second():
    bare, whole = texts(30), full_rows(1, 30)
    for rows in (bare, whole):
        noised = corruption()(rows, Draw(0, 0), BERT_LIKE)
        source = noised.input_ids[0, : noised.lengths[0]]
        assert source[-1] == BERT_LIKE.sep
        assert (source == BERT_LIKE.sep).sum() == 1
        assert noised.special_tokens_mask[0, noised.lengths[0] - 1]


def test_a_row_of_one_token_asks_for_the_end_alone():
    noised = corruption()(texts(1, 0), Draw(0, 0), BERT_LIKE)
    assert noised.targets["labels"].tolist() == [[BERT_LIKE.sep], [BERT_LIKE.sep]]


def test_batch_and_padding_change_nothing():
    rows, draw = texts(*range(2, 60)), Draw(1, 2)
    whole = corruption()(rows, draw, BERT_LIKE)
    part = corruption()(take(rows, np.arange(10, 20), width=90), draw, BERT_LIKE)
    for here, there in zip(range(10), range(10, 20), strict=True):
        size = part.lengths[here]
        assert size == whole.lengths[there]
        assert (part.input_ids[here, :size] == whole.input_ids[there, :size]).all()
        kept = part.targets["target_lengths"][here]
        assert (part.targets["labels"][here, :kept] == whole.targets["labels"][there, :kept]).all()
    assert (corruption()(rows, Draw(1, 3), BERT_LIKE).input_ids.shape != whole.input_ids.shape) or (
        corruption()(rows, Draw(1, 3), BERT_LIKE).input_ids != whole.input_ids
    ).any()


def test_t5_reads_568_tokens_for_512_and_114():
    assert length_before(512) == (568, 114)


# --- sentinels ---


def test_sentinels_come_from_the_tokenizer():
    words = {"<unk>": 0, "</s>": 1, **{SENTINEL.format(n): 4 - n for n in range(3)}}
    noise = SpanCorruption()
    noise.bind_tokenizer(ZooTokenizer(Tokenizer(WordLevel(words, unk_token="<unk>")), {"unk": "<unk>", "sep": "</s>"}))
    assert noise.sentinels.tolist() == [4, 3, 2]
    noise.check_length(60)  # 9 tokens in 3 spans
    with pytest.raises(ZooError, match="28 spans, and the tokenizer 3 sentinels"):
        noise.check_length(568)
    with pytest.raises(ZooError, match="sentinels"):
        noise(texts(568), Draw(0, 0), BERT_LIKE)
    with pytest.raises(ZooError, match="no sentinels"):
        noise.bind_tokenizer(ZooTokenizer(Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")), {"unk": "<unk>"}))

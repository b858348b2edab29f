"""Choosers: exact counts, whole words, n-grams as the reference implementations pick them."""

import numpy as np
import pytest
from stores import BERT_LIKE, ROBERTA_LIKE, full_rows, take

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.masking.groups import Grouped, Groups, as_groups, fill_budget, shuffled, word_groups, word_starts
from pretraining.masking.ngrams import NGrams
from pretraining.masking.tokens import RandomTokens
from pretraining.masking.words import RandomSpans, WholeWords
from zoo.errors import ZooError

CHOOSERS = {
    "tokens": RandomTokens(),
    "tokens, limited": RandomTokens(max_predictions=3),
    "tokens, stochastic, special": RandomTokens(budget="stochastic", include_special=True),
    "words": WholeWords(),
    "words, stochastic": WholeWords(rate=0.3, budget="stochastic"),
    "words, independent": WholeWords(budget="bernoulli"),
    "tokens, independent": RandomTokens(budget="bernoulli"),
    "spans": RandomSpans(),
    "spans, independent": RandomSpans(budget="bernoulli"),
    "n-grams": NGrams(),
    "n-grams, longer": NGrams(n=5, favor_shorter=False, max_predictions=9),
}
every_chooser = pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)


def padded_rows(count=64, length=64, seed=0, **kwargs):
    """Rows of different lengths."""
    rows = full_rows(count, length, seed, **kwargs)
    lengths = np.random.default_rng(seed).integers(3, length + 1, count)
    special = rows.special_tokens_mask.copy()
    special[np.arange(length)[None, :] >= lengths[:, None] - 1] = True
    flags = np.where(special, WORD_START, rows.token_flags).astype(np.uint8)
    return rows.replace(lengths=lengths, special_tokens_mask=special, token_flags=flags)


# --- what holds for every chooser ---


@every_chooser
def test_a_part_of_the_batch_gets_the_same_choice(choose):
    rows, draw = padded_rows(32, word_start_share=0.7), Draw(1, 2)
    whole = choose(rows, draw, BERT_LIKE)
    halves = [choose(take(rows, np.arange(a, a + 16)), draw, BERT_LIKE) for a in (0, 16)]
    assert (whole == np.concatenate(halves)).all()
    order = np.random.default_rng(0).permutation(32)
    assert (choose(take(rows, order), draw, BERT_LIKE) == whole[order]).all()


@every_chooser
def test_padding_changes_nothing(choose):
    rows, draw = padded_rows(32, word_start_share=0.7), Draw(1, 2)
    wider = choose(take(rows, np.arange(32), width=100), draw, BERT_LIKE)
    assert (wider[:, :64] == choose(rows, draw, BERT_LIKE)).all()
    assert not wider[:, 64:].any()


@every_chooser
def test_never_padding_and_never_more_than_the_budget(choose):
    rows, draw = padded_rows(200, word_start_share=0.7), Draw(0, 0)
    chosen = choose(rows, draw, BERT_LIKE)
    assert not (chosen & ~rows.real).any()
    if not choose.include_special:
        assert not (chosen & rows.special_tokens_mask).any()
    assert (chosen.sum(axis=1) <= choose.budget_of(rows, draw)).all()
    assert chosen.any()


@every_chooser
def test_epochs_differ_and_repeat(choose):
    rows = full_rows(64, 128, word_start_share=0.8)
    first = choose(rows, Draw(0, 0), BERT_LIKE)
    assert (first == choose(rows, Draw(0, 0), BERT_LIKE)).all()
    assert (first != choose(rows, Draw(0, 1), BERT_LIKE)).any(axis=1).all()
    assert (first != choose(rows, Draw(1, 0), BERT_LIKE)).any(axis=1).all()


@every_chooser
def test_nothing_to_choose(choose):
    rows = full_rows(4, 2)
    if choose.include_special:
        rows = rows.replace(lengths=np.zeros(4, dtype=np.int64))
    assert not choose(rows, Draw(0, 0), BERT_LIKE).any()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("kind", [RandomTokens, WholeWords, RandomSpans, NGrams])
def test_impossible_rates(kind, rate):
    with pytest.raises(ZooError, match=r"\(0, 1\]"):
        kind(rate=rate)


def test_other_impossible_settings():
    with pytest.raises(ZooError, match="max_predictions"):
        RandomTokens(max_predictions=0)
    with pytest.raises(ZooError, match="at least 1 word"):
        NGrams(n=0)
    with pytest.raises(ZooError, match="stochastic"):
        RandomTokens(budget="up")


# --- single tokens ---


@pytest.mark.parametrize(
    ("length", "limit", "expected"), [(128, 20, 19), (512, 77, 77), (512, 20, 20), (512, None, 77)]
)
def test_bert_counts(length, limit, expected):
    """specs/bert.md checks 2 and 3."""
    chosen = RandomTokens(max_predictions=limit)(full_rows(100, length, separators=2), Draw(0, 0), BERT_LIKE)
    assert (chosen.sum(axis=1) == expected).all()


@pytest.mark.parametrize("length", range(3, 60))
def test_count_is_pythons_round_and_at_least_one(length):
    rows = full_rows(3, length)
    expected = min(max(1, round(0.15 * length)), length - 2)
    assert (RandomTokens()(rows, Draw(0, 0), BERT_LIKE).sum(axis=1) == expected).all()


def test_rate_one_takes_every_candidate():
    rows = padded_rows(50)
    assert (RandomTokens(rate=1.0)(rows, Draw(0, 0), BERT_LIKE) == ~rows.special_tokens_mask).all()


def test_positions_are_equally_likely():
    rows = full_rows(40_000, 42)
    counts = RandomTokens()(rows, Draw(0, 0), BERT_LIKE).sum(axis=0)
    assert counts[0] == counts[-1] == 0
    share = round(0.15 * 42) / 40
    z = (counts[1:-1] / 40_000 - share) / np.sqrt(share * (1 - share) / 40_000)
    assert np.abs(z).max() < 4
    assert 0.7 < z.std() < 1.3


def test_roberta_counts():
    """specs/roberta.md checks 2 and 4: stochastic rounding, template tokens included."""
    choose = RandomTokens(budget="stochastic", include_special=True)
    rows = full_rows(4000, 512, vocabulary=ROBERTA_LIKE)
    chosen = choose(rows, Draw(0, 0), ROBERTA_LIKE)
    assert set(chosen.sum(axis=1)) == {76, 77}
    assert abs(chosen.mean() - 0.15) < 0.001
    assert abs((chosen.sum(axis=1) == 77).mean() - 0.8) < 0.03
    first = chosen[:, 0].mean()
    assert abs(first - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 4000)
    big = choose(full_rows(20_000, 16, vocabulary=ROBERTA_LIKE), Draw(0, 0), ROBERTA_LIKE)
    assert abs(big[:, 0].mean() - 0.15) < 0.01
    short = choose(full_rows(2000, 4), Draw(0, 0), ROBERTA_LIKE).sum(axis=1)
    assert set(short) == {0, 1}  # unlike BERT's, this count may be zero


def test_roberta_epochs_overlap_by_chance_only():
    """specs/roberta.md check 5."""
    choose, rows = RandomTokens(budget="stochastic", include_special=True), full_rows(2000, 512)
    both = choose(rows, Draw(0, 0), ROBERTA_LIKE) & choose(rows, Draw(0, 1), ROBERTA_LIKE)
    assert abs(both.mean() - 0.15**2) < 0.0008


# --- whole words ---


def reference_groups(rows, row):
    """Positions of each word, after google-research/bert: pieces join the group before, but not across a separator."""
    groups, joins = [], False
    for position in range(rows.lengths[row]):
        if rows.special_tokens_mask[row, position]:
            joins = False
            continue
        if joins and not rows.token_flags[row, position] & WORD_START:
            groups[-1].append(position)
        else:
            groups.append([position])
        joins = True
    return groups


def test_groups_agree_with_the_reference():
    rows = padded_rows(100, word_start_share=0.6, separators=2)
    groups = word_groups(rows, ~rows.special_tokens_mask)
    for row in range(100):
        expected = reference_groups(rows, row)
        assert groups.counts[row] == len(expected)
        for number, positions in enumerate(expected):
            assert set(groups.number[row, positions]) == {number}
            assert np.diff(groups.bounds[row])[number] == len(positions)


@pytest.mark.parametrize("seed", range(5))
def test_budget_filling_is_the_sequential_rule(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 7, (200, 50)).astype(np.int32)
    budget = rng.integers(0, 40, 200).astype(np.int32)
    taken = fill_budget(sizes, budget)
    for row in range(200):
        left, expected = budget[row], []
        for size in sizes[row]:
            fits = 0 < size <= left
            expected.append(fits)
            left -= size if fits else 0
        assert (taken[row] == expected).all()


def groups_of(choose, rows, draw) -> Groups:
    """What a chooser takes as a whole."""
    start = choose.starts(rows, draw) if isinstance(choose, Grouped) else word_starts(rows, ~rows.special_tokens_mask)
    return as_groups(start, ~rows.special_tokens_mask)


def whole_groups_only(groups: Groups, chosen):
    assert not (chosen & ~groups.candidates).any()
    cells = np.arange(len(chosen))[:, None] * (int(groups.number.max()) + 1) + groups.number
    taken = np.bincount(cells[groups.candidates], chosen[groups.candidates])
    size = np.bincount(cells[groups.candidates])
    assert ((taken == 0) | (taken == size)).all()


@pytest.mark.parametrize("choose", [WholeWords(), NGrams(), RandomSpans(), WholeWords(budget="bernoulli")])
def test_words_are_chosen_as_a_whole(choose):
    """specs/bert-wwm.md check 3."""
    rows, draw = padded_rows(100, word_start_share=0.6, separators=2), Draw(0, 0)
    whole_groups_only(groups_of(choose, rows, draw), choose(rows, draw, BERT_LIKE))


@pytest.mark.parametrize("choose", [WholeWords(), WholeWords(rate=0.6), WholeWords(max_predictions=2)])
@pytest.mark.parametrize("share", [0.6, 0.25])
def test_whole_words_agree_with_the_reference(choose, share):
    rows, draw = padded_rows(150, word_start_share=share, separators=2), Draw(4, 1)
    chosen, budget = choose(rows, draw, BERT_LIKE), choose.budget_of(rows, draw)
    bits = draw.bits(rows.example_ids, rows.shape[1], "choose.order")
    for row in range(150):
        covered = set()
        for positions in sorted(reference_groups(rows, row), key=lambda p: bits[row, p[0]]):
            if len(covered) + len(positions) <= budget[row]:
                covered |= set(positions)
        assert set(np.flatnonzero(chosen[row])) == covered


def test_whole_words_mostly_fill_the_budget():
    rows = full_rows(500, 128, word_start_share=0.75)
    counts = WholeWords(max_predictions=20)(rows, Draw(0, 0), BERT_LIKE).sum(axis=1)
    assert counts.max() == 19
    assert (counts == 19).mean() > 0.98  # some single-token word is nearly always left


def test_long_rows_are_ordered_by_whole_draws():
    """Beyond 4,096 columns a draw keeps all its bits; the choice is that of the sequential rule."""
    rows, draw = full_rows(2, 5000, word_start_share=0.6), Draw(0, 0)
    chosen = WholeWords()(rows, draw, BERT_LIKE)
    bits = draw.bits(rows.example_ids, 5000, "choose.order")
    for row in range(2):
        first = sorted(reference_groups(rows, row), key=lambda p: bits[row, p[0]])[:100]
        assert chosen[row, np.concatenate(first)].all()
    assert (chosen.sum(axis=1) == 750).all()


class Largest(Draw):
    """Draws of which every seventh position's are the largest that there are."""

    def bits(self, examples, length, stream):
        bits = super().bits(examples, length, stream)
        bits[:, 3::7] |= np.uint32(0xFFFFF000 if length <= 4096 else 0xFFFFFFFF)
        return bits


@pytest.mark.parametrize("length", [32, 5000])
@pytest.mark.parametrize("choose", [WholeWords, RandomSpans])
@pytest.mark.parametrize("rate", [1.0, 0.9, 0.15])
def test_the_largest_draws_are_draws_like_others(choose, length, rate):
    """Where a word's draw is the largest number, it still comes before what begins no word, such as [CLS]."""
    rows = full_rows(40 if length == 32 else 2, length, word_start_share=0.6, separators=2)
    chooser, draw = choose(rate=rate), Largest(0, 0)
    chosen, start = chooser(rows, draw, BERT_LIKE), chooser.starts(rows, draw)
    budget, bits = chooser.budget_of(rows, draw), draw.bits(rows.example_ids, length, "choose.order")
    assert not (chosen & rows.special_tokens_mask).any()
    whole_groups_only(groups_of(chooser, rows, draw), chosen)
    low = max(length - 1, 1).bit_length()
    keys = bits >> np.uint32(low if low <= 12 else 0)
    edge = start | rows.special_tokens_mask
    for row in range(len(chosen)):
        left, expected = int(budget[row]), np.zeros(length, dtype=bool)
        for column in sorted(np.flatnonzero(start[row]), key=lambda c: (keys[row, c], c)):
            ends = np.flatnonzero(edge[row, column + 1 :])
            size = int(ends[0]) + 1 if len(ends) else length - column
            if size <= left:
                expected[column : column + size] = True
                left -= size
        assert (chosen[row] == expected).all()


def test_spans_keep_the_word_lengths():
    rows, draw = padded_rows(60, word_start_share=0.6, separators=2), Draw(0, 0)
    words, spans = word_starts(rows, ~rows.special_tokens_mask), RandomSpans().starts(rows, draw)
    assert (words.sum(axis=1) == spans.sum(axis=1)).all()
    assert (words != spans).any()
    for row in range(60):
        for first, last in ((0, 32), (32, 64)):  # a segment each
            part = (slice(row, row + 1), slice(first, last))
            lengths = [
                np.sort(np.diff(as_groups(start[part], ~rows.special_tokens_mask[part]).bounds[0]))
                for start in (words, spans)
            ]
            assert (lengths[0] == lengths[1]).all()


# --- independent draws ---


def test_independent_words_vary_in_number():
    """The same words as with a budget, on average; their number is binomial."""
    rows = full_rows(3000, 128, word_start_share=0.65)
    starts = word_starts(rows, ~rows.special_tokens_mask)
    for choose in (WholeWords(budget="bernoulli"), RandomTokens(budget="bernoulli")):
        start = starts if isinstance(choose, WholeWords) else ~rows.special_tokens_mask
        chosen = choose(rows, Draw(0, 0), BERT_LIKE)
        assert abs(chosen[start].mean() - 0.15) < 0.003
        taken = (chosen & start).sum(axis=1)
        expected = (0.15 * 0.85 * start.sum(axis=1)).mean() + (0.15 * start.sum(axis=1)).var()
        assert abs(taken.var() / expected - 1) < 0.1
        assert (choose(rows, Draw(0, 1), BERT_LIKE) != chosen).any()
    assert not WholeWords(budget="bernoulli")(full_rows(4, 2), Draw(0, 0), BERT_LIKE).any()


def test_impossible_counts():
    with pytest.raises(ZooError, match="has none"):
        WholeWords(budget="bernoulli", max_predictions=20)
    with pytest.raises(ZooError, match="spans fill a budget"):
        NGrams(budget="bernoulli")


# --- n-grams ---


def reference_ngrams(groups, order, drawn, budget, longest):
    """google-research/albert, create_masked_lm_predictions, with the draws given: (covered, kept lengths)."""
    covered, kept = set(), []
    for start in order:
        if len(covered) >= budget:
            break
        n = min(drawn[start], longest, len(groups) - start)
        while n > 0 and len(covered) + sum(map(len, groups[start : start + n])) > budget:
            n -= 1
        positions = {p for group in groups[start : start + n] for p in group}
        if n == 0 or positions & covered:
            continue
        covered |= positions
        kept.append(n)
    return covered, kept


def ngrams_and_reference(choose, rows, draw):
    chosen = choose(rows, draw, BERT_LIKE)
    all_groups = word_groups(rows, ~rows.special_tokens_mask)
    order = shuffled(all_groups, rows, draw)
    drawn = choose.lengths(rows, order.shape[1], draw)
    budget, spans = choose.budget_of(rows, draw), []
    for row in range(len(chosen)):
        groups = reference_groups(rows, row)
        covered, kept = reference_ngrams(groups, order[row, : len(groups)], drawn[row], budget[row], choose.n)
        assert set(np.flatnonzero(chosen[row])) == covered
        spans += kept
    return chosen, np.array(spans)


@pytest.mark.parametrize(
    "choose",
    [NGrams(), NGrams(n=1), NGrams(n=6, favor_shorter=False, rate=0.5), NGrams(max_predictions=5), NGrams(rate=1.0)],
)
def test_ngrams_agree_with_the_reference(choose):
    for seed in range(3):
        rows = padded_rows(60, 80, seed, word_start_share=0.7, separators=2)
        ngrams_and_reference(choose, rows, Draw(seed, 1))


def test_drawn_lengths():
    """specs/albert.md check 3."""
    rows = full_rows(2000, 128)
    shares = np.bincount(NGrams().lengths(rows, 100, Draw(0, 0)).ravel(), minlength=4)[1:] / 200_000
    assert np.abs(shares - [6 / 11, 3 / 11, 2 / 11]).max() < 0.005
    longer = np.bincount(NGrams(favor_shorter=False).lengths(rows, 100, Draw(0, 0)).ravel())[1:] / 200_000
    assert np.abs(longer - [2 / 11, 3 / 11, 6 / 11]).max() < 0.005


def test_kept_spans():
    """specs/albert.md checks 4 and 5."""
    rows = full_rows(500, 512, word_start_share=0.8, separators=2)
    chosen, spans = ngrams_and_reference(NGrams(max_predictions=77), rows, Draw(0, 0))
    assert chosen.sum(axis=1).max() <= 77
    shares = np.bincount(spans, minlength=4)[1:] / len(spans)
    assert np.abs(shares - [0.57, 0.265, 0.165]).max() < 0.02
    assert abs(spans.mean() - 1.59) < 0.03
    exactly = NGrams(max_predictions=20)(rows, Draw(0, 0), BERT_LIKE).sum(axis=1)
    assert (exactly == 20).mean() > 0.999
    assert exactly.max() == 20


def test_ngrams_are_spread_over_the_row():
    rows = full_rows(4000, 66)
    counts = NGrams()(rows, Draw(0, 0), BERT_LIKE).sum(axis=0)[1:-1]
    inner = counts[4:-4] / counts[4:-4].mean()
    assert np.abs(inner - 1).max() < 0.2
    assert counts[0] < counts[20]  # the first word can only be the first of a span

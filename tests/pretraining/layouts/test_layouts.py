"""Layouts: rows against naive procedures, and the invariants of the specs."""

import re
from itertools import chain

import numpy as np
import pytest
from stores import BERT_LIKE, FIRST_ID, GPT_LIKE, ROBERTA_LIKE, full_rows, synthetic_store, write_store
from training import chinese_articles

from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.blocks import Blocks
from pretraining.layouts.buffered_pairs import BufferedPairs
from pretraining.layouts.full_sentences import FullSentences
from pretraining.layouts.gather import examples_from_tokens
from pretraining.layouts.pairs import coin_sum
from pretraining.layouts.sentence_pairs import SentencePairs
from zoo.errors import ZooError
from zoo.vocabulary import Vocabulary

DRAW = Draw(seed=3, epoch=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return synthetic_store(tmp_path_factory.mktemp("store"), count=120, sentences=(1, 25), length=(1, 30))


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    return synthetic_store(tmp_path_factory.mktemp("large"), count=4000, sentences=(3, 21), length=(5, 60))


def all_documents(store):
    return np.arange(store.num_documents)


def texts(store, documents):
    """Each document as a list of sentences, each a list of ids."""
    edges = store.sentences
    return [
        [store.tokens[edges[s] : edges[s + 1]].tolist() for s in range(store.documents[d], store.documents[d + 1])]
        for d in documents
    ]


def as_lists(layout, store, plan, length, vocabulary, size=7):
    """All rows as lists of ids, made in batches of ``size``."""
    found = []
    for start in range(0, len(plan), size):
        rows = layout.rows(store, plan, np.arange(start, min(start + size, len(plan))), length, vocabulary)
        found += [rows.input_ids[i, : rows.lengths[i]].tolist() for i in range(len(rows.lengths))]
    return found


def planned(layout, store, length, vocabulary=BERT_LIKE, documents=None, draw=DRAW):
    documents = all_documents(store) if documents is None else documents
    plan = layout.plan(store, documents, length, vocabulary, draw)
    return plan, as_lists(layout, store, plan, length, vocabulary)


LAYOUTS = {
    "blocks": Blocks(),
    "blocks by document": Blocks(separate_documents=True),
    "blocks with separators": Blocks(separator=True, shift=True),
    "blocks by document with separators": Blocks(separate_documents=True, separator=True, shift=True),
    "full sentences": FullSentences(),
    "full sentences without separators": FullSentences(separator_between_documents=False),
    "document sentences": FullSentences(cross_documents=False),
    "next or random": SentencePairs("next_or_random"),
    "ordered or swapped": SentencePairs("ordered_or_swapped"),
    "negatives from a buffer": BufferedPairs(buffer=30),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


# --- what holds for every layout ---


@every_layout
def test_rows_are_short_enough_and_padded_to_the_longest(layout, store):
    plan, lists = planned(layout, store, 40)
    assert min(map(len, lists)) >= 2
    assert max(map(len, lists)) <= 40
    for batch in (np.array([0]), np.array([5, 2, 2, 9]), np.arange(len(plan))):
        rows = layout.rows(store, plan, batch, 40, BERT_LIKE)
        assert rows.shape == (len(batch), rows.lengths.max())
        assert [rows.input_ids[i, : rows.lengths[i]].tolist() for i in range(len(batch))] == [lists[b] for b in batch]
        assert (rows.input_ids[~rows.real] == BERT_LIKE.pad).all()
        assert rows.special_tokens_mask[~rows.real].all()
        assert (rows.token_flags[rows.special_tokens_mask] == WORD_START).all()
        assert (rows.special_tokens_mask == (rows.input_ids < FIRST_ID)).all()
        assert (rows.example_ids == batch).all()
        assert rows.input_ids.dtype == np.int32


@every_layout
def test_a_plan_is_a_function_of_its_key(layout, store):
    first, again = planned(layout, store, 40)[1], planned(layout, store, 40)[1]
    assert first == again
    changed = planned(layout, store, 40, draw=Draw(3, 1))[1] != first
    assert changed == (isinstance(layout, SentencePairs | BufferedPairs) or getattr(layout, "shift", False))


@every_layout
def test_only_the_given_documents(layout, store):
    documents = np.array([3, 4, 17, 60, 61, 119])
    plan, lists = planned(layout, store, 40, documents=documents)
    allowed = {tuple(s) for document in texts(store, documents) for s in document}
    assert set(plan.documents) <= set(documents)
    inside = np.zeros(store.num_tokens, dtype=bool)
    edges = store.document_tokens()
    for d in documents:
        inside[edges[d] : edges[d + 1]] = True
    for start, length in zip(plan.piece_starts, plan.lengths):
        assert inside[start : start + length].all()
    assert allowed
    assert lists


@every_layout
def test_documents_of_the_first_piece(layout, store):
    plan, _ = planned(layout, store, 40)
    edges = store.document_tokens()
    first = plan.piece_starts[plan.offsets[:-1]]
    has_text = plan.lengths[plan.offsets[:-1]] > 0
    own = np.searchsorted(edges, first, side="right") - 1
    unswapped = np.ones(len(plan), bool) if plan.row_labels is None else plan.row_labels == 0
    assert (own == plan.documents)[has_text & unswapped].all()


@every_layout
def test_provides_is_what_rows_have(layout, store):
    plan, _ = planned(layout, store, 40)
    rows = layout.rows(store, plan, np.arange(3), 40, BERT_LIKE)
    found = {name for name in ("token_type_ids", "row_labels") if getattr(rows, name) is not None}
    assert found == set(layout.provided_fields)


@every_layout
def test_named_arrays_come_along(layout, tmp_path):
    documents = [[[10 * d + s + 5] * 6 for s in range(4)] for d in range(6)]
    spans = np.arange(6 * 4 * 6, dtype=np.int32) + 1
    store = write_store(tmp_path, documents, arrays={"span": spans})
    plan, _ = planned(layout, store, 20)
    rows = layout.rows(store, plan, np.arange(len(plan)), 20, BERT_LIKE)
    assert (rows.arrays["span"][rows.special_tokens_mask] == 0).all()
    positions = rows.arrays["span"][~rows.special_tokens_mask] - 1
    assert (store.tokens[positions] == rows.input_ids[~rows.special_tokens_mask]).all()


@every_layout
def test_a_plan_for_longer_rows_is_refused(layout, store):
    plan, _ = planned(layout, store, 40)
    with pytest.raises(ZooError, match="plan again"):
        layout.rows(store, plan, np.arange(len(plan)), 20, BERT_LIKE)


@every_layout
def test_no_documents(layout, store, tmp_path):
    with pytest.raises(ZooError, match="0 documents"):
        layout.plan(store, np.zeros(0, dtype=np.int64), 40, BERT_LIKE, DRAW)
    empty = write_store(tmp_path, [[[]], [[], []]])
    with pytest.raises(ZooError, match="without a single token"):
        layout.plan(empty, np.arange(2), 40, BERT_LIKE, DRAW)


@pytest.mark.parametrize("layout", [FullSentences(), SentencePairs("next_or_random"), Blocks(separator=True)])
def test_missing_template_tokens(layout, store):
    with pytest.raises(ZooError, match="separator"):
        layout.plan(store, all_documents(store), 40, GPT_LIKE, DRAW)
    if not isinstance(layout, Blocks):
        with pytest.raises(ZooError, match="opening token"):
            layout.plan(store, all_documents(store), 40, Vocabulary(size=1000, sep=3), DRAW)


@pytest.mark.parametrize(
    ("layout", "length"), [(Blocks(), 1), (FullSentences(), 2), (SentencePairs("next_or_random"), 4)]
)
def test_rows_too_short_for_anything(layout, length, store):
    with pytest.raises(ZooError, match="rows of"):
        layout.plan(store, all_documents(store), length, BERT_LIKE, DRAW)


# --- blocks ---


def stream(store, documents, separator):
    return [
        [t for sentence in document for t in sentence] + ([BERT_LIKE.sep] if separator else [])
        for document in texts(store, documents)
    ]


@pytest.mark.parametrize("separator", [False, True])
def test_blocks_are_windows_of_the_stream(store, separator):
    flat = list(chain.from_iterable(stream(store, all_documents(store), separator)))
    _, lists = planned(Blocks(separator=separator), store, 33)
    expected = [flat[i : i + 33] for i in range(0, len(flat), 33)]
    assert lists == [e for e in expected if len(e) > 1]


@pytest.mark.parametrize("separator", [False, True])
def test_blocks_by_document(store, separator):
    _, lists = planned(Blocks(separate_documents=True, separator=separator), store, 33)
    windows = [d[i : i + 33] for d in stream(store, all_documents(store), separator) for i in range(0, len(d), 33)]
    assert lists == [w for w in windows if len(w) > 1]


@pytest.mark.parametrize("separate", [False, True])
def test_separators_after_sentences(store, separate):
    documents = [
        [token for sentence in document for token in (*sentence, BERT_LIKE.sep)]
        for document in texts(store, all_documents(store))
    ]
    texts_of = documents if separate else [list(chain.from_iterable(documents))]
    layout = Blocks(separate_documents=separate, separator=True, separator_after="sentences")
    plan, lists = planned(layout, store, 33)
    windows = [text[i : i + 33] for text in texts_of for i in range(0, len(text), 33)]
    assert lists == [w for w in windows if len(w) > 1]
    assert plan.documents.tolist() == sorted(plan.documents.tolist())


def test_shifted_blocks_hold_the_same_stream(store):
    flat = list(chain.from_iterable(stream(store, all_documents(store), False)))
    shifts = set()
    for epoch in range(12):
        _, lists = planned(Blocks(shift=True), store, 33, draw=Draw(0, epoch))
        joined = list(chain.from_iterable(lists))
        assert joined in (flat, flat[1:], flat[:-1], flat[1:-1])  # windows of one token are left out
        shifts.add(len(lists[0]))
    assert len(shifts) > 6


def test_blocks_need_no_template_tokens(store):
    _, lists = planned(Blocks(), store, 33, vocabulary=GPT_LIKE)
    assert len(lists) > 10


# --- full sentences ---


def naive_full_sentences(documents, length, cross, separate, vocabulary):
    """Greedy packing, sentence by sentence."""
    found, row, last = [], None, None
    for number, document in enumerate(documents):
        for sentence in document:
            parts = [sentence[i : i + length - 2] for i in range(0, len(sentence), length - 2)]
            for part in parts:
                new = row is not None and last != number
                extra = len(part) + (1 if new and separate else 0)
                if row is None or len(row) + extra + 1 > length or (new and not cross):
                    if row is not None:
                        found.append([*row, vocabulary.sep])
                    row = [vocabulary.cls]
                    new = False
                row = row + ([vocabulary.sep] if new and separate else []) + part
                last = number
    return [*found, [*row, vocabulary.sep]]


@pytest.mark.parametrize("length", [10, 33, 64, 500])
@pytest.mark.parametrize(("cross", "separate"), [(True, True), (True, False), (False, True)])
def test_full_sentences_agree_with_greedy_packing(store, length, cross, separate):
    layout = FullSentences(cross_documents=cross, separator_between_documents=separate)
    _, lists = planned(layout, store, length, vocabulary=ROBERTA_LIKE)
    assert lists == naive_full_sentences(texts(store, all_documents(store)), length, cross, separate, ROBERTA_LIKE)


def test_full_sentences_meet_the_spec(large_store):
    """specs/roberta.md check 8: at most L, cls first, sep last, no sentence split."""
    plan, lists = planned(FullSentences(), large_store, 128, vocabulary=ROBERTA_LIKE)
    starts, ends = set(large_store.sentences[:-1].tolist()), set(large_store.sentences[1:].tolist())
    assert set(plan.piece_starts.tolist()) <= starts
    assert set((plan.piece_starts + plan.lengths).tolist()) <= ends
    for row in lists:
        assert len(row) <= 128
        assert row[0] == ROBERTA_LIKE.cls
        assert row[-1] == ROBERTA_LIKE.sep
    assert plan.lengths.sum() == large_store.num_tokens  # nothing lost, nothing twice


def test_document_sentences_stay_in_one_document(large_store):
    """specs/roberta.md check 9."""
    plan, _ = planned(FullSentences(cross_documents=False), large_store, 128)
    edges = large_store.document_tokens()
    first = np.searchsorted(edges, plan.piece_starts, side="right")
    last = np.searchsorted(edges, plan.piece_starts + plan.lengths - 1, side="right")
    assert (first == last).all()
    assert (np.diff(plan.offsets) == 1).all()


# --- sentence pairs ---


def naive_pairs(store, documents, length, layout, draw):
    """google-research/bert and albert, create_instances_from_document, one token at a time, same draws."""
    budget, rows = length - 3, []

    def one(values, stream, high=None):
        values = np.array([values])
        return draw.uniform(values, stream)[0] if high is None else int(draw.integers(values, high, stream)[0])

    for document in documents:
        low, high = store.documents[document], store.documents[document + 1]
        target = budget
        if one(document, "pairs.short") < layout.short_seq_prob:
            target = 2 + one(document, "pairs.target", budget - 1)
        start = low
        while start < high:
            end = start
            while end < high and store.sentences[end] - store.sentences[start] < target:
                end += 1
            a_end = start + 1
            if end - start >= 2:
                a_end = start + 1 + one(start, "pairs.split", end - start - 1)
            a = list(range(store.sentences[start], store.sentences[a_end]))
            tossed = one(start, "pairs.label") < layout.random_share
            single, following = end - start == 1, end
            if single or (tossed and layout.second == "next_or_random"):
                label, b = 1, random_second(store, documents, document, start, target - len(a), draw)
                following = a_end
            else:
                label, b = int(tossed), list(range(store.sentences[a_end], store.sentences[end]))
                if tossed:
                    a, b = b, a
            rows.append((*cut(a, b, budget, start, draw), label))
            start = following
    return rows


def random_second(store, documents, document, example, wanted, draw):
    for bits in draw.bits(np.array([example]), 10, "pairs.document")[0]:
        other = documents[int(bits) * len(documents) >> 32]
        if other != document:
            break
    low, high = store.documents[other], store.documents[other + 1]
    sentence = low + int(draw.integers(np.array([example]), int(high - low), "pairs.sentence")[0])
    tokens = []
    while sentence < high:
        tokens += range(store.sentences[sentence], store.sentences[sentence + 1])
        if len(tokens) >= wanted:
            break
        sentence += 1
    return tokens


def cut(a, b, budget, example, draw):
    tossed = {"pairs.front.first": 0, "pairs.front.second": 0}
    while len(a) + len(b) > budget:
        longer, stream = (a, "pairs.front.first") if len(a) > len(b) else (b, "pairs.front.second")
        word, bit = divmod(tossed[stream], 32)
        left = int(draw.at(np.array([example]), np.array([word]), stream)[0]) >> (31 - bit) & 1
        tossed[stream] += 1
        longer.pop(0 if left else -1)
    return a, b


@pytest.mark.parametrize("length", [8, 40, 64, 300])
@pytest.mark.parametrize("second", ["next_or_random", "ordered_or_swapped"])
def test_pairs_agree_with_the_reference_procedure(store, length, second):
    layout = SentencePairs(second, short_seq_prob=0.3)
    documents = np.setdiff1d(all_documents(store), [0, 7, 8, 100])[: 30 if length == 8 else None]
    plan = layout.plan(store, documents, length, BERT_LIKE, DRAW)
    expected = naive_pairs(store, documents, length, layout, DRAW)
    assert len(plan) == len(expected)
    for row, (a, b, label) in enumerate(expected):
        first, other = plan.offsets[row], plan.offsets[row] + 1
        assert (plan.piece_starts[first], plan.lengths[first]) == (a[0], len(a))
        assert (plan.piece_starts[other], plan.lengths[other]) == (b[0], len(b))
        assert plan.row_labels[row] == label


@pytest.mark.parametrize("second", ["next_or_random", "ordered_or_swapped"])
def test_pair_rows_look_as_they_should(store, second):
    layout = SentencePairs(second)
    plan, _ = planned(layout, store, 64)
    rows = layout.rows(store, plan, np.arange(len(plan)), 64, BERT_LIKE)
    for i in range(len(plan)):
        ids, types = rows.input_ids[i, : rows.lengths[i]], rows.token_type_ids[i]
        a, b = plan.lengths[2 * i], plan.lengths[2 * i + 1]
        assert ids[0] == BERT_LIKE.cls
        assert ids[a + 1] == ids[a + b + 2] == BERT_LIKE.sep
        assert len(ids) == a + b + 3
        assert types.tolist() == [0] * (a + 2) + [1] * (b + 1) + [0] * (rows.shape[1] - len(ids))


def naive_buffered(pairs, orders):
    """Pair by pair: rows as ((start, tokens), (start, tokens), label), in the order of the pairs."""
    found = {}
    for order in orders:
        for place, number in enumerate(order):
            left, own = pairs[number]
            partner = order[(place + 1) % len(order)]
            if partner == number:
                continue
            other = pairs[partner][1]
            kept = min(own[1], other[1])
            found[number] = [(left, (own[0], kept), 0), (left, (other[0], kept), 1)]
    return [row for number in sorted(found) for row in found[number]]


def segments(plan):
    """((start, tokens), (start, tokens)) of each row of two pieces."""
    pieces = list(zip(plan.piece_starts.tolist(), plan.lengths.tolist(), strict=True))
    return list(zip(pieces[::2], pieces[1::2], strict=True))


@pytest.mark.parametrize(("length", "buffer"), [(64, 30), (64, None), (40, 7), (12, 2)])
def test_buffered_pairs_agree_with_the_procedure_pair_by_pair(store, length, buffer):
    """specs/ernie-baidu-1.md section 3.3, with right segments of one length."""
    plan, _ = planned(BufferedPairs(buffer, short_seq_prob=0.3), store, length)
    all_pairs = planned(SentencePairs("next_or_random", 0.3, random_share=0), store, length)[0]
    pairs = [pair for pair, label in zip(segments(all_pairs), all_pairs.row_labels, strict=True) if label == 0]
    size = buffer or len(pairs)
    keys = DRAW.keys(np.arange(len(pairs)), "pairs.buffer")
    buffers = [np.arange(start, min(start + size, len(pairs))) for start in range(0, len(pairs), size)]
    expected = naive_buffered(pairs, [b[np.argsort(keys[b])].tolist() for b in buffers])
    found = [(*pair, label) for pair, label in zip(segments(plan), plan.row_labels.tolist(), strict=True)]
    assert found == expected
    assert len(found) >= 2 * (len(pairs) - 1)  # only a pair alone in the last buffer makes none


@pytest.mark.parametrize("length", [12, 64, 512])
def test_true_and_false_pairs_are_equally_long(store, length):
    plan, _ = planned(BufferedPairs(30), store, length)
    lengths = plan.lengths.reshape(-1, 2)
    true, false = lengths[plan.row_labels == 0], lengths[plan.row_labels == 1]
    assert (true == false).all()
    assert (
        plan.piece_starts[::4] == plan.piece_starts[2::4]
    ).all()  # a true pair, then the false one with its first segment
    assert len(np.unique(true[:, 1])) > 4


def test_half_of_the_pairs_are_false(large_store):
    """specs/ernie-baidu-1.md check 8: one negative for every positive, and never a pair's own."""
    plan, _ = planned(BufferedPairs(short_seq_prob=0), large_store, 512)
    true, false = (np.flatnonzero(plan.row_labels == label) for label in (0, 1))
    assert len(true) > 1000  # more than one buffer
    assert abs(len(false) / len(plan) - 0.5) < 0.01
    starts = plan.piece_starts.reshape(-1, 2)
    owner = {int(start): int(row) for row in true for start in starts[row]}
    assert all(owner[int(a)] != owner[int(b)] for a, b in starts[false])


def best_threshold(values, labels):
    """Highest accuracy of telling labels 0 and 1 by whether a value is below a threshold, either way round."""
    shares = [((values < t) == labels).mean() for t in np.append(np.unique(values), values.max() + 1)]
    return max(*shares, *(1 - np.array(shares)))


@pytest.mark.parametrize("length", [64, 128, 512])
def test_length_does_not_tell_false_pairs(tmp_path, length):
    """Articles of the sample, a character a token: neither the row's length nor a segment's says the label."""
    documents = [
        [list(map(ord, sentence)) for sentence in re.findall("[^。]+。?", article.replace("\n", ""))]
        for article in chinese_articles()
    ]
    articles = write_store(tmp_path, documents, vocab_size=1 << 16)
    plan, _ = planned(BufferedPairs(), articles, length)
    assert len(plan) > 50
    assert abs(plan.row_labels.mean() - 0.5) < 0.01
    first, second = plan.lengths.reshape(-1, 2).T
    for values in (first + second, first, second):
        assert best_threshold(values, plan.row_labels) < 0.51


def test_a_buffer_needs_two_pairs(tmp_path):
    with pytest.raises(ZooError, match="buffer is 1; 2 pairs"):
        BufferedPairs(buffer=1)
    one = write_store(tmp_path / "one", [[[7] * 5, [8] * 5], [[9] * 5]])
    assert len(BufferedPairs(short_seq_prob=0).plan(one, np.arange(2), 32, BERT_LIKE, DRAW)) == 0
    three = write_store(tmp_path / "three", [[[7] * 5, [8] * 5]] * 3)
    plan = BufferedPairs(2, short_seq_prob=0).plan(three, np.arange(3), 32, BERT_LIKE, DRAW)
    assert plan.row_labels.tolist() == [0, 1, 0, 1]  # the third is alone in its buffer
    assert plan.documents.tolist() == [0, 0, 1, 1]


def test_random_share(large_store, tmp_path):
    """specs/bert.md check 6: 0.50 of the chunks of two and more sentences, plus every chunk of one."""
    labels = planned(SentencePairs("next_or_random"), large_store, 128)[0].row_labels
    assert 0.53 < labels.mean() < 0.59  # (1 + the share of chunks of one sentence) / 2
    # Sentences of 25 tokens fill a chunk of 125 without a cut, so a chunk of one is a document's last sentence.
    equal = synthetic_store(tmp_path, count=4000, sentences=(3, 21), length=(25, 25))
    plan, _ = planned(SentencePairs("next_or_random", short_seq_prob=0), equal, 128)
    assert (plan.lengths % 25 == 0).all()
    single = np.isin(plan.piece_starts[::2] // 25, np.asarray(equal.documents[1:]) - 1)
    assert plan.row_labels[single].all()
    assert abs(plan.row_labels[~single].mean() - 0.5) < 0.01
    assert 0.08 < single.mean() < 0.16


def test_swapped_share(large_store):
    """specs/albert.md check 7; without swaps, only chunks of one sentence have label 1."""
    labels = planned(SentencePairs("ordered_or_swapped"), large_store, 128)[0].row_labels
    single = planned(SentencePairs("ordered_or_swapped", random_share=0), large_store, 128)[0].row_labels == 1
    assert labels[single].all()
    assert abs(labels[~single].mean() - 0.5) < 0.01
    assert 0.52 < labels.mean() < 0.57


def test_share_of_short_targets():
    """specs/bert.md check 7."""
    targets = SentencePairs("next_or_random").targets(np.arange(40_000), 125, DRAW)
    short = targets[targets < 125]
    assert abs((targets < 125).mean() - 0.1 * 123 / 124) < 0.01
    assert short.min() == 2
    assert abs(short.mean() - 63) < 3


def test_swapped_pairs_keep_their_tokens(tmp_path):
    """specs/albert.md check 8: with room for everything, swapping keeps the tokens; types are 0, then 1."""
    store = synthetic_store(tmp_path, count=300, sentences=(2, 6), length=(2, 9))
    straight = SentencePairs("ordered_or_swapped", short_seq_prob=0, random_share=0)
    swapped = SentencePairs("ordered_or_swapped", short_seq_prob=0, random_share=1)
    one, other = (layout.plan(store, all_documents(store), 80, BERT_LIKE, DRAW) for layout in (straight, swapped))
    assert one.row_labels.sum() == 0
    assert other.row_labels.all()
    a = straight.rows(store, one, np.arange(len(one)), 80, BERT_LIKE)
    b = swapped.rows(store, other, np.arange(len(other)), 80, BERT_LIKE)
    assert (np.sort(a.input_ids, axis=1) == np.sort(b.input_ids, axis=1)).all()
    assert (a.input_ids != b.input_ids).any(axis=1).all()
    for rows in (a, b):
        real = [rows.token_type_ids[i, : rows.lengths[i]] for i in range(len(rows.lengths))]
        assert all((np.diff(types) >= 0).all() and types[0] == 0 and types[-1] == 1 for types in real)


def test_truncation_takes_front_and_back_alike():
    """specs/bert.md check 10."""
    tosses = np.random.default_rng(0).integers(0, 100, 20_000)
    heads = coin_sum(tosses, np.arange(20_000), "x", DRAW)
    assert abs(heads.sum() / tosses.sum() - 0.5) < 0.002
    assert (heads <= tosses).all()
    z = (heads - tosses / 2) / np.sqrt(np.maximum(tosses, 1) / 4)
    assert abs(z[tosses > 20].std() - 1) < 0.03  # spread like coins, not like halves


def test_portions_give_the_same_pairs(store):
    for second in ("next_or_random", "ordered_or_swapped"):
        layout = SentencePairs(second)
        whole = planned(layout, store, 40)[1]
        layout.portion = 37
        assert planned(layout, store, 40)[1] == whole


def test_portions_lose_nothing(store):
    layout = FullSentences()
    layout.portion = 37
    plan, _ = planned(layout, store, 40)
    assert plan.lengths.sum() == store.num_tokens
    assert len(plan.documents) == len(plan)


def test_pairs_say_what_would_work(tmp_path):
    lonely = write_store(tmp_path / "lonely", [[[7] * 5] for _ in range(9)])
    for second in ("next_or_random", "ordered_or_swapped"):
        with pytest.raises(ZooError, match=r"single sentence(.|\n)*FullSentences(.|\n)*without PairClassification"):
            SentencePairs(second).plan(lonely, np.arange(9), 32, BERT_LIKE, DRAW)
    one = write_store(tmp_path / "one", [[[7] * 5] * 30])
    with pytest.raises(ZooError, match=r"blank lines(.|\n)*ordered_or_swapped"):
        SentencePairs("next_or_random").plan(one, np.arange(1), 32, BERT_LIKE, DRAW)
    assert len(SentencePairs("ordered_or_swapped").plan(one, np.arange(1), 32, BERT_LIKE, DRAW)) > 3
    wide = write_store(tmp_path / "wide", [[[7] * 50] * 3] * 4)
    with pytest.raises(ZooError, match="two consecutive sentences"):
        SentencePairs("next_or_random").plan(wide, np.arange(4), 32, BERT_LIKE, DRAW)
    for wrong in ({"second": "previous"}, {"second": "next_or_random", "short_seq_prob": 1.1}):
        with pytest.raises(ZooError, match="SentencePairs"):
            SentencePairs(**wrong)


# --- rows of given texts ---


def test_rows_from_texts():
    rows = examples_from_tokens([([7, 8, 9], [1, 0, 1]), ([6], [1])], BERT_LIKE, [BERT_LIKE.cls], [BERT_LIKE.sep])
    assert rows.input_ids.tolist() == [[2, 7, 8, 9, 3], [2, 6, 3, 0, 0]]
    assert rows.special_tokens_mask.tolist() == [[True, False, False, False, True], [True, False, True, True, True]]
    assert rows.token_flags[0].tolist() == [1, 1, 0, 1, 1]
    assert rows.lengths.tolist() == [5, 3]
    bare = examples_from_tokens([([7, 8], [1, 1])], GPT_LIKE)
    assert bare.input_ids.tolist() == [[7, 8]]
    assert full_rows(1, 4).special_tokens_mask.tolist() == [[True, False, False, True]]

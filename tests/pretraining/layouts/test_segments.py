"""Layouts in streams: rows that go on from batch to batch, against the plain procedures."""

from itertools import pairwise

import numpy as np
import pytest
from stores import BERT_LIKE, FIRST_ID, GPT_LIKE, synthetic_documents, synthetic_store, write_store

from pretraining.keyed_random import Draw
from pretraining.layouts.base import take_rows
from pretraining.layouts.segment_pairs import SegmentPairs
from pretraining.layouts.segments import Segments, contiguous_order
from pretraining.training.loader import Cursor, TaskLoader
from zoo.errors import ZooError

DRAW = Draw(seed=3, epoch=0)
L = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return synthetic_store(tmp_path_factory.mktemp("store"), count=60, sentences=(1, 25), length=(1, 30))


def make(layout, store, streams=6, length=L, documents=None, draw=DRAW, vocabulary=BERT_LIKE):
    layout.parallel_rows = streams
    documents = np.arange(store.num_documents) if documents is None else documents
    return layout.plan(store, documents, length, vocabulary, draw)


def all_rows(layout, store, plan, length=L, vocabulary=BERT_LIKE):
    return layout.rows(store, plan, np.arange(len(plan)), length, vocabulary)


def test_order_of_streams():
    assert contiguous_order(9, 3).tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert contiguous_order(11, 3).tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert contiguous_order(2, 5).tolist() == [0, 1]
    assert contiguous_order(0, 5).tolist() == []


# ---- windows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [False, True])
@pytest.mark.parametrize("streams", [1, 6, 7, 10_000])
def test_segments_go_on_in_their_stream_and_name_the_next_token(store, separator, streams):
    layout = Segments(separator=separator)
    plan = make(layout, store, streams)
    rows = all_rows(layout, store, plan)
    bounds = store.document_tokens()
    parts = [[*store.tokens[a:b].tolist(), *([BERT_LIKE.sep] if separator else [])] for a, b in pairwise(bounds)]
    text = [token for part in parts for token in part]
    count = len(text) // L
    streams = min(streams, count)
    each = count // streams
    assert len(plan) == streams * each
    assert rows.shape == (len(plan), L)
    for number, ids in enumerate(rows.input_ids):
        step, stream = divmod(number, streams)
        start = (stream * each + step) * L
        assert ids.tolist() == text[start : start + L]
        following = text[start + L] if start + L < len(text) else -1
        assert rows.next_token[number] == following


def test_segments_begin_elsewhere_in_every_epoch(store):
    layout = Segments(shift=True)
    first, again = (all_rows(layout, store, make(layout, store, draw=Draw(3, epoch))) for epoch in (0, 1))
    assert first.input_ids[0].tolist() != again.input_ids[0].tolist()
    assert (first.lengths == L).all()


def test_segments_of_a_text_shorter_than_a_row(tmp_path):
    store = write_store(tmp_path, [[[7, 8, 9]]])
    layout = Segments()
    plan = make(layout, store, vocabulary=GPT_LIKE)
    rows = all_rows(layout, store, plan, vocabulary=GPT_LIKE)
    assert (rows.input_ids.tolist(), rows.next_token.tolist()) == ([[7, 8, 9]], [-1])


# ---- reused part and a pair -------------------------------------------------------------------------------


def naive_pair(ids, sentence, begin, budget, example, way):
    """_split_a_and_b token by token."""

    def whole(high, what):
        return int(DRAW.integers(np.array([example]), high, f"segments.{what}.{way}")[0])

    random = DRAW.uniform(np.array([example]), f"segments.label.{way}")[0] < 0.5
    end, cuts = begin + 1, []
    while end < len(ids):
        if sentence[end] != sentence[end - 1]:
            if end - begin >= budget:
                break
            cuts.append(end)
        end += 1
    a_end = cuts[whole(len(cuts), "cut")] if cuts else end
    if random or not cuts:
        wanted = max(1, budget - (a_end - begin))
        b_begin = whole(len(ids) - wanted, "place")
        b_end = b_begin + wanted
        while b_begin > 0 and sentence[b_begin - 1] == sentence[b_begin]:
            b_begin -= 1
        while b_end < len(ids) and sentence[b_end - 1] == sentence[b_end]:
            b_end += 1
    else:
        b_begin, b_end = a_end, end
    while a_end - begin + b_end - b_begin > budget:
        if a_end - begin > b_end - b_begin:
            a_end -= 1
        else:
            b_end -= 1
    return ids[begin:a_end], ids[b_begin:b_end], int(random or not cuts)


def text_of(store, documents):
    """All tokens, and the number of each one's sentence."""
    ids, sentence = [], []
    for d in documents:
        for s in range(store.documents[d], store.documents[d + 1]):
            ids += store.tokens[store.sentences[s] : store.sentences[s + 1]].tolist()
            sentence += [s] * int(store.sentences[s + 1] - store.sentences[s])
    return ids, sentence


@pytest.mark.parametrize("documents", [None, [1, 2, 5, 9, 30, 31, 32, 50]])
@pytest.mark.parametrize("streams", [1, 2, 6, 7])
@pytest.mark.parametrize("reuse", [None, 7, 30])
def test_pairs_follow_the_procedure_in_both_directions(store, documents, streams, reuse):
    layout = SegmentPairs(reuse_len=reuse)
    documents = np.arange(store.num_documents) if documents is None else np.array(documents)
    plan = make(layout, store, streams, documents=documents)
    rows = all_rows(layout, store, plan)
    assert rows.shape == (len(plan), L)
    assert (rows.lengths == L).all()
    reuse = reuse or L // 2
    budget = L - reuse - 3
    ids, sentence = text_of(store, documents)
    count = sum(k * reuse + reuse + budget < len(ids) for k in range(len(ids)))
    ahead = (streams + 1) // 2
    each = count // ahead if streams > 1 else count
    for number in range(len(plan)):
        step, stream = divmod(number, streams)
        back = stream >= ahead if streams > 1 else number >= count
        k = (stream - ahead * back) * each + step if streams > 1 else number - count * back
        assert rows.reversed[number] == back
        way = "back" if back else "ahead"
        text, numbers = (ids[::-1], sentence[::-1]) if back else (ids, sentence)
        a, b, label = naive_pair(text, numbers, k * reuse + reuse, budget, k, way)
        first = text[k * reuse : k * reuse + reuse]
        expected = [*first, *a, BERT_LIKE.sep, *b, BERT_LIKE.sep, BERT_LIKE.cls]
        assert rows.input_ids[number].tolist() == expected
        types = [0] * (reuse + len(a) + 1) + [1] * (len(b) + 1) + [2]
        assert rows.token_type_ids[number].tolist() == types
        assert rows.row_labels[number] == label
        assert rows.reuse_length[number] == reuse
    assert (rows.special_tokens_mask == (rows.input_ids < FIRST_ID)).all()
    assert set(rows.row_labels.tolist()) == {0, 1}


def test_the_next_row_begins_with_the_continuation(store):
    layout = SegmentPairs(reuse_len=10, random_share=0.0)
    rows = all_rows(layout, store, make(layout, store, 4))
    following = rows.input_ids.reshape(-1, 4, L)
    assert (following[1:, :, 0] == following[:-1, :, 10]).all()


def test_one_direction(store):
    layout = SegmentPairs(bidirectional=False)
    plan = make(layout, store, 4)
    assert not all_rows(layout, store, plan).reversed.any()
    both = make(SegmentPairs(), store, 4)
    assert both.reversed.reshape(-1, 4)[0].tolist() == [False, False, True, True]
    assert (both.reversed.reshape(-1, 4) == both.reversed[:4]).all()


def test_flags_of_a_backward_row_are_those_of_its_tokens(tmp_path):
    documents = synthetic_documents(count=12)
    total = sum(len(s) for d in documents for s in d)
    store = write_store(tmp_path, documents, flags=np.arange(total) % 2)
    layout = SegmentPairs()
    rows = all_rows(layout, store, make(layout, store, 2))
    # Each token's flag is looked up at its place, which ids alone do not tell: compare pairs of (id, flag).
    known = set(zip(store.tokens.tolist(), store.flags.tolist()))
    backward = ~rows.special_tokens_mask & rows.reversed[:, None]
    assert set(zip(rows.input_ids[backward].tolist(), rows.token_flags[backward].tolist())) <= known


@pytest.mark.parametrize("layout", [Segments(), SegmentPairs()], ids=["segments", "pairs"])
def test_the_loader_reads_streams_in_order_and_resumes_anywhere(layout, store):
    layout.parallel_rows = 4
    data = TaskLoader(store, np.arange(40), layout, {}, BERT_LIKE, L, seed=1)
    plan, order = data.plan(0)
    assert (order == np.arange(len(plan))).all()
    assert len(plan) % 4 == 0
    cursor, read = Cursor(), []
    while cursor.epoch == 0:
        taken = data.advance(cursor, 4)
        assert len(taken) == 1, "a batch never spans two epochs"
        ((rows, _),) = data.parts(taken, 0, 4)
        read.append(rows)
    ((again, _),) = data.parts(data.advance(Cursor(0, 8), 4), 1, 3)
    assert (again.input_ids == read[2].input_ids[1:3]).all()
    parts = take_rows(plan, np.array([5, 0]))
    assert parts.documents.tolist() == plan.documents[[5, 0]].tolist()


def test_what_does_not_fit_is_refused(store):
    with pytest.raises(ZooError, match="no room"):
        make(SegmentPairs(reuse_len=38), store)
    with pytest.raises(ZooError, match="cls"):
        make(SegmentPairs(), store, vocabulary=GPT_LIKE)
    with pytest.raises(ZooError, match="share"):
        SegmentPairs(random_share=2)
    with pytest.raises(ZooError, match="reuse_len"):
        SegmentPairs(reuse_len=0)

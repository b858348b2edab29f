"""Dialogues as rows: who speaks, which rows are fake, and what is refused (specs/ernie-baidu-1.md, check 10)."""

import itertools

import numpy as np
import pytest
from stores import BERT_LIKE, GPT_LIKE, write_store

from pretraining.keyed_random import Draw
from pretraining.layouts.dialogue import Dialogue, fit_sizes
from zoo.errors import ZooError


def some_threads(path, seed=0, count=60, utterances=(1, 9), tokens=(1, 14), roles=2):
    """Threads whose utterances are all different: utterance u is made of the tokens u and 0 to 13 beside it."""
    rng = np.random.default_rng(seed)
    sizes = [rng.integers(utterances[0], utterances[1] + 1) for _ in range(count)]
    number, documents, role = 20, [], []
    for size in sizes:
        thread = []
        for _ in range(size):
            length = int(rng.integers(tokens[0], tokens[1] + 1))
            thread.append([number] * length)
            role += [int(rng.integers(roles)) + 1] * length
            number += 1
        documents.append(thread)
    arrays = {"role": np.array(role, dtype=np.uint8)}
    return write_store(path, documents, vocab_size=5000, arrays=arrays), documents


@pytest.fixture(scope="module")
def threads(tmp_path_factory):
    return some_threads(tmp_path_factory.mktemp("threads"), count=120)


def make(store, layout=None, length=64, epoch=0):
    layout = layout or Dialogue()
    plan = layout.plan(store, np.arange(store.num_documents), length, BERT_LIKE, Draw(0, epoch))
    return plan, layout.rows(store, plan, np.arange(len(plan)), length, BERT_LIKE)


def utterances_of(rows, row):
    """(utterance, type) in order; utterances are known by their token."""
    found, ids = [], rows.input_ids[row, : rows.lengths[row]]
    assert ids[0] == BERT_LIKE.cls
    assert rows.token_type_ids[row, 0] == 0
    start = 1
    for place in np.flatnonzero(ids == BERT_LIKE.sep):
        own = ids[start:place]
        assert len(set(own.tolist())) == 1
        types = set(rows.token_type_ids[row, start : place + 1].tolist())
        assert len(types) == 1
        found.append((int(own[0]), types.pop()))
        start = place + 1
    assert start == len(ids)
    return found


def test_speakers_follow_utterances_and_fakes_change_one(threads):
    """Check 10."""
    store, documents = threads
    roles = {int(t): int(r) - 1 for t, r in zip(store.tokens, store.arrays["role"], strict=True)}
    where = {u[0]: number for number, thread in enumerate(documents) for u in thread}
    plan, rows = make(store)
    seen = []
    for row in range(len(plan)):
        said, thread = utterances_of(rows, row), documents[rows.document_ids[row]]
        own = [u[0] for u in thread]
        assert 2 <= len(said) <= 3
        strange = [n for n, (u, _) in enumerate(said) if u not in own]
        assert len(strange) == rows.row_labels[row]
        at = next(own.index(u) - n for n, (u, _) in enumerate(said) if u in own)
        expected = own[at : at + len(said)]
        for n, (u, role) in enumerate(said):
            assert role == roles[expected[n]]  # a replaced one takes over the speaker of its place
            assert (u == expected[n]) == (n not in strange)
            assert n not in strange or where[u] != rows.document_ids[row]
        seen += expected
    wanted = [u[0] for thread in documents if len(thread) > 1 for u in thread]
    assert sorted(seen) == sorted(wanted)  # every utterance in exactly one row


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_share_of_fakes(tmp_path, share):
    store, _ = some_threads(tmp_path, count=300, utterances=(2, 9), tokens=(1, 2))
    labels, places = [], []
    for epoch in range(4):
        _, rows = make(store, Dialogue(fake_share=share), epoch=epoch)
        labels += rows.row_labels.tolist()
        own = {n: set(range(a, b)) for n, (a, b) in enumerate(zip(*_edges(store), strict=True))}
        for row in np.flatnonzero(rows.row_labels):
            said = [u for u, _ in utterances_of(rows, row)]
            places += [n / (len(said) - 1) for n, u in enumerate(said) if u not in own[int(rows.document_ids[row])]]
    assert len(labels) > 2000
    assert abs(np.mean(labels) - share) < 0.025
    if share == 1.0:
        assert set(places) == {0.0, 0.5, 1.0}  # the query as well as responses
        assert abs(np.mean(places) - 0.5) < 0.03


def _edges(store):
    """First utterance number of each thread, and that after its last."""
    first = 20 + np.asarray(store.documents)
    return first[:-1], first[1:]


def test_epochs_processes_and_portions(threads):
    store, _ = threads
    plan, rows = make(store)
    again, _ = make(store)
    other, _ = make(store, epoch=1)
    assert (plan.piece_starts == again.piece_starts).all()
    assert (plan.row_labels == again.row_labels).all()
    assert (plan.row_labels != other.row_labels).any()
    part = Dialogue().rows(store, plan, np.array([7, 3]), 64, BERT_LIKE)
    assert (part.input_ids[0, : part.lengths[0]] == rows.input_ids[7, : rows.lengths[7]]).all()
    half = Dialogue().plan(store, np.arange(0, 120, 2), 64, BERT_LIKE, Draw(0, 0))
    assert set(half.documents.tolist()) <= set(range(0, 120, 2))
    inside = np.isin(store.tokens[half.piece_starts], [t for n in range(0, 120, 2) for t in _tokens(store, n)])
    assert inside.all()  # replaced ones come from the documents that are read, not from held-out ones
    layout = Dialogue()
    layout.portion = 50
    small, _ = make(store, layout)
    assert (small.piece_starts == plan.piece_starts).all()
    assert (small.offsets == plan.offsets).all()


def _tokens(store, document):
    offsets = store.document_tokens()
    return np.unique(store.tokens[offsets[document] : offsets[document + 1]]).tolist()


@pytest.mark.parametrize("length", [7, 12, 24])
def test_long_utterances_lose_their_ends(threads, length):
    store, _ = threads
    plan, rows = make(store, Dialogue(fake_share=0), length)
    assert rows.lengths.max() <= length
    assert (plan.lengths > 0).all()
    rng = np.random.default_rng(0)
    used = rng.integers(2, 4, 200)
    sizes = rng.integers(1, 20, used.sum())
    cut = fit_sizes(sizes, used, np.full(200, length))
    for own, want in zip(np.split(cut, np.cumsum(used)[:-1]), np.split(sizes, np.cumsum(used)[:-1]), strict=True):
        assert own.sum() == min(length, want.sum())
        assert (own <= want).all()
        shortened = own[own < want]
        assert not len(shortened) or shortened.max() - own.max() >= -1  # only the longest give


@pytest.mark.parametrize("most", [2, 3, 4])
def test_rows_have_two_utterances_and_no_more_than_asked(threads, most):
    plan, _ = make(threads[0], Dialogue(max_utterances=most))
    counts = np.diff(plan.offsets)
    assert counts.min() >= 2
    assert counts.max() == most


def test_no_utterance_of_an_odd_thread_is_left_out_for_good(threads):
    """Rows of two: an odd thread leaves out its first or its last utterance, by turns from epoch to epoch."""
    store, documents = threads
    odd = [n for n, thread in enumerate(documents) if len(thread) % 2 and len(thread) > 1]
    turns = []
    for epoch in range(4):
        plan, _ = make(store, Dialogue(max_utterances=2, fake_share=0), epoch=epoch)
        assert (np.diff(plan.offsets) == 2).all()
        said = store.tokens[plan.piece_starts].reshape(-1, 2).tolist()
        turn = []
        for number, thread in enumerate(documents):
            own, first = [u[0] for u in thread], np.flatnonzero(plan.documents == number)
            seen = [u for row in first for u in said[row]]
            assert len(thread) % 2 or seen == own
            if number in odd:
                assert seen in (own[:-1], own[1:])
                turn.append(seen == own[1:])
        turns.append(turn)
    assert len(odd) > 30
    for one, two in itertools.pairwise(turns):
        assert all(a != b for a, b in zip(one, two, strict=True))
    assert 0.2 < np.mean(turns[0]) < 0.8  # not all threads at once
    again, _ = make(store, Dialogue(max_utterances=2, fake_share=0), epoch=1)
    one = np.array([odd[0]])  # a thread's turn does not depend on what else is read
    part = Dialogue(max_utterances=2, fake_share=0).plan(store, one, 64, BERT_LIKE, Draw(0, 1))
    assert part.piece_starts.tolist() == again.piece_starts[np.repeat(again.documents == odd[0], 2)].tolist()


def test_what_is_refused(threads, tmp_path):
    store, _ = threads
    documents = np.arange(store.num_documents)
    plain = write_store(tmp_path / "plain", [[[5, 6], [7]], [[8], [9]]])
    with pytest.raises(ZooError, match=r"no array 'role'.*annotations\.RecordField"):
        Dialogue().plan(plain, np.arange(2), 64, BERT_LIKE, Draw(0, 0))
    with pytest.raises(ZooError, match="an opening token"):
        Dialogue().plan(store, documents, 64, GPT_LIKE, Draw(0, 0))
    with pytest.raises(ZooError, match="7 is the least"):
        Dialogue().plan(store, documents, 6, BERT_LIKE, Draw(0, 0))
    alone, _ = some_threads(tmp_path / "alone", utterances=(1, 1), count=5)
    with pytest.raises(ZooError, match="has two utterances"):
        Dialogue().plan(alone, np.arange(5), 64, BERT_LIKE, Draw(0, 0))
    one, _ = some_threads(tmp_path / "one", utterances=(4, 4), count=1)
    with pytest.raises(ZooError, match="a single one here"):
        Dialogue().plan(one, np.arange(1), 64, BERT_LIKE, Draw(0, 0))
    assert len(Dialogue(fake_share=0).plan(one, np.arange(1), 64, BERT_LIKE, Draw(0, 0))) == 2
    crowd, _ = some_threads(tmp_path / "crowd", roles=5)
    with pytest.raises(ZooError, match="speakers"):
        Dialogue().plan(crowd, np.arange(60), 64, BERT_LIKE, Draw(0, 0))
    silent = write_store(
        tmp_path / "silent", [[[5, 6], [7]], [[8], [9]]], arrays={"role": np.array([1, 1, 2, 1, 0], dtype=np.uint8)}
    )
    with pytest.raises(ZooError, match=r"document 1 .* no\s+speaker"):
        Dialogue().plan(silent, np.arange(2), 64, BERT_LIKE, Draw(0, 0))
    for wrong in ({"max_utterances": 1}, {"fake_share": 1.5}):
        with pytest.raises(ZooError, match="Dialogue"):
            Dialogue(**wrong)

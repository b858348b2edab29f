"""ERNIE 2.0's seven tasks and its schedules (specs: ERNIE 2.0, section 8)."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from stores import BERT_LIKE, synthetic_documents, synthetic_store, write_store

from pretraining.annotations.field import RecordField
from pretraining.arrays import CAPITALISED, WORD_START
from pretraining.corpus.config import CorpusConfig
from pretraining.keyed_random import Draw
from pretraining.layouts.labelled_pairs import LabelledPairs
from pretraining.layouts.reordered_segments import (
    DocumentSegments,
    ReorderedSegments,
    reordering_class,
    reordering_classes,
)
from pretraining.layouts.sentence_distance import SentenceDistance
from pretraining.objectives import TokenClassification
from pretraining.objectives.token_classification import CapitalisationLabels
from pretraining.store.prepare import prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tools.pairs import (
    Markers,
    Pair,
    at_most,
    discourse_pairs,
    pairs_command,
    read_markers,
    relevance_pairs,
)
from zoo.errors import ZooError

DRAW = Draw(seed=7, epoch=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """9,000 documents of 3 to 20 sentences of 5 to 12 tokens."""
    return synthetic_store(tmp_path_factory.mktemp("multitask") / "store", count=9000, length=(5, 12))


def everything(store):
    return np.arange(store.num_documents, dtype=np.int64)


def laid_out(layout, store, length=64, draw=DRAW):
    """A layout's plan and all its rows."""
    plan = layout.plan(store, everything(store), length, BERT_LIKE, draw)
    return plan, layout.rows(store, plan, np.arange(len(plan)), length, BERT_LIKE)


def pieces(plan, row):
    """(start, length) of a row's pieces."""
    part = slice(plan.offsets[row], plan.offsets[row + 1])
    return list(zip(plan.piece_starts[part].tolist(), plan.lengths[part].tolist()))


# --- sentence reordering ---


@pytest.mark.parametrize(("most", "classes"), [(2, 3), (3, 9), (4, 33), (5, 153)])
def test_orders_are_numbered(most, classes):
    """Check 2: the number of classes, and back from every class to its order."""
    orders = reordering_classes(most)
    assert len(orders) == len(set(orders)) == classes == sum(math.factorial(n) for n in range(1, most + 1))
    assert [reordering_class(order) for order in orders] == list(range(classes))
    assert orders[0] == (0,)
    assert orders[1:3] == [(0, 1), (1, 0)]


@pytest.mark.parametrize("most", [2, 3, 4])
def test_every_number_of_segments_and_every_order_is_as_likely(store, most):
    """Check 3."""
    plan, _ = laid_out(ReorderedSegments(most), store)
    label, orders = plan.row_labels, reordering_classes(most)
    size = np.array([len(orders[c]) for c in label])
    assert len(plan) > 14_000
    for n in range(1, most + 1):
        assert np.mean(size == n) == pytest.approx(1 / most, abs=0.01)
        own = label[size == n]
        for order in itertools.permutations(range(n)):
            share, expected = np.mean(own == reordering_class(order)), 1 / math.factorial(n)
            assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(own)))
    identity = np.mean([orders[c] == tuple(sorted(orders[c])) for c in label])
    expected = sum(1 / math.factorial(n) for n in range(1, most + 1)) / most
    assert identity == pytest.approx(expected, abs=0.012)
    assert most != 3 or expected == pytest.approx(0.556, abs=5e-4)


def test_shares_of_the_number_of_segments(store):
    plan, _ = laid_out(ReorderedSegments(3, shares=[0, 1, 3]), store)
    size = np.array([len(reordering_classes(3)[c]) for c in plan.row_labels])
    assert [np.mean(size == n) for n in (1, 2, 3)] == pytest.approx([0, 0.25, 0.75], abs=0.01)


def in_order(plan, row, orders):
    """(start, length) of a row's segments as the text has them."""
    parts, order = pieces(plan, row), orders[plan.row_labels[row]]
    assert len(parts) == len(order)
    return [parts[order.index(n)] for n in range(len(order))]


def test_segments_in_their_order_are_the_document(store):
    """Read back: the segments, put in order, are a stretch of whole sentences; nothing stands between them."""
    plan, rows = laid_out(ReorderedSegments(4), store)
    edges, orders = store.sentences[:], reordering_classes(4)
    ends, whole = set(edges.tolist()), 0
    for row in range(0, len(plan), 13):
        parts, order = pieces(plan, row), orders[plan.row_labels[row]]
        text = in_order(plan, row, orders)
        assert all(a[0] + a[1] == b[0] for a, b in itertools.pairwise(text))
        assert {text[0][0], sum(text[-1])} <= ends
        if np.count_nonzero((edges > text[0][0]) & (edges < sum(text[-1]))) >= 3:  # four sentences
            assert {start for start, _ in text} <= ends
            whole += 1
        flat = np.concatenate([store.tokens[s : s + n] for s, n in parts])
        assert rows.input_ids[row, : rows.lengths[row]].tolist() == [BERT_LIKE.cls, *flat.tolist(), BERT_LIKE.sep]
        segments = np.concatenate([[0], *[[o + 1] * n for o, (_, n) in zip(order, parts)], [0]])
        assert (rows.arrays["segment"][row, : rows.lengths[row]] == segments).all()
    assert whole > 600
    assert rows.lengths.max() <= 64
    assert not rows.token_type_ids.any()


def test_stretches_of_few_sentences_are_cut_between_words(tmp_path):
    store = synthetic_store(tmp_path / "s", word_start_share=0.4, count=400, sentences=(1, 4), length=(20, 90))
    plan, _ = laid_out(ReorderedSegments(3, shares=[0, 0, 1]), store)
    cuts = [start for row in range(len(plan)) for start, _ in in_order(plan, row, reordering_classes(3))[1:]]
    assert (store.flags[cuts] & WORD_START).all()
    assert not set(cuts) <= set(store.sentences.tolist())
    assert len(plan) > 500


def test_every_place_is_cut_alike(tmp_path):
    """Two segments of four sentences: each of the three inner ends is the cut in a third of the rows."""
    store = write_store(tmp_path / "s", [[[5, 6], [7, 8], [9, 10], [11, 12]]] * 6000)
    plan, _ = laid_out(ReorderedSegments(2, shares=[0, 1]), store)
    first = np.array([min(pieces(plan, row))[1] for row in range(len(plan))])
    assert [np.mean(first == n) for n in (2, 4, 6)] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_orders_change_from_epoch_to_epoch_and_repeat(store):
    first, again, other = (
        laid_out(ReorderedSegments(3), store, draw=Draw(7, epoch))[0].row_labels for epoch in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).mean() > 0.5


# --- sentence distance ---


def test_distances(store):
    """Check 4: thirds, and the classes mean what they say."""
    plan, rows = laid_out(SentenceDistance(), store)
    label = plan.row_labels
    assert [np.mean(label == c) for c in range(3)] == pytest.approx([1 / 3] * 3, abs=0.01)
    starts, lengths = plan.piece_starts.reshape(-1, 2), plan.lengths.reshape(-1, 2)
    document = np.searchsorted(store.document_tokens(), starts, side="right") - 1
    sentence = np.searchsorted(store.sentences, starts, side="right") - 1
    assert (lengths.ravel() == np.diff(store.sentences)[sentence].ravel()).all()  # nothing was too long here
    apart = sentence[:, 1] - sentence[:, 0]
    assert (document[label == 2, 0] != document[label == 2, 1]).all()
    assert (document[label < 2, 0] == document[label < 2, 1]).all()
    assert (apart[label == 0] == 1).all()
    assert (np.abs(apart[label == 1]) > 1).all()
    assert (apart[label == 1] < 0).any()
    assert (rows.row_labels == label).all()
    assert set(np.unique(rows.token_type_ids)) == {0, 1}


def test_all_sentences_that_are_not_adjacent_are_drawn_alike(tmp_path):
    store = write_store(tmp_path / "s", [[[5]] * 6] * 4000)
    plan, _ = laid_out(SentenceDistance(), store, length=8)
    first, second = (plan.piece_starts.reshape(-1, 2) % 6).T
    for here in range(5):
        far = second[(first == here) & (plan.row_labels == 1)]
        expected = [n for n in range(6) if abs(n - here) > 1]
        assert sorted(set(far.tolist())) == expected
        shares = [np.mean(far == n) for n in expected]
        assert shares == pytest.approx([1 / len(expected)] * len(expected), abs=0.05)


def test_long_sentences_are_cut_to_the_row(tmp_path):
    store = write_store(tmp_path / "s", synthetic_documents(count=30, length=(20, 60)))
    plan, rows = laid_out(SentenceDistance(), store, length=32)
    assert rows.lengths.max() == 32
    assert plan.lengths.min() >= 14


# --- labelled pairs ---


def labelled(path, records, label):
    """A store of (text or pair) records with a class each."""
    lengths = [sum(map(len, record)) for record in records]
    array = np.repeat(np.asarray(label, dtype=np.uint8) + 1, lengths)
    return write_store(path, records, arrays={"label": array})


def test_labelled_pairs(tmp_path):
    records = [[[10, 11], [12]], [[13, 14, 15]], [[*range(20, 60)], [*range(60, 70)]], [[16] * 3, [17] * 40]]
    store = labelled(tmp_path / "s", records, [0, 173, 2, 1])
    _, rows = laid_out(LabelledPairs(), store, length=30)
    assert rows.row_labels.tolist() == [0, 173, 2, 1]
    cls, sep = BERT_LIKE.cls, BERT_LIKE.sep
    assert rows.input_ids[0, : rows.lengths[0]].tolist() == [cls, 10, 11, sep, 12, sep]
    assert rows.input_ids[1, : rows.lengths[1]].tolist() == [cls, 13, 14, 15, sep]
    assert rows.input_ids[2].tolist() == [cls, *range(20, 37), sep, *range(60, 70), sep]
    assert rows.input_ids[3].tolist() == [cls, *[16] * 3, sep, *[17] * 24, sep]
    assert rows.token_type_ids[0, :6].tolist() == [0, 0, 0, 0, 1, 1]
    half = laid_out(LabelledPairs(), labelled(tmp_path / "t", [[[9] * 50, [8] * 50]], [0]), length=20)[0]
    assert half.lengths.tolist() == [9, 8]


def prepared(folder, records, sentences="line", values=10):
    """A store out of JSON lines with the annotation ``label``."""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    own = {"label": RecordField(values=values)}
    corpus = CorpusConfig(str(folder / "pairs.jsonl"), sentences=sentences, annotations=own)
    return prepare_store(
        corpus, TokenizerConfig("wordpiece", vocab_size=60, min_frequency=1), folder / "stores", processes=1, quiet=True
    )


def refused(store, layout=None):
    """What a layout says of a store."""
    with pytest.raises(ZooError) as error:
        (layout or LabelledPairs()).plan(store, everything(store), 16, BERT_LIKE, DRAW)
    return str(error.value)


PAIR = {"text": ["one two", "three four"], "label": 0}


@pytest.mark.parametrize(
    ("sentences", "text", "advice"),
    [
        ("line", ["one", "two", "three"], "needed. A pair is a list of two strings"),
        ("line", "one\ntwo\nthree", "needed. A pair is a list of two strings"),
        ("rule", ["one", "two", "three"], "needed. A pair is a list of two strings"),
        ("rule", "One is. Two is. Three is.", "Say `sentences: line` for this corpus (it has `sentences: rule`). A"),
    ],
)
def test_a_record_of_three_sentences_is_named_by_file_and_line(tmp_path, sentences, text, advice):
    said = refused(prepared(tmp_path, [PAIR, PAIR, {"text": text, "label": 1}, PAIR], sentences))
    assert f"(array 'label'): {tmp_path / 'pairs.jsonl'}:3 has 3 sentences (1 of 4 records" in said
    assert advice in said


def test_where_a_record_was_is_not_guessed(tmp_path):
    """The file has changed since: what the store knows is said, and no line."""
    store = prepared(tmp_path, [PAIR, {"text": ["one", "two", "three"], "label": 1}])
    for other in (json.dumps(PAIR) + "\n" + json.dumps(PAIR), json.dumps(PAIR), None):
        if other is None:
            (tmp_path / "pairs.jsonl").unlink()
        else:
            (tmp_path / "pairs.jsonl").write_text(other)
        assert f"record 2 of {tmp_path / 'pairs.jsonl'} has 3 sentences" in refused(store)


def test_a_pair_of_two_classes_is_refused(tmp_path):
    store = prepared(tmp_path, [PAIR, {**PAIR, "label": [3, 3]}, {**PAIR, "label": [1, 2]}])
    said = refused(store)
    assert f"{tmp_path / 'pairs.jsonl'}:3 gives its two texts the classes 1 and 2 in 'label' (1 of 3 pairs" in said


def test_odd_records_are_counted_once(tmp_path, capsys):
    """Texts among pairs, and classes that never occur."""
    records = [PAIR, {"text": "one two", "label": 1}, {**PAIR, "label": 2}]
    store, layout = prepared(tmp_path, records), LabelledPairs()
    laid_out(layout, store)
    laid_out(layout, store)
    place = f"LabelledPairs: {tmp_path / 'pairs.jsonl'}: "
    assert capsys.readouterr().err.splitlines() == [
        f"{place}1 of 3 records are one text, all others pairs",
        f"{place}3 records have 3 of the 10 classes; the others never occur",
    ]
    store.path = Path("the text")  # as zoo show has it, in memory
    laid_out(LabelledPairs(), store)
    laid_out(LabelledPairs(), prepared(tmp_path, [PAIR, {**PAIR, "label": 1}], values=["0", "1", "2", "3"]))
    assert not capsys.readouterr().err


def test_classes_are_balanced(tmp_path):
    """Check 4: thirds; a frequent class brings other records in every epoch, a rare one its own several times."""
    label = np.repeat([0, 1, 2], [2514, 12592, 4894])  # QBQTC's
    store = labelled(tmp_path / "s", [[[5, 6], [7]]] * len(label), label)
    plan, _ = laid_out(LabelledPairs(balanced=True), store, length=16)
    shares = np.bincount(plan.row_labels) / len(plan)
    assert shares == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert len(plan) == 3 * (len(label) // 3)
    assert (label[plan.documents] == plan.row_labels).all()
    times = np.bincount(plan.documents, minlength=len(label))
    assert {c: set(times[label == c].tolist()) for c in range(3)} == {0: {2, 3}, 1: {0, 1}, 2: {1, 2}}
    other, _ = laid_out(LabelledPairs(balanced=True), store, length=16, draw=Draw(7, 1))
    assert set(other.documents.tolist()) != set(plan.documents.tolist())
    alone = write_store(tmp_path / "t", [[[5]], [[6]], [[7]]], arrays={"label": np.array([1, 0, 2], dtype=np.uint8)})
    plan, rows = laid_out(LabelledPairs(), alone, length=16)
    assert plan.documents.tolist() == [0, 2]
    assert rows.row_labels.tolist() == [0, 1]


# --- token-document relation ---


@pytest.mark.parametrize("length", [40, 64])
def test_a_token_occurs_elsewhere_in_its_document(tmp_path, length):
    """Check 6, against sets of tokens."""
    store = write_store(tmp_path / "s", synthetic_documents(count=40, vocab_size=200))
    plan, rows = laid_out(DocumentSegments(), store, length)
    by_document = {}
    for row in range(len(plan)):
        tokens = rows.input_ids[row][~rows.special_tokens_mask[row]].tolist()
        by_document.setdefault(int(plan.documents[row]), {})[row] = tokens
    found = []
    for document, parts in by_document.items():
        start, stop = store.document_tokens()[document : document + 2]
        assert list(itertools.chain(*parts.values())) == store.tokens[start:stop].tolist()
        for row, tokens in parts.items():
            others = set(itertools.chain.from_iterable(t for r, t in parts.items() if r != row))
            expected = [1 + (token in others) for token in tokens]
            assert rows.arrays["elsewhere"][row][~rows.special_tokens_mask[row]].tolist() == expected
            assert not rows.arrays["elsewhere"][row][rows.special_tokens_mask[row]].any()
            found += expected
    assert set(found) == {1, 2}
    assert all(len(parts) > 1 for parts in by_document.values())


def test_frequent_tokens_are_not_asked_about(tmp_path):
    store = write_store(tmp_path / "s", synthetic_documents(count=40, vocab_size=200))
    _, all_rows = laid_out(DocumentSegments(), store, 40)
    _, rows = laid_out(DocumentSegments(skip_most_frequent=20), store, 40)
    asked = rows.arrays["elsewhere"] > 0
    skipped = set(np.unique(rows.input_ids[~asked & ~rows.special_tokens_mask]).tolist())
    assert len(skipped) == 20
    assert skipped.isdisjoint(rows.input_ids[asked].tolist())
    least = min(store.counts[i] for i in skipped)
    assert least >= max(store.counts[i] for i in range(5, 200) if i not in skipped)
    assert (rows.arrays["elsewhere"][asked] == all_rows.arrays["elsewhere"][asked]).all()


# --- what cannot be laid out ---


def test_what_cannot_be_laid_out_is_refused(tmp_path):
    short = write_store(tmp_path / "short", [[[5, 6]], [[7, 8]], [[9, 10]]])
    for layout, message in (
        (ReorderedSegments(3), "has 3 words"),
        (SentenceDistance(), "one with three sentences"),
        (DocumentSegments(), "longer than a row of 16"),
        (LabelledPairs(), "no array 'label'.*annotations.RecordField"),
    ):
        with pytest.raises(ZooError, match=message):
            layout.plan(short, everything(short), 16, BERT_LIKE, DRAW)
    three = labelled(tmp_path / "three", [[[5], [6]], [[7], [8], [9]]], [0, 0])
    with pytest.raises(ZooError, match=r"record 2 of .* has 3 sentences \(1 of 2 .*sentences: line"):
        LabelledPairs().plan(three, everything(three), 16, BERT_LIKE, DRAW)
    without = write_store(tmp_path / "without", [[[5]], [[6]]], arrays={"label": np.zeros(2, dtype=np.uint8)})
    with pytest.raises(ZooError, match=r"none of the 2 records of .* has a class"):
        LabelledPairs().plan(without, everything(without), 16, BERT_LIKE, DRAW)
    for make, message in (
        (lambda: ReorderedSegments(1), "max_segments is 1"),
        (lambda: ReorderedSegments(3, [1.0]), "one number for each of 1 to 3"),
        (lambda: DocumentSegments(-1), "skip_most_frequent is -1"),
    ):
        with pytest.raises(ZooError, match=message):
            make()


def test_text_without_capitals_has_nothing_to_learn(store, tmp_path):
    objective = TokenClassification(CapitalisationLabels())
    with pytest.raises(ZooError, match=r"none of the first [0-9,]+ tokens .* was written with a capital"):
        objective.check_store(store)
    few = write_store(tmp_path / "few", [[[5] * 100]])
    objective.check_store(few)  # too little to tell
    capitals = np.where(np.arange(2000) == 1999, CAPITALISED, 0)
    objective.check_store(write_store(tmp_path / "capitals", [[[5] * 2000]], flags=capitals))


# --- pairs out of text ---


def test_english_markers():
    markers = read_markers("zoo:sample/markers/en.txt")
    assert len(markers.names) == len(set(markers.names)) == 174
    number = markers.names.index
    for sentence, name, rest in (
        ("However the town grew.", "however", "The town grew."),
        ("However, the town grew.", "however", "The town grew."),
        ("As a result, it grew.", "as_a_result,", "It grew."),
        ("As a result it grew.", "[no-conn]", "As a result it grew."),  # the list has it with a comma
        ("In other words it grew.", "in_other_words", "It grew."),
        ("Anderson grew.", "[no-conn]", "Anderson grew."),  # no word ends after "And"
        ("BUT it grew.", "but", "It grew."),
    ):
        assert markers.split(sentence) == (number(name), rest)


def test_chinese_markers():
    markers = read_markers("zoo:sample/markers/zh.txt")
    number = markers.names.index
    assert markers.split("此外，小镇扩大了。") == (number("此外"), "小镇扩大了。")
    assert markers.split("由此可见小镇扩大了。") == (number("由此可见"), "小镇扩大了。")  # the longest
    assert markers.split("小镇扩大了。") == (number("[no-conn]"), "小镇扩大了。")


def test_a_list_of_markers_is_read_by_lines(tmp_path):
    """A byte order mark is no part of the first marker, and markers that differ in case alone are one class."""
    path = tmp_path / "markers.txt"
    path.write_bytes(b"\xef\xbb\xbfbut\r\n\r\nhowever\r\n")
    markers = read_markers(str(path))
    assert markers.names == ["but", "however"]
    assert markers.split("But no.") == (0, "No.")
    for text, message in (
        ("but\n\nBut\nBUT\n", r"markers\.txt:3: the marker 'But' is that of line 1, 'but'.*any case"),
        ("as_such\nso\nas such\n", r"markers\.txt:3: the marker 'as such' is that of line 1, 'as_such'"),
        ("[no-conn]\n", r"markers\.txt: the list of markers is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ZooError, match=f"^--markers: .*{message}"):
            read_markers(str(path))
    with pytest.raises(ZooError, match=r"^--markers: .*nowhere\.txt"):
        read_markers(str(tmp_path / "nowhere.txt"))
    path.write_bytes("但是\n".encode("gb18030"))
    with pytest.raises(ZooError, match=r"markers\.txt, line 1: invalid UTF-8"):
        read_markers(str(path))


def test_discourse_pairs_are_adjacent_sentences_of_a_paragraph():
    text = ["The town lies by the river. However, it is rather dry. It has a mill. But no.", "And here it ends again."]
    found = list(discourse_pairs(text, Markers(["however", "but", "and"])))
    assert [(p.first, p.second, p.label) for p in found] == [
        ("The town lies by the river.", "It is rather dry.", 0)  # "No." is too short, "And" begins a paragraph
    ]
    with_none = list(discourse_pairs(text, Markers(["[no-conn]", "however"])))
    assert [p.label for p in with_none] == [1, 0]
    assert with_none[1].second == "It has a mill."
    pairs = [Pair(f"a {i}", "b", i % 2) for i in range(100)]
    few = at_most(pairs, 7)
    assert sorted(p.label for p in few) == [0] * 7 + [1] * 7
    assert set(at_most(pairs[::-1], 7)) == set(few)
    assert few == [p for p in pairs if p in few]
    assert at_most(pairs, 50) == pairs


LABELS = [(1.7, "1.7"), (True, "true"), (None, "null"), ("1.7", '"1.7"'), ([1], r"\[1\]"), (-1, "-1")]


def test_relevance_pairs(tmp_path):
    """Class 0 is the strongest, the other way round than in QBQTC."""
    path = tmp_path / "dev.json"
    records = [{"id": i, "query": f" q{i}", "title": "t" * (i != 3), "label": str(i % 3)} for i in range(4)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [(p.first, p.label) for p in relevance_pairs([str(path)])] == [("q0", 2), ("q1", 1), ("q2", 0)]
    for line, message in (
        ('{"query": "a"}', "line 1: no field .title.; there are .query"),
        (json.dumps({**records[0], "label": 5}), "label 5"),
        *(
            (json.dumps({**records[0], "label": label}), f"line 1: label {said}; 0, 1 or 2 is")
            for label, said in LABELS
        ),
    ):
        path.write_text(line + "\n")
        with pytest.raises(ZooError, match=message):
            list(relevance_pairs([str(path)]))


def test_relevance_files_are_read_as_json_lines(tmp_path):
    """U+2028 and U+0085 end no line; a byte order mark, blank lines, line ends of Windows and globs do no harm."""
    lines = [json.dumps({"query": "q", "title": f"a{mark}b", "label": 1}, ensure_ascii=False) for mark in "\u2028\x85 "]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + "\r\n \r\n".join(lines).encode())
    (tmp_path / "b.json").write_text(lines[2])
    found = [pair.second for pair in relevance_pairs([str(tmp_path / "*.json")])]
    assert found == ["a\u2028b", "a\x85b", "a b", "a b"]
    with pytest.raises(ZooError, match=r"--files nothing matches '.*\*\.jsn'"):
        list(relevance_pairs([str(tmp_path / "*.jsn")]))
    with pytest.raises(ZooError, match=r"absent\.json does not exist"):
        list(relevance_pairs([str(tmp_path / "absent.json")]))


def test_relevance_keeps_every_pair_unless_told_and_says_what_it_leaves_out(tmp_path, capsys):
    path, output = tmp_path / "train.json", tmp_path / "r.jsonl"
    records = [{"query": f"q{i}", "title": "t" * (i < 10_008), "label": str(i % 12 // 10)} for i in range(10_010)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    base = ["relevance", "--files", str(path), "--output", str(output)]

    def made(*more: str) -> tuple[list[int], str]:
        assert pairs_command([*base, *more]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
        labels = [json.loads(line)["label"] for line in output.read_text().splitlines()]
        return [labels.count(2), labels.count(1)], "".join(said)

    assert made() == ([8340, 1668], "left out: 2 pairs without a query or a title")
    path.write_text("".join(json.dumps({**record, "title": "t", "label": 0}) + "\n" for record in records))
    assert made() == ([10_010, 0], "")
    assert made("--maximum", "10_000") == ([10_000, 0], "left out: 10 pairs of 1 class beyond --maximum 10,000")
    with pytest.raises(ZooError, match=r"maximum = 0; .*at least 1"):
        made("--maximum", "0")
    path.write_text(json.dumps({**records[0], "query": ""}) + "\n")
    with pytest.raises(ZooError, match=r"no pair was found .*left out: 1 pairs without a query"):
        made()


def test_discourse_keeps_ten_thousand_of_a_marker_and_says_so(tmp_path, capsys):
    lines = [f"The town number {i} lies by the river. However, it is dry. But no." for i in range(10_003)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "markers.txt").write_text("however,\nbut\n")
    argv = ["--files", str(tmp_path / "text.txt"), "--markers", str(tmp_path / "markers.txt")]
    assert pairs_command(["discourse", *argv, "--output", str(tmp_path / "d.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "10,000 pairs of 1 of 2 classes" in out
    assert (
        out.splitlines()[-1].split(", ", 1)[0] == "left out: 10,003 pairs with a sentence that is not of 3 to 32 words"
    )
    assert out.endswith(", 3 pairs of 1 class beyond --maximum 10,000\n")


def test_pairs_command(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The town lies by the river. However, it is rather dry. It has a mill.\n")
    pairs_command(["discourse", "--files", str(text), "--output", str(tmp_path / "d.jsonl")])
    assert "2 pairs of 2 of 174 classes (num_labels: 174)" in capsys.readouterr().out
    first, second = map(json.loads, (tmp_path / "d.jsonl").read_text().splitlines())
    assert first == {"text": ["The town lies by the river.", "It is rather dry."], "label": 60}
    assert second["label"] == 0
    for argv, message in (
        (["discurse", "--files", str(text), "--output", "x.jsonl"], "Did you mean 'discourse'"),
        (["discourse", "--files", str(text), "--output", "x.json"], "ends in .jsonl"),
        (["discourse", "--files", str(text), "--output", str(tmp_path / "x.jsonl"), "--shortest", "30"], "no pair"),
        (
            ["discourse", "--files", str(text), "--output", "x.jsonl", "--shortest", "50"],
            "^--shortest 50 and --longest 32 words .* no more than longest",
        ),
        (["discourse", "--files", "zoo:sample/zh", "--output", str(tmp_path / "x.jsonl")], "language of the text"),
        (["discourse", "--files", str(text), "--output", "x.jsonl", "--markers", "absent"], "absent does not exist"),
    ):
        with pytest.raises(ZooError, match=message):
            pairs_command(argv)
    assert not (tmp_path / "x.jsonl").exists()

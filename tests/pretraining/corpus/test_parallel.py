"""Translations: aligned files and tables, what is refused, and a split that no sentence crosses."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from pair_toys import pair_store, sentences, write_aligned

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.parallel import PairFiles, count_pairs, pair_files, read_pairs
from pretraining.store.prepare import prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.loader import split_documents
from zoo.errors import ZooError

PAIRS = [("a cat", "eine katze"), ("a dog", "ein hund"), ("a bird", "ein vogel")]


def corpus(files, **more) -> CorpusConfig:
    return CorpusConfig(files, languages=["en", "de"], parallel=True, **more)


def texts(store) -> list[list[str]]:
    tokenizer, edges, first = load_tokenizer(store.path), np.asarray(store.sentences), np.asarray(store.documents)
    return [
        [tokenizer.decode(store.tokens[edges[s] : edges[s + 1]].tolist()) for s in range(first[d], first[d + 1])]
        for d in range(store.num_documents)
    ]


def test_a_pair_is_a_document_of_two_sentences_and_the_tokenizer_is_trained_on_both_sides(tmp_path):
    store = pair_store(tmp_path)
    assert store.languages == ["en", "de"]
    assert texts(store)[0] == ["the red dog runs", "der rot hund rennt jetzt"]
    assert np.diff(store.documents).tolist() == [2] * len(sentences())
    entries = load_tokenizer(store.path).backend.get_vocab()
    assert {"horse", "pferd"} <= set(entries) or {"the", "der"} <= set(entries)


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_gives_the_same_store_as_two_files(tmp_path, packed):
    files = write_aligned(tmp_path, sentences())
    table = tmp_path / ("text.tsv.gz" if packed else "text.tsv")
    content = "".join(f"{one}\t{other}\tsomebody\n" for one, other in sentences()).encode()
    table.write_bytes(gzip.compress(content) if packed else content)
    stores = [
        prepare_store(corpus(f), TokenizerConfig(vocab_size=120), tmp_path / "stores", processes=1, quiet=True)
        for f in (files, str(table))
    ]
    assert texts(stores[0]) == texts(stores[1])
    assert stores[0].fingerprint != stores[1].fingerprint


def test_what_the_second_file_says_is_part_of_the_fingerprint(tmp_path):
    one = pair_store(tmp_path)
    other = pair_store(tmp_path, [*sentences()[:-1], (sentences()[-1][0], "etwas anderes")])
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(("place", "names"), [(0, ("text.en", "text.de")), (1, ("text.de", "text.en"))])
def test_files_of_different_length_are_refused_with_the_line(tmp_path, place, names):
    files = write_aligned(tmp_path, PAIRS)
    with Path(files[place]).open("a", encoding="utf-8") as longer:
        longer.write("one more\nand another\n")
    with pytest.raises(ZooError, match=f"{names[0]}:4: has no translation: .*{names[1]} ends after line 3, .* 5 lines"):
        prepare_store(corpus(files), TokenizerConfig(vocab_size=60), tmp_path / "stores", processes=1, quiet=True)


def test_an_empty_side_is_left_out_and_said(tmp_path, capsys):
    pairs = [*PAIRS, ("nothing", ""), (" \u200b ", "nichts"), ("", ""), *sentences()]
    files = write_aligned(tmp_path, pairs)
    store = prepare_store(corpus(files), TokenizerConfig(vocab_size=120), tmp_path / "stores", processes=1)
    assert store.num_documents == len(PAIRS) + len(sentences())
    assert "183 pairs; 2 with an empty side are left out, the first in line 4" in capsys.readouterr().err


def test_a_language_without_text_is_refused(tmp_path):
    files = write_aligned(tmp_path, [(one, " ") for one, _ in PAIRS])
    with pytest.raises(ZooError, match=r"text\.de has no text in the language 'de'"):
        count_pairs(pair_files([tmp_path / "text.en", tmp_path / "text.de"])[0], ["en", "de"])
    (tmp_path / "one.tsv").write_text("\thund\n\tkatze\n")
    with pytest.raises(ZooError, match=r"one\.tsv \(column 1\) has no text in the language 'en'"):
        count_pairs(PairFiles(tmp_path / "one.tsv"), ["en", "de"])
    (tmp_path / "crossed.tsv").write_text("\thund\nkatze\t\n")
    with pytest.raises(ZooError, match="no line has text on both sides"):
        count_pairs(PairFiles(tmp_path / "crossed.tsv"), ["en", "de"])
    assert files


def test_a_line_of_a_table_with_one_column_is_refused(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n\nonly this\n")
    with pytest.raises(ZooError, match=r"t\.tsv:3: one column \('only this'\)"):
        list(read_pairs(PairFiles(tmp_path / "t.tsv")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel": True}, "has two"),
        ({"parallel": True, "languages": ["en"]}, "has two"),
        ({"parallel": True, "languages": ["en", "en"]}, "has two"),
        ({"languages": ["en", "de"]}, r"corpus.files has 1 entries; .* set corpus.parallel: true"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ZooError, match=message):
        CorpusConfig("text.tsv", **settings)


def test_files_that_are_no_pair_are_refused(tmp_path):
    files = write_aligned(tmp_path, PAIRS)
    for wrong, message in (
        ([files[0]], "names 1 files"),
        ([*files, files[0]], "names 3 files"),
        ([str(tmp_path)], "is a folder"),
        ([files[0], str(tmp_path / "text.d")], "does not exist"),
    ):
        with pytest.raises(ZooError, match=message):
            prepare_store(corpus(wrong), TokenizerConfig(), tmp_path / "stores", processes=1, quiet=True)


def test_no_source_sentence_is_on_both_sides_of_the_split(tmp_path):
    pairs = [(one, f"{other} {more}") for one, other in sentences() for more in ("so", "bald", "nie")]
    store = pair_store(tmp_path, pairs)
    train, held_out = split_documents(store, 800)
    found = texts(store)
    sources = [{found[d][0] for d in part} for part in (train, held_out)]
    assert len(train) + len(held_out) == len(pairs)
    assert not sources[0] & sources[1]
    assert len(held_out) == 3 * len(sources[1])
    assert 700 < sum(np.diff(store.document_tokens())[held_out]) < 900


def test_texts_of_several_languages_keep_each_tokens(tmp_path):
    one, other = (Path(file).rename(tmp_path / f"{n}.txt") for n, file in enumerate(write_aligned(tmp_path, PAIRS)))
    again = tmp_path / "again.txt"
    again.write_bytes(one.read_bytes())  # the same text under another language is another text
    config = CorpusConfig([str(one), str(other), str(again)], languages=["en", "de", "fr"], sentences="line")
    store = prepare_store(config, TokenizerConfig(vocab_size=60), tmp_path / "stores", processes=1, quiet=True)
    assert store.languages == ["en", "de", "fr"]
    assert not store.parallel
    spans = [np.asarray(store.arrays["language"])[a:b] for a, b in zip(*(store.document_tokens()[k:] for k in (0, 1)))]
    assert [set(span.tolist()) for span in spans] == [{1}, {2}, {3}]


def test_a_pair_keeps_the_language_of_each_side(tmp_path):
    store = pair_store(tmp_path)
    edges = np.asarray(store.sentences)
    assert np.asarray(store.arrays["language"])[edges[:-1]].tolist() == [1, 2] * len(sentences())

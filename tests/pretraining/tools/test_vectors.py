"""Word vectors: word2vec's file formats, neighbours, judged pairs, analogies, and the model folder made of a file."""

import gzip
import re
import struct

import numpy as np
import pytest
from places import SHARED

from pretraining.tools.vectors import vectors_command
from pretraining.tools.word_vectors import WordVectors, open_word_vectors, read_analogies, totals
from zoo.errors import ZooError
from zoo.storage.vector_files import read_vector_file, write_vector_file

WORDS = ["the", "king", "queen", "man", "woman", "北京", "new_york", "a\u00a0b"]
VECTORS = np.random.default_rng(0).standard_normal((len(WORDS), 7)).astype(np.float32)


@pytest.fixture(params=["text", "binary", "text.gz"])
def written(request, tmp_path):
    """A file of WORDS in each form."""
    path = tmp_path / "vectors"
    write_vector_file(path, WORDS, VECTORS, request.param == "binary")
    if request.param == "text.gz":
        packed = tmp_path / "vectors.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        return packed
    return path


def test_files_come_back_as_they_were_written(written):
    names, vectors = read_vector_file(written)
    assert names == WORDS
    assert (vectors == VECTORS).all()


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_what_is_written_and_the_other_way_round(tmp_path, binary):
    gensim = pytest.importorskip("gensim.models", reason="gensim is not installed")
    path, back = tmp_path / "ours", tmp_path / "theirs"
    write_vector_file(path, WORDS, VECTORS, binary)
    theirs = gensim.KeyedVectors.load_word2vec_format(str(path), binary=binary)
    assert theirs.index_to_key == WORDS
    assert (theirs.vectors == VECTORS).all()
    theirs.save_word2vec_format(str(back), binary=binary)  # its records have no line end in the binary form
    names, vectors = read_vector_file(back)
    assert names == WORDS
    assert np.allclose(vectors, VECTORS, atol=1e-6)


def test_a_name_with_a_space_is_not_written(tmp_path):
    for name in ("New York", "", "a\nb"):
        with pytest.raises(ZooError, match="Write _ in its place"):
            write_vector_file(tmp_path / "v", [name], VECTORS[:1], True)
    assert not list(tmp_path.iterdir())


def record(name: bytes, values=(1.0, -2.0)) -> bytes:
    return name + b" " + struct.pack("<2f", *values) + b"\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"2 2\n" + record(b"a") + record(b"b")[:5], "more than the file's 20 bytes: it is cut short"),
        (b"2 2\n" + record(b"aaaaa") + record(b"b")[:9], "byte 19: record 2 of 2 is cut short"),
        (b"2 2\n" + record(b"a") + record(b"\xff\xfeb"), "byte 15: the name of record 2 is no UTF-8"),
        (b"2 2\n" + record(b"a") + record(b"b", (1.0, np.nan)), r"byte 15: the vector of 'b' \(number 2\)"),
        (b"1 2\n" + record(b"a") + record(b"b"), "byte 14: 12 bytes are left behind the 1 vectors"),
        (b"x 2\n" + record(b"a"), "line 1: a number of vectors and a width"),
        (b"999999999 300\n" + record(b"a"), "more than the file's"),
        (b"2 2\na 1 2\nb 1\n", "line 3: a name and 2 values"),
        (b"2 2\na 1 2\nb 1 x\n", "line 3: a value is no number"),
        (b"2 2\na 1 2\n", "line 1 says 2 vectors of width 2, and 1 are there"),
        (b"", "line 1"),
    ],
)
def test_damaged_files_say_where(tmp_path, content, words):
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(ZooError, match=words):
        read_vector_file(tmp_path / "v")


def test_neighbours_and_an_unknown_word(written, capsys):
    assert vectors_command([str(written), "nearest", "King", "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    cosines = unit @ unit[1]
    expected = sorted((w for w in WORDS if w != "king"), key=lambda w: -cosines[WORDS.index(w)])[:3]
    assert [line.split(maxsplit=1)[1] for line in lines] == expected
    assert float(lines[0].split()[0]) == pytest.approx(cosines[WORDS.index(expected[0])], abs=1e-4)
    with pytest.raises(ZooError, match=r"no vector of 'quen' \(8 words\). Written most like it: queen"):
        vectors_command([str(written), "nearest", "quen"])


def test_commands_that_ask_for_nothing(written):
    with pytest.raises(ZooError, match="Did you mean 'nearest'"):
        vectors_command([str(written), "nearst", "king"])
    with pytest.raises(ZooError, match="what it is about are needed"):
        vectors_command([str(written), "nearest"])
    with pytest.raises(ZooError, match="has two vectors, number 1 and 2"):
        WordVectors(["a", "a"], VECTORS[:2], "x")


def test_judged_pairs(tmp_path, capsys):
    unit = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    vectors = WordVectors(["a", "b", "c", "d"], unit, "x")
    path = tmp_path / "pairs.txt"
    path.write_text("a\tB\t9\nA c 5\na\td\t1\na zzz 3\n\n")
    result = vectors.similarity(path)
    assert result == (4, 3, pytest.approx(1.0))
    for wrong in ("a b", "a b x", "a b 1 2", "a b nan"):
        path.write_text("a b 1\n" + wrong + "\n")
        with pytest.raises(ZooError, match=r"pairs.txt, line 2: two words and a number"):
            vectors.similarity(path)


def test_analogies_leave_the_words_of_the_question_out(tmp_path):
    """Without that a question is answered by one of its own words: b - a + c lies nearest to c here."""
    table = np.array([[1, 0, 0], [1, 0.1, 0], [0, 0, 1], [0, 0.3, 1], [0, -1, 0]], dtype=np.float32)
    vectors = WordVectors(["a", "b", "c", "d", "e"], table, "x")
    unit = vectors.unit
    assert ((unit[1] - unit[0] + unit[2]) @ unit.T).argmax() == 2
    path = tmp_path / "q.txt"
    path.write_text(": capitals\na b c d\na b c E\n: gram1\nc d a b\na b c zzz\n")
    sections = vectors.analogies(path)
    assert sections == [("capitals", 2, 2, 1), ("gram1", 2, 1, 1)]
    assert totals(sections) == [("semantic", 2, 2, 1), ("syntactic", 2, 1, 1), ("total", 4, 3, 2)]
    assert vectors.analogies(path, among=3)[0].asked == 0
    path.write_text(": capitals\na b c d\na b c\n")
    with pytest.raises(ZooError, match="line 3: four words"):
        vectors.analogies(path)


def test_the_lists_of_the_field_are_read():
    folder = SHARED / "wordsim"
    if not folder.is_dir():
        pytest.skip("the lists of judged pairs are not there (../shared/data/wordsim)")
    sections = read_analogies(folder / "questions-words.txt")
    assert len(sections) == 14
    assert sum(len(questions) for _, questions in sections) == 19_544
    assert [name.startswith("gram") for name, _ in sections] == [False] * 5 + [True] * 9
    vectors = WordVectors(["tiger", "cat", "李白", "诗"], VECTORS[:4], "x")
    lists = [*folder.glob("EN-*.txt"), *folder.glob("zh/wordsim-*.txt")]
    assert len(lists) == 12
    assert {path.stem: vectors.similarity(path).pairs for path in lists}["EN-WS-353-ALL"] == 353
    assert all(read_analogies(path) for path in folder.glob("zh/**/*.txt") if "wordsim" not in path.name)


def test_a_file_becomes_a_model_folder_and_a_file_again(written, tmp_path, capsys):
    folder, back = tmp_path / "model", tmp_path / "back.bin"
    assert vectors_command([str(written), "import", str(folder)]) == 0
    loaded = open_word_vectors(str(folder))
    assert loaded.words == WORDS
    assert (loaded.vectors == VECTORS).all()
    assert vectors_command([str(folder), "export", str(back), "--binary"]) == 0
    assert (read_vector_file(back).vectors == VECTORS).all()
    with pytest.raises(ZooError, match="exists already"):
        vectors_command([str(written), "import", str(folder)])


def test_a_run_has_vectors(shared, capsys):
    folder = shared.finished_run("word2vec")
    words = open_word_vectors(str(folder)).words
    assert "the" in words
    assert not any(re.fullmatch(r"\[[A-Z]+\]", word) for word in words)
    assert vectors_command([str(folder), "nearest", "the", "of", "--count", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7

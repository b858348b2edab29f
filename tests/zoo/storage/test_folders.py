"""One walk through folders: what is read, what is passed over."""

from __future__ import annotations

import pytest

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import iter_documents
from pretraining.corpus.sources import resolve_sources
from zoo.errors import ZooError
from zoo.storage.folders import existing, walk, walk_glob


@pytest.fixture
def texts(tmp_path):
    """A folder with a file, hidden copies, linked folders, links that lead back, and one file linked twice."""
    folder, disk = tmp_path / "texts", tmp_path / "disk"
    for place in (folder / "inner", folder / ".ipynb_checkpoints", folder / "__MACOSX", disk / "deep"):
        place.mkdir(parents=True)
    for path in (
        folder / "a.txt",
        folder / "inner" / "c.txt",
        folder / ".ipynb_checkpoints" / "a-checkpoint.txt",
        folder / "._a.txt",
        folder / "__MACOSX" / "._a.txt",
        disk / "b.txt",
        disk / "deep" / "d.txt",
    ):
        path.write_text(f"Text of {path.name}. It has two sentences.\n")
    (folder / "notes.md").write_text("# Notes")
    (folder / "a_again.txt").symlink_to("a.txt")
    (folder / "part2").symlink_to("../disk")
    (folder / "part3").symlink_to("../disk/deep")
    (disk / "back").symlink_to("../texts")
    return folder


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_links_are_followed_once_and_what_is_hidden_is_passed_over(texts):
    found = walk(texts)
    assert names(found.files, texts) == ["a.txt", "inner/c.txt", "notes.md", "part2/b.txt", "part3/d.txt"]
    assert found.passed == {"hidden": 3, "linked a second time": 3}


def test_globs_follow_links_and_pass_over_what_is_hidden(texts):
    everywhere = walk_glob(texts / "**" / "*.txt").files
    assert names(everywhere, texts) == ["a.txt", "inner/c.txt", "part2/b.txt", "part3/d.txt"]
    assert names(walk_glob(texts / "*" / "[bc].txt").files, texts) == ["inner/c.txt", "part2/b.txt"]
    assert names(walk_glob(texts / ".ipynb*" / "*.txt").files, texts) == [".ipynb_checkpoints/a-checkpoint.txt"]
    assert walk_glob(texts / "nowhere" / "*.txt").files == []
    assert names(existing(str(texts / "*.txt"), "files"), texts) == ["a.txt"]


def test_a_corpus_says_what_it_reads_and_passes_over(texts):
    notes = []
    sources = resolve_sources(CorpusConfig(files=str(texts)), notes)
    assert len(sources) == 4
    assert notes == [f"{texts}: 4 files; passed over: 3 hidden, 3 linked a second time, 1 of other kinds (.md)"]


def test_a_link_to_nothing_and_a_pointer_are_named(texts):
    (texts / "gone.txt").symlink_to("missing.txt")
    with pytest.raises(ZooError, match=r"gone\.txt is a link to missing\.txt, which does not exist"):
        resolve_sources(CorpusConfig(files=str(texts)))
    (texts / "gone.txt").unlink()
    (texts / "z.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 43\n")
    for files in (texts, texts / "z.txt", texts / "*.txt"):
        with pytest.raises(ZooError, match=r"z\.txt is not the file itself.*git lfs pull"):
            resolve_sources(CorpusConfig(files=str(files)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n", "\n\r"])
def test_documents_do_not_run_together_whatever_ends_their_lines(end, tmp_path):
    text = "One. Two.\nThree.\n\nFour.\n\n\nFive.\n"
    (tmp_path / "a.txt").write_bytes(text.replace("\n", end).encode())
    documents = list(iter_documents(CorpusConfig(files=str(tmp_path / "a.txt"))))
    assert [document.lines for document in documents] == [["One. Two.", "Three."], ["Four."], ["Five."]]
    rows = '{"text": "One."}\n{"text": "Two."}\n'
    (tmp_path / "a.jsonl").write_bytes(rows.replace("\n", end).encode())
    assert len(list(iter_documents(CorpusConfig(files=str(tmp_path / "a.jsonl"))))) == 2


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff", "\u3000", "\u00a0", " \u2060 ", "\u200d\u200c"])
def test_lines_that_show_nothing_part_documents(blank, tmp_path):
    (tmp_path / "a.txt").write_text(f"One.\n{blank}\nTwo.\u200b\n{blank}\n{blank}\n{blank}Three.\n", encoding="utf-8")
    documents = list(iter_documents(CorpusConfig(files=str(tmp_path / "a.txt"))))
    assert len(documents) == 3

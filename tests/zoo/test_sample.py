"""The embedded sample is what ATTRIBUTION.md says it is."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from places import SHARED

import zoo
from finetune.data.tasks import read_task_file

SAMPLE = Path(zoo.__file__).parent / "sample"
DATA_FILES = sorted(p for p in SAMPLE.rglob("*") if p.is_file() and p.suffix in {".txt", ".tsv", ".yaml"})


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def documents(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").strip("\n").split("\n\n")


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]


def test_checksums_cover_every_file() -> None:
    lines = (SAMPLE / "SHA256SUMS").read_text().splitlines()
    promised = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {p.relative_to(SAMPLE).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in DATA_FILES}
    assert found == promised


def test_size_is_a_few_megabytes() -> None:
    assert 2e6 < sum(p.stat().st_size for p in SAMPLE.rglob("*") if p.is_file()) < 6e6


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda p: p.relative_to(SAMPLE).as_posix())
def test_files_are_clean_utf8(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    assert "\r" not in text
    assert "\x00" not in text
    assert "\ufffd" not in text
    assert text.endswith("\n")


def test_attribution_names_every_source() -> None:
    text = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for path in DATA_FILES:
        stem = path.relative_to(SAMPLE).as_posix()
        folder = stem.rsplit("/", 1)[0]
        assert stem in text or f"{folder}/" in text, f"{stem} is not attributed"
    for needed in ("CC BY-SA 4.0", "MIT License", "Copyright (c) 2018 THUNLP", "public domain", "curid=PAGE_ID"):
        assert needed in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_article_has_its_page_id_and_title(language: str) -> None:
    rows = table(SAMPLE / "titles" / f"wikipedia_{language}.tsv")
    assert rows[0] == ["page_id", "title"]
    texts = documents(SAMPLE / language / "wikipedia.txt")
    assert len(rows) - 1 == len(texts)
    ids = [int(page) for page, _ in rows[1:]]
    assert ids == sorted(set(ids))
    assert all(title for _, title in rows[1:])
    named = sum(title.split(" (")[0].lower() in text.lower() for (_, title), text in zip(rows[1:], texts, strict=True))
    assert named > 0.7 * len(texts), "titles and articles are not in the same order"


@pytest.mark.parametrize(("name", "train", "dev"), [("fewrel", 320, 80), ("thuocl", 400, 100)])
def test_tasks_are_balanced_and_apart(name: str, train: int, dev: int) -> None:
    task = read_task_file(SAMPLE / "tasks" / "tasks.yaml")[name]
    sides = {}
    for side, count in (("train", train), ("dev", dev)):
        rows = table(SAMPLE / "tasks" / name / f"{side}.tsv")
        assert rows[0] == ["sentence", "label"]
        assert all(len(row) == 2 and row[0].strip() for row in rows)
        assert Counter(label for _, label in rows[1:]) == dict.fromkeys(task.labels, count)
        sides[side] = {sentence for sentence, _ in rows[1:]}
        labels = [label for _, label in rows[1:]]
        runs = sum(a == b for a, b in itertools.pairwise(labels)) / (len(labels) - 1)
        assert runs < 3 / len(task.labels), "the rows are sorted by label"
    assert not sides["train"] & sides["dev"]
    corpus = (SAMPLE / ("zh" if name == "thuocl" else "en") / "wikipedia.txt").read_text(encoding="utf-8")
    if name == "fewrel":
        assert not [sentence for sentence in sides["train"] | sides["dev"] if sentence in corpus]


def test_wikipedia_follows_the_stated_rule() -> None:
    """Applied to the source corpora, the rule in ATTRIBUTION.md gives these bytes."""
    if not SHARED.exists():
        pytest.skip("the source corpora (../shared/data) are not here")
    for language, limit in (("en", 1_200_000), ("zh", 1_000_000)):
        folder = SHARED / f"corpus_{language}"
        texts, rows = documents(folder / f"wiki_{language}.txt"), table(folder / f"wiki_{language}_titles.tsv")
        chosen, total = [], 0
        for index in sorted(range(len(rows)), key=lambda i: sha256(rows[i][0])):
            total += len(texts[index].encode())
            if total > limit:
                break
            chosen.append(index)
        chosen.sort(key=lambda i: int(rows[i][0]))
        assert [texts[i] for i in chosen] == documents(SAMPLE / language / "wikipedia.txt")
        assert [rows[i] for i in chosen] == table(SAMPLE / "titles" / f"wikipedia_{language}.tsv")[1:]


def test_names_follow_the_stated_rule() -> None:
    text = (SAMPLE / "en" / "wikipedia.txt").read_text(encoding="utf-8")
    found = Counter(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+(?: [A-Z][a-z]+){1,3}(?![\w'])", text))
    names = (SAMPLE / "lexicon" / "names-en.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert names == sorted(name for name, times in found.items() if times > 1)


def test_books_and_phrases_follow_the_stated_rule() -> None:
    if not SHARED.exists():
        pytest.skip("the source corpora (../shared/data) are not here")
    chapters, chosen = documents(SHARED / "corpus_en" / "gutenberg_en.txt"), []
    starts = [0, 55, 79, 129, 149, 161, len(chapters)]
    for first, last in itertools.pairwise(starts):
        total = 0
        for chapter in chapters[first:last]:
            total += len(chapter.encode())
            if total > 200_000:
                break
            chosen.append(chapter)
    assert chosen == documents(SAMPLE / "en" / "books.txt")
    lexicons: dict[str, set[str]] = {}
    for path in (SHARED / "ernie" / "thuocl").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").split("\n"):
            lexicons.setdefault(line.split("\t")[0].strip(), set()).add(path.stem.split("_")[1])
    fits = [w for w, k in lexicons.items() if k == {"medical"} and re.fullmatch(r"[\u4e00-\u9fff]{2,8}", w)]
    phrases = sorted(fits, key=sha256)[:400]
    rows = table(SAMPLE / "tasks" / "thuocl" / "train.tsv")[1:]
    assert sorted(phrases) == sorted(sentence for sentence, label in rows if label == "medicine")
    text = (SAMPLE / "zh" / "wikipedia.txt").read_text(encoding="utf-8")
    names = {
        w for w, k in lexicons.items() if k & {"diming", "lishimingren"} and re.fullmatch("[\u4e00-\u9fff]{3,8}", w)
    }
    entities = (SAMPLE / "lexicon" / "entities-zh.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert entities == sorted(name for name in names if name in text)

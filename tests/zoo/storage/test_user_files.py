"""One way to read the files that people hand over."""

from __future__ import annotations

import gzip
import io
import json
import os

import pytest

from zoo.errors import ZooError
from zoo.storage.files import read_json, write_json
from zoo.storage.user_files import LineEnds, is_blank, parse_json, read_lines, read_records, whole_text

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438007537\n"
LINE = json.dumps({"text": "the town"}).encode() + b"\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n", b"\n\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_end_as_files_of_all_systems_have_them(end, size):
    text = end.join([b"one", b"two", b"", b"three\xe2\x80\xa8four", b""])
    stream, parts = LineEnds(io.BytesIO(text)), []
    while part := stream.read(size):
        parts.append(part)
    assert b"".join(parts) == b"one\ntwo\n\nthree\xe2\x80\xa8four\n"


def test_files_that_mix_line_ends_are_read_line_by_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\rtwo\r\nthree\nfour")
    assert list(read_lines(path)) == ["one", "two", "three", "four"]
    assert whole_text(path) == "one\ntwo\nthree\nfour"


@pytest.mark.parametrize("line", ["", " \t", "\u3000", "\u00a0 ", "\u200b", "\ufeff", " \u2060\u200d\u0085", "\u2028"])
def test_lines_that_show_nothing_are_blank(line):
    assert is_blank(line)
    assert not is_blank(f"{line}x{line}")


BAD = {
    # name: (file, content, words of the message)
    "pointer": ("a.jsonl", POINTER, "not the file itself, but a pointer .*git lfs pull"),
    "pointer called gz": ("a.jsonl.gz", POINTER, "git lfs pull"),
    "cut gz": ("a.jsonl.gz", gzip.compress(LINE * 500)[:60], "damaged or cut short"),
    "gz without its end": ("a.jsonl.gz", gzip.compress(LINE * 500)[:-4], "damaged or cut short"),
    "damaged gz": ("a.jsonl.gz", gzip.compress(LINE)[:20] + b"\xff" * 20, "damaged or cut short"),
    "no gz": ("a.jsonl.gz", LINE, "is not gzip data.*Rename it to a.jsonl"),
    "no UTF-8": ("a.jsonl", LINE + b'{"text": "caf\xe9"}\n', "line 2: invalid UTF-8"),
    "no UTF-8 in gz": ("a.jsonl.gz", gzip.compress(LINE + b'{"text": "caf\xe9"}\n'), "line 2: invalid UTF-8"),
    "binary": ("a.jsonl", LINE + b"\0\1\2", "line 2: a zero byte"),
    "broken JSON": ("a.jsonl", LINE + LINE[:-4], "line 2: broken JSON"),
    "a list": ("a.jsonl", b'["a"]\n', r"line 1: a JSON object with 'text' was expected, found a JSON list"),
    "a number": ("a.jsonl", b"5\n", "line 1: .*found a JSON number"),
    "null": ("a.jsonl", b"\nnull\n", "line 2: .*found a JSON null"),
    "NaN": ("a.jsonl", b"NaN\n", "line 1: .*found a JSON number"),
    "no field": ("a.jsonl", b'{"txet": "a"}\n', "line 1: no field 'text'.*Did you mean 'txet'"),
    "a number of 5,000 digits": ("a.jsonl", LINE + b'{"text": "", "id": ' + b"9" * 5000 + b"}", "line 2: a number of"),
    "deep lists": ("a.jsonl", LINE + b"[" * 99_999 + b"]" * 99_999, "line 2: lists or objects .*too deep"),
    "half a pair": ("a.jsonl", LINE + b'{"text": "a \\ud83d"}\n', "line 2: field 'text' holds half a surrogate pair"),
    "half a pair inside": ("a.jsonl", b'{"text": ["a", {"b": "\\uDC4D"}]}\n', "line 1: field 'text' holds half"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name_and_line(name, tmp_path):
    file, content, words = BAD[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(ZooError, match=f"{file}.*{words}") as caught:
        list(read_records(path, ("text",)))
    assert "\n" not in str(caught.value)


def test_records_that_are_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(
        gzip.compress(b'\xef\xbb\xbf{"text": "\\ud83d\\ude00", "score": NaN, "other": "\\ud83d"}\n\n' + LINE)
    )
    found = list(read_records(path, ("text",)))
    assert [(number, record["text"]) for number, record in found] == [(1, "😀"), (3, "the town")]


def test_places_that_hold_no_file(tmp_path):
    (tmp_path / "words.txt").write_text("a")
    (tmp_path / "link").symlink_to("gone")
    for name, words in {
        "wrods.txt": "does not exist. Did you mean 'words.txt'",
        ".": "is a folder",
        "link": "is a link to gone, which does not exist",
        "no/a.txt": "does not exist, nor does the folder",
    }.items():
        with pytest.raises(ZooError, match=words):
            list(read_lines(tmp_path / name))


def test_json_files_with_a_mark_and_of_other_kinds(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    for content, words in (
        (b"[1]", "holds a JSON list"),
        (b"{", "broken JSON"),
        (POINTER, "git lfs"),
        (b"\xff", "UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ZooError, match=f"config.json.*{words}"):
            read_json(path)
    with pytest.raises(ZooError, match=r"x: broken JSON: .* line 2, column 1"):
        parse_json('{"a":\n}', "x")


def test_names_that_are_no_utf8_are_kept_by_json(tmp_path):
    name = os.fsdecode("文件".encode("gbk"))
    write_json(tmp_path / "a.json", {name: 1})
    assert read_json(tmp_path / "a.json") == {name: 1}

"""Hints about files that are not UTF-8."""

import gzip
from pathlib import Path

import pytest

from zoo.storage.text_encoding import encoding_hint, file_hint

CHINESE = "今天天气很好，我们去公园散步。\n明天 Python 再说。\n" * 20


@pytest.mark.parametrize(
    ("head", "works"),
    [
        (gzip.compress(CHINESE.encode()), "gunzip"),
        (CHINESE.encode("utf-16"), "iconv -f UTF-16 "),
        (CHINESE.encode("utf-32"), "iconv -f UTF-32 "),
        (CHINESE.encode("utf-16-le"), "iconv -f UTF-16LE"),
        (CHINESE.encode("utf-16-be")[:301], "iconv -f UTF-16BE"),
        (CHINESE.encode("gb18030"), "iconv -f GB18030"),
        (CHINESE.encode("gb18030")[:201], "iconv -f GB18030"),
        ("un café très bon\n".encode("latin-1"), "iconv -f WINDOWS-1252"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", "binary"),
        (bytes(range(1, 256)), "binary"),
        (CHINESE.encode()[:101], "cut off"),
        (CHINESE.encode() + b"\xff" + CHINESE.encode(), "damaged here"),
        (CHINESE.encode(), "later part"),
        (b"plain\n", "later part"),
        (b"", "later part"),
    ],
)
def test_the_hint_names_what_would_work(head: bytes, works: str) -> None:
    assert works in encoding_hint(head)


def test_the_hint_of_a_file_looks_at_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(gzip.compress(CHINESE.encode()))
    assert "gunzip" in file_hint(tmp_path / "packed")

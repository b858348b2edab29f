"""Characters of texts as arrays of code points."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretraining.text.segmenter import CJK

SPACE = 32
"""Code point of the space."""
_WHITE = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)
_CJK_RANGES = [(ord(a), ord(b)) for a, b in re.findall("(.)-(.)", CJK)]


def code_points(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Code points of texts side by side, with a line feed behind each."""
    return np.frombuffer(("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def is_space(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is white space."""
    return np.isin(codes, _WHITE)


def is_cjk(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is a Chinese character."""
    found = np.zeros(len(codes), dtype=bool)
    if len(codes) and codes.max() >= _CJK_RANGES[1][0]:
        for low, high in _CJK_RANGES:
            found |= (codes >= low) & (codes <= high)
    return found


def count_between(marks: NDArray[np.bool_], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many marks lie in [start, end)."""
    total = np.concatenate([[0], np.cumsum(marks)])
    counted: NDArray[np.int64] = total[end] - total[start]
    return counted


def is_upper(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is an upper-case or title-case letter."""
    distinct, places = np.unique(codes, return_inverse=True)
    upper = np.array([chr(code).isupper() or chr(code).istitle() for code in distinct.tolist()], dtype=bool)
    return upper[places]

"""What a file is that should have been UTF-8 text and is not, told from its first bytes."""

from __future__ import annotations

import codecs
from pathlib import Path

_PACKED = {  # first bytes of packed files, and what unpacks them
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
}
_WIDE = {  # marks at the beginning; UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_CONTROL = bytes({*range(1, 32), 127} - set(b"\t\n\v\f\r\x1a"))


def encoding_hint(head: bytes) -> str:
    """What would make UTF-8 text of a file: one sentence, to end a message with.

    A guess from bytes alone; GB18030 and other encodings of two bytes a character look alike.

    Args:
        head: the file's first bytes (some thousands will do), or the whole.
    """
    for start, tool in _PACKED.items():
        if head.startswith(start):
            return f"The file is packed: `{tool}` it first."
    wide = next((name for start, name in _WIDE.items() if head.startswith(start)), None) or _wide_without_mark(head)
    if wide is not None:
        return f"The file is {wide}: `iconv -f {wide} -t UTF-8 FILE > NEW` makes it UTF-8."
    if b"\x00" in head or len(head.translate(None, _CONTROL)) < 0.99 * len(head):
        return "The file is binary, no text: give a UTF-8 text file."
    try:
        rest = head[codecs.utf_8_decode(head, "strict", False)[1] :]  # a character that is cut off at the end stays
    except UnicodeDecodeError:
        return _other(head)
    if rest:
        return "Its last character is cut off: copy the file again, or cut it after its last whole line."
    return "Its beginning is UTF-8, so a later part is damaged or came from another file: mend or delete that line."


def file_hint(path: Path, size: int = 2**16) -> str:
    """:func:`encoding_hint` of a file, by its first ``size`` bytes."""
    with path.open("rb") as stream:
        return encoding_hint(stream.read(size))


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 with neither mark: the zero bytes of its line ends and ASCII stand on one side of the pairs only."""
    low, high = head[::2].count(0), head[1::2].count(0)
    for name, codec, zeros, others in (("UTF-16LE", "utf-16-le", high, low), ("UTF-16BE", "utf-16-be", low, high)):
        if zeros and not others:
            text = head[: len(head) // 2 * 2].decode(codec, errors="replace").removesuffix("\ufffd")
            if "\ufffd" not in text and all(mark.isprintable() or mark.isspace() for mark in text):
                return name
    return None


def _other(head: bytes) -> str:
    """A hint for bytes that are text, but no UTF-8."""
    read = head.decode("utf-8", errors="replace")
    bad = read.count("\ufffd")
    if sum(map("\x7f".__lt__, read)) > 11 * bad:
        return "Nearly all of it is UTF-8, so the file is damaged here: mend or delete that line."
    try:
        codecs.getincrementaldecoder("gb18030")().decode(head)
    except UnicodeDecodeError:
        return "If it is Western European text, `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW` makes it UTF-8."
    return "If it is Chinese text, `iconv -f GB18030 -t UTF-8 FILE > NEW` makes it UTF-8."

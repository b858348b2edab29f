"""Text files that settings name: which ones they are, and their lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zoo.errors import ZooError, nearest
from zoo.runtime.text_encoding import encoding_hint
from zoo.sample import resolve


def existing(value: str | list[str], what: str) -> list[Path]:
    """Files that a path, a glob, or a list of these names.

    Raises:
        ZooError: there is none, or a folder in its place.
    """
    found: list[Path] = []
    for entry in [value] if isinstance(value, str) else value:
        path = Path(resolve(entry)).expanduser()
        if path.is_file():
            found.append(path)
            continue
        if path.is_dir():
            inside = sorted((p for p in path.iterdir() if p.is_file()), key=lambda p: (p.suffix != ".txt", p))
            example = f"; name its files, for example {inside[0]}." if inside else " without files; name a file."
            raise ZooError(f"{what}: {path} is a folder{example}")
        anchor = Path(path.anchor)
        pattern = str(path.relative_to(anchor))
        matched = sorted(p for p in anchor.glob(pattern) if p.is_file()) if any(m in pattern for m in "*?[") else []
        if not matched:
            names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ZooError(f"{what}: the file {path} does not exist.{nearest(path.name, names)}")
        found += matched
    if not found:
        raise ZooError(f"{what} names no file.")
    return found


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file.

    Raises:
        ZooError: not UTF-8 or with zero bytes, naming the line.
    """
    content = path.read_bytes()
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if (place := line.find(b"\0")) >= 0:
            raise ZooError(f"{path}:{number}: a zero byte at byte {place + 1} of the line. {encoding_hint(content)}")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ZooError(
                f"{path}:{number}: invalid UTF-8 at byte {error.start + 1} of the line "
                f"({line[error.start : error.start + 4]!r}). {encoding_hint(content)}"
            ) from error

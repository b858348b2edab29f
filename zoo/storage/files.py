"""Files and folders that appear whole or not at all, the digest of a file, and what comes from the hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from zoo.errors import ZooError
from zoo.storage.user_files import json_kind, parse_json, whole_text

_HUB_SECONDS = 5


@contextlib.contextmanager
def replaced_file(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of ``path`` only when the block has ended well.

    Readers see the old or the new content, never a part.

    Args:
        path: the file.
        shared: other processes may write the same file at the same time; the last to end wins. Without it what a
            killed writer left is overwritten by the next one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write does not name its file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


def write_atomic(path: Path, text: str, *, shared: bool = False) -> None:
    r"""Write a text file atomically: see :func:`replaced_file`.

    A file name that is no UTF-8 reaches Python with halves of surrogate pairs; they are written as ``\udcXX``, which
    JSON reads back as the name.
    """
    with replaced_file(path, shared=shared) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, indent: int = 2, shared: bool = False) -> None:
    """Write JSON atomically: see :func:`replaced_file`."""
    write_atomic(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n", shared=shared)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that appears under its name only when the block has ended well.

    Raises:
        ZooError: the target exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ZooError(f"{target} exists already; choose another folder, or remove it first.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def text_digest(text: str | bytes) -> str:
    """32 hex digits that change with a text."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """32 hex digits that change with a file's content; those of :func:`text_digest` of the same bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=16)).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object; what is wrong with the file is said by name."""
    value = parse_json(whole_text(path), str(path))
    if not isinstance(value, dict):
        raise ZooError(f"{path} holds a JSON {json_kind(value)}; an object was expected.")
    return value


def hub_answers() -> bool:
    """Whether the hub can be reached; if not, its clients read their cache alone, from now on.

    By themselves they would try again and again, for half a minute, before they said so.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
    except Exception:  # each version of the client has its own kinds
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # of libraries that are loaded later, and of processes started from here
        if (datasets := sys.modules.get("datasets")) is not None:
            datasets.config.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE


def hub_problem(error: Exception) -> str:
    """Why something did not come from the hub, in one line."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{constants.ENDPOINT} cannot be reached (or HF_HUB_OFFLINE is set), and its cache here has no whole copy"
        )
    reason = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {reason or 'without a message'}"

"""Files on object stores, by ``fsspec``: text that is fetched before it is read, and run folders that are mirrored.

Whatever is read or written by the rest of the code is a local file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.storage.files import text_digest

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, give it; AWS_ENDPOINT_URL names a server"
}
_LAST = ("manifest.json", "run.json")  # what says that a checkpoint, or a run, is whole
_STEPS = "checkpoints"


def is_url(entry: str) -> bool:
    """Whether a setting names something on an object store."""
    return _URL.match(entry) is not None


@contextmanager
def _told(url: str, what: str) -> Any:
    """Within the block whatever a file system raises becomes one message."""
    kind = url.partition("://")[0]
    try:
        yield
    except ZooError:
        raise
    except ImportError as error:
        package = _PACKAGES.get(kind, "the package that fsspec names")
        raise ZooError(f"{what}: {kind}:// needs {package}: `pip install {package}` ({error}).") from error
    except FileNotFoundError as error:
        raise ZooError(f"{what}: {url} does not exist, or its bucket does not.") from error
    except Exception as error:  # each store's client has its own kinds
        said = " ".join(str(error).split())[:300] or "without a message"
        name = type(error).__name__
        if isinstance(error, PermissionError) or "redential" in name + said:
            hint = _CREDENTIALS.get(kind, "its client's variables or files give it")
            raise ZooError(f"{what}: no access to {url} ({name}: {said}); {hint}.") from error
        raise ZooError(f"{what}: {url} cannot be reached ({name}: {said}).") from error


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    if hasattr(system, "auto_mkdir"):  # a folder of this machine; stores have none, and would make a bucket
        system.auto_mkdir = True
    return system, str(path).rstrip("/")


def fetch_files(url: str, what: str, wanted: Callable[[Path], bool]) -> list[Path]:
    """Local copies of the files that a URL names: one, those below a folder, or those that a glob matches.

    A copy lies in the user's cache, under a name that changes with the object, and is made once.

    Args:
        url: the file, folder or glob.
        what: the setting that names it, for messages.
        wanted: which files of a folder are read, by name.

    Raises:
        ZooError: it is not there, or may not be read; or the package for its kind is missing.
    """
    with _told(url, what):
        system, path = _open(url)
        if any(mark in path for mark in "*?["):
            names = sorted(system.glob(path))
        elif system.isfile(path):
            names = [path]
        else:
            names = sorted(name for name in system.find(path) if wanted(Path(name)))
        if not names:
            raise ZooError(f"{what}: nothing readable at {url}.")
        return [_fetch(system, name) for name in names]


def _fetch(system: Any, name: str) -> Path:
    """A local copy of one object."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sesame-zoo" / "objects"
    version = text_digest(f"{system.protocol} {name} {system.ukey(name)}")[:16]
    target = cache / version / Path(name).name
    if not target.exists():
        _download(system, name, target)
    return target


def _download(system: Any, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        system.get_file(name, str(part))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


class RunMirror:
    """A copy of a run folder on an object store.

    Args:
        url: folder of mirrored run folders.
        folder: the run folder.

    Raises:
        ZooError: the store cannot be reached or written.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = f"{url.rstrip('/')}/{folder.name}", folder
        with _told(self.url, "mirror"):
            self.system, self.root = _open(self.url)
            self.system.pipe_file(f"{self.root}/.probe", b"may be written")
            self.system.rm_file(f"{self.root}/.probe")
        self._sent: dict[str, tuple[int, int]] = {}

    def _there(self) -> dict[str, int]:
        """Bytes of what the store has, by path in the run folder."""
        listed = self.system.find(self.root, detail=True).items()
        found = {name[len(self.root) :].lstrip("/"): int(item["size"]) for name, item in listed}
        if outside := [name for name in found if ".." in Path(name).parts]:  # keys are any text
            raise ZooError(f"mirror: {self.url} has an object {outside[0]!r}, which is in no run folder; remove it.")
        return found

    def restore(self) -> bool:
        """Fetch the copy if it is further than the run folder; whether it was.

        Raises:
            ZooError: the store cannot be read.
        """
        with _told(self.url, "mirror"):
            there = self._there()
            if _furthest(there) <= _furthest({str(p.relative_to(self.folder)): 0 for p in self.folder.rglob("*.json")}):
                return False
            shutil.rmtree(self.folder / _STEPS, ignore_errors=True)
            for name in sorted(there, key=lambda name: Path(name).name in _LAST):
                _download(self.system, f"{self.root}/{name}", self.folder / name)
            return True

    def push(self) -> None:
        """Send what is new, so that whoever reads the copy at any moment finds whole checkpoints; forget what is gone.

        Raises:
            ZooError: the store cannot be written.
        """
        own = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}
        own = {name: path for name, path in own.items() if not any(part.startswith(".") for part in Path(name).parts)}
        with _told(self.url, "mirror"):
            there = self._there()
            order = {name: number for number, name in enumerate(_LAST, start=1)}
            for name in sorted(own, key=lambda name: order.get(Path(name).name, 0)):
                stat = own[name].stat()
                mark = (stat.st_mtime_ns, stat.st_size)
                whole = name.startswith(f"{_STEPS}/") and there.get(name) == stat.st_size  # they never change
                if self._sent.get(name) != mark and not whole:
                    self.system.put_file(str(own[name]), f"{self.root}/{name}")
                self._sent[name] = mark
            gone = [name for name in there if name.startswith(f"{_STEPS}/") and name not in own]
            for name in sorted(gone, key=lambda name: Path(name).name not in _LAST):
                self.system.rm_file(f"{self.root}/{name}")


def _furthest(names: dict[str, int]) -> tuple[int, int]:
    """Step of the last whole checkpoint, and whether there is a run at all."""
    steps = [Path(name).parts[1] for name in names if name.startswith(f"{_STEPS}/") and name.endswith(_LAST[0])]
    return max((int(step.rpartition("-")[2]) for step in steps if step.startswith("step-")), default=0), int(
        "run.json" in names
    )

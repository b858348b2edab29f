"""Annotations: what is known about stretches of text beside its words, as one array per token of the store.

``data.corpus.annotations`` names them; each fills the array of its name (``Store.arrays``, ``Rows.arrays``), 0 where it
says nothing, at template tokens and at padding. An annotator finds *spans*, [start, end) in characters; a token belongs
to a span that holds all of its characters. What is written there, ``marks`` says:

- ``units``  1 at a span's first token, 2 at its later ones (phrases, entities to be hidden as a whole)
- ``first``  the span's number at its first token (entities of a knowledge graph)
- ``every``  the line's number at each of its tokens (roles, classes)

A span edge inside a token: found ones are left out and counted, given ones are an error unless ``cut: skip`` says that
they, too, are left out and counted. Overlapping spans of one record are an error; found ones never overlap.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from zoo.errors import ZooError, nearest
from zoo.settings.checks import import_class
from zoo.storage.folders import existing

CharSpan = tuple[int, int, int]
"""First character, end, and the number that is written (0 = a span that is counted as unknown and left out)."""
Marks = Literal["units", "first", "every"]


class Annotator:
    """One way to annotate; what a subclass of :class:`TextAnnotator` or :class:`RecordAnnotator` adds is how.

    Arguments of the constructor are kept under their own names: they are the annotator's recipe.

    Attributes:
        version: of what the class does; part of the fingerprint of every store that it takes part in.
        paths: arguments that name files; their contents take part in the fingerprint, their places do not.
        marks: what is written at the tokens (see the module).
        dtype: of the array.
        needs_words: whether a segmenter has to find words.
    """

    version: ClassVar[int] = 1
    paths: ClassVar[frozenset[str]] = frozenset()
    marks: Marks = "units"
    dtype: str = "uint8"
    needs_words: ClassVar[bool] = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def spec(self) -> dict[str, Any]:
        """What makes it again in another process."""
        kind = type(self)
        package = kind.__module__.rpartition(".")[0]
        faced = getattr(sys.modules.get(package), kind.__qualname__, None) is kind  # settings name the face, not a file
        return {
            "class_path": f"{package if faced else kind.__module__}.{kind.__qualname__}",
            "init_args": self.arguments,
        }

    def data_files(self) -> dict[str, list[Path]]:
        """Files by the argument that names them.

        Raises:
            ZooError: one does not exist.
        """
        return {name: existing(getattr(self, name), name) for name in self.paths if getattr(self, name) is not None}

    def recipe(self) -> dict[str, Any]:
        """What a store's fingerprint is made of: the class's bare name, version, arguments, contents of files.

        A class that moves to another module changes no fingerprint.
        """
        own = {name: value for name, value in self.arguments.items() if name not in self.paths}
        contents = {
            name: [hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths]
            for name, paths in self.data_files().items()
        }
        return {"class": type(self).__name__, "version": self.version, "arguments": own, "files": contents}

    def ready(self, lowercase: bool) -> None:
        """Read what has to be read; called once before the first text.

        Args:
            lowercase: the tokenizer folds case, so spelling is compared without it.
        """
        _ = self.data_files()

    def lenient(self) -> Annotator:
        """The annotator for a text that has no record around it."""
        return self


class TextAnnotator(Annotator, ABC):
    """Finds spans in a sentence."""

    @abstractmethod
    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Spans in order that do not overlap.

        Args:
            text: one sentence; without the spaces that stand between Chinese words of pre-segmented text.
            words: characters at which the segmenter's words start; ``None`` where it found none.
        """


class RecordText(NamedTuple):
    """The text of a record.

    Args:
        lines: its lines as they stand there, empty ones included.
        listed: whether the record gives them as a list, one sentence each; offsets count from the start of each, else
            from the start of the whole text, a line end being one character.
    """

    lines: list[str]
    listed: bool


class RecordAnnotator(Annotator, ABC):
    """Takes what the JSON record says in the field of the annotation's name.

    Args:
        missing: a record without the field, or with ``null`` in it, is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    missing: Literal["error", "none"]
    cut: Literal["error", "skip"]

    @abstractmethod
    def read(self, value: Any, text: RecordText, where: str) -> list[list[CharSpan]]:
        """Spans of each line, in order.

        Raises:
            ZooError: ``value`` does not fit, beginning with ``where``.
        """

    def lenient(self) -> Annotator:
        """The same with ``missing: none``."""
        return type(self)(**{**self.arguments, "missing": "none"})


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    """Raise ZooError if an argument is none of the words it may be."""
    if value not in known:
        raise ZooError(f"{what} is {value!r}; it must be one of {', '.join(known)}.{nearest(str(value), known)}")


def make_annotator(spec: dict[str, Any], where: str) -> Annotator:
    """An annotator from its ``class_path`` and ``init_args``."""
    made: Annotator = import_class(spec["class_path"], where, (Annotator,))(**spec["init_args"])
    return made

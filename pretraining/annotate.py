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
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress, count, pairwise
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.segment import CJK
from zoo.encoding import encoding_hint
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.settings.checks import import_class

Span = tuple[int, int, int]
"""First character, end, and the number that is written (0 = a span that is counted as unknown and left out)."""
Marks = Literal["units", "first", "every"]
Ints = NDArray[np.int64]

_UNSPACED = f"{CJK}\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts that put no spaces between words: Chinese characters, kana, Thai, Lao, Burmese, Khmer."""
_word_character = re.compile(f"[^\\W{_UNSPACED}]|[\u0300-\u036f]").match


class Annotator:
    """One way to annotate; what a subclass of :class:`Finder` or :class:`Recorded` adds is how.

    Arguments of the constructor are kept under their own names: they are the annotator's facts.

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
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": self.arguments}

    def sources(self) -> dict[str, list[Path]]:
        """Files by the argument that names them.

        Raises:
            ZooError: one does not exist.
        """
        return {name: existing(getattr(self, name), name) for name in self.paths if getattr(self, name) is not None}

    def facts(self) -> dict[str, Any]:
        """Class, version, arguments and contents of files, for fingerprints."""
        own = {name: value for name, value in self.arguments.items() if name not in self.paths}
        contents = {
            name: [hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths]
            for name, paths in self.sources().items()
        }
        return {"class": self.spec["class_path"], "version": self.version, "arguments": own, "files": contents}

    def ready(self, lowercase: bool) -> None:
        """Read what has to be read; called once before the first text.

        Args:
            lowercase: the tokenizer folds case, so spelling is compared without it.
        """
        _ = self.sources()

    def lenient(self) -> Annotator:
        """The annotator for a text that has no record around it."""
        return self


class Finder(Annotator, ABC):
    """Finds spans in a sentence."""

    @abstractmethod
    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Spans in order that do not overlap.

        Args:
            text: one sentence; without the spaces that stand between Chinese words of pre-segmented text.
            words: characters at which the segmenter's words start; ``None`` where it found none.
        """


class Text(NamedTuple):
    """The text of a record.

    Args:
        lines: its lines as they stand there, empty ones included.
        listed: whether the record gives them as a list, one sentence each; offsets count from the start of each, else
            from the start of the whole text, a line end being one character.
    """

    lines: list[str]
    listed: bool


class Recorded(Annotator, ABC):
    """Takes what the JSON record says in the field of the annotation's name.

    Args:
        missing: a record without the field, or with ``null`` in it, is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    missing: Literal["error", "none"]
    cut: Literal["error", "skip"]

    @abstractmethod
    def read(self, value: Any, text: Text, where: str) -> list[list[Span]]:
        """Spans of each line, in order.

        Raises:
            ZooError: ``value`` does not fit, beginning with ``where``.
        """

    def lenient(self) -> Annotator:
        """The same with ``missing: none``."""
        return type(self)(**{**self.arguments, "missing": "none"})


# ----------------------------------------------------------------------------------------- found in the text


class Lexicon(Finder):
    """Entries of a word list, the longest at each place, from left to right.

    In scripts that put spaces between words an entry begins and ends where a word does. Case counts, unless the
    tokenizer folds it.

    Args:
        files: word lists, one entry per line, UTF-8; what follows a tab is ignored. A file, a glob, or a list of them.
    """

    paths = frozenset({"files"})

    def __init__(self, files: str | list[str]) -> None:
        self.files = files
        self._lowercase = False
        self._entries: frozenset[str] = frozenset()
        self._lengths: dict[str, list[int]] = {}
        self._single: frozenset[str] = frozenset()

    def ready(self, lowercase: bool) -> None:
        """Read the lists.

        Raises:
            ZooError: a list is not UTF-8 (naming file and line), is JSON or CSV, or there is no entry at all.
        """
        self._lowercase = lowercase
        paths = self.sources()["files"]
        lists = {path: [e for line in read_lines(path) if (e := line.split("\t", 1)[0].strip())] for path in paths}
        for path, own in lists.items():
            _check_entries(path, own)
        entries = set(chain.from_iterable(lists.values()))
        if not entries:
            raise ZooError(f"Lexicon: {', '.join(map(str, paths))} holds no entries; one per line is needed.")
        self._entries = frozenset(map(_lower, entries)) if lowercase else frozenset(entries)
        self._single = frozenset(entry for entry in self._entries if len(entry) == 1)
        lengths: dict[str, set[int]] = {}
        for entry in self._entries:
            lengths.setdefault(entry[:2], set()).add(len(entry))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Entries in the text, found by the first two characters and then by length."""
        if self._lowercase:
            text = _lower(text)
        pairs = map(add, text, text[1:] + "\n")
        places: Iterable[int] = compress(count(), map(self._lengths.__contains__, pairs))
        if self._single:
            places = sorted({*places, *compress(count(), map(self._single.__contains__, text))})
        found: list[tuple[int, int]] = []
        behind = 0
        for start in places:
            if start < behind:
                continue
            for length in (*self._lengths.get(text[start : start + 2], ()), 1):
                end = start + length
                if text[start:end] in self._entries and not (_inside(text, start) or _inside(text, end)):
                    found.append((start, end))
                    behind = end
                    break
        return found


class Words(Finder):
    """Words of the segmenter.

    Args:
        min_length: least number of characters.
    """

    needs_words = True

    def __init__(self, min_length: int = 2) -> None:
        if min_length < 1:
            raise ZooError(f"Words: min_length is {min_length}; 1 or more.")
        self.min_length = min_length

    def find(self, text: str, words: Sequence[int] | None) -> list[tuple[int, int]]:
        """Words that are long enough and hold a letter or digit."""
        if words is None:
            return []
        found = []
        for start, end in zip(words, [*words[1:], len(text)]):
            if end - start >= self.min_length:
                word = text[start:end]
                end -= len(word) - len(word.rstrip())
                if end - start >= self.min_length and any(map(str.isalnum, word)):
                    found.append((start, end))
        return found


_IN_RECORDS = re.compile(r"[{\[]\s*[\"\[{].*[}\]],?|[^\s,][^,]*,[^\s,].*")


def _check_entries(path: Path, entries: list[str]) -> None:
    """Refuse a list of which most lines are JSON or CSV; those of entries have no comma, or a space behind it."""
    records = [entry for entry in entries if _IN_RECORDS.fullmatch(entry)]
    if len(records) * 2 > len(entries):
        raise ZooError(
            f"Lexicon: {path} holds lines such as {records[0][:60]!r}, which look like JSON or CSV. One entry per line "
            "is needed, as plain text; what follows a tab is ignored, so a tab may stand in the place of a comma."
        )


def _inside(text: str, place: int) -> bool:
    """Whether a word of a script with spaces goes on from the character before ``place`` to the one at it."""
    if place <= 0 or place >= len(text):
        return False
    return _word_character(text[place]) is not None and _word_character(text[place - 1]) is not None


def _lower(text: str) -> str:
    """Lower case, character by character where the whole would change its length (``İ``)."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


# ------------------------------------------------------------------------------------ given with the record


class Field(Recorded):
    """What a record's field says: spans, or a class for each line or for the whole record.

    Args:
        kind: ``units``: ``[[start, end], ...]``, more items being ignored, for a list of texts one such list each;
            ``value``: a class, or one for each line.
        values: names of the classes, or how many there are; absent = numbers from 0 on.
        missing: a record without the field is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    def __init__(
        self,
        kind: Literal["units", "value"] = "value",
        values: list[str] | int | None = None,
        missing: Literal["error", "none"] = "error",
        cut: Literal["error", "skip"] = "error",
    ) -> None:
        _check_choice("Field: kind", kind, ("units", "value"))
        _check_choice("Field: missing", missing, ("error", "none"))
        _check_choice("Field: cut", cut, ("error", "skip"))
        classes = values if isinstance(values, int) else _LIMIT if values is None else len(values)
        if not 1 <= classes <= _LIMIT or (kind == "units" and values is not None):
            raise ZooError(f"Field: values = {values!r}; names or a number of 1 to {_LIMIT} classes, for kind: value.")
        self.kind, self.values, self.missing, self.cut = kind, values, missing, cut
        self._classes = classes
        self._numbers = {name: number for number, name in enumerate(values)} if isinstance(values, list) else None
        self.marks = "units" if kind == "units" else "every"
        self.dtype = "uint8" if kind == "units" or classes < 255 else "uint16"

    def read(self, value: Any, text: Text, where: str) -> list[list[Span]]:
        """Spans of each line."""
        if self.kind == "units":
            return read_spans(value, text, where, lambda items, place: 1)
        if not isinstance(value, list):
            return [[(0, len(line), self._number(value, where))] for line in text.lines]
        if len(value) != len(text.lines):
            raise ZooError(f"{where} holds {len(value)} values for {len(text.lines)} lines of text.")
        return [
            [(0, len(line), self._number(item, f"{where}, value {place}"))]
            for place, (line, item) in enumerate(zip(text.lines, value), start=1)
        ]

    def _number(self, value: Any, where: str) -> int:
        """Class + 1."""
        if self._numbers is not None:
            name = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
            if name not in self._numbers:
                known = list(self._numbers)
                raise ZooError(f"{where} is {value!r}; it must be one of {', '.join(known)}.{nearest(name, known)}")
            return self._numbers[name] + 1
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < self._classes:
            names = "" if isinstance(self.values, int) else " Classes that go by names need `values: [NAME, ...]`."
            raise ZooError(f"{where} is {value!r}; a whole number of 0 to {self._classes - 1} is needed.{names}")
        return value + 1


_LIMIT = 65_534


class Linked(Recorded):
    """Entities of a knowledge graph that a record's field names: their number + 1 at the first token of each mention.

    Args:
        entities: the graph's entities, UTF-8: one name per line, whose number is the line's, from 0; or in each
            line ``name<TAB>number`` (OpenKE's ``entity2id.txt``, whose first line, how many there are, is passed over;
            above lines that are names alone, a line of digits is a name, too).
        unknown: a name that is not among them is left out and counted (``skip``), or an ``error``.
        missing: a record without the field is an ``error``, or has ``none``.
        cut: a span that cuts a token is an ``error``, or left out (``skip``).
    """

    version = 2
    paths = frozenset({"entities"})
    marks: Marks = "first"
    dtype = "int32"

    def __init__(
        self,
        entities: str,
        unknown: Literal["skip", "error"] = "skip",
        missing: Literal["error", "none"] = "error",
        cut: Literal["error", "skip"] = "error",
    ) -> None:
        _check_choice("Linked: unknown", unknown, ("skip", "error"))
        _check_choice("Linked: missing", missing, ("error", "none"))
        _check_choice("Linked: cut", cut, ("error", "skip"))
        self.entities, self.unknown, self.missing, self.cut = entities, unknown, missing, cut
        self._numbers: dict[str, int] = {}

    def ready(self, lowercase: bool) -> None:
        """Read the names."""
        (path,) = self.sources()["entities"]
        self._numbers = read_entities(path)

    def facts(self) -> dict[str, Any]:
        """With what tells the names, so that a table of vectors can be compared with them."""
        (path,) = self.sources()["entities"]
        return {**super().facts(), "names": name_facts(self._numbers or read_entities(path))}

    def read(self, value: Any, text: Text, where: str) -> list[list[Span]]:
        """Spans of each line with the entities' numbers + 1; 0 where the graph has none of that name."""

        def number(items: list[Any], place: str) -> int:
            name = items[2] if len(items) > 2 else None
            if not isinstance(name, str):
                raise ZooError(f"{place} is {items!r}; [start, end, name of the entity] is needed.")
            if name not in self._numbers and self.unknown == "error":
                raise ZooError(f"{place}: {self.entities} has no entity {name!r}.{_near_entity(name, self._numbers)}")
            return self._numbers.get(name, -1) + 1

        return read_spans(value, text, where, number)


def _near_entity(name: str, known: Mapping[str, int]) -> str:
    """A hint where that takes no time."""
    return nearest(name, known) if len(known) < 10_000 else ""


def read_entities(path: Path) -> dict[str, int]:
    """Names and numbers of a file of entities, see :class:`Linked`.

    Raises:
        ZooError: no names, a name or number that occurs twice, lines with and without numbers, an empty line among
            names without numbers (which :func:`zoo.entities.read_names` refuses, too), naming the line.
    """
    entries = _entity_lines(path)
    first, second = next(entries, None), next(entries, None)
    if first is None:
        raise ZooError(f"{path} names no entities; one per line is needed.")
    rest = [first] if second is None else [first, second]
    if _is_count(first, second):
        del rest[0]
    numbered = rest[0].number is not None
    numbers: dict[str, int] = {}
    seen: set[int] = set()
    for place, name, text in chain(rest, entries):
        if (text is not None) != numbered or (numbered and not str(text).isdecimal()):
            line = name if text is None else f"{name}\t{text}"
            raise ZooError(f"{path}:{place}: {line!r} is not `name` or, as in all other lines, `name<TAB>number`.")
        if not numbered and place != len(numbers) + 1:
            raise ZooError(f"{path}:{len(numbers) + 1}: an empty line, where an entity's name belongs.")
        number = int(text) if text is not None else len(numbers)
        if name in numbers or number in seen:
            raise ZooError(f"{path}:{place}: the name {name!r} or the number {number} occurs a second time.")
        numbers[name] = number
        seen.add(number)
    if max(seen) >= 2**31 - 1:
        raise ZooError(f"{path}: the number {max(seen)} is too large; 32 bits hold it.")
    return numbers


_NAMES_KEPT = 64


def name_facts(numbers: Mapping[str, int]) -> dict[str, Any]:
    """What tells a list of entities from another: how many, a digest of names and numbers, and some of the names."""
    ordered = sorted((number, name) for name, number in numbers.items())
    digest = hashlib.blake2b("".join(f"{number}\t{name}\n" for number, name in ordered).encode(), digest_size=16)
    some = {*ordered[:: -(-len(ordered) // _NAMES_KEPT)], ordered[-1]}
    return {"count": len(ordered), "digest": digest.hexdigest(), "some": [list(pair) for pair in sorted(some)]}


class _EntityLine(NamedTuple):
    """A line of a file of entities: its place, from 1 on, the name, and what stands behind a tab, if one is there."""

    place: int
    name: str
    number: str | None


def _entity_lines(path: Path) -> Iterator[_EntityLine]:
    """The lines that are not empty."""
    for place, line in enumerate(read_lines(path), start=1):
        name, tab, text = line.strip("\r").partition("\t")
        if name.strip():
            yield _EntityLine(place, name.strip(), text.strip() if tab else None)


def _is_count(first: _EntityLine, second: _EntityLine | None) -> bool:
    """Whether the first line says how many entities there are: digits may be a name, but not above numbered names."""
    alone = first.number is None and first.name.isdecimal()
    return alone and second is not None and second.number is not None and second.number.isdecimal()


def read_spans(value: Any, text: Text, where: str, number: Any) -> list[list[Span]]:
    """Spans of each line of a record.

    Args:
        value: ``[[start, end, ...], ...]`` into the whole text; for a list of texts one such list for each.
        text: the record's.
        where: beginning of messages.
        number: (items, place for messages) -> what to write.

    Raises:
        ZooError: no such lists, a span outside of the text or across a line end, spans that overlap.
    """
    if not isinstance(value, list):
        raise ZooError(f"{where} holds {_kind(value)}; a list of [start, end] pairs was expected.")
    if text.listed:
        if len(value) != len(text.lines):
            raise ZooError(f"{where} holds {len(value)} lists of spans for {len(text.lines)} texts.")
        return [
            [span for _, span in _checked(item, [line], f"{where}, text {place}", number)]
            for place, (item, line) in enumerate(zip(value, text.lines), start=1)
        ]
    lines: list[list[Span]] = [[] for _ in text.lines]
    for line, span in _checked(value, text.lines, where, number):
        lines[line].append(span)
    return lines


def _checked(value: Any, lines: list[str], where: str, number: Any) -> Iterator[tuple[int, Span]]:
    """(line, span in it) in order; overlaps and impossible offsets are refused."""
    if not isinstance(value, list):
        raise ZooError(f"{where} holds {_kind(value)}; a list of [start, end] pairs was expected.")
    edges = np.cumsum([0, *(len(line) + 1 for line in lines)])
    length = int(edges[-1]) - 1
    spans = []
    for place, items in enumerate(value, start=1):
        named = f"{where}, span {place}"
        if not isinstance(items, list) or len(items) < 2 or not all(type(edge) is int for edge in items[:2]):
            raise ZooError(f"{named} is {items!r}; [start, end] in characters, the end not included, is needed.")
        start, end = items[:2]
        if not 0 <= start < end <= length:
            raise ZooError(f"{named} is [{start}, {end}]{_wrong_offsets(start, end, length)}")
        line = int(np.searchsorted(edges, start, side="right")) - 1
        if end >= edges[line + 1]:
            raise ZooError(f"{named}, [{start}, {end}], goes beyond the end of a line.")
        spans.append((start, end, line, number(items, named)))
    spans.sort()
    for first, second in pairwise(spans):
        if second[0] < first[1]:
            raise ZooError(f"{where}: the spans {list(first[:2])} and {list(second[:2])} overlap.")
    for start, end, line, code in spans:
        yield line, (start - int(edges[line]), end - int(edges[line]), code)


def _wrong_offsets(start: int, end: int, length: int) -> str:
    """The rest of a message about a span that is none."""
    if min(start, end) < 0:
        return f", which is negative; characters are counted from 0 at the start of the text, here up to {length}."
    if start == end <= length:
        return f", which is empty; the end is not included, so that one character would be [{start}, {start + 1}]."
    if start > end:
        return f", which ends before it begins; [{end}, {start}] would work if the two are the wrong way round."
    return f" in a text of {length} characters."


def _kind(value: Any) -> str:
    return f"a {type(value).__name__} ({str(value)[:40]!r})"


def _check_choice(what: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ZooError(f"{what} is {value!r}; it must be one of {', '.join(known)}.{nearest(str(value), known)}")


# ------------------------------------------------------------------------------------------------- files


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


def make_annotator(spec: dict[str, Any], where: str) -> Annotator:
    """An annotator from its ``class_path`` and ``init_args``."""
    made = import_class(spec["class_path"], where)(**spec["init_args"])
    assert isinstance(made, Annotator)
    return made

"""``zoo pairs discourse --files FILE --output FILE.jsonl``: labelled pairs out of text.

Or ``zoo pairs relevance``: out of a relevance data set. Both are for tasks with a corpus of their own.

Every record is a line ``{"text": [FIRST, SECOND], "label": CLASS}``; ``pretraining.layouts.LabelledPairs`` reads it
with ``sentences: line`` and the annotation ``label``.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.records import iter_documents
from pretraining.text.segmenter import CJK
from pretraining.text.sentences import sentence_spans
from zoo.errors import ZooError, nearest
from zoo.sample import resolve
from zoo.settings.load import load_settings
from zoo.storage.files import replaced_file
from zoo.storage.folders import is_glob, matching
from zoo.storage.user_files import read_lines, read_records, record_text
from zoo.values import Count, UserPath, check_fields

NO_MARKER = "[no-conn]"
"""The class, in a list of markers, of sentences that begin with none of them."""
_UNIT = re.compile(f"[{CJK}]|[^\\W{CJK}]+(?:['’][^\\W]+)?")
_RELEVANCE = 3  # QBQTC: 0 = hardly relevant, 1 = to a degree, 2 = very; ours runs the other way (specs: ERNIE 2.0, 3)
_DISCOVERY = 10_000  # pairs of each marker in Discovery
_KINDS = ("discourse", "relevance")


@dataclass(frozen=True)
class PairsConfig:
    """What ``zoo pairs KIND`` is asked for.

    Args:
        kind: ``discourse``: adjacent sentences of text whose second begins with a discourse marker, which is taken
            away and is the class (Sileo et al. 2019, Discovery); ``relevance``: queries and titles of QBQTC, class 0
            = strong, 1 = weak, 2 = none.
        files: the text (as for data.corpus.files), or QBQTC's files, by name or glob.
        output: the file to write, .jsonl.
        markers: a list of discourse markers, one a line, ``_`` for a space; line n is class n - 1.
        maximum: at most so many pairs of each class, chosen by a hash; absent = 10,000 of each marker, as in Discovery,
            and every pair of a relevance data set.
        shortest: fewest words (or Chinese characters) of each of the two sentences; for discourse.
        longest: most of them.
    """

    kind: Literal["discourse", "relevance"]
    files: UserPath | list[UserPath]
    output: UserPath
    markers: UserPath = "zoo:sample/markers/en.txt"
    maximum: Count | None = None
    shortest: Count = 3
    longest: Count = 32

    def __post_init__(self) -> None:
        """Raise ZooError if the pairs cannot be made."""
        check_fields(self)
        if not self.output.endswith(".jsonl"):
            raise ZooError(f"--output {self.output}: a name that ends in .jsonl is needed, so that it can be read.")
        if self.shortest > self.longest:
            raise ZooError(
                f"--shortest {self.shortest} and --longest {self.longest} words of a sentence: shortest must be no "
                "more than longest."
            )


@dataclass(frozen=True)
class Pair:
    """Two texts and their class."""

    first: str
    second: str
    label: int

    @property
    def line(self) -> str:
        """As a record."""
        return json.dumps({"text": [self.first, self.second], "label": self.label}, ensure_ascii=False)


class Markers:
    """A list of discourse markers, searched for at the beginning of sentences.

    A marker is found in any case, with the comma that it is written with, or else before a space or a comma; of several
    the longest. Chinese ones need nothing behind them, and a comma that follows goes with them.

    Args:
        names: as in the file; ``[no-conn]`` stands for sentences without one.
        file: where they stand, for messages.
        lines: the line of each; absent = from 1 on.

    Raises:
        ZooError: no marker, or one that occurs twice, its case and ``_`` for a space aside.
    """

    def __init__(self, names: list[str], file: str = "markers", lines: Sequence[int] | None = None) -> None:
        spelt: dict[str, int] = {}
        places = lines or range(1, len(names) + 1)
        for label, name in enumerate(names):
            first = spelt.setdefault(name.replace("_", " ").lower(), label)
            if first != label:
                raise ZooError(
                    f"{file}:{places[label]}: the marker {name!r} is that of line {places[first]}, {names[first]!r}: "
                    "markers are found in any case. Leave one of them out."
                )
        spelt.pop(NO_MARKER, None)
        if not spelt:
            raise ZooError(f"{file}: the list of markers is empty; one a line is needed.")
        self.names = names
        self.without = names.index(NO_MARKER) if NO_MARKER in names else None
        self._labels = spelt
        parts = [self._pattern(word) for word in sorted(spelt, key=len, reverse=True)]
        self._search = re.compile("|".join(parts), re.IGNORECASE)

    @staticmethod
    def _pattern(word: str) -> str:
        behind = "" if re.fullmatch(f"[{CJK}]+", word) or word.endswith((",", "，")) else r"(?=[\s,])"
        return f"(?:{re.escape(word)}){behind}"

    def split(self, sentence: str) -> tuple[int | None, str]:
        """Class of the marker that a sentence begins with, and the sentence without it, its first letter a capital."""
        found = self._search.match(sentence)
        if found is None:
            return self.without, sentence
        rest = sentence[found.end() :].lstrip(" \t,，、")
        return self._labels[found.group().lower()], rest[:1].upper() + rest[1:]


def read_markers(path: str) -> Markers:
    """The markers of a file, one a line.

    Raises:
        ZooError: it cannot be read, or is no list of markers, naming the option.
    """
    try:
        numbered = enumerate(read_lines(Path(resolve(path)).expanduser()), start=1)
        lines = [(number, name) for number, line in numbered if (name := line.strip())]
        return Markers([name for _, name in lines], path, [number for number, _ in lines])
    except ZooError as error:
        raise ZooError(f"--markers: {error}") from error


def discourse_pairs(
    paragraphs: Iterable[str],
    markers: Markers,
    shortest: int = 3,
    longest: int = 32,
    left_out: Counter[str] | None = None,
) -> Iterator[Pair]:
    """Adjacent sentences of a paragraph whose second begins with a marker, which is taken away.

    Args:
        paragraphs: the text.
        markers: the classes.
        shortest: fewest words (or Chinese characters) of either sentence, the marker not counted.
        longest: most of them.
        left_out: where pairs that are shorter or longer are counted.
    """
    left_out = Counter() if left_out is None else left_out
    for paragraph in paragraphs:
        sentences = [paragraph[start:end] for start, end in sentence_spans(paragraph)]
        for first, second in itertools.pairwise(sentences):
            label, rest = markers.split(second)
            if label is None:
                continue
            if all(shortest <= len(_UNIT.findall(s)) <= longest for s in (first, rest)):
                yield Pair(first, rest, label)
            else:
                left_out[f"with a sentence that is not of {shortest} to {longest} words"] += 1


def at_most(pairs: Iterable[Pair], maximum: int) -> list[Pair]:
    """Pairs in order, of each class at most ``maximum``: those whose hashes are lowest, whatever their order."""
    kept: dict[int, list[tuple[int, int, Pair]]] = {}
    for number, pair in enumerate(pairs):
        digest = hashlib.blake2b(f"{pair.first}\n{pair.second}".encode("utf-8", "replace"), digest_size=8).digest()
        heap = kept.setdefault(pair.label, [])
        item = (-int.from_bytes(digest), number, pair)  # the first of a heap is its highest hash
        if len(heap) < maximum:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            heapq.heapreplace(heap, item)
    return [pair for _, _, pair in sorted((item for heap in kept.values() for item in heap), key=lambda item: item[1])]


def relevance_pairs(files: Iterable[str], left_out: Counter[str] | None = None) -> Iterator[Pair]:
    """Queries and titles of QBQTC: JSON lines with ``query``, ``title`` and a ``label`` of 0 to 2, 2 = very relevant.

    Blank lines are passed over. Only a line feed ends a line: U+2028 and U+0085 may stand in a title.

    Args:
        files: their names, or globs.
        left_out: where records of which one text is empty are counted.

    Raises:
        ZooError: a file or a line that is something else.
    """
    left_out = Counter() if left_out is None else left_out
    for path in [path for name in files for path in _named(name)]:
        for number, record in read_records(path, ("query", "title", "label")):
            pair = _relevance_pair(record, f"{path}, line {number}")
            if pair.first and pair.second:
                yield pair
            else:
                left_out["without a query or a title"] += 1


def _named(name: str) -> list[Path]:
    """The file of that name, or those that a glob matches."""
    path = Path(resolve(name)).expanduser()
    return matching(name, path, "--files") if is_glob(name) and not path.exists() else [path]


def _relevance_pair(record: dict[str, Any], where: str) -> Pair:
    """The pair of one record."""
    first, second = (record_text(record[name], name, where).strip() for name in ("query", "title"))
    return Pair(first, second, _RELEVANCE - 1 - _relevance_label(record["label"], where))


def _relevance_label(label: Any, where: str) -> int:
    """0, 1 or 2: a whole number, or its digit as text, which QBQTC has."""
    known = [str(number) for number in range(_RELEVANCE)]
    digits = str(label).strip() if isinstance(label, (int, str)) and not isinstance(label, bool) else ""
    if digits not in known:
        raise ZooError(f"{where}: label {json.dumps(label, ensure_ascii=False)}; 0, 1 or 2 is needed.")
    return int(digits)


class Made(NamedTuple):
    """What was made.

    Args:
        pairs: in the order of the text.
        names: of the classes.
        left_out: how many pairs were left out, by what was wrong with them.
    """

    pairs: list[Pair]
    names: list[str]
    left_out: Counter[str]


def make_pairs(config: PairsConfig) -> Made:
    """The pairs that are asked for."""
    left_out: Counter[str] = Counter()
    if config.kind == "relevance":
        files = [config.files] if isinstance(config.files, str) else config.files
        names, maximum = ["strong", "weak", "none"], config.maximum
        found = relevance_pairs(files, left_out)
    else:
        markers = read_markers(config.markers)
        names, maximum = markers.names, _DISCOVERY if config.maximum is None else config.maximum
        documents = iter_documents(CorpusConfig(files=config.files))
        paragraphs = (line for document in documents for line in document.lines)
        found = discourse_pairs(paragraphs, markers, config.shortest, config.longest, left_out)
    if maximum is None:
        return Made(list(found), names, left_out)
    counts: Counter[int] = Counter()
    pairs = at_most(_counted(found, counts), maximum)
    counts.subtract(pair.label for pair in pairs)
    if counts.total():
        more = sum(count > 0 for count in counts.values())
        left_out[f"of {more} {'class' if more == 1 else 'classes'} beyond --maximum {maximum:,}"] = counts.total()
    return Made(pairs, names, left_out)


def _counted(pairs: Iterable[Pair], counts: Counter[int]) -> Iterator[Pair]:
    """The pairs, counted by class as they pass."""
    for pair in pairs:
        counts[pair.label] += 1
        yield pair


def pairs_command(argv: list[str]) -> int:
    """``zoo pairs discourse|relevance --files FILE --output FILE.jsonl``."""
    kind, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    if kind is not None and kind not in _KINDS:
        raise ZooError(f"zoo pairs has no kind {kind!r}.{nearest(kind, _KINDS)} There are {' and '.join(_KINDS)}.")
    values = {"kind": kind} if kind else {}
    config = load_settings(PairsConfig, rest, "zoo pairs discourse|relevance", "pairs", values).value
    pairs, names, left_out = make_pairs(config)
    without = f"left out: {', '.join(f'{count:,} pairs {why}' for why, count in left_out.items())}" if left_out else ""
    if not pairs:
        needed = "records with a query, a title and a label are needed"
        hint = needed if config.kind == "relevance" else "more text, other markers or a higher --longest may help"
        raise ZooError(f"no pair was found in {config.files}{f' ({without})' if without else ''}: {hint}.")
    if {names[pair.label] for pair in pairs} == {NO_MARKER}:
        raise ZooError(
            f"no sentence of {config.files} begins with one of the {len(names) - 1} markers of {config.markers}. Are "
            "they in the language of the text? zoo:sample/markers/en.txt is English, zoo:sample/markers/zh.txt Chinese."
        )
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(Path(config.output)) as stream:
        stream.write("".join(pair.line + "\n" for pair in pairs).encode("utf-8"))
    counts = Counter(pair.label for pair in pairs)
    print(f"{config.output}: {len(pairs):,} pairs of {len(counts)} of {len(names)} classes (num_labels: {len(names)})")
    for label, count in counts.most_common():
        print(f"{count:>8,}  {label:>3}  {names[label]}")
    if without:
        print(without)
    return 0

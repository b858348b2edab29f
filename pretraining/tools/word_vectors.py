"""Word vectors: of a run or a file; what is near to what, and how well that agrees with people's judgement."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pretraining.arrays import Ints
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.model import tokens_by_id
from zoo.core.characters import CharacterEncoder
from zoo.errors import ZooError
from zoo.model_folder import load_core
from zoo.storage.user_files import read_lines
from zoo.storage.vector_files import Floats, read_vector_file

_AT_ONCE = 256  # questions that are compared with all words at once
SYNTACTIC = "gram"
"""How names of sections begin whose questions are about grammar (word2vec's questions-words)."""


class SimilarityResult(NamedTuple):
    """Agreement with one list of judged pairs.

    Args:
        pairs: in the list.
        found: of which both words have a vector.
        correlation: Spearman's, of the pairs that were found; NaN of fewer than two.
    """

    pairs: int
    found: int
    correlation: float


class SectionResult(NamedTuple):
    """Analogies of one section.

    Args:
        name: of the section.
        questions: in it.
        asked: whose four words have a vector.
        right: answered rightly.
    """

    name: str
    questions: int
    asked: int
    right: int


@dataclass
class WordVectors:
    """Words and their vectors.

    Args:
        words: V of them.
        vectors: (V, width) float32.
        source: where they come from, for messages.
    """

    words: list[str]
    vectors: Floats
    source: str

    def __post_init__(self) -> None:
        """Raise ZooError if there are none, or a word has two."""
        if not self.words:
            raise ZooError(f"{self.source} has not a single word.")
        self.number = dict[str, int]()
        for number, word in enumerate(self.words):
            if (before := self.number.setdefault(word, number)) != number:
                raise ZooError(f"{self.source}: {word!r} has two vectors, number {before + 1} and {number + 1}.")
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.unit: Floats = (self.vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)

    def find(self, word: str) -> int | None:
        """The number of a word as it is written, or else in small letters; ``None`` = it has no vector."""
        found = self.number.get(word)
        return self.number.get(word.lower()) if found is None else found

    def of(self, word: str) -> int:
        """The number of a word.

        Raises:
            ZooError: it has no vector; names the words that are written most like it.
        """
        if (found := self.find(word)) is not None:
            return found
        alike = [other for other in self.words if other[:1] == word[:1].lower() or other[:1] == word[:1]]
        close = difflib.get_close_matches(word.lower(), alike, n=3, cutoff=0.6)
        hint = f" Written most like it: {', '.join(close)}." if close else ""
        raise ZooError(f"{self.source} has no vector of {word!r} ({len(self.words):,} words).{hint}")

    def nearest(self, word: str, count: int) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosine with that of ``word``, and the cosines."""
        own = self.of(word)
        cosines = self.unit @ self.unit[own]
        cosines[own] = -np.inf
        count = min(count, len(self.words) - 1)
        best = np.argpartition(-cosines, count - 1)[:count] if count else np.zeros(0, dtype=np.int64)
        return [(self.words[n], float(cosines[n])) for n in sorted(best, key=lambda n: (-cosines[n], n))]

    def similarity(self, path: Path) -> SimilarityResult:
        """Agreement of cosines with a list of judged pairs: a line has two words and a number.

        Raises:
            ZooError: a line is something else.
        """
        total, places, scores = 0, list[tuple[int, int]](), list[float]()
        for first, second, score in read_judged_pairs(path):
            total += 1
            a, b = self.find(first), self.find(second)
            if a is not None and b is not None:
                places.append((a, b))
                scores.append(score)
        if len(places) < 2:
            return SimilarityResult(total, len(places), float("nan"))
        left, right = np.array(places).T
        cosines = (self.unit[left] * self.unit[right]).sum(1)
        return SimilarityResult(total, len(places), float(spearmanr(cosines, scores)[0]))

    def analogies(self, path: Path, among: int | None = None) -> list[SectionResult]:
        """Answer "a is to b as c is to which word?" by 3CosAdd.

        That is the word whose vector has the largest cosine with b - a + c, where the three words are left out and all
        vectors have length 1.

        Args:
            path: lines of four words, the fourth the answer; a line ``: NAME`` begins a section.
            among: of so many words only, the file's or vocabulary's first.

        Raises:
            ZooError: a line is something else, or there is no question.
        """
        limit, found = among or len(self.words), list[SectionResult]()
        for name, questions in read_analogies(path):
            numbers = [[self.find(word) for word in question] for question in questions]
            known = [four for four in numbers if all(n is not None and n < limit for n in four)]
            right = self._right(np.array(known, dtype=np.int64).reshape(-1, 4), limit)
            found.append(SectionResult(name, len(questions), len(known), right))
        return found

    def _right(self, questions: Ints, limit: int) -> int:
        """How many of (Q, 4) questions are answered rightly."""
        right, unit = 0, self.unit[:limit]
        for start in range(0, len(questions), _AT_ONCE):
            part = questions[start : start + _AT_ONCE]
            a, b, c, answer = part.T
            scores: NDArray[np.float32] = (unit[b] - unit[a] + unit[c]) @ unit.T
            np.put_along_axis(scores, part[:, :3], -np.inf, axis=1)
            right += int((scores.argmax(1) == answer).sum())
        return right


def read_judged_pairs(path: Path) -> Iterator[tuple[str, str, float]]:
    """Two words and their score from each line, white space between them."""
    some = False
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            first, second, score = parts[0], parts[1], float(parts[2])
            if len(parts) != 3 or not np.isfinite(score):
                raise ValueError
        except (ValueError, IndexError) as error:
            raise ZooError(
                f"{path}, line {number}: two words and a number belong here; found {line[:60]!r}."
            ) from error
        some = True
        yield first, second, score
    if not some:
        raise ZooError(f"{path} has no pair of words.")


def read_analogies(path: Path) -> list[tuple[str, list[list[str]]]]:
    """Questions of four words by section, in the file's order."""
    sections = list[tuple[str, list[list[str]]]]()
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split()
        if parts and parts[0].startswith(":"):
            sections.append((line.strip().lstrip(":").strip(), []))
        elif parts:
            if len(parts) != 4:
                raise ZooError(
                    f"{path}, line {number}: four words belong here, or `: NAME` of a section; found {line[:60]!r}."
                )
            if not sections:
                sections.append((path.stem, []))
            sections[-1][1].append(parts)
    if not any(questions for _, questions in sections):
        raise ZooError(f"{path} has no question of four words.")
    return sections


# --- where vectors come from -----------------------------------------------------------------------------------------


def open_word_vectors(source: str) -> WordVectors:
    """Vectors of a file in word2vec's formats, or the token table of a model folder, special tokens left out.

    Raises:
        ZooError: neither, or a core that reads characters and has no table.
    """
    path = Path(source)
    if path.is_file():
        named = read_vector_file(path)
        return WordVectors(named.names, named.vectors, source)
    core, _ = load_core(path)
    if isinstance(core.embeddings.word_embeddings, CharacterEncoder):
        raise ZooError(f"{source} reads words by their characters and has no table of vectors.")
    tokenizer = load_tokenizer(path)
    table = core.token_embedding.detach().numpy()
    words = tokens_by_id(tokenizer)
    kept = [n for n in word_ids(tokenizer) if n < len(table) and words[n]]
    return WordVectors([words[n] for n in kept], table[kept], source)


def word_ids(tokenizer: ZooTokenizer) -> list[int]:
    """Ids of the tokens that are no special ones."""
    special = set(tokenizer.vocabulary.special_ids)
    return [number for number in range(tokenizer.vocabulary.size) if number not in special]


def totals(sections: Sequence[SectionResult]) -> list[SectionResult]:
    """The sum of all sections and, where some are about grammar and some are not, the sum of either kind."""

    def added(name: str, parts: Sequence[SectionResult]) -> SectionResult:
        counts = np.sum([(part.questions, part.asked, part.right) for part in parts], axis=0).tolist()
        return SectionResult(name, *counts)

    grammar = [part for part in sections if part.name.startswith(SYNTACTIC)]
    meaning = [part for part in sections if not part.name.startswith(SYNTACTIC)]
    kinds = [added("semantic", meaning), added("syntactic", grammar)] if grammar and meaning else []
    return [*kinds, added("total", sections)]

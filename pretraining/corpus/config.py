"""Settings of a corpus: where the text is, and how it becomes sentences and words."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pretraining.annotations.base import Annotator, RecordAnnotator, TextAnnotator
from pretraining.text.segmenter import SegmenterName
from zoo.errors import ZooError, nearest
from zoo.values import UserPath, check_fields

LANGUAGE = "language"
"""Array of the store with each token's language."""
MOST_LANGUAGES = 127


@dataclass(frozen=True)
class CorpusConfig:
    """Where the text is, and how it becomes sentences and words.

    Args:
        files: a file, a folder (searched through, sorted by name), a glob, these on an object store (``s3://...``, any
            URL of ``fsspec``, which is copied to the user's cache), a hub id of ``datasets``
            (``wikitext``, ``org/name``), ``zoo:sample/en`` (text that ships with the package), or a list of
            these, read in the order given.
        text_field: field of JSON lines, Parquet files and hub data sets that holds the text: a string, or, in JSON
            lines, a list of strings that are a sentence each (utterances of a dialogue, the two texts of a pair).
        sentences: ``rule`` (:mod:`pretraining.text.sentences`) or ``line`` (one sentence per line).
        segmenter: where Chinese words come from: ``none``, ``rjieba``, ``space`` (segmented already).
        user_dictionary: words for rjieba to know besides its own.
        split: split of a hub data set.
        subset: configuration of a hub data set.
        languages: language of each entry of ``files``; or of a parallel corpus its two, the source's first. The store
            then keeps each token's (array ``language``: number in the list of languages, from 1).
        parallel: ``files`` are translations (:mod:`pretraining.corpus.parallel`): two files with as many lines,
            ``[SOURCE, TARGET]``, or tables (``.tsv``) whose first two columns are a pair. Each pair is a document of
            two sentences.
        annotations: what fills the store's arrays of these names (:mod:`pretraining.annotations`).
    """

    files: UserPath | list[UserPath]
    text_field: str = "text"
    sentences: Literal["rule", "line"] = "rule"
    segmenter: SegmenterName = "none"
    user_dictionary: UserPath | None = None
    split: str = "train"
    subset: str | None = None
    languages: list[str] | None = None
    parallel: bool = False
    annotations: dict[str, Annotator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ZooError if a value is one that no reader knows."""
        check_fields(self, "corpus")
        for name, known in (("sentences", ("rule", "line")), ("segmenter", ("none", "rjieba", "space"))):
            value = getattr(self, name)
            if value not in known:
                raise ZooError(
                    f"corpus.{name} is {value!r}; it must be one of {', '.join(known)}.{nearest(value, known)}"
                )
        self._check_languages()
        for name, annotator in self.annotations.items():
            where = f"corpus.annotations.{name}"
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ZooError(f"{where}: lower-case letters, digits and _ make the name of an array.")
            if not isinstance(annotator, (TextAnnotator, RecordAnnotator)):
                raise ZooError(
                    f"{where}: {type(annotator).__name__} is neither a TextAnnotator nor a RecordAnnotator annotator."
                )
            if annotator.needs_words and self.segmenter == "none":
                raise ZooError(
                    f"{where}: {type(annotator).__name__} takes the words of a segmenter, and corpus.segmenter is "
                    "'none'; 'rjieba' finds words of Chinese text, 'space' takes those of text that is segmented."
                )

    def _check_languages(self) -> None:
        """Raise ZooError if there is not a language for each text."""
        found = self.languages or []
        if self.parallel and (len(found) != 2 or len(set(found)) != 2 or not all(found)):
            raise ZooError(
                f"corpus.languages is {self.languages!r}; a parallel corpus (corpus.parallel: true) has two, for "
                "example [en, de], in the order of its files or columns."
            )
        entries = 1 if isinstance(self.files, str) else len(self.files)
        if found and not self.parallel and (len(found) != entries or not all(found)):
            raise ZooError(
                f"corpus.languages is {found}, and corpus.files has {entries} entries; each has one language. For "
                "translations set corpus.parallel: true."
            )
        if len(set(found)) > MOST_LANGUAGES:
            raise ZooError(f"corpus.languages names {len(set(found))} languages; {MOST_LANGUAGES} is the most.")
        if found and LANGUAGE in self.annotations:
            raise ZooError(f"corpus.annotations.{LANGUAGE}: corpus.languages makes this array; choose another name.")

    @property
    def language_names(self) -> list[str]:
        """The languages, each once; a token's number is its place here, from 1."""
        return list(dict.fromkeys(self.languages or ()))

    @property
    def recorded(self) -> dict[str, RecordAnnotator]:
        """Annotations that read fields of JSON records."""
        return {name: a for name, a in self.annotations.items() if isinstance(a, RecordAnnotator)}

    @property
    def spec(self) -> dict[str, Any]:
        """Plain values that make it again in another process, annotators by their own specs."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**plain, "annotations": {name: annotator.spec for name, annotator in self.annotations.items()}}

"""What the beginnings of a corpus tell before any work is done on it."""

from __future__ import annotations

import itertools
from typing import Any

from pretraining.annotations.to_tokens import Annotations
from pretraining.corpus.chunks import read_chunks
from pretraining.corpus.config import CorpusConfig
from pretraining.corpus.parallel import count_pairs
from pretraining.corpus.records import parse_chunk
from pretraining.corpus.sources import Source
from pretraining.text.segmenter import count_cjk, count_spaces_at_cjk
from zoo.errors import ZooError

_LOOKED_AT = 8  # sources whose beginnings are looked at
ENOUGH_CHARACTERS = 20_000  # characters that tell the language of a text
_FOREIGN = 1_000  # a text in another script has fewer than one Chinese character in so many: names, say
_LEAST_NAMES = 20  # names of entities, not one of which being known tells that they are names of another graph


def some_sources(sources: list[Source]) -> list[Source]:
    """Sources from all over the corpus whose beginnings are looked at."""
    return sources[:: max(len(sources) // _LOOKED_AT, 1)][:_LOOKED_AT]


def check_beginnings(sources: list[Source], corpus: CorpusConfig) -> None:
    """Look at the first chunks of some sources before any work is done.

    Raises:
        ZooError: files of translations that are not aligned, a segmenter that finds nothing to do, texts without the
            fields that annotations read, files of annotators that cannot be read, or names of entities not one of
            which is known.
    """
    for source in sources if corpus.parallel else ():
        count_pairs(source.files, corpus.languages or ())
    annotations = Annotations(corpus.annotations, lowercase=False)
    plain = next((source for source in sources if source.kind == "txt"), None)
    for name, annotator in annotations.recorded.items():
        if plain is not None and annotator.missing == "error":
            raise ZooError(
                f"corpus.annotations.{name} ({type(annotator).__name__}) reads a field of JSON records, and "
                f"{plain.path} is plain text. Give the text as .jsonl, one object per line, or say `missing: none`."
            )
    characters = chinese = spaces = 0
    names: dict[str, list[bool]] = {name: [] for name, a in annotations.recorded.items() if a.marks == "first"}
    for source in some_sources(sources):
        for chunk in itertools.islice(read_chunks(source, corpus), 1):
            for document in parse_chunk(chunk, corpus.text_field, annotations.recorded):
                for line in document.lines if corpus.segmenter != "none" else ():
                    characters += len(line)
                    chinese += count_cjk(line)
                    spaces += count_spaces_at_cjk(line)
                for note in document.notes:
                    for name, known in names.items():
                        known += [code > 0 for _, _, code in note.get(name, ())]
    for name, known in names.items():
        if len(known) >= _LEAST_NAMES and not any(known):
            raise ZooError(
                f"corpus.annotations.{name}: not one of the {len(known):,} entities that the first records name is in "
                "the file of entities. Are they names of the same kind, such as Q42?"
            )
    if corpus.segmenter != "none" and characters >= ENOUGH_CHARACTERS and chinese * _FOREIGN < characters:
        found = f"are only {chinese} Chinese characters" if chinese else "is no Chinese character"
        raise ZooError(
            f"corpus.segmenter is {corpus.segmenter!r}, but there {found} in the first {characters:,} "
            f"of {corpus.files!r}. `corpus.segmenter: none` is for text in other scripts (configs/data/en.yaml)."
        )
    if corpus.segmenter == "space" and chinese >= ENOUGH_CHARACTERS and spaces * 100 < chinese:
        raise ZooError(
            f"corpus.segmenter: space takes words that spaces stand between, and beside {chinese:,} Chinese characters "
            f"of {corpus.files!r} there are {spaces:,} spaces: it is not segmented. `rjieba` finds its words."
        )


def mostly_unknown(share: float, files: Any, path: str | None) -> ZooError:
    """What to do with a text of which the tokenizer knows hardly anything."""
    return ZooError(
        f"{share:.1%} of the tokens of {files} are unknown to the tokenizer{f' of {path}' if path else ''}, which was "
        "not trained on this text: is it of another language? Give text in the tokenizer's language; or, for a run, a "
        "tokenizer for this one: --data.tokenizer.path FOLDER, or one trained on the text: --data.tokenizer.kind "
        "wordpiece --data.tokenizer.path null."
    )

"""``zoo score RUN --pairs FOLDER``: sentences by each objective's own rule: minimal pairs (BLiMP's layout), clozes."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretraining.scoring.scorer import Scorer
from pretraining.text.segmenter import SegmenterName
from zoo.errors import ZooError
from zoo.runtime.processes import keep_heap
from zoo.runtime.progress import Progress
from zoo.settings.load import load_settings
from zoo.storage.files import write_json
from zoo.storage.folders import walk
from zoo.storage.user_files import is_blank, read_records, record_text
from zoo.values import Count, UserPath, check_fields

_CLOZE = ("text", "options", "answer")
_GAP = "___"


@dataclass(frozen=True)
class ScoreConfig:
    """What ``zoo score`` is asked for.

    Args:
        run: a finished run folder of ``python -m pretraining``, or a model folder that ``zoo import`` made.
        pairs: folder of ``*.jsonl`` or ``*.jsonl.gz`` with ``sentence_good`` and ``sentence_bad`` (BLiMP's layout).
        cloze: JSONL file with ``text`` (one gap, written as ``___``), ``options`` and ``answer`` (an option's number).
        limit: items per file.
        batch_size: sentences per call of the model.
        objective: which of the run's objectives, or of the model folder's heads, scores; absent = the first that can.
        segmenter: what finds the words of Chinese text: ``none`` (every character is one), ``rjieba``, ``space`` (they
            have spaces between them); absent = what found those of the run's text, with its user dictionary.
        trust_code: also run objectives from outside the package, which ``run.json`` names.
        output: JSON file for the figures; absent = ``scores.json`` in the folder.
    """

    run: UserPath
    pairs: UserPath | None = None
    cloze: UserPath | None = None
    limit: Count | None = None
    batch_size: Count = 64
    objective: str | None = None
    segmenter: SegmenterName | None = None
    trust_code: bool = False
    output: UserPath | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self)


def score_pairs(scorer: Scorer, folder: Path, limit: int | None, batch_size: int, show: bool) -> dict[str, Any]:
    """Accuracy per paradigm and over all: share of pairs whose good sentence scores higher, ties one half.

    Raises:
        ZooError: no file, a file without a pair, a sentence that is no text or empty.
    """
    files = [path for path in walk(folder, depth=1).files if path.name.endswith((".jsonl", ".jsonl.gz"))]
    if not files:
        raise ZooError(f"{folder} holds no *.jsonl or *.jsonl.gz file of minimal pairs.")
    pairs = {path: _read_pairs(path, limit) for path in files}  # all of them, before the first is scored
    progress, paradigms = Progress("pairs", show), {}
    for number, (path, items) in enumerate(pairs.items(), 1):
        texts = [good for good, _ in items] + [bad for _, bad in items]
        good, bad = np.split(scorer.score(texts, batch_size), 2)
        wins = (good > bad) + 0.5 * (good == bad)
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        paradigms[name] = {"accuracy": float(wins.mean()), "pairs": len(items), "ties": int((good == bad).sum())}
        progress.show(number / len(files), f"{name} {wins.mean():.3f}", last=number == len(files))
    mean = float(np.mean([p["accuracy"] for p in paradigms.values()]))
    ties, count = (sum(p[key] for p in paradigms.values()) for key in ("ties", "pairs"))
    return {"accuracy": mean, "pairs": count, "ties": ties, "paradigms": paradigms, "chance": 0.5}


def _read_pairs(path: Path, limit: int | None) -> list[tuple[str, str]]:
    """The good and the bad sentence of each pair."""
    good, bad = fields = ("sentence_good", "sentence_bad")
    found = []
    for number, item in itertools.islice(read_records(path, fields), limit):
        where = f"{path}, line {number}"
        found.append((_text(item[good], good, where), _text(item[bad], bad, where)))
    if not found:
        raise ZooError(f"{path} holds no pair of sentences.")
    return found


def _text(value: Any, name: str, where: str) -> str:
    """A text with something in it.

    Raises:
        ZooError: it is something else, beginning with ``where``.
    """
    text = record_text(value, name, where)
    if is_blank(text):
        raise ZooError(f"{where}: {name!r} is empty ({text!r}); mend or delete the line.")
    return text


class ClozeItem(NamedTuple):
    """A text with one gap. ``sentences`` has one with each option in it; ``answer`` is the right one's number."""

    sentences: list[str]
    answer: int


def score_cloze(scorer: Scorer, path: Path, limit: int | None, batch_size: int) -> dict[str, Any]:
    """Share of clozes whose right option makes the best sentence, beside the chance of guessing.

    Options that make equally good sentences share the credit: guessing among them is all that the model can do.

    Raises:
        ZooError: no cloze; a text without a gap, an option that is no text, an answer that is no option's number.
    """
    records = itertools.islice(read_records(path, _CLOZE), limit)
    items = [_cloze_item(item, f"{path}, line {number}") for number, item in records]
    if not items:
        raise ZooError(f"{path} holds no cloze.")
    sizes = [len(item.sentences) for item in items]
    scores = scorer.score([text for item in items for text in item.sentences], batch_size)
    best = [part == part.max() for part in np.split(scores, np.cumsum(sizes)[:-1])]
    credits = [float(part[item.answer]) / int(part.sum()) for part, item in zip(best, items, strict=True)]
    ties = sum(int(part.sum()) > 1 for part in best)
    chance = float(np.mean([1 / size for size in sizes]))
    return {"accuracy": float(np.mean(credits)), "items": len(items), "ties": ties, "chance": chance}


def _cloze_item(item: dict[str, Any], where: str) -> ClozeItem:
    """A checked record."""
    text, options, answer = (item[name] for name in _CLOZE)
    gaps = [run for run in re.findall("_+", _text(text, "text", where)) if len(run) == len(_GAP)]
    if len(gaps) != 1:
        found = "more than one" if gaps else "none"
        raise ZooError(f"{where}: 'text' needs one gap, written {_GAP}, and has {found}: {text[:80]!r}")
    if not isinstance(options, list) or len(options) < 2:
        raise ZooError(f"{where}: 'options' is {json.dumps(options)[:80]}; a list of two texts or more is needed.")
    words = [_text(option, "options", where) for option in options]
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(words):
        raise ZooError(
            f"{where}: 'answer' is {json.dumps(answer)[:80]}; the number of an option is needed, 0 to {len(words) - 1}."
        )
    before, after = re.split(f"(?<!_){_GAP}(?!_)", text)
    return ClozeItem([before + word + after for word in words], answer)


def _in_words(result: dict[str, Any], name: str) -> str:
    """Accuracy, chance, and ties where there are some."""
    share, chance, ties = 100 * result["accuracy"], 100 * result["chance"], result["ties"]
    tied = f"; {ties:,} of {result[name]:,} {name} tie and share the credit" if ties else ""
    return f"{share:.2f} % (chance {chance:.2f} %{tied})"


def score_command(argv: list[str]) -> int:
    """``zoo score RUN --pairs FOLDER`` and ``zoo score RUN --cloze FILE``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ScoreConfig, argv, "zoo score RUN", "score").value
    if config.pairs is None and config.cloze is None:
        raise ZooError("nothing to score: give --pairs FOLDER (minimal pairs) or --cloze FILE.")
    keep_heap()
    scorer = Scorer(config.run, config.objective, config.trust_code, config.segmenter)
    words = scorer.segmenter.recipe
    result: dict[str, Any] = {"objective": scorer.name, "run": Path(config.run).name, "segmenter": words}
    result["note"] = scorer.note
    if scorer.note:
        print(f"note: {scorer.note}")
    if config.pairs is not None:
        result["pairs"] = score_pairs(scorer, Path(config.pairs), config.limit, config.batch_size, True)
        print(f"minimal pairs: {_in_words(result['pairs'], 'pairs')} by {scorer.name}")
    if config.cloze is not None:
        result["cloze"] = score_cloze(scorer, Path(config.cloze), config.limit, config.batch_size)
        print(f"cloze: {_in_words(result['cloze'], 'items')} by {scorer.name}")
    target = Path(config.output) if config.output else Path(config.run) / "scores.json"
    write_json(target, result)
    print(f"written to {target}")
    return 0

"""``zoo score RUN --pairs FOLDER``: sentences by each objective's own rule: minimal pairs (BLiMP's layout), clozes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.scoring.scorer import Scorer
from pretraining.text.segmenter import SegmenterName
from zoo.errors import ZooError
from zoo.runtime.progress import Progress
from zoo.settings.load import load_settings
from zoo.storage.files import write_json
from zoo.storage.folders import walk
from zoo.storage.user_files import read_records
from zoo.values import Count, UserPath, check_fields


@dataclass(frozen=True)
class ScoreConfig:
    """What ``zoo score`` is asked for.

    Args:
        run: a finished run folder of ``python -m pretraining``, or a model folder that ``zoo import`` made.
        pairs: folder of ``*.jsonl`` or ``*.jsonl.gz`` with ``sentence_good`` and ``sentence_bad`` (BLiMP's layout).
        cloze: JSONL file with ``text`` (the gap written as ``___``), ``options`` and ``answer`` (an option's number).
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


def read_items(path: Path, fields: tuple[str, ...], limit: int | None) -> Iterator[dict[str, Any]]:
    """JSON objects of a ``.jsonl`` or ``.jsonl.gz`` file that have ``fields``."""
    for _, item in itertools.islice(read_records(path, fields), limit):
        yield item


def score_pairs(scorer: Scorer, folder: Path, limit: int | None, batch_size: int, show: bool) -> dict[str, Any]:
    """Accuracy per paradigm and over all: share of pairs whose good sentence scores higher, ties one half."""
    files = [path for path in walk(folder, depth=1).files if path.name.endswith((".jsonl", ".jsonl.gz"))]
    if not files:
        raise ZooError(f"{folder} holds no *.jsonl or *.jsonl.gz file of minimal pairs.")
    progress, paradigms = Progress("pairs", show), {}
    for number, path in enumerate(files):
        items = list(read_items(path, ("sentence_good", "sentence_bad"), limit))
        texts = [i["sentence_good"] for i in items] + [i["sentence_bad"] for i in items]
        good, bad = np.split(scorer.score(texts, batch_size), 2)
        wins = (good > bad) + 0.5 * (good == bad)
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        paradigms[name] = {"accuracy": float(wins.mean()), "pairs": len(items)}
        progress.show((number + 1) / len(files), f"{name} {wins.mean():.3f}", last=number + 1 == len(files))
    mean = float(np.mean([p["accuracy"] for p in paradigms.values()]))
    return {"accuracy": mean, "paradigms": paradigms, "chance": 0.5}


def score_cloze(scorer: Scorer, path: Path, limit: int | None, batch_size: int) -> dict[str, Any]:
    """Share of clozes whose right option makes the best sentence, beside the chance of guessing."""
    items = list(read_items(path, ("text", "options", "answer"), limit))
    if not items:
        raise ZooError(f"{path} holds no cloze.")
    texts = [item["text"].replace("___", option) for item in items for option in item["options"]]
    sizes = [len(item["options"]) for item in items]
    parts = np.split(scorer.score(texts, batch_size), np.cumsum(sizes)[:-1])
    hits = [float(np.argmax(part) == item["answer"]) for part, item in zip(parts, items, strict=True)]
    return {"accuracy": float(np.mean(hits)), "items": len(items), "chance": float(np.mean([1 / s for s in sizes]))}


def score_command(argv: list[str]) -> int:
    """``zoo score RUN --pairs FOLDER`` and ``zoo score RUN --cloze FILE``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ScoreConfig, argv, "zoo score RUN", "score").value
    if config.pairs is None and config.cloze is None:
        raise ZooError("nothing to score: give --pairs FOLDER (minimal pairs) or --cloze FILE.")
    scorer = Scorer(config.run, config.objective, config.trust_code, config.segmenter)
    words = scorer.segmenter.recipe
    result: dict[str, Any] = {"objective": scorer.name, "run": Path(config.run).name, "segmenter": words}
    result["note"] = scorer.note
    if scorer.note:
        print(f"note: {scorer.note}")
    if config.pairs is not None:
        result["pairs"] = score_pairs(scorer, Path(config.pairs), config.limit, config.batch_size, True)
        print(f"minimal pairs: {100 * result['pairs']['accuracy']:.2f} % (chance 50.00 %) by {scorer.name}")
    if config.cloze is not None:
        result["cloze"] = score_cloze(scorer, Path(config.cloze), config.limit, config.batch_size)
        print(f"cloze: {100 * result['cloze']['accuracy']:.2f} % (chance {100 * result['cloze']['chance']:.2f} %)")
    target = Path(config.output) if config.output else Path(config.run) / "scores.json"
    write_json(target, result)
    print(f"written to {target}")
    return 0

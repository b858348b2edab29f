"""``python benchmarks/reading.py``: labelled files to token ids, the first time and from the cache; time and memory.

    python benchmarks/reading.py [--rows 393000] [--kinds pairs,questions] [--output FILE.json]

``pairs`` are as many and as long as MNLI's: two sentences of 20 and 10 words, in a TSV with twelve columns, cut at 128
tokens. ``questions`` are as SQuAD 1.1's, a fifth as many: one JSON of one line, windows of 384 tokens. Words are random
letters with Zipf's frequencies, so that nearly every text differs; the tokenizer is trained on them (WordPiece).

Each run is a process of its own: it reads, checks and tokenises the training rows as ``python -m finetune`` does, the
second one with the cache that the first one left. ``memory`` is the most that it held beyond what it held before it
read, files that it maps left out. Processor time is what other jobs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import FinetuneSettings
from finetune.data.tasks import shipped_tasks
from finetune.inputs.row_cache import RowCache
from finetune.training.prepared import PreparedTask
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import train_tokenizer
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.init import initialise
from zoo.model_folder import ModelMetadata, save_model_folder

TASKS = {"pairs": "mnli", "questions": "squad"}
PER_PASSAGE = 5  # questions about a passage
COLUMNS = ["index", "promptID", "pairID", "genre", "binary1", "binary2", "parse1", "parse2", "sentence1", "sentence2"]
VOCABULARY = 20_000


class Texts:
    """Random texts of random words."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        letters, sizes = self._rng.integers(97, 123, (60_000, 8)), self._rng.integers(2, 9, 60_000)
        words = [bytes(row[:size].tolist()).decode() for row, size in zip(letters, sizes, strict=True)]
        self._words = list(dict.fromkeys(words))
        shares = 1 / np.arange(1, len(self._words) + 1)
        self._shares = np.cumsum(shares / shares.sum())

    def make(self, mean: int, count: int) -> Iterator[str]:
        """Texts whose numbers of words are lognormal."""
        for _ in range(0, count, 1000):
            sizes: NDArray[np.int64] = np.maximum(self._rng.lognormal(np.log(mean) - 0.18, 0.6, 1000), 3).astype(int)
            drawn = np.searchsorted(self._shares, self._rng.random(sizes.sum()))
            for row in np.split(drawn, np.cumsum(sizes)[:-1]):
                yield " ".join(self._words[min(word, len(self._words) - 1)] for word in row.tolist()) + " ."


def write_pairs(folder: Path, rows: int) -> None:
    """Files in MNLI's layout."""
    texts = Texts(1)
    for name, count, labels in (("train", rows, 1), ("dev_matched", 100, 5)):
        gold = [f"label{number + 1}" for number in range(labels)]
        with (folder / f"{name}.tsv").open("w", encoding="utf-8") as file:
            file.write("\t".join([*COLUMNS, *gold, "gold_label"]) + "\n")
            pairs = zip(texts.make(20, count), texts.make(10, count), strict=True)
            for number, (one, two) in zip(range(count), pairs, strict=False):
                label = ("entailment", "neutral", "contradiction")[number % 3]
                cells = [str(number), str(number), f"{number}e", "fiction", *(one, two) * 3, *[label] * (labels + 1)]
                file.write("\t".join(cells) + "\n")


def write_questions(folder: Path, rows: int) -> None:
    """Files in SQuAD's layout."""
    texts = Texts(2)
    for name, count in (("train-v1.1", max(rows // 5 // PER_PASSAGE, 1)), ("dev-v1.1", 20)):
        asked, data = texts.make(11, count * PER_PASSAGE + 1000), list[dict[str, Any]]()
        for number, passage in zip(range(count), texts.make(120, count), strict=False):
            words = passage.split()
            questions = []
            for own in range(PER_PASSAGE):
                first = own * 7 % max(len(words) - 2, 1)
                start = len(" ".join(words[:first])) + (first > 0)
                answer = {"text": " ".join(words[first : first + 2]), "answer_start": start}
                questions.append({"id": f"{number}-{own}", "question": next(asked), "answers": [answer]})
            data.append({"title": "", "paragraphs": [{"context": passage, "qas": questions}]})
        (folder / f"{name}.json").write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")


def write_model(folder: Path) -> None:
    """A model folder with a tokenizer that is trained on such texts."""
    settings = TokenizerConfig(kind="wordpiece", vocab_size=VOCABULARY)
    tokenizer = train_tokenizer(settings, list(Texts(1).make(20, 20_000)))
    config = CoreConfig(
        vocab_size=tokenizer.vocabulary.size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
    )
    core = make_core(config)
    initialise(core, config, 0, "core.")
    save_model_folder(folder, core, {}, ModelMetadata(config))
    tokenizer.save(folder, config)


def held() -> dict[str, int]:
    """Kilobytes of this process's own memory now, and of all memory at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    return {name: int(facts[name].split()[0]) for name in ("RssAnon", "RssFile", "VmHWM")}


def measured(kind: str, folder: Path) -> dict[str, Any]:
    """Read and tokenise once, in this process."""
    task = shipped_tasks()[TASKS[kind]]
    before, marks = held(), [(time.perf_counter(), time.process_time())]
    prepared = PreparedTask(folder / "model", task, folder / kind, FinetuneSettings(), cache=RowCache(folder / "cache"))
    marks.append((time.perf_counter(), time.process_time()))
    rows = prepared.train
    marks.append((time.perf_counter(), time.process_time()))
    after = held()
    seconds = {
        name: [round(two - one, 2) for one, two in zip(marks[at], marks[at + 1], strict=True)]
        for at, name in enumerate(("read", "ids"))
    }
    return {
        "examples": len(prepared.data.train),
        "rows": len(rows),
        "tokens": int(rows.lengths.sum()),
        **seconds,
        "memory_mb": (after["VmHWM"] - before["VmHWM"]) / 1024,
        "own_mb": (after["RssAnon"] - before["RssAnon"]) / 1024,
    }


def main(argv: list[str]) -> None:
    """Write files, measure in processes, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=393_000, help="pairs; questions are a fifth as many")
    parser.add_argument("--kinds", default="pairs,questions")
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(measured(options.worker[0], Path(options.worker[1]))))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model")
        for kind in options.kinds.split(","):
            (folder / kind).mkdir()
            (write_pairs if kind == "pairs" else write_questions)(folder / kind, options.rows)
            found[kind] = []
            for run in ("first run", "from the cache"):
                command = [sys.executable, __file__, "--worker", kind, str(folder)]
                made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[kind].append(one := json.loads(made.splitlines()[-1]))
                (read, read_cpu), (ids, ids_cpu) = one["read"], one["ids"]
                rate = one["examples"] / max(read_cpu + ids_cpu, 1e-9)
                print(
                    f"{kind}, {run}: {one['examples']:,} examples, {one['rows']:,} rows, {one['tokens']:,} tokens; "
                    f"read {read:.1f} s (processor {read_cpu:.1f}), ids {ids:.1f} s ({ids_cpu:.1f}); "
                    f"{rate:,.0f} examples/s of processor time; memory +{one['memory_mb']:,.0f} MB, "
                    f"own +{one['own_mb']:,.0f} MB",
                    flush=True,
                )
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

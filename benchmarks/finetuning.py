"""``python benchmarks/finetuning.py``: fine-tuning rows/s beside transformers' example scripts as they come.

    python benchmarks/finetuning.py [--tasks mrpc,rte,squad,conll] [--rows 512] [--rounds 3] [--output FILE.json]

Ours is the loop of ``python -m finetune``: batches of rows of like length, padded to the longest, in the precision that
the hardware multiplies fastest (``ours``), and in single precision (``ours-fp32``). The peer is what ``run_glue.py``
does: ``BertForSequenceClassification`` and ``Trainer`` with its defaults, rows padded to 128 tokens
(``pad_to_max_length``), single precision. For questions it is ``run_qa.py``: ``BertForQuestionAnswering``, windows
padded to 384 tokens; for entities ``run_ner.py``: ``BertForTokenClassification``, padded to the longest of a batch.
Both train the same shape from random weights on the same rows, 32 a step (12 windows of questions, as the script's page
does; 8 sentences with entities, Trainer's default), for one epoch, with dropout 0.1 and AdamW. The arms take turns in
one process; a short training of each warms it up.
Rows are tokenised before the clock starts, and Trainer's is read from its first step to its last.

The sentences are random words. The pairs' lengths have the mean and the deviation of GLUE's training rows in words and
punctuation marks, with three template tokens: 50 and 12 in MRPC, 65 and 38 in RTE. They are cut at 128. Questions have
11 words in the mean and passages 130 (SQuAD 1.1), sentences with entities 14.5 (CoNLL-2003).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import throughput
import torch
from numpy.typing import NDArray

from finetune.config import FinetuneSettings
from finetune.data.tasks import KindSpec, Task
from finetune.training.loop import train
from finetune.training.prepared import PreparedTask
from finetune.training.processes import ALONE
from pretraining.tokenizer.load import load_tokenizer
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.init import initialise
from zoo.model_folder import ModelMetadata, save_model_folder
from zoo.runtime.processes import has_gpu, start_processes
from zoo.runtime.progress import Progress

LENGTHS = {"mrpc": (50, 12), "rte": (65, 38), "squad": (145, 55), "conll": (16.5, 11.8)}
"""Mean and deviation of a row's tokens, those of the template among them."""
MAX_LENGTH = {"mrpc": 128, "rte": 128, "squad": 384, "conll": 128}
BATCH = {"mrpc": 32, "rte": 32, "squad": 12, "conll": 8}
PEER = {"mrpc": "run_glue", "rte": "run_glue", "squad": "run_qa", "conll": "run_ner"}
FEWEST, QUESTION = 5, 11  # tokens of a row; words of a question
WARM_UP = 2
Measured = tuple[float, NDArray[np.float64]]
"""Mean loss of a training; its seconds by the clock and of the processor."""

PAIRS = Task(name="pairs", columns=("a", "b"), labels=("no", "yes"), metrics=("accuracy",), epochs=1)
QUESTIONS = Task(
    name="questions",
    columns=("a", "b"),
    kind=KindSpec("finetune.kinds.AnswerSpan"),
    metrics=("squad_f1",),
    max_length=384,
    epochs=1,
)
ENTITIES = Task(
    name="entities",
    columns=("a",),
    labels=("PER", "LOC", "ORG", "MISC"),
    kind=KindSpec("finetune.kinds.Tagging"),
    epochs=1,
)
TASKS = {"mrpc": PAIRS, "rte": PAIRS, "squad": QUESTIONS, "conll": ENTITIES}


def row_lengths(name: str, rows: int) -> NDArray[np.int64]:
    """(rows,) tokens of a row, template tokens among them: lognormal, up to :data:`MAX_LENGTH`."""
    mean, spread = LENGTHS[name]
    sigma = np.sqrt(np.log1p((spread / mean) ** 2))
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - sigma**2 / 2, sigma, rows)
    return np.clip(drawn.round().astype(np.int64), FEWEST if name == "conll" else 16, MAX_LENGTH[name])


def write_rows(name: str, folder: Path, lengths: NDArray[np.int64], vocab: int) -> None:
    """Training and development rows of random words with random labels; of the latter a few."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines = []
    for length in lengths:
        words = [f"w{number}" for number in rng.integers(len(throughput.SPECIAL), vocab, length - 3)]
        half = min(QUESTION, len(words) // 2) if name == "squad" else len(words) // 2
        row: dict[str, Any] = {"a": " ".join(words[:half]), "b": " ".join(words[half:])}
        if name == "squad":
            row["label"] = words[half:][rng.integers(len(words) - half)]
        elif name == "conll":
            tags = ["O" if number else f"B-{ENTITIES.labels[rng.integers(4)]}" for number in rng.integers(0, 5, length)]
            row = {"a": words, "label": tags[: len(words)]}
        else:
            row["label"] = PAIRS.labels[rng.integers(2)]
        lines.append(json.dumps(row) + "\n")
    for part, some in (("train.jsonl", lines), ("dev.jsonl", lines[:4])):
        (folder / part).write_text("".join(some), encoding="utf-8")


def write_model(folder: Path, store: Path, options: argparse.Namespace) -> None:
    """A model folder with random weights and the store's tokenizer."""
    config = CoreConfig(**throughput.core_fields(options))
    core = make_core(config)
    initialise(core, config, 0, "core.")
    save_model_folder(folder, core, {}, ModelMetadata(config))
    load_tokenizer(store).save(folder, config)


def clocks() -> NDArray[np.float64]:
    """(2,) seconds by the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def our_training(prepared: PreparedTask) -> Measured:
    """A training of a fresh model by our loop."""
    model = prepared.model(0).to(ALONE.device)
    start = clocks()
    (loss,) = train(model, prepared, 0, ALONE, Progress("", False)).losses
    return loss, clocks() - start


def peer_rows(name: str, prepared: PreparedTask) -> Any:
    """The same rows as the peer's script maps them; those of entities as long as they are, others padded."""
    import datasets

    batch = prepared.batch("train", np.arange(len(prepared.train)))
    lengths, inputs = batch.inputs.attention_pattern.lengths, batch.inputs
    assert lengths is not None
    assert inputs.token_type_ids is not None
    ids, types = inputs.input_ids, inputs.token_type_ids
    rows = torch.arange(len(ids))[:, None]
    if name == "conll":
        assert batch.slots is not None
        there = batch.slots >= 0
        labels = torch.full(ids.shape, -100)
        labels[rows.expand(there.shape)[there], batch.slots[there]] = batch.targets[0]
        sizes = lengths.tolist()
        columns = {"input_ids": ids, "token_type_ids": types, "labels": labels}
        ragged = {
            key: [row[:size] for row, size in zip(value.tolist(), sizes, strict=True)] for key, value in columns.items()
        }
        return datasets.Dataset.from_dict({**ragged, "attention_mask": [[1] * size for size in sizes]})
    more = (0, MAX_LENGTH[name] - ids.shape[1])
    padded = torch.nn.functional.pad
    mask = (torch.arange(MAX_LENGTH[name]) < lengths[:, None]).long()
    columns = {"input_ids": padded(ids, more), "token_type_ids": padded(types, more), "attention_mask": mask}
    if name == "squad":
        assert batch.slots is not None
        ends = batch.slots.gather(1, batch.targets[1].clamp_min(0))
        columns |= {"start_positions": ends[:, 0], "end_positions": ends[:, 1]}
    else:
        columns["label"] = torch.from_numpy(np.random.default_rng(2).integers(0, 2, len(lengths)))
    return datasets.Dataset.from_dict({key: value.numpy() for key, value in columns.items()})


def peer_training(name: str, options: argparse.Namespace, rows: Any, folder: Path) -> Measured:
    """A training of a fresh model by transformers' Trainer."""
    import transformers

    read: list[NDArray[np.float64]] = []

    class Timer(transformers.TrainerCallback):
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            read.append(clocks())

        def on_train_end(self, *args: Any, **more: Any) -> None:
            read.append(clocks())

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "peer"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH[name],
        learning_rate=2e-5,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    made = {
        "run_glue": transformers.BertForSequenceClassification,
        "run_qa": transformers.BertForQuestionAnswering,
        "run_ner": transformers.BertForTokenClassification,
    }[PEER[name]]
    labels = {"num_labels": 2 * len(ENTITIES.labels) + 1} if name == "conll" else {}
    model = made(transformers.BertConfig(**throughput.core_fields(options), **labels))
    collate: Any = transformers.default_data_collator
    if name == "conll":
        file = str(folder / "model" / "tokenizer.json")
        own = transformers.PreTrainedTokenizerFast(tokenizer_file=file, pad_token=throughput.SPECIAL["pad"])
        collate = transformers.DataCollatorForTokenClassification(own)
    how = {"data_collator": collate, "callbacks": [Timer()]}
    loss = transformers.Trainer(model=model, args=arguments, train_dataset=rows, **how).train().training_loss
    return loss, read[1] - read[0]


def measure(name: str, options: argparse.Namespace, folder: Path, store: Path) -> dict[str, Any]:
    """Examples per second of every arm, round by round, on the rows of one task."""
    lengths, batch, peer = row_lengths(name, options.rows), BATCH[name], PEER[name]
    write_rows(name, folder / "all", lengths, options.vocab)
    write_rows(name, folder / "few", lengths[: WARM_UP * batch], options.vocab)
    write_model(folder / "model", store, options)
    trainings: dict[str, dict[str, Callable[[], Measured]]] = {"all": {}, "few": {}}
    for part, made in trainings.items():
        for arm, precision in (("ours", "auto"), ("ours-fp32", "fp32")):
            settings = FinetuneSettings(lr=2e-5, batch_size=batch, max_length=MAX_LENGTH[name], precision=precision)
            prepared = PreparedTask(folder / "model", TASKS[name], folder / part, settings)
            made[arm] = lambda prepared=prepared: our_training(prepared)
        rows = peer_rows(name, prepared)
        made[peer] = lambda rows=rows: peer_training(name, options, rows, folder)
    found: dict[str, Any] = {arm: {"seconds": [], "losses": []} for arm in trainings["all"]}
    for make in trainings["few"].values():
        make()
    for number in range(options.rounds):
        for arm in list(found)[:: -1 if number % 2 else 1]:
            loss, seconds = trainings["all"][arm]()
            found[arm]["seconds"].append(seconds.tolist())
            found[arm]["losses"].append(loss)
            print(f"{name}: {arm} {options.rows / found[arm]['seconds'][-1][0]:,.0f} rows/s", flush=True)
    return {"mean_length": float(lengths.mean()), "arms": found, **ratios(found, options.rows, peer)}


def ratios(found: dict[str, Any], rows: int, script: str) -> dict[str, Any]:
    """Examples per second, and how many times the peer's ours are, by the clock and by processor time."""
    peer, summary = found[script]["seconds"], {}
    for arm, one in found.items():
        summary[arm] = {"examples_per_second": throughput.spread([rows / clock for clock, _ in one["seconds"]])}
        for place, kind in enumerate(("clock", "processor")):
            pairs = [theirs[place] / own[place] for theirs, own in zip(peer, one["seconds"], strict=True)]
            summary[arm][kind] = throughput.spread(pairs)
    return {"times_peer": summary}


def parse(argv: list[str]) -> argparse.Namespace:
    """Options; the default shape is BERT-mini."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 4, "hidden": 256, "heads": 4, "vocab": 30_522}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--intermediate", type=int, help="default: 4 x hidden")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--tasks", default=",".join(LENGTHS), help=f"lengths of: {', '.join(LENGTHS)}")
    parser.add_argument("--rows", type=int, default=512, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each arm")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    return parser.parse_args(argv, argparse.Namespace(length=max(MAX_LENGTH.values())))


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    options = parse(argv)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if not has_gpu():  # as the command sets them
            start_processes("fp32", options.threads, [], folder)
        store = Path(throughput.make_store(folder / "store", options.vocab, 8, options.length).path)
        for name in options.tasks.split(","):
            found[name] = measure(name, options, folder / name, store)
            for arm, one in found[name]["times_peer"].items():
                speed, clock, processor = (one[key] for key in ("examples_per_second", "clock", "processor"))
                print(
                    f"{name} {arm:10} {speed['median']:7,.0f} rows/s ({speed['min']:,.0f}-{speed['max']:,.0f}), "
                    f"{clock['median']:.2f}x {PEER[name]} ({clock['min']:.2f}-{clock['max']:.2f}), "
                    f"{processor['median']:.2f}x by processor time"
                )
    if options.output:
        record = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "torch": torch.__version__,
            "python": platform.python_version(),
            "found": found,
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

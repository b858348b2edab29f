"""``python benchmarks/finetuning.py``: fine-tuning examples/s beside transformers' ``run_glue.py`` as it comes.

    python benchmarks/finetuning.py [--rows 512] [--rounds 3] [--output FILE.json]

Ours is the loop of ``python -m finetune``: batches of rows of like length, padded to the longest, in the precision that
the hardware multiplies fastest (``ours``), and in single precision (``ours-fp32``). The peer is what ``run_glue.py``
does: ``BertForSequenceClassification`` and ``Trainer`` with its defaults, rows padded to 128 tokens
(``pad_to_max_length``), single precision. Both train the same shape from random weights on the same rows, 32 a step,
for one epoch, with dropout 0.1 and AdamW. The arms take turns in one process; a short training of each warms it up.
Rows are tokenised before the clock starts, and Trainer's is read from its first step to its last.

The sentences are random words. The pairs' lengths have the mean and the deviation of GLUE's training rows in words and
punctuation marks, with three template tokens: 50 and 12 in MRPC, 65 and 38 in RTE. They are cut at 128.
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
from finetune.data.tasks import Task
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

LENGTHS = {"mrpc": (50, 12), "rte": (65, 38)}
MAX_LENGTH, BATCH = 128, 32
WARM_UP = 2 * BATCH
Measured = tuple[float, NDArray[np.float64]]
"""Mean loss of a training; its seconds by the clock and of the processor."""

TASK = Task(name="pairs", columns=("a", "b"), labels=("no", "yes"), metrics=("accuracy",), epochs=1)


def pair_lengths(name: str, rows: int) -> NDArray[np.int64]:
    """(rows,) tokens of both sentences and three template tokens: lognormal, 16 to :data:`MAX_LENGTH`."""
    mean, spread = LENGTHS[name]
    sigma = np.sqrt(np.log1p((spread / mean) ** 2))
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - sigma**2 / 2, sigma, rows)
    return np.clip(drawn.round().astype(np.int64), 16, MAX_LENGTH)


def write_rows(folder: Path, lengths: NDArray[np.int64], vocab: int) -> None:
    """Training and development rows of random words with random labels; of the latter a few."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines = []
    for length in lengths:
        words = [f"w{number}" for number in rng.integers(len(throughput.SPECIAL), vocab, length - 3)]
        half = len(words) // 2
        lines.append(f"{' '.join(words[:half])}\t{' '.join(words[half:])}\t{TASK.labels[rng.integers(2)]}\n")
    for name, part in (("train.tsv", lines), ("dev.tsv", lines[:4])):
        (folder / name).write_text("a\tb\tlabel\n" + "".join(part), encoding="utf-8")


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


def peer_rows(prepared: PreparedTask) -> Any:
    """The same rows as ``run_glue.py`` maps them: three columns, padded to the full length."""
    import datasets

    batch = prepared.batch("train", np.arange(len(prepared.train)))
    lengths, inputs = batch.inputs.attention_pattern.lengths, batch.inputs
    assert lengths is not None
    assert inputs.token_type_ids is not None
    more = (0, MAX_LENGTH - inputs.input_ids.shape[1])
    pad = torch.nn.functional.pad
    columns = {
        "input_ids": pad(inputs.input_ids, more),
        "token_type_ids": pad(inputs.token_type_ids, more),
        "attention_mask": (torch.arange(MAX_LENGTH) < lengths[:, None]).long(),
    }
    labels = np.random.default_rng(2).integers(0, 2, len(lengths))
    return datasets.Dataset.from_dict({**{k: v.numpy() for k, v in columns.items()}, "label": labels})


def peer_training(options: argparse.Namespace, rows: Any, folder: Path) -> Measured:
    """A training of a fresh model by transformers' Trainer."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
    )

    read: list[NDArray[np.float64]] = []

    class Timer(TrainerCallback):
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            read.append(clocks())

        def on_train_end(self, *args: Any, **more: Any) -> None:
            read.append(clocks())

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=2e-5,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    model = BertForSequenceClassification(BertConfig(**throughput.core_fields(options)))
    how = {"data_collator": default_data_collator, "callbacks": [Timer()]}
    loss = Trainer(model=model, args=arguments, train_dataset=rows, **how).train().training_loss
    return loss, read[1] - read[0]


def measure(name: str, options: argparse.Namespace, folder: Path, store: Path) -> dict[str, Any]:
    """Examples per second of every arm, round by round, on the rows of one task."""
    lengths = pair_lengths(name, options.rows)
    write_rows(folder / "all", lengths, options.vocab)
    write_rows(folder / "few", lengths[:WARM_UP], options.vocab)
    write_model(folder / "model", store, options)
    trainings: dict[str, dict[str, Callable[[], Measured]]] = {"all": {}, "few": {}}
    for part, made in trainings.items():
        for arm, precision in (("ours", "auto"), ("ours-fp32", "fp32")):
            settings = FinetuneSettings(lr=2e-5, batch_size=BATCH, max_length=MAX_LENGTH, precision=precision)
            prepared = PreparedTask(folder / "model", TASK, folder / part, settings)
            made[arm] = lambda prepared=prepared: our_training(prepared)
        rows = peer_rows(prepared)
        made["run_glue"] = lambda rows=rows: peer_training(options, rows, folder / "peer")
    found: dict[str, Any] = {arm: {"seconds": [], "losses": []} for arm in trainings["all"]}
    for make in trainings["few"].values():
        make()
    for number in range(options.rounds):
        for arm in list(found)[:: -1 if number % 2 else 1]:
            loss, seconds = trainings["all"][arm]()
            found[arm]["seconds"].append(seconds.tolist())
            found[arm]["losses"].append(loss)
            print(f"{name}: {arm} {options.rows / found[arm]['seconds'][-1][0]:,.0f} examples/s", flush=True)
    return {"mean_length": float(lengths.mean()), "arms": found, **ratios(found, options.rows)}


def ratios(found: dict[str, Any], rows: int) -> dict[str, Any]:
    """Examples per second, and how many times the peer's ours are, by the clock and by processor time."""
    peer, summary = found["run_glue"]["seconds"], {}
    for arm, one in found.items():
        summary[arm] = {"examples_per_second": throughput.spread([rows / clock for clock, _ in one["seconds"]])}
        for place, kind in enumerate(("clock", "processor")):
            pairs = [theirs[place] / own[place] for theirs, own in zip(peer, one["seconds"], strict=True)]
            summary[arm][kind] = throughput.spread(pairs)
    return {"times_run_glue": summary}


def parse(argv: list[str]) -> argparse.Namespace:
    """Options; the default shape is BERT-mini."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 4, "hidden": 256, "heads": 4, "vocab": 30_522}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--intermediate", type=int, help="default: 4 x hidden")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--tasks", default="mrpc,rte", help=f"lengths of: {', '.join(LENGTHS)}")
    parser.add_argument("--rows", type=int, default=512, help="of each training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each arm")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, help="also write everything as JSON")
    return parser.parse_args(argv, argparse.Namespace(length=MAX_LENGTH))


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    options = parse(argv)
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if not has_gpu():  # as the command sets them
            start_processes("fp32", options.threads, [], folder)
        store = Path(throughput.make_store(folder / "store", options.vocab, 8, MAX_LENGTH).path)
        for name in options.tasks.split(","):
            found[name] = measure(name, options, folder / name, store)
            for arm, one in found[name]["times_run_glue"].items():
                speed, clock, processor = (one[key] for key in ("examples_per_second", "clock", "processor"))
                print(
                    f"{name} {arm:10} {speed['median']:7,.0f} examples/s ({speed['min']:,.0f}-{speed['max']:,.0f}), "
                    f"{clock['median']:.2f}x run_glue ({clock['min']:.2f}-{clock['max']:.2f}), "
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

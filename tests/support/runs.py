"""Synthetic run folders, written in the files that real runs leave."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np


def write_run(
    folder: Path,
    final: float = 5.0,
    seed: int = 1,
    terms: tuple[str, ...] = ("masked_lm",),
    finished: bool = True,
    lines: int = 40,
    **facts: Any,
) -> Path:
    """A run whose losses fall from 9 to about ``final``."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    tokens = [4000 * (i + 1) for i in range(lines)]
    log = []
    for i, count in enumerate(tokens):
        loss = final + (9 - final) * math.exp(-4 * i / lines) + noise.normal(0, 0.08)
        log.append(
            {
                "step": i + 1,
                "tokens": count,
                "loss": loss,
                "lr": 1e-3,
                "terms": {t: loss if t.endswith("lm") else 0.69 for t in terms},
            }
        )
        if (i + 1) % 10 == 0:
            figures = {
                t: {"loss": (loss if t.endswith("lm") else 0.6) + 0.1, "accuracy": 0.3, "count": 900} for t in terms
            }
            entry = {"task": "main", "loss": loss, "terms": figures, "documents": 12}
            log.append({"step": i + 1, "tokens": count, "validation": entry})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    timing = [{"step": i + 1, "seconds": 0.1, "tokens_per_second": 40_000} for i in range(lines)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    record = {
        "finished": finished,
        "config": {"edge": "A -> B: a change."},
        "parameters": 1_500_000,
        "tokens": tokens[-1],
        "seconds": 12.5,
        "unigram_entropy": 6.6,
        "frequency_loss": {term: 6.6 for term in terms if term.endswith("lm")},
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "commit": "0123abc",
        "machine": {"cpu": "a <cpu> & more", "cores": 2},
        "seed": {"init": seed, "data": seed},
        **facts,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder

"""Small tables of entity vectors, and facts of small cores that read them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from zoo.config import FusionConfig
from zoo.entities import save_entities

WIDTH = 12
FUSION = FusionConfig(layer_types=("mixed", "full"), entity_size=WIDTH, num_attention_heads=3)


def make_table(folder: Path, count: int = 40, width: int = WIDTH, seed: int = 0) -> Path:
    """Entities Q0, Q1, ... with random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    save_entities(folder, [f"Q{i}" for i in range(count)], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return folder


@cache
def shared_table() -> str:
    """One table for all tests that only read it."""
    return str(make_table(Path(tempfile.mkdtemp(prefix="entities-"))))

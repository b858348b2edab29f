"""Settings, and what they read a text with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pretraining.config import PretrainConfig
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer


class Subject(NamedTuple):
    """Settings, and what they read a text with.

    Args:
        title: what to call them.
        config: the settings.
        tokenizer: the tokenizer.
        home: folder that it lies in.
        store: where other documents come from; ``None`` where a run needs none.
    """

    title: str
    config: PretrainConfig
    tokenizer: ZooTokenizer
    home: Path
    store: Store | None

"""What a text is shown under: a config or run folder, with its tokenizer and the store of other documents."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.config import PretrainConfig


class Subject(NamedTuple):
    """A config or run folder under which a text is shown.

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

"""What only some objectives say: what they need of settings, text and files, and what they tell of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretraining.layouts.base import Layout
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.core.base import Core


class Hooks:
    """The part of an objective that the training step does not call. All of it has a default.

    Attributes:
        required_fields: optional fields of :class:`Examples` that it reads; checked against the layout's
            ``provided_fields``.
        select: which positions it hides or predicts, for objectives that choose some.
        reads_rows: the core reads rows as they are laid out, and targets are of their tokens.
        target_start: role of the special token that a decoder reads first, where the objective makes the targets.
        sparse_gradients: the core's table gets gradients of the rows that a batch reads, not of all.
        score_note: what a reader of its scores must know; empty = nothing.
        unasked: tensors of its targets that ask for nothing, and say only how to compute.
        draws_by_weights: what it puts into a row is drawn by weights, so ``zoo show`` builds the core for it.
    """

    required_fields: frozenset[str] = frozenset()
    select: Selector | None = None
    reads_rows: bool = True
    target_start: str | None = None
    sparse_gradients: bool = False
    score_note: str = ""
    unasked: frozenset[str] = frozenset()
    draws_by_weights: bool = False

    def example_settings(self, name: str, corpus: str) -> tuple[str, str]:
        """For messages: settings below ``corpus`` that give ``name`` its ``required_fields``, and a record of text."""
        return "", ""

    def data_files(self) -> list[Path]:
        """Files beside the text that its rows depend on, checked before any text is prepared. Default: none."""
        return []

    def bind_tokenizer(self, tokenizer: ZooTokenizer) -> None:
        """Take the ids of words and the like, once after :meth:`build` and before rows are corrupted. Default: none."""
        return

    def core_flops(self, rows: int, length: int, tensors: dict[str, Tensor]) -> int:
        """Forward operations of a core of its own on (B, L) tokens, whose targets are ``tensors``. Default: none."""
        return 0

    def bind_core(self, core: Core) -> None:
        """Take what it shares with the core, once after :meth:`build`. Default: nothing."""
        return

    def notes(self, config: CoreConfig) -> list[str]:
        """Lines on what is allowed, and probably not meant. Default: none."""
        return []

    def check_task(self, before: Mapping[str, Hooks]) -> None:
        """Raise ZooError, before any text is read, if the objectives ``before`` it in a task do not suit it."""
        return

    def check_model(self, config: CoreConfig) -> None:
        """Raise ZooError, before any text is read, if core or files beside it do not suit. Default: any will do."""
        return

    def check_layout(self, layout: Layout, length: int) -> None:
        """Raise ZooError, before any text is read, if rows of ``length`` tokens made by ``layout`` do not suit it."""
        return

    def check_store(self, store: Store) -> None:
        """Raise ZooError if it cannot be trained on a text. Default: it can on any from which ``select`` can choose."""
        if self.select is not None:
            self.select.check(store)

    def bind_store(self, store: Store) -> None:
        """Take how often tokens occur and the like, before rows of that text are corrupted. Default: nothing."""
        return

    def save_files(self, folder: Path) -> None:
        """Write what the model folder must keep beside weights and tokenizer. Default: nothing."""
        return

    def describe(self, rows: Examples) -> dict[str, Any]:
        """What ``zoo show`` prints of corrupted rows beyond ids and targets."""
        return {}

"""The objective plug-in: what is hidden from the core, and how its answer is scored."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretraining.choose import Choose
from pretraining.layout import Layout
from pretraining.random import Draw
from pretraining.rows import Rows
from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.inputs import CoreInputs, CoreOutput, Visibility
from zoo.vocabulary import Vocabulary


class LossTerm(NamedTuple):
    """One loss as a sum and a count; only the training loop divides, by the global count.

    Args:
        total: 0-d sum of the losses, in nats.
        count: number of losses summed, as :meth:`Objective.targets` announced it.
        weight: factor in the run's loss.
        row_total: (B,) the same sum by row, for per-document validation losses (no gradient).
        row_count: (B,) number of losses by row.
        correct: 0-d number of right answers, where that is a meaningful figure (no gradient).
    """

    total: Tensor
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    weight: float = 1.0
    row_total: Tensor | None = None
    row_count: Tensor | None = None
    correct: Tensor | None = None


class Targets(NamedTuple):
    """What one objective expects of one batch.

    Args:
        tensors: positions, labels and the like, by name.
        count: number of losses that :meth:`Objective.forward` will sum.
    """

    tensors: dict[str, Tensor]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs


class Batch(NamedTuple):
    """One micro batch, ready for the device.

    Args:
        inputs: the core's inputs.
        targets: tensors by objective name.
        counts: number of losses by objective name; the loop sums them before its first backward.
        tokens: real (non-padding) input tokens.
        documents: (B,) document number of each row.
    """

    inputs: CoreInputs
    targets: dict[str, dict[str, Tensor]]
    counts: dict[str, int]
    tokens: int
    documents: Tensor


class Encode(Protocol):
    """The core, for one batch.

    ``encode()`` runs it on the batch's inputs, once however many objectives ask; ``encode(inputs)`` runs it on others,
    which an objective makes of :attr:`inputs`, so that the batch's dropout keys are among them.
    """

    inputs: CoreInputs

    def __call__(self, inputs: CoreInputs | None = None) -> CoreOutput:
        """Run the core."""


class Objective(nn.Module, ABC):
    """One pretraining objective: corruption, collation, head, loss, and how it scores a sentence.

    ``corrupt`` notes chosen positions as the (B, L) boolean ``selected`` in ``rows.targets``; `zoo show` marks them.

    Constructor arguments come from YAML (``init_args``); tensors are made in :meth:`build`, when the
    core's facts and the vocabulary are known. Objectives of one task read the same corrupted rows.

    Attributes:
        needs: optional fields of :class:`Rows` that it reads; checked against the layout's ``provides``.
        weight: factor of its loss.
        visibility: how tokens must see each other in a row, ``None`` = any way will do. A fact of the model for
            fine-tuning and scoring; objectives of one task must agree.
        choose: which positions it hides or predicts, for objectives that choose some.
        predicts_tokens: its loss is comparable with the corpus' unigram entropy.
        normalise: ``count`` divides the summed loss by the global count of targets, ``sum`` does not.
    """

    needs: frozenset[str] = frozenset()
    choose: Choose | None = None
    weight: float = 1.0
    visibility: Literal["all", "causal"] | None = None
    normalise: Literal["count", "sum"] = "count"
    predicts_tokens: bool = False

    def example(self, name: str, corpus: str) -> tuple[str, str]:
        """For messages, how it gets what it ``needs``: settings, and a record of the text. Default: nothing to say.

        Args:
            name: the objective's.
            corpus: where the settings of its text are, ``data.corpus`` for one.
        """
        return "", ""

    @abstractmethod
    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head. Raises ZooError where vocabulary or core lack something it needs."""

    def sources(self) -> list[Path]:
        """Files beside the text that its rows depend on, checked before any text is prepared. Default: none.

        Raises:
            ZooError: one is missing or cannot be read.
        """
        return []

    def bind(self, tokenizer: ZooTokenizer) -> None:
        """Take from the tokenizer what the special ids do not say, such as the ids of words. Default: nothing.

        Called once after :meth:`build`, before rows are corrupted.
        """
        return

    def check_model(self, config: CoreConfig) -> None:
        """Refuse a core, or files beside the text, that it cannot be trained with, before any text is read.

        Default: any will do.
        """
        return

    def check_layout(self, layout: Layout, length: int) -> None:
        """Refuse rows of ``length`` tokens made by ``layout``, before any text is read. Default: any will do."""
        return

    def check_store(self, store: Store) -> None:
        """Refuse prepared text that it cannot be trained on, before anything else is done. Default: any will do."""
        if self.choose is not None:
            self.choose.check(store)

    def choosing(self, choose: Choose) -> Self:
        """The same objective, with the same head and loss, choosing other positions: for a task that says so."""
        if self.choose is None:
            raise ZooError(f"{type(self).__name__} chooses no positions, so a task cannot choose others for it.")
        other = copy.copy(self)
        other.needs = (self.needs - self.choose.needs) | choose.needs
        other.choose = choose
        return other

    def save_files(self, folder: Path) -> None:
        """Write what the model folder must keep beside weights and tokenizer. Default: nothing."""
        return

    def corrupt(self, rows: Rows, draw: Draw) -> Rows:
        """Whole-batch, pure, on the CPU: hide things, and note in ``rows.targets`` what was there."""
        return rows

    def inputs(self, rows: Rows, inputs: CoreInputs) -> CoreInputs:
        """Amend the core's inputs (visibility, second stream, task ids). Default: as they are."""
        return inputs

    @abstractmethod
    def targets(self, rows: Rows) -> Targets:
        """What is predicted of these rows, and how many losses that makes."""

    @abstractmethod
    def forward(self, encode: Encode, embedding: Tensor, batch: Targets) -> LossTerm:
        """Loss of one batch.

        Args:
            encode: runs the core; shared between the objectives of a task.
            embedding: (V, E) the core's token embedding, for tied heads.
            batch: this objective's targets, on the device.

        Returns:
            sum and count; zeros, never NaN, where there is no target.
        """

    def score(self, encode: Encode, embedding: Tensor, rows: Rows) -> NDArray[np.float64]:
        """(B,) log-probability, in nats, that this objective gives each row's text.

        Raises:
            ZooError: this objective does not define one.
        """
        raise ZooError(f"{type(self).__name__} does not say how it scores a sentence.")

    def head_flops(self, targets: int) -> int:
        """Forward operations of the head's matrix products on ``targets`` targets (for budgets in FLOPs)."""
        return 0

    def describe(self, rows: Rows) -> dict[str, Any]:
        """What ``zoo show`` prints of corrupted rows beyond ids and targets."""
        return {}


def base_inputs(rows: Rows) -> CoreInputs:
    """Core inputs of rows before any objective amends them: everything real is visible.

    Where the next row shows the rest of this one again, the part that it remembers sees nothing of that rest.
    """
    length = rows.input_ids.shape[1]
    full = bool((rows.lengths == length).all())
    lengths = None if full else torch.from_numpy(rows.lengths)
    types = None if rows.token_type_ids is None else torch.from_numpy(rows.token_type_ids.astype(np.int64))
    orders = None if rows.reused is None else np.arange(length)[None, :] >= rows.reused[:, None]
    return CoreInputs(
        input_ids=torch.from_numpy(rows.input_ids.astype(np.int64)),
        visible=Visibility(
            lengths=lengths,
            documents=None if rows.token_document is None else torch.from_numpy(rows.token_document),
            orders=None if orders is None else torch.from_numpy(orders.astype(np.int32)),
        ),
        token_type_ids=types,
        task_type_ids=None if rows.task_type_ids is None else torch.from_numpy(rows.task_type_ids),
        reversed=None if rows.reversed is None else torch.from_numpy(rows.reversed),
    )


def collate(rows: Rows, objectives: dict[str, Objective]) -> Batch:
    """Corrupted rows to a batch: inputs amended by every objective, targets and counts by name.

    Raises:
        ZooError: two objectives of a task disagree about who may see whom.
    """
    start = base_inputs(rows)
    inputs = start
    for name, objective in objectives.items():
        amended = objective.inputs(rows, inputs)
        changed_before = inputs.visible is not start.visible
        if changed_before and amended.visible is not inputs.visible:
            raise ZooError(
                f"objective {name!r} and one before it disagree about who may see whom; give each its own task."
            )
        inputs = amended
    targets = {name: objective.targets(rows) for name, objective in objectives.items()}
    return Batch(
        inputs=inputs,
        targets={name: target.tensors for name, target in targets.items()},
        counts={name: target.count for name, target in targets.items()},
        tokens=int(rows.lengths.sum()),
        documents=torch.from_numpy(rows.document),
    )

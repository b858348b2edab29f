"""The objective plug-in: what is hidden from the core, and how its answer is scored."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.masking.base import Selector
from pretraining.objectives.hooks import Hooks
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.heads.cross_entropy import TokenLoss
from zoo.inputs import CoreInputs, CoreOutput, pack_inputs
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

    @classmethod
    def by_row(cls, loss: TokenLoss, targets: Targets, states: Tensor, weight: float) -> Self:
        """The loss of T targets with its sums by row.

        Args:
            loss: of the targets.
            targets: they stand at the flat ``positions`` (T,) of ``states``.
            states: (B, L, ...).
            weight: factor in the run's loss.
        """
        rows, length = states.shape[:2]
        row = targets.tensors["positions"] // length
        zeros = torch.zeros(rows, dtype=torch.float32, device=row.device)
        return cls(
            total=loss.total,
            count=targets.count,
            weight=weight,
            row_total=zeros.index_add(0, row, loss.nll.detach().float()),
            row_count=zeros.index_add(0, row, torch.ones_like(loss.nll, dtype=torch.float32)),
            correct=loss.correct,
        )


class Targets(NamedTuple):
    """What one objective expects of one batch.

    Args:
        tensors: positions, labels and the like, by name.
        count: number of losses that :meth:`Objective.forward` will sum.
        read: flat positions, row * L + column, of all the core's last states that :meth:`Objective.forward` reads, so
            that the last layer need not compute others; ``None`` = it may read any.
    """

    tensors: dict[str, Tensor]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    read: NDArray[np.int64] | None = None

    @classmethod
    def at(cls, positions: NDArray[np.int64], labels: NDArray[np.integer]) -> Self:
        """Labels (T,) expected at flat positions (T,), row * L + column, ascending; no other state is read."""
        tensors = {"positions": torch.from_numpy(positions), "labels": torch.from_numpy(labels.astype(np.int64))}
        return cls(tensors, len(positions), positions)


class Batch(NamedTuple):
    """One micro batch, ready for the device.

    Args:
        inputs: the core's inputs.
        targets: tensors by objective name.
        counts: number of losses by objective name; the loop sums them before its first backward.
        tokens: real (non-padding) tokens of rows and their targets.
        documents: (B,) document number of each row.
    """

    inputs: CoreInputs
    targets: dict[str, dict[str, Tensor]]
    counts: dict[str, int]
    tokens: int
    documents: Tensor


class CoreRunner:
    """The core as objectives see it, for one batch.

    ``run_core()`` runs it on the batch's inputs, once however many objectives ask. ``run_core(inputs)`` runs it on
    others, which an objective makes of :attr:`inputs`, so that the batch's dropout keys are among them.

    Args:
        core: the core, or what stands in for it.
        inputs: the batch's.
        state: what the core remembers from the rows before these.
    """

    def __init__(self, core: Callable[..., CoreOutput], inputs: CoreInputs, state: Any = None) -> None:
        self.core, self.inputs, self.state = core, inputs, state
        self._output: CoreOutput | None = None

    def __call__(self, inputs: CoreInputs | None = None) -> CoreOutput:
        """The core's output."""
        if inputs is not None:
            return self.core(inputs)
        if self._output is None:
            self._output = self.core(self.inputs, self.state)
        return self._output

    @property
    def new_state(self) -> Any:
        """What the core remembers after this batch; ``None`` where no objective ran it on the batch."""
        return None if self._output is None else self._output.state


class Objective(Hooks, nn.Module, ABC):
    """One pretraining objective: corruption, collation, head, loss, and how it scores a sentence.

    Constructor arguments come from YAML (``init_args``); tensors are made in :meth:`build`, when the core's config and
    the vocabulary are known. Objectives of one task read the same corrupted rows. ``corrupt`` notes chosen positions as
    the (B, L) boolean ``selected`` in ``rows.targets``; `zoo show` marks them.

    Attributes:
        weight: factor of its loss.
        attention: how tokens must attend to each other in a row, ``None`` = any way will do. The model's metadata keep
            it for fine-tuning and scoring; objectives of one task must agree.
        predicts_tokens: its loss is comparable with that of knowing the corpus' token frequencies.
        shown: shares of its targets where the core reads a random token, and the target itself; ``None`` = not known.
        normalise: ``count`` divides the summed loss by the global count of targets, ``sum`` does not.
    """

    weight: float = 1.0
    attention: Literal["bidirectional", "causal"] | None = None
    normalise: Literal["count", "sum"] = "count"
    predicts_tokens: bool = False
    shown: tuple[float, float] | None = (0.0, 0.0)

    @abstractmethod
    def build(self, config: CoreConfig, vocabulary: Vocabulary) -> None:
        """Create the head. Raises ZooError where vocabulary or core lack something it needs."""

    def with_selector(self, select: Selector) -> Self:
        """The same objective, with the same head and loss, choosing other positions: for a task that says so."""
        if self.select is None:
            raise ZooError(f"{type(self).__name__} chooses no positions, so a task cannot choose others for it.")
        other = copy.copy(self)
        other.required_fields = (self.required_fields - self.select.required_fields) | select.required_fields
        other.select = select
        return other

    def corrupt(self, rows: Examples, draw: Draw) -> Examples:
        """Whole-batch, pure, on the CPU: hide things, and note in ``rows.targets`` what was there."""
        return rows

    def inputs(self, rows: Examples, inputs: CoreInputs) -> CoreInputs:
        """Amend the core's inputs (attention pattern, second stream, task ids). Default: as they are."""
        return inputs

    @abstractmethod
    def targets(self, rows: Examples) -> Targets:
        """What is predicted of these rows, and how many losses that makes."""

    @abstractmethod
    def forward(self, run_core: CoreRunner, embedding: Tensor, batch: Targets) -> LossTerm:
        """Loss of one batch.

        Args:
            run_core: runs the core; shared between the objectives of a task.
            embedding: (V, E) the core's token embedding, for tied heads.
            batch: this objective's targets, on the device.

        Returns:
            sum and count; zeros, never NaN, where there is no target.
        """

    def score(self, run_core: CoreRunner, embedding: Tensor, rows: Examples) -> NDArray[np.float64]:
        """(B,) log-probability, in nats, that this objective gives each row's text; an error where it gives none."""
        raise ZooError(f"{type(self).__name__} does not say how it scores a sentence.")

    def head_flops(self, targets: int) -> int:
        """Forward operations of the head's matrix products on ``targets`` targets (for budgets in FLOPs)."""
        return 0


def base_inputs(rows: Examples) -> CoreInputs:
    """Core inputs of rows before any objective amends them: every token attends to every real token.

    Where the next row repeats the rest of this one, the part that it remembers does not attend to that rest.
    """
    repeated = None if rows.reuse_length is None else np.arange(rows.shape[1])[None, :] >= rows.reuse_length[:, None]
    positions = rows.arrays.get("position_ids")  # of a layout whose positions begin anew within a row
    return pack_inputs(
        rows.input_ids,
        rows.lengths,
        position_ids=None if positions is None else torch.from_numpy(positions.astype(np.int64)),
        documents=rows.token_document,
        permutation_ranks=None if repeated is None else repeated.astype(np.int32),
        token_types=rows.token_type_ids,
        task_types=rows.task_type_ids,
        reversed=rows.reversed,
    )


def corrupt(rows: Examples, draw: Draw, objectives: dict[str, Objective]) -> Examples:
    """Rows after every objective of a task has hidden what it hides, in the task's order."""
    for objective in objectives.values():
        rows = objective.corrupt(rows, draw)
    return rows


def collate(rows: Examples, objectives: dict[str, Objective]) -> Batch:
    """Corrupted rows to a batch: inputs amended by every objective, targets and counts by name.

    Raises:
        ZooError: two objectives of a task need different attention patterns.
    """
    start = base_inputs(rows)
    inputs = start
    for name, objective in objectives.items():
        amended = objective.inputs(rows, inputs)
        changed_before = inputs.attention_pattern is not start.attention_pattern
        if changed_before and amended.attention_pattern is not inputs.attention_pattern:
            raise ZooError(
                f"objective {name!r} and one before it need different attention patterns; give each its own task."
            )
        inputs = amended
    targets = {name: objective.targets(rows) for name, objective in objectives.items()}
    read = output_positions([target.read for target in targets.values()], *rows.shape)
    return Batch(
        inputs=inputs._replace(output_positions=read),
        targets={name: target.tensors for name, target in targets.items()},
        counts={name: target.count for name, target in targets.items()},
        tokens=int(rows.lengths.sum() + rows.targets.get("target_lengths", np.zeros(1, dtype=np.int64)).sum()),
        documents=torch.from_numpy(rows.document_ids),
    )


def output_positions(read: Sequence[NDArray[np.int64] | None], rows: int, length: int) -> Tensor | None:
    """(B, R) columns of each row whose last states are read, then -1; ``None`` = all, or so many that it saves little.

    Args:
        read: by objective, see :class:`Targets`.
        rows: B.
        length: L.
    """
    known = [positions for positions in read if positions is not None]
    if len(known) < len(read):
        return None
    row, column = np.divmod(np.unique(np.concatenate(known)), length)
    counts = np.bincount(row, minlength=rows)
    if 2 * counts.max(initial=0) > length:
        return None
    found = np.full((rows, counts.max(initial=0)), -1)
    found[row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)] = column
    return torch.from_numpy(found)


def make_batch(parts: Sequence[tuple[Examples, Draw]], objectives: dict[str, Objective], pad: int) -> Batch:
    """Rows to a batch: corrupt them for every objective, put them together, collate.

    Args:
        parts: rows, and the random numbers of their epoch; a batch may span two epochs.
        objectives: the task's, by name.
        pad: id that pads the shorter parts.
    """
    rows = Examples.concatenate([corrupt(part, draw, objectives) for part, draw in parts], pad)
    return collate(rows, objectives)

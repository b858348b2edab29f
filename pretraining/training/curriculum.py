"""How several tasks share a run: one after the other, all at once, or one more in every stage (ERNIE 2.0, section 3.2).

A curriculum gives each task as many iterations as the others and spreads them over stages. It is a table with a row of
parts of the whole for each task; the run's ``stages`` follow from it. Where that is not enough, write ``stages`` out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from zoo.errors import ZooError, nearest
from zoo.values import Amount

Allocation = dict[str, list[Fraction]]
"""Iterations of each task in each stage, as parts of what the task gets in all, or as whole numbers."""


class Part(NamedTuple):
    """One stage.

    Args:
        until: share of the run's budget at which it ends.
        tasks: share of its steps that each task gets.
    """

    until: float
    tasks: dict[str, float]


class Curriculum(ABC):
    """From tasks to stages.

    Args:
        order: in which order tasks come in; absent = that of ``tasks``.
    """

    def __init__(self, order: list[str] | None = None) -> None:
        self.order = order

    @abstractmethod
    def allocation(self, tasks: list[str]) -> Allocation:
        """The table of these tasks, in this order."""

    def stages(self, tasks: list[str], steps: int | None = None) -> dict[str, Part]:
        """Stages by name.

        Args:
            tasks: of the run, in its order.
            steps: the run's budget, where it is one of steps.

        Raises:
            ZooError: an unknown, missing or repeated task, or iterations that do not add up.
        """
        order = tasks if self.order is None else self.order
        _check_order(order, tasks, type(self).__name__)
        return _stages(self.allocation(order))


class Joint(Curriculum):
    """All tasks from the beginning to the end, each with the same share of the steps."""

    def allocation(self, tasks: list[str]) -> Allocation:
        """One stage."""
        return {task: [Fraction(1)] for task in tasks}


class Sequential(Curriculum):
    """One task after the other; earlier ones are not trained any more."""

    def allocation(self, tasks: list[str]) -> Allocation:
        """A stage for each task."""
        return {task: [Fraction(task == other) for other in tasks] for task in tasks}


class Continual(Curriculum):
    """One more task in every stage, while all earlier ones go on (ERNIE 2.0's continual multi-task learning).

    The paper states no rule, only a table for four tasks; this rule gives that table: of T tasks each gets 1/(T + 1) of
    its iterations in every stage after the one that introduces it, and all others there. Four tasks of 50,000
    iterations: 20, 10, 10, 10; 30, 10, 10; 40, 10; 50 thousand (specs: ERNIE 2.0, section 3).
    """

    def allocation(self, tasks: list[str]) -> Allocation:
        """A stage for each task."""
        later, count = Fraction(1, len(tasks) + 1), len(tasks)
        return {
            task: [Fraction(0)] * place + [1 - later * (count - 1 - place)] + [later] * (count - 1 - place)
            for place, task in enumerate(tasks)
        }


class Table(Curriculum):
    """Iterations of each task in each stage, written out as the paper's ablation does.

    Args:
        iterations: for each task its iterations in every stage, 0 where it rests. Where ``train.steps`` is the budget,
            they have to add up to it.
    """

    def __init__(self, iterations: dict[str, list[Amount]]) -> None:
        super().__init__(list(iterations))
        self.iterations = iterations

    def allocation(self, tasks: list[str]) -> Allocation:
        """As written."""
        return {task: list(map(Fraction, row)) for task, row in self.iterations.items()}

    def stages(self, tasks: list[str], steps: int | None = None) -> dict[str, Part]:
        """As for every curriculum; raises ZooError if the table has gaps or numbers that cannot be."""
        rows = self.iterations
        if len({len(row) for row in rows.values()}) > 1:
            found = ", ".join(f"{task} {len(row)}" for task, row in rows.items())
            raise ZooError(f"curriculum: every task needs a number for every stage, 0 where it rests; found {found}.")
        for task, row in rows.items():
            if not row or min(row) < 0 or sum(row) == 0:
                raise ZooError(f"curriculum: {task} = {row}; none below 0, and one above it at least.")
        for number, column in enumerate(zip(*rows.values(), strict=True), start=1):
            if sum(column) == 0:
                raise ZooError(f"curriculum: stage {number} has no iterations of any task; leave it out.")
        total = sum(map(sum, rows.values()))
        if steps is not None and total != steps:
            raise ZooError(
                f"curriculum: the iterations add up to {total:,}, train.steps is {steps:,}: set it to {total:,}, or "
                "change the table."
            )
        return super().stages(tasks, steps)


def _check_order(order: Iterable[str], tasks: list[str], name: str) -> None:
    order = list(order)
    for task in order:
        if task not in tasks:
            raise ZooError(f"curriculum: {name} names task {task!r}.{nearest(task, tasks)}")
        if order.count(task) > 1:
            raise ZooError(f"curriculum: {name} names task {task!r} {order.count(task)} times.")
    if missing := [task for task in tasks if task not in order]:
        raise ZooError(
            f"curriculum: {name} gives {', '.join(missing)} no stage: add it, or take it out of the run (tasks."
            f"{missing[0]}: null)."
        )


def _stages(table: Allocation) -> dict[str, Part]:
    """Stages with the share of each task in them; one is called after the tasks that it brings in."""
    columns = list(zip(*table.values(), strict=True))
    total, done, known, stages = sum(map(sum, columns)), Fraction(0), set[str](), {}
    for number, column in enumerate(columns, start=1):
        own = {task: amount for task, amount in zip(table, column, strict=True) if amount}
        new = [task for task in own if task not in known]
        known.update(own)
        done += sum(own.values())
        name = "all" if len(columns) == 1 else f"{number}-{'-'.join(new) or 'on'}"
        shares = {task: float(amount / sum(own.values())) for task, amount in own.items()}
        stages[name] = Part(float(done / total), shares)
    return stages


def describe_stages(stages: Iterable[tuple[str, float, dict[str, float]]]) -> list[str]:
    """A line for each stage: (name, until, shares), in order."""
    lines, start = [], 0.0
    for name, until, tasks in stages:
        total = sum(tasks.values())
        shares = ", ".join(f"{task} {100 * share / total:.0f} %" for task, share in tasks.items())
        lines.append(f"stage {name}, {100 * start:.0f} to {100 * until:.0f} % of the budget: {shares}")
        start = until
    return lines

"""Averages of a run's weights: of all steps with a decay, or of its last ones."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.values import Probability, Range


class WeightAverage(ABC):
    """Which part of an average the weights after each step get."""

    @abstractmethod
    def share_of_new(self, averaged: int, progress: float) -> float:
        """Share of the new average that is the weights after a step; 0 = the step does not count.

        Args:
            averaged: steps that count so far; after none the share is 1, whatever is returned above 0.
            progress: share of the budget that is used up after the step.
        """


class EMA(WeightAverage):
    """Exponential moving average over all steps (Polyak & Juditsky 1992; as ``torch.optim.swa_utils`` has it).

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow's, or the weights of the first steps would
    stay in the average of a short run.

    Args:
        decay: share of the average that stays in each step; about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, decay: Probability = 0.999) -> None:
        self.decay = decay

    def share_of_new(self, averaged: int, progress: float) -> float:
        """1 - decay, and more at first."""
        return 1.0 - min(self.decay, (1 + averaged) / (10 + averaged))


class TailMean(WeightAverage):
    """The mean over the last share of the steps (Izmailov et al. 2018, arXiv 1803.05407, of every step).

    Args:
        share: of the budget, at its end.
    """

    def __init__(self, share: Annotated[float, Range(above=0, most=1)] = 0.1) -> None:
        if not 0.0 < share <= 1.0:
            raise ZooError(f"share = {share} is a part of the budget and must lie in (0, 1].")
        self.share = share

    def share_of_new(self, averaged: int, progress: float) -> float:
        """All steps that count have equal shares; the last step of a run always counts."""
        return 1.0 / (averaged + 1) if progress > 1.0 - self.share else 0.0


class AveragedWeights:
    """The average of a model's trained parameters, of which every process has its own.

    ``torch.optim.swa_utils.AveragedModel`` would copy the whole model: frozen tables, and what objectives hold.

    Args:
        rule: what each step adds to it.
        model: its parameters are read, and written by :meth:`in_place` only.
    """

    def __init__(self, rule: WeightAverage, model: nn.Module) -> None:
        self.rule = rule
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, averaged: int, progress: float) -> int:
        """Take in the weights after a step, if it counts.

        Args:
            averaged: steps that count so far.
            progress: share of the budget that is used up.

        Returns:
            steps that count now.
        """
        share = self.rule.share_of_new(averaged, progress)
        if share <= 0.0:
            return averaged
        if not averaged:
            self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}
        else:
            weights = [weight.detach() for weight in self.weights.values()]
            torch._foreach_lerp_(list(self.averages.values()), weights, share)
        return averaged + 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the averages, where there are some yet; only sharded ones are copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        from torch.distributed.tensor import DTensor  # takes a second, which reading settings need not

        for name, average in self.averages.items():
            weight = self.weights[name]
            if isinstance(weight, DTensor):  # what other processes gather lies where it is
                self.averages[name] = weight.detach().clone()
                weight.detach().copy_(average)
            else:
                weight.data, self.averages[name] = average, weight.data

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Take the averages of a checkpoint, which has some where steps count already."""
        self.averages = {name: tensors[name].to(weight) for name, weight in self.weights.items() if tensors}

"""Learning-rate schedules: a factor as a function of progress in [0, 1]."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

from zoo.errors import ZooError
from zoo.values import Probability, Share


class Schedule(ABC):
    """A learning-rate factor as a function of progress, so that any kind of budget shares one path."""

    def begin(self, starts: list[float]) -> None:  # noqa: B027  # most schedules have nothing to do here
        """Told, before the first step, the progress at which each stage of the run starts."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Factor of the peak learning rate at ``progress`` in [0, 1] of the budget."""


class WarmupDecay(Schedule):
    """Linear warm-up, then linear, cosine or no decay to zero at the budget's end.

    Args:
        warmup: share of the budget for the warm-up.
        decay: ``linear``, ``cosine`` or ``constant``.
        decay_from: where the decay line starts: ``start`` (BERT's and ALBERT's code: the peak is never quite
            reached and the rate drops slightly when the warm-up ends), ``throughout`` (ELECTRA's code: the same line,
            and the warm-up is multiplied with it) or ``warmup_end`` (RoBERTa, GPT).
        floor: the factor falls no lower after the warm-up.
    """

    def __init__(
        self,
        warmup: Probability = 0.01,
        decay: Literal["linear", "cosine", "constant"] = "linear",
        decay_from: Literal["start", "throughout", "warmup_end"] = "warmup_end",
        floor: Probability = 0.0,
    ) -> None:
        if not 0.0 <= warmup < 1.0:
            raise ZooError(f"warmup = {warmup} is a share of the budget and must lie in [0, 1).")
        self.warmup, self.decay, self.decay_from, self.floor = warmup, decay, decay_from, floor

    def factor(self, progress: float) -> float:
        """0 at the start, ``floor`` (or 1 if constant) at the end."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            decayed = self._decayed(progress) if self.decay_from == "throughout" else 1.0
            return progress / self.warmup * decayed
        return self._decayed(progress)

    def _decayed(self, progress: float) -> float:
        """The decay line."""
        start = self.warmup if self.decay_from == "warmup_end" else 0.0
        done = (progress - start) / (1.0 - start)
        if self.decay == "linear":
            return max(1.0 - done, self.floor)
        if self.decay == "cosine":
            return max(0.5 * (1.0 + math.cos(math.pi * done)), self.floor)
        return 1.0


class Noam(Schedule):
    """Linear warm-up, then 1/sqrt(step), scaled to 1 at the peak (Vaswani et al. 2017, 5.3).

    The paper's rate is d**-0.5 * min(step**-0.5, step * warmup**-1.5), whose peak is :func:`noam_peak`. fairseq's
    ``inverse_sqrt`` starts its warm-up at 1e-7; T5's rate is constant during it, min(1, sqrt(warmup / step)).

    Args:
        warmup: share of the budget for the warm-up.
        start: factor at which the warm-up starts: 0 (the paper), 2e-4 (fairseq, for a peak of 5e-4), 1 (T5).
        per_stage: start again, warm-up and all, with every stage of the run ("warm-up steps for each pretraining task",
            ERNIE 2.0, section 5.1); ``warmup`` is still a share of the whole budget, so all warm-ups are equally long.
    """

    def __init__(self, warmup: Probability = 0.04, per_stage: bool = False, start: Share = 0.0) -> None:
        if not 0.0 < warmup < 1.0:
            raise ZooError(f"warmup = {warmup} is a share of the budget and must lie in (0, 1).")
        self.warmup, self.per_stage, self.start = warmup, per_stage, start
        self._starts = [0.0]

    def begin(self, starts: list[float]) -> None:
        """Where stages start, if they matter."""
        self._starts = sorted(starts) if self.per_stage else [0.0]

    def factor(self, progress: float) -> float:
        """1 at the end of a warm-up, ``start`` where one starts."""
        since = max(progress - max((start for start in self._starts if start <= progress), default=0.0), 0.0)
        if since < self.warmup:
            return self.start + (1.0 - self.start) * since / self.warmup
        return math.sqrt(self.warmup / since)


def noam_peak(width: int, warmup_steps: int) -> float:
    """The paper's learning rate at the end of the warm-up, (width * warmup_steps)**-0.5."""
    return (width * warmup_steps) ** -0.5

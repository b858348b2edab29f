"""What an ablation found: scores, paired comparisons, floors, and what is not finite."""

from __future__ import annotations

from dataclasses import dataclass, field

from ablation.results.runs import FinishedRun


@dataclass(frozen=True)
class Score:
    """An arm's value on a measure; ``sd`` over pretraining seeds, ``None`` for one seed."""

    arm: str
    measure: str
    mean: float
    sd: float | None
    n: int
    by_seed: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference on one measure, over the seeds that both have."""

    arm: str
    reference: str
    measure: str
    n: int
    difference: float
    sd: float | None
    interval: tuple[float, float] | None
    correlation: float | None
    p: float | None
    p_holm: float | None
    p_sign_flip: float
    by_seed: dict[int, float]
    verdict: str
    primary: bool


@dataclass(frozen=True)
class Floor:
    """How far an arm is beyond the floor.

    Args:
        arm: the arm.
        measure: what has to beat the floor.
        beats: the floor.
        better: the better direction of ``measure``.
        n: seeds with both figures.
        lead: mean over seeds of how much better ``measure`` is than the floor; ``None`` for no seed.
        se: its standard error; ``None`` below two seeds.
        clears: whether the lead is above 0 and at least two standard errors.
        by_seed: the lead of each seed.
    """

    arm: str
    measure: str
    beats: str
    better: str
    n: int
    lead: float | None
    se: float | None
    clears: bool
    by_seed: dict[int, float]


@dataclass(frozen=True)
class NotFinite:
    """A run with measures that are not finite; its arm has no score and no comparison on them."""

    arm: str
    seed: int
    folder: str
    measures: list[str]


@dataclass(frozen=True)
class Results:
    """Everything a report says."""

    name: str
    title: str
    claim: str
    reference: str
    primary: str
    better: str
    smallest_effect: float | None
    arms: list[str]
    runs: list[FinishedRun]
    scores: list[Score]
    comparisons: list[Comparison]
    floors: list[Floor] = field(default_factory=list)
    not_finite: list[NotFinite] = field(default_factory=list)

"""Optimisers and learning-rate schedules; class paths such as ``pretraining.optim.AdamW`` name this room."""

from pretraining.optim.average import EMA, TailMean, WeightAverage
from pretraining.optim.learning_rate import Noam, Schedule, WarmupDecay
from pretraining.optim.muon import MuonAdamW
from pretraining.optim.optimizers import AdamW, Lamb

__all__ = [
    "EMA",
    "AdamW",
    "Lamb",
    "MuonAdamW",
    "Noam",
    "Schedule",
    "TailMean",
    "WarmupDecay",
    "WeightAverage",
]

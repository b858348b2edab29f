"""Attention and its patterns; class paths such as ``zoo.attention.SlidingWindow`` name this room."""

from zoo.attention.attention import Attention
from zoo.attention.mixer import TokenMixer
from zoo.attention.sliding_window import SlidingWindow

__all__ = ["Attention", "SlidingWindow", "TokenMixer"]

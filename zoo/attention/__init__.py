"""Attention and its patterns; class paths such as ``zoo.attention.SlidingWindow`` name this room."""

from zoo.attention.attention import Attention
from zoo.attention.local import LocalSelfAttention
from zoo.attention.lsh import LSHSelfAttention
from zoo.attention.mixer import TokenMixer
from zoo.attention.sliding_window import SlidingWindow

__all__ = ["Attention", "LSHSelfAttention", "LocalSelfAttention", "SlidingWindow", "TokenMixer"]

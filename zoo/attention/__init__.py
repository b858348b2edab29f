"""Attention and its patterns; class paths such as ``zoo.attention.SlidingWindow`` name this room."""

from zoo.attention.attention import Attention
from zoo.attention.local import LocalSelfAttention
from zoo.attention.lsh import LSHSelfAttention
from zoo.attention.mixer import TokenMixer
from zoo.attention.patterns.adaptive_span import AdaptiveSpan
from zoo.attention.patterns.convolution import DynamicConvolution, LightConvolution
from zoo.attention.patterns.gaussian import GaussianPrior
from zoo.attention.patterns.persistent import AllAttention
from zoo.attention.patterns.sparse import Fixed, Strided
from zoo.attention.patterns.synthesizer import Synthesizer
from zoo.attention.sliding_window import SlidingWindow

__all__ = [
    "AdaptiveSpan",
    "AllAttention",
    "Attention",
    "DynamicConvolution",
    "Fixed",
    "GaussianPrior",
    "LSHSelfAttention",
    "LightConvolution",
    "LocalSelfAttention",
    "SlidingWindow",
    "Strided",
    "Synthesizer",
    "TokenMixer",
]

"""The one place that chooses the core which a config describes."""

from __future__ import annotations

from zoo.config import CoreConfig
from zoo.core.base import Core
from zoo.core.encoder_decoder import EncoderDecoder
from zoo.core.init import initialise
from zoo.core.lookup import Lookup
from zoo.core.reversible import ReversibleTransformer
from zoo.core.transformer import Transformer


def make_core(config: CoreConfig) -> Core:
    """The core that the config describes, with torch's own initial values; the only place that chooses."""
    from zoo.core.lstm import BidirectionalLSTM  # which builds on this module
    from zoo.core.lstm_decoder import RecurrentEncoderDecoder

    if config.decoder is not None:
        return EncoderDecoder(config) if config.recurrent is None else RecurrentEncoderDecoder(config)
    if config.num_hidden_layers == 0:
        return Lookup(config)
    if config.reversible:
        return ReversibleTransformer(config)
    return Transformer(config) if config.recurrent is None else BidirectionalLSTM(config)


def build_core(config: CoreConfig, seed: int = 0) -> Core:
    """A core with its initial values, keyed by ``seed`` and parameter names."""
    core = make_core(config)
    initialise(core, config, seed, "core.")
    return core

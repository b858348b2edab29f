"""Text to ids: train, load, encode fast; flags of tokens."""

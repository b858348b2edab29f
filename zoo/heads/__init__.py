"""Heads: hidden states in, logits or a loss out."""

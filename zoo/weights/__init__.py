"""Weights in, weights out: two-way tables between the zoo's names and transformers'."""

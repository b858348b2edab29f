"""Ablation: one base, named changes, several seeds in; paired differences and one page out."""

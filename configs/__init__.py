"""Configs that ship with the package: read by path, never imported for code."""

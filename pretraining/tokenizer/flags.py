"""Flags of a token: bits of the uint8 that the store keeps beside each id."""

from __future__ import annotations

WORD_START = 1
"""A word starts here."""
SENTENCE_START = 2
"""A sentence starts here."""
CAPITALISED = 4
"""Part of a word whose first letter was upper case."""

"""Processes, signals, locks, agreement of ranks, the job pool, progress, provenance, text encodings."""

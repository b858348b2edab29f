"""Labelled texts to batches."""

"""Figures and verdicts of an ablation, and its report as Markdown and JSON."""

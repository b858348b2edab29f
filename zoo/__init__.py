"""Sesame Zoo: one readable codebase for the evolution of pretrained language models.

``import zoo`` stays light: nothing heavy is imported until it is asked for.
"""

__version__ = "0.1.0"

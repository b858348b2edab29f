"""Sesame Zoo: one readable codebase for the evolution of pretrained language models.

``import zoo`` stays light: nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

from typing import Any

from zoo.version import __version__

__all__ = ["__version__", "from_transformers", "to_transformers"]
_FROM_HF = ("from_transformers", "to_transformers")


def __getattr__(name: str) -> Any:
    """``zoo.from_transformers`` and ``zoo.to_transformers``, which import transformers when first asked for."""
    if name in _FROM_HF:
        from zoo.hf import convert

        return getattr(convert, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

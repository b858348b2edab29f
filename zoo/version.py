"""The version: on its own, so that any file can read it."""

__version__ = "0.1.0"

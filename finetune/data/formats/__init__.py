"""Layouts of benchmarks that are no tables, by the name that a task's ``file_format`` gives; a file each."""

from __future__ import annotations

from finetune.data.formats.base import RecordFormat

RECORD_FORMATS: dict[str, RecordFormat] = {}
"""Every such layout."""

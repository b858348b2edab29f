"""Layouts of benchmarks that are no tables, by the name that a task's ``file_format`` gives; a file each."""

from __future__ import annotations

from finetune.data.formats.base import RecordFormat
from finetune.data.formats.squad import SQUAD

RECORD_FORMATS: dict[str, RecordFormat] = {"squad": SQUAD}
"""Every such layout."""

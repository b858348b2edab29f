"""Layouts of benchmarks that are no tables, by the name that a task's ``file_format`` gives; a file each."""

from __future__ import annotations

from finetune.data.formats.base import RecordFormat
from finetune.data.formats.c3 import C3
from finetune.data.formats.chid import CHID
from finetune.data.formats.cluener import CLUENER
from finetune.data.formats.conll import CONLL
from finetune.data.formats.mrpc import MRPC
from finetune.data.formats.squad import SQUAD
from finetune.data.formats.wic import WIC
from finetune.data.formats.wsc import WSC

RECORD_FORMATS: dict[str, RecordFormat] = {
    "c3": C3,
    "chid": CHID,
    "cluener": CLUENER,
    "conll": CONLL,
    "mrpc": MRPC,
    "squad": SQUAD,
    "wic": WIC,
    "wsc": WSC,
}
"""Every such layout."""

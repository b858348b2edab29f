"""Settings of ``zoo show``, and the subject of one view: a config or run folder with its tokenizer and text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pretraining.store.token_store import Store
from pretraining.tokenizer.tokenizer import ZooTokenizer
from pretraining.training.config import PretrainConfig
from zoo.errors import ZooError, nearest

MatrixDisplay = bool | Literal["auto"]


@dataclass(frozen=True)
class ShowConfig:
    """What ``zoo show`` is asked for. Any other ``--key value`` is laid over the configs.

    Args:
        text: the text; blank lines end documents. Or a JSON record, as a line of a JSONL file holds it, where a task
            reads roles, classes or entities: ``{"text": ["...", "..."], "role": [0, 1]}``.
        config: configs to show one after the other, by name or file; ``a+b`` merges two of them.
        run: run folders, likewise: their own settings and tokenizer; of an imported model, what its head asks for.
        seed: data seeds, one under the other: ``1`` or ``1,2,3``; absent = the config's.
        epoch: pass over the data.
        rows: rows shown of each seed.
        length: longest row; absent = the config's, or little more than the text where pairs are made.
        others: documents of the task's store that follow the text; absent = 40 where pairs are made, else none.
        task: tasks to show, where there are several; absent = all.
        attention: what attends to what: ``true`` = as a picture, ``false`` = not at all, ``auto`` = as a picture
            where not every token attends to every other one.
        html: write one HTML page there instead.
        trust_code: also run code from outside the package, which a run folder names.
    """

    text: str = ""
    config: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    seed: int | str | None = None
    epoch: int = 0
    rows: int = 3
    length: int | None = None
    others: int | None = None
    task: str | None = None
    attention: MatrixDisplay = "auto"
    html: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        """Raise ZooError if there is nothing to show, or a number is too small."""
        if not self.config and not self.run:
            raise ZooError("nothing to show the text under: --config NAME (see `zoo list`) or --run FOLDER.")
        if not self.text.strip():
            raise ZooError('the text is empty: zoo show --config bert-tiny "The town lies by the river."')
        for name, least in (("rows", 1), ("length", 2), ("others", 0), ("epoch", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ZooError(f"--{name} {value}: at least {least} is needed.")
        _ = self.seeds

    @property
    def seeds(self) -> list[int]:
        """The seeds asked for."""
        words = [] if self.seed is None else str(self.seed).split(",")
        try:
            return [int(word) for word in words]
        except ValueError:
            raise ZooError(f"--seed {self.seed}: whole numbers are needed, for example 1,2,3.") from None

    def chosen_tasks(self, tasks: Iterable[str]) -> list[str]:
        """Those of ``tasks`` that are asked for."""
        known = list(tasks)
        chosen = self.task.split(",") if self.task else known
        for name in chosen:
            if name not in known:
                raise ZooError(f"--task {name}: the tasks are {', '.join(known)}.{nearest(name, known)}")
        return chosen


class Subject(NamedTuple):
    """A config or run folder under which a text is shown.

    Args:
        title: what to call them.
        config: the settings.
        tokenizer: the tokenizer.
        home: folder that it lies in.
        store: where other documents come from; ``None`` where a run needs none.
    """

    title: str
    config: PretrainConfig
    tokenizer: ZooTokenizer
    home: Path
    store: Store | None

"""Settings of ``zoo show``; they load no heavy library, so that ``--help`` is there at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from zoo.errors import ZooError, nearest
from zoo.values import Amount, Count, Range, Seed, UserPath, check_fields

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
    run: list[UserPath] = field(default_factory=list)
    seed: Seed | str | None = None
    epoch: Amount = 0
    rows: Count = 3
    length: Annotated[int, Range(least=2)] | None = None
    others: Amount | None = None
    task: str | None = None
    attention: MatrixDisplay = "auto"
    html: UserPath | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        """Raise ZooError if there is nothing to show, or a number is too small."""
        if not self.config and not self.run:
            raise ZooError("nothing to show the text under: --config NAME (see `zoo list`) or --run FOLDER.")
        if not self.text.strip():
            raise ZooError('the text is empty: zoo show --config bert-tiny "The town lies by the river."')
        check_fields(self)
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

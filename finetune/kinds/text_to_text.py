"""A text that is written of a text: translation, summaries, and labels as words (Raffel et al. 2020, "T5")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.examples import LabelledTexts, SourceTargets, TaskSplits
from finetune.data.tables import TaskTable
from finetune.data.tasks import CLASSIFICATION, KindSpec, Task
from finetune.inputs.batches import EncodedRows
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.rows import Targets, TaskRows, WrittenRows
from finetune.kinds.base import Outputs, TaskKind, most_frequent
from finetune.kinds.classification import labelled_rows
from finetune.metrics import METRICS, TEXT_METRICS, scores, text_scores, text_signatures
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.storage.user_files import is_blank
from zoo.values import Count, NotNegative

NO_LABEL = "no_label"
"""The metric of tasks with labels that says how many answers are none of them."""
_SHOWN = 1000  # targets that are looked at for what the tokenizer makes of them


class TextToText(TaskKind[SourceTargets]):
    """The text of ``label_column`` is written of the text in ``columns``, by a model that was pretrained to write.

    A task without labels has texts there. Where it has labels, the label's word is the target (of GLUE's tasks the
    names on the hub: ``not_equivalent`` for MRPC's 0), and the source opens with the task's name, as T5's. A source of
    several columns, or of a task with labels, names each before its text: ``mrpc sentence1: ... sentence2: ...``.

    Args:
        prefix: what a source opens with; absent = the task's name where there are labels, and nothing where not.
        max_target_length: tokens of a text that is learned or written, template tokens included; labels have their
            own lengths.
        num_beams: beams of the search; 1 = greedy.
        length_penalty: the beams' log-probability is divided by their length to this power.
        language: of the targets, which decides how BLEU finds words (``zh``); absent = by spaces and punctuation.
    """

    METRICS = (*METRICS, *TEXT_METRICS, NO_LABEL)

    def __init__(
        self,
        prefix: str | None = None,
        max_target_length: Count = 128,
        num_beams: Count = 1,
        length_penalty: NotNegative = 1.0,
        language: str | None = None,
    ) -> None:
        self.prefix, self.longest, self.language = prefix, max_target_length, language
        self.num_beams, self.length_penalty = num_beams, float(length_penalty)
        self._tokenizer: ZooTokenizer | None = None
        self._spelled = list[str]()  # each label's word as the tokenizer gives it back

    # ---- what a task must say, and its rows

    def check(self, task: Task) -> None:
        """Raise ZooError unless there are columns of plain texts, and metrics that suit what is written."""
        where = f"task {task.name!r}"
        if task.span_fields:
            raise ZooError(f"{where}: text to text knows no marks or mentions; leave them out.")
        if len(task.labels) == 1 or (task.skip_labels and not task.labels):
            raise ZooError(f"{where} needs two labels or more, or none where its targets are texts of their own.")
        suited = (*METRICS, NO_LABEL) if task.labels else TEXT_METRICS
        for metric in task.metrics:
            if metric not in suited:
                what = "labels" if task.labels else "texts"
                raise ZooError(f"{where}: {metric} does not suit {what}; {', '.join(suited)} would.")
        if "f1" in task.metrics and len(task.labels) != 2:
            raise ZooError(f"{where}: f1 is defined for two labels, not {len(task.labels)}; macro_f1 would work.")
        self.signatures(task)  # says what is not installed

    def metrics(self, task: Task) -> tuple[str, ...]:
        """The task's, and for labels how many answers are none; BLEU, chrF and exact match where a task names none."""
        if not task.labels:
            return task.metrics or TEXT_METRICS
        named = task.metrics or ("accuracy",)
        return named if NO_LABEL in named else (*named, NO_LABEL)

    def signatures(self, task: Task) -> dict[str, str]:
        """Sacrebleu's, of its metrics."""
        return text_signatures(self.metrics(task), self.language)

    def pair(self, task: Task) -> bool:
        """Never: the columns make one text."""
        return False

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> SourceTargets:
        """The rows of a table that have a target, all rows where none is needed."""
        there = labelled or task.label_column in table.columns
        labels, skipped = None, 0
        if task.labels:
            kept, labels, skipped = labelled_rows(task, table, labelled)
            words = words_of(task)
            targets = [words[label] if there else "" for label in labels]
        else:
            kept = list(range(len(table)))
            targets = table.texts(task.label_column) if there else [""] * len(kept)
            if labelled:
                _check_full(task, table, targets)
        table.check_texts(task.columns, kept, task.name)
        columns = [[cells[row] for row in kept] for cells in map(table.texts, task.columns)]
        sources = [self.source(task, texts) for texts in zip(*columns, strict=True)]
        return SourceTargets(
            sources=sources,
            targets=targets,
            labels=labels,
            numbers=table.numbers[np.array(kept, np.int64)],
            skipped=skipped,
            source=table.source,
            labelled=there,
        )

    def source(self, task: Task, texts: Sequence[str]) -> str:
        """What the model reads of a row's texts."""
        if self.prefix is not None:
            opening = self.prefix.strip()
        else:
            opening = (task.model_of or task.name) if task.labels else ""
        if len(texts) == 1 and not task.labels:
            named = list(texts)
        else:
            named = [f"{name}: {text}" for name, text in zip(names_of(task), texts, strict=True)]
        return " ".join([opening, *named] if opening else named)

    def warnings(self, task: Task, splits: TaskSplits[SourceTargets]) -> list[str]:
        """Targets that the model could never write as they stand."""
        if self._tokenizer is None or task.labels:
            return []
        texts = [text for part in (splits.train, splits.evaluation) for text in part.limited(_SHOWN).targets if text]
        lost = [text for text in texts if self._again(text).split() != text.split()]
        if not lost:
            return []
        return [
            f"task {task.name!r}: the tokenizer does not give back {len(lost):,} of {len(texts):,} targets as they "
            f"stand ({lost[0][:40]!r} becomes {self._again(lost[0])[:40]!r}), which counts as mistakes."
        ]

    # ---- the model

    def bind_encoder(self, task: Task, encoder: RowEncoder) -> None:
        """Learn how the model spells words.

        Raises:
            ZooError: two labels are one text to it, or a label none at all.
        """
        self._tokenizer = encoder.tokenizer
        words = words_of(task)
        self._spelled = [self._again(word) for word in words]
        for number, (word, spelled) in enumerate(zip(words, self._spelled, strict=True)):
            first = self._spelled.index(spelled)
            if not spelled or first != number:
                what = "nothing" if not spelled else f"the same as of {words[first]!r}"
                raise ZooError(
                    f"task {task.name!r}: the tokenizer makes of the label {word!r} {what} ({spelled!r}), so that it "
                    "could not be written. Other words would work (hub_labels), or a tokenizer that knows every byte."
                )
        if words:
            rows = self._targets(words, replace(encoder, max_length=1 << 20))
            self.longest = int(rows.lengths.max()) + 1  # one more than the longest label's, so that none is cut to one

    def head_config(self, task: Task) -> dict[str, Any]:
        """The head over tokens that the model has; an answer has as many numbers as a target has tokens at most."""
        return {"kind": "written", "num_labels": self.longest}

    def search(self) -> dict[str, Any]:
        """How answers are written, as :class:`finetune.models.task_model.Search` has it."""
        return {"tokens": self.longest, "num_beams": self.num_beams, "length_penalty": self.length_penalty}

    def encode(self, task: Task, examples: SourceTargets, encoder: RowEncoder) -> WrittenRows:
        """A row for each example."""
        sources = encoder.rows(_plain(examples.sources, examples))
        assert isinstance(sources, EncodedRows)
        targets = None
        if examples.labelled:
            targets = self._targets(examples.targets, replace(encoder, max_length=self.longest))
        return WrittenRows(sources, np.arange(len(examples)), targets=targets)

    def _targets(self, texts: list[str], encoder: RowEncoder) -> EncodedRows:
        rows = encoder.rows(
            LabelledTexts(texts, None, np.zeros(len(texts)), numbers=np.arange(len(texts)), skipped=0, source="targets")
        )
        assert isinstance(rows, EncodedRows)
        return rows

    # ---- training

    def targets(self, examples: SourceTargets, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """Nothing: the model has the targets among its inputs, and gives the loss itself."""
        return ()

    def count(self, rows: TaskRows, chosen: NDArray[np.int64]) -> int:
        """Tokens of the targets."""
        assert isinstance(rows, WrittenRows)
        return 0 if rows.targets is None else int(rows.targets.lengths[chosen].sum())

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """The summed cross-entropy, which the model computed."""
        return scores.sum()

    # ---- answers

    def answers(self, task: Task, examples: SourceTargets, rows: TaskRows, outputs: Outputs) -> list[str]:
        """The texts that were written, of ids with 1 added and 0 behind."""
        assert self._tokenizer is not None
        ids = outputs.astype(np.int64) - 1
        return [self._tokenizer.decode(row[row >= 0].tolist()).strip() for row in ids]

    def scores(self, task: Task, examples: SourceTargets, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics. An answer that is no label is a wrong label: the one after the right one, in their order."""
        metrics = self.metrics(task)
        if examples.labels is None:
            return text_scores(metrics, examples.targets, answers, self.language)
        chosen = self._labels(answers)
        wrong = (examples.labels + 1) % len(task.labels)
        named = [name for name in metrics if name != NO_LABEL]
        found = scores(named, examples.labels, np.where(chosen < 0, wrong, chosen))
        found[NO_LABEL] = float((chosen < 0).mean())
        return {name: found[name] for name in metrics}

    def floors(self, task: Task, train: SourceTargets, evaluation: SourceTargets) -> dict[str, dict[str, float]]:
        """Always the most frequent label of the rows that are scored; of texts, of those that are trained on."""
        if evaluation.labels is None:
            answer = most_frequent(train.targets)
        else:
            answer = self._spelled[int(np.bincount(evaluation.labels).argmax())]
        return {"majority": self.scores(task, evaluation, [answer] * len(evaluation))}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different texts."""
        return len({*answers})

    def written(self, task: Task, examples: SourceTargets, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Row number in the source, gold and predicted text; with labels both are labels, and the text stands behind.

        An answer that is no label is written as an empty one.
        """
        if examples.labels is None:
            rows = [[str(n), *both] for n, *both in zip(examples.numbers, examples.targets, answers, strict=True)]
            return ["id", "gold", "predicted"], rows
        rows = [
            [str(number), task.labels[gold] if examples.labelled else "", self._named(task, label), text]
            for number, gold, label, text in zip(
                examples.numbers, examples.labels, self._labels(answers), answers, strict=True
            )
        ]
        return ["id", "gold", "predicted", "text"], rows

    def submitted(self, task: Task, examples: SourceTargets, answers: Sequence[Any]) -> list[tuple[str, Any]]:
        """Id and prediction; an answer that is no label is sent as the first label, since sites take labels only."""
        first = task.labels[0] if task.labels else ""
        return [(row[0], row[2] or first) for row in self.written(task, examples, answers)[1]]

    def records(self, task: Task, examples: SourceTargets, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """The text; of labels the label, or nothing where it is none, and the text."""
        if examples.labels is None:
            return [{"predicted": text} for text in answers]
        labels = self._labels(answers)
        return [
            {"predicted": self._named(task, label) or None, "text": text}
            for label, text in zip(labels, answers, strict=True)
        ]

    def _labels(self, answers: Sequence[str]) -> NDArray[np.int64]:
        """(N,) numbers of the labels that were written; -1 = it is none."""
        known = {spelled: number for number, spelled in enumerate(self._spelled)}
        return np.array([known.get(text, -1) for text in answers], np.int64)

    @staticmethod
    def _named(task: Task, label: int) -> str:
        return task.labels[label] if label >= 0 else ""

    def _again(self, text: str) -> str:
        """A text through the tokenizer and back."""
        assert self._tokenizer is not None
        return self._tokenizer.decode([int(i) for i in self._tokenizer.encode_batch([text])[0][0]]).strip()


def as_text(task: Task) -> Task:
    """A task of labels as one that is asked and answered in words; one of texts as it is.

    Raises:
        ZooError: its answers are neither.
    """
    own = f"{TextToText.__module__}.{TextToText.__name__}"
    if task.kind.class_path in (own, "finetune.kinds.TextToText"):
        return task
    if task.kind != CLASSIFICATION:
        raise ZooError(
            f"text_to_text writes labels as words, and task {task.name!r} is a {task.kind.class_path}; tasks of kind "
            "finetune.kinds.Classification would work, or a task whose kind is finetune.kinds.TextToText."
        )
    return replace(task, kind=KindSpec("finetune.kinds.TextToText"))


def words_of(task: Task) -> list[str]:
    """What is written for each label: its name on the hub where it has one there, else as the files have it."""
    return list(task.hub_labels or task.labels)


def names_of(task: Task) -> list[str]:
    """What the columns are called in a source: as on the hub, and by number where files have no names for them."""
    columns = task.hub_columns or task.columns
    several = len(columns) > 1
    return [
        name if isinstance(name, str) else f"sentence{place if several else ''}"
        for place, name in enumerate(columns, start=1)
    ]


def _check_full(task: Task, table: TaskTable, targets: Sequence[str]) -> None:
    """Raise ZooError if a row of a task of texts has an empty side."""
    for column, cells in ((task.label_column, targets), *((c, table.texts(c)) for c in task.columns)):
        for row, cell in enumerate(cells):
            if is_blank(cell):
                raise ZooError(
                    f"{table.place(row)}: {str(column)!r} is empty; task {task.name!r} needs a text there, to read and "
                    "to write."
                )


def _plain(texts: list[str], examples: SourceTargets) -> LabelledTexts:
    """Texts as rows of single texts."""
    nothing = np.zeros(len(texts))
    return LabelledTexts(texts, None, nothing, numbers=examples.numbers, skipped=0, source=examples.source)

"""The stretch of a passage that answers a question, or that there is none (extractive question answering)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.data.examples import TaskSplits
from finetune.data.questions import ANSWER_START, Questions, read_table_questions
from finetune.data.tables import Column, TaskTable
from finetune.data.tasks import Task
from finetune.inputs.encoder import RowEncoder
from finetune.inputs.passages import PassageRows, passage_rows
from finetune.inputs.rows import Targets, TaskRows, padded
from finetune.kinds.base import Outputs, TaskKind, most_frequent, rounded
from finetune.metrics.answers import ANSWER_METRICS, answer_scores, best_threshold
from zoo.errors import ZooError
from zoo.values import Amount, Count, Range, check_fields

_BEST = {"squad2_best_em": "squad2_em", "squad2_best_f1": "squad2_f1"}
"""Metrics at the threshold that is best for them on the scored rows, by what they count."""


class FoundAnswer(NamedTuple):
    """What is answered to a question.

    Args:
        predicted: the answer; empty = there is none.
        text: the best stretch of the passage, whether it is answered or not.
        start: its first character in the passage.
        score: sum of its two ends' scores; minus infinity where the passage has no token.
        no_answer: the least score of "no answer" among the windows.
    """

    predicted: str
    text: str
    start: int
    score: float
    no_answer: float


@dataclass(frozen=True)
class AnswerSpan(TaskKind[Questions]):
    """A stretch of a passage for each question; a task's two columns are question and passage.

    Passages are read in windows. The best stretch is the one with the highest score over all windows, as in ``run_qa``:
    a token that stands in two windows counts in each as it is scored there. (BERT's ``run_squad`` takes tokens only
    from the window that has most context around them; scores of one model differ little.)

    Args:
        stride: tokens that neighbouring windows share, but half a window at most.
        max_answer_length: longest answer in tokens.
        n_best: how many of a window's best first tokens are tried with as many best last ones. Where none of these
            pairs is an answer, all pairs are tried.
        unanswerable: a question may have no answer (SQuAD 2.0).
        threshold: how much higher "no answer" must score than the best stretch to be the answer.
    """

    METRICS = (*ANSWER_METRICS, *_BEST)

    stride: Amount = 128
    max_answer_length: Count = 30
    n_best: Count = 20
    unanswerable: bool = False
    threshold: Annotated[float, Range()] = 0.0

    def __post_init__(self) -> None:
        """Raise ZooError if an option is of another type or out of range."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind and not (kind is float and type(value) is int):
                needed = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
                raise ZooError(f"AnswerSpan: {field.name} = {value!r}; {needed} is needed.")
        check_fields(self, "AnswerSpan")

    def check(self, task: Task) -> None:
        """Raise ZooError unless there are a question and a passage, and metrics that suit them."""
        where = f"task {task.name!r}"
        if len(task.columns) != 2:
            raise ZooError(
                f"{where} names {len(task.columns)} columns; two are needed, that of questions and that of passages."
            )
        if task.labels or task.skip_labels or task.span_fields:
            raise ZooError(
                f"{where} answers by stretches of text; labels, skip_labels, marks and mentions mean nothing."
            )
        for metric in task.metrics:
            if metric.startswith("squad2") != self.unanswerable:
                works = [name for name in self.METRICS if name.startswith("squad2") == self.unanswerable]
                raise ZooError(
                    f"{where}: {metric} does not suit unanswerable: {str(self.unanswerable).lower()}; "
                    f"{', '.join(works)} would."
                )

    def metrics(self, task: Task) -> tuple[str, ...]:
        """SQuAD's F1 and exact match, where a task names none."""
        own = ("squad2_f1", "squad2_em", *_BEST) if self.unanswerable else ("squad_f1", "squad_em")
        return task.metrics or own

    def optional_columns(self, task: Task) -> tuple[Column, ...]:
        """Where an answer starts, if a column says it."""
        return (ANSWER_START,) if task.header else ()

    def read(self, task: Task, table: TaskTable, labelled: bool = True) -> Questions:
        """Every row."""
        return read_table_questions(task, table, labelled, self.unanswerable)

    def warnings(self, task: Task, splits: TaskSplits[Questions]) -> list[str]:
        """Answers that are not where they should be."""
        return [*splits.train.warnings(), *splits.evaluation.warnings()]

    def head_config(self, task: Task) -> dict[str, Any]:
        """Scores of first and last token."""
        return {"kind": "span", "num_labels": 2}

    def encode(self, task: Task, examples: Questions, encoder: RowEncoder) -> PassageRows:
        """A row for each window of each question's passage."""
        return passage_rows(examples, encoder, self.stride)

    def targets(self, examples: Questions, rows: TaskRows, chosen: NDArray[np.int64]) -> Targets:
        """(B,) slots of each row, and (B, 2) those of the answer's ends."""
        assert isinstance(rows, PassageRows)
        assert rows.slot_sizes is not None
        return torch.from_numpy(rows.slot_sizes[chosen]), torch.from_numpy(rows.ends[chosen])

    def count(self, rows: TaskRows, chosen: NDArray[np.int64]) -> int:
        """Rows from which something is learned."""
        assert isinstance(rows, PassageRows)
        return max(int((rows.ends[chosen, 0] >= 0).sum()), 1)

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Mean of the two ends' cross-entropy over a row's slots, summed over rows."""
        sizes, ends = targets
        rows = padded(scores, sizes, float("-inf"))
        return functional.cross_entropy(rows, ends, ignore_index=-1, reduction="sum") / 2

    def answers(self, task: Task, examples: Questions, rows: TaskRows, outputs: Outputs) -> list[FoundAnswer]:
        """The best stretch over the windows of each question; of equal ones, that of the first window."""
        assert isinstance(rows, PassageRows)
        best = [FoundAnswer("", "", 0, -np.inf, np.inf)] * len(examples)
        for row, owner in enumerate(rows.owners):
            own = slice(rows.outputs[row], rows.outputs[row + 1])
            characters, scores = rows.characters[own], outputs[own]
            before, token = best[owner], characters[:, 0] >= 0
            no_answer = min(before.no_answer, float(scores[~token].sum()))
            score, first, last = self._best_pair(scores[token], characters[token])
            if score > before.score:
                start, stop = int(characters[token][first, 0]), int(characters[token][last, 1])
                text = examples.passages[owner][start:stop]
                best[owner] = FoundAnswer(text, text, start, score, no_answer)
            else:
                best[owner] = before._replace(no_answer=no_answer)
        return [self._answered(found) for found in best]

    def _best_pair(self, scores: Outputs, characters: NDArray[np.int32]) -> tuple[float, int, int]:
        """Score, first and last token of a window's best stretch; of equal ones the earliest, then the shortest.

        A token of white space only is neither's place.
        """
        if not len(scores):
            return -np.inf, 0, 0
        ends = np.where((characters[:, 1] > characters[:, 0])[:, None], scores, -np.inf)
        few = ends
        if len(ends) > self.n_best:
            least = np.partition(ends, -self.n_best, axis=0)[-self.n_best]
            few = np.where(ends >= least, ends, -np.inf)
        found = _best_band(few, self.max_answer_length)
        return found if found[0] > -np.inf else _best_band(ends, self.max_answer_length)

    def _answered(self, found: FoundAnswer) -> FoundAnswer:
        silent = self.unanswerable and found.no_answer - found.score > self.threshold
        return found._replace(predicted="") if silent else found

    def scores(self, task: Task, examples: Questions, answers: Sequence[Any]) -> dict[str, float]:
        """The metrics; the best threshold's are of the best stretches, whatever is answered."""
        gold = examples.gold()
        made = dict[str, float]()
        for name in self.metrics(task):
            if name not in _BEST:
                made[name] = float(answer_scores(name, gold, [found.predicted for found in answers]).mean())
                continue
            texts = [found.text for found in answers]
            values = answer_scores(_BEST[name], gold, texts)
            silence = np.array([found.no_answer - found.score for found in answers])
            made[name] = best_threshold(values, silence, np.array([bool(own) for own in gold]), texts).score
        return made

    def floors(self, task: Task, train: Questions, evaluation: Questions) -> dict[str, dict[str, float]]:
        """Always "no answer"; where there always is one, the text that most training answers have."""
        texts = [] if self.unanswerable else [own[0].text for own in train.answers if own]
        answer = most_frequent(texts) if texts else ""
        always = [FoundAnswer(answer, answer, 0, 0.0, 0.0)] * len(evaluation)
        return {"majority": self.scores(task, evaluation, always)}

    def distinct(self, answers: Sequence[Any]) -> int:
        """Different texts."""
        return len({found.predicted for found in answers})

    def written(self, task: Task, examples: Questions, answers: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
        """Question's id, first gold answer, predicted answer, the best stretch and its score, that of "no answer"."""
        rows = [
            [name, gold[0] if gold else "", found.predicted, found.text, f"{found.score:.6f}", f"{found.no_answer:.6f}"]
            for name, gold, found in zip(examples.ids, examples.gold(), answers, strict=True)
        ]
        return ["id", "gold", "predicted", "best_text", "score", "no_answer_score"], rows

    def records(self, task: Task, examples: Questions, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """The answer, the best stretch with its characters [start, end), and the scores of it and of "no answer"."""
        return [
            {
                "predicted": found.predicted,
                "best_text": found.text,
                "start": found.start,
                "end": found.start + len(found.text),
                "score": rounded(found.score),
                "no_answer_score": rounded(found.no_answer),
            }
            for found in answers
        ]


def _best_band(ends: Outputs, longest: int) -> tuple[float, int, int]:
    """Best sum of a first and a last token's score, the two at most ``longest`` tokens, and these two.

    Args:
        ends: (T, 2) scores of first and last token.
        longest: tokens of an answer.
    """
    width = min(longest, len(ends))
    behind = np.concatenate([ends[:, 1], np.full(width - 1, -np.inf)])
    sums = ends[:, :1] + np.lib.stride_tricks.sliding_window_view(behind, width)
    first, more = np.unravel_index(int(sums.argmax()), sums.shape)
    return float(sums[first, more]), int(first), int(first + more)

"""A toy task of each further kind, over the words of ``toys``: what is asked for follows from one word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.tasks import KindSpec, Task

WORDS = ["good", "bad", "same", "red", "blue", "green", "a", "b", "c", "d", "strange"]
TAGS = Task(name="tags", columns=("text",), labels=("A", "B"), kind=KindSpec("finetune.kinds.Tagging"), max_length=8)
SPANS = Task(
    name="spans", columns=("question", "passage"), label_column="answer", max_length=16,
    kind=KindSpec("finetune.kinds.AnswerSpan", {"stride": 4}),
)  # fmt: skip
CHOICES = Task(
    name="choices", columns=("passage", "question"), label_column="answer", kind=KindSpec("finetune.kinds.Choice")
)
VALUES = Task(name="values", columns=("a", "b"), kind=KindSpec("finetune.kinds.Regression"), symmetric=True)


def make_kinds(folder: Path, rows: int = 30) -> Path:
    """Files of the tasks: colours are entities, the answer and the right choice, and ``good`` words are counted."""
    rng = np.random.default_rng(0)

    def text(most: int) -> list[str]:
        return [str(word) for word in rng.choice(WORDS, rng.integers(1, most + 1))]

    def row(name: str) -> dict[str, Any]:
        if name == "tags":
            words = text(20)
            tags = {"red": "B-A", "blue": "B-B"}
            return {"text": " ".join(words), "label": [tags.get(word, "O") for word in words]}
        if name == "spans":
            asked, other = rng.permutation(["red", "blue"]).tolist()
            words = [word for word in text(20) if word not in ("red", "blue")]
            words = [str(word) for word in rng.permutation([*words, asked, other])]
            return {"question": asked, "passage": " ".join(words), "answer": asked}
        if name == "choices":
            choices = [f"{word} a" for word in rng.permutation(["red", "blue", "green", "bad"])[: rng.integers(2, 5)]]
            answer = int(rng.integers(len(choices)))
            right = choices[answer].split()[0]
            return {"passage": " ".join([*text(5), right]), "question": "same", "choices": choices, "answer": answer}
        words = text(5)
        return {"a": " ".join(words), "b": " ".join(text(5)), "label": float(words.count("good"))}

    for task in (TAGS, SPANS, CHOICES, VALUES):
        (folder / task.name).mkdir(exist_ok=True)
        for part in ("train", "dev"):
            lines = "".join(json.dumps(row(task.name)) + "\n" for _ in range(rows))
            (folder / task.name / f"{part}.jsonl").write_text(lines)
    return folder

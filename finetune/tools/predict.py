"""``zoo predict MODEL "TEXT"``: what a fine-tuned model says about texts, or about the rows of a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, for_terminal
from zoo.settings.load import load_settings
from zoo.storage.files import write_atomic
from zoo.values import UserPath

WRITABLE = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class PredictConfig:
    """What ``zoo predict`` is asked for.

    Args:
        model: folder of a fine-tuned model, as ``python -m finetune --save_model true`` keeps it
            (OUTPUT/TASK/seed-N/model).
        input: file with a row for each answer: .tsv, .csv, .jsonl, .json (each also with .gz) or .parquet, with the
            task's columns; gold answers, where it has any, are not read.
        output: file to make, a row for each answer: .tsv, .csv or .jsonl; absent = JSON lines on standard output.
        columns: names of the input's columns of texts, in the order of the task's; absent = the task's names.
        file_format: how the input is read, as a task file says it: a benchmark's own layout, such as squad; absent = by
            its extension.
        trust_code: also run a kind of task from outside the package, which the folder's task.json names.
    """

    model: UserPath = ""
    input: UserPath | None = None
    output: UserPath | None = None
    columns: list[str] = field(default_factory=list)
    file_format: str | None = None
    trust_code: bool = False


def predict_command(argv: list[str]) -> int:
    """``zoo predict MODEL "TEXT" ["TEXT" ...]`` and ``zoo predict MODEL --input FILE [--output FILE]``.

    Raises:
        ZooError: no fine-tuned model, a wrong number of texts, an input that cannot be read, an output that exists.
    """
    count = next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
    words, options = argv[:count], argv[count:]
    model = ["--model", words[0]] if words else []
    config = load_settings(PredictConfig, [*model, *options], "zoo predict MODEL", "predict").value
    texts = words[1:]
    output = _check(config, texts)
    from finetune.training.saved import open_saved
    from zoo.runtime.processes import keep_heap

    keep_heap()
    saved = open_saved(config.model, config.trust_code)
    if config.input is not None:
        examples = saved.read(Path(config.input), config.columns, config.file_format)
    else:
        examples = saved.asked([texts])
    found = saved.predict(examples)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if len(found.cut):
        what = f"{len(found.cut):,} of {len(examples):,} rows are" if config.input is not None else "the text is"
        print(f"warning: {what} longer than the model's {saved.max_length} tokens, and cut.", file=sys.stderr)
    if output is not None:
        save_records(output, found.records)
        print(f"{len(found.records):,} answer{'s' * (len(found.records) != 1)} written to {output}")
    elif config.input is not None:
        print("\n".join(map(_json_line, found.records)))
    else:
        print(for_terminal("\n".join(answer_lines(found.records[0]))))
    return 0


def _check(config: PredictConfig, texts: Sequence[str]) -> Path | None:
    """The output's path; ZooError where the command cannot end well, before a model is opened."""
    if not config.model:
        raise ZooError('no model: give the folder of a fine-tuned one, zoo predict OUTPUT/TASK/seed-1/model "TEXT".')
    if bool(texts) == (config.input is not None):
        found = "both are given" if texts else "neither is given"
        raise ZooError(f"zoo predict answers texts, or the rows of --input FILE, and {found}.")
    if config.input is None and (config.columns or config.file_format):
        raise ZooError("--columns and --file_format say how --input is read, and there is none.")
    if config.output is None:
        return None
    output = Path(config.output)
    if output.suffix.lower() not in WRITABLE:
        raise ZooError(f"--output {output}: its extension says how it is written; {', '.join(WRITABLE)} would work.")
    if output.exists():
        raise ZooError(f"{output} exists already; name another file, or remove it first.")
    if not output.parent.is_dir():
        raise ZooError(f"--output {output}: there is no folder {output.parent}.")
    return output


# ---- files -----------------------------------------------------------------------------------------------------------


def save_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Answers as a file, whole or not at all.

    Args:
        path: ``.jsonl``, ``.tsv`` or ``.csv``.
        records: as :class:`finetune.training.saved.SavedAnswers` has them.
    """
    if path.suffix.lower() == ".jsonl":
        write_atomic(path, "".join(f"{_json_line(record)}\n" for record in records))
        return
    rows = [_cells(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = [[row.get(name, "") for name in columns] for row in rows]
    if path.suffix.lower() == ".tsv":
        from finetune.results.report import write_predictions

        write_predictions(path, columns, table)
        return
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([columns, *table])
    write_atomic(path, stream.getvalue())


def _json_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _cells(record: dict[str, Any]) -> dict[str, str]:
    """A record as cells of a table: a column for each class's probability, lists with spaces between their items."""
    found: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= {f"p({label})": _cell(one) for label, one in value.items()}
        else:
            found[name] = _cell(value)
    return found


def _cell(value: Any) -> str:
    if isinstance(value, list):
        plain = not any(isinstance(item, dict) for item in value)
        return " ".join(map(_cell, value)) if plain else json.dumps(value, ensure_ascii=False)
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


# ---- the terminal ----------------------------------------------------------------------------------------------------


def answer_lines(record: dict[str, Any]) -> list[str]:
    """One answer for people: tags beside their words, probabilities from the largest on."""
    rest = {name: value for name, value in record.items() if name != "id"}
    lines = list[str]()
    if "words" in rest:
        lines += _aligned(rest.pop("words"), rest.pop("predicted"))
        lines += [f"{e['type']}: {e['text']} ({e['start']} to {e['end']})" for e in rest.pop("entities", [])]
    for name, value in rest.items():
        said = name.replace("_", " ")
        if isinstance(value, dict | list):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            ordered = sorted(pairs, key=lambda pair: -pair[1])
            lines += [f"{said}:", *(f"  {one}" for one in _aligned(*zip(*ordered, strict=True)))]
        else:
            lines.append(f"{said}: {_cell(value) or '(none)'}")
    return lines


def _aligned(names: Sequence[Any], values: Sequence[Any]) -> list[str]:
    width = max((len(str(name)) for name in names), default=0)
    return [f"{name!s:<{width}}  {_cell(value)}" for name, value in zip(names, values, strict=True)]

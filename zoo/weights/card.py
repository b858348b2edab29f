"""The model card of an export: data, objective, tokens, scores and the command, out of what the run wrote down."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.config import CoreConfig
from zoo.model_folder import ModelMetadata
from zoo.storage.files import read_json
from zoo.storage.user_files import read_records
from zoo.version import __version__

_ABSOLUTE = re.compile(r"(?<=[\s=])/(?:[^\s/]+/)*(?=[^\s/])")  # of paths on one machine, the last part is kept
_HAN = re.compile("[\u4e00-\u9fff]")
_PIPELINES = {"token": {"bidirectional": "fill-mask", "causal": "text-generation"}}
_PIPELINES |= {kind: {"bidirectional": task, "causal": task} for kind, task in {
    "classification": "text-classification",
    "tagging": "token-classification",
    "span": "question-answering",
}.items()}  # fmt: skip


def pipeline_of(metadata: ModelMetadata) -> str:
    """The pipeline that a model is made for: its head's, and else its features'."""
    for head in metadata.heads.values():
        if head["kind"] in _PIPELINES:
            return _PIPELINES[head["kind"]][metadata.attention]
    return "feature-extraction"


def write_card(
    folder: Path,
    name: str,
    metadata: ModelMetadata,
    config: Mapping[str, Any],
    report: list[str],
    library: str = "transformers",
) -> str:
    """The text of a README.md.

    Args:
        folder: the model folder that is exported; what it says of itself is used, what it does not say left out.
        name: the model's name.
        metadata: its metadata.
        config: the ``config.json`` of the export.
        report: what the conversion did.
        library: whose files they are.
    """
    run = _json(folder / "run.json")
    task = pipeline_of(metadata)
    parts = [
        _front(library, task, run),
        f"# {name}",
        str(run.get("config", {}).get("edge") or ""),
        _architecture(metadata, config),
        _section("Data and objective", _training(run)),
        _section("Scores", score_lines(folder)),
        _section("Command", [f"    {_ABSOLUTE.sub('', run['command'])}"] if "command" in run else []),
        _section("Origin", _origin(folder)),
        _use(task) if library == "transformers" else "",
        _section("Conversion", report),
        f"Written by sesame-zoo {__version__}{_made(run)}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines]) if lines else ""


def _front(library: str, task: str, run: Mapping[str, Any]) -> str:
    """The YAML block that the hub reads."""
    files = json.dumps(run.get("config", {}).get("data", {}).get("corpus", {}), ensure_ascii=False)
    language = ["language: zh"] if re.search(r"\bzh\b|_zh|-zh|zh/", files) or _HAN.search(files) else []
    objectives = [f"- {name}" for name in run.get("config", {}).get("objectives", {})]
    lines = [f"library_name: {library}", f"pipeline_tag: {task}", *language, "tags:", "- sesame-zoo", *objectives]
    return "\n".join(["---", *lines, "---"])


def _architecture(metadata: ModelMetadata, config: Mapping[str, Any]) -> str:
    core = metadata.config
    heads = ", ".join(f"{name} ({head['kind']})" for name, head in metadata.heads.items()) or "none"
    rows = {
        "class": config["architectures"][0],
        "layers × width": f"{core.num_hidden_layers} × {core.hidden_size}",
        **_inner_sizes(core),
        "vocabulary": f"{core.vocab_size:,}" if core.vocab_size else "open, by characters",
        "attention": metadata.attention,
        "output heads": heads,
        "input": f"`{metadata.template.single}`; pairs `{metadata.template.pair}`",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _inner_sizes(core: CoreConfig) -> dict[str, str]:
    """Sizes that only cores of one kind have."""
    if core.recurrent is not None:
        return {"width of the cells": str(core.recurrent.cell_size)}
    return {
        "heads, inner width": f"{core.num_attention_heads}, {core.intermediate_size}",
        "longest input": f"{core.max_position_embeddings - core.position_offset} tokens",
    }


def _training(run: Mapping[str, Any]) -> list[str]:
    """Data, objectives and amounts, from ``run.json``."""
    if "config" not in run:
        return []
    config = run["config"]
    corpus = config["data"]["corpus"]
    files = corpus.get("files")
    texts = files if isinstance(files, list) else [files]
    names = ", ".join(f"`{Path(str(text)).name}`" for text in texts if text)
    lines = [f"- Text: {names or 'see run.json'}; fingerprint of the tokenised corpus `{run.get('data_fingerprint')}`."]
    for name, spec in config["objectives"].items():
        details = {k: v for k, v in (spec.get("init_args") or {}).items() if v is not None}
        text = re.sub(r"['\"{}]", "", json.dumps(details, ensure_ascii=False)) or "-"
        lines.append(f"- Objective `{name}`: `{spec['class_path']}` ({text}).")
    precision, processes = run.get("precision"), run.get("processes")
    lines.append(
        f"- {run.get('tokens', 0):,} tokens in {run.get('step', 0):,} steps of {config['train']['batch_size']} rows "
        f"of up to {config['data']['sequence_length']} tokens; {run.get('flops', 0):.3g} floating-point operations; "
        f"{precision}, {processes} process(es), seeds {run.get('seed')}."
    )
    if run.get("init_from"):
        lines.append(f"- Started from the weights of `{Path(str(run['init_from'].get('model', ''))).name}`.")
    if not run.get("finished", True):
        lines.append("- **The run had not used up its budget when this was written.**")
    return lines


def score_lines(folder: Path) -> list[str]:
    """Held-out losses, fine-tuned scores and minimal pairs that lie in the folder."""
    lines: list[str] = []
    log = folder / "log.jsonl"
    if log.exists():
        rows = [row for _, row in read_records(log)]
        last = {row["validation"].get("task"): row["validation"] for row in rows if "validation" in row}
        for task, found in last.items():
            where = f" in {task}" if len(last) > 1 else ""
            for name, term in found["terms"].items():
                share = "" if term.get("accuracy") is None else f", right {100 * term['accuracy']:.1f} %"
                lines.append(f"- Held-out {name}{where}: {term['loss']:.3f} nats{share}.")
    for path in sorted(folder.glob("finetune-*/results.json")):
        for row in read_json(path)["rows"]:
            spread = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
            lines.append(
                f"- {row['task']} {row['metric']}: {row['mean']:.2f}{spread} (n = {row['n']} seeds; majority "
                f"{row['majority']:.2f})."
            )
    result = _json(folder.parent / "result.json")
    for metric, score in result.get("scores", {}).items():
        lines.append(
            f"- {result['task']} {metric}: {100 * score:.2f} (seed {result['seed']}, {result['eval_rows']} rows; "
            f"majority {100 * result['majority'][metric]:.2f})."
        )
    pairs = _json(folder / "scores.json").get("pairs")
    if pairs:
        lines.append(f"- Minimal pairs: {100 * pairs['accuracy']:.2f} % (chance 50 %).")
    return lines


def _origin(folder: Path) -> list[str]:
    found = _json(folder / "import.json")
    return [f"- Brought in from `{found['source']}` ({found['architecture']})."] if found else []


def _use(task: str) -> str:
    name = {"feature-extraction": 'pipeline("feature-extraction", model=FOLDER)'}.get(
        task, f'pipeline("{task}", FOLDER)'
    )
    return f"## Use\n\n```python\nfrom transformers import pipeline\n\nmodel = {name}\n```"


def _made(run: Mapping[str, Any]) -> str:
    versions = run.get("versions", {})
    commit = f", commit {run['commit'][:12]}" if run.get("commit") else ""
    return f" (trained with torch {versions['torch']}{commit})" if versions else ""

"""``python benchmarks/pins.py --write /tmp/pins/base.json`` before a change; after it, the same with ``--check``.

Pins what tiny runs compute, so that a change can be shown to change no number: one run for each family (12 steps of the
shipped tiny config on some of the shipped text, with validation), a fine-tuning of the BERT run, the arrays of token
stores, and a table of entities. Everything runs through the command line, in processes of one thread each, in fp32 and
without a compiler; nothing of the product is imported here, so files and names in it may move.

    python benchmarks/pins.py --write FILE [--work FOLDER]             # compute all and write FILE
    python benchmarks/pins.py --check FILE [--work FOLDER]             # compute again, print each difference, exit 1
    python benchmarks/pins.py --check FILE --only bert,finetune        # some of them

A pin is a tensor's digest (of dtype, shape and bytes), the digest of an array file, or a number of a log as its text
stands there. Names of settings, fingerprints and class paths are not pinned. Work folder (``work`` beside FILE unless
told): ``tokenizers``, trained by the first ``--write`` and loaded ever after, because the training of some does not
repeat; ``base``, what the last ``--write`` computed, from which ``--check`` tells by how much a tensor differs; and
``check-*``, what a check computed, kept where something differs. Checks from several trees can share one work folder.

The numbers hold for one machine and one version of torch: with others a difference says nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "zoo" / "sample"
CONFIGS = {
    "bert": "bert-tiny",
    "gpt": "gpt-tiny",
    "roberta": "roberta-tiny",
    "albert": "albert-tiny",
    "xlnet": "xlnet-tiny",
    "transformer-xl": "transformer-xl-tiny",
    "elmo": "elmo-tiny",
    "bert-wwm": "bert-wwm-tiny-zh",
    "ernie-thu": "ernie-thu-tiny",
}
FINETUNE, STORE = "finetune", "store"
NAMES = (*CONFIGS, STORE, FINETUNE)
DOCUMENTS = {"en": 80, "zh": 120}  # of the shipped text
ENTITIES = 300
ALONE = """
import runpy, sys
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""  # an editable install of another tree would fill in for modules that this one lacks
PACKAGES = ("torch", "numpy", "tokenizers", "accelerate", "safetensors")

Pins = dict[str, str]


class Failed(Exception):
    """A command did not end well."""


# --- commands -------------------------------------------------------------------------------------------------------


def run(module: str, *words: object) -> None:
    """``python -m module words``, of one thread and on this tree only; what it says is shown only if it fails."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    env = {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", ALONE, module, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Failed(f"python -m {' '.join(command[3:])}\nended with {done.returncode}:\n{done.stdout[-3000:]}")


def language(config: str) -> str:
    """Of a config's text."""
    return "zh" if config.endswith("-zh") else "en"


def data_flags(config: str, texts: Path, folder: Path) -> list[object]:
    """The text of a run, and where its store goes."""
    text = texts / ("linked.jsonl" if config.startswith("ernie-thu") else f"{language(config)}.txt")
    flags = ["--config", config, "--data.corpus.files", text, "--data.stores", folder / "stores", "--data.processes", 1]
    if config.startswith("ernie-thu"):
        linked = f"{{class_path: {linked_class()}, init_args: {{entities: {texts / 'table' / 'entities.txt'}}}}}"
        flags += ["--data.corpus.annotations.entity_id", linked]
        flags += ["--objectives.entities.init_args.entities", texts / "table"]
    return flags


def loaded(tokenizer: Path) -> list[object]:
    """Load a tokenizer instead of training one."""
    return ["--data.tokenizer.kind", "file", "--data.tokenizer.path", tokenizer]


def linked_class() -> str:
    """Class path of the annotation of linked entities, as this tree's documentation gives it."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    found = sorted(set(re.findall(r"class_path: (pretraining\.[\w.]*\.Linked\w*)", text)))
    if len(found) != 1:
        raise Failed(f"docs/data.md names {found or 'no class'} for linked entities; one class path is needed.")
    return str(found[0])


# --- what the runs read ---------------------------------------------------------------------------------------------


def write_texts(folder: Path) -> Path:
    """Some of the shipped text, the English part also with links; names of entities are its frequent words."""
    folder.mkdir(parents=True)
    for name, count in DOCUMENTS.items():
        documents = (SAMPLE / name / "wikipedia.txt").read_text(encoding="utf-8").split("\n\n")[:count]
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    documents = (folder / "en.txt").read_text(encoding="utf-8").strip().split("\n\n")
    word = re.compile(r"\b[A-Za-z]{5,}\b")
    counts = Counter(m[0].lower() for text in documents for m in word.finditer(text))
    names = {name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:ENTITIES]}
    found = [[[*m.span(), m[0].lower()] for m in word.finditer(text) if m[0].lower() in names] for text in documents]
    lines = [json.dumps({"text": text, "entity_id": spans}) for text, spans in zip(documents, found, strict=True)]
    (folder / "linked.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = sorted({(a[2], "precedes", b[2]) for spans in found for a, b in pairwise(spans) if a[2] != b[2]})
    (folder / "triples.tsv").write_text(
        "".join(f"{a}\t{relation}\t{b}\n" for a, relation, b in facts), encoding="utf-8"
    )
    return folder


def make_table(texts: Path) -> Path:
    """Vectors of the linked text's entities."""
    table = texts / "table"
    run("zoo.cli", "entities", "--triples", texts / "triples.tsv", "--output", table, "--transe.epochs", 3)
    return table


def train_tokenizer(config: str, texts: Path, work: Path) -> None:
    """Keep the tokenizer of a config in the work folder."""
    with tempfile.TemporaryDirectory(dir=work) as made:
        run("zoo.cli", "prepare", *data_flags(config, texts, Path(made)))
        kept = work / "tokenizers" / config
        kept.mkdir(parents=True)
        for path in store_of(Path(made)).glob("*token*.json"):
            shutil.copy(path, kept)


# --- pins -----------------------------------------------------------------------------------------------------------


def digest(data: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(data).hexdigest()


def tensor_pins(path: Path) -> Pins:
    """A digest of each tensor of a safetensors file, and one of all of them together."""
    pins: Pins = {}
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            tensor = np.ascontiguousarray(file.get_tensor(name))
            pins[f"{path.name}/{name}"] = f"{tensor.dtype} {list(tensor.shape)} {digest(tensor.tobytes())}"
    return {path.name: digest(json.dumps(pins, sort_keys=True).encode()), **pins}


def numbers(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """The numbers in a JSON value, as their text stands in the file."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{place}/{key}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from numbers(part, f"{place}/{i}")
    elif isinstance(value, Number):
        yield place, str(value)


class Number(str):
    """A number's text."""


def number_pins(path: Path, leave_out: tuple[str, ...] = ()) -> Pins:
    """Numbers of a JSON or JSON lines file without those under some keys of the top."""
    text = path.read_text(encoding="utf-8")
    pins: Pins = {}
    for i, line in enumerate(text.splitlines() if path.suffix == ".jsonl" else [text], 1):
        record = json.loads(line, parse_float=Number, parse_int=Number, parse_constant=Number)
        kept = {key: value for key, value in record.items() if key not in leave_out}
        pins.update(numbers(kept, f"{path.name}/{i}" if path.suffix == ".jsonl" else path.name))
    return pins


def store_of(folder: Path) -> Path:
    """The token store that a command made."""
    found = sorted(path.parent for path in (folder / "stores").glob("*/meta.json"))
    if len(found) != 1:
        raise Failed(f"{folder / 'stores'} holds {len(found)} token stores; one was expected.")
    return found[0]


def file_pins(folder: Path, name: str) -> Pins:
    """Digests of a folder's files, but for JSON: metadata names classes and fingerprints."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json")
    kept = {str(path.relative_to(folder)): path for path in paths if not path.name.startswith(".")}
    return {f"{name}/{key}": digest(kept[key].read_bytes()) for key in sorted(kept)}


def run_pins(config: str, folder: Path, texts: Path, tokenizer: Path) -> Pins:
    """Train a tiny run of 12 steps in ``folder``."""
    table = {}
    if config.startswith("ernie-thu"):
        table = file_pins(make_table(texts), "table")
    flags = {
        "data.validation_tokens": 3000,
        "train.steps": 12,
        "train.tokens": "null",
        "train.batch_size": 8,
        "train.threads": 1,
        "train.precision": "fp32",
        "train.log_every": 1,
        "train.validate_every": 6,
        "run_folder": folder / "run",
    }
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    run("pretraining", *data_flags(config, texts, folder), *loaded(tokenizer), *words)
    logs = [number_pins(folder / "run" / name) for name in ("log.jsonl", "validation.jsonl")]
    weights = tensor_pins(folder / "run" / "model.safetensors")
    return {**weights, **logs[0], **logs[1], **file_pins(store_of(folder), "store"), **table}


def store_pins(folder: Path, tokenizer: Path) -> Pins:
    """The store of the whole shipped English text."""
    flags = ["--data.corpus.files", SAMPLE / "en", "--data.stores", folder / "stores", "--data.processes", 1]
    run("zoo.cli", "prepare", "--config", CONFIGS["bert"], *flags, *loaded(tokenizer))
    return file_pins(store_of(folder), "store")


def finetune_pins(folder: Path, model: Path) -> Pins:
    """Fine-tune a run on a few rows."""
    tasks = SAMPLE / "tasks"
    words = ["--model", model, "--tasks", "fewrel", "--data", tasks, "--task_file", tasks / "tasks.yaml"]
    words += ["--seeds", 1, "--limit", 96, "--epochs", 2, "--batch_size", 16, "--threads", 1, "--precision", "fp32"]
    run("finetune", *words, "--save_model", "true", "--output", folder / "results")
    (result,) = (folder / "results").rglob("result.json")
    predictions = {"predictions.tsv": digest((result.parent / "predictions.tsv").read_bytes())}
    (weights,) = result.parent.rglob("model.safetensors")
    return {**tensor_pins(weights), **number_pins(result, ("fingerprint", "seed")), **predictions}


# --- a pass ---------------------------------------------------------------------------------------------------------


def need_tokenizers(only: list[str], texts: Path, work: Path, jobs: int, may_train: bool) -> None:
    """Train what tokenizers the work folder lacks."""
    names = ["bert" if name in (STORE, FINETUNE) else name for name in only]
    missing = sorted({CONFIGS[name] for name in names if not (work / "tokenizers" / CONFIGS[name]).exists()})
    if missing and not may_train:
        raise Failed(f"{work / 'tokenizers'} lacks {', '.join(missing)}: give the --work folder that --write had.")
    if any(config.startswith("ernie-thu") for config in missing):
        make_table(texts)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda config: train_tokenizer(config, texts, work), missing))


def compute(only: list[str], place: Path, work: Path, jobs: int, may_train: bool) -> dict[str, Pins]:
    """Run everything below ``place`` and pin it; a pin of a run that fails is its error."""
    texts = write_texts(place / "texts")
    need_tokenizers(only, texts, work, jobs, may_train)
    shutil.rmtree(texts / "table", ignore_errors=True)

    def timed(name: str, make: Callable[[], Pins]) -> Pins:
        began = time.monotonic()
        (place / name).mkdir(exist_ok=True)
        try:
            pins = make()
        except (Failed, OSError, ValueError) as error:
            pins = {"failed": str(error)}
        print(f"{name}: {len(pins)} pins, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        return pins

    def one(name: str) -> Pins:
        config = CONFIGS.get(name, CONFIGS["bert"])
        tokenizer = work / "tokenizers" / config
        if name == STORE:
            return timed(name, lambda: store_pins(place / name, tokenizer))
        return timed(name, lambda: run_pins(config, place / name, texts, tokenizer))

    runs = [name for name in NAMES if name in only and name != FINETUNE]
    if FINETUNE in only and "bert" not in runs:
        runs = ["bert", *runs]
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(runs, pool.map(one, runs), strict=True))
    if FINETUNE in only:
        found[FINETUNE] = timed(FINETUNE, lambda: finetune_pins(place / FINETUNE, place / "bert" / "run"))
    return {name: found[name] for name in NAMES if name in only}


def surroundings() -> dict[str, str]:
    """What the numbers hang on beside the code."""
    cpu = next(
        (
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "cpu": cpu.partition(": ")[2], **versions}


def tensor_difference(key: str, name: str, before: Path, after: Path) -> str:
    """The largest difference of a tensor's values, where both are kept and of one shape."""
    file, _, tensor = key.partition("/")
    values = []
    for place in (before, after):
        paths = sorted((place / name).rglob(file), key=lambda path: ("checkpoints" in path.parts, len(path.parts)))
        if file != "model.safetensors" or not tensor or not paths:
            return ""
        with safe_open(paths[0], framework="np") as opened:
            if tensor not in opened.keys():  # noqa: SIM118  not a mapping
                return ""
            values.append(opened.get_tensor(tensor).astype(np.float64))
    if values[0].shape != values[1].shape:
        return ""
    return f", largest difference {np.abs(values[0] - values[1]).max():.3g}"


def differences(old: dict[str, Pins], new: dict[str, Pins], before: Path, after: Path) -> Iterator[str]:
    """A line for each pin that is not what it was."""
    for name, pins in new.items():
        known = old.get(name)
        if known is None:
            yield f"{name}: not in the file"
            continue
        if "failed" in pins:
            yield f"{name}: {pins['failed']}"
            continue
        for key in [*known, *(key for key in pins if key not in known)]:
            if key not in pins:
                yield f"{name} {key}: gone, was {known[key]}"
            elif key not in known:
                yield f"{name} {key}: new, {pins[key]}"
            elif pins[key] != known[key]:
                told = tensor_difference(key, name, before, after)
                yield f"{name} {key}: {known[key]} -> {pins[key]}{told}"


def write(file: Path, work: Path, only: list[str], jobs: int) -> int:
    """Compute the pins and keep them."""
    if file.exists() and only != list(NAMES):
        raise Failed(f"{file} exists; --write with --only would drop its other pins. Name another file.")
    base = work / "base"
    shutil.rmtree(base, ignore_errors=True)
    pins = compute(only, base, work, jobs, may_train=True)
    for name, found in pins.items():
        if "failed" in found:
            raise Failed(f"{name}: {found['failed']}")
    file.write_text(json.dumps({"surroundings": surroundings(), "pins": pins}, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, pins.values()))} pins of {len(pins)} in {file}")
    return 0


def check(file: Path, work: Path, only: list[str], jobs: int) -> int:
    """Compute the pins again and print what differs."""
    old = json.loads(file.read_text(encoding="utf-8"))
    for key, value in surroundings().items():
        if value != old["surroundings"].get(key):
            print(f"note: {key} is {value}, was {old['surroundings'].get(key)}; numbers may differ for that reason")
    place = Path(tempfile.mkdtemp(prefix="check-", dir=work))
    new = compute(only, place, work, jobs, may_train=False)
    found = list(differences(old["pins"], new, work / "base", place))
    print("\n".join(found) if found else f"no difference in {sum(map(len, new.values()))} pins of {len(new)}")
    if found:
        print(f"{len(found)} differences; outputs: {work / 'base'} and {place}")
        return 1
    shutil.rmtree(place)
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="compute the pins and write them")
    action.add_argument("--check", type=Path, metavar="FILE", help="compute the pins again and compare")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="default: work, beside FILE")
    parser.add_argument("--only", default=",".join(NAMES), metavar="NAME,...", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each")
    given = parser.parse_args()
    only = given.only.split(",")
    if unknown := sorted(set(only) - set(NAMES)):
        parser.error(f"--only: unknown {', '.join(unknown)}; names are {', '.join(NAMES)}")
    file = (given.write or given.check).resolve()
    work = (given.work or file.parent / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        return (write if given.write else check)(file, work, only, given.jobs)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

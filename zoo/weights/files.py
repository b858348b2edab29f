"""Folders of theirs: where weights and tokenizers lie, hub ids, and writing a folder whole or not at all."""

from __future__ import annotations

import codecs
import json
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import INDEX, WEIGHTS, open_weights
from zoo.storage.files import hub_answers, hub_problem, read_json, write_atomic, write_json
from zoo.storage.tokenizer_files import (
    check_backend,
    check_bert_pieces,
    read_pieces,
    read_tokenizer_json,
    special_tokens,
    tokenizer_metadata,
)
from zoo.storage.user_files import check_pointer
from zoo.weights.published import foreign_weights

PICKLE = "pytorch_model.bin"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def find_folder(source: str) -> Path:
    """A folder here, or the snapshot of a hub id, fetched if need be.

    Raises:
        ZooError: neither.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ZooError(f"{source} is not a folder; a folder with config.json and weights, or a hub id, is needed.")
    from huggingface_hub import snapshot_download

    patterns = [
        "config.json",
        "*_config.json",
        "*.safetensors",
        INDEX,
        "pytorch_model*.bin",
        f"{PICKLE}.index.json",
        *TOKENIZER_FILES,
    ]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, local_files_only=not hub_answers()))
    except Exception as error:  # the hub client raises dozens of kinds
        raise ZooError(
            f"{source!r} is no folder here, and could not be fetched from the hub: {hub_problem(error)}."
        ) from error


def open_checkpoint(folder: Path) -> Mapping[str, Tensor]:
    """The tensors of a transformers folder: safetensors, one file or shards; else pickles that hold tensors only.

    Raises:
        ZooError: no weights, damaged ones, or a pickle that would run code.
    """
    if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        return open_weights(folder)
    files = [folder / PICKLE]
    index = folder / f"{PICKLE}.index.json"
    if index.exists():
        files = [folder / Path(name).name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    elif not files[0].exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
        raise ZooError(f"{folder} holds neither {WEIGHTS} nor {PICKLE}; found: {found}.{foreign_weights(folder)}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _open_pickle(file)
    return tensors


def _open_pickle(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, read by torch's restricted reader only and mapped, not copied, where the file allows it."""
    if path.exists():
        with path.open("rb") as stream:
            check_pointer(path, head := stream.read(64))
        if not head:
            raise ZooError(f"{path} is empty (0 bytes); is the copy complete?")
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ZooError(f"{path} does not exist.") from error
    except pickle.UnpicklingError as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ZooError(
            f"{path} is a pickle with more than tensors in it ({reason}); reading it would run code from the file, "
            "which the zoo never does. Convert it to safetensors where it comes from."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ZooError(f"{path} is not a readable torch file ({error}); is the copy complete?") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        inside = f" ({', '.join(map(str, [*found][:8]))})" if isinstance(found, dict) else ""
        raise ZooError(
            f"{path} holds something else than tensors by name{inside}; a state dict is needed. Where it is one of "
            "these, save it by itself."
        )
    return found


def stock_tokenizer(source: str | Path, **options: Any) -> Any:
    """The tokenizer that transformers makes of a folder's files or of a hub id: the one call of its Auto class.

    Code that lies beside the files is never run, and nobody is asked whether it may be.

    Args:
        source: the folder or hub id.
        options: more arguments for ``AutoTokenizer``.

    Raises:
        ZooError: transformers cannot read it, or could only by running that code.
    """
    from transformers import AutoTokenizer

    here = Path(source).exists()
    if not here:
        options["local_files_only"] = not hub_answers()
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # the hub client and the converters raise dozens of kinds
        reason = str(error).strip().split("\n")[0][:300] if here else hub_problem(error)
        if own := own_code(Path(source)):
            reason = (
                f"{own}; a folder with tokenizer.json or vocab.txt, whose config.json names a known type, is needed"
            )
        raise ZooError(f"transformers could not read the tokenizer in {source}: {reason}") from error


def own_code(folder: Path) -> str:
    """What a folder's files say of code of its own, which nothing here runs; empty where they name none."""
    named = []
    for file in ("config.json", "tokenizer_config.json"):
        content = read_json(folder / file) if (folder / file).exists() else {}
        if "auto_map" in content:
            type_ = f", model_type {content['model_type']!r}" if "model_type" in content else ""
            named.append(f"{file} names code of its own (auto_map{type_}), which the zoo never runs")
    return "; ".join(named)


def copy_tokenizer(source: Path, target: Path) -> list[str] | None:
    """Copy the tokenizer's files, made into a tokenizer.json where there is none.

    Args:
        source: the folder with the files, in any of the forms that are published.
        target: the folder to write to.

    Returns:
        what was done, a line each; ``None`` where there is no tokenizer.

    Raises:
        ZooError: it cannot be read, or is not what its files say (:func:`zoo.storage.tokenizer_files.check_backend`).
    """
    present = [name for name in TOKENIZER_FILES if (source / name).exists()]
    if not {*present} - {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}:
        return None
    for name in present:
        with (source / name).open("rb") as stream:
            check_pointer(source / name, stream.read(64))
    notes: list[str] = []
    if "tokenizer.json" in present:
        read = read_tokenizer_json(source / "tokenizer.json")
        for name in present:
            (target / name).write_bytes((source / name).read_bytes().removeprefix(codecs.BOM_UTF8))
        if read.notes:
            _rewrite(target / "tokenizer.json", read.backend)
        notes += read.notes
    elif (
        "vocab.txt" in present and not any(name.endswith(".model") for name in present) and "vocab.json" not in present
    ):
        notes += _convert_pieces(source, target)
    else:
        stock_tokenizer(source).save_pretrained(target)
    if not (target / "tokenizer.json").exists():
        raise ZooError(f"the tokenizer in {source} ({', '.join(present)}) is of a form that has no tokenizer.json.")
    settings = target / "tokenizer_config.json"
    if settings.exists() and "auto_map" in (content := read_json(settings)):  # whoever opens the copy would be asked
        write_json(settings, {key: value for key, value in content.items() if key != "auto_map"})
    check_backend(read_tokenizer_json(target / "tokenizer.json").backend, str(source), special_tokens(target))
    return notes


def _rewrite(path: Path, backend: Tokenizer) -> None:
    """Write a tokenizer as it was read, with the truncation and padding that the file had."""
    state = read_json(path)
    own = json.loads(backend.to_str())
    write_atomic(path, json.dumps({**own, **{k: state.get(k) for k in ("truncation", "padding")}}, ensure_ascii=False))


def _convert_pieces(source: Path, target: Path) -> list[str]:
    """A vocab.txt as BERT's pieces, whatever the model is: Chinese models of other families have them."""
    from transformers import BertTokenizer

    check_bert_pieces(source / "vocab.txt", tokenizer_metadata(source))
    pieces, notes = read_pieces(source / "vocab.txt")
    with tempfile.TemporaryDirectory() as folder:  # a cleaned copy: no mark at its beginning, each entry once
        cleaned = Path(folder)
        write_atomic(cleaned / "vocab.txt", "".join(f"{piece}\n" for piece in pieces))
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
            if (source / name).exists():
                content = read_json(source / name)
                content.pop("tokenizer_class", None)
                write_json(cleaned / name, content)
        try:
            BertTokenizer.from_pretrained(cleaned, trust_remote_code=False).save_pretrained(target)
        except Exception as error:  # transformers raises dozens of kinds
            reason = str(error).strip().split("\n")[0][:300]
            raise ZooError(f"transformers could not read the tokenizer in {source}: {reason}") from error
    return notes


def note_length(folder: Path, config: CoreConfig) -> None:
    """Let a tokenizer that was copied know the longest text of its model, where its files say nothing, or more."""
    path, limits = folder / "tokenizer_config.json", config.tokenizer_settings
    if not path.exists() or not limits:
        return
    content = read_json(path)
    if content.get("model_max_length") is None or content["model_max_length"] > limits["model_max_length"]:
        write_json(path, {**content, **limits})


def token_ids(folder: Path) -> tuple[dict[str, int], int]:
    """Ids of all tokens of a folder's tokenizer.json, and its size; empty where there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return {}, 0
    ids: dict[str, int] = read_tokenizer_json(path).backend.get_vocab(with_added_tokens=True)
    return ids, max(ids.values(), default=-1) + 1

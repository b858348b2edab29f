"""``zoo import SRC DST`` and ``zoo export RUN DST``: folders in, folders out, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import ZooError
from zoo.model_folder import MODEL_TYPE, WEIGHTS, ModelMetadata, companion_model, open_weights, read_metadata
from zoo.settings.load import load_settings
from zoo.storage.files import whole_folder, write_atomic, write_json
from zoo.storage.tensors import save_tensors
from zoo.storage.tokenizer_files import special_tokens
from zoo.values import UserPath
from zoo.version import __version__
from zoo.weights.card import write_card
from zoo.weights.elmo.folder import ARCHITECTURE, find_elmo, read_elmo, write_elmo
from zoo.weights.elmo.folder import FORMAT as ELMO
from zoo.weights.files import copy_tokenizer, find_folder, note_length, open_checkpoint, own_code, token_ids
from zoo.weights.published import check_finite, check_kinds_of_numbers, their_config, untrained_head
from zoo.weights.read import Model, all_families, find_family, read_checkpoint
from zoo.weights.write import write_checkpoint


@dataclass(frozen=True)
class ImportConfig:
    """Settings of ``zoo import``.

    Args:
        source: a transformers folder, a hub id, or a folder with ELMo's options.json and hdf5 file.
        target: the model folder to make.
        ignore: patterns (regular expressions) of tensors to leave behind.
        vocabulary: for ELMo: file with the words that the model was trained with, one a line; absent = the folder's.
    """

    source: UserPath
    target: UserPath
    ignore: list[str] = field(default_factory=list)
    vocabulary: UserPath | None = None


@dataclass(frozen=True)
class ExportConfig:
    """Settings of ``zoo export``.

    Args:
        source: a run folder, or any model folder of the zoo.
        target: the transformers folder to make, or ELMo's.
        family: ``model_type`` to write, or ``elmo`` for the files that allennlp and bilm-tf read; absent = where the
            weights came from, or the first that can say the model.
        part: the objective whose second core is written instead of the core (a generator).
    """

    source: UserPath
    target: UserPath
    family: str | None = None
    part: str | None = None


def import_folder(
    source: str | Path, target: str | Path, ignore: list[str] | None = None, vocabulary: str | None = None
) -> list[str]:
    """Make a model folder of a checkpoint of theirs.

    Args:
        source: a folder with ``config.json`` and weights (safetensors, or pickled tensors and no more), a hub id, or a
            folder with ELMo's files (:mod:`zoo.weights.elmo.folder`).
        target: the folder to make; must not exist.
        ignore: patterns of tensors to leave behind.
        vocabulary: for ELMo's files: the vocabulary, where it is not in the folder.

    Returns:
        what was done, a line each; ``import.json`` keeps it.

    Raises:
        ZooError: the checkpoint is not what its config says, or no table stands for it; nothing is written then.
    """
    folder = find_folder(str(source))
    elmo = find_elmo(folder, vocabulary)
    if elmo is None and vocabulary is not None:
        raise ZooError(f"--vocabulary is for folders with ELMo's options.json; {folder} is none.")
    with whole_folder(Path(target)) as made:
        if elmo is not None:
            model, architecture = read_elmo(elmo, ignore or [], made), ARCHITECTURE
            check_finite(model.tensors)
        else:
            model, architecture = _read_transformers(folder, made, ignore or [])
        has_tokenizer = (made / "tokenizer.json").exists()
        report = [*model.report, *_check_tokenizer(made, has_tokenizer, model.metadata)]
        note_length(made, model.metadata.config)
        mask = special_tokens(made).get("mask", "")
        if has_tokenizer and (note := untrained_head(model.metadata, model.tensors, made, mask)):
            report.append(note)
        save_tensors(made / WEIGHTS, model.tensors)
        write_json(made / "config.json", model.metadata.to_dict())
        record = {
            "source": Path(str(source)).name if Path(str(source)).is_dir() else str(source),
            "model_type": model.metadata.origin,
            "architecture": architecture,
            "heads": list(model.metadata.heads),
            "report": report,
            "zoo_version": __version__,
        }
        write_json(made / "import.json", record)
    return report


def _read_transformers(folder: Path, made: Path, ignore: list[str]) -> tuple[Model, str]:
    """The model in a transformers folder and the name of its class; its tokenizer is copied into ``made``."""
    config, told = their_config(folder, all_families(), lambda: open_checkpoint(folder))
    if config.get("model_type") == MODEL_TYPE:
        raise ZooError(f"{folder} is a model folder of the zoo already; it can be used as it is.")
    code = own_code(folder)
    find_family(config.get("model_type"), code)  # before anything of an unknown model is read
    tensors = open_checkpoint(folder)
    notes = copy_tokenizer(folder, made) or []
    architecture = (config.get("architectures") or ["unnamed class"])[0]
    model = read_checkpoint(config, tensors, special_tokens(made), ignore)
    return model._replace(report=[*told, *model.report, *notes, *([code] if code else [])]), architecture


def _check_tokenizer(folder: Path, has_tokenizer: bool, metadata: ModelMetadata) -> list[str]:
    """Tokenizer and embedding must fit."""
    if not has_tokenizer:
        return ["no tokenizer there: fine-tuning and scoring will need one in this folder"]
    _, size = token_ids(folder)
    rows = metadata.config.vocab_size or 0
    if size > rows:
        raise ZooError(
            f"the tokenizer has {size} entries, the embedding {rows} rows: tokens from {rows} on would have no vector. "
            "They are not of the same checkpoint, or the embedding was not resized after tokens were added."
        )
    return [f"{rows - size} rows of the embedding belong to no token"] if size < rows else []


def export_folder(
    source: str | Path, target: str | Path, family: str | None = None, part: str | None = None
) -> list[str]:
    """Make a folder that opens without the zoo: in stock transformers, or in allennlp and bilm-tf.

    Args:
        source: a finished run, or any model folder.
        target: the folder to make; must not exist.
        family: ``model_type`` to write, or ``elmo``; ``None`` = where the weights came from, or the first that can say
            the model, which for LSTM layers is ELMo's.
        part: the objective whose second core is written; ``None`` = the core.

    Returns:
        the class it opens as, and what was left out, a line each.

    Raises:
        ZooError: no class of theirs can express the model (the fields in the way are named), or the folder is damaged.
    """
    metadata = read_metadata(source)
    if family == ELMO or (family is None and metadata.config.recurrent is not None):
        return _export_elmo(metadata, Path(target))
    tensors: Mapping[str, Tensor] = open_weights(metadata.path)
    others = [name for name in metadata.companions if name != part]
    if part is not None:
        metadata, tensors = companion_model(metadata, tensors, part)
    checkpoint = write_checkpoint(metadata, tensors, family)
    checkpoint.report.extend(f"left out: the core of {name}, which --part {name} writes" for name in others)
    check_kinds_of_numbers(checkpoint.tensors, checkpoint.tensors)
    check_finite(checkpoint.tensors)
    with whole_folder(Path(target)) as made:
        copy_tokenizer(metadata.path, made)
        note_length(made, metadata.config)
        config = {**checkpoint.config, **_special_ids(made, metadata), "dtype": _dtype(checkpoint.tensors)}
        save_tensors(made / WEIGHTS, checkpoint.tensors)
        file = find_family(config["model_type"]).config_file
        stock = file == "config.json"
        write_json(made / file, config)
        library = "transformers" if stock else config["model_type"]
        card = write_card(metadata.path, Path(target).name, metadata, config, checkpoint.report, library)
        write_atomic(made / "README.md", card)
    opens = f"opens as {config['architectures'][0]}" if stock else f"named as in the code that reads {file}"
    return [opens, *checkpoint.report]


def _export_elmo(metadata: ModelMetadata, target: Path) -> list[str]:
    with whole_folder(target) as made:
        report = write_elmo(metadata, open_weights(metadata.path), made)
        config = {"architectures": [ARCHITECTURE]}
        write_atomic(made / "README.md", write_card(metadata.path, target.name, metadata, config, report, "allennlp"))
    return [f"opens as {ARCHITECTURE}", *report]


def _special_ids(folder: Path, metadata: ModelMetadata) -> dict[str, int]:
    """Ids that their generation and padding go by; a row opens with ``cls`` and ends with ``sep`` where these exist."""
    ids, _ = token_ids(folder)
    names = special_tokens(folder)
    wanted = {
        "pad_token_id": names.get("pad"),
        "bos_token_id": names.get("bos") or names.get("cls"),
        "eos_token_id": names.get("eos") or names.get("sep"),
    }
    found = {key: ids[token] for key, token in wanted.items() if token in ids}
    if metadata.config.position_offset:  # their positions count from the padding's row: the two may not part
        found.pop("pad_token_id", None)
    return found


def _dtype(tensors: Any) -> str:
    name = next(iter(tensors))
    return str(tensors[name].dtype).removeprefix("torch.")


def _positional(argv: list[str]) -> list[str]:
    """``SRC DST`` in front as ``--source SRC --target DST``."""
    names, rest = ["--source", "--target"], list(argv)
    given: list[str] = []
    while names and rest and not rest[0].startswith("-"):
        given += [names.pop(0), rest.pop(0)]
    return given + rest


def import_command(argv: list[str]) -> int:
    """``zoo import SRC DST [--ignore '[PATTERN, ...]'] [--vocabulary FILE]``."""
    config = load_settings(ImportConfig, _positional(argv), "zoo import SRC DST", "import").value
    report = import_folder(config.source, config.target, config.ignore, config.vocabulary)
    print("\n".join([*report, f"written to {config.target}"]))
    return 0


def export_command(argv: list[str]) -> int:
    """``zoo export RUN DST [--family NAME] [--part OBJECTIVE]``."""
    config = load_settings(ExportConfig, _positional(argv), "zoo export RUN DST", "export").value
    report = export_folder(config.source, config.target, config.family, config.part)
    print("\n".join([*report, f"written to {config.target}"]))
    return 0

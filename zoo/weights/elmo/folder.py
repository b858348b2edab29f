"""Folders in ELMo's own format: found, brought in and written, so that the commands treat them as any other.

A folder holds ``options.json``, one hdf5 file of weights and, where there is one, the vocabulary that the model was
trained with, a word a line. Released folders put the model's name before these names; both are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zoo.core.build import make_core
from zoo.core.lstm import BidirectionalLSTM
from zoo.errors import ZooError
from zoo.model_folder import ModelMetadata
from zoo.storage.files import read_json, write_atomic, write_json
from zoo.storage.tensors import load_state
from zoo.storage.tokenizer_files import special_tokens
from zoo.storage.user_files import read_lines
from zoo.vocabulary import Template, Vocabulary
from zoo.weights.elmo.arrays import is_weights, load_elmo, options_of, save_elmo
from zoo.weights.files import token_ids
from zoo.weights.read import Model

FORMAT = "elmo"
OPTIONS, WEIGHTS, WORDS = "options.json", "weights.hdf5", "vocab.txt"
ARCHITECTURE = "the two-way language model of allennlp and bilm-tf"
_MARKS = {"cls": "<S>", "sep": "</S>", "unk": "<UNK>"}  # how a vocabulary file writes them, whatever the run does
_NO_WORD = "!!!MAXTERMID"  # stands in some of their files and takes no number


class ElmoFiles(NamedTuple):
    """Where a model lies.

    Args:
        options: the JSON file.
        weights: the hdf5 file.
        words: the vocabulary, where there is one.
    """

    options: Path
    weights: Path
    words: Path | None


def find_elmo(folder: Path, words: str | None = None) -> ElmoFiles | None:
    """The files of a folder in this format; ``None`` where it is in another one.

    Args:
        folder: the folder.
        words: a vocabulary file to take instead of the folder's own.

    Raises:
        ZooError: it is in this format, but which files are meant cannot be told.
    """
    options = sorted(folder.glob(f"*{OPTIONS}"))
    found = sorted(path for path in folder.iterdir() if path.suffix in (".hdf5", ".h5") and path.is_file())
    if any(folder.glob("*config.json")) or not (options or found):
        return None
    if len(options) != 1:
        raise ZooError(
            f"{folder} holds {_names(found) or 'no hdf5 file'} and {len(options)} files {OPTIONS} "
            f"({_names(options) or 'none'}); ELMo's weights need exactly one beside them."
        )
    weights = found if len(found) < 2 else [path for path in found if is_weights(path)]
    if len(weights) != 1:
        raise ZooError(
            f"{folder} holds {options[0].name} and {len(weights)} hdf5 files with weights of ELMo "
            f"({_names(weights or found) or 'no hdf5 file at all'}); exactly one is needed."
        )
    if words is not None:
        return ElmoFiles(options[0], weights[0], Path(words))
    listed = sorted(folder.glob("*vocab*.txt"))
    if len(listed) > 1:
        raise ZooError(f"{folder} holds several vocabularies: {_names(listed)}; say which one with --vocabulary FILE.")
    return ElmoFiles(options[0], weights[0], listed[0] if listed else None)


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


# --- in ----------------------------------------------------------------------------------------------------


def read_elmo(files: ElmoFiles, ignore: Iterable[str], made: Path) -> Model:
    """A model of ours; its tokenizer is written into ``made`` where there is a vocabulary.

    Args:
        files: where it lies.
        ignore: patterns of arrays to leave behind.
        made: the model folder.

    Raises:
        ZooError: damaged or foreign files, or files that disagree.
    """
    words = [] if files.words is None else read_words(files.words)
    stated = read_json(files.options).get("n_tokens_vocab")
    if words and stated not in (None, len(words)):
        raise ZooError(
            f"{files.words} has {len(words)} words, {files.options} says n_tokens_vocab = {stated}; they are not "
            "of the same model."
        )
    lacking = [token for token in _MARKS.values() if words and token not in words]
    words += lacking  # nothing predicts words here, so that a row more changes nothing
    marks = {role: words.index(token) for role, token in _MARKS.items()} if words else {}
    core = load_elmo(files.options, files.weights, words, Vocabulary(len(words), **marks), ignore)
    report = ["its files hold no softmax: the model gives vectors and has no head"]
    if lacking:
        report.append(f"the vocabulary lacks {', '.join(lacking)}: added as its last words")
    if words:
        _write_tokenizer(words, made)
        report.append(
            f"{len(words):,} words of {files.words.name if files.words else ''} are read by characters, any other "
            f"as {_MARKS['unk']}; they are found between white space only, in text that is tokenised already"
        )
    else:
        report.append("no vocabulary there: the model reads character_ids only (--vocabulary FILE names one)")
    metadata = ModelMetadata(
        config=core.config,
        template=Template("{cls} $A {sep}".format(**_MARKS), "{cls} $A {sep} $B {sep}".format(**_MARKS), "ends"),
        origin=FORMAT,
    )
    return Model(metadata, {f"core.{name}": tensor for name, tensor in core.state_dict().items()}, report)


def read_words(path: Path) -> list[str]:
    """Words by id out of a vocabulary file.

    Raises:
        ZooError: no such file, not UTF-8, an empty line, or a word that stands there twice.
    """
    lines = [line.strip() for line in read_lines(path)]
    seen: dict[str, int] = {}
    for number, word in enumerate(lines, start=1):
        if not word:
            raise ZooError(f"{path}, line {number} is empty; every line is the word of an id.")
        if word in seen and word != _NO_WORD:
            raise ZooError(f"{path}: {word!r} stands in line {seen[word]} and in line {number}; a word has one id.")
        seen[word] = number
    return [word for word in lines if word != _NO_WORD]


def _write_tokenizer(words: list[str], folder: Path) -> None:
    """The vocabulary as a tokenizer that looks words up between white space."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, _MARKS["unk"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _MARKS.values()])
    names = {f"{role}_token": token for role, token in _MARKS.items()}
    write_atomic(folder / "tokenizer.json", backend.to_str(pretty=False))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            **names,
        },
    )
    write_json(folder / "special_tokens_map.json", names)


# --- out ---------------------------------------------------------------------------------------------------


def write_elmo(metadata: ModelMetadata, tensors: Mapping[str, Tensor], made: Path) -> list[str]:
    """Write a model folder's core and words in this format.

    Args:
        metadata: the folder's.
        tensors: its tensors, ``core.*`` among them.
        made: where to.

    Returns:
        what was done, a line each.

    Raises:
        ZooError: the format cannot express the core; says which fields are in the way.
    """
    options_of(metadata.config)  # raises before any weights are read
    core = make_core(metadata.config)
    assert isinstance(core, BidirectionalLSTM)
    own = {name.removeprefix("core."): tensor for name, tensor in tensors.items() if name.startswith("core.")}
    load_state(core, own, str(metadata.path))
    save_elmo(core, made / OPTIONS, made / WEIGHTS)
    report = [f"left out, its files have no place for it: head {name}" for name in metadata.heads]
    return [*report, *_write_words(metadata.path, made)]


def _write_words(source: Path, made: Path) -> list[str]:
    """The tokenizer's words by id, their marks written as theirs."""
    ids, size = token_ids(source)
    words = {number: word for word, number in ids.items()}
    if not words:
        return ["no tokenizer there, so no vocabulary was written"]
    if len(words) < size or any(word.split() != [word] for word in words.values()):
        return [f"no vocabulary was written: some of the {size} ids have no word, or a word with white space in it"]
    renamed = {token: _MARKS[role] for role, token in special_tokens(source).items() if role in _MARKS}
    listed = [renamed.get(words[number], words[number]) for number in range(size)]
    write_atomic(made / WORDS, "\n".join(listed) + "\n")
    changed = [f"{old} as {new}" for old, new in renamed.items() if old != new]
    return [f"{WORDS} writes {', '.join(changed)}; of an unknown word these letters are read"] if changed else []

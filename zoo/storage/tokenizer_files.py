"""Tokenizers in files of all makes: read, and checked to be what their files say.

Whatever reads a tokenizer comes by here: import and export, a store, a run that starts from another, fine-tuning and
scoring. :func:`check_backend` looks at each one once more, however it was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from zoo.errors import ZooError
from zoo.storage.files import read_json
from zoo.storage.user_files import parse_json, read_lines, whole_text

SPECIAL_ROLES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_SEGMENTERS = ("word_tokenizer_type", "subword_tokenizer_type")  # settings of tokenizers that find words by themselves
_NUMBERED = re.compile(r"(.*)\t(\d{1,9})")
_PROBES = ("The town lies by the river, and 12 people see it.", "北京是中国的首都，有一座古老的石桥。")
_ASKED = 64  # of a vocabulary's own entries


class ReadBackend(NamedTuple):
    """A tokenizer out of files.

    Args:
        backend: of the ``tokenizers`` library; it neither pads nor cuts.
        metadata: ``tokenizer_config.json``, or nothing.
        notes: what was done to read it.
        bare: its special tokens are not marked as such yet.
    """

    backend: Tokenizer
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()
    bare: bool = False


class Folding(NamedTuple):
    """What BERT's clean-up does, where a tokenizer's files do not say.

    Args:
        lowercase: fold case; ``None`` = yes.
        strip_accents: drop accents; ``None`` = as ``lowercase``.
    """

    lowercase: bool | None = None
    strip_accents: bool | None = None


def tokenizer_metadata(folder: Path) -> dict[str, Any]:
    """The content of ``tokenizer_config.json``; empty where there is none."""
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.exists() else {}


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by role that a tokenizer's files name."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = read_json(folder / name) if (folder / name).exists() else {}
        found |= {role: token for role in SPECIAL_ROLES if (token := named_token(content, role))}
    return found


def named_token(metadata: Mapping[str, Any], role: str) -> str | None:
    """The token of a role that a tokenizer's settings name."""
    token = metadata.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None


def role_candidates(metadata: Mapping[str, Any], role: str) -> list[str]:
    """Tokens that may have a role: the one that the files name, then the usual ones."""
    named = named_token(metadata, role)
    return [*([named] if named else []), *_USUAL[role]]


# --- one reader for each form ----------------------------------------------------------------------------------------


def read_tokenizer_json(path: Path) -> ReadBackend:
    """A ``tokenizer.json``, without what would make its ids depend on chance, every id as the file says.

    Raises:
        ZooError: it is none, or its ids are not one for each token.
    """
    text, notes = whole_text(path), list[str]()
    state = parse_json(text, str(path))
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ZooError(f"{path} is no tokenizer.json of the tokenizers library: it has no `model`.")
    if state["model"].get("dropout"):
        notes.append(f"dropout {state['model']['dropout']} of merges is switched off, so that a text has one reading")
        state["model"]["dropout"] = None
    if gaps := _fill_gaps(state, path):
        notes.append(f"{gaps} ids belong to no token; they are kept free")
    try:
        backend = Tokenizer.from_str(json.dumps(state) if notes else text)
    except Exception as error:  # the Rust side raises plain Exception
        raise ZooError(f"{path} is no tokenizer.json of the tokenizers library: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    for entry in state.get("added_tokens", []):
        if (found := backend.token_to_id(entry["content"])) != entry["id"]:
            raise ZooError(
                f"{path}: the added token {entry['content']!r} has id {entry['id']} in the file, and the tokenizers "
                f"library gives it {found}; number added tokens on from the vocabulary, each once."
            )
    return ReadBackend(backend, tokenizer_metadata(path.parent), tuple(notes))


def _fill_gaps(state: dict[str, Any], path: Path) -> int:
    """Give ids that no token has an entry that no text spells: the library counts entries to number a new token."""
    vocabulary = state["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not all(isinstance(index, int) for index in vocabulary.values()):
        return 0
    added = {entry.get("id") for entry in state.get("added_tokens", []) if isinstance(entry, dict)}
    taken = {*vocabulary.values(), *(index for index in added if isinstance(index, int))}
    free = [index for index in range(max(taken, default=-1) + 1) if index not in taken]
    if len(free) > len(taken):
        raise ZooError(f"{path}: a vocabulary of {len(taken)} tokens has ids up to {max(taken)}; is the file whole?")
    vocabulary.update({f"unused {index}": index for index in free})
    return len(free)


def read_pieces(path: Path) -> tuple[list[str], list[str]]:
    """The entries of BERT's ``vocab.txt`` by id, and notes on how they were read.

    Lines are ``token``, or ``token<TAB>id`` as Baidu's are. An entry that stands there twice has the id of its last
    line, as in transformers; the other line's id gets an entry that no text spells.

    Raises:
        ZooError: no text file, empty, or with ids that are not one for each line.
    """
    lines = list(read_lines(path))
    if not any(lines):
        raise ZooError(f"{path} holds no entries; one a line is needed.")
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    notes: list[str] = []
    if 2 * sum(map(bool, numbered)) > len(lines):
        pieces: dict[int, str] = {}
        for number, (line, found) in enumerate(zip(lines, numbered), start=1):
            if found is None or int(found[2]) in pieces or int(found[2]) >= len(lines):
                raise ZooError(
                    f"{path}, line {number}: {line[:60]!r}; as in the other lines, a token, a tab and its id are "
                    f"needed, each id from 0 to {len(lines) - 1} once."
                )
            pieces[int(found[2])] = found[1]
        lines = [pieces[index] for index in range(len(lines))]
        notes.append(f"{path.name} has a token, a tab and an id in each line")
    last = {piece: index for index, piece in enumerate(lines)}
    double = [index for index, piece in enumerate(lines) if last[piece] != index]
    if double:
        first = double[0]
        notes.append(
            f"{path.name} holds {len(double)} entries twice, the first is {lines[first]!r} in lines {first + 1} and "
            f"{last[lines[first]] + 1}; the last one counts"
        )
    for index in double:
        lines[index] = f"unused {index}"
    return lines, notes


def read_vocabulary(path: Path, folding: Folding) -> ReadBackend:
    """BERT's ``vocab.txt``, cleaned up as ``tokenizer_config.json`` says."""
    metadata = tokenizer_metadata(path.parent)
    check_bert_pieces(path, metadata)
    pieces, notes = read_pieces(path)
    unknown = next((token for token in role_candidates(metadata, "unk") if token in pieces), None)
    if unknown is None:
        raise ZooError(
            f"{path} holds no {role_candidates(metadata, 'unk')[0]}, so it is no vocabulary of BERT's kind; it begins "
            f"with {', '.join(map(repr, pieces[:5]))}."
        )
    backend = Tokenizer(
        models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token=unknown, max_input_chars_per_word=100)
    )
    lowercase = metadata.get("do_lower_case", True if folding.lowercase is None else folding.lowercase)
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=bool(metadata.get("tokenize_chinese_chars", True)),
        lowercase=bool(lowercase),
        strip_accents=metadata.get("strip_accents", folding.strip_accents),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return ReadBackend(_with_added(backend, path.parent), metadata, tuple(notes), bare=True)


def check_bert_pieces(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise ZooError if the files say that a ``vocab.txt`` is of a tokenizer that finds words in another way."""
    found = [name for name in _SEGMENTERS if metadata.get(name)]
    if (path.parent / "bpe.codes").exists():
        found.append("bpe.codes")
    if found:
        raise ZooError(
            f"{path} is not of BERT's kind: {', '.join(found)} beside it says that words are found in another way, "
            "which the zoo has not. Make a tokenizer.json of it where it comes from."
        )


def read_merges(folder: Path) -> ReadBackend:
    """``vocab.json`` and ``merges.txt``: GPT-2's bytes, or GPT-1's characters with an end-of-word suffix."""
    state: dict[str, Any] = {"model": {"vocab": read_json(folder / "vocab.json")}}
    vocabulary: dict[str, int] = state["model"]["vocab"]
    if not all(isinstance(index, int) for index in vocabulary.values()):
        raise ZooError(f"{folder / 'vocab.json'} is no vocabulary: every token needs an id, a whole number.")
    gaps = _fill_gaps(state, folder / "vocab.json")
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_lines(folder / "merges.txt"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise ZooError(f"{folder / 'merges.txt'}, line {number}: {line!r} is not two pieces with a space between.")
        if (lacking := next((piece for piece in (*pair, "".join(pair)) if piece not in vocabulary), None)) is not None:
            raise ZooError(
                f"{folder / 'merges.txt'}, line {number}: {lacking!r} is not in vocab.json; the two are not of one "
                "tokenizer."
            )
        merges.append((pair[0], pair[1]))
    if any(token.endswith("</w>") for token in vocabulary):
        backend = Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=False)
        )
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
    else:
        backend = Tokenizer(models.BPE(vocabulary, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    notes = (f"{gaps} ids belong to no token; they are kept free",) if gaps else ()
    return ReadBackend(_with_added(backend, folder), tokenizer_metadata(folder), notes, bare=True)


def _with_added(backend: Tokenizer, folder: Path) -> Tokenizer:
    """The tokenizer with the tokens of ``added_tokens.json``, each under its id there."""
    path = folder / "added_tokens.json"
    added = read_json(path) if path.exists() else {}
    for token, index in sorted(added.items(), key=lambda item: str(item[1]).zfill(12)):
        backend.add_tokens([AddedToken(token, normalized=False)])
        if backend.token_to_id(token) != index:
            raise ZooError(
                f"{path}: {token!r} has id {index!r} there, but would get {backend.token_to_id(token)} behind the "
                "vocabulary; the two are not of the same tokenizer."
            )
    return backend


# --- one check for all -----------------------------------------------------------------------------------------------


def check_backend(backend: Tokenizer, where: str, named: Mapping[str, str], new: Iterable[str] = ()) -> None:
    """Look at a tokenizer however it was read.

    Args:
        backend: the tokenizer.
        where: the file or folder, for messages.
        named: special tokens by role that its files name.
        new: tokens that will be added.

    Raises:
        ZooError: two tokens share an id, a special token is not in the vocabulary, all tokens of texts that it should
            know are unknown, or one text is encoded in two ways.
    """
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    owners: dict[int, str] = {}
    for token, index in sorted(vocabulary.items()):
        if (other := owners.setdefault(index, token)) != token:
            raise ZooError(
                f"the tokenizer of {where} gives id {index} to {other!r} and to {token!r}; each needs its own."
            )
    known = {*vocabulary, *new}
    if lacking := [f"{role} {token!r}" for role, token in named.items() if token not in known]:
        raise ZooError(
            f"the tokenizer of {where} lacks special tokens that its files name: {', '.join(lacking)}. Its "
            f"{len(vocabulary):,} entries begin with {', '.join(repr(owners[n]) for n in sorted(owners)[:5])}."
        )
    texts = [*_PROBES, *_own_texts(backend, owners)]
    first = _ids(backend, texts, where)
    unknown = {vocabulary.get(token) for token in ("[UNK]", "<unk>", named.get("unk", ""))}
    if all(index in unknown for ids in first for index in ids):
        raise ZooError(
            f"the tokenizer of {where} knows no word: all tokens of {_PROBES[0]!r}, of {_PROBES[1]!r} and of its own "
            f"entries are unknown. It has {len(vocabulary):,} entries; its files are not what their names say, or not "
            "all are there."
        )
    for _ in range(2):
        if _ids(backend, texts, where) != first:
            raise ZooError(
                f"the tokenizer of {where} encodes one text in several ways, by chance; stores and scores could not be "
                "repeated. Switch its sampling off."
            )


def _ids(backend: Tokenizer, texts: list[str], where: str) -> list[list[int]]:
    try:
        return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
    except Exception as error:  # the Rust side raises plain Exception, for a lacking [UNK], say
        raise ZooError(f"the tokenizer of {where} cannot encode {_PROBES[0]!r}: {error}") from error


def _own_texts(backend: Tokenizer, owners: Mapping[int, str]) -> list[str]:
    """Some entries of the vocabulary as texts, without special tokens."""
    special = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    plain = [index for index in sorted(owners) if index not in special]
    some = plain[:: max(len(plain) // _ASKED, 1)][: 2 * _ASKED]
    return [text for index in some if (text := backend.decode([index]).removeprefix("##").strip())]

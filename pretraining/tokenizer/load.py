"""Loading tokenizers that exist: files of several makes, hub ids; and adding tokens to one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pretraining.text.segmenter import has_cjk
from pretraining.tokenizer.config import ROLES, TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.storage.files import read_json
from zoo.vocabulary import Template


def load_tokenizer(path: str | Path, config: TokenizerConfig | None = None) -> ZooTokenizer:
    """Open a tokenizer that exists.

    Args:
        path: ``tokenizer.json``, ``vocab.txt`` (BERT's), a folder holding one of these or ``vocab.json``
            with ``merges.txt`` (GPT-2's, or GPT-1's with its ``</w>``), or a hub id.
        config: ``lowercase`` and ``special`` are taken from it where the files do not say; its ``new_tokens`` are for
            :func:`extend`.

    Raises:
        ZooError: nothing there that can be read, naming what was found.
    """
    config = config or TokenizerConfig(kind="file", path=str(path))
    place = Path(path).expanduser()
    if not place.exists():
        return _load_elsewhere(str(path), config)
    folder, known = (place, None) if place.is_dir() else (place.parent, place.name)
    metadata = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if place.is_file() and place.suffix == ".json" and place.name != "vocab.json":
        return _from_json(place, metadata, config)
    if known is None and (folder / "tokenizer.json").exists():
        return _from_json(folder / "tokenizer.json", metadata, config)
    if (
        (known or "vocab.json") == "vocab.json"
        and (folder / "vocab.json").exists()
        and (folder / "merges.txt").exists()
    ):
        return _from_merges(folder, metadata, config)
    vocabulary = place if place.is_file() and place.suffix == ".txt" else folder / "vocab.txt"
    if vocabulary.exists() and vocabulary.name != "merges.txt":
        return _from_vocabulary(vocabulary, metadata, config)
    if place.is_dir() and any(folder.glob("*.model")):
        return _load_elsewhere(str(place), config)
    found = sorted(p.name for p in folder.iterdir())[:20] if place.is_dir() else [place.name]
    raise ZooError(
        f"tokenizer.path: {place} holds no tokenizer.json, vocab.txt, or vocab.json with merges.txt; found: "
        f"{', '.join(found) or 'nothing'}."
    )


def extend(
    tokenizer: ZooTokenizer, config: TokenizerConfig, template: Template | None = None, special: Iterable[str] = ()
) -> ZooTokenizer:
    """The tokenizer with those of ``config.new_tokens`` that it lacks, numbered on in their order.

    Args:
        tokenizer: trained or loaded; its backend is changed.
        config: the tokens, and the roles that ``special`` gives them; a role that is free goes by its usual names.
        template: its tokens are special, as those of roles are: written out in a text they are text.
        special: further tokens that are.

    Returns:
        the tokenizer with its new roles. Ordinary new tokens are found in normalised text where they stand as whole
        words, or anywhere if they hold Chinese characters.
    """
    if not config.new_tokens:
        return tokenizer
    backend = tokenizer.backend
    roles = {**_roles_of(backend, {}, config), **tokenizer.roles}
    special = {*roles.values(), *(template.tokens if template else ()), *special}
    for token in config.new_tokens:  # one by one: the ids follow the order they were named in
        if backend.token_to_id(token) is not None:
            continue
        if token in special:
            spaced = token == roles.get("mask") and tokenizer.marks_words
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False, lstrip=spaced)])
        else:
            backend.add_tokens([AddedToken(token, single_word=has_cjk(token) is None, normalized=True)])
    extended = ZooTokenizer(backend, roles)
    extended.segments, extended.segmenter = tokenizer.segments, tokenizer.segmenter
    return extended


def use_template(tokenizer: ZooTokenizer, template: Template) -> None:
    """Put the template into the tokenizer where the vocabulary has its tokens; fine-tuning adds others."""
    if all(tokenizer.backend.token_to_id(name) is not None for name in template.tokens):
        tokenizer.set_template(template)


def _from_json(path: Path, metadata: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """A tokenizer.json."""
    read_json(path)
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ZooError(f"tokenizer.path: {path} is no tokenizer.json of the tokenizers library: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    loaded = ZooTokenizer(backend, _roles_of(backend, metadata, config))
    loaded.segments = "token_type_ids" in metadata.get("model_input_names", ["token_type_ids"])
    loaded.segmenter = metadata.get("segmenter", "none")
    return loaded


def _from_vocabulary(path: Path, metadata: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """BERT's vocab.txt: one piece per line."""
    pieces = path.read_text(encoding="utf-8").split("\n")
    if pieces and not pieces[-1]:
        pieces.pop()
    vocabulary = {piece.rstrip("\r"): index for index, piece in enumerate(pieces)}
    lowercase = metadata.get("do_lower_case", True if config.lowercase is None else config.lowercase)
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    accents = metadata.get("strip_accents", config.strip_accents)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return _with_specials(backend, metadata, config)


def _from_merges(folder: Path, metadata: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """vocab.json and merges.txt: GPT-2's bytes, or GPT-1's characters with an end-of-word suffix."""
    vocabulary: dict[str, int] = read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2:
            raise ZooError(
                f"tokenizer.path: {folder / 'merges.txt'}: merge {number} is not two pieces: {' '.join(pair)!r}."
            )
    merges = [(pair[0], pair[1]) for pair in pairs]
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
    return _with_specials(backend, metadata, config)


def _with_specials(backend: Tokenizer, metadata: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """Mark the vocabulary's special tokens as such."""
    roles = _roles_of(backend, metadata, config)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in roles.values()])
    return ZooTokenizer(backend, roles)


def _roles_of(backend: Tokenizer, metadata: dict[str, Any], config: TokenizerConfig) -> dict[str, str]:
    """Special tokens by role, new ones included: what the user says, what the files say, then the usual names."""
    usual = {
        "pad": ("[PAD]", "<pad>"),
        "unk": ("[UNK]", "<unk>"),
        "cls": ("[CLS]", "<s>"),
        "sep": ("[SEP]", "</s>"),
        "mask": ("[MASK]", "<mask>"),
    }
    roles: dict[str, str] = {}
    for role in ROLES:
        named = metadata.get(f"{role}_token")
        named = named.get("content") if isinstance(named, dict) else named
        candidates = [config.special[role]] if role in config.special else [named, *usual[role]]
        known = (token for token in candidates if token)
        found = [token for token in known if backend.token_to_id(token) is not None or token in config.new_tokens]
        if role in config.special and not found:
            raise ZooError(
                f"tokenizer.special.{role}: {config.special[role]!r} is not in the vocabulary of {config.path}."
            )
        if found:
            roles[role] = found[0]
    return roles


def _load_elsewhere(name: str, config: TokenizerConfig) -> ZooTokenizer:
    """A hub id, or a format that transformers converts (SentencePiece models)."""
    path = Path(name)
    looks_local = (
        path.is_absolute() or name.startswith((".", "~")) or path.suffix in (".json", ".txt") or name.count("/") > 1
    )
    if looks_local and not path.exists():
        raise ZooError(f"tokenizer.path: {name} does not exist.")
    from zoo.weights.files import stock_tokenizer  # which needs torch

    try:
        loaded = stock_tokenizer(name)
    except ZooError as error:
        what = "" if path.exists() else f" {name!r} is neither a file nor a folder here."
        raise ZooError(f"tokenizer.path:{what} {error}") from error
    if not hasattr(loaded, "backend_tokenizer"):
        raise ZooError(f"tokenizer.path: {name} is a {type(loaded).__name__}, which has no tokenizer.json.")
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    metadata = {f"{role}_token": getattr(loaded, f"{role}_token", None) for role in ROLES}
    backend.no_padding()
    backend.no_truncation()
    return ZooTokenizer(backend, _roles_of(backend, metadata, config))

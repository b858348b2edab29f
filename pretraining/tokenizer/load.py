"""Loading tokenizers that exist: files of several makes, hub ids; and adding tokens to one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pretraining.text.segmenter import has_cjk
from pretraining.tokenizer.config import ROLES, TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError
from zoo.storage.tokenizer_files import (
    Folding,
    ReadBackend,
    check_backend,
    named_token,
    read_merges,
    read_tokenizer_json,
    read_vocabulary,
    role_candidates,
)
from zoo.vocabulary import Template


def load_tokenizer(path: str | Path, config: TokenizerConfig | None = None) -> ZooTokenizer:
    """Open a tokenizer that exists.

    Args:
        path: ``tokenizer.json``, ``vocab.txt`` (BERT's), a folder holding one of these or ``vocab.json``
            with ``merges.txt`` (GPT-2's, or GPT-1's with its ``</w>``), or a hub id.
        config: ``lowercase`` and ``special`` are taken from it where the files do not say; its ``new_tokens`` are for
            :func:`extend`.

    Raises:
        ZooError: nothing there that can be read, naming what was found; or it is not what its files say
            (:func:`zoo.storage.tokenizer_files.check_backend`).
    """
    config = config or TokenizerConfig(kind="file", path=str(path))
    place = Path(path).expanduser()
    if (read := _read_local(place, config)) is None:
        read = _read_elsewhere(str(place if place.exists() else path))
    backend, metadata = read.backend, read.metadata
    roles = _roles_of(backend, metadata, config)
    if read.bare:
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in roles.values()])
    check_backend(backend, str(place), {**roles, **_named(metadata, config)}, config.new_tokens)
    loaded = ZooTokenizer(backend, roles)
    loaded.notes = read.notes
    loaded.segments = "token_type_ids" in metadata.get("model_input_names", ["token_type_ids"])
    loaded.segmenter = metadata.get("segmenter", "none")
    return loaded


def extend(
    tokenizer: ZooTokenizer, config: TokenizerConfig, template: Template | None = None, special: Iterable[str] = ()
) -> ZooTokenizer:
    """The tokenizer with those of ``config.new_tokens``, then of its sentinels, that it lacks, numbered on in order.

    Args:
        tokenizer: trained or loaded; its backend is changed.
        config: the tokens, and the roles that ``special`` gives them; a role that is free goes by its usual names.
        template: its tokens are special, as those of roles are: written out in a text they are text.
        special: further tokens that are.

    Returns:
        the tokenizer with its new roles. Ordinary new tokens are found in normalised text where they stand as whole
        words, or anywhere if they hold Chinese characters.
    """
    if not config.new_tokens and not config.sentinels:
        return tokenizer
    backend = tokenizer.backend
    roles = {**_roles_of(backend, {}, config), **tokenizer.roles}
    special = {*roles.values(), *(template.tokens if template else ()), *special, *config.sentinel_tokens}
    for token in [
        *config.new_tokens,
        *config.sentinel_tokens,
    ]:  # one by one: the ids follow the order they were named in
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


def _read_local(place: Path, config: TokenizerConfig) -> ReadBackend | None:
    """The tokenizer in a file or folder here; ``None`` where transformers has to be asked."""
    if not place.exists():
        return None
    folder, known = (place, None) if place.is_dir() else (place.parent, place.name)
    if place.is_file() and place.suffix == ".json" and place.name != "vocab.json":
        return read_tokenizer_json(place)
    if known is None and (folder / "tokenizer.json").exists():
        return read_tokenizer_json(folder / "tokenizer.json")
    merged = (folder / "vocab.json").exists() and (folder / "merges.txt").exists()
    if (known or "vocab.json") == "vocab.json" and merged:
        return read_merges(folder)
    vocabulary = place if place.is_file() and place.suffix == ".txt" else folder / "vocab.txt"
    if vocabulary.exists() and vocabulary.name != "merges.txt":
        return read_vocabulary(vocabulary, Folding(config.lowercase, config.strip_accents))
    if place.is_dir() and any(folder.glob("*.model")):
        return None
    found = sorted(p.name for p in folder.iterdir())[:20] if place.is_dir() else [place.name]
    raise ZooError(
        f"tokenizer.path: {place} holds no tokenizer.json, vocab.txt, or vocab.json with merges.txt; found: "
        f"{', '.join(found) or 'nothing'}."
    )


def _roles_of(backend: Tokenizer, metadata: dict[str, Any], config: TokenizerConfig) -> dict[str, str]:
    """Special tokens by role, new ones included: what the user says, what the files say, then the usual names."""
    roles: dict[str, str] = {}
    for role in ROLES:
        candidates = [config.special[role]] if role in config.special else role_candidates(metadata, role)
        known = (token for token in candidates if token)
        found = [token for token in known if backend.token_to_id(token) is not None or token in config.new_tokens]
        if role in config.special and not found:
            raise ZooError(
                f"tokenizer.special.{role}: {config.special[role]!r} is not in the vocabulary of {config.path}."
            )
        if found:
            roles[role] = found[0]
    return roles


def _named(metadata: dict[str, Any], config: TokenizerConfig) -> dict[str, str]:
    """Special tokens by role that the files name, where the user does not say otherwise."""
    named = {role: named_token(metadata, role) for role in ROLES if role not in config.special}
    return {role: token for role, token in named.items() if token}


def _read_elsewhere(name: str) -> ReadBackend:
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
    return ReadBackend(backend, metadata)

"""Tokenizers: trained here or loaded, all of them ``tokenizers`` backends that ``AutoTokenizer`` opens."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers as tokenizer_trainers

from pretraining.store import CAPITALISED, WORD_START
from pretraining.text.cjk import CJK, has_cjk
from pretraining.text.segmenter import SegmenterName, parted_inside
from zoo.config import CoreConfig, read_json
from zoo.errors import ZooError, nearest
from zoo.vocabulary import Template, Vocabulary, parse_layout

TRAINING = 1
"""Version of the training recipes below; part of every fingerprint of a trained tokenizer."""

TokenizerKind = Literal["wordpiece", "bytebpe", "unigram", "word", "file"]
Encoded = tuple[NDArray[np.int32], NDArray[np.uint8]]
Flat = tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64]]
ROLES = ("pad", "unk", "cls", "sep", "mask")
SOME_UNKNOWN, MOST_UNKNOWN = 0.05, 0.5  # shares of a text's tokens from which unknown ones are told, and refused

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_SPECIALS: dict[str, dict[str, str]] = {
    "wordpiece": _BERT,
    "word": _BERT,
    "unigram": {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "bytebpe": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
}
_CACHED_WORDS = 200_000
_FLAGS, _MOST = 2**4 - 1, 2**17 - 1
_BEGIN, _END, _ID = 4, 21, 38  # bits of a cached token's number: 4 of flags, twice 17 of its place, then the id
_SPACE = 32
_WHITE = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)
_NOT_PLAIN = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]")
_CHINESE_WORD = re.compile(f"[{CJK}]+").fullmatch
_UNITS = re.compile(f"[{CJK}]|[^ {CJK}]+")


@dataclass(frozen=True)
class TokenizerConfig:
    """A tokenizer to train, or one to load.

    Args:
        kind: ``wordpiece`` (BERT's, Chinese characters split), ``bytebpe`` (GPT-2's and RoBERTa's),
            ``unigram`` (SentencePiece-style, ALBERT's clean-up), ``word``, or ``file`` (load one).
        path: for ``file``: a ``tokenizer.json``, ``vocab.txt``, a folder with one of these or with
            ``vocab.json`` and ``merges.txt``, or a hub id.
        vocab_size: entries, special tokens included.
        lowercase: fold case; ``None`` = yes for wordpiece and unigram, no for the others.
        strip_accents: drop accents; ``None`` = as ``lowercase`` (BERT's convention).
        min_frequency: a piece or word must occur this often.
        character_coverage: share of the characters in the text that get an entry (not for bytebpe).
        train_bytes: upper bound on the text that is trained on; an even sample of chunks beyond it.
        new_tokens: tokens that are added, in this order, where the vocabulary lacks them (:func:`extend`). A role's
            ([MASK], <mask>, what ``special`` names) or the template's become special tokens; all others are found in
            text, as whole words.
        special: role (``pad, unk, cls, sep, mask``) to token. Order gives the ids from 0 on; the mask
            of bytebpe is the last id, as in RoBERTa. Empty = the kind's usual ones.
    """

    kind: TokenizerKind = "wordpiece"
    path: str | None = None
    vocab_size: int = 8192
    lowercase: bool | None = None
    strip_accents: bool | None = None
    min_frequency: int = 2
    character_coverage: float = 0.9995
    train_bytes: int = 2**27
    new_tokens: list[str] = field(default_factory=list)
    special: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse facts that fit no tokenizer."""
        kinds = (*_SPECIALS, "file")
        if self.kind not in kinds:
            raise ZooError(
                f"tokenizer.kind is {self.kind!r}; it must be one of {', '.join(kinds)}.{nearest(self.kind, kinds)}"
            )
        if self.kind == "file" and not self.path:
            raise ZooError("tokenizer.kind: file needs tokenizer.path: a tokenizer.json, a folder or a hub id.")
        if self.kind != "file" and self.path:
            raise ZooError(f"tokenizer.path is for tokenizer.kind: file; kind is {self.kind!r}, which is trained here.")
        if not 0.0 < self.character_coverage <= 1.0:
            raise ZooError(f"tokenizer.character_coverage is {self.character_coverage}; a share in (0, 1] is needed.")
        for role in self.special:
            if role not in ROLES:
                raise ZooError(
                    f"tokenizer.special: unknown role {role!r}; roles are {', '.join(ROLES)}.{nearest(role, ROLES)}"
                )
        for token in self.new_tokens:
            if token.split() != [token]:
                raise ZooError(f"tokenizer.new_tokens: {token!r} is empty or holds white space; a token is one word.")

    @property
    def folds_case(self) -> bool:
        """``lowercase`` with its default filled in."""
        return self.kind in ("wordpiece", "unigram") if self.lowercase is None else self.lowercase

    @property
    def folds_accents(self) -> bool:
        """``strip_accents`` with its default filled in."""
        return self.folds_case if self.strip_accents is None else self.strip_accents

    @property
    def roles(self) -> dict[str, str]:
        """Special tokens by role, in id order."""
        return dict(self.special or _SPECIALS.get(self.kind, {}))

    def facts(self) -> dict[str, Any]:
        """What training depends on besides the text, for fingerprints."""
        facts = dataclasses.asdict(self)
        del facts["path"], facts["new_tokens"]
        facts |= {"lowercase": self.folds_case, "strip_accents": self.folds_accents, "version": TRAINING}
        return {**facts, "special": list(self.roles.items())}


# ------------------------------------------------------------------------------------------ the tokenizer


class ZooTokenizer:
    """A ``tokenizers`` backend, and what the zoo needs to know beyond it.

    Args:
        backend: the tokenizer; special tokens added.
        roles: special tokens by role.

    Attributes:
        backend: the ``tokenizers.Tokenizer``.
        roles: special tokens by role.
        vocabulary: size and special ids.
        segmenter: what found the words of Chinese text, for whoever reads other text as that text was read; kept in the
            files. Where the unit is the word, it has to.
    """

    def __init__(self, backend: Tokenizer, roles: dict[str, str]) -> None:
        self.backend = backend
        self.roles = {role: token for role, token in roles.items() if backend.token_to_id(token) is not None}
        ids = {role: backend.token_to_id(token) for role, token in self.roles.items()}
        highest = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.vocabulary = Vocabulary(size=highest + 1, **ids)
        self.template: Template | None = None
        self.segments = True
        self.segmenter: SegmenterName = "none"
        self._words: _WordCache | None = None
        self._table = _start_table(backend)

    # -- encoding

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Encoding (``ids``, ``type_ids``, ``tokens``, ``offsets``) with the template's special tokens.

        Special tokens written out in the text are taken as such; :meth:`encode_batch` takes them as text.
        """
        return self.backend.encode(text, pair)

    def encode_batch(
        self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None
    ) -> list[Encoded]:
        """Ids and flags of plain texts, without special tokens.

        Args:
            texts: sentences. Special tokens written out in them are ordinary text.
            word_boundaries: for each text the character offsets at which a segmenter's words start, or
                ``None`` for the script's own: white space, and every Chinese character by itself.

        Returns:
            for each text (n,) int32 ids and (n,) uint8 flags: ``WORD_START`` where a word starts (the first
            piece always does), ``CAPITALISED`` at every piece of a word whose first letter was upper case.
        """
        ids, flags, sizes = self.encode_flat(texts, word_boundaries)
        edges = np.cumsum(sizes)[:-1]
        return list(zip(np.split(ids, edges), np.split(flags, edges))) if len(sizes) else []

    def encode_flat(self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None) -> Flat:
        """As :meth:`encode_batch`, but end to end: all ids, all flags, and the (texts,) numbers of tokens."""
        return self._cache.encode(texts, word_boundaries or [None] * len(texts))[0]

    def encode_places(
        self, texts: Sequence[str], word_boundaries: Sequence[Sequence[int] | None] | None = None
    ) -> tuple[Flat, NDArray[np.int64]]:
        """As :meth:`encode_flat`, and (n, 2) the characters [begin, end) of its text that each token stands for.

        White space at either side of a token is none of its characters. A token of white space only, or one that
        only marks where a word starts, has an empty place: where its space is, or just before the word.

        Raises:
            ValueError: a text of 131,072 characters and more.
        """
        if max(map(len, texts), default=0) > _MOST:
            raise ValueError(f"a text of {max(map(len, texts))} characters; places are known up to {_MOST}.")
        flat, places = self._cache.encode(texts, word_boundaries or [None] * len(texts), places=True)
        assert places is not None
        return flat, places

    @property
    def _cache(self) -> _WordCache:
        if self._words is None:
            self._words = _WordCache(self.backend)
        return self._words

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))

    def token(self, index: int) -> str:
        """The token with this id.

        Raises:
            ZooError: outside the vocabulary.
        """
        found = self.backend.id_to_token(int(index))
        if found is None:
            raise ZooError(f"token id {index} is outside the vocabulary of {self.vocabulary.size} entries.")
        return str(found)

    @property
    def keeps_spaces(self) -> bool:
        """Whether a space before a sentence is part of its first token (byte-level vocabularies)."""
        return self._table[2] == "Ġ"

    @property
    def marks_words(self) -> bool:
        """Whether a space is a mark at the start of the next token (byte-level and SentencePiece vocabularies)."""
        return self._table[2] in ("Ġ", "▁")

    @property
    def lowercases(self) -> bool:
        """Whether case is folded."""
        folded = self.backend.normalizer.normalize_str("A") if self.backend.normalizer is not None else "A"
        return "A" not in folded

    @property
    def whole_words(self) -> bool:
        """Whether the unit is the word (word-level vocabularies)."""
        return isinstance(self.backend.model, models.WordLevel)

    def backend_key(self) -> str:
        """What the ids of plain text depend on, as text: the backend without its template."""
        state = json.loads(self.backend.to_str())
        return json.dumps({**state, "post_processor": None, "padding": None, "truncation": None}, sort_keys=True)

    def word_starts(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """(n,) 1 where a word starts, by the spelling of the tokens alone."""
        starts, ends, _ = self._table
        if ends is None:
            return starts[ids].astype(np.uint8)
        return np.concatenate([[True], ends[ids]])[: len(ids)].astype(np.uint8)

    def word_start_ids(self) -> NDArray[np.bool_]:
        """(V,) whether a token can start a word by its own spelling."""
        return self._table[0]

    # -- template and files

    def set_template(self, template: Template, segments: bool = True) -> None:
        """Make ``encode`` (and ``AutoTokenizer`` after :meth:`save`) lay texts out as the template says.

        Args:
            template: layouts of one text and of two.
            segments: number the second text 1; ``False`` for models without segments.

        Raises:
            ZooError: a special token of the template is not in the vocabulary.
        """
        for name in template.tokens:
            if self.backend.token_to_id(name) is None:
                have = list(self.roles.values())
                raise ZooError(
                    f"template: {name!r} is no token of the vocabulary; special tokens are {', '.join(have) or 'none'}."
                    f"{nearest(name, have)}"
                )
        self.backend.post_processor = processors.TemplateProcessing(
            single=_with_types(template.single, segments),
            pair=_with_types(template.pair, segments),
            special_tokens=[(name, self.backend.token_to_id(name)) for name in template.tokens],
        )
        self.template, self.segments = template, segments

    def save(self, folder: str | Path, model: CoreConfig | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, each atomically.

        Args:
            folder: where to.
            model: facts of the model that lies there, which may limit the length of a text.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": token for role, token in self.roles.items()}
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if self.segments else ["input_ids", "attention_mask"]
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": inputs,
            "padding_side": self.template.padding_side if self.template else "right",
            "clean_up_tokenization_spaces": False,
            **({} if model is None else model.tokenizer_facts),
            **({} if self.segmenter == "none" else {"segmenter": self.segmenter}),
            **names,
        }
        _write(folder / "tokenizer.json", self.backend.to_str(pretty=False))
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        _write(folder / "special_tokens_map.json", json.dumps(names, indent=2, ensure_ascii=False) + "\n")


def _with_types(layout: str, segments: bool) -> str:
    """``[CLS] $A [SEP] $B [SEP]`` with segment numbers: everything after ``$A``'s own separators is 1."""
    return " ".join(f"{word}:{segment if segments else 0}" for word, segment in parse_layout(layout))


def _write(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# ------------------------------------------------------------------------------------- ids and word starts


def _start_table(backend: Tokenizer) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None, str]:
    """(V,) tokens that start a word; (V,) tokens that end one, for end-of-word vocabularies; the marker."""
    state = json.loads(backend.to_str())
    model = state["model"]
    vocabulary = backend.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        tokens[index] = token
    added = {entry["id"]: bool(entry.get("special")) for entry in state.get("added_tokens", [])}
    everywhere = np.array([added.get(index, False) for index in range(len(tokens))], dtype=bool)
    suffix = model.get("end_of_word_suffix")
    if suffix:  # which an added token does not carry, though it is a whole word
        ends = [token.endswith(suffix) or index in added for index, token in enumerate(tokens)]
        return everywhere, np.array(ends, dtype=bool), suffix
    prefix = model.get("continuing_subword_prefix") if model["type"] in ("WordPiece", "BPE") else None
    if prefix:
        return np.array([not token.startswith(prefix) for token in tokens], dtype=bool) | everywhere, None, prefix
    parts = json.dumps(state.get("pre_tokenizer") or {})
    marker = "▁" if '"Metaspace"' in parts else "Ġ" if '"ByteLevel"' in parts else ""
    if marker and model.get("unk_id") is not None:
        everywhere[model["unk_id"]] = False  # an unknown character inside a word, not an unknown word
    return np.array([token.startswith(marker) for token in tokens], dtype=bool) | everywhere, None, marker


class _Entries(NamedTuple):
    """What units or texts are encoded as.

    Args:
        tokens: numbers of all tokens, end to end: id, place and flags (``_ID`` ...).
        sizes: (e,) tokens of each entry.
        lengths: (e,) its characters.
    """

    tokens: NDArray[np.int64]
    sizes: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def join(self, more: _Entries) -> _Entries:
        """These, and others behind them."""
        return _Entries(*(np.concatenate(pair) for pair in zip(self, more)))


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, ... for each start, as many as its size says."""
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))


class _WordCache:
    """Encodes sentences by looking up their words; only words not seen before reach the backend.

    Exact because every tokenizer here works on each stretch between spaces (and, for WordPiece, on each
    Chinese character) by itself. Text where that is not so plainly true (tabs, control characters, runs
    of spaces under a byte-level vocabulary, Chinese outside WordPiece) goes to the backend whole.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.encode_special_tokens = True  # a "[MASK]" in a corpus is text
        self._backend.no_padding()
        self._backend.no_truncation()
        self._starts, self._ends, self._marker = _start_table(backend)
        state = json.loads(backend.to_str())
        self._splits_cjk = state["model"]["type"] == "WordPiece" and bool(
            (state.get("normalizer") or {}).get("handle_chinese_chars")
        )
        self._keeps_spaces = self._marker == "Ġ" and not state["pre_tokenizer"].get("add_prefix_space", False)
        # An ordinary added token is cut out of the text before the rest is split into words: its neighbours matter.
        plain = all(entry.get("special") for entry in state.get("added_tokens", []))
        self._local = plain and self._works_by_words(state)
        self._forget()

    def _forget(self) -> None:
        """Begin with an empty cache: entries by unit, of plain text and of a segmenter's words, and their tokens."""
        self._known: dict[str, int] = {}
        self._segmented: dict[str, int] = {}
        nothing = np.zeros(0, dtype=np.int64)
        self._entries = _Entries(nothing, nothing, nothing)

    def _works_by_words(self, state: dict[str, Any]) -> bool:
        """Whether this tokenizer is of a make whose words are known not to influence each other."""
        name = (state.get("pre_tokenizer") or {}).get("type")
        if name == "BertPreTokenizer":
            return (state.get("normalizer") or {}).get("type") in (None, "BertNormalizer")
        if name == "ByteLevel":
            use_regex = state["pre_tokenizer"].get("use_regex", True)
            return self._keeps_spaces and use_regex and state.get("normalizer") is None
        return name == "Metaspace" and self._is_ours_unigram(state)

    @staticmethod
    def _is_ours_unigram(state: dict[str, Any]) -> bool:
        steps = (state.get("normalizer") or {}).get("normalizers", [])
        return (
            bool(steps) and steps[0].get("type") == "Nmt" and state["pre_tokenizer"].get("prepend_scheme") == "always"
        )

    def encode(
        self, texts: Sequence[str], boundaries: Sequence[Sequence[int] | None], places: bool = False
    ) -> tuple[Flat, NDArray[np.int64] | None]:
        """All ids and flags end to end, how many belong to each text; the tokens' places, where they are asked for."""
        if len(self._known) + len(self._segmented) > _CACHED_WORDS:
            self._forget()
        units = [self._units(text, starts) for text, starts in zip(texts, boundaries)]
        numbers = self._looked_up(units, boundaries)
        if None in numbers:
            for index, starts in ((self._known, None), (self._segmented, [0])):
                own = [found for found, b in zip(units, boundaries) if found and (b is None) == (starts is None)]
                new = {unit for found in own for unit in found if unit not in index}
                self._learn(index, sorted(new), starts)
            numbers = self._looked_up(units, boundaries)
        entry = np.array(numbers, dtype=np.int64)
        direct = [place for place, found in enumerate(units) if found is None]
        entries = self._entries
        if direct:  # entries that are not kept
            entry[entry < 0] = len(entries.sizes) + np.arange(len(direct))
            entries = entries.join(self._encoded([texts[i] for i in direct], [boundaries[i] for i in direct]))
        tokens = entries.sizes[entry]
        both = entries.tokens[_ranges((np.cumsum(entries.sizes) - entries.sizes)[entry], tokens)]
        ends = np.cumsum([1 if found is None else len(found) for found in units], dtype=np.int64)
        sizes = np.diff(np.append(0, np.cumsum(tokens))[np.append(0, ends)])
        flat = (both >> _ID).astype(np.int32), (both & _FLAGS).astype(np.uint8), sizes
        if not places:
            return flat, None
        spaced = np.array([found is None or self._keeps_spaces for found in units], dtype=bool)
        return flat, self._places(texts, spaced, entries.lengths[entry], tokens, both, flat)

    def _looked_up(self, units: list[list[str] | None], boundaries: Sequence[Sequence[int] | None]) -> list[int | None]:
        """Entries of all units, end to end: ``None`` where a unit is new, -1 for a text that is encoded whole."""
        numbers: list[int | None] = []
        for found, starts in zip(units, boundaries):
            if found is None:
                numbers.append(-1)
            else:
                numbers.extend(map((self._known if starts is None else self._segmented).get, found))
        return numbers

    def _places(
        self,
        texts: Sequence[str],
        spaced: NDArray[np.bool_],
        unit_length: NDArray[np.int64],
        unit_tokens: NDArray[np.int64],
        both: NDArray[np.int64],
        flat: Flat,
    ) -> NDArray[np.int64]:
        """(n, 2) first character and end of each token in its text: see :meth:`ZooTokenizer.encode_places`.

        A unit's tokens know their places in the unit. Units of a text cover its characters in order, all of them
        (``spaced``) or all but the spaces, so the k-th character of all units is the k-th such character of the texts.
        """
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        shift = np.cumsum(lengths + 1) - lengths - 1
        codes = _codes(texts)
        covered = (codes != _SPACE) | np.repeat(spaced, lengths + 1)
        covered[shift + lengths] = False  # the line feed behind each text
        character = np.append(np.flatnonzero(covered), len(codes))
        first = np.repeat(np.cumsum(unit_length) - unit_length, unit_tokens)
        begin, end = (both >> _BEGIN) & _MOST, (both >> _END) & _MOST
        edges = np.stack(
            [character[first + begin], character[first + np.maximum(end, begin + 1) - 1] + (end > begin)], axis=1
        )
        return self._without_space(flat[0], edges, codes) - np.repeat(shift, flat[2])[:, None]

    def _without_space(
        self, ids: NDArray[np.int32], edges: NDArray[np.int64], codes: NDArray[np.uint32]
    ) -> NDArray[np.int64]:
        """Places without white space at their sides; lone markers have none."""
        visible = np.flatnonzero(~_is_space(codes))
        if not len(visible) or not len(ids):
            return edges
        begin = np.append(visible, len(codes))[np.searchsorted(visible, edges[:, 0])]
        end = np.append(-1, visible)[np.searchsorted(visible, edges[:, 1])] + 1
        blank = begin >= end
        marker = self._is_marker(ids)
        before = edges[:, 0] - (marker & ~blank)  # the marker of a word that no space stands before
        trimmed = np.stack([begin, end], axis=1)
        return np.where((blank | marker)[:, None], before[:, None], trimmed)

    def _units(self, text: str, starts: Sequence[int] | None) -> list[str] | None:
        """Stretches of the text that are encoded by themselves, or ``None``: encode it whole."""
        if not self._local or _NOT_PLAIN.search(text):
            return None
        if not text.isascii() and has_cjk(text):
            if not self._splits_cjk:
                return None
            if starts is None:
                return _UNITS.findall(text)
            words = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]
            if parted_inside("\x02".join(words)):
                return None
            return [part for word in words for part in word.split(" ") if part] if " " in text else words
        if starts is not None and not self._splits_cjk:
            return None
        if not self._keeps_spaces:
            return [word for word in text.split(" ") if word]
        if "  " in text or text.endswith(" "):
            return None
        first, *rest = text.split(" ")
        return [*([first] if first else []), *[" " + word for word in rest]]

    def _learn(self, index: dict[str, int], new: list[str], starts: list[int] | None) -> None:
        """Encode units that are new. ``starts = [0]``: each is one word, whatever its characters."""
        if starts is not None and self._splits_cjk:
            chinese = list(filter(_CHINESE_WORD, new))
            self._learn_chinese(index, chinese)
            new = [unit for unit in new if unit not in index] if chinese else new
        size = len(self._entries.sizes)
        self._entries = self._entries.join(self._encoded(new, [starts] * len(new)))
        index.update(zip(new, range(size, size + len(new))))

    def _learn_chinese(self, index: dict[str, int], new: list[str]) -> None:
        """Words of Chinese characters alone: their tokens are the characters', whichever word they are in."""
        codes = np.frombuffer("".join(new).encode("utf-32-le"), dtype=np.uint32)
        distinct, inverse = np.unique(codes, return_inverse=True)
        characters = [chr(code) for code in distinct.tolist()]
        self._learn(self._known, [c for c in characters if c not in self._known], None)
        entry = np.array([self._known[c] for c in characters], dtype=np.int64)
        entries = self._entries
        if not new or (entries.sizes[entry] != 1).any():
            return  # then the backend is asked
        token = entries.tokens[(np.cumsum(entries.sizes) - entries.sizes)[entry]][inverse] >> _ID
        lengths = np.array([len(word) for word in new], dtype=np.int64)
        place = _ranges(np.zeros_like(lengths), lengths)
        both = token << _ID | (place + 1) << _END | place << _BEGIN | (place == 0) * np.int64(WORD_START)
        index.update(zip(new, range(len(entries.sizes), len(entries.sizes) + len(new))))
        self._entries = entries.join(_Entries(both, lengths, lengths))

    def _encoded(self, texts: list[str], boundaries: Sequence[Sequence[int] | None]) -> _Entries:
        """Texts encoded by the backend, as entries."""
        ids, flags, sizes, offsets = self._direct(texts, boundaries)
        begin, end = np.minimum(offsets, _MOST).T
        both = ids.astype(np.int64) << _ID | end << _END | begin << _BEGIN | flags
        return _Entries(both, sizes, np.array([len(text) for text in texts], dtype=np.int64))

    def _direct(
        self, texts: list[str], boundaries: Sequence[Sequence[int] | None]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Encode whole texts by the backend; flags from spelling, offsets and boundaries. Offsets in their text."""
        if not texts:
            none = np.zeros(0, dtype=np.int64)
            return none.astype(np.int32), none.astype(np.uint8), none, none.reshape(0, 2)
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        sizes = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        shift = np.cumsum(lengths + 1) - lengths - 1  # texts side by side, a line feed behind each
        chain = itertools.chain.from_iterable
        ids = np.fromiter(chain(encoding.ids for encoding in encodings), dtype=np.int32, count=sizes.sum())
        flat = chain(chain(encoding.offsets for encoding in encodings))
        offsets = (
            np.fromiter(flat, dtype=np.int64, count=2 * len(ids)).reshape(-1, 2) + np.repeat(shift, sizes)[:, None]
        )
        codes = _codes(texts)
        first = np.zeros(len(ids), dtype=bool)
        edges = np.cumsum(sizes) - sizes
        first[edges[sizes > 0]] = True
        bounds, mixed = self._bounds(codes, boundaries, lengths, shift)
        begin = self._word_starts(ids, offsets, codes, first, bounds, mixed)
        initial = np.minimum(offsets[:, 0], len(codes) - 1)
        initial = initial + (codes[initial] == 32)  # a byte-level token holds the space before it
        upper = _is_upper(codes[np.minimum(initial, len(codes) - 1)][begin])
        flags = begin * np.uint8(WORD_START)
        if len(ids):
            flags = flags + upper[np.cumsum(begin) - 1] * np.uint8(CAPITALISED)
        return ids, flags.astype(np.uint8), sizes, offsets - np.repeat(shift, sizes)[:, None]

    @staticmethod
    def _bounds(
        codes: NDArray[np.uint32],
        boundaries: Sequence[Sequence[int] | None],
        lengths: NDArray[np.int64],
        shift: NDArray[np.int64],
    ) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
        """(characters,) where a segmenter, or the script, starts a word, and which are part of a word with Chinese.

        The first is ``None`` without Chinese. In words of the second kind, word starts by spelling count for nothing.
        """
        cjk = _is_cjk(codes)
        if not cjk.any():
            return None, cjk
        bound = cjk | np.concatenate([[False], cjk[:-1]])
        given = np.array([starts is not None for starts in boundaries], dtype=bool)
        segmented = np.repeat(given, lengths + 1)
        segmented[shift + lengths] = False
        own = [starts for starts in boundaries if starts is not None]
        first = np.fromiter(itertools.chain.from_iterable(own), dtype=np.int64)
        bound[segmented] = False
        bound[first + np.repeat(shift[given], [len(starts) for starts in own])] = True
        edges = bound.copy()
        edges[shift] = edges[shift + lengths] = True
        word = np.cumsum(edges)
        holds = np.bincount(word, weights=cjk)[word] > 0
        return bound, np.where(segmented, holds, cjk)

    def _word_starts(
        self,
        ids: NDArray[np.int32],
        offsets: NDArray[np.int64],
        codes: NDArray[np.uint32],
        first: NDArray[np.bool_],
        bounds: NDArray[np.bool_] | None,
        mixed: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """(n,) where a word starts: by spelling, and in words with Chinese characters by boundaries."""
        if self._ends is not None:
            begin = np.concatenate([[True], self._ends[ids]])[: len(ids)]
        else:
            begin = self._starts[ids]
        if bounds is not None and len(ids):
            cjk = _is_cjk(codes)
            previous = np.concatenate([[0], np.maximum.accumulate(offsets[:, 1])[:-1]])
            fresh = np.maximum(offsets[:, 0], previous)  # the later bytes of one character start nothing
            end = np.maximum(offsets[:, 1], fresh)
            holds = _count(bounds, fresh, end) > 0
            touches = _count(mixed, offsets[:, 0], offsets[:, 1]) > 0
            after = cjk[np.maximum(offsets[:, 0] - 1, 0)]
            marked = np.concatenate([[False], self._is_marker(ids[:-1])])  # the lone marker began the word
            begin = np.where(touches, holds & ~marked, begin | (after & holds))
        return begin | first

    def _is_marker(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(n,) tokens that are the word marker and nothing else."""
        lone = self._backend.token_to_id(self._marker) if self._marker in ("▁", "Ġ") else None
        return np.zeros(len(ids), dtype=bool) if lone is None else ids == lone


_CJK_RANGES = [(ord(a), ord(b)) for a, b in re.findall("(.)-(.)", CJK)]


def _codes(texts: Sequence[str]) -> NDArray[np.uint32]:
    """Code points of texts side by side, with a line feed behind each."""
    return np.frombuffer(("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _is_space(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is white space."""
    return np.isin(codes, _WHITE)


def _is_cjk(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is a Chinese character."""
    found = np.zeros(len(codes), dtype=bool)
    if len(codes) and codes.max() >= _CJK_RANGES[1][0]:
        for low, high in _CJK_RANGES:
            found |= (codes >= low) & (codes <= high)
    return found


def _count(marks: NDArray[np.bool_], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many marks lie in [start, end)."""
    total = np.concatenate([[0], np.cumsum(marks)])
    counted: NDArray[np.int64] = total[end] - total[start]
    return counted


def _is_upper(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(n,) whether each code point is an upper-case or title-case letter."""
    distinct, places = np.unique(codes, return_inverse=True)
    upper = np.array([chr(code).isupper() or chr(code).istitle() for code in distinct.tolist()], dtype=bool)
    return upper[places]


# ----------------------------------------------------------------------------------------------- training


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], *, words_given: bool = False) -> ZooTokenizer:
    """Train a tokenizer on a stream of paragraphs.

    The text is never held in memory: a one-shot iterator is spooled to a temporary file where it must
    be read twice (to choose the characters by count, which keeps the result the same on every run).

    Args:
        config: what to train; its ``new_tokens`` are for :func:`extend`.
        texts: paragraphs.
        words_given: words are separated by spaces already (a segmenter's), so Chinese characters are
            not split further; for kind ``word``.

    Raises:
        ZooError: no text, or ``vocab_size`` too small for special tokens and characters.
    """
    if config.kind == "file":
        raise ZooError("tokenizer.kind: file is loaded, not trained.")
    _check_size(config)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogatepass") as spool:
        stream = _Rereadable(texts, spool)
        stream.check()
        backend = _untrained(config, words_given)
        characters = _characters(backend, stream, config) if config.kind in ("wordpiece", "unigram") else []
        train = {
            "wordpiece": _train_wordpiece,
            "bytebpe": _train_bytebpe,
            "unigram": _train_unigram,
            "word": _train_word,
        }
        trained = train[config.kind](backend, config, stream, characters)
    return ZooTokenizer(trained, config.roles)


class _Rereadable:
    """Iterates over texts any number of times, through a file where they come from a one-shot iterator."""

    def __init__(self, texts: Iterable[str], spool: Any) -> None:
        self._spool = spool
        self._texts: Iterable[str] | None = texts
        if isinstance(texts, Iterator):
            for text in texts:
                spool.write(text.replace("\n", " ") + "\n")
            self._texts = None

    def __iter__(self) -> Iterator[str]:
        if self._texts is not None:
            yield from self._texts
            return
        self._spool.seek(0)
        for line in self._spool:
            yield line[:-1]

    def check(self) -> None:
        """Refuse a stream without any text."""
        if not any(text.strip() for text in self):
            raise ZooError("there is no text to train a tokenizer on.")


def _untrained(config: TokenizerConfig, words_given: bool) -> Tokenizer:
    """Normaliser, pre-tokeniser and decoder of a kind, before its model is trained."""
    if config.kind == "bytebpe":
        backend = Tokenizer(models.BPE())
        if config.folds_case:
            backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    elif config.kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = _albert_normalizer(config)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
    else:
        pieces = config.kind == "wordpiece"
        unknown = config.roles.get("unk", "")
        backend = Tokenizer(models.WordPiece(unk_token=unknown) if pieces else models.WordLevel(unk_token=unknown))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=not words_given,
            strip_accents=config.folds_accents,
            lowercase=config.folds_case,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return backend


def _albert_normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    """ALBERT's clean-up: one kind of quotation mark, NFKD without accents, lower case, single spaces."""
    steps: list[normalizers.Normalizer] = [
        normalizers.Nmt(),
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
    ]
    if config.folds_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents(), normalizers.NFC()]
    else:
        steps.append(normalizers.NFKC())
    if config.folds_case:
        steps.append(normalizers.Lowercase())
    steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    sequence: normalizers.Normalizer = normalizers.Sequence(steps)
    return sequence


def _characters(backend: Tokenizer, texts: Iterable[str], config: TokenizerConfig) -> list[str]:
    """Normalised characters that cover ``character_coverage`` of the text, most frequent first, then ASCII's.

    Counted here because the trainers break ties at the cut in the order of a randomised hash table.
    """
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
        if len(codes):
            found = np.bincount(codes)
            counts[: len(found)] += found
    folded: dict[str, int] = {}
    for code in np.flatnonzero(counts):
        for character in backend.normalizer.normalize_str(chr(code)) if backend.normalizer else chr(code):
            if not character.isspace():
                folded[character] = folded.get(character, 0) + int(counts[code])
    ordered = sorted(folded.items(), key=lambda item: (-item[1], item[0]))
    total, seen, chosen = sum(folded.values()), 0, []
    for character, count in ordered:
        if seen >= config.character_coverage * total:
            break
        chosen.append(character)
        seen += count
    have = set(chosen)
    return chosen + [c for c in map(chr, range(33, 127)) if c not in have and not (config.folds_case and c.isupper())]


def _train_wordpiece(
    backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]
) -> Tokenizer:
    """BERT's vocabulary. The ``##`` characters are given beforehand: the trainer numbers them at random."""
    room = 0.9 * (config.vocab_size - len(config.roles))
    kept: list[str] = []
    inner: list[str] = []
    for character in characters:
        alone = has_cjk(character) is not None or not character.isalnum()
        if len(kept) + len(inner) + 1 + (not alone) > room:
            break
        kept.append(character)
        if not alone:
            inner.append("##" + character)
    trainer = tokenizer_trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*config.roles.values(), *sorted(inner)],
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(texts), trainer)
    vocabulary: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
    model = models.WordPiece(vocabulary, unk_token=config.roles.get("unk", ""), max_input_chars_per_word=100)
    return _assembled(backend, model, config)


def _train_bytebpe(
    backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]
) -> Tokenizer:
    """GPT-2's algorithm; the mask, where there is one, comes last."""
    first = [token for role, token in config.roles.items() if role != "mask"]
    trainer = tokenizer_trainers.BpeTrainer(
        vocab_size=config.vocab_size - (len(config.roles) - len(first)),
        min_frequency=config.min_frequency,
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(texts), trainer)
    state = json.loads(backend.to_str())["model"]
    model = models.BPE(state["vocab"], [tuple(pair) for pair in state["merges"]])
    return _assembled(backend, model, config)


def _train_unigram(
    backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]
) -> Tokenizer:
    """SentencePiece's unigram model, with scores and order made repeatable.

    The trainer sums in the order of a randomised hash table: scores differ in the last digits, and the
    characters that no piece needed are scored in random order. Scores are rounded, those characters
    share one score just below the worst piece, and ties are ordered by spelling. What remains: where two
    pieces are exactly equally dispensable, which happens in small repetitive text, either may be pruned.
    """
    unknown = config.roles.get("unk")
    if unknown is None:
        raise ZooError("tokenizer.special: a unigram model needs a token for unknown characters (role unk).")
    special = list(config.roles.values())
    allowed = characters[: max((config.vocab_size - len(special)) // 2, 1)]
    keep = re.compile("[^" + re.escape("".join(allowed)) + "\\s]+") if allowed else None
    clean = backend.normalizer.normalize_str  # asked for here: the backend is locked while it trains
    prepared = (keep.sub(" ", clean(text)) if keep else text for text in texts)
    trainer = tokenizer_trainers.UnigramTrainer(
        vocab_size=config.vocab_size, special_tokens=special, unk_token=unknown, show_progress=False
    )
    backend.train_from_iterator(_batches(prepared), trainer)
    pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"] if piece not in special]
    worst = min((round(score, 4) for piece, score in pieces if len(piece) > 1), default=-10.0)
    ranked = sorted(
        ((piece, round(score, 4) if score >= worst else round(worst - 0.1, 4)) for piece, score in pieces),
        key=lambda item: (-item[1], item[0]),
    )
    vocabulary = [(token, 0.0) for token in special] + ranked
    return _assembled(backend, models.Unigram(vocabulary, special.index(unknown), False), config)


def _train_word(backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]) -> Tokenizer:
    """The most frequent words."""
    trainer = tokenizer_trainers.WordLevelTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(config.roles.values()),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(texts), trainer)
    vocabulary = json.loads(backend.to_str())["model"]["vocab"]
    return _assembled(backend, models.WordLevel(vocabulary, config.roles.get("unk", "")), config)


def _batches(texts: Iterable[str], size: int = 256) -> Iterator[list[str]]:
    """Lists of texts: one call into the trainer for many of them."""
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _assembled(backend: Tokenizer, model: models.Model, config: TokenizerConfig) -> Tokenizer:
    """A fresh tokenizer around a trained model, with the special tokens of the roles and no others."""
    made = Tokenizer(model)
    if backend.normalizer is not None:
        made.normalizer = backend.normalizer
    made.pre_tokenizer = backend.pre_tokenizer
    made.decoder = backend.decoder
    spaced = config.kind in ("bytebpe", "unigram")  # the mask takes the space before it, as in RoBERTa and ALBERT
    made.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, lstrip=role == "mask" and spaced)
            for role, token in config.roles.items()
        ]
    )
    return made


def _check_size(config: TokenizerConfig) -> None:
    """Refuse a vocabulary that cannot even hold the special tokens and, for bytebpe, the bytes."""
    least = len(config.roles) + (256 if config.kind == "bytebpe" else 1)
    if config.vocab_size < least:
        what = "256 bytes and " if config.kind == "bytebpe" else ""
        raise ZooError(
            f"tokenizer.vocab_size = {config.vocab_size} is too small: {what}{len(config.roles)} special "
            f"tokens need {least}."
        )


# ------------------------------------------------------------------------------------------------ loading


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
    facts = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    if place.is_file() and place.suffix == ".json" and place.name != "vocab.json":
        return _from_json(place, facts, config)
    if known is None and (folder / "tokenizer.json").exists():
        return _from_json(folder / "tokenizer.json", facts, config)
    if (
        (known or "vocab.json") == "vocab.json"
        and (folder / "vocab.json").exists()
        and (folder / "merges.txt").exists()
    ):
        return _from_merges(folder, facts, config)
    vocabulary = place if place.is_file() and place.suffix == ".txt" else folder / "vocab.txt"
    if vocabulary.exists() and vocabulary.name != "merges.txt":
        return _from_vocabulary(vocabulary, facts, config)
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


def _from_json(path: Path, facts: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """A tokenizer.json."""
    read_json(path)
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ZooError(f"tokenizer.path: {path} is no tokenizer.json of the tokenizers library: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    loaded = ZooTokenizer(backend, _roles_of(backend, facts, config))
    loaded.segments = "token_type_ids" in facts.get("model_input_names", ["token_type_ids"])
    loaded.segmenter = facts.get("segmenter", "none")
    return loaded


def _from_vocabulary(path: Path, facts: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """BERT's vocab.txt: one piece per line."""
    pieces = path.read_text(encoding="utf-8").split("\n")
    if pieces and not pieces[-1]:
        pieces.pop()
    vocabulary = {piece.rstrip("\r"): index for index, piece in enumerate(pieces)}
    lowercase = facts.get("do_lower_case", True if config.lowercase is None else config.lowercase)
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    accents = facts.get("strip_accents", config.strip_accents)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return _with_specials(backend, facts, config)


def _from_merges(folder: Path, facts: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
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
    return _with_specials(backend, facts, config)


def _with_specials(backend: Tokenizer, facts: dict[str, Any], config: TokenizerConfig) -> ZooTokenizer:
    """Mark the vocabulary's special tokens as such."""
    roles = _roles_of(backend, facts, config)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in roles.values()])
    return ZooTokenizer(backend, roles)


def _roles_of(backend: Tokenizer, facts: dict[str, Any], config: TokenizerConfig) -> dict[str, str]:
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
        named = facts.get(f"{role}_token")
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
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name)
        backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # the hub client and the converters raise dozens of kinds
        reason = str(error).strip().split("\n")[0][:300]
        raise ZooError(
            f"tokenizer.path: {name!r} is neither a file or folder here nor could transformers load it: "
            f"{type(error).__name__}: {reason}"
        ) from error
    facts = {f"{role}_token": getattr(loaded, f"{role}_token", None) for role in ROLES}
    backend.no_padding()
    backend.no_truncation()
    return ZooTokenizer(backend, _roles_of(backend, facts, config))

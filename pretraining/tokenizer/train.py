"""Tokenizers trained on texts: an algorithm for each kind, made repeatable."""

from __future__ import annotations

import io
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as tokenizer_trainers

from pretraining.text.segmenter import SegmenterName, has_cjk
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.errors import ZooError

_STRETCH, _LINE = re.compile(r"\S{1,1000}"), re.compile(r"\S(?:.{0,998}\S)?(?!\S)")
"""What a unigram model is trained on: words, the longest in parts, and as many of them as fit on a line."""
_RESERVED = {0x2585: 0xFDD0}
"""A block character by which SentencePiece means unknown ones, and what stands for it while a model is trained."""

# --- from texts to a tokenizer ---------------------------------------------------------------------


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], *, words_given: bool = False) -> ZooTokenizer:
    """Train a tokenizer on a stream of paragraphs.

    The text is never held in memory, except by the trainer of ``unigram``, which takes about 20 bytes for each of its
    bytes. A one-shot iterator is spooled to a temporary file where it must be read twice (to
    choose the characters by count, which keeps the result the same on every run).

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
        backend = untrained(config, words_given)
        characters = _characters(backend, stream, config) if config.kind in ("wordpiece", "unigram") else []
        train = {
            "wordpiece": train_wordpiece,
            "bytebpe": train_bytebpe,
            "unigram": train_unigram,
            "word": train_word,
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
        """Raise ZooError if the stream has no text."""
        if not any(text.strip() for text in self):
            raise ZooError("there is no text to train a tokenizer on.")


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


def _check_size(config: TokenizerConfig) -> None:
    """Raise ZooError if a vocabulary cannot even hold the special tokens and what its kind always has."""
    least = len(config.roles) + {"bytebpe": 256, "unigram": 2}.get(config.kind, 1)
    if config.vocab_size < least:
        what = {"bytebpe": "256 bytes and ", "unigram": "a space, a character and "}.get(config.kind, "")
        raise ZooError(
            f"tokenizer.vocab_size = {config.vocab_size} is too small: {what}{len(config.roles)} special "
            f"tokens need {least}."
        )


# --- what stands around the model of each kind -----------------------------------------------------


def untrained(config: TokenizerConfig, words_given: bool) -> Tokenizer:
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


# --- one algorithm for each kind -------------------------------------------------------------------


def train_wordpiece(
    backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]
) -> Tokenizer:
    """BERT's vocabulary. The ``##`` characters are given beforehand: the trainer numbers them at random.

    Those of symbols that stand inside words (``25°C``) are few, and come behind the alphabet.
    """
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
    inner.sort()
    symbols = [f"##{symbol}" for symbol in sorted(_symbols_in_words(backend, texts, kept))]
    trainer = tokenizer_trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*config.roles.values(), *inner, *symbols],
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        show_progress=False,
    )
    backend.train_from_iterator(_batches(texts), trainer)
    trained: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
    block = {**dict.fromkeys(kept, 1), **dict.fromkeys(symbols, 2)}
    block |= dict.fromkeys([*config.roles.values(), *inner], 0)
    ordered = sorted(trained, key=lambda entry: (block.get(entry, 3), trained[entry]))
    vocabulary = {entry: number for number, entry in enumerate(ordered)}
    model = models.WordPiece(vocabulary, unk_token=config.roles.get("unk", ""), max_input_chars_per_word=100)
    return _assembled(backend, model, config)


def _symbols_in_words(backend: Tokenizer, texts: Iterable[str], alphabet: Sequence[str]) -> set[str]:
    """Characters, neither letters nor digits, that stand inside words of the texts and not at their start."""
    split, clean = backend.pre_tokenizer.pre_tokenize_str, backend.normalizer.normalize_str
    others = [c for c in alphabet if not c.isalnum() and has_cjk(c) is None]
    joining = {c for c in others if [word for word, _ in split(f"a{c}")] == [f"a{c}"]}
    if not joining:
        return set()
    search, found = re.compile("[" + re.escape("".join(sorted(joining))) + "]").search, set[str]()
    for text in texts:
        if search(text) or search(text.lower()):
            found.update(c for word, _ in split(clean(text)) for c in word[1:] if c in joining)
            if len(found) == len(joining):
                break
    return found


def train_bytebpe(
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


def train_unigram(
    backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]
) -> Tokenizer:
    """SentencePiece's unigram model, trained by the library of that name on one thread: the same on every run.

    Its pieces do not mix scripts, digits and punctuation, as in ALBERT's and XLNet's vocabularies. ``UnigramTrainer``
    of tokenizers is not used: it reads the words out of a hash table of random order, a chunk for each thread. So its
    sums, and with them which of two equally dispensable pieces is dropped, differ between processes.
    """
    unknown = config.roles.get("unk")
    if unknown is None:
        raise ZooError("tokenizer.special: a unigram model needs a token for unknown characters (role unk).")
    special = list(config.roles.values())
    room = config.vocab_size - len(special)
    lines = _unigram_lines(backend, texts, characters[: room // 2])
    if (first := next(lines, None)) is None:
        raise ZooError(
            "there is no text to train a tokenizer on: nothing is left of it without control characters and `▁`."
        )
    pieces = _sentencepieces(itertools.chain([first], lines), room)
    ranked = sorted((item for item in pieces if item[0] not in special), key=lambda item: (-item[1], item[0]))
    vocabulary = [(token, 0.0) for token in special] + ranked
    return _assembled(backend, models.Unigram(vocabulary, special.index(unknown), False), config)


def _unigram_lines(backend: Tokenizer, texts: Iterable[str], allowed: Sequence[str]) -> Iterator[str]:
    """The words of normalised texts, cut from the allowed characters, in lines of at most 1,000 characters.

    SentencePiece takes a time that grows with the square of a line, and sums logarithms of a word in single precision.
    """
    other = re.compile("[^" + re.escape("".join(allowed)) + "\\s]+")
    for text in texts:
        words = _STRETCH.findall(other.sub(" ", backend.normalizer.normalize_str(text)))
        yield from _LINE.findall(" ".join(words).translate(_RESERVED))


def _sentencepieces(lines: Iterable[str], count: int) -> list[tuple[str, float]]:
    """At most ``count`` pieces and their log-probabilities.

    Raises:
        ZooError: SentencePiece cannot train on these lines, or is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ZooError("tokenizer.kind: unigram needs the package sentencepiece: pip install sentencepiece.") from error
    made, raised = io.BytesIO(), list[BaseException]()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_keeping_errors(lines, raised),
            model_writer=made,
            model_type="unigram",
            vocab_size=count + 1,  # its own unknown token, which is left out below
            hard_vocab_limit=False,
            character_coverage=1.0,  # the characters are chosen already
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # the order of its sums depends on it
            minloglevel=2,
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        raise ZooError(f"a unigram tokenizer cannot be trained on this text: {error}") from error
    model = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    back = {new: old for old, new in _RESERVED.items()}
    return [
        (model.id_to_piece(number).translate(back), round(model.get_score(number), 4))
        for number in range(len(model))
        if number != model.unk_id()
    ]


def _keeping_errors(lines: Iterable[str], raised: list[BaseException]) -> Iterator[str]:
    """The lines; an error or a signal among them is kept, because SentencePiece makes a RuntimeError of it."""
    try:
        yield from lines
    except GeneratorExit:
        raise
    except BaseException as error:
        raised.append(error)
        raise


def train_word(backend: Tokenizer, config: TokenizerConfig, texts: Iterable[str], characters: list[str]) -> Tokenizer:
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


def word_tokenizer(config: TokenizerConfig, words: Sequence[str], segmenter: SegmenterName = "none") -> ZooTokenizer:
    """A tokenizer of given words, in their order behind the special tokens.

    Args:
        config: of kind ``word``.
        words: different ones, no special token among them.
        segmenter: what finds the words of Chinese text; ``none`` = white space does, or there is none.
    """
    backend = untrained(config, words_given=segmenter != "none")
    entries = {token: number for number, token in enumerate([*config.roles.values(), *words])}
    model = models.WordLevel(entries, config.roles.get("unk", ""))
    made = ZooTokenizer(_assembled(backend, model, config), config.roles)
    made.segmenter = segmenter
    return made


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

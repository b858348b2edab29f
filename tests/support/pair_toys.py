"""Small parallel corpora."""

from pathlib import Path

from pretraining.corpus.config import CorpusConfig
from pretraining.store.prepare import prepare_store
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import TokenizerConfig

COLOURS, ANIMALS, VERBS = (
    [("red", "rot"), ("green", "gruen"), ("black", "schwarz"), ("old", "alt"), ("small", "klein"), ("warm", "warmes")],
    [("dog", "hund"), ("cat", "katze"), ("cow", "kuh"), ("bird", "vogel"), ("fish", "fisch"), ("horse", "pferd")],
    [("runs", "rennt"), ("sleeps", "schlaeft"), ("eats", "frisst"), ("sings", "singt"), ("waits", "wartet")],
)


def sentences() -> list[tuple[str, str]]:
    """180 pairs of made-up German and English, word by word."""
    return [
        (f"the {colour[0]} {animal[0]} {verb[0]}", f"der {colour[1]} {animal[1]} {verb[1]} jetzt")
        for colour in COLOURS
        for animal in ANIMALS
        for verb in VERBS
    ]


def write_aligned(folder: Path, pairs: list[tuple[str, str]]) -> list[str]:
    """Two files, and their names as ``corpus.files`` lists them."""
    paths = [folder / "text.en", folder / "text.de"]
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(line + "\n" for line in side), encoding="utf-8")
    return [str(path) for path in paths]


def pair_store(folder: Path, pairs: list[tuple[str, str]] | None = None, vocab_size: int = 120) -> Store:
    """The store of aligned files, with a tokenizer of both sides."""
    files = write_aligned(folder, pairs or sentences())
    corpus = CorpusConfig(files, languages=["en", "de"], parallel=True)
    return prepare_store(corpus, TokenizerConfig(vocab_size=vocab_size), folder / "stores", processes=1, quiet=True)


def translation_arguments(folder: Path, steps: int, **more: object) -> list[str]:
    """Command line of a tiny translation language model whose two tasks read one parallel corpus."""
    values: dict[str, object] = {
        "tasks.tlm.corpus": "null",
        "data.corpus.files": f"[{', '.join(write_aligned(folder, sentences()))}]",
        "data.corpus.languages": "[en, de]",
        "data.corpus.parallel": "true",
        "data.stores": folder / "stores",
        "data.processes": 1,
        "data.tokenizer.vocab_size": 120,
        "data.sequence_length": 48,
        "model.hidden_size": 32,
        "model.intermediate_size": 64,
        "train.steps": steps,
        "train.tokens": "null",
        "train.batch_size": 8,
        "train.threads": 1,
        "train.precision": "fp32",
        "train.log_every": 1,
        "train.save_every": 4,
        **more,
    }
    return ["--config", "xlm-tlm-tiny", *(word for key, value in values.items() for word in (f"--{key}", str(value)))]

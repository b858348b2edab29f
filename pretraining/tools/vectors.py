"""``zoo vectors SOURCE nearest|similarity|analogies|export|import ...``: word vectors of a run, or of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pretraining.text.segmenter import SegmenterName
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.train import word_tokenizer
from pretraining.tools.word_vectors import SectionResult, WordVectors, open_word_vectors, totals
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.errors import ZooError, nearest
from zoo.model_folder import ModelMetadata, save_model_folder
from zoo.settings.load import load_settings
from zoo.storage.files import whole_folder
from zoo.storage.vector_files import write_vector_file
from zoo.values import Count, check_fields
from zoo.vocabulary import Template


@dataclass(frozen=True)
class VectorsConfig:
    """Settings of ``zoo vectors``.

    Args:
        count: how many of the nearest words.
        among: analogies are answered out of so many words, the first ones; absent = all.
        binary: ``export`` writes the binary form.
        segmenter: ``import``: what finds the words of Chinese text.
    """

    count: Count = 10
    among: Count | None = None
    binary: bool = False
    segmenter: SegmenterName = "none"

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self, "vectors")


USAGE = """\
zoo vectors RUN nearest WORD ...        words of the largest cosine
zoo vectors RUN similarity FILE ...     Spearman's correlation with judged pairs
zoo vectors RUN analogies FILE ...      a is to b as c is to ?
zoo vectors RUN export FILE             a file in word2vec's text form, or --binary
zoo vectors FILE import FOLDER          a model folder, for python -m finetune --config features
RUN is a run, any model folder, or a file of vectors in word2vec's text or binary form."""


def vectors_command(argv: list[str]) -> int:
    """``zoo vectors SOURCE ACTION WORDS OR FILES [--key value ...]``.

    Raises:
        ZooError: no such source, action or word, or a file that cannot be read.
    """
    count = next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
    config = load_settings(VectorsConfig, argv[count:], "zoo vectors", "vectors").value
    if count < 3:
        raise ZooError(f"a source, an action and what it is about are needed:\n{USAGE}")
    source, action, *names = argv[:count]
    if action not in ACTIONS:
        raise ZooError(f"zoo vectors has no action {action!r}.{nearest(action, ACTIONS)}\n{USAGE}")
    if action in ("export", "import") and len(names) != 1:
        raise ZooError(f"zoo vectors {action} takes one place to write to, not {len(names)}.")
    ACTIONS[action](open_word_vectors(source), names, config)
    return 0


def print_nearest(vectors: WordVectors, words: list[str], config: VectorsConfig) -> None:
    """The words nearest to each word."""
    for number, word in enumerate(words):
        found = vectors.nearest(word, config.count)
        if len(words) > 1:
            print(("\n" if number else "") + word)
        for other, cosine in found:
            print(f"{cosine:7.4f}  {other}")


def print_similarity(vectors: WordVectors, files: list[str], config: VectorsConfig) -> None:
    """A line for each list of judged pairs."""
    width = max(len(Path(name).stem) for name in files)
    print(f"{'list':<{width}}  {'pairs':>6}  {'found':>6}  Spearman")
    for name in files:
        result = vectors.similarity(Path(name))
        print(f"{Path(name).stem:<{width}}  {result.pairs:>6,}  {result.found:>6,}  {result.correlation:8.4f}")


def print_analogies(vectors: WordVectors, files: list[str], config: VectorsConfig) -> None:
    """A line for each section, and totals."""
    for name in files:
        sections = vectors.analogies(Path(name), config.among)
        lines = [*sections, *totals(sections)]
        width = max(len(part.name) for part in lines)
        print(f"{'section':<{width}}  questions   asked   right  accuracy")
        for part in lines:
            print(f"{part.name:<{width}}  {part.questions:>9,}  {part.asked:>6,}  {part.right:>6,}  {_accuracy(part)}")


def _accuracy(part: SectionResult) -> str:
    return f"{100 * part.right / part.asked:7.1f}%" if part.asked else "       -"


def export_vectors(vectors: WordVectors, names: list[str], config: VectorsConfig) -> None:
    """A file in word2vec's formats."""
    write_vector_file(Path(names[0]), vectors.words, vectors.vectors, config.binary)
    print(f"{names[0]}: {len(vectors.words):,} words, vectors of width {vectors.vectors.shape[1]}")


def import_vectors(vectors: WordVectors, names: list[str], config: VectorsConfig) -> None:
    """A model folder: a core without layers, and a tokenizer of the words, which folds case where no word has any."""
    lowercase = all(word == word.lower() for word in vectors.words)
    kind = TokenizerConfig(kind="word", lowercase=lowercase, vocab_size=len(vectors.words) + 5)
    special = list(kind.roles.values())
    if taken := sorted(set(special) & set(vectors.words)):
        raise ZooError(f"{vectors.source} has a vector of {taken[0]!r}, which a tokenizer keeps for itself.")
    tokenizer = word_tokenizer(kind, vectors.words, config.segmenter)
    width = vectors.vectors.shape[1]
    core = make_core(table_config(len(vectors.words) + len(special), width))
    with torch.no_grad():
        core.token_embedding.zero_()
        core.token_embedding[len(special) :] = torch.from_numpy(vectors.vectors)
    metadata = ModelMetadata(core.config, Template("$A", "$A [SEP] $B"), "bidirectional")
    with whole_folder(Path(names[0])) as folder:
        save_model_folder(folder, core, {}, metadata)
        tokenizer.save(folder, core.config)
    print(f"{names[0]}: {len(vectors.words):,} words, vectors of width {width}")


def table_config(vocab_size: int, width: int) -> CoreConfig:
    """The config of a core that is a table."""
    return CoreConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=0,
        num_attention_heads=1,
        position_type="none",
        type_vocab_size=0,
        embedding_norm=False,
        hidden_dropout_prob=0.0,
        initializer="uniform",
        initializer_range=0.5 / width,
        tie_word_embeddings=False,
        pooler=False,
        pad_token_id=0,
    )


ACTIONS: dict[str, Callable[[WordVectors, list[str], VectorsConfig], None]] = {
    "nearest": print_nearest,
    "similarity": print_similarity,
    "analogies": print_analogies,
    "export": export_vectors,
    "import": import_vectors,
}

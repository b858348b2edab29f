"""``zoo translate RUN FILE``: a decoder writes what an encoder read, by beam search or sampling, and is scored.

Transformers' own loops generate (``zoo.hf``), on batches of sources of like length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretraining.scoring.scorer import template_ids
from pretraining.scoring.translation import scores_in_words, translation_scores
from pretraining.tokenizer.load import load_tokenizer
from zoo.errors import ZooError
from zoo.model_folder import read_metadata
from zoo.runtime.processes import keep_heap
from zoo.runtime.progress import Progress
from zoo.settings.load import load_settings
from zoo.storage.files import write_json
from zoo.storage.user_files import is_blank, read_lines
from zoo.values import Amount, Count, NotNegative, Positive, Seed, UserPath, check_fields

ROOM = 50
"""Tokens that a translation may be longer than its source (Vaswani et al. 2017, 6.1)."""


@dataclass(frozen=True)
class TranslateConfig:
    """What ``zoo translate`` is asked for.

    Args:
        run: a finished run folder, or a model folder, with a decoder.
        text: a text, or a file with one in each line.
        num_beams: beams of the search; 1 = greedy.
        length_penalty: the beams' log-probability is divided by their length to this power.
        max_length: tokens of a translation, at most; absent = 50 more than its source.
        do_sample: draw tokens instead of searching.
        temperature: what scores are divided by before tokens are drawn.
        top_k: draw among so many best tokens; 0 = among all.
        seed: of the draws.
        batch_size: texts at once.
        references: file with a reference for each text: BLEU and chrF are computed.
        language: of the references, which decides how BLEU finds words (``zh``); absent = by spaces and punctuation.
        output: file for the translations, a line each; absent = standard output.
        scores: JSON file for the figures; absent = ``translation.json`` in the folder.
    """

    run: UserPath
    text: str
    num_beams: Count = 4
    length_penalty: NotNegative = 1.0
    max_length: Count | None = None
    do_sample: bool = False
    temperature: Positive = 1.0
    top_k: Amount = 0
    seed: Seed = 0
    batch_size: Count = 32
    references: UserPath | None = None
    language: str | None = None
    output: UserPath | None = None
    scores: UserPath | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self)

    @property
    def search(self) -> dict[str, Any]:
        """Arguments of transformers' ``generate``."""
        if self.do_sample:
            return {"do_sample": True, "num_beams": 1, "temperature": self.temperature, "top_k": self.top_k}
        beams = {"length_penalty": self.length_penalty} if self.num_beams > 1 else {}
        return {"do_sample": False, "num_beams": self.num_beams, **beams}


class Translator:
    """A model that writes one text from another.

    Args:
        folder: a model folder with a decoder.

    Raises:
        ZooError: it has none, or does not say what a target starts with.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        metadata = read_metadata(self.folder)
        if metadata.config.decoder is None:
            raise ZooError(f"{folder} has no decoder (model.decoder), so it writes nothing; `zoo score` asks it.")
        from zoo.hf.seq2seq import ZooForConditionalGeneration

        self.model = ZooForConditionalGeneration.from_pretrained(str(self.folder)).eval()
        self.tokenizer = load_tokenizer(self.folder)
        self.prefix, self.suffix = template_ids(metadata.template.single, self.tokenizer)
        if metadata.decoder_start_token_id is None:
            raise ZooError(f"{folder} does not say what a decoder reads first (decoder_start_token_id in config.json).")
        self.start = metadata.decoder_start_token_id
        self.longest = metadata.config.max_length
        vocabulary = self.tokenizer.vocabulary
        if vocabulary.sep is None:
            raise ZooError(f"the tokenizer of {folder} has no separator (sep), by which a translation ends.")
        self.end, self.pad = vocabulary.sep, vocabulary.pad or 0

    def encoded(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        """Ids of each text in its template.

        Raises:
            ZooError: one is empty or too long, or longer than its translation may be.
        """
        found = []
        for number, (text, (ids, _)) in enumerate(zip(texts, self.tokenizer.encode_batch(list(texts)), strict=True), 1):
            if not len(ids):
                raise ZooError(f"text {number:,} is empty, or of no token: {text[:60]!r}")
            whole = [*self.prefix, *map(int, ids), *self.suffix]
            if len(whole) > self.longest:
                raise ZooError(
                    f"text {number:,} has {len(whole)} tokens, more than this model's {self.longest}: {text[:60]!r}"
                )
            if max_length is not None and max_length < len(whole):
                raise ZooError(
                    f"--max_length {max_length} is below the {len(whole)} tokens of text {number:,}; translations are "
                    "about as long as their source and would be cut. Raise it, or leave it out (source + "
                    f"{ROOM})."
                )
            found.append(whole)
        return found

    @torch.no_grad()
    def translate(
        self, texts: Sequence[str], search: dict[str, Any], max_length: int | None, batch_size: int, seed: int = 0
    ) -> Iterator[tuple[int, str]]:
        """Number and translation of each text, batch by batch, longest sources first.

        Args:
            texts: what is translated.
            search: see :attr:`TranslateConfig.search`.
            max_length: tokens of a translation; ``None`` = :data:`ROOM` more than the batch's longest source.
            batch_size: texts at once.
            seed: of the draws, where tokens are drawn; each batch draws its own.
        """
        sources = self.encoded(texts, max_length)
        order = np.argsort([-len(ids) for ids in sources], kind="stable").tolist()
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            width = max(len(sources[i]) for i in part)
            ids = torch.full((len(part), width), self.pad)
            real = torch.zeros((len(part), width), dtype=torch.long)
            for row, i in enumerate(part):
                ids[row, : len(sources[i])] = torch.tensor(sources[i])
                real[row, : len(sources[i])] = 1
            torch.manual_seed(seed + start)
            written = self.model.generate(
                ids,
                attention_mask=real,
                decoder_start_token_id=self.start,
                eos_token_id=self.end,
                pad_token_id=self.pad,
                max_new_tokens=min(max_length or width + ROOM, self.longest - 1),
                **search,
            )
            for i, row in zip(part, written.tolist(), strict=True):
                yield i, self.tokenizer.decode(row[1:])


def _texts(config: TranslateConfig) -> list[str]:
    """The text, or those of a file."""
    path = Path(config.text)
    texts = list(read_lines(path)) if path.is_file() else [config.text]
    empty = [number for number, text in enumerate(texts, start=1) if is_blank(text)]
    if empty or not texts:
        where = f"{path}:{empty[0]}: an empty line" if empty and path.is_file() else "there is no text"
        raise ZooError(f"{where}: every text needs something to translate.")
    return texts


def translate_command(argv: list[str]) -> int:
    """``zoo translate RUN FILE|"TEXT"``."""
    words = [] if not argv or argv[0].startswith("-") else ["--run", argv[0]]
    words += [] if len(argv) < 2 or argv[1].startswith("-") or not words else ["--text", argv[1]]
    config = load_settings(
        TranslateConfig, [*words, *argv[len(words) // 2 :]], 'zoo translate RUN FILE|"TEXT"', "score"
    ).value
    texts = _texts(config)
    references = None if config.references is None else list(read_lines(Path(config.references)))
    if references is not None and len(references) != len(texts):
        raise ZooError(f"{config.references} has {len(references):,} lines for {len(texts):,} texts.")
    keep_heap()
    translator, found = Translator(config.run), [""] * len(texts)
    progress = Progress("translate", len(texts) > 1)
    done = 0
    for number, text in translator.translate(texts, config.search, config.max_length, config.batch_size, config.seed):
        found[number], done = text, done + 1
        progress.show(done / len(texts), f"{done:,} of {len(texts):,}", last=done == len(texts))
    if config.output:
        Path(config.output).write_text("".join(line.replace("\n", " ") + "\n" for line in found), encoding="utf-8")
    elif references is None:
        print("\n".join(found))
    if references is not None:
        scores = translation_scores(found, references, config.language)
        target = Path(config.scores) if config.scores else Path(config.run) / "translation.json"
        facts = {"texts": len(texts), "search": config.search, **scores}
        write_json(target, facts)
        print("\n".join([*scores_in_words(scores), f"written to {target}"]))
    return 0

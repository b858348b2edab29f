"""Runs that many tests only read: trained once per test run, whichever of pytest's workers asks first."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from training import arguments, train, write_corpus

FACTS: dict[str, dict[str, object]] = {
    "gpt": {"model.intermediate_size": 128},  # four times the width, as stock GPT has it
    "xlnet": {"model.num_attention_heads": 2, "model.reuse_len": 24, "train.batch_size": 4},
    "reformer": {"model.axial_pos_embds_dim": "[12, 20]"},
    "word2vec": {"model.num_hidden_layers": 0, "data.tokenizer.min_frequency": 2},
    "elmo": {"data.tokenizer.vocab_size": 3000, "objectives.bidirectional_lm.init_args.outputs": 400},
}
"""What a family's run needs beside the settings of ``training.arguments``."""


class Shared:
    """Folders below the temporary root that all workers of a test run have in common.

    Nothing in them may be changed: a test that changes a run copies it (``shutil.copytree``).

    Args:
        root: that folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str, facts: object, make: Callable[[Path], object]) -> Path:
        """The folder that ``make`` fills, by now filled.

        Args:
            name: what it holds, in a word or two.
            facts: all that decides its content; whoever gives others gets another folder.
            make: fills the empty folder that it is given.
        """
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
        place, done = self.root / f"{name}-{digest}", self.root / f"{name}-{digest}.done"
        with FileLock(self.root / f"{name}-{digest}.lock"):
            if not done.exists():
                shutil.rmtree(place, ignore_errors=True)  # an attempt that failed: who asks next sees its error, too
                place.mkdir()
                make(place)
                done.touch()
        return place

    def corpus(self) -> Path:
        """A folder with ``text.txt``, the first articles of the shipped sample; runs of it leave their stores there."""
        return self.folder("corpus", "en", write_corpus)

    def settings(self, family: str, steps: int = 12, **more: object) -> list[str]:
        """The command line of such a run; it leaves its folder where ``more`` says (``output``)."""
        return arguments(self.corpus(), family, steps, **{**FACTS.get(family, {}), **more})

    def finished_run(self, family: str, steps: int = 12, **more: object) -> Path:
        """A finished run of a family's tiny configuration.

        Args:
            family: whose configuration.
            steps: optimiser steps.
            **more: settings that differ from those of ``training.arguments`` and ``FACTS``.
        """
        facts = (family, steps, sorted(more.items()))
        place = self.folder(
            f"run-{family}", facts, lambda place: train(self.settings(family, steps, **{"output": place, **more}))
        )
        return next(place.glob("*/run.json")).parent

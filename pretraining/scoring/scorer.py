"""Sentence scores by each objective's own rule: minimal pairs (BLiMP's layout) and clozes.

Chain rule for causal models, pseudo-log-likelihood for masked ones: these are different functionals, so compare
across families in direction only. Words of Chinese text, which masked models hide to their end, are found as those of
the run's text were.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.arrays import WORD_START
from pretraining.layouts.gather import examples_from_tokens
from pretraining.masking.tokens import RandomTokens
from pretraining.objectives.base import CoreRunner, Objective, base_inputs
from pretraining.objectives.bidirectional_lm import BidirectionalLM
from pretraining.objectives.causal_lm import CausalLM
from pretraining.objectives.masked_lm import MaskedLM
from pretraining.objectives.permutation_lm import PermutationLM
from pretraining.text.segmenter import Segmenter, SegmenterName, count_cjk, count_spaces_at_cjk, join_words
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import TextIds, ZooTokenizer
from pretraining.training.load_config import load_run_config
from zoo.errors import ZooError, nearest
from zoo.heads.build import build_head
from zoo.model_folder import ModelMetadata, import_foreign, load_core, load_head
from zoo.storage.files import read_json
from zoo.vocabulary import Vocabulary, parse_layout


class Scorer:
    """Log-probabilities of sentences under a model.

    Args:
        run: a run folder, whose ``run.json`` names the objectives, or another model folder, whose heads' configs say
            enough.
        objective: name of the objective or head that scores, ``None`` = the first that can.
        trust_code: allow objectives that are not part of the package.
        segmenter: what finds the words of Chinese text, ``None`` = what found those of the run's text.
    """

    def __init__(
        self,
        run: str | Path,
        objective: str | None = None,
        trust_code: bool = False,
        segmenter: SegmenterName | None = None,
    ) -> None:
        self.folder, self._asked = Path(run), segmenter
        if trust_code:
            import_foreign(self.folder)
        self.core, self.metadata = load_core(self.folder)
        self.core.eval()
        self.tokenizer = load_tokenizer(self.folder)
        size, rows = self.tokenizer.vocabulary.size, self.core.config.vocab_size or 0
        if size > rows:
            raise ZooError(
                f"the tokenizer in {self.folder} has {size} entries, the model's embedding {rows} rows; "
                "they are not of the same run."
            )
        if (self.folder / "run.json").exists():
            self.name, self.objective = _objective_of_run(self.folder, objective, trust_code)
            self.objective.build(self.core.config, self.tokenizer.vocabulary)
            self.objective.bind_core(self.core)
        else:  # a checkpoint that was brought in
            self.name, self.objective = _objective_of_head(self.metadata, objective, self.tokenizer.vocabulary)
        load_head(self.folder, self.name, self.objective)
        self.objective.eval()
        self.prefix, self.suffix = template_ids(self.metadata.template.single, self.tokenizer)

    @cached_property
    def segmenter(self) -> Segmenter:
        """What finds words; it may have to be installed, so it is asked for where texts are read only."""
        return _segmenter_of(self.folder, self.tokenizer, self._asked)

    @property
    def note(self) -> str | None:
        """What puts all figures in doubt; ``None`` = nothing is known to."""
        if self.objective.score_note:
            return f"{self.name}: {self.objective.score_note}"
        if not isinstance(self.objective, MaskedLM) or self.objective.replacement.needs_mask:
            return None
        return (
            f"{self.name} hides words without a mask token, and here they are hidden with it: unless the weights that "
            "the run was started from knew that token, these figures say nothing."
        )

    @torch.no_grad()
    def score(self, sentences: list[str], batch_size: int = 64) -> NDArray[np.float64]:
        """(N,) log-probability in nats of each sentence; sentences of like length are scored together.

        Sentences of the same tokens are scored once, so that neither has the rounding of another batch.

        Raises:
            ZooError: a sentence is too long, or of no token; the model gives something that is not finite.
        """
        numbers: dict[tuple[bytes, bytes], int] = {}
        places, distinct = [], list[TextIds]()
        for ids, flags in self._fitting(sentences):
            starts = flags & np.uint8(WORD_START)  # how a word was written decides nothing else
            places.append(numbers.setdefault((ids.tobytes(), starts.tobytes()), len(distinct)))
            if places[-1] == len(distinct):
                distinct.append((ids, starts))
        order = np.argsort([len(ids) for ids, _ in distinct], kind="stable")
        scores = np.zeros(len(distinct))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            chosen = [distinct[i] for i in part]
            rows = examples_from_tokens(chosen, self.tokenizer.vocabulary, self.prefix, self.suffix)
            run_core = CoreRunner(self.core, base_inputs(rows))
            scores[part] = self.objective.score(run_core, self.core.token_embedding, rows)
        found: NDArray[np.float64] = scores[places]
        if not np.isfinite(found).all():
            wrong = sentences[int(np.argmin(np.isfinite(found)))]
            raise ZooError(f"{self.folder} gives a sentence a score that is not finite: {wrong[:80]!r}")
        return found

    def _fitting(self, sentences: list[str]) -> list[TextIds]:
        """Ids and flags of each sentence, each of some tokens and of not too many.

        Raises:
            ZooError: one that is not.
        """
        encoded = self.encoded(sentences)
        longest = self.core.config.max_length - len(self.prefix) - len(self.suffix)
        for text, (ids, _) in zip(sentences, encoded, strict=True):
            if len(ids) > longest:
                raise ZooError(f"a sentence of {len(ids)} tokens is longer than this model's {longest}: {text[:80]!r}")
            if not len(ids):  # of probability 1, so that it would win against everything
                raise ZooError(f"a sentence without any token cannot be scored: {text[:80]!r}")
        return encoded

    def encoded(self, sentences: list[str]) -> list[TextIds]:
        """Ids and flags of each sentence, words found as in preparation.

        Raises:
            ZooError: they should have spaces between their words, and have none.
        """
        chinese = sum(map(count_cjk, sentences))
        if self.segmenter.name == "space" and chinese and not sum(map(count_spaces_at_cjk, sentences)):
            why = "--segmenter space takes" if self._asked else f"{self.folder} was trained on"
            raise ZooError(
                f"{why} text with spaces between Chinese words, and these sentences have none, the first is "
                f"{sentences[0][:40]!r}. Segment them likewise, or give --segmenter none (or rjieba)."
            )
        found = [self.segmenter.words(text) for text in sentences]
        if self.tokenizer.whole_words:
            return self.tokenizer.encode_batch(
                [text if words is None else join_words(*words) for text, words in zip(sentences, found, strict=True)]
            )
        pairs = [words or (text, None) for text, words in zip(sentences, found, strict=True)]
        return self.tokenizer.encode_batch([text for text, _ in pairs], [starts for _, starts in pairs])


def _segmenter_of(folder: Path, tokenizer: ZooTokenizer, asked: SegmenterName | None) -> Segmenter:
    """What found the words of the run's text, by the tokenizer's files or ``run.json``; or what is asked for.

    Raises:
        ZooError: it is not installed, or its dictionary is gone.
    """
    if asked is not None:
        return Segmenter(asked)
    try:
        return Segmenter(*segmenter_of_text(folder, tokenizer))
    except ZooError as error:
        raise ZooError(
            f"words as in the text of {folder}: {error} Others: --segmenter none, --segmenter rjieba."
        ) from error


def segmenter_of_text(folder: Path, tokenizer: ZooTokenizer) -> tuple[SegmenterName, str | None]:
    """Segmenter of a model folder's text, by the tokenizer's files or ``run.json``, and its user dictionary."""
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    corpus = record.get("config", {}).get("data", {}).get("corpus", {})
    name = tokenizer.segmenter if tokenizer.segmenter != "none" else corpus.get("segmenter", "none")
    return name, corpus.get("user_dictionary") if name == "rjieba" else None


def _objective_of_run(folder: Path, name: str | None, trust_code: bool) -> tuple[str, Objective]:
    """The objective of a run that scores sentences, built from ``run.json``."""
    resolved = read_json(folder / "run.json").get("config", {})
    specs: dict[str, Any] = resolved.get("objectives", {})
    config = load_run_config(folder, resolved, "zoo score", trust_code).value
    able = [k for k, o in config.objectives.items() if type(o).score is not Objective.score]
    if name is not None and name not in able:
        raise ZooError(
            f"objective {name!r} of {folder} does not score sentences; these do: {able}.{nearest(name, able)}"
        )
    if not able:
        raise ZooError(f"no objective of {folder} ({', '.join(specs)}) says how it scores a sentence.")
    chosen = name or able[0]
    return chosen, config.objectives[chosen]


def _objective_of_head(metadata: ModelMetadata, name: str | None, vocabulary: Vocabulary) -> tuple[str, Objective]:
    """The objective that a token head was trained by, as far as scoring goes, with that head."""
    able = [head for head, described in metadata.heads.items() if described["kind"] == "token"]
    if name is not None and name not in able:
        raise ZooError(
            f"head {name!r} of {metadata.path} does not score sentences; these do: {able}.{nearest(name, able)}"
        )
    if not able:
        have = ", ".join(f"{head} ({described['kind']})" for head, described in metadata.heads.items()) or "none"
        replaced = any(described["kind"] == "replaced" for described in metadata.heads.values())
        hint = " A discriminator gives no probability of a text; its generator does, imported by itself."
        raise ZooError(
            f"{metadata.path} has no head that scores sentences; one of kind token is needed, and its heads are: "
            f"{have}.{hint if replaced else ''}"
        )
    chosen = name or able[0]
    objective = rule_of(metadata, chosen)
    if isinstance(objective, MaskedLM) and vocabulary.mask is None:
        raise ZooError(
            f"{metadata.path} was trained with tokens that attend to each other, so each must be hidden to be scored, "
            "and its tokenizer has no mask token ([MASK] or <mask>)."
        )
    objective.build(metadata.config, vocabulary)
    objective.head = build_head(metadata.config, metadata.heads[chosen])  # type: ignore[assignment]  # a token head
    return chosen, objective


def rule_of(metadata: ModelMetadata, head: str) -> CausalLM | MaskedLM | PermutationLM | BidirectionalLM:
    """Whose rule scores with a token head, by what it reads; nothing is chosen or drawn when scoring."""
    if metadata.attention == "causal":
        return CausalLM()
    if metadata.heads[head].get("half"):
        return BidirectionalLM(outputs=metadata.heads[head].get("outputs"))
    return PermutationLM() if metadata.config.query_stream else MaskedLM(select=RandomTokens())


def template_ids(single: str, tokenizer: ZooTokenizer) -> tuple[list[int], list[int]]:
    """Template ids before and after the text; tokens that fine-tuning would add are left out, being untrained."""
    words, known = [word for word, _ in parse_layout(single)], tokenizer.backend.token_to_id
    place = words.index("$A")
    return (
        [i for i in map(known, words[:place]) if i is not None],
        [i for i in map(known, words[place + 1 :]) if i is not None],
    )

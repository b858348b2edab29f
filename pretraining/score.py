"""Sentence scores by each objective's own rule: minimal pairs (BLiMP's layout) and clozes.

Chain rule for causal models, pseudo-log-likelihood for masked ones: these are different functionals, so compare
across families in direction only. Words of Chinese text, which masked models hide to their end, are found as those of
the run's text were.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pretraining.choose import Tokens
from pretraining.config import PretrainConfig
from pretraining.layouts import rows_from_texts
from pretraining.log import Progress
from pretraining.model import Encoder
from pretraining.objective import Objective, base_inputs
from pretraining.objectives import BidirectionalLM, CausalLM, MaskedLM, PermutationLM
from pretraining.segment import Segmenter, SegmenterName, count_cjk, count_spaces_at_cjk, join_words
from pretraining.tokenizer import Encoded, ZooTokenizer, load_tokenizer
from pretraining.trust import refuse_foreign_code
from zoo.config import read_json
from zoo.errors import ZooError, nearest
from zoo.folder import ModelFacts, load_core, load_head, write_json
from zoo.heads import build_head
from zoo.settings.load import load_settings
from zoo.vocabulary import Vocabulary, numbered


@dataclass(frozen=True)
class ScoreConfig:
    """What ``zoo score`` is asked for.

    Args:
        run: a finished run folder of ``python -m pretraining``, or a model folder that ``zoo import`` made.
        pairs: folder of ``*.jsonl`` or ``*.jsonl.gz`` with ``sentence_good`` and ``sentence_bad`` (BLiMP's layout).
        cloze: JSONL file with ``text`` (the gap written as ``___``), ``options`` and ``answer`` (an option's number).
        limit: items per file.
        batch_size: sentences per call of the model.
        objective: which of the run's objectives, or of the model folder's heads, scores; absent = the first that can.
        segmenter: what finds the words of Chinese text: ``none`` (every character is one), ``rjieba``, ``space`` (they
            have spaces between them); absent = what found those of the run's text, with its user dictionary.
        trust_code: also run objectives from outside the package, which ``run.json`` names.
        output: JSON file for the figures; absent = ``scores.json`` in the folder.
    """

    run: str
    pairs: str | None = None
    cloze: str | None = None
    limit: int | None = None
    batch_size: int = 64
    objective: str | None = None
    segmenter: SegmenterName | None = None
    trust_code: bool = False
    output: str | None = None


class Scorer:
    """Log-probabilities of sentences under a model.

    Args:
        run: a run folder, whose ``run.json`` names the objectives, or another model folder, whose heads' facts say
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
        self.core, self.facts = load_core(self.folder)
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
        else:  # a checkpoint that was brought in
            self.name, self.objective = _objective_of_head(self.facts, objective, self.tokenizer.vocabulary)
        load_head(self.folder, self.name, self.objective)
        self.objective.eval()
        self.prefix, self.suffix = _template_ids(self.facts.template.single, self.tokenizer)

    @cached_property
    def segmenter(self) -> Segmenter:
        """What finds words; it may have to be installed, so it is asked for where texts are read only."""
        return _segmenter_of(self.folder, self.tokenizer, self._asked)

    @property
    def note(self) -> str | None:
        """What puts all figures in doubt; ``None`` = nothing is known to."""
        if not isinstance(self.objective, MaskedLM) or self.objective.fill.needs_mask:
            return None
        return (
            f"{self.name} hides words without a mask token, and here they are hidden with it: unless the weights that "
            "the run was started from knew that token, these figures say nothing."
        )

    @torch.no_grad()
    def score(self, sentences: list[str], batch_size: int = 64) -> NDArray[np.float64]:
        """(N,) log-probability in nats of each sentence; sentences of like length are scored together."""
        encoded = self.encoded(sentences)
        longest = self.core.config.max_length - len(self.prefix) - len(self.suffix)
        for text, (ids, _) in zip(sentences, encoded, strict=True):
            if len(ids) > longest:
                raise ZooError(f"a sentence of {len(ids)} tokens is longer than this model's {longest}: {text[:80]!r}")
        order = np.argsort([len(ids) for ids, _ in encoded], kind="stable")
        scores = np.zeros(len(sentences))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            rows = rows_from_texts([encoded[i] for i in part], self.tokenizer.vocabulary, self.prefix, self.suffix)
            encode = Encoder(self.core, base_inputs(rows))
            scores[part] = self.objective.score(encode, self.core.token_embedding, rows)
        return scores

    def encoded(self, sentences: list[str]) -> list[Encoded]:
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
        return Segmenter(*segmenter_facts(folder, tokenizer))
    except ZooError as error:
        raise ZooError(
            f"words as in the text of {folder}: {error} Others: --segmenter none, --segmenter rjieba."
        ) from error


def segmenter_facts(folder: Path, tokenizer: ZooTokenizer) -> tuple[SegmenterName, str | None]:
    """Segmenter of a model folder's text, by the tokenizer's files or ``run.json``, and its user dictionary."""
    record = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    corpus = record.get("config", {}).get("data", {}).get("corpus", {})
    name = tokenizer.segmenter if tokenizer.segmenter != "none" else corpus.get("segmenter", "none")
    return name, corpus.get("user_dictionary") if name == "rjieba" else None


def _objective_of_run(folder: Path, name: str | None, trust_code: bool) -> tuple[str, Objective]:
    """The objective of a run that scores sentences, built from ``run.json``."""
    resolved = read_json(folder / "run.json").get("config", {})
    specs: dict[str, Any] = resolved.get("objectives", {})
    refuse_foreign_code(folder, resolved, trust_code)
    config = load_settings(PretrainConfig, [], "zoo score", "pretrain", resolved).value
    able = [k for k, o in config.objectives.items() if type(o).score is not Objective.score]
    if name is not None and name not in able:
        raise ZooError(
            f"objective {name!r} of {folder} does not score sentences; these do: {able}.{nearest(name, able)}"
        )
    if not able:
        raise ZooError(f"no objective of {folder} ({', '.join(specs)}) says how it scores a sentence.")
    chosen = name or able[0]
    return chosen, config.objectives[chosen]


def _objective_of_head(facts: ModelFacts, name: str | None, vocabulary: Vocabulary) -> tuple[str, Objective]:
    """The objective that a token head was trained by, as far as scoring goes, with that head."""
    able = [head for head, described in facts.heads.items() if described["kind"] == "token"]
    if name is not None and name not in able:
        raise ZooError(
            f"head {name!r} of {facts.path} does not score sentences; these do: {able}.{nearest(name, able)}"
        )
    if not able:
        have = ", ".join(f"{head} ({described['kind']})" for head, described in facts.heads.items()) or "none"
        raise ZooError(
            f"{facts.path} has no head that scores sentences; one of kind token is needed, and its heads are: {have}."
        )
    chosen = name or able[0]
    objective = rule_of(facts, chosen)
    if isinstance(objective, MaskedLM) and vocabulary.mask is None:
        raise ZooError(
            f"{facts.path} was trained with tokens that see each other, so each must be hidden to be scored, and its "
            "tokenizer has no mask token ([MASK] or <mask>)."
        )
    objective.build(facts.config, vocabulary)
    objective.head = build_head(facts.config, facts.heads[chosen])  # type: ignore[assignment]  # a token head
    return chosen, objective


def rule_of(facts: ModelFacts, head: str) -> CausalLM | MaskedLM | PermutationLM | BidirectionalLM:
    """Whose rule scores with a token head, by what it reads; nothing is chosen or drawn when scoring."""
    if facts.visibility == "causal":
        return CausalLM()
    if facts.heads[head].get("half"):
        return BidirectionalLM(outputs=facts.heads[head].get("outputs"))
    return PermutationLM() if facts.config.query_stream else MaskedLM(choose=Tokens())


def _template_ids(single: str, tokenizer: ZooTokenizer) -> tuple[list[int], list[int]]:
    """Template ids before and after the text; tokens that fine-tuning would add are left out, being untrained."""
    words, known = [word for word, _ in numbered(single)], tokenizer.backend.token_to_id
    place = words.index("$A")
    return (
        [i for i in map(known, words[:place]) if i is not None],
        [i for i in map(known, words[place + 1 :]) if i is not None],
    )


def read_items(path: Path, fields: tuple[str, ...], limit: int | None) -> Iterator[dict[str, Any]]:
    """JSON objects of a ``.jsonl`` or ``.jsonl.gz`` file that have ``fields``."""
    if not path.is_file():
        raise ZooError(f"{path} is not a file.")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if limit is not None and number > limit:
                return
            try:
                item = json.loads(line)
            except json.JSONDecodeError as error:
                raise ZooError(f"{path}, line {number} is not JSON: {error}") from error
            missing = [field for field in fields if field not in item]
            if missing:
                raise ZooError(f"{path}, line {number} has no {missing[0]!r}.{nearest(missing[0], item)}")
            yield item


def score_pairs(scorer: Scorer, folder: Path, limit: int | None, batch_size: int, show: bool) -> dict[str, Any]:
    """Accuracy per paradigm and over all: share of pairs whose good sentence scores higher, ties one half."""
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not files:
        raise ZooError(f"{folder} holds no *.jsonl or *.jsonl.gz file of minimal pairs.")
    progress, paradigms = Progress("pairs", show), {}
    for number, path in enumerate(files):
        items = list(read_items(path, ("sentence_good", "sentence_bad"), limit))
        texts = [i["sentence_good"] for i in items] + [i["sentence_bad"] for i in items]
        good, bad = np.split(scorer.score(texts, batch_size), 2)
        wins = (good > bad) + 0.5 * (good == bad)
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        paradigms[name] = {"accuracy": float(wins.mean()), "pairs": len(items)}
        progress.show((number + 1) / len(files), f"{name} {wins.mean():.3f}", last=number + 1 == len(files))
    mean = float(np.mean([p["accuracy"] for p in paradigms.values()]))
    return {"accuracy": mean, "paradigms": paradigms, "chance": 0.5}


def score_cloze(scorer: Scorer, path: Path, limit: int | None, batch_size: int) -> dict[str, Any]:
    """Share of clozes whose right option makes the best sentence, beside the chance of guessing."""
    items = list(read_items(path, ("text", "options", "answer"), limit))
    if not items:
        raise ZooError(f"{path} holds no cloze.")
    texts = [item["text"].replace("___", option) for item in items for option in item["options"]]
    sizes = [len(item["options"]) for item in items]
    parts = np.split(scorer.score(texts, batch_size), np.cumsum(sizes)[:-1])
    hits = [float(np.argmax(part) == item["answer"]) for part, item in zip(parts, items, strict=True)]
    return {"accuracy": float(np.mean(hits)), "items": len(items), "chance": float(np.mean([1 / s for s in sizes]))}


def score_command(argv: list[str]) -> int:
    """``zoo score RUN --pairs FOLDER`` and ``zoo score RUN --cloze FILE``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ScoreConfig, argv, "zoo score RUN", "score").value
    if config.pairs is None and config.cloze is None:
        raise ZooError("nothing to score: give --pairs FOLDER (minimal pairs) or --cloze FILE.")
    scorer = Scorer(config.run, config.objective, config.trust_code, config.segmenter)
    words = scorer.segmenter.facts
    result: dict[str, Any] = {"objective": scorer.name, "run": Path(config.run).name, "segmenter": words}
    result["note"] = scorer.note
    if scorer.note:
        print(f"note: {scorer.note}")
    if config.pairs is not None:
        result["pairs"] = score_pairs(scorer, Path(config.pairs), config.limit, config.batch_size, True)
        print(f"minimal pairs: {100 * result['pairs']['accuracy']:.2f} % (chance 50.00 %) by {scorer.name}")
    if config.cloze is not None:
        result["cloze"] = score_cloze(scorer, Path(config.cloze), config.limit, config.batch_size)
        print(f"cloze: {100 * result['cloze']['accuracy']:.2f} % (chance {100 * result['cloze']['chance']:.2f} %)")
    target = Path(config.output) if config.output else Path(config.run) / "scores.json"
    write_json(target, result)
    print(f"written to {target}")
    return 0

"""``zoo cloze RUN``: how well a run or another model folder restores hidden words, by their length."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.arrays import WORD_START, Ints
from pretraining.corpus.config import CorpusConfig
from pretraining.keyed_random import Draw
from pretraining.layouts.examples import Examples
from pretraining.layouts.gather import examples_from_tokens
from pretraining.objectives.base import CoreRunner, base_inputs
from pretraining.objectives.masked_lm import MaskedLM
from pretraining.objectives.token_scoring import MaskedModel, fill_masked
from pretraining.scoring.cloze_items import (
    DocumentTokens,
    Items,
    SentenceTokens,
    choose_entities,
    choose_words,
    read_text,
)
from pretraining.scoring.scorer import Scorer, segmenter_of_text
from pretraining.store.prepare import prepare_store
from pretraining.store.token_store import Store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.load_config import load_run_config
from pretraining.training.loader import split_documents
from pretraining.training.renamed import RENAMED
from pretraining.training.stores import run_store
from zoo.errors import ZooError
from zoo.runtime.processes import keep_heap
from zoo.runtime.progress import Progress
from zoo.settings.load import load_settings
from zoo.storage.files import read_json, write_json
from zoo.values import Count, Seed, UserPath, check_fields

_AT_ONCE = 256  # sentences per call of the objective, which makes copies of them in portions of its own


# --- settings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClozeConfig:
    """What ``zoo cloze`` is asked for.

    Args:
        run: a finished run folder of ``python -m pretraining``, or a model folder that ``zoo import`` made.
        corpus: text to ask about; absent = the held-out documents of the run.
        longest: longest word, in tokens.
        items: words of each length; all, where there are fewer.
        entity: array of the store whose units are asked about, beside control stretches; absent = words only.
        shortest_entity: least tokens of a unit.
        seed: of the choice of words.
        objective: which of the run's objectives fills in; absent = the first that can.
        trust_code: also run objectives from outside the package, which ``run.json`` names.
        stores: folder for the prepared ``corpus``.
        output: JSON file for the figures; absent = in the folder ``cloze.json``, or, of another text than the run's,
            ``cloze-NAME.json`` after its prepared store.
    """

    run: UserPath
    corpus: CorpusConfig | None = None
    longest: Count = 4
    items: Count = 10_000
    entity: str | None = None
    shortest_entity: Count = 3
    seed: Seed = 0
    objective: str | None = None
    trust_code: bool = False
    stores: UserPath = "stores"
    output: UserPath | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a size asks nothing."""
        check_fields(self, "cloze")


# --- a model that fills in what is hidden ----------------------------------------------------------


class Cloze:
    """Restores stretches of a text with one model.

    Args:
        scorer: the model; its objective must be a masked one.

    Raises:
        ZooError: it is not.
    """

    def __init__(self, scorer: Scorer) -> None:
        if not isinstance(scorer.objective, MaskedLM):
            raise ZooError(
                f"cloze: {scorer.name!r} of {scorer.folder} is a {type(scorer.objective).__name__}, which cannot fill "
                "in words that are hidden; an objective of the kind MaskedLM is needed."
            )
        self.scorer, self.objective = scorer, scorer.objective

    def answers(self, text: SentenceTokens, items: Items, counts: Ints) -> Answers:
        """Both ways of asking, and the frequencies' answer.

        Args:
            text: what is asked about.
            items: the stretches.
            counts: (V,) how often each token occurs.
        """
        one_by_one = self.ask(text, items)
        at_once = one_by_one if items.size.max(initial=1) == 1 else self.ask(text, items, together=True)
        return Answers(items.size, *one_by_one, *at_once, by_frequency(text, items, counts))

    def ask(
        self, text: SentenceTokens, items: Items, together: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(I,) log-probability of each stretch in its sentence, in nats; and how far it was filled in right.

        Sentences longer than the model's rows are cut to a window around the stretch.
        """
        scorer = self.scorer
        room = scorer.core.config.max_length - len(scorer.prefix) - len(scorer.suffix)
        first, last = self._windows(text, items, room)
        chance, right = np.zeros(len(first)), np.zeros(len(first))
        order = np.argsort(last - first, kind="stable")
        for begin in range(0, len(order), _AT_ONCE):
            part = order[begin : begin + _AT_ONCE]
            sentences = [
                (text.ids[a:b], np.full(b - a, WORD_START)) for a, b in zip(first[part], last[part], strict=True)
            ]
            rows = examples_from_tokens(sentences, scorer.tokenizer.vocabulary, scorer.prefix, scorer.suffix)
            column = items.start[part] - first[part] + len(scorer.prefix)
            chance[part], right[part] = fill_masked(self.model(rows), rows, column, items.size[part], together)
        return chance, right

    def model(self, rows: Examples) -> MaskedModel:
        """The scorer's core and head, as they are asked about hidden tokens of ``rows``."""
        core = self.scorer.core
        run_core = CoreRunner(core, base_inputs(rows))
        return MaskedModel(run_core, self.objective.head, core.token_embedding, self.objective.vocabulary.mask)

    @staticmethod
    def _windows(text: SentenceTokens, items: Items, room: int) -> tuple[Ints, Ints]:
        sentence = text.sentence[items.start]
        begin, end = text.bounds[sentence], text.bounds[sentence + 1]
        middle = items.start + items.size // 2
        first = np.clip(middle - room // 2, begin, np.maximum(end - room, begin))
        return first, np.minimum(first + room, end)


# --- figures ---------------------------------------------------------------------------------------


class Answers(NamedTuple):
    """What a model, and token frequencies, make of some stretches. (I,) each.

    Args:
        size: tokens of each.
        chance: log-probability in nats, filled in from left to right.
        right: 1 where all its tokens were the most probable ones, else 0; equally probable entries share.
        chance_at_once: the same, all tokens asked for at once.
        right_at_once: the same.
        unigram: log-probability by token frequencies.
    """

    size: Ints
    chance: NDArray[np.float64]
    right: NDArray[np.float64]
    chance_at_once: NDArray[np.float64]
    right_at_once: NDArray[np.float64]
    unigram: NDArray[np.float64]


def metrics(answers: Answers) -> dict[str, float]:
    """Exact matches and nats per token, and what token frequencies alone would need: the floor of the question."""
    tokens = max(int(answers.size.sum()), 1)
    share = 1 / max(len(answers.size), 1)
    return {
        "items": len(answers.size),
        "exact": float(answers.right.sum() * share),
        "nats": float(-answers.chance.sum() / tokens),
        "exact_at_once": float(answers.right_at_once.sum() * share),
        "nats_at_once": float(-answers.chance_at_once.sum() / tokens),
        "unigram": float(-answers.unigram.sum() / tokens),
    }


def by_frequency(text: SentenceTokens, items: Items, counts: Ints) -> NDArray[np.float64]:
    """(I,) log-probability of each stretch by how often its tokens are, context unseen; one is added to every count."""
    log_share = np.log((counts + 1) / (counts + 1).sum())
    before = np.append(0.0, np.cumsum(log_share[text.ids]))
    found: NDArray[np.float64] = before[items.start + items.size] - before[items.start]
    return found


def measure(
    scorer: Scorer, store: Store, config: ClozeConfig, asked: Ints, training: Ints, show: bool
) -> dict[str, Any]:
    """All figures of one model on some documents.

    Args:
        scorer: the model.
        store: the text.
        config: what is asked.
        asked: documents that are asked about.
        training: documents that frequencies are counted in.
        show: progress on standard error.

    Returns:
        ``words`` by length, ``longer`` (two tokens and more), ``entity`` and ``control`` where they are asked about;
        ``note``, what puts them in doubt, or ``None``; ``text``, name, fingerprint and segmenter of the text.

    Raises:
        ZooError: no word of letters, no entity, a model that cannot fill in.
    """
    cloze, draw = Cloze(scorer), Draw(config.seed, 0)
    text = read_text(store, asked, scorer.tokenizer, config.entity)
    groups = {str(n): items for n, items in choose_words(text, config.longest, config.items, draw).items()}
    if not any(len(items.start) for items in groups.values()):
        raise ZooError(f"cloze: no word of letters, of 1 to {config.longest} tokens, in {len(asked)} documents.")
    if config.entity is not None:
        tokens = DocumentTokens(store, training)
        units = choose_entities(text, tokens, config.shortest_entity, config.items, draw)
        groups |= dict(zip(("entity", "control"), units, strict=True))
    progress, answers = Progress("cloze", show), dict[str, Answers]()
    for number, (name, items) in enumerate(groups.items(), 1):
        answers[name] = cloze.answers(text, items, np.asarray(store.counts, dtype=np.int64))
        progress.show(number / len(groups), name, last=number == len(groups))
    found: dict[str, Any] = {"words": {n: metrics(answers[n]) for n in groups if n.isdigit() and len(answers[n].size)}}
    longer = [answers[n] for n in groups if n.isdigit() and int(n) > 1]
    if sum(len(part.size) for part in longer):
        found["longer"] = metrics(Answers(*(np.concatenate(parts) for parts in zip(*longer, strict=True))))
    found["note"] = scorer.note
    words = store.meta.get("recipe", {}).get("segmenter")
    found["text"] = {"store": store.path.name, "fingerprint": store.fingerprint, "segmenter": words}
    return found | {name: metrics(answers[name]) for name in ("entity", "control") if name in answers}


_QUESTIONS = ("exact", "nats", "exact_at_once", "nats_at_once")


def measures(found: dict[str, Any]) -> dict[str, float]:
    """One number by name, for reports: ``nats.2``, ``exact.longer``, ``nats_at_once.longer-1``, ``nats.entity``, ...

    ``unigram.NAME`` is the floor of ``nats.NAME``: the same for all models with one tokenizer and one text.
    """
    groups = {**found["words"], **{name: found[name] for name in ("longer", "entity", "control") if name in found}}
    result = {f"{what}.{name}": group[what] for name, group in groups.items() for what in (*_QUESTIONS, "unigram")}
    for more, less in (("longer", "1"), ("entity", "control")):
        if more in groups and less in groups:
            result |= {f"{what}.{more}-{less}": groups[more][what] - groups[less][what] for what in _QUESTIONS}
    return result


# --- the command -----------------------------------------------------------------------------------


def cloze_of_run(config: ClozeConfig, show: bool = False) -> dict[str, Any]:
    """Figures of a run on its held-out documents, or of any model folder on a text.

    Raises:
        ZooError: the run held nothing out and no text is given, or its text has changed.
    """
    scorer, folder = Scorer(config.run, config.objective, config.trust_code), Path(config.run)
    if config.corpus is not None:
        tokenizer = TokenizerConfig(kind="file", path=str(folder), special=scorer.tokenizer.roles)
        store = prepare_store(config.corpus, tokenizer, config.stores, quiet=not show)
        every = np.arange(store.num_documents, dtype=np.int64)
        return measure(scorer, store, config, every, every, show)
    if not (folder / "run.json").exists():
        raise ZooError(f"cloze: {folder} has no run.json that names its text; give some with --corpus.files.")
    record = read_json(folder / "run.json")
    run = load_run_config(folder, record["config"], "zoo cloze", config.trust_code).value
    store = run_store(run, show)
    if store.fingerprint != record.get("data_fingerprint"):
        raise ZooError(f"cloze: the text of {folder} has changed since it was trained; give some with --corpus.files.")
    training, held_out = split_documents(store, run.data.validation_tokens)
    if not len(held_out):
        raise ZooError(
            f"cloze: {folder} held no documents out (data.validation_tokens = {run.data.validation_tokens}); give some "
            "text with --corpus.files."
        )
    return measure(scorer, store, config, held_out, training, show)


def _words_as_in_the_run(merged: dict[str, Any], command_line: dict[str, Any]) -> dict[str, Any]:
    """The segmenter of the run's text, where another text is asked about and nothing says what finds its words."""
    corpus, folder = merged.get("corpus"), Path(str(merged.get("run")))
    if not isinstance(corpus, dict) or "segmenter" in corpus or not (folder / "tokenizer.json").exists():
        return {}
    name, dictionary = segmenter_of_text(folder, load_tokenizer(folder))
    own = {"corpus.segmenter": name}
    return own if "user_dictionary" in corpus or dictionary is None else {**own, "corpus.user_dictionary": dictionary}


def cloze_command(argv: list[str]) -> int:
    """``zoo cloze RUN [--entity NAME] [--corpus.files FILE]``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ClozeConfig, argv, "zoo cloze RUN", "cloze", None, _words_as_in_the_run, RENAMED).value
    keep_heap()
    found = cloze_of_run(config, show=True)
    groups = {**found["words"], **{name: found[name] for name in ("longer", "entity", "control") if name in found}}
    if config.corpus is not None:
        print(f"text: {config.corpus.files}, segmenter {config.corpus.segmenter}")
    if found["note"]:
        print(f"note: {found['note']}")
    print(f"{'':10} {'':>8} {'left to right':>18} {'at once':>18} {'by frequency':>13}")
    print(f"{'hidden':<10} {'items':>8} {'exact':>9} {'nats':>8} {'exact':>9} {'nats':>8} {'nats':>13}   per token")
    for name, group in groups.items():
        one_by_one = f"{100 * group['exact']:>7.2f} % {group['nats']:>8.4f}"
        at_once = f"{100 * group['exact_at_once']:>7.2f} % {group['nats_at_once']:>8.4f}"
        print(f"{name:<10} {group['items']:>8,} {one_by_one} {at_once} {group['unigram']:>13.4f}")
    plain = asdict(replace(config, corpus=None))
    asked = {key: value for key, value in plain.items() if key not in ("run", "output", "stores")}
    name = "cloze.json"
    if config.corpus is not None:
        asked["corpus"], name = config.corpus.spec, f"cloze-{found['text']['store']}.json"
    target = Path(config.output) if config.output else Path(config.run) / name
    write_json(target, {"run": Path(config.run).name, "asked": asked, **found})
    print(f"written to {target}")
    return 0

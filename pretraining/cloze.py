"""Whole words hidden in running text: how well a masked model restores them, by word length (``zoo cloze RUN``).

Of every held-out sentence's words some are hidden, one at a time, with all their tokens, and asked for in two ways:
from left to right, each token knowing the true ones before it, and all at once. *exact* is the share of words of which
every token was the most probable one, *nats* is minus the log-probability per token; *exact_at_once* and *nats_at_once*
are the same, asked at once. *unigram* is what nats would be by the tokens' frequencies in the store alone: a model that
does not stay below it has learned nothing about such words, and decides nothing. Lengths are in tokens, which in
Chinese are characters.

Comparing models: the difference of longer words and single characters is free of how good the models are on the whole;
it says what hiding whole words did for longer words (Cui et al. 2019; design after arXiv 2203.00286). A model that has
always seen whole words hidden was never asked for the end of a word whose beginning it sees, as it is from left to
right; one trained on single characters was all the time. So the question that is fair to both is the one at once.

Words of another text (``--corpus.files``) are found as those of the run's text were, unless ``--corpus.segmenter`` says
otherwise.

With ``entity`` the same is asked of units of an array of the store, and of *control* stretches: whole words outside of
units, of the same length and the same tenth of frequency in the training text, as many as there are entities.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretraining.assemble import prepare_store
from pretraining.config import PretrainConfig
from pretraining.corpus import CorpusConfig
from pretraining.layouts import rows_from_texts
from pretraining.loader import split_documents
from pretraining.log import Progress
from pretraining.model import Encoder
from pretraining.objective import base_inputs
from pretraining.objectives import MaskedLM
from pretraining.prepare import prepare
from pretraining.random import Draw
from pretraining.score import Scorer, segmenter_facts
from pretraining.store import WORD_START, Store
from pretraining.tokenizer import TokenizerConfig, ZooTokenizer, load_tokenizer
from pretraining.trust import refuse_foreign_code
from zoo.config import read_json
from zoo.errors import ZooError
from zoo.folder import write_json
from zoo.settings.load import load_settings

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_AT_ONCE = 256  # sentences per call of the objective, which makes copies of them in portions of its own
_DECILES = 10
_PORTION = 2**20  # tokens of the training text that are in memory at a time


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

    run: str
    corpus: CorpusConfig | None = None
    longest: int = 4
    items: int = 10_000
    entity: str | None = None
    shortest_entity: int = 3
    seed: int = 0
    objective: str | None = None
    trust_code: bool = False
    stores: str = "stores"
    output: str | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that ask nothing."""
        for name in ("longest", "items", "shortest_entity"):
            if getattr(self, name) < 1:
                raise ZooError(f"cloze: {name} = {getattr(self, name)}; at least 1 is needed.")


class Text(NamedTuple):
    """Sentences of some documents, one after the other. N tokens.

    Args:
        ids: (N,) tokens.
        starts: (N + 1,) whether a word starts here; the end is one.
        sentence: (N,) number of each token's sentence.
        bounds: (S + 1,) first token of each sentence.
        good: (N,) whether the token's word is of letters alone, so that it may be asked about.
        codes: (N,) unit codes of the entities, where they are asked about.
    """

    ids: Ints
    starts: Bools
    sentence: Ints
    bounds: Ints
    good: Bools
    codes: NDArray[np.uint8] | None


class DocumentTokens:
    """Tokens of some documents of a store, end to end as if they were one array; a slice is read when it is taken.

    Args:
        store: the text.
        documents: their numbers.
    """

    def __init__(self, store: Store, documents: Ints) -> None:
        offsets = store.document_tokens()
        sizes = offsets[documents + 1] - offsets[documents]
        self._tokens = np.asarray(store.tokens)
        self._ends = np.cumsum(sizes)
        self._shift = offsets[documents] - (self._ends - sizes)

    def __len__(self) -> int:
        """Tokens."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """(n,) the tokens of a slice."""
        place = np.arange(*part.indices(len(self)))
        place += self._shift[np.searchsorted(self._ends, place, side="right")]
        return self._tokens[place]


class Items(NamedTuple):
    """Stretches to hide. (I,) each: first token in the text, number of tokens."""

    start: Ints
    size: Ints


def read_text(store: Store, documents: Ints, tokenizer: ZooTokenizer, entity: str | None) -> Text:
    """The sentences of ``documents``.

    Raises:
        ZooError: the store has no array of entities.
    """
    if entity is not None and entity not in store.arrays:
        raise ZooError(
            f"cloze: {store.path} has no array {entity!r} (it has {', '.join(store.arrays) or 'none'}); it is made by "
            f"corpus.annotations.{entity}, for example a pretraining.annotate.Lexicon."
        )
    offsets, edges = np.asarray(store.documents), np.asarray(store.sentences)
    sentences = _ranges(offsets[documents], offsets[documents + 1] - offsets[documents])
    sizes = edges[sentences + 1] - edges[sentences]
    place = _ranges(edges[sentences], sizes)
    ids = np.asarray(store.tokens)[place].astype(np.int64)
    starts = np.ones(len(ids) + 1, dtype=bool)
    starts[:-1] = (np.asarray(store.flags)[place] & WORD_START) != 0
    bounds = np.append(0, np.cumsum(sizes))
    starts[bounds] = True
    word = np.flatnonzero(starts)
    good = np.repeat(of_letters(ids, word[:-1], np.diff(word), tokenizer), np.diff(word))
    codes = None if entity is None else np.asarray(store.arrays[entity])[place]
    return Text(ids, starts, np.repeat(np.arange(len(sizes)), sizes), bounds, good, codes)


def of_letters(ids: Ints, start: Ints, size: Ints, tokenizer: ZooTokenizer) -> Bools:
    """(W,) whether each word, its tokens decoded together, is of letters alone.

    How a vocabulary marks words (``##``, ``▁``, ``Ġ``, ``</w>``) its decoder knows; and only a whole word has whole
    characters where the units are bytes.

    Args:
        ids: (N,) tokens of a text.
        start: (W,) first token of each word.
        size: (W,) its number of tokens.
        tokenizer: what the ids belong to.
    """
    good = np.zeros(len(start), dtype=bool)
    special = list(tokenizer.vocabulary.special_ids)
    for length in np.unique(size).tolist():
        own = np.flatnonzero(size == length)
        words, numbers = np.unique(ids[start[own][:, None] + np.arange(length)], axis=0, return_inverse=True)
        spelt = tokenizer.backend.decode_batch(words.tolist(), skip_special_tokens=False)
        letters = np.array(["".join(text.split()).isalpha() for text in spelt])  # a decoder parts Chinese characters
        good[own] = (letters & ~np.isin(words, special).any(axis=1))[numbers.reshape(-1)]
    return good


def _ranges(starts: Ints, sizes: Ints) -> Ints:
    flat: Ints = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return flat + np.arange(len(flat))


def choose_words(text: Text, longest: int, items: int, draw: Draw) -> dict[int, Items]:
    """Words of letters, by their number of tokens: at most ``items`` of each, drawn by their place."""
    start = np.flatnonzero(text.starts)
    start, size = start[:-1], np.diff(start)
    good = np.logical_and.reduceat(text.good, start) if len(start) else np.zeros(0, dtype=bool)
    found = {}
    for length in range(1, longest + 1):
        own = _sample(start[good & (size == length)], items, draw)
        found[length] = Items(own, np.full(len(own), length))
    return found


def _sample(places: Ints, count: int, draw: Draw) -> Ints:
    """At most ``count`` of the places, ascending."""
    if len(places) <= count:
        return places
    order = np.argsort(draw.keys(places, "cloze"), kind="stable")
    return np.sort(places[order[:count]])


def choose_entities(
    text: Text, training: NDArray[Any] | DocumentTokens, shortest: int, items: int, draw: Draw
) -> tuple[Items, Items]:
    """Units and control stretches of the same lengths and tenths of training frequency, equally many of each.

    Args:
        text: what is asked about.
        training: tokens of the training text, for frequencies.
        shortest: least tokens of a unit.
        items: most units.
        draw: random numbers.

    Raises:
        ZooError: there is no unit so long.
    """
    assert text.codes is not None
    inside = text.codes > 0
    start = np.flatnonzero(text.codes == 1)
    after = np.append(np.flatnonzero(text.codes != 2), len(text.codes))
    size = after[np.searchsorted(after, start, side="right")] - start
    kept = (size >= shortest) & (text.sentence[start] == text.sentence[start + size - 1])
    start, size = start[kept], size[kept]
    if not len(start):
        raise ZooError(f"cloze: no unit of {shortest} tokens or more in the text that is asked about.")
    chosen = np.isin(start, _sample(start, items, draw))
    start, size = start[chosen], size[chosen]
    pairs: list[tuple[Ints, Ints, int]] = []
    for length in np.unique(size).tolist():
        own, control = start[size == length], _stretches(text, inside, length)
        if not len(control):
            continue
        often = _frequency(text.ids, np.append(own, control), length, training)
        edges = np.quantile(often[: len(own)], np.arange(1, _DECILES) / _DECILES)
        tenth, tenth_of_control = np.split(np.searchsorted(edges, often, side="left"), [len(own)])
        for number in np.unique(tenth):
            first, second = own[tenth == number], control[tenth_of_control == number]
            count = min(len(first), len(second))
            pairs.append((_sample(first, count, draw), _sample(second, count, draw), length))
    sizes = np.concatenate([np.full(len(first), length) for first, _, length in pairs] or [np.zeros(0, np.int64)])
    if not len(sizes):
        raise ZooError("cloze: no stretch outside of the units is as long and as frequent as one of them.")
    return (
        Items(np.concatenate([first for first, _, _ in pairs]), sizes),
        Items(np.concatenate([second for _, second, _ in pairs]), sizes),
    )


def _stretches(text: Text, inside: Bools, length: int) -> Ints:
    """First tokens of all stretches of whole words with ``length`` tokens, of letters and outside of units."""
    start = np.flatnonzero(text.starts[:-1])
    start = start[start + length <= len(text.ids)]
    bad = np.append(0, np.cumsum(~text.good | inside))
    fits = text.starts[start + length] & (bad[start + length] == bad[start])
    return start[fits & (text.sentence[start] == text.sentence[start + length - 1])]


def _frequency(ids: Ints, start: Ints, length: int, training: NDArray[Any] | DocumentTokens) -> Ints:
    """How often each stretch stands in the training tokens, by a 64-bit hash of its tokens."""
    wanted, numbers = np.unique(_hashes(ids, length)[start], return_inverse=True)
    counts = np.zeros(len(wanted), dtype=np.int64)
    for begin in range(0, len(training) - length + 1, _PORTION):  # a stretch counts where its first token is
        hashes = _hashes(training[begin : begin + _PORTION + length - 1], length)
        place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        counts += np.bincount(place[wanted[place] == hashes], minlength=len(wanted))
    found: Ints = counts[numbers]
    return found


def _hashes(ids: NDArray[Any], length: int) -> NDArray[np.uint64]:
    """Of the ``length`` tokens from each place on."""
    count = max(len(ids) - length + 1, 0)
    with np.errstate(over="ignore"):
        found = np.zeros(count, dtype=np.uint64)
        for step in range(length):
            found = found * np.uint64(0x9E3779B97F4A7C15) + ids[step : step + count].astype(np.uint64) + np.uint64(1)
            found ^= found >> np.uint64(29)
    return found


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

    def answers(self, text: Text, items: Items, counts: Ints) -> Answers:
        """Both ways of asking, and the frequencies' answer.

        Args:
            text: what is asked about.
            items: the stretches.
            counts: (V,) how often each token occurs.
        """
        one_by_one = self.ask(text, items)
        at_once = one_by_one if items.size.max(initial=1) == 1 else self.ask(text, items, together=True)
        return Answers(items.size, *one_by_one, *at_once, by_frequency(text, items, counts))

    def ask(self, text: Text, items: Items, together: bool = False) -> tuple[NDArray[np.float64], Bools]:
        """(I,) log-probability of each stretch in its sentence, in nats; and whether it was filled in right.

        Sentences longer than the model's rows are cut to a window around the stretch.
        """
        scorer = self.scorer
        room = scorer.core.config.max_length - len(scorer.prefix) - len(scorer.suffix)
        first, last = self._windows(text, items, room)
        chance, right = np.zeros(len(first)), np.zeros(len(first), dtype=bool)
        order = np.argsort(last - first, kind="stable")
        for begin in range(0, len(order), _AT_ONCE):
            part = order[begin : begin + _AT_ONCE]
            sentences = [
                (text.ids[a:b], np.full(b - a, WORD_START)) for a, b in zip(first[part], last[part], strict=True)
            ]
            rows = rows_from_texts(sentences, scorer.tokenizer.vocabulary, scorer.prefix, scorer.suffix)
            encode = Encoder(scorer.core, base_inputs(rows))
            column = items.start[part] - first[part] + len(scorer.prefix)
            chance[part], right[part] = self.objective.fill_in(
                encode, scorer.core.token_embedding, rows, column, items.size[part], together
            )
        return chance, right

    @staticmethod
    def _windows(text: Text, items: Items, room: int) -> tuple[Ints, Ints]:
        sentence = text.sentence[items.start]
        begin, end = text.bounds[sentence], text.bounds[sentence + 1]
        middle = items.start + items.size // 2
        first = np.clip(middle - room // 2, begin, np.maximum(end - room, begin))
        return first, np.minimum(first + room, end)


class Answers(NamedTuple):
    """What a model, and token frequencies, make of some stretches. (I,) each.

    Args:
        size: tokens of each.
        chance: log-probability in nats, filled in from left to right.
        right: whether all its tokens were the most probable ones.
        chance_at_once: the same, all tokens asked for at once.
        right_at_once: the same.
        unigram: log-probability by token frequencies.
    """

    size: Ints
    chance: NDArray[np.float64]
    right: Bools
    chance_at_once: NDArray[np.float64]
    right_at_once: Bools
    unigram: NDArray[np.float64]


def figures(answers: Answers) -> dict[str, float]:
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


def by_frequency(text: Text, items: Items, counts: Ints) -> NDArray[np.float64]:
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
    found: dict[str, Any] = {"words": {n: figures(answers[n]) for n in groups if n.isdigit() and len(answers[n].size)}}
    longer = [answers[n] for n in groups if n.isdigit() and int(n) > 1]
    if sum(len(part.size) for part in longer):
        found["longer"] = figures(Answers(*(np.concatenate(parts) for parts in zip(*longer, strict=True))))
    found["note"] = scorer.note
    words = store.meta.get("facts", {}).get("segmenter")
    found["text"] = {"store": store.path.name, "fingerprint": store.fingerprint, "segmenter": words}
    return found | {name: figures(answers[name]) for name in ("entity", "control") if name in answers}


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


def cloze_of_run(config: ClozeConfig, show: bool = False) -> dict[str, Any]:
    """Figures of a run on its held-out documents, or of any model folder on a text.

    Raises:
        ZooError: the run held nothing out and no text is given, or its text has changed.
    """
    scorer, folder = Scorer(config.run, config.objective, config.trust_code), Path(config.run)
    if config.corpus is not None:
        tokenizer = TokenizerConfig(kind="file", path=str(folder), special=scorer.tokenizer.roles)
        store = prepare(config.corpus, tokenizer, config.stores, quiet=not show)
        every = np.arange(store.num_documents, dtype=np.int64)
        return measure(scorer, store, config, every, every, show)
    if not (folder / "run.json").exists():
        raise ZooError(f"cloze: {folder} has no run.json that names its text; give some with --corpus.files.")
    record = read_json(folder / "run.json")
    refuse_foreign_code(folder, record["config"], config.trust_code)
    run = load_settings(PretrainConfig, [], "zoo cloze", "pretrain", record["config"]).value
    store = prepare_store(run, show)
    if store.fingerprint != record.get("data_fingerprint"):
        raise ZooError(f"cloze: the text of {folder} has changed since it was trained; give some with --corpus.files.")
    training, held_out = split_documents(store, run.data.validation_tokens)
    if not len(held_out):
        raise ZooError(
            f"cloze: {folder} held no documents out (data.validation_tokens = {run.data.validation_tokens}); give some "
            "text with --corpus.files."
        )
    return measure(scorer, store, config, held_out, training, show)


def _words_as_in_the_run(merged: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The segmenter of the run's text, where another text is asked about and nothing says what finds its words."""
    corpus, folder = merged.get("corpus"), Path(str(merged.get("run")))
    if not isinstance(corpus, dict) or "segmenter" in corpus or not (folder / "tokenizer.json").exists():
        return {}
    name, dictionary = segmenter_facts(folder, load_tokenizer(folder))
    own = {"corpus.segmenter": name}
    return own if "user_dictionary" in corpus or dictionary is None else {**own, "corpus.user_dictionary": dictionary}


def cloze_command(argv: list[str]) -> int:
    """``zoo cloze RUN [--entity NAME] [--corpus.files FILE]``."""
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(ClozeConfig, argv, "zoo cloze RUN", "cloze", amend=_words_as_in_the_run).value
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

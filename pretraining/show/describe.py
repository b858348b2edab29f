"""What an objective does to a text, as plain data; ``terminal`` and ``html`` draw it.

The config's layout, objectives and draws run over the text through the loader that training uses, so what is shown is
what a run computes: row n of the text has the masks of row n of a run with that seed. Only what every
objective has is read: rows, ``rows.targets``, ``targets(rows)``, the collated inputs, ``describe(rows)``; no objective
is known by name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pretraining.objectives.base import Objective
from pretraining.show.config import ShowConfig
from pretraining.show.reader import RowReading, TextSource, read_row, read_target
from pretraining.show.streams import read_streams
from pretraining.show.targets import read_targets
from pretraining.show.text_store import Subject, TextStore, corpus_of, make_task, record_hint, row_length, text_store
from pretraining.show.tracks import bracket_tracks, pair_in_words, value_tracks
from pretraining.show.views import ObjectiveView, RowView, TaskView, TokenCell, TokenPrinter
from pretraining.training.assemble import with_vocabulary
from pretraining.training.loader import TaskLoader
from pretraining.training.model import build_model
from zoo.config import CoreConfig
from zoo.errors import ZooError
from zoo.model_folder import INDEX, WEIGHTS, load_core, load_head


def show_text(subject: Subject, show_config: ShowConfig) -> list[TaskView]:
    """A text under every task of a config.

    Args:
        subject: settings and tokenizer.
        show_config: the text, and which seeds, rows, epoch, tasks.

    Raises:
        ZooError: the tokenizer, the layout or an objective cannot do with the text or the settings.
    """
    config, vocabulary = subject.config, subject.tokenizer.vocabulary
    core = with_vocabulary(config.model, vocabulary)
    drawn = _build(subject, core)
    with tempfile.TemporaryDirectory() as folder:
        views = [
            _task_view(subject, core, name, show_config, Path(folder))
            for name in show_config.chosen_tasks(config.tasks)
        ]
    if not any(view.rows for view in views):
        raise ZooError("\n".join(note for view in views for note in view.notes))
    return [replace(view, notes=(*view.notes, drawn)) for view in views] if drawn else views


def _build(subject: Subject, core: CoreConfig) -> str:
    """Build the objectives; where one draws by weights, load a run's, or make first ones, and note which."""
    objectives, vocabulary = subject.config.objectives, subject.tokenizer.vocabulary
    if not any(objective.draws_by_weights for objective in objectives.values()):
        for objective in objectives.values():
            objective.build(core, vocabulary)
            objective.bind_tokenizer(subject.tokenizer)
        return ""
    model = build_model(core, objectives, vocabulary, subject.config.seed.init, subject.tokenizer).eval()
    if not any((subject.home / name).exists() for name in (WEIGHTS, INDEX)):
        return "Samples are drawn by untrained weights, as in a run's first step; --run FOLDER draws by a run's."
    model.core.load_state_dict(load_core(subject.home)[0].state_dict())
    for name, objective in objectives.items():
        load_head(subject.home, name, objective)
    return f"Samples are drawn by the weights of {subject.home.name}."


def _task_view(subject: Subject, core: CoreConfig, name: str, show_config: ShowConfig, folder: Path) -> TaskView:
    """A text under one task; without rows, and with a note that says why, where others may still show it.

    Args:
        subject: settings and tokenizer.
        core: of the core that would read the rows.
        name: the task.
        show_config: the text, and what of it.
        folder: where the text's store is made.

    Raises:
        ZooError: the task cannot show the text, and it is the only one or asked for by name.
    """
    config, corpus = subject.config, corpus_of(subject.config, name)
    task, stages = config.tasks[name], tuple(config.stage_lines())
    readers = " and ".join(f"{key} ({type(config.objectives[key]).__name__})" for key in task.objectives)
    makes = f"{name}: {type(task.layout).__name__} makes rows"
    about = f"{makes} for {readers}."
    try:
        store = text_store(subject, name, show_config, folder)
        length = show_config.length or row_length(
            task.layout.provided_fields, store.own_tokens, config.data.sequence_length
        )
        about = f"{makes} of up to {length} tokens for {readers}."
        printer, rows = TokenPrinter(subject.tokenizer), list[RowView]()
        for seed in show_config.seeds or [config.seed.data]:
            loader = make_task(config, name, store, subject.tokenizer.vocabulary, seed, length)
            for objective in loader.objectives.values():  # which goes by the whole text's counts, if there is one
                objective.bind_store(subject.store or store)
            rows += _rows(TextSource(loader, store, printer, core, corpus.annotations), show_config)
        notes = tuple(_notes(loader, store, rows, show_config))
    except ZooError as error:
        reason = f"{error}{record_hint(corpus, show_config.text)}"
        if show_config.task or len(config.tasks) == 1:
            raise ZooError(reason) from error
        return TaskView(subject.title, config.edge, about, (), (f"not shown: {reason}",), stages)
    return TaskView(subject.title, config.edge, about, tuple(rows), notes, stages)


def _rows(source: TextSource, show_config: ShowConfig) -> list[RowView]:
    """The rows that begin with the text, as many as wanted."""
    plan, _ = source.task.plan(show_config.epoch)
    numbers = np.flatnonzero(plan.documents < source.store.own_documents).tolist()
    if not numbers:
        raise ZooError(f"{type(source.task.layout).__name__} makes no row of this text; a longer text would work.")
    return [
        view
        for place, number in enumerate(numbers[: show_config.rows], start=1)
        for view in _row_views(read_row(source, show_config.epoch, number), place, len(numbers))
    ]


def _row_views(row: RowReading, place: int, rows: int) -> Iterator[RowView]:
    """One row, the ``place``-th of so many ``rows`` of the text; with a decoder its source, then its target."""
    if row.inputs.decoder is None:
        yield _row_view(row, place, rows, row.source.task.objectives, pair_in_words(row))
        return
    yield _row_view(row, place, rows, {}, "source: what the encoder reads")
    view = _row_view(read_target(row), place, rows, row.source.task.objectives, "target: what the decoder reads")
    cross = f"every token of the target attends to all {row.length} tokens of the source (cross-attention)"
    yield replace(view, objectives=tuple(replace(o, notes=(*o.notes, cross)) for o in view.objectives))


def _row_view(row: RowReading, place: int, rows: int, objectives: Mapping[str, Objective], pair: str) -> RowView:
    """One row, with what these objectives ask for in it, under this title."""
    lines = {name: read_targets(row, name, objective) for name, objective in objectives.items()}
    views = [ObjectiveView(name, type(objectives[name]).__name__, tuple(own.notes)) for name, own in lines.items()]
    tracks = [track for own in lines.values() for track in own.tracks]
    mentions = {places for own in lines.values() for places in own.mentions}
    return RowView(
        seed=row.source.task.seed,
        epoch=row.epoch,
        number=row.number,
        place=place,
        rows=rows,
        pair=pair,
        cells=tuple(_cells(row)),
        tracks=tuple(tracks)
        if row.written
        else (*tracks, *value_tracks(row, tracks, mentions), *bracket_tracks(row, mentions)),
        objectives=tuple(views),
        streams=tuple(read_streams(row.source.config, row.inputs, row.length)),
    )


def _cells(row: RowReading) -> Iterator[TokenCell]:
    """The row's positions."""
    printer = row.source.printer
    for place, outcome in enumerate(row.outcomes):
        own = row.written or bool(0 <= row.places[place] < row.source.store.own_tokens)
        yield TokenCell(
            read=printer(row.read[place]),
            original=printer(row.original[place]),
            outcome=outcome,
            own=own,
            starts_word=bool(row.starts[place]),
            place=int(row.places[place]) if own else -1,
        )


def _notes(task: TaskLoader, store: TextStore, rows: Sequence[RowView], show_config: ShowConfig) -> Iterator[str]:
    """What a reader should know besides."""
    unknown = int((store.tokens[: store.own_tokens] == task.vocabulary.unk).sum())
    if unknown:
        yield f"{unknown} of the text's {store.own_tokens} tokens are unknown to this vocabulary."
    if "row_labels" in task.layout.provided_fields and np.diff(store.documents[: store.own_documents + 1]).max() < 2:
        yield (
            "The text is a single sentence, so its second segment is always a random one; of two sentences or more "
            "other pairs are made too."
        )
    most = max(row.rows for row in rows)
    if most > show_config.rows:
        yield f"The text makes {most} rows; --rows {most} shows them all."

"""What ``zoo show`` shows is what the loader, the objectives and the core's masks give."""

import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from training import SAMPLE, arguments, train, write_corpus

from pretraining.corpus.config import CorpusConfig
from pretraining.layouts.reordered_segments import reordering_classes
from pretraining.objectives.base import corrupt
from pretraining.show.command import read_arguments, show_command
from pretraining.show.describe import show_text
from pretraining.show.html import render_html
from pretraining.show.load import load_config
from pretraining.show.streams import read_streams
from pretraining.show.terminal import cut, render, width_of
from pretraining.show.text_store import TextStore
from pretraining.show.tracks import unit_spans
from pretraining.show.views import TokenPrinter
from pretraining.store.prepare import prepare_store
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.checks import check_layouts
from pretraining.training.load_config import load_pretrain_config
from pretraining.training.loader import TaskLoader
from pretraining.training.stores import run_store
from zoo.attention.masks import make_mask
from zoo.config import CoreConfig
from zoo.config_parts import RecurrentConfig
from zoo.errors import ZooError
from zoo.inputs import AttentionPattern, CoreInputs, QueryStream
from zoo.settings.yaml_files import shipped_configs
from zoo.storage.entity_table import save_entities
from zoo.weights.commands import export_folder, import_folder

ENGLISH = "The town lies by the river. It has an old bridge, built in 1742. Many visitors come in summer."
CHINESE = "这座城市位于河边。它有一座古老的石桥，建于1742年。"
TINY = sorted(p.stem for p in (shipped_configs() / "pretrain").glob("*-tiny*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Options that name small English and Chinese corpora, and one folder of stores for the whole module."""
    folder = tmp_path_factory.mktemp("show")
    write_corpus(folder)
    chinese = next((SAMPLE / "zh").glob("*.txt")).read_text(encoding="utf-8")
    (folder / "zh.txt").write_text("\n\n".join(chinese.split("\n\n")[:40]) + "\n", encoding="utf-8")

    def options(config):
        files = folder / ("zh.txt" if config.endswith("-zh") else "text.txt")
        if config in ("transformer-tiny", "recurrent-attention-tiny"):
            files = "zoo:sample/pairs/en-zh.tsv"
        if config in ("xlm-tiny", "xlm-tlm-tiny"):
            files = [str(folder / "text.txt"), str(folder / "zh.txt")]
        values = {
            "data.corpus.files": files,
            "data.stores": folder / "stores",
            "data.processes": 1,
            "data.tokenizer.vocab_size": 2000 if config.endswith("-zh") else 600,
        }
        return [f"--{key}={value}" for key, value in values.items()]

    return options


@pytest.fixture
def look(data):
    """``look(config, text, ...)``: the views of a command line."""

    def views(config, *argv):
        show_config, overrides = read_arguments(["--config", config, *argv, *data(config)])
        return show_text(load_config(config, overrides, show_config), show_config)

    return views


def home_of(config, data):
    """Folder of the config's tokenizer."""
    return run_store(load_pretrain_config(["--config", config, *data(config)]).value, False).path


def reads(row):
    return [cell.read for cell in row.cells]


def asked(row, name):
    """{position: value} of what an objective asks for."""
    track = next(track for track in row.tracks if track.name == name)
    return {i: value for i, value in enumerate(track.values) if track.marks[i]}


# --- every config --------------------------------------------------------------------------------


def test_a_target_stands_below_its_source(data, capsys):
    assert show_command(["--config", "t5-tiny", *data("t5-tiny"), ENGLISH]) == 0
    source, target = capsys.readouterr().out.split("target: what the decoder reads")
    source = source.split("source: what the encoder reads")[1]
    assert "<extra_id_0>" in source
    reads = next(line for line in target.splitlines() if line.startswith("reads")).split()
    asks = next(line for line in target.splitlines() if line.startswith("span_corruption")).split()
    assert reads[1:3] == ["<pad>", "<extra_id_0>"]
    assert [word.removeprefix("→") for word in asks[1:-1]] == reads[2:]
    assert "tokens of the source (cross-attention)" in " ".join(target.split())
    with pytest.raises(ZooError, match=r"is to be one in each of en, zh"):
        show_command(["--config", "transformer-tiny", *data("transformer-tiny"), ENGLISH])


@pytest.mark.parametrize("config", TINY)
def test_every_tiny_config_shows_a_sentence(config, data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    text = CHINESE if config.endswith("-zh") else ENGLISH
    if config in ("transformer-tiny", "recurrent-attention-tiny", "xlm-tiny", "xlm-tlm-tiny"):
        text = f"{ENGLISH} ||| {CHINESE}"
    settings = load_pretrain_config(["--config", config]).value
    given = frozenset(settings.data.corpus.annotations)
    given = given.union(*(task.layout.provided_fields for task in settings.tasks.values()))
    if lacking := frozenset().union(*(o.required_fields for o in settings.objectives.values())) - given:
        with pytest.raises(ZooError, match=f"needs {min(lacking)}"):  # plain text has it not, whoever reads it
            show_command(["--config", config, *data(config), text])
        return
    assert show_command(["--config", config, *data(config), text]) == 0
    out = capsys.readouterr().out
    assert f"■ {config}" in out
    assert "seed 0 · epoch 0 · row 1 of" in out
    lines, flat = out.splitlines(), " ".join(out.split())
    for name, objective in settings.objectives.items():
        about = f"{name} ({type(objective).__name__})"
        assert about in flat
        shown = any(line.startswith((f"{name} ", f"{name[:17]}…")) for line in lines)
        assert shown or "Note: not shown: " in flat[flat.index(about) :].split("■")[0], name
    assert "\x1b" not in out
    assert max(map(width_of, out.splitlines())) <= 90


def test_a_task_that_needs_more_text_leaves_the_others_alone(look):
    """Unless it is the one that is asked for."""
    several = look("ernie-2-tiny", ENGLISH)
    alone = [view for view in several if not view.rows]
    assert 0 < len(alone) < len(several)
    assert all(note.startswith("not shown: ") for view in alone for note in view.notes)
    assert all(view.about in render([view], 90, False, "auto").replace("\n  ", " ") for view in alone)
    name = alone[0].about.split(":")[0]
    with pytest.raises(ZooError, match="longer than a row"):
        look("ernie-2-tiny", "--task", name, ENGLISH)


def test_one_sentence_is_shown_with_a_word_on_pairs(look):
    (view,) = look("bert-tiny", "The town lies by the river.")
    assert all("another document" in row.pair for row in view.rows)
    assert any("single sentence" in note for note in view.notes)


def test_several_configs_and_seeds_follow_each_other(data, capsys):
    show_command(["--config", "bert-tiny,gpt-tiny", *data("bert-tiny"), "--seed", "1,2", "--rows", "1", ENGLISH])
    out = capsys.readouterr().out
    assert re.findall(r"■ (\S+)|(seed \d)", out) == [
        ("bert-tiny", ""),
        ("", "seed 1"),
        ("", "seed 2"),
        ("gpt-tiny", ""),
        ("", "seed 1"),
        ("", "seed 2"),
    ]


def test_files_joined_by_a_plus_are_merged(data, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("objectives: {masked_lm: {init_args: {select: {init_args: {rate: 0.5}}}}}\n")
    show_command(["--config", f"roberta-tiny+{tmp_path}/own.yaml", *data("roberta-tiny"), ENGLISH])
    share = float(re.search(r"selected (\S+) %", capsys.readouterr().out).group(1))
    assert 40 < share < 60


# --- the same numbers as training ----------------------------------------------------------------


@pytest.mark.parametrize("config", ["bert-tiny", "albert-tiny", "roberta-tiny", "bert-tiny-zh"])
@pytest.mark.parametrize("seed", [0, 7])
def test_shown_is_what_corrupt_and_targets_give(config, seed, look, data, monkeypatch):
    spell = TokenPrinter(load_tokenizer(home_of(config, data)))
    seen, original = [], TaskLoader.rows

    def recorded(task, epoch, indices):
        rows, draw = original(task, epoch, indices)
        seen.append((task, corrupt(rows, draw, task.objectives)))
        return rows, draw

    monkeypatch.setattr(TaskLoader, "rows", recorded)
    (view,) = look(config, CHINESE if config.endswith("-zh") else ENGLISH, "--seed", str(seed), "--rows", "9")
    assert len(seen) == len(view.rows)
    for row, (task, rows) in zip(view.rows, seen, strict=True):
        selected, before = rows.targets["selected"][0], rows.targets["original_ids"][0]
        hidden = [cell.outcome in ("masked", "replaced", "kept") for cell in row.cells]
        same = rows.input_ids[0] == before
        drawn_itself = selected & same  # kept, or replaced by chance with itself
        assert hidden == selected.tolist()
        assert any(cell.own for cell in row.cells)  # and no rows of other documents
        assert [cell.outcome == "kept" for cell in row.cells] == drawn_itself.tolist()
        assert reads(row) == [spell(i) for i in rows.input_ids[0]]
        assert [cell.original for cell in row.cells] == [spell(i) for i in before]
        objective = task.objectives["masked_lm"]
        targets = objective.targets(rows).tensors
        wanted = {int(p): spell(i) for p, i in zip(targets["positions"], targets["labels"], strict=True)}
        assert asked(row, "masked_lm") == wanted
        notes = next(part.notes for part in row.objectives if part.name == "masked_lm")
        assert f"selected {100 * objective.describe(rows)['selected']:.1f} %" in notes
        if rows.row_labels is not None:
            assert row.pair.endswith(f"(label {rows.row_labels[0]})")


def test_every_token_but_the_last_is_asked_for_the_next(look):
    (view,) = look("gpt-tiny", ENGLISH, "--others", "0")
    row = view.rows[0]
    assert asked(row, "causal_lm") == dict(enumerate(reads(row)[1:]))
    track = next(track for track in row.tracks if track.name == "causal_lm")
    assert set(track.marks) == {"next", None}


@pytest.mark.parametrize("seed", [0, 3])
def test_a_run_with_that_seed_has_these_masks(seed, look, data, tmp_path):
    """A store on disk whose first document is the text, read as training reads it: same row key, same masks."""
    config = load_pretrain_config(["--config", "roberta-tiny", *data("roberta-tiny")]).value
    home = home_of("roberta-tiny", data)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(f"{ENGLISH}\n\nAnother document stands here. It is of no concern.\n", encoding="utf-8")
    store = prepare_store(CorpusConfig(files=str(corpus)), TokenizerConfig("file", str(home)), tmp_path)
    tokenizer = load_tokenizer(home)
    for objective in config.objectives.values():
        objective.build(config.model.replace(vocab_size=tokenizer.vocabulary.size), tokenizer.vocabulary)
    layout = config.tasks["sentences"].layout
    for length in (128, 12):  # one row, several
        task = TaskLoader(store, np.array([0]), layout, config.objectives, tokenizer.vocabulary, length, seed)
        (view,) = look("roberta-tiny", ENGLISH, "--seed", str(seed), "--length", str(length), "--rows", "99")
        spell = TokenPrinter(tokenizer)
        assert len(view.rows) == len(task.plan(0)[0])
        for number, row in enumerate(view.rows):
            rows = corrupt(*task.rows(0, np.array([number])), task.objectives)
            assert row.number == rows.example_ids[0]
            assert reads(row) == [spell(i) for i in rows.input_ids[0]]


def test_seeds_differ_and_repeat(look):
    def all_reads(*argv):
        return [reads(row) for view in look("roberta-tiny", ENGLISH, *argv) for row in view.rows]

    assert all_reads("--seed", "4") == all_reads("--seed", "4")
    assert all_reads("--seed", "4,5") == all_reads("--seed", "4") + all_reads("--seed", "5")
    assert all_reads("--seed", "4") != all_reads("--seed", "5")
    assert all_reads("--epoch", "1") != all_reads("--epoch", "0")


def test_static_copies_repeat(look):
    def of(epoch):
        return [
            reads(row) for row in look("bert-tiny", ENGLISH, "--epoch", str(epoch), "--data.mask_copies", "2")[0].rows
        ]

    assert of(0) == of(2)
    assert of(0) != of(1)


def test_the_text_is_tokenised_as_preparation_does(look, data, tmp_path):
    home, path = home_of("gpt-tiny-zh", data), tmp_path / "text.txt"
    path.write_text(CHINESE, encoding="utf-8")
    corpus = CorpusConfig(files=str(path), segmenter="rjieba")
    store = prepare_store(corpus, TokenizerConfig("file", str(home)), tmp_path, processes=1)
    (view,) = look("gpt-tiny-zh", CHINESE, "--seed", "1")
    cells = [cell for row in view.rows for cell in row.cells]
    assert [cell.starts_word for cell in cells] == (store.flags & 1).astype(bool).tolist()
    words = next(track for track in view.rows[0].tracks if track.name == "words")
    first = view.rows[0].cells
    assert "城市" in ["".join(cell.read for cell in first[span.start : span.stop]) for span in words.spans]


# --- pairs, documents, arrays --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("bert-tiny", {0: "B follows A in the text", 1: "B comes from another document"}),
        ("albert-tiny", {0: "B follows A in the text", 1: "A and B are swapped"}),
    ],
)
def test_the_pair_in_words(config, words, look):
    (view,) = look(config, ENGLISH, "--seed", "0,1,2,3,4,5,6,7", "--rows", "1", "--data.mask_copies", "null")
    found = {row.pair for row in view.rows}
    assert found == {f"{text} (label {label})" for label, text in words.items()}
    for row in view.rows:
        (segments,) = [track for track in row.tracks if track.name == "segments"]
        assert [span.short for span in segments.spans] == ["A", "B"]
        foreign = "another document" in row.pair
        assert segments.spans[1].label == ("B: another document" if foreign else "B")
        assert any(not cell.own for cell in row.cells if cell.outcome == "plain") == foreign


def test_documents_packed_into_a_row_are_told_apart(look):
    (view,) = look("roberta-tiny", "The town lies here.\n\nIt has a bridge.", "--others", "2", "--rows", "1")
    (documents,) = [track for track in view.rows[0].tracks if track.name == "documents"]
    assert [span.label for span in documents.spans][:3] == ["the text", "the text", "another document"]


def test_each_unit_is_one_bracket(look, tmp_path):
    (tmp_path / "names.txt").write_text("old bridge\nThe town\nsummer\n")
    lexicon = "--data.corpus.annotations.entity.class_path=pretraining.annotations.Lexicon"
    files = f"--data.corpus.annotations.entity.init_args.files={tmp_path / 'names.txt'}"
    (view,) = look("roberta-tiny", ENGLISH, lexicon, files)
    (row,) = view.rows
    (entity,) = [track for track in row.tracks if track.name == "entity"]
    originals = ["".join(cell.original for cell in row.cells[span.start : span.stop]) for span in entity.spans]
    assert [text.replace("##", "").replace("▁", "").lower() for text in originals] == ["thetown", "oldbridge", "summer"]
    assert entity.unit
    assert all(span.label == "" for span in entity.spans)
    coloured = render([view], 300, True)
    assert "\x1b[33m" in next(line for line in coloured.splitlines() if "entity" in line)
    render_html([view], ENGLISH)


def test_units_in_codes():
    special = np.array([1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    spans = unit_spans(np.array([0, 2, 1, 1, 2, 2, 0, 0]), special)
    assert [(span.start, span.stop) for span in spans] == [(1, 2), (2, 3), (3, 6)]


def test_classes_of_tokens_go_by_name(look):
    (view,) = look("ernie-2-tiny", "The town by Arnsberg.", "--task", "capitalisation")
    (row,) = view.rows
    (track,) = [track for track in row.tracks if track.name == "capitalisation"]
    meant = {i: full for i, full in enumerate(track.full) if full}
    assert set(meant.values()) == {"capitalised", "lower case"}
    assert meant[1] == "capitalised"
    assert set(filter(None, track.values)) == {"·", {"·": "low"}.get(track.values[1], "cap")}
    assert "= capitalised" in " ".join(row.objectives[0].notes)
    assert "?" not in "".join(track.values)


def test_orders_of_segments_in_words(look):
    (view,) = look("ernie-2-tiny", ENGLISH, "--task", "sentence_reordering", "--seed", "0,1,2,3,4,5")
    orders = reordering_classes(3)
    for row in view.rows:
        label = int(re.search(r"label (\d+)", row.pair).group(1))
        order = [number + 1 for number in orders[label]]
        said = f"segments in the order {' '.join(map(str, order))}" if len(order) > 1 else "a single segment"
        assert row.pair.startswith(said)
        assert f"asks for the row's label: {row.pair}" in row.objectives[0].notes
    assert len({row.pair for row in view.rows}) > 1


def test_a_config_is_introduced_once(look):
    views = look("ernie-2-tiny", ENGLISH)
    out = render(views, 90, colour=False)
    assert out.count("■ ernie-2-tiny") == 1
    assert out.count(views[0].edge[:60]) == 1
    assert out.count("· stage ") == len(views[0].stages) == 4
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("▸")] == [
        f"▸ {view.about.split(':')[0]}" for view in views
    ]
    root = ElementTree.fromstring(render_html(views, ENGLISH))
    assert len(root.findall(".//h2")) == 1
    assert len(root.findall(".//ul[@class='stages']/li")) == 4


def test_seeds_and_configs_stand_in_the_same_columns(look):
    """A token of the text, wherever it begins a row's line with the same tokens before it, has the same column."""
    views = look("roberta-tiny", ENGLISH, "--seed", "1,2,3")
    lines = [line for line in render(views, 500, False).splitlines() if line.startswith("reads")]
    columns = [[width_of(line[: m.start()]) for m in re.finditer(r"\S+", line)] for line in lines]
    assert len(columns) == 3
    assert columns[0] == columns[1] == columns[2]
    assert len(set(lines)) > 1


# --- text of a task's own, records ----------------------------------------------------------------

DIALOGUE = '{"text": ["这座城市在哪里？", "它位于河边。", "那里有一座石桥。"], "role": [0, 1, 1]}'


@pytest.fixture
def dialogue(data, tmp_path):
    """Options for a task with a corpus of its own."""
    other = [json.dumps({"text": [f"你好{i}？", "我很好。"], "role": [0, 1]}, ensure_ascii=False) for i in range(6)]
    (tmp_path / "dialogues.jsonl").write_text("\n".join(other) + "\n", encoding="utf-8")
    config = f"ernie-1-tiny-zh+{shipped_configs() / 'pretrain_tasks' / 'dialogue.yaml'}"
    options = ["--tasks.dialogue.corpus.files", str(tmp_path / "dialogues.jsonl"), "--task", "dialogue"]
    return ["--config", config, *data("ernie-1-tiny-zh"), *options]


def test_a_record_is_prepared_as_its_task_says(dialogue):
    show_config, overrides = read_arguments([*dialogue, DIALOGUE, "--seed", "0,1,2,3,4,5"])
    (view,) = show_text(load_config(show_config.config[0], overrides, show_config), show_config)
    (role,) = [track for track in view.rows[0].tracks if track.name == "role"]
    assert [span.label for span in role.spans] == ["query", "response"]
    relations = {row.pair for row in view.rows}
    assert "all utterances belong to one dialogue (label 0)" in relations
    fakes = [row for row in view.rows if row.pair.endswith("(label 1)")]
    assert fakes
    for row in fakes:
        assert re.match(r"utterance \d comes from another dialogue", row.pair)
        assert any(not cell.own for cell in row.cells if cell.outcome == "plain")  # of the task's own store
        assert {cell.original for cell in row.cells} & {"你", "我", "好"}


def test_plain_text_is_told_what_a_record_must_hold(dialogue):
    message = r"""Plain text has no role.*zoo show \.\.\. '\{"text": \["\.\.\.", "\.\.\."\], "role": \[0, 1\]\}'"""
    with pytest.raises(ZooError, match=message):
        show_command([*dialogue, CHINESE])


@pytest.mark.parametrize(("names", "said"), [(None, "the record's class"), (list("wxyz"), "the record's class: y")])
def test_the_class_of_a_record_is_said_once(names, said, data, tmp_path):
    lines = [json.dumps({"text": [f"He left {i}.", "It rained."], "label": i}) for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    name = f"ernie-2-tiny+{shipped_configs() / 'pretrain_tasks' / 'discourse-en.yaml'}"
    argv = ["--tasks.discourse_relation.corpus.files", str(tmp_path / "pairs.jsonl"), "--task", "discourse_relation"]
    if names:
        own = {"labels": names, "num_labels": 4}
        argv.append(f"--objectives.discourse_relation.init_args={json.dumps(own)}")
    record = json.dumps({"text": ["The town lies here.", "It is old."], "label": 2})
    show_config, overrides = read_arguments(["--config", name, *data("ernie-2-tiny"), *argv, record])
    (row,) = show_text(load_config(name, overrides, show_config), show_config)[0].rows
    assert row.pair == f"{said} (label 2)"
    assert "label" not in {track.name for track in row.tracks}


def test_a_task_whose_own_text_is_missing_says_so(dialogue):
    argv = [word.replace("dialogues.jsonl", "none.jsonl") for word in dialogue]
    with pytest.raises(ZooError, match=r"tasks\.dialogue\.corpus: .*does not exist.*--others 0"):
        show_command([*argv, DIALOGUE])


def test_entities_by_name_and_what_happened_to_them(data, tmp_path):
    names = ["Bridge", "River", "Town"]
    save_entities(tmp_path / "table", names, np.eye(3, 12, dtype=np.float32))
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    text = "The town lies by the river. It has an old bridge, built in 1742."
    spans = [[text.index(name.lower()), text.index(name.lower()) + len(name), name] for name in names]
    record = {"text": text, "entity_id": spans}
    annotation = "--data.corpus.annotations.entity_id"
    argv = [
        *("--config", "ernie-thu-tiny", *data("ernie-thu-tiny")),
        f"{annotation}.class_path=pretraining.annotations.LinkedEntities",
        f"{annotation}.init_args.entities={tmp_path / 'names.txt'}",
        f"{annotation}.init_args.missing=none",
        f"--objectives.entities.init_args.entities={tmp_path / 'table'}",
        "--objectives.entities.init_args.wrong=0.4",
        "--objectives.entities.init_args.missing=0.4",
        "--tasks.pairs.layout.init_args.count=1",
        "--model.fusion.entity_size=12",
        "--model.fusion.num_attention_heads=3",
        *("--seed", "0,1,2,3,4,5,6,7"),
    ]
    show_config, overrides = read_arguments([*argv, json.dumps(record)])
    (view,) = show_text(load_config("ernie-thu-tiny", overrides, show_config), show_config)
    fates = set()
    for row in view.rows:
        tracks = {track.name: track for track in row.tracks}
        assert not {"entity_id", "entities_read"} & set(tracks)
        true = asked(row, "entities")
        assert set(true.values()) <= set(names)
        assert all(
            row.cells[i].own and name.lower().startswith(row.cells[i].original.lower()) for i, name in true.items()
        )
        read = tracks["entities read"].values
        assert {i for i, value in enumerate(read) if value} == set(true)
        fates |= {value.split(" by ")[0] for value in read if value}
        assert all(value.split(" by ")[1] in names for value in read if " by " in value)
    assert fates == {"kept", "removed", "replaced"}
    with pytest.raises(ZooError, match=r"MinimumMarked makes no row without entity_id.\nPlain text has no entity_id"):
        show_command([*argv, text, "--data.stores", str(tmp_path / "stores")])
    assert not (tmp_path / "stores").exists()  # told before any work


def test_what_the_text_lacks_is_told_before_any_work_with_a_command_that_shows_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZooError, match=r"objective 'entities' needs entity_id.*\nzoo show --config") as refused:
        show_command(["--config", "ernie-thu-tiny", "A town lies by the river. It has a bridge."])
    assert not (tmp_path / "stores").exists()
    command = shlex.split(str(refused.value).splitlines()[-1])
    assert command[:2] == ["zoo", "show"]
    save_entities(Path("TABLE"), ["ANN", "BO", "ROME"], np.eye(3, 100, dtype=np.float32))
    other = {"text": "Bo met Ann. It was in Rome.", "entity_id": [[0, 2, "BO"], [7, 10, "ANN"]]}
    Path("RECORDS.jsonl").write_text(f"{command[-1]}\n{json.dumps(other)}\n", encoding="utf-8")
    assert show_command(command[2:]) == 0
    printed = capsys.readouterr().out
    assert "?ANN" in printed
    assert "?ROME" in printed
    with pytest.raises(ZooError, match=r"needs entity_id.* with records such as .*--objectives\.entities\.init_args"):
        check_layouts(load_pretrain_config(["--config", "ernie-thu-tiny"]).value)  # a run, likewise


def test_a_task_that_can_be_shown_is_shown_beside_one_that_cannot(dialogue, data):
    """Only where no task has a row to show is it said before the text of a run is prepared."""
    show_config, overrides = read_arguments(
        [word for word in dialogue if word not in ("--task", "dialogue")] + [CHINESE]
    )
    views = {
        view.about.split(":")[0]: view
        for view in show_text(load_config(show_config.config[0], overrides, show_config), show_config)
    }
    assert views["dialogue"].notes[0].startswith("not shown: ")
    assert views["basic"].rows


def test_long_texts_are_shown_in_part(look):
    (view,) = look("roberta-tiny", ENGLISH * 20, "--length", "32", "--rows", "2")
    assert len(view.rows) == 2
    assert view.rows[0].rows > 2
    assert f"--rows {view.rows[0].rows} shows them all" in view.notes[-1]


def test_rows_of_streams_say_what_is_remembered_and_what_follows(look):
    segments = ["--tasks.blocks.layout.class_path", "pretraining.layouts.Segments", "--length", "6", "--rows", "9"]
    (view,) = look("gpt-tiny", ENGLISH, *segments)
    first, second, *_ = view.rows
    assert (first.place, second.place) == (1, 2)
    assert asked(first, "causal_lm")[5] == reads(second)[0]  # the layout knows what follows the row
    pairs = [
        "--tasks.pairs.layout.class_path",
        "pretraining.layouts.SegmentPairs",
        "--model.position_type",
        "relative",
    ]
    (view,) = look("bert-tiny", ENGLISH, *pairs)
    (memory,) = [track for track in view.rows[0].tracks if track.name == "memory"]
    assert memory.spans[0].start == 0
    remembered = memory.spans[0].stop
    (stream,) = view.rows[0].streams
    assert not stream.attends[:remembered, remembered:].any()
    assert stream.attends[remembered:].all()


# --- what attends to what ------------------------------------------------------------------------


def expanded(visible, length):
    """make_mask's answer as a plain matrix."""
    mask = make_mask(visible, length, torch.device("cpu"))
    seen = np.ones((length, length), dtype=bool) if mask.allowed is None else mask.allowed[0, 0].numpy()
    return np.broadcast_to(seen, (length, length)) & (np.tri(length, dtype=bool) if mask.causal else True)


def one(inputs, length, **facts):
    return list(read_streams(CoreConfig(**facts), inputs, length))


def test_pairs_see_all_and_causal_rows_a_triangle(look):
    (view,) = look("bert-tiny", ENGLISH)
    for row in view.rows:
        (stream,) = row.streams
        assert stream.plain
        assert stream.sentence == "every token attends to every token"
    (view,) = look("gpt-tiny", ENGLISH)
    (stream,) = view.rows[0].streams
    length = len(view.rows[0].cells)
    assert np.array_equal(stream.attends, expanded(AttentionPattern(causal=True), length))
    assert np.array_equal(stream.attends, np.tri(length, dtype=bool))
    assert "what stands before it" in stream.sentence


@pytest.mark.parametrize("causal", [False, True])
def test_packed_documents_see_their_own(causal):
    documents = torch.tensor([[0, 0, 0, 1, 1, 2]])
    visible = AttentionPattern(causal=causal, documents=documents)
    (stream,) = one(CoreInputs(torch.zeros(1, 6, dtype=torch.long), visible), 6)
    assert np.array_equal(stream.attends, expanded(visible, 6))
    same = (documents[0][:, None] == documents[0][None, :]).numpy()
    assert np.array_equal(stream.attends, same & (np.tri(6, dtype=bool) if causal else True))
    if not causal:
        assert stream.sentence == "3 groups of tokens that do not attend to each other"


def test_padding_and_free_masks():
    dense = torch.rand(1, 7, 7) < 0.5
    visible = AttentionPattern(lengths=torch.tensor([5]), dense=dense)
    (stream,) = one(CoreInputs(torch.zeros(1, 7, dtype=torch.long), visible), 5)
    assert np.array_equal(stream.attends, expanded(visible, 7)[:5, :5])
    assert stream.attends.shape == (5, 5)


def test_two_streams_by_a_factorisation_order():
    order = np.array([3, 0, 4, 1, 2])
    visible = AttentionPattern(permutation_ranks=torch.from_numpy(order)[None])
    query = QueryStream(positions=torch.tensor([[2, 0]]), attention_pattern=visible)
    inputs = CoreInputs(torch.zeros(1, 5, dtype=torch.long), visible, query=query)
    content, second = one(inputs, 5, position_type="relative", query_stream=True)
    assert (content.name, second.name) == ("content", "query")
    assert np.array_equal(content.attends, order[None, :] <= order[:, None])
    assert np.array_equal(second.attends, order[None, :] < order[[2, 0]][:, None])
    assert second.positions == (2, 0)
    assert "in the order" in content.sentence
    assert "not its own token" in second.sentence


def test_recurrent_halves_read_from_both_ends():
    facts = CoreConfig(recurrent=RecurrentConfig(), position_type="none")
    forward, backward = read_streams(facts, CoreInputs(torch.zeros(1, 4, dtype=torch.long)), 4)
    assert np.array_equal(forward.attends, np.tri(4, dtype=bool))
    assert np.array_equal(backward.attends, np.tri(4, dtype=bool).T)
    assert "stands after it" in backward.sentence


# --- a user's own objective ----------------------------------------------------------------------

OWN = '''
import numpy as np
import torch
from pretraining.objectives.base import Objective, Targets


class Capitals(Objective):
    """Says of every token whether its word began with a capital, and of every row how long it is."""

    required_fields = frozenset()

    def build(self, config, vocabulary):
        pass

    def corrupt(self, rows, draw):
        return rows.with_targets(capital=(rows.token_flags & 4) != 0)

    def targets(self, rows):
        labels = np.where(rows.special_tokens_mask, -100, rows.targets["capital"]).astype(np.int64)
        return Targets({"labels": torch.from_numpy(labels), "long": torch.tensor([1])}, labels.size)

    def inputs(self, rows, inputs):
        number = torch.cumsum(torch.from_numpy(rows.special_tokens_mask).long(), 1)
        return inputs._replace(attention_pattern=inputs.attention_pattern._replace(documents=number))

    def forward(self, run_core, embedding, batch):
        raise NotImplementedError

    def describe(self, rows):
        places = np.arange(rows.shape[1])[None]
        return {"capitals": float(rows.targets["capital"].mean()), "mood": "good", "place": places}
'''


BOTH_WAYS = """
import torch
from my_capitals import Capitals
from pretraining.objectives.base import Targets


class BothWays(Capitals):
    predicts_tokens = True

    def targets(self, rows):
        ids, last = torch.from_numpy(rows.input_ids[0]).long(), rows.shape[1] - 1
        positions = torch.cat([torch.arange(last), torch.arange(1, last + 1)])
        backward = torch.arange(2 * last) >= last
        labels = torch.cat([ids[1:], ids[:-1]])
        return Targets({"positions": positions, "labels": labels, "backward": backward}, 2 * last)
"""


@pytest.fixture
def own_objective(tmp_path, monkeypatch):
    (tmp_path / "my_capitals.py").write_text(OWN)
    (tmp_path / "my_both_ways.py").write_text(BOTH_WAYS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return ["--objectives.masked_lm.class_path", "my_capitals.Capitals"]


def test_an_objective_of_ones_own(own_objective, look):
    (view,) = look("roberta-tiny", "The Town lies here.", *own_objective)
    (row,) = view.rows
    (part,) = row.objectives
    assert (part.name, part.kind) == ("masked_lm", "Capitals")
    assert "mood good" in part.notes
    assert "long 1" in part.notes
    tracks = {track.name: track for track in row.tracks}
    assert tracks["place"].values == tuple(str(i) for i in range(len(row.cells)))
    assert tracks["masked_lm"].values[0] == ""  # a template token, without a label
    assert tracks["capital"].values.count("●") >= 2
    assert "groups of tokens that do not attend to each other" in row.streams[0].sentence
    assert "place" in render([view], 80, colour=False)


def test_targets_of_two_directions_have_a_line_each(own_objective, look):
    (view,) = look("roberta-tiny", "The Town lies here.", *own_objective[:1], "my_both_ways.BothWays")
    (row,) = view.rows
    originals = [cell.original for cell in row.cells]
    assert list(asked(row, "masked_lm").values()) == originals[1:]
    assert list(asked(row, "masked_lm backward").values()) == originals[:-1]
    marks = {track.name: set(track.marks) for track in row.tracks if track.marks}
    assert marks == {"masked_lm": {"next", None}, "masked_lm backward": {"previous", None}}
    count = len(originals)
    assert f"asks {2 * count - 2} times, at {count} of {count} tokens" in row.objectives[0].notes


# --- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [24, 40, 80, 200])
@pytest.mark.parametrize("config", ["bert-tiny", "gpt-tiny-zh"])
def test_every_width_holds_every_token(width, config, look):
    views = look(config, CHINESE if config.endswith("-zh") else ENGLISH)
    out = render(views, width, colour=False, attention=True)
    assert max(map(width_of, out.splitlines())) <= width
    lines = [line.split() for line in out.splitlines() if line.startswith("reads")]
    shown = [word for line in lines for word in line[1:]]
    wanted = [token for view in views for row in view.rows for token in reads(row)]
    if width >= 40:
        assert shown == wanted
    assert len(shown) == len(wanted)


def test_values_stand_below_their_tokens(look):
    views = look("bert-tiny-zh", CHINESE, "--seed", "0,1,2")
    lines = render(views, 100, colour=False).splitlines()
    columns = {}
    for upper, lower in itertools.pairwise(lines):
        if upper.startswith("reads") and lower.startswith("masked_lm"):
            starts = {width_of(upper[: m.start()]) for m in re.finditer(r"\S+", upper)}
            columns |= {width_of(lower[: m.start()]): starts for m in re.finditer(r"[↑=≠]\S+", lower)}
    assert columns
    assert all(place in starts for place, starts in columns.items())


def test_colour_only_where_it_is_wanted(data, capsys, monkeypatch):
    argv = ["--config", "roberta-tiny", *data("roberta-tiny"), ENGLISH]

    def out(**environment):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        show_command(argv)
        return capsys.readouterr().out

    assert "\x1b" not in out()
    assert "\x1b[" in out(FORCE_COLOR="1")
    assert "\x1b" not in out(FORCE_COLOR="1", NO_COLOR="1")
    coloured = out(FORCE_COLOR="1")
    plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert plain.split("\n\n  ")[0].split() == out().split("\n\n  ")[0].split()


def test_a_text_cannot_move_the_cursor(data, capsys):
    show_command(["--config", "gpt-tiny", *data("gpt-tiny"), "red \x1b[31m and \u202e back"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert r"\x1b" in out


def test_widths():
    assert width_of("河a") == 3
    assert width_of("é") == 1
    assert cut("河河河", 5) == "河河…"
    assert cut("abc", 3) == "abc"


def test_the_attention_pattern_is_drawn_when_asked(look):
    views = look("bert-tiny", ENGLISH, "--rows", "1")
    assert "█" in render(views, 80, False, True)
    assert "█" not in render(views, 80, False, "auto")
    assert "attends" not in render(views, 80, False, False)
    views = look("gpt-tiny", ENGLISH, "--seed", "1,1", "--rows", "1")
    assert render(views, 80, False, "auto").count("▄···") == render(views, 80, False, True).count("▄···") / 2


# --- the page ------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Which tags and attributes a page has."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def test_the_page_is_well_formed_and_self_contained(look, data, tmp_path, capsys):
    text = 'A <script>alert("x")</script> & <b>bold</b> word. Another one.'
    target = tmp_path / "page.html"
    argv = ["--config", "bert-tiny,gpt-tiny,roberta-tiny", *data("bert-tiny"), "--html", str(target), text]
    assert show_command(argv) == 0
    assert str(target) in capsys.readouterr().out
    content = target.read_text(encoding="utf-8")
    ElementTree.fromstring(content)  # well-formed XML, so well-formed HTML
    tags = Tags()
    tags.feed(content)
    assert tags.tags.count("script") == 1
    assert "alert(" not in content[content.rindex("<script>") :]
    assert not {"link", "img", "iframe", "object"} & set(tags.tags)
    assert not {name for name, _ in tags.attributes} & {"src", "href", "srcset"}
    for outside in ("http:", "https:", "//", "url(", "@import"):
        assert outside not in content.replace("</", ""), outside
    assert "prefers-color-scheme:dark" in content
    assert "A &lt;script&gt;" in content
    assert "GPT → BERT" in content
    assert "-&gt;" not in content


def test_names_and_notes_are_escaped_on_the_page(look):
    (view,) = look("bert-tiny", ENGLISH, "--rows", "1")
    evil = "<script>alert('x')</script>&\"'"
    view = replace(view, title=evil, edge=evil, about=evil, notes=(evil,), stages=(evil,))
    content = render_html([view], ENGLISH)
    root = ElementTree.fromstring(content)
    assert content.count("<script>") == 1  # our own
    assert (
        root.find(".//h2").text
        == root.find(".//p[@class='note']").text
        == root.find(".//ul[@class='stages']/li").text
        == evil
    )


def test_the_page_has_every_token_and_target(look):
    (view,) = look("bert-tiny", ENGLISH, "--seed", "3", "--rows", "1")
    root = ElementTree.fromstring(render_html([view], ENGLISH))
    (row,) = view.rows
    chips = [e.text for e in root.iterfind(".//div[@class='tokens']//b")]
    assert chips == reads(row)
    values = ["".join(e.itertext()) for e in root.iterfind(".//div[@class='tokens']//i[@class='target']")]
    assert [v[1:] for v in values] == list(asked(row, "masked_lm").values())


# --- runs, errors --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run on pairs."""
    folder = tmp_path_factory.mktemp("run")
    return train(arguments(folder, "bert", steps=1, train__validate_every=0))


def test_a_run_has_its_own_settings_and_tokenizer(run, capsys):
    assert show_command(["--run", str(run), ENGLISH]) == 0
    out = capsys.readouterr().out
    assert f"■ {run.name}" in out
    assert "next_sentence" in out


def test_a_run_without_its_corpus_takes_another(run, tmp_path, capsys):
    corpus = run.parents[1] / "text.txt"
    kept = corpus.read_text(encoding="utf-8")
    corpus.unlink()
    try:
        with pytest.raises(ZooError, match=r"--data\.corpus\.files PATH takes them from other text"):
            show_command(["--run", str(run), ENGLISH])
        write_corpus(tmp_path, 12)
        assert show_command(["--run", str(run), f"--data.corpus.files={tmp_path}/text.txt", ENGLISH]) == 0
    finally:
        corpus.write_text(kept, encoding="utf-8")
    corpus.write_text(kept + "\n\nOne more document. It changes everything.\n", encoding="utf-8")
    try:
        with pytest.raises(ZooError, match="is not what"):
            show_command(["--run", str(run), ENGLISH])
    finally:
        corpus.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize("columns", [60, 120])
def test_an_imported_model_is_shown_by_what_its_head_says(run, tmp_path, capsys, monkeypatch, columns):
    export_folder(run, tmp_path / "stock")
    import_folder(tmp_path / "stock", tmp_path / "model")
    monkeypatch.setenv("COLUMNS", str(columns))
    assert show_command(["--run", str(tmp_path / "model"), "--seed", "3", ENGLISH]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "model (how it was trained is not known: its head's objective, with default settings)" in out
    assert "masked_lm" in out
    assert "next_sentence" not in out
    assert "[MASK]" in out
    facts = json.loads((tmp_path / "model" / "config.json").read_text())
    causal = {**facts, "attention": "causal"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(causal))
    assert show_command(["--run", str(tmp_path / "model"), ENGLISH]) == 0
    out = capsys.readouterr().out
    assert "[MASK]" not in out
    assert "CausalLM" in out
    bare = {**facts, "heads": {}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(bare))
    with pytest.raises(ZooError, match=r"no head that predicts tokens \(its heads: none\).*--config NAME"):
        show_command(["--run", str(tmp_path / "model"), ENGLISH])


def test_code_from_elsewhere_is_not_run_unasked(run, tmp_path, capsys):
    record = (run / "run.json").read_text(encoding="utf-8")
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.json").write_text(record.replace("pretraining.masking.RandomTokens", "evil_code.Tokens"))
    with pytest.raises(ZooError, match=r"evil_code\.Tokens.*--trust_code"):
        show_command(["--run", str(other), ENGLISH])


def test_text_from_standard_input(data, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ENGLISH.encode()), encoding="utf-8"))
    show_command(["--config", "roberta-tiny", *data("roberta-tiny"), "-"])
    assert "row 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([ENGLISH], "--config NAME"),
        (["--config", "bert-tny", ENGLISH], "Did you mean 'bert-tiny'"),
        (["--config", "bert-tiny"], "the text is empty"),
        (["--config", "bert-tiny", "   "], "the text is empty"),
        (["--config", "bert-tiny", "--length", "1000", ENGLISH], "the model's 512 positions"),
        (["--config", "bert-tiny", "--others", "0", "One sentence."], "a pair needs two.*FullSentences"),
        (["--config", "bert-tiny", "--rwos", "2", ENGLISH], "unknown option --rwos.*'rows'"),
        (["--config", "bert-tiny", "--seed", "x", ENGLISH], "whole numbers"),
        (["--config", "bert-tiny", "--rows", "0", ENGLISH], "rows = 0; .*at least 1"),
        (["--config", "bert-tiny", "--task", "piars", ENGLISH], "Did you mean 'pairs'"),
        (["--config", "gpt-tiny", "a"], "no row for Blocks"),
        (["--run", "nowhere", ENGLISH], "no run.json and no config.json"),
        (["--config", "bert-tiny", "\u200b"], "the text holds no documents"),
    ],
)
def test_mistakes_are_told(argv, message, data):
    options = data("bert-tiny") if "--config" in argv else []
    with pytest.raises(ZooError, match=textwrap.dedent(message)):
        show_command([*argv, *options])


def test_help_is_there_without_torch():
    code = (
        "import sys; from pretraining.show.command import show_command\n"
        "try: show_command(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--seed" in done.stdout


def test_other_documents_come_from_the_whole_store(data):
    config = load_pretrain_config(["--config", "bert-tiny", *data("bert-tiny")]).value
    store = run_store(config, False)
    joined = TextStore(store, store, 5)
    assert joined.num_documents == store.num_documents + 5
    assert np.array_equal(joined.tokens[: store.num_tokens], store.tokens)
    last = store.document_tokens()[-2:]
    sentences = store.sentences[store.documents[-2] : store.documents[-1] + 1][:31]
    assert np.array_equal(joined.tokens[joined.document_tokens()[-2] :], store.tokens[last[0] : sentences[-1]])

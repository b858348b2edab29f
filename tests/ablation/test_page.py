"""The page of an ablation and of the demo: nothing cut, nothing unseen, nothing told by colour alone."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import checked

from ablation.config import build
from ablation.page.arms import HiddenLine, HiddenToken, example_text, hidden_lines, lineage
from ablation.page.charts import Series, dot_plot, line_chart, look_of
from ablation.page.page import COLUMNS, ablation_page, demo_page, loss_charts, score_plots
from ablation.results.runs import FinishedRun, Results
from ablation.results.verdicts import summarise
from pretraining.corpus.config import CorpusConfig
from pretraining.training.load_config import load_pretrain_config
from zoo.runtime.templates import SHARED_PAGES

CSS = (SHARED_PAGES / "style.css").read_text(encoding="utf-8")
TEXTS = {"en": 6.0, "zh": 7.0}
"""Unigram entropy of each text."""


def run(arm: str, seed: int = 1, text: str = "en", objective: str = "masked_lm", **facts: object) -> FinishedRun:
    config = {"edge": "", "data": {"corpus": {"files": text}}, **facts}
    entropy = TEXTS[text]
    record = {
        "unigram_entropy": entropy,
        "frequency_loss": {objective: entropy},
        "config": config,
        "parameters": 10,
        "tokens": 400,
    }
    train = [(100.0 * i, {objective: 9.0 - i, "pair": 0.7}) for i in range(1, 5)]
    held_out = {f"validation.{objective}": 5.0 + seed / 10, "validation.pair": 0.6}
    scores = {f"task-{text}.accuracy": {1: 0.4 + seed / 100, 2: 0.5}}
    floor = {f"task-{text}.accuracy": 0.25}
    return FinishedRun(arm, seed, Path(f"runs/{arm}-{seed}"), record, train, [(400.0, held_out)], scores, floor)


def results_of(*runs: FinishedRun, **values: object) -> Results:
    arms = dict.fromkeys(one.arm for one in runs)
    base = {"name": "x", "primary": "validation.masked_lm", "changes": {arm: {} for arm in arms}}
    return summarise(build({**base, **values}), runs)


def pages_of(results: Results, hidden: list[HiddenLine] | None = None) -> list[str]:
    changed = {arm: [("train.lr", 1, 2)] for arm in results.arms}
    return [ablation_page(results, changed, "c", hidden or []), demo_page(results, changed, "c", 1.0, hidden or [])]


# --- losses ----------------------------------------------------------------------------------------


def test_losses_of_one_unit_share_a_chart() -> None:
    results = results_of(run("bert"), run("gpt", objective="causal_lm"), run("zh", text="zh"))
    tokens_en, tokens_zh, *classes = loss_charts(results)
    assert [name for name, *_ in tokens_en.legend] == ["bert", "gpt"]
    assert [name for name, *_ in tokens_zh.legend] == ["zh"]
    assert [tick.label for tick in tokens_en.references] == ["by frequency 6.00"]
    assert {chart.y_label for chart in classes} == {"nats per answer"}
    assert tokens_en.y_label == "nats per target"


def test_points_of_a_chart_lie_inside_and_a_gap_is_left() -> None:
    series = [Series("s", [0, 1e6, 2e6, 3e6], [9.0, 8.0, math.nan, 4.0], band=[0.1] * 4)]
    chart = line_chart("t", series, "x", "y", [("line", 6.0)])
    curve = chart.curves[0]
    assert [dot.tip for dot in curve.dots] == [f"s, training: {x}" for x in ("9 at 0", "8 at 1M", "4 at 3M")]
    assert all(0 <= dot.x <= 100 and 0 < dot.y < 100 for dot in curve.dots)
    assert curve.dots[0].y < chart.references[0].place < curve.dots[-1].y  # a higher loss is drawn higher up
    assert len(curve.paths) == len(curve.bands) == 1  # the last value stands alone behind the gap
    assert [dot.shown for dot in curve.dots] == [False, False, True]


def test_one_logged_value_is_drawn() -> None:
    one = replace(run("a"), train=[(100.0, {"masked_lm": 8.0})], validation=[])
    other = replace(run("b"), train=[(100.0, {"masked_lm": 8.1})])
    chart = loss_charts(results_of(one, other))[0]
    assert [dot.shown for curve in chart.curves if curve.name == "a" for dot in curve.dots] == [True]
    assert all(0 < tick.place < 100 for tick in chart.y_ticks)


def test_a_loss_that_is_never_finite_is_named() -> None:
    lost = replace(run("b"), train=[(1.0, {"masked_lm": math.nan})], validation=[])
    assert "Nothing finite of b." in loss_charts(results_of(run("a"), lost))[0].note
    assert "Nothing was logged." in pages_of(replace(results_of(run("a")), runs=[], arms=[]))[0]
    assert not line_chart("t", [], "x", "y").curves


# --- scores ----------------------------------------------------------------------------------------


def test_every_task_has_its_plot_of_seeds() -> None:
    results = results_of(run("bert"), run("zh", text="zh"))
    english, chinese = (plot for plot in score_plots(results) if plot.title.startswith("task"))
    assert (english.title, chinese.title) == ("task-en.accuracy, %", "task-zh.accuracy, %")
    assert [[row.label for row in plot.rows] for plot in (english, chinese)] == [["bert"], ["zh"]]
    assert [tick.label for tick in english.rows[0].points] == ["bert, seed 1: 41.0", "bert, seed 2: 50.0"]
    assert english.rows[0].note == "45.5 ± 6.4 (n = 2)"
    assert english.references[0].label == "majority class 25.0"
    assert "one fine-tuning seed" in english.note
    for page in pages_of(results):
        assert "task-zh.accuracy, %" in " ".join(checked(page).text)


def test_pretraining_seeds_are_the_dots_where_there_are_several() -> None:
    plot = score_plots(results_of(*(run("a", seed) for seed in (1, 2, 3))))[-1]
    assert [tick.label for tick in plot.rows[0].points] == [
        f"a, seed {s}: {45.25 + s / 2 - 0.25:.1f}" for s in (1, 2, 3)
    ]
    assert "one pretraining seed" in plot.note
    low, high = plot.rows[0].interval or (0.0, 0.0)
    assert 0 <= low < (plot.rows[0].mean or 0) < high <= 100


def test_a_score_that_is_missing_or_not_finite_is_said() -> None:
    lost = replace(run("b"), scores={"task-en.accuracy": {1: math.nan, 2: 0.5}})
    plot = score_plots(results_of(run("a"), lost, replace(run("c"), scores={})))[-1]
    assert [(row.label, row.mean is None, row.note) for row in plot.rows][1] == ("b", True, "not finite")
    assert len(plot.rows[1].points) == 1
    assert "Not measured in c." in plot.note
    for page in pages_of(results_of(run("a"), lost)):
        assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S).lower()


def test_no_interval_is_drawn_beyond_what_a_share_can_be() -> None:
    plot = score_plots(results_of(replace(run("a"), scores={"t.accuracy": {1: 0.0, 2: 0.2}})))[-1]
    zero = next(tick.place for tick in plot.ticks if tick.label == "0")
    assert (plot.rows[0].interval or (0.0,))[0] == pytest.approx(zero)
    assert dot_plot("t", [], "n").rows == []


# --- which came from which -------------------------------------------------------------------------


def chain_of(*runs: FinishedRun, **values: object) -> list[tuple[str, str, int]]:
    (_, twigs), *_ = lineage(results_of(*runs, **values), {})
    return [(twig.name, twig.how, twig.depth) for twig in twigs]


def test_an_edge_names_where_an_arm_came_from() -> None:
    runs = [
        run("gpt", edge="ELMo -> GPT: x"),
        run("roberta", edge="BERT -> RoBERTa: y"),
        run("bert", edge="GPT -> BERT"),
    ]
    assert chain_of(*runs) == [("ELMo", "", 0), ("gpt", "idea", 1), ("bert", "idea", 2), ("roberta", "idea", 3)]
    for page in pages_of(results_of(*runs)):
        assert "BERT → RoBERTa: y" in " ".join(checked(page).text)
        assert "->" not in " ".join(checked(page).text).replace("-->", "")


def test_weights_and_the_reference_come_before_edges() -> None:
    edge = "GPT -> BERT: x"
    runs = [run("a", edge=edge), run("b", edge=edge), run("c", edge=edge, init_from={"model": "runs/b-1/"})]
    assert chain_of(*runs) == [("GPT", "", 0), ("a", "idea", 1), ("b", "settings", 2), ("c", "weights", 3)]
    runs[2] = run("c", init_from={"model": "/elsewhere/bert-base"})
    assert ("bert-base", "", 0) in chain_of(*runs)


def test_edges_in_a_circle_and_without_arrow_end() -> None:
    circle = [run("a", edge="B -> A"), run("b", edge="A -> B"), run("c", edge="a note")]
    assert {name for name, _, _ in chain_of(*circle)} == {"a", "b", "c"}
    assert chain_of(run("a"), run("b")) == [("a", "", 0), ("b", "settings", 1)]


def test_each_text_has_its_own_tree() -> None:
    edge = {"edge": "GPT -> BERT"}
    found = lineage(results_of(run("en", **edge), run("zh", text="zh", **edge)), {})
    assert [(text, [twig.name for twig in twigs]) for text, twigs in found] == [
        ("en", ["GPT", "en"]),
        ("zh", ["GPT", "zh"]),
    ]


# --- what each objective hides ---------------------------------------------------------------------


def test_tokens_are_told_apart_without_colour_and_escaped() -> None:
    token = HiddenToken("<mask>", "masked", "<b>", True, 'reads "x"')
    line = HiddenLine(("a", "b"), "masked_lm (MaskedLM)", (token,), 7, ("<i>note",))
    for page in pages_of(results_of(run("a")), [line]):
        checker = checked(page)
        text = " ".join(checker.text)
        assert "a, b" in text
        assert "<mask>" in text
        assert "hidden by the mask token; what stood there is below" in text
        assert "… 7 more" in text
        assert "&lt;b&gt;" in page


def test_a_text_comes_from_the_arms_own_corpus() -> None:
    text = example_text(CorpusConfig(files="zoo:sample/en"))
    assert 80 <= len(text) <= 150
    assert any(ord(letter) > 0x2E80 for letter in example_text(CorpusConfig(files="zoo:sample/zh")))


def test_an_example_that_cannot_be_read_costs_its_line_only(tmp_path: Path) -> None:
    config = load_pretrain_config(["--config", "bert-tiny", "--data.stores", str(tmp_path)]).value
    (line,) = hidden_lines({"a": (config, tmp_path / "gone")})
    assert line.arms == ("a",)
    assert line.notes[0].startswith("Not shown: ")
    for page in pages_of(results_of(run("a")), [line]):
        checked(page)


# --- the whole page --------------------------------------------------------------------------------


def test_thirty_arms_with_long_names_and_measures() -> None:
    names = [f"arm-{i}-{'x' * 90}" for i in range(30)]
    runs = [run(name, seed) for name in names for seed in range(1, 6)]
    cloze = {f"cloze.figure.{i}": 1.0 for i in range(20)}
    results = results_of(*(replace(one, same_questions=cloze) for one in runs), cloze={})
    assert len({look_of(number) for number in range(64)}) == 64
    for page in pages_of(results):
        checked(page)
        rows = re.findall(r"<thead role=.*?</thead>", page, flags=re.S)
        assert max(row.count("<th ") for row in rows) <= COLUMNS + 2
    assert "cloze.<wbr>figure.<wbr>19" in pages_of(results)[0]


def test_arms_and_seeds_that_are_not_finished_are_said() -> None:
    results = results_of(run("a", 1), run("a", 2), run("b", 1), changes={"a": {}, "b": {}, "c": {}})
    page = ablation_page(results, {"a": [], "b": [], "c": []}, "c")
    assert "Seeds so far: b 1 of 2. Not finished yet: c." in " ".join(checked(page).text)


def test_nothing_scrolls_sideways_and_nothing_is_small() -> None:
    assert "overflow-x" not in CSS
    sizes = [float(rem) * 16 for rem in re.findall(r"(?:font-size:|font:)([\d.]+)rem", CSS)]
    sizes += [float(px) for px in re.findall(r"(?:font-size:|font:)([\d.]+)px", CSS)]
    assert min(sizes) >= 12
    assert "@media print" in CSS
    assert "@media screen and (max-width:640px)" in CSS
    for page in pages_of(results_of(run("a"), run("b"))):
        assert page.count("<svg") == page.count("</svg>")
        cells = re.findall(r"<td[^>]*>", page)
        assert all('role="cell"' in cell for cell in cells)
        named = re.findall(r'<svg class="(?:chart|strip-chart|scale|arrow)"([^>]*)>', page)
        assert named
        assert all('role="img" aria-label="' in attributes for attributes in named)


def colours(block: str) -> dict[str, np.ndarray]:
    found = dict(re.findall(r"--([a-z\d]+):#([0-9a-f]{3,6})", block))
    full = {name: value if len(value) == 6 else "".join(2 * c for c in value) for name, value in found.items()}
    return {name: np.array([int(v[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for name, v in full.items()}


def linear(colour: np.ndarray) -> np.ndarray:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def luminance(colour: np.ndarray) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", [0, 1])
def test_lines_stand_out_and_stay_apart_for_the_colour_blind(theme: int) -> None:
    """Contrast of 3 with the card; no two of the four solid colours alike under deuteranopia or protanopia."""
    blocks = re.findall(r":root\{(.*?)\}", CSS, flags=re.S)
    found = colours(blocks[theme])
    card = luminance(found["card"])
    for number in range(8):
        dark, light = sorted([luminance(found[f"c{number}"]), card])
        assert (light + 0.05) / (dark + 0.05) >= 3, number
    blind = [  # Machado, Oliveira and Fernandes (2009), severity 1
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    ]
    for matrix in blind:
        seen = [np.array(matrix) @ linear(found[f"c{number}"]) for number in range(4)]
        assert min(float(np.abs(a - b).sum()) for a, b in itertools.combinations(seen, 2)) > 0.1

"""Statistics shown right, and a page that is complete, safe and self-contained."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from pages import checked
from runs import write_run

from ablation.config import AblationConfig, build
from ablation.page.charts import ticks
from ablation.page.page import ablation_page, demo_page
from ablation.results.report import markdown, to_json
from ablation.results.runs import FinishedRun, Results, curve, read_log, read_run
from ablation.results.verdicts import summarise
from finetune.results.statistics import paired
from zoo.errors import ZooError

EVIL = "<script>alert('x')</script>&\"'"


def ablation(**values: object) -> AblationConfig:
    base = {
        "name": "trial",
        "primary": {"measure": "validation.masked_lm", "smallest_effect": 0.01},
        "changes": {"a": {}, "b": {"train": {"lr": 0.1}}},
        "seeds": [1, 2, 3, 4, 5],
    }
    return build({**base, **values})


def run_of(arm: str, seed: int, value: float, **extra: object) -> FinishedRun:
    facts = {
        "unigram_entropy": 6.0,
        "frequency_loss": {"masked_lm": 6.0},
        "versions": {"torch": "2"},
        "commit": "abc",
        "parameters": 10,
        "tokens": 100,
    }
    train = [(50.0 * i, {"masked_lm": 9.0 - i}) for i in range(1, 5)]
    run = FinishedRun(arm, seed, Path(f"runs/{arm}-{seed}"), facts, train, [(200.0, {"validation.masked_lm": value})])
    return replace(run, **extra)  # type: ignore[arg-type]


def results_of(a: list[float], b: list[float], **values: object) -> Results:
    runs = [run_of("a", i, v) for i, v in enumerate(a, 1)] + [run_of("b", i, v) for i, v in enumerate(b, 1)]
    return summarise(ablation(**values), runs)


def test_paired_difference_interval_and_correlation_by_hand() -> None:
    found = results_of([5.0, 5.1, 5.2, 5.3, 5.4], [5.2, 5.2, 5.5, 5.4, 5.7]).comparisons[0]
    differences = np.array([0.2, 0.1, 0.3, 0.1, 0.3])
    half = 2.7764451 * differences.std(ddof=1) / math.sqrt(5)
    assert found.difference == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.2 - half, 0.2 + half))
    assert found.n == 5
    assert list(found.by_seed.values()) == pytest.approx(list(differences))
    assert found.correlation == pytest.approx(np.corrcoef([5.0, 5.1, 5.2, 5.3, 5.4], [5.2, 5.2, 5.5, 5.4, 5.7])[0, 1])
    assert found.verdict == "worse"  # a higher loss


def test_pairs_are_by_seed_and_not_by_order() -> None:
    runs = [run_of("a", s, 5.0 + s) for s in (1, 2, 3)] + [run_of("b", s, 5.5 + s) for s in (3, 1, 2)]
    found = summarise(ablation(), runs).comparisons[0]
    assert found.sd == pytest.approx(0.0)
    assert found.difference == pytest.approx(0.5)


def test_unpaired_seeds_are_left_out() -> None:
    runs = [run_of("a", s, 5.0) for s in (1, 2, 3)] + [run_of("b", s, 5.5) for s in (2, 3, 9)]
    found = summarise(ablation(), runs).comparisons[0]
    assert found.n == 2
    assert sorted(found.by_seed) == [2, 3]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_verdict_from_fewer_than_five_seeds(n: int) -> None:
    found = results_of([5.0] * n, [9.0 + 0.001 * i for i in range(n)]).comparisons[0]
    assert found.verdict == f"no verdict: n = {n}, at least 5 seeds are needed"
    assert (found.interval is None) == (n == 1)


@pytest.mark.parametrize(
    ("b", "better", "said"),
    [
        ([4.5, 4.52, 4.49, 4.51, 4.5], "lower", "better"),
        ([4.5, 4.52, 4.49, 4.51, 4.5], "higher", "worse"),
        ([5.001, 4.999, 5.0, 5.001, 4.999], "lower", "equivalent within ±0.01 nats"),
        ([5.9, 4.2, 5.1, 4.7, 5.3], "lower", "undecided at this budget"),
    ],
)
def test_verdicts(b: list[float], better: str, said: str) -> None:
    primary = {"measure": "validation.masked_lm", "better": better, "smallest_effect": 0.01}
    assert results_of([5.0] * 5, b, primary=primary).comparisons[0].verdict == said


def test_a_significant_but_small_effect_is_not_called_better() -> None:
    b = [4.9951, 4.9949, 4.995, 4.9951, 4.9949]
    assert results_of([5.0] * 5, b).comparisons[0].verdict == "equivalent within ±0.01 nats"


def test_simulated_a_a_comparisons_cover_and_rarely_decide() -> None:
    """Equal arms: the 95% interval misses 0 in about 5%, and three corrected verdicts err in at most about 5%."""
    noise = np.random.default_rng(7)
    config = ablation(changes={"a": {}, "b": {}, "c": {}, "d": {}}, primary="validation.masked_lm")
    missed, wrong, trials = 0, 0, 200
    for _ in range(trials):
        seeds = noise.normal(0, 0.05, 5)
        runs = [run_of(arm, s + 1, 5 + seeds[s] + noise.normal(0, 0.02)) for arm in "abcd" for s in range(5)]
        found = summarise(config, runs).comparisons
        missed += sum(not c.interval[0] <= 0 <= c.interval[1] for c in found if c.interval)
        wrong += any(c.verdict in ("better", "worse") for c in found)
    assert 0.03 < missed / (3 * trials) < 0.075
    assert wrong / trials < 0.085


def test_t_p_value_agrees_with_the_interval() -> None:
    values = np.array([0.1, 0.3, -0.05, 0.2, 0.15])
    result = paired(dict(enumerate(values)), dict.fromkeys(range(5), 0.0))
    t = values.mean() / (values.std(ddof=1) / math.sqrt(5))
    assert result.p_t == pytest.approx(2 * scipy.stats.t.sf(t, 4))
    assert result.p_t > 0.05
    assert result.interval.low < 0 < result.interval.high


def test_fine_tuning_seeds_are_averaged_within_a_pretraining_seed() -> None:
    runs = [run_of("a", 1, 5.0, scores={"t.accuracy": {1: 0.4, 2: 0.6}}), run_of("b", 1, 5.0)]
    score = next(s for s in summarise(ablation(), runs).scores if s.measure == "t.accuracy")
    assert (score.mean, score.sd, score.n) == (0.5, None, 1)


def test_the_reference_answers_its_own_questions() -> None:
    runs = [
        run_of("a", 1, 5.0, same_questions={"reference_masks.masked_lm": 5.0}),
        run_of("b", 1, 7.0, same_questions={"reference_masks.masked_lm": 5.25}),
    ]
    found = summarise(ablation(primary="reference_masks.masked_lm"), runs).comparisons[0]
    assert found.difference == pytest.approx(0.25)


CLEAR = [4.5, 4.52, 4.49, 4.51, 4.5]
ENTROPY = {"measure": "validation.masked_lm", "smallest_effect": 0.01, "floor": {"beats": "frequency_loss.masked_lm"}}


@pytest.mark.parametrize(
    ("reference", "clears"),
    [
        ([5.0, 5.1, 5.0, 4.9, 5.0], True),
        ([6.1, 6.2, 6.1, 6.3, 6.2], False),  # above the entropy of 6.0
        ([6.0, 6.0, 6.0, 6.0, 6.0], False),  # no lead, without spread
        ([5.9, 5.9, 5.9, 5.9, 5.9], True),
        ([5.9, 6.1, 5.9, 6.1, 5.9], False),  # a lead of 0.02, se 0.049
        ([5.9, 5.7, 6.0, 5.8, 5.8], True),  # a lead of 0.16, se 0.051
        ([5.9, 5.7, 6.0, 6.1, 5.9], False),  # a lead of 0.08, se 0.066
    ],
)
def test_nothing_is_decided_while_the_reference_is_at_its_floor(reference: list[float], clears: bool) -> None:
    results = results_of(reference, CLEAR, primary=ENTROPY)
    found, floor = results.comparisons[0], results.floors[0]
    assert floor.clears is clears
    assert floor.lead == pytest.approx(6.0 - np.mean(reference))
    assert floor.se == pytest.approx(np.std(reference, ddof=1) / math.sqrt(5))
    assert results.floors[1].clears
    assert found.p_holm is not None
    assert found.p_holm < 0.01
    if clears:
        assert found.verdict == "better"
    else:
        assert found.verdict.startswith("undecided: the reference does not clear its floor (validation.masked_lm: ")
        figures = f"{abs(floor.lead):.3f} nats {'better' if floor.lead >= 0 else 'worse'} than frequency_loss.masked_lm"
        assert f"{figures}, se {floor.se:.3f}, n = 5" in found.verdict
    without = {key: value for key, value in ENTROPY.items() if key != "floor"}
    assert results_of(reference, CLEAR, primary=without).comparisons[0].verdict == "better"


def test_the_floor_of_a_difference_is_that_of_the_measure_it_is_made_of() -> None:
    def run(arm: str, seed: int, nats: float, unigram: float) -> FinishedRun:
        asked = {"cloze.nats.longer": nats, "cloze.unigram.longer": unigram, "cloze.nats.longer-1": nats - 6}
        return run_of(arm, seed, 5.0, same_questions=asked)

    noise = [0.0, 0.1, 0.5, -0.2, 0.3]  # of the question itself: pairing takes it away
    primary = {
        "measure": "cloze.nats.longer-1",
        "floor": {"measure": "cloze.nats.longer", "beats": "cloze.unigram.longer"},
    }
    for lead, said in ((0.02, "worse"), (-0.02, "undecided: the reference does not clear its floor")):
        runs = [run("a", s, 7 + x - lead + 0.001 * s, 7 + x) for s, x in enumerate(noise, 1)]
        runs += [run("b", s, 7.2 + x, 7 + x) for s, x in enumerate(noise, 1)]
        found = summarise(ablation(primary=primary, cloze={}), runs)
        assert next(c for c in found.comparisons if c.primary).verdict.startswith(said)
        assert [floor.clears for floor in found.floors] == [lead > 0, False]


def test_a_fine_tuned_score_has_to_beat_the_majority() -> None:
    primary = {"measure": "t.accuracy", "better": "higher", "floor": {"beats": "majority.t.accuracy"}}
    for majority, said in (
        (0.25, "better"),
        (0.6, "undecided: the reference does not clear its floor (t.accuracy: 9.8 points worse"),
    ):
        runs = [
            run_of(arm, s, 5.0, scores={"t.accuracy": {1: score + 0.001 * s}}, baselines={"t.accuracy": majority})
            for arm, score in (("a", 0.499), ("b", 0.7))
            for s in range(1, 6)
        ]
        found = summarise(ablation(primary=primary), runs)
        assert next(c for c in found.comparisons if c.primary).verdict.startswith(said)


def test_one_seed_is_not_beyond_a_floor() -> None:
    results = results_of([5.0], [5.0], primary=ENTROPY)
    assert [(floor.n, floor.se, floor.clears) for floor in results.floors] == [(1, None, False)] * 2


def test_a_reference_without_figures_has_not_cleared_its_floor() -> None:
    runs = [run_of(arm, s, 5.0 + (arm == "b")) for arm in "ab" for s in range(1, 6)]
    runs = [replace(run, same_questions={"cloze.unigram.1": 6.0}) if run.arm == "b" else run for run in runs]
    primary = {**ENTROPY, "floor": {"beats": "cloze.unigram.1"}}
    found = summarise(ablation(primary=primary, cloze={}), runs)
    assert "no finite figure beside cloze.unigram.1" in found.comparisons[0].verdict
    assert found.floors[0].lead is None


def test_every_form_of_the_report_says_who_clears_the_floor() -> None:
    results = results_of([6.1, 6.2, 6.1, 6.3, 6.2], CLEAR, primary=ENTROPY)
    line = (
        "a DOES NOT clear it (0.180 nats worse than frequency_loss.masked_lm, se 0.037, n = 5); "
        "b clears it (1.496 nats better"
    )
    for text in (
        markdown(results),
        " ".join(checked(ablation_page(results, {}, "")).text),
        " ".join(checked(demo_page(results, {}, "", 1.0)).text),
    ):
        assert line in text
    floors = json.loads(json.dumps(to_json(results)))["floors"]
    assert [(floor["arm"], floor["clears"]) for floor in floors] == [("a", False), ("b", True)]
    assert "has to beat" not in markdown(results_of([5.0] * 5, CLEAR))


def test_an_unknown_floor_names_the_nearest_figure() -> None:
    with pytest.raises(
        ZooError, match=r"primary\.floor\.beats = 'frequency_loss.masked_ln'.*Did you mean 'frequency_loss.masked_lm'"
    ):
        results_of([5.0], [5.0], primary={**ENTROPY, "floor": {"beats": "frequency_loss.masked_ln"}})


def strict(results: Results) -> dict[str, object]:
    """The report as a strict JSON reader gets it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found: dict[str, object] = json.loads(json.dumps(to_json(results)), parse_constant=refuse)
    return found


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_exploratory_score_that_is_not_finite_does_not_cost_the_report(value: float) -> None:
    runs = [run_of(arm, s, 5.0 + (arm == "b")) for arm in "ab" for s in range(1, 6)]
    runs = [replace(run, same_questions={"cloze.nats.1": 6.0}, scores={"t.accuracy": {1: 0.5}}) for run in runs]
    runs[6] = replace(runs[6], same_questions={"cloze.nats.1": value}, scores={"t.accuracy": {1: 0.5, 2: value}})
    results = summarise(ablation(), runs)
    assert [(c.measure, c.verdict) for c in results.comparisons] == [("validation.masked_lm", "worse")]
    assert {s.measure for s in results.scores if s.arm == "b"} == {"validation.masked_lm"}
    strict(results)
    said = "Not finite in b, seed 2 (runs/b-2), so left out: cloze.nats.1, t.accuracy."
    assert said in markdown(results)
    for page in (ablation_page(results, {}, ""), demo_page(results, {}, "", 1.0)):
        assert said in " ".join(checked(page).text)


@pytest.mark.parametrize("failed", ["a", "c"])
def test_a_primary_measure_that_is_not_finite_leaves_a_report_without_that_verdict(failed: str) -> None:
    noise = {1: 0.0, 2: 0.01, 3: -0.01, 4: 0.02, 5: 0.0}
    runs = [run_of(arm, s, 5.0 + 0.5 * (arm == "b") + x * (arm != "a")) for arm in "abc" for s, x in noise.items()]
    runs = [run_of(r.arm, r.seed, math.nan) if (r.arm, r.seed) == (failed, 4) else r for r in runs]
    results = summarise(ablation(changes={"a": {}, "b": {}, "c": {}}, primary=ENTROPY), runs)
    decided = {c.arm: c.verdict for c in results.comparisons}
    assert decided == ({} if failed == "a" else {"b": "worse"})
    if decided:  # the comparison that was lost still counts as one of two
        assert results.comparisons[0].p is not None
        assert results.comparisons[0].p_holm == pytest.approx(2 * results.comparisons[0].p)
    assert {f.arm: f.n for f in results.floors}[failed] == 4
    whom = "no arm has a verdict" if failed == "a" else "c has no verdict"
    said = f"(runs/{failed}-4), so left out: validation.masked_lm. validation.masked_lm is the primary measure: {whom}."
    strict(results)
    for text in (markdown(results), " ".join(checked(ablation_page(results, {}, "")).text)):
        assert said in text


def test_an_unknown_primary_measure_names_what_there_is() -> None:
    with pytest.raises(ZooError, match=r"'validation.masked'.*validation\.masked_lm"):
        results_of([5.0], [5.0], primary="validation.masked")


def test_a_folder_without_run_json_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert read_run("a", 1, folder).record["parameters"] == 1_500_000
    (folder / "run.json").unlink()
    with pytest.raises(ZooError, match=r"no run\.json"):
        read_run("a", 1, folder)


def test_an_unfinished_run_and_a_broken_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="not finished"):
        read_run("a", 1, write_run(tmp_path / "open", finished=False))
    folder = write_run(tmp_path / "broken")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "los')
    with pytest.raises(ZooError, match=r"log\.jsonl, line 45"):
        read_run("a", 1, folder)


def test_curves_average_over_seeds_at_common_tokens(tmp_path: Path) -> None:
    runs = [run_of("a", 1, 5.0), run_of("a", 2, 5.0)]
    runs[1] = replace(runs[1], train=[(t, {"masked_lm": v["masked_lm"] + 2}) for t, v in runs[1].train])
    x, y, band = curve(runs, "masked_lm")
    assert x == [25.0, 75.0, 125.0, 175.0]
    assert band is not None
    assert band == pytest.approx([math.sqrt(2)] * len(y))
    assert curve(runs[:1], "masked_lm")[2] is None
    assert curve([read_run("a", 1, write_run(tmp_path / "x"))], "no_such_objective") == ([], [], None)


def test_ticks_are_round_and_inside() -> None:
    for low, high in [(0.0, 1.0), (4.61, 9.3), (-0.2, 0.07), (0, 1_500_000), (5.0, 5.0)]:
        found = ticks(low, high)
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
        assert 1 <= len(found) <= 11


@pytest.mark.parametrize("count", [0, 1, 3])
def test_pages_are_whole_and_self_contained(count: int, tmp_path: Path) -> None:
    runs = []
    for arm, final in (("a", 5.0), ("b", 5.4)):
        for seed in range(1, count + 1):
            run = read_run(arm, seed, write_run(tmp_path / f"{arm}{seed}", final, seed, ("masked_lm", "next_sentence")))
            runs.append(replace(run, scores={"t.accuracy": {1: 0.5, 2: 0.6}}, baselines={"t.accuracy": 0.25}))
    results = summarise(ablation(), runs)
    changed = {"a": [], "b": [("train.lr", 0.01, 0.1)]}
    for page in (ablation_page(results, changed, "command"), demo_page(results, changed, "command", 61.0)):
        text = " ".join(checked(page).text)
        if count:
            assert "by frequency" in text
            assert "0123abc" in text  # the commit
            assert f"n = {count}" in text.replace("\u00a0", " ")
    if count:
        assert "25.0" in text  # the majority baseline
        assert re.search(r"^\| majority class \|.*\| 25.0 \|", markdown(results), flags=re.M)
        assert "not comparable" in text


def test_everything_from_data_is_escaped(tmp_path: Path) -> None:
    run = read_run("a", 1, write_run(tmp_path / "x", terms=("masked_lm", EVIL), commit=EVIL, machine={EVIL: EVIL}))
    run = replace(run, arm=EVIL, scores={EVIL: {1: 0.5}}, baselines={EVIL: 0.1}, folder=Path(EVIL))
    other = replace(run, arm="a")
    results = summarise(ablation(title=EVIL, claim=EVIL), [other, replace(run, arm="b")])
    results = replace(results, arms=[EVIL, "b"], runs=[run, replace(run, arm="b")], title=EVIL, reference=EVIL)
    changed = {EVIL: [(EVIL, EVIL, EVIL)], "b": [(EVIL, EVIL, None)]}
    for page in (ablation_page(results, changed, EVIL), demo_page(results, changed, EVIL, 1.0)):
        checked(page)
        assert "<script" not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "evil", [EVIL, "![x](http://a.example/p.png)", "*a* | `b`\n# c", "\x1b[31mred\x07", "# title", "a \\<b>"]
)
def test_markdown_shows_markup_of_titles_claims_and_names_as_it_stands(evil: str) -> None:
    from markdown_it import MarkdownIt  # comes with the tools of the documentation

    runs = [replace(run_of("a", 1, 5.0), arm=evil, folder=Path(evil), baselines={evil: 0.1})]
    results = summarise(ablation(title=evil, claim=evil), [run_of("a", 1, 5.0), run_of("b", 1, 5.0)])
    results = replace(results, arms=[evil], runs=runs, reference=evil, primary=evil)
    results = replace(results, comparisons=[replace(c, arm=evil, verdict=evil) for c in results.comparisons])
    text = markdown(results)
    assert "<" not in text
    assert text.isprintable() or text.replace("\n", "").isprintable()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = {inner.type for token in tokens for inner in token.children or ()} | {token.type for token in tokens}
    assert not kinds & {"image", "link_open", "html_inline", "html_block", "em_open", "strong_open", "fence"}
    assert tokens[1].content.count("\n") == 0
    shown = "".join(inner.content for inner in tokens[1].children)
    assert shown == " ".join("".join(c if c.isprintable() else " " for c in evil).split())
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2", "h2"]


def test_the_smallest_effect_is_in_the_unit_that_is_printed() -> None:
    """Points for scores: 1 is from 71 % to 72 %, and not all of the scale."""
    primary = {"measure": "t.accuracy", "better": "higher", "smallest_effect": 1}
    for gain, said in (
        (0.02, "better"),
        (0.005, "equivalent within ±1 points"),
        (0.0099, "equivalent within ±1 points"),
    ):
        runs = [
            run_of(arm, s, 5.0, scores={"t.accuracy": {1: score + 0.01 * s + 0.00001 * (s % 2) * (arm == "b")}})
            for arm, score in (("a", 0.5), ("b", 0.5 + gain))
            for s in range(1, 6)
        ]
        found = summarise(ablation(primary=primary), runs)
        assert next(c for c in found.comparisons if c.primary).verdict == said
        assert found.smallest_effect == pytest.approx(0.01)
        assert "smallest effect that matters 1 points)" in markdown(found)
        assert "1 points" in " ".join(checked(ablation_page(found, {}, "")).text)
    with pytest.raises(ZooError, match=r"primary\.smallest_effect = -1"):
        ablation(primary={**primary, "smallest_effect": -1})


def test_markdown_and_json_carry_the_same_figures() -> None:
    results = results_of([5.0, 5.1, 5.2, 5.3, 5.4], [5.2, 5.2, 5.5, 5.4, 5.7])
    text, facts = markdown(results), json.loads(json.dumps(to_json(results)))
    assert "+0.200" in text
    assert "(n = 5)" in text
    assert facts["comparisons"][0]["difference"] == pytest.approx(0.2)
    assert facts["runs"][0]["folder"] == "runs/a-1"
    assert len(facts["runs"]) == 10


def test_an_objective_that_several_tasks_share_is_measured_in_each(tmp_path: Path) -> None:
    loss = {"loss": 2.0, "accuracy": None, "count": 3}
    lines = [
        {"step": 1, "tokens": 10, "terms": {"lm": 3.0}},
        {"step": 1, "tokens": 10, "validation": {"task": "a", "terms": {"lm": loss, "pair": loss}}},
        {"step": 1, "tokens": 10, "validation": {"task": "b", "terms": {"lm": {**loss, "loss": 5.0}}}},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = {"validation.a.lm": 2.0, "validation.pair": 2.0, "validation.b.lm": 5.0}
    assert read_log(tmp_path / "log.jsonl")[1] == [(10.0, expected)]

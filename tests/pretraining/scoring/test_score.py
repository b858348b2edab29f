"""Scores of sentences where no run.json names an objective: the head's facts and the attention say enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from training import FAMILIES

from pretraining.scoring.score import score_cloze, score_command, score_pairs
from pretraining.scoring.scorer import Scorer
from zoo.errors import ZooError
from zoo.weights.commands import export_folder, import_folder

SENTENCES = ["A dog barks.", "Dog a barks.", "The river flows through the town and past its old mill.", "town"]


@pytest.fixture(scope="module")
def runs(shared) -> dict[str, Path]:
    return {family: shared.finished_run(family) for family in FAMILIES}


def without_record(run: Path, target: Path) -> Path:
    """The run as a model folder and no more."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "run.json", "*.jsonl"))
    return target


def changed_facts(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("family", ["xlnet", "elmo"])
def test_heads_of_other_kinds_are_asked_as_they_were_trained(shared, tmp_path, family):
    """A core with a second stream, never by masks; two halves of states, each for its own direction."""
    run = shared.finished_run(family)
    expected = Scorer(run)
    bare = Scorer(without_record(run, tmp_path / "bare"))
    assert type(bare.objective) is type(expected.objective)
    assert np.array_equal(bare.score(SENTENCES), expected.score(SENTENCES))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_a_record_scores_as_its_run_does(runs, family, tmp_path):
    expected = Scorer(runs[family]).score(SENTENCES)
    assert np.array_equal(Scorer(without_record(runs[family], tmp_path / "bare")).score(SENTENCES), expected)
    export_folder(runs[family], tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    assert np.array_equal(Scorer(tmp_path / "in").score(SENTENCES), expected)
    assert len(set(expected.tolist())) == len(SENTENCES)


def test_the_rule_follows_from_visibility(runs, tmp_path):
    """A token head is described alike on both sides; the attention pattern decides how it is asked."""
    folder = without_record(runs["gpt"], tmp_path / "model")
    causal = Scorer(folder)
    other = Scorer(changed_facts(folder, attention="bidirectional"))
    assert type(causal.objective) is not type(other.objective)
    assert (other.score(SENTENCES) != causal.score(SENTENCES)).all()


def test_the_command_takes_an_imported_model(runs, tmp_path, capsys):
    export_folder(runs["bert"], tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "in")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "order.jsonl").write_text(json.dumps({"sentence_good": SENTENCES[0], "sentence_bad": SENTENCES[1]}) + "\n")
    assert score_command([str(tmp_path / "in"), "--pairs", str(pairs)]) == 0
    good, bad = Scorer(tmp_path / "in").score(SENTENCES[:2])
    stored = json.loads((tmp_path / "in" / "scores.json").read_text())
    assert stored["objective"] == "masked_lm"
    assert stored["pairs"]["paradigms"]["order"] == {"accuracy": float(good > bad), "pairs": 1, "ties": 0}
    assert "by masked_lm" in capsys.readouterr().out


def test_a_model_that_cannot_score_says_why(runs, tmp_path):
    folder = without_record(runs["bert"], tmp_path / "model")
    with pytest.raises(ZooError, match=r"head 'mask_lm' of .* these do: \['masked_lm'\]. Did you mean 'masked_lm'"):
        Scorer(folder, "mask_lm")
    with pytest.raises(ZooError, match=r"head 'next_sentence' of .* does not score"):
        Scorer(folder, "next_sentence")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("[MASK]", "[HIDE]"))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ZooError, match="no mask token"):
        Scorer(folder)
    pair = {"kind": "pair", "num_labels": 2, "dense": "pooler", "bias": True}
    with pytest.raises(ZooError, match=r"no head that scores sentences; .* its heads are: next_sentence \(pair\)"):
        Scorer(changed_facts(folder, heads={"next_sentence": pair}))
    with pytest.raises(ZooError, match="its heads are: none"):
        Scorer(changed_facts(folder, heads={}))


# --- ties, and items that cannot be scored ---


def cloze_file(folder: Path, *items: object) -> Path:
    """Records, one a line; a text is a line as it stands."""
    path = folder / "cloze.jsonl"
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items))
    return path


def item(text: object = "the ___ lies", options: object = ("town", "bridge"), answer: object = 0) -> dict:
    return {"text": text, "options": list(options) if isinstance(options, tuple) else options, "answer": answer}


def pair_file(folder: Path, name: str, *pairs: tuple[object, object]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad}) + "\n" for good, bad in pairs]
    (folder / name).write_text("".join(lines))
    return folder


def test_options_that_tie_share_the_credit_and_are_told(runs, tmp_path, capsys):
    """The reader makes one of them; their places in batches of other lengths may not part them again."""
    scorer = Scorer(runs["bert"])
    words = [item(options=("TOWN", "town"), answer=n % 2) for n in range(10)]
    words += [item("The ___ flows through a town and past the old mill.", ("river", "River", "RIVER"))] * 5
    found = score_cloze(scorer, cloze_file(tmp_path, *words), None, batch_size=3)
    assert (found["accuracy"], found["ties"]) == (pytest.approx((10 / 2 + 5 / 3) / 15), 15)
    assert found["chance"] == pytest.approx(found["accuracy"])
    best = int(np.argmax(scorer.score(["the town lies", "the bridge lies"])))
    one, other = item(answer=best), item(answer=1 - best)
    half = [item(options=("town", "Town", "bridge"), answer=0 if best == 0 else 2)]
    found = score_cloze(scorer, cloze_file(tmp_path, one, other, *half), None, 64)
    assert found["accuracy"] == pytest.approx((1 + 0 + (0.5 if best == 0 else 1)) / 3)
    assert found["ties"] == (best == 0)

    folder = pair_file(tmp_path / "pairs", "case.jsonl", ("A dog barks.", "a DOG barks."), ("A dog.", "A dog."))
    found = score_pairs(scorer, folder, None, 1, False)
    assert found == {
        "accuracy": 0.5,
        "pairs": 2,
        "ties": 2,
        "paradigms": {"case": {"accuracy": 0.5, "pairs": 2, "ties": 2}},
        "chance": 0.5,
    }
    file = cloze_file(tmp_path, words[0])
    out = tmp_path / "scores.json"
    assert score_command([str(runs["bert"]), "--pairs", str(folder), "--cloze", str(file), "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "minimal pairs: 50.00 % (chance 50.00 %; 2 of 2 pairs tie and share the credit) by masked_lm" in printed
    assert "cloze: 50.00 % (chance 50.00 %; 1 of 1 items tie and share the credit) by masked_lm" in printed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (item("the town lies"), r"line 2: 'text' needs one gap, written ___, and has none: 'the town lies'"),
        (item("the __ lies"), "has none"),
        (item("the ____ lies"), "has none"),
        (item("the [MASK] lies"), "has none"),
        (item("the ___ and the ___"), "has more than one"),
        (item(["the ___"]), r"line 2: 'text' is \[\"the ___\"\]; a text is needed"),
        (item(None), "'text' is null"),
        (item(options="town"), "'options' is \"town\"; a list of two texts or more"),
        (item(options=("town",)), "a list of two texts or more"),
        (item(options=("town", 7)), "'options' is 7; a text is needed"),
        (item(options=("town", " ")), "'options' is empty"),
        (item(answer=2), "'answer' is 2; the number of an option is needed, 0 to 1"),
        (item(answer=-1), "'answer' is -1"),
        (item(answer="0"), "'answer' is \"0\""),
        (item(answer=True), "'answer' is true"),
        (item(answer=0.0), "'answer' is 0.0"),
        ('{"text": "the ___ \\ud83d lies", "options": ["a", "b"], "answer": 0}', "half a surrogate pair"),
        ('{"text": "the ___ lies", "options": ["a", "\\ude00"], "answer": 0}', "half a surrogate pair"),
        ("null", "line 2: a JSON object"),
        ("[1]", "line 2: a JSON object"),
    ],
)
def test_a_cloze_that_cannot_be_asked_is_refused_by_its_line(runs, tmp_path, wrong, message):
    with pytest.raises(ZooError, match=message):
        score_cloze(Scorer(runs["gpt"]), cloze_file(tmp_path, item(), wrong), None, 64)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("", "A dog."), r"b.jsonl, line 1: 'sentence_good' is empty \(''\)"),
        (("A dog.", " \t"), "'sentence_bad' is empty"),
        (("A dog.", None), "'sentence_bad' is null; a text is needed"),
        (("A dog.", "\x00\u200b"), "a sentence without any token cannot be scored"),
    ],
)
def test_a_pair_with_nothing_to_score_wins_nothing(runs, tmp_path, pair, message):
    """An empty sentence has the probability 1; it is found before the first file is scored."""
    folder = pair_file(tmp_path / "pairs", "a.jsonl", ("A dog barks.", "Dog a barks."))
    with pytest.raises(ZooError, match=message):
        score_pairs(Scorer(runs["bert"]), pair_file(folder, "b.jsonl", pair), None, 64, False)


def test_files_without_an_item_are_refused(runs, tmp_path):
    """And not scored as a mean of nothing."""
    scorer = Scorer(runs["bert"])
    folder = pair_file(tmp_path / "pairs", "a.jsonl", ("A dog barks.", "Dog a barks."))
    with pytest.raises(ZooError, match=r"empty.jsonl holds no pair of sentences"):
        score_pairs(scorer, pair_file(folder, "empty.jsonl"), None, 64, False)
    with pytest.raises(ZooError, match="holds no cloze"):
        score_cloze(scorer, cloze_file(tmp_path), None, 64)
    with pytest.raises(ZooError, match="does not exist"):
        score_pairs(scorer, tmp_path / "nothing", None, 64, False)
    for size in ("--limit", "--batch_size"):
        with pytest.raises(ZooError, match="at least 1 is needed"):
            score_command([str(runs["bert"]), "--pairs", str(folder), size, "0"])


def test_a_model_that_gives_no_number_is_told(runs, monkeypatch):
    scorer = Scorer(runs["gpt"])
    with torch.no_grad():
        scorer.core.token_embedding[5:] = float("nan")
    with pytest.raises(ZooError, match="not finite: 'A dog barks"):
        scorer.score(["A dog barks."])

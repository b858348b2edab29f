"""Answers' scores against the official rules, written out plainly here, on hand-made and random texts."""

import random
import re
import string

import numpy as np
import pytest

from finetune.metrics.answers import ANSWER_METRICS, answer_scores, best_threshold, with_threshold
from finetune.metrics.cmrc import cmrc_em, cmrc_f1, mixed_segments
from finetune.metrics.english_words import treebank_words
from finetune.metrics.squad import plain_answer, squad2_em, squad2_f1, squad_em, squad_f1

# ---- SQuAD -----------------------------------------------------------------------------------------------------------


def reference_words(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split() if word]


def reference_f1(gold: list[str], found: list[str], both_empty: float) -> float:
    if not gold or not found:
        return both_empty if gold == found else 0.0
    left, common = list(found), 0
    for word in gold:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(gold)
    return 2 * precision * recall / (precision + recall)


WORDS = ["The", "a", "an", "cat", "Cat,", "(dog)", "u.s.", "U.S", "1,000", "café", "--", "anthem", "", " the-cat"]


@pytest.mark.parametrize("seed", range(60))
def test_squad_scores_follow_the_rules_on_random_texts(seed: int) -> None:
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(0, 5)))

    answers, predicted = [text() for _ in range(draw.randint(1, 3))], text()
    gold, found = [reference_words(answer) for answer in answers], reference_words(predicted)
    assert squad_em(answers, predicted) == float(found in gold)
    assert squad_f1(answers, predicted) == pytest.approx(max(reference_f1(one, found, 0.0) for one in gold))
    real = [one for one in gold if one] or [[]]
    assert squad2_em(answers, predicted) == float(found in real)
    assert squad2_f1(answers, predicted) == pytest.approx(max(reference_f1(one, found, 1.0) for one in real))


def test_articles_are_words_and_punctuation_joins_what_it_parted() -> None:
    assert plain_answer("An  Answer: the anthem, U.S.-A") == "answer anthem usa"
    assert plain_answer("the.") == ""


@pytest.mark.parametrize("score", [squad2_em, squad2_f1])
def test_without_an_answer_only_silence_is_right(score) -> None:
    assert [score((), text) for text in ("", "the", "no")] == [1.0, 1.0, 0.0]
    assert [score(("cat",), text) for text in ("", "the", "a cat")] == [0.0, 0.0, 1.0]


# ---- the threshold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_the_best_threshold_is_reached_and_no_other_is_better(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 25))
    no_answer = draw.random(count)  # distinct
    answerable = draw.random(count) < 0.6
    predicted = ["x" if draw.random() < 0.8 else "" for _ in range(count)]
    scores = np.where(answerable, draw.random(count), [float(not text) for text in predicted])
    best = best_threshold(scores, no_answer, answerable, predicted)
    means = {t: with_threshold(scores, no_answer, answerable, t).mean() for t in (0.0, *no_answer)}
    assert best.score == pytest.approx(max(means.values()))
    assert means[best.threshold] == pytest.approx(best.score)


def test_silence_everywhere_is_the_start_and_equal_probabilities_are_counted_one_by_one() -> None:
    answerable = np.array([True, False])
    assert best_threshold(np.array([0.0, 0.0]), np.array([0.2, 0.1]), answerable, ["x", "y"]) == (0.5, 0.0)
    tied = best_threshold(np.array([1.0, 0.0]), np.array([0.5, 0.5]), answerable, ["x", "y"])
    assert tied == (1.0, 0.5)  # the script's figure, which no threshold reaches
    assert with_threshold(np.array([1.0, 0.0]), np.array([0.5, 0.5]), answerable, 0.5).mean() == 0.5
    assert best_threshold(np.array([]), np.array([]), np.array([], bool), []) == (0.0, 0.0)


# ---- CMRC ------------------------------------------------------------------------------------------------------------


def reference_substring(a: list[str], b: list[str]) -> int:
    runs = [(i, j) for i in range(len(a)) for j in range(i + 1, len(a) + 1)]
    return max((j - i for i, j in runs if any(b[k : k + j - i] == a[i:j] for k in range(len(b)))), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_cmrc_scores_follow_the_rules_on_random_texts(seed: int) -> None:
    draw = random.Random(seed)
    pieces = ["北", "京", "Beijing ", "2008", "，", "、", "·", " ", "-", "《", "a", "體"]

    def text() -> str:
        return "".join(draw.choices(pieces, k=draw.randint(0, 7)))

    answers, predicted = [text() for _ in range(draw.randint(1, 3))], text()
    bare = [re.sub("[，、·《-]", "", one.lower().strip()) for one in (*answers, predicted)]
    assert cmrc_em(answers, predicted) == float(bare[-1] in bare[:-1])
    split = [re.findall("[北京體]|[a-z0-9]+", one) for one in bare]
    expected = []
    for gold in split[:-1]:
        common = reference_substring(gold, split[-1])
        precision, recall = (common / len(side) if side else 0.0 for side in (split[-1], gold))
        expected.append(2 * precision * recall / (precision + recall) if common else 0.0)
    assert cmrc_f1(answers, predicted) == pytest.approx(max(expected))


def test_segments_are_characters_and_english_words() -> None:
    assert mixed_segments("在1990年——BBC World's “A-B”。") == [
        "在", "1990", "年", "—", "—", "bbc", "world", "'s", "ab",
    ]  # fmt: skip
    assert mixed_segments("，") == mixed_segments("") == []
    assert mixed_segments("‘x’,") == ["‘", "x", ","]


def test_the_common_part_must_be_in_one_piece() -> None:
    assert cmrc_f1(("甲乙丙丁",), "甲乙戊丙丁") == pytest.approx(2 * 2 / 9)
    assert cmrc_f1(("，",), "，") == 0.0
    assert cmrc_em(("，",), "。") == 1.0
    assert cmrc_em(("1 000",), "1000") == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it's 3.5% of $10,000.", "it 's 3.5 % of $ 10,000 ."),
        ('"abc" (def).', "`` abc '' ( def ) ."),
        ("u.s.a. (nasa)", "u.s.a. ( nasa )"),
        ("don't cannot boys' 'n' c++", "do n't can not boys ' 'n ' c++"),
        ("hello... a,b 1,2", "hello ... a , b 1,2"),
        ("gonna 'tis she'll o'neil '89", "gon na ' tis she 'll o'neil ' 89"),
        ("", ""),
    ],
)
def test_english_words_are_the_treebanks(text: str, words: str) -> None:
    assert treebank_words(text) == words.split()


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ANSWER_METRICS)
def test_scores_of_many_questions(metric: str) -> None:
    scores = answer_scores(metric, [["北京"], ["cat", "dog"]], ["北京", "sun"])
    assert scores.tolist() == [1.0, 0.0]

"""Runs over several languages: the same course after a kill and with two processes; embeddings that do not fit."""

import pytest
from pair_toys import translation_arguments
from ranks import Ranks
from training import Killed, interrupt_at, log_lines, outcome, train

from zoo.errors import ZooError


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with Ranks(tmp_path_factory.mktemp("ranks")) as pool:
        yield pool


def test_a_killed_run_ends_bit_for_bit_the_same(monkeypatch, tmp_path):
    argv = translation_arguments(tmp_path, 14)
    expected = outcome(train([*argv, "--output", str(tmp_path / "whole")]))
    argv = [*argv, "--output", str(tmp_path / "killed")]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 10)
        train(argv)
    assert outcome(train(argv)) == expected


def test_two_processes_take_the_same_course(ranks, tmp_path):
    argv = translation_arguments(tmp_path, 9)
    alone = train([*argv, "--output", str(tmp_path / "one")])
    code, out = ranks.run([*argv, "--output", str(tmp_path / "two")])
    assert code == 0, out
    (together,) = (tmp_path / "two").iterdir()
    logs = log_lines(alone), log_lines(together)
    assert {task for line in logs[0] for task in line.get("tasks", ())} == {"mlm", "tlm"}
    for one, two in zip(*logs, strict=True):
        assert one["step"] == two["step"]
        if "terms" in one:
            assert one["tokens"] == two["tokens"]
            assert one["terms"] == {name: pytest.approx(value, rel=1e-4) for name, value in two["terms"].items()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks.tlm.layout.init_args.languages": "[de, en]"}, "number their languages differently"),
        ({"tasks.tlm.layout.init_args.languages": "[en, fr]"}, "has text in de"),
        (
            {
                "tasks.tlm.layout.init_args.languages": "[en, de, zh]",
                "tasks.mlm.layout.init_args.languages": "[en, de, zh]",
            },
            r"type_vocab_size = 2 embeddings do not reach for 3 languages \(en, de, zh\)",
        ),
    ],
)
def test_languages_that_do_not_go_together_are_refused(settings, message, tmp_path):
    both = {"tasks.mlm.layout.init_args.languages": "[en, fr]"} if "has text" in message else {}
    with pytest.raises(ZooError, match=message):
        train(translation_arguments(tmp_path, 2, output=tmp_path / "runs", **settings, **both))

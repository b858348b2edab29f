"""``zoo list``: rows that are kept, rows that are counted, words that no config has in its name."""

from __future__ import annotations

import pytest

from pretraining.tools.configs import list_command, listed_rows, row_of
from zoo.errors import ZooError
from zoo.settings.yaml_files import parse_yaml


def test_a_word_that_no_config_has_names_near_ones(capsys):
    with pytest.raises(ZooError, match=r"no shipped config has 'bret' in its name\. Near: bert.*lists all \d+"):
        list_command(["bret"])
    with pytest.raises(ZooError, match=r"'qqqqq' in its name\. Names are such as"):
        list_command(["tiny", "qqqqq"])
    assert list_command(["bert-tiny"]) == 0
    shown = capsys.readouterr().out
    assert "bert-tiny " in shown
    assert "masked_lm: MaskedLM(RandomTokens), next_sentence: PairClassification on SentencePairs" in shown


def test_a_row_of_another_config_is_counted_anew():
    kept = parse_yaml(listed_rows().read_text(encoding="utf-8"))
    assert row_of("bert-tiny", kept) is kept["bert-tiny"]
    stale = {"bert-tiny": {**kept["bert-tiny"], "of": "00000000", "core": 1}}
    assert row_of("bert-tiny", stale) == kept["bert-tiny"] == row_of("bert-tiny", {})

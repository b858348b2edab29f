"""Translations of a tiny model: whatever the batch, by beams or draws, scored with a signature; bad input."""

import json

import pytest
from pair_toys import sentences, write_aligned
from training import train

from pretraining.scoring.translate import TranslateConfig, Translator, translate_command
from pretraining.scoring.translation import translation_scores
from zoo.errors import ZooError

TEXTS = [source for source, _ in sentences()[::9]]
EXPECTED = [target for _, target in sentences()[::9]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A Transformer that has learned the toy language."""
    folder = tmp_path_factory.mktemp("run")
    values = {
        "data.corpus.files": f"[{', '.join(write_aligned(folder, sentences()))}]",
        "data.corpus.languages": "[en, de]",
        "data.stores": folder / "stores",
        "data.processes": 1,
        "data.tokenizer.vocab_size": 300,
        "data.sequence_length": 32,
        "data.validation_tokens": 200,
        "model.hidden_size": 64,
        "model.intermediate_size": 128,
        "model.num_hidden_layers": 1,
        "model.num_attention_heads": 2,
        "model.hidden_dropout_prob": 0.0,
        "train.steps": 150,
        "train.tokens": "null",
        "train.batch_tokens": "null",
        "train.batch_size": 32,
        "train.lr": 0.005,
        "train.schedule.init_args.warmup": 0.2,
        "train.threads": 1,
        "train.precision": "fp32",
        "run_folder": folder / "run",
    }
    argv = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return train(["--config", "transformer-tiny", *argv])


@pytest.fixture(scope="module")
def translator(run):
    return Translator(run)


def written(translator, texts, batch_size=32, **search) -> list[str]:
    config = TranslateConfig("run", "text", **search)
    found = dict(translator.translate(texts, config.search, None, batch_size, config.seed))
    return [found[number] for number in range(len(texts))]


@pytest.mark.parametrize("beams", [1, 4])
def test_what_was_learned_is_written_in_any_batch(translator, beams):
    whole = written(translator, TEXTS, num_beams=beams)
    assert whole == written(translator, TEXTS, batch_size=3, num_beams=beams)
    assert sum(a == b for a, b in zip(whole, EXPECTED, strict=True)) > 0.8 * len(TEXTS)


def test_draws_repeat_with_their_seed(translator):
    drawn = [written(translator, TEXTS, do_sample=True, temperature=3.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_folder_says_what_a_target_starts_with(run, translator):
    assert json.loads((run / "config.json").read_text())["decoder_start_token_id"] == translator.pad == translator.start


def test_a_file_is_translated_and_scored(run, tmp_path, capsys):
    (tmp_path / "source").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    (tmp_path / "reference").write_text("\n".join(EXPECTED) + "\n", encoding="utf-8")
    places = {name: str(tmp_path / name) for name in ("source", "reference", "out", "scores")}
    words = ["--references", places["reference"], "--output", places["out"], "--scores", places["scores"]]
    assert translate_command([str(run), places["source"], "--num_beams", "2", "--length_penalty", "0.6", *words]) == 0
    figures = json.loads((tmp_path / "scores").read_text())
    assert figures["bleu"]["score"] > 80
    assert figures["chrf"]["score"] > 80
    assert "tok:13a" in figures["bleu"]["signature"]
    assert figures["search"] == {"do_sample": False, "num_beams": 2, "length_penalty": 0.6}
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == len(TEXTS)
    assert "BLEU" in capsys.readouterr().out
    assert translate_command([str(run), TEXTS[0]]) == 0
    assert capsys.readouterr().out.strip().endswith(EXPECTED[0])


def test_what_cannot_be_translated_is_refused(run, translator, tmp_path):
    for words, message in (
        (["--num_beams", "0"], "num_beams"),
        (["--length_penalty", "-1"], "length_penalty"),
        (["--max_length", "0"], "max_length"),
        (["--max_length", "3"], r"--max_length 3 is below the \d+ tokens of text 1"),
        (["--references", str(tmp_path / "lines")], "has 2 lines for 1 texts"),
    ):
        (tmp_path / "lines").write_text("one\ntwo\n")
        with pytest.raises(ZooError, match=message):
            translate_command([str(run), TEXTS[0], *words])
    (tmp_path / "gap").write_text("the cat\n\nthe dog\n")
    with pytest.raises(ZooError, match=r"gap:2: an empty line"):
        translate_command([str(run), str(tmp_path / "gap")])
    with pytest.raises(ZooError, match="more than this model's"):
        translator.encoded(["the cat " * 300], None)


def test_a_model_without_a_decoder_writes_nothing(shared):
    with pytest.raises(ZooError, match=r"has no decoder \(model.decoder\)"):
        Translator(shared.finished_run("bert"))


def test_scores_are_those_of_sacrebleu_with_its_signature():
    same = translation_scores(EXPECTED, EXPECTED)
    assert same["bleu"]["score"] == pytest.approx(100)
    assert same["chrf"]["score"] == pytest.approx(100)
    assert same["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    chinese = translation_scores(["我们 走了。"], ["我们走了。"], "zh")
    assert "tok:zh" in chinese["bleu"]["signature"]
    assert chinese["bleu"]["score"] == pytest.approx(100)
    with pytest.raises(ZooError, match="1 references of 2 translations"):
        translation_scores(["a", "b"], ["a"])
    with pytest.raises(ZooError, match="no translations"):
        translation_scores([], [])

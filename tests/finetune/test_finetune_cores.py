"""Fine-tuning of cores that are no plain Transformer: two-way LSTMs over characters, permutation and memory models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Metaspace, Whitespace
from toys import FIRST, LAST, MEMORY, PAIR, PERMUTED, POOLED, SINGLE, SPELT, WORDS, make_model, rows_of
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    XLNetConfig,
    XLNetForSequenceClassification,
    pipeline,
)

import zoo.hf  # noqa: F401  makes model toy_folders known to the Auto classes
from finetune.config import FinetuneSettings
from finetune.data.examples import TaskSplits
from finetune.inputs.encode import with_word_spaces
from finetune.training.loop import predict, step_loss
from finetune.training.prepared import PreparedTask
from finetune.training.processes import Processes
from finetune.training.run import finetune
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tokenizer.tokenizer import ZooTokenizer
from zoo.core.characters import character_ids, character_ids_of, character_table
from zoo.errors import ZooError
from zoo.heads.sequence_head import pooled_state
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import ModelMetadata, load_core, load_head, read_metadata, save_model_folder
from zoo.storage.files import read_json, write_json
from zoo.vocabulary import Template, parse_layout
from zoo.weights.commands import export_folder, import_folder

TOYS = {"spelt": SPELT, "permuted": PERMUTED, "memory": MEMORY}
SETTINGS = FinetuneSettings(lr=5e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=TOYS)
def tuned(request, toy_folders, toy_data, tmp_path_factory):
    """One text's task, learned and kept: name, folder of the result, result, what was prepared."""
    place = tmp_path_factory.mktemp("tuned")
    prepared = PreparedTask(toy_folders[request.param], SINGLE, toy_data, replace(SETTINGS, epochs=4))
    result = finetune(toy_folders[request.param], SINGLE, prepared, 1, SETTINGS, place, progress=False, save_model=True)
    return request.param, place, result, prepared


def largest(one: torch.Tensor, two: torch.Tensor) -> float:
    assert one.shape == two.shape
    return (one - two).abs().max().item()


# --- all of them ---------------------------------------------------------------------------------------------


def test_a_task_is_learned(tuned) -> None:
    *_, result, _ = tuned
    assert result.scores["accuracy"] > 0.95
    assert result.majority["accuracy"] < 0.75
    assert result.mixes is None


def test_a_kept_model_answers_in_a_pipeline_as_it_was_scored(tuned) -> None:
    """Also in padded batches, whose padding stands where the template says."""
    name, place, _, prepared = tuned
    lines = (place / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    expected = np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    assert (
        tokenizer.padding_side == prepared.metadata.template.padding_side == ("left" if name == "permuted" else "right")
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    pipe = pipeline("text-classification", str(place / "model"), tokenizer=tokenizer)
    pipe.model.config.pad_token_id = 0
    texts = prepared.data.evaluation.texts
    found = [{line["label"]: line["score"] for line in row} for row in pipe(texts, top_k=None, batch_size=16)]
    scores = np.array([[row[label] for label in SINGLE.labels] for row in found])
    np.testing.assert_allclose(scores, expected, atol=3e-6)
    if name != "permuted":  # the only one of the three that a stock class can say
        return
    assert export_folder(place / "model", place / "stock")[0].endswith("XLNetForSequenceClassification")
    stock = XLNetForSequenceClassification.from_pretrained(place / "stock").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "stock")
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    assert not inputs["attention_mask"][:, 0].all()
    assert inputs["attention_mask"][:, -1].all()  # padded at the left
    np.testing.assert_allclose(stock(**inputs).logits.softmax(-1).detach().numpy(), expected, atol=3e-6)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("task", [SINGLE, PAIR], ids=lambda task: task.name)
def test_every_weight_that_is_trained_gets_a_gradient(name: str, task, toy_folders, toy_data: Path) -> None:
    """Or a second process would wait for it in vain."""
    prepared = PreparedTask(toy_folders[name], task, toy_data, SETTINGS)
    model = prepared.model(1)
    step_loss(model, prepared, np.arange(8), (1, 0), Processes()).backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not idle
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == ({"core.relative.start"} if name == "permuted" else set())


@pytest.mark.parametrize("name", TOYS)
def test_a_row_scores_the_same_alone_and_padded(name: str, toy_folders) -> None:
    texts = ["good a", "a b c d e f g good", "bad", ""]
    prepared = PreparedTask(toy_folders[name], SINGLE, rows_of(texts), SETTINGS)
    model = prepared.model(1).eval()
    together = model(prepared.batch("train", np.arange(4)).inputs)
    for row in range(4):
        assert largest(model(prepared.batch("train", np.array([row])).inputs)[0], together[row]) < 1e-5


# --- both ends -----------------------------------------------------------------------------------------------


def test_each_half_is_read_where_its_direction_has_seen_all() -> None:
    states = torch.arange(2 * 4 * 6.0).view(2, 4, 6)
    last = torch.tensor([3, 1])
    found = pooled_state(states, "ends", last)
    assert found.tolist() == [[18.0, 19.0, 20.0, 3.0, 4.0, 5.0], [30.0, 31.0, 32.0, 27.0, 28.0, 29.0]]
    assert torch.equal(pooled_state(states, "last", last), states[[0, 1], [3, 1]])
    assert torch.equal(pooled_state(states, "last", None), states[:, 3])
    assert torch.equal(pooled_state(states, "first", last), states[:, 0])


def test_both_ends_see_every_word(toy_folders) -> None:
    """Each half by itself, its own direction being through."""
    core, _ = load_core(toy_folders["spelt"])
    words = torch.tensor([[3, 11, 12, 13, 3]])
    vectors = []
    handle = core.embeddings.register_forward_hook(
        lambda module, inputs, output: vectors.append(output.requires_grad_()) or None
    )
    for half in (slice(16), slice(16, 32)):
        state = pooled_state(core(CoreInputs(words)).last_hidden_state, "ends", torch.tensor([4]))
        (grad,) = torch.autograd.grad(state[:, half].sum(), vectors[-1])
        assert (grad.abs().sum(-1) > 0).all()
    handle.remove()


@pytest.mark.parametrize(
    ("toy", "why"), [(FIRST, "no such halves"), (SPELT._replace(attention="causal"), "attention is causal")]
)
def test_both_ends_need_two_halves(toy, why: str, toy_data: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", toy._replace(template=replace(toy.template, pooling="ends")))
    with pytest.raises(ZooError, match=f"pooling: ends.*{why}.*first or last would work"):
        PreparedTask(folder, SINGLE, toy_data, SETTINGS)


# --- characters ----------------------------------------------------------------------------------------------


def test_words_outside_the_vocabulary_are_spelt(toy_folders) -> None:
    texts = ["good Zürich a", "good quokka a", "good [SEP] a", "good quokka", "a b"]
    prepared = PreparedTask(toy_folders["spelt"], SINGLE, rows_of(texts), SETTINGS)
    inputs = prepared.batch("train", np.arange(5)).inputs
    known = character_ids_of(character_table(WORDS, 10, 2, 3))
    for row, text in enumerate(texts):
        words = text.replace("[SEP]", "[ SEP ]").split()  # written in a text it is text, as this tokenizer splits it
        characters = inputs.character_ids[row]
        assert torch.equal(characters[0], known[3])
        assert torch.equal(characters[1 : len(words) + 1], character_ids([words], 10, marks=False)[0])
        assert torch.equal(characters[len(words) + 1], known[3])
        assert not characters[len(words) + 2 :].any()
        expected = [3, *(WORDS.index(word) if word in WORDS else 1 for word in words), 3]
        assert inputs.input_ids[row, : len(expected)].tolist() == expected
    model = prepared.model(1).eval()
    logits = model(inputs)
    assert largest(logits[0], logits[1]) > 1e-4  # two unknown words are two words
    assert largest(model(inputs._replace(character_ids=None))[4], logits[4]) < 1e-6  # known ones are what they were


def test_transformers_take_the_characters_too(tuned) -> None:
    name, place, *_ = tuned
    if name != "spelt":
        return
    rows = rows_of(["good quokka a", "quokka bad"])
    again = PreparedTask(place / "model", SINGLE, rows, SETTINGS)
    model = again.model(1)
    load_head(place / "model", "classifier", model.head)
    inputs = again.batch("train", np.arange(2)).inputs
    mask = torch.arange(5)[None] < inputs.attention_pattern.lengths[:, None]
    stock = AutoModelForSequenceClassification.from_pretrained(place / "model")
    found = stock(inputs.input_ids, mask, character_ids=inputs.character_ids).logits
    assert largest(found, model.eval()(inputs)) < 1e-6
    assert largest(stock(inputs.input_ids, mask).logits, found) > 1e-4  # [UNK] is another word


def test_words_that_the_core_cannot_spell(toy_folders, toy_data: Path, tmp_path: Path) -> None:
    metadata = read_metadata(toy_folders["spelt"])
    core, _ = load_core(toy_folders["spelt"])
    core.embeddings.word_embeddings.spellings[7:9] = 0
    save_model_folder(tmp_path, core, {}, metadata)
    (tmp_path / "tokenizer.json").write_bytes((toy_folders["spelt"] / "tokenizer.json").read_bytes())
    with pytest.raises(ZooError, match=r"does not know those of 2 of its tokenizer's 25 tokens, .* 'same'"):
        _ = PreparedTask(tmp_path, SINGLE, toy_data, SETTINGS).train
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ZooError, match=r"holds no tokenizer.json.*This core reads characters.*unit is the word"):
        _ = PreparedTask(tmp_path, SINGLE, toy_data, SETTINGS).train


def test_a_template_token_cannot_be_added_to_words_that_are_spelt(toy_folders, toy_data: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", SPELT._replace(template=replace(LAST.template, pooling="ends")))
    with pytest.raises(ZooError, match=r"_start_, _extract_, _delimiter_.*\[CLS\], \[SEP\]"):
        _ = PreparedTask(folder, SINGLE, toy_data, SETTINGS).tokenizer


def test_chinese_words_are_found_as_in_pretraining(toy_folders, toy_data: Path, tmp_path: Path) -> None:
    """By the segmenter that the tokenizer's files name; it goes on into the fine-tuned model's."""
    pytest.importorskip("rjieba")
    rows = rows_of(["今天天气很好。"]).train
    words = with_word_spaces(rows, "rjieba").texts[0].split()
    assert "".join(words) == rows.texts[0]
    assert 2 <= len(words) < len(rows.texts[0])
    assert with_word_spaces(rows, "none") is rows
    folder = make_model(tmp_path / "model", SPELT)
    tokenizer = load_tokenizer(folder)
    tokenizer.segmenter = "rjieba"
    tokenizer.save(folder)
    prepared = PreparedTask(folder, SINGLE, TaskSplits(rows, rows), SETTINGS)
    inputs = prepared.batch("train", np.array([0])).inputs
    assert inputs.input_ids.shape[1] == len(words) + 2
    assert torch.equal(inputs.character_ids[0, 1:-1], character_ids([words], 10, marks=False)[0])
    prepared.save(prepared.model(1), tmp_path / "kept")
    assert load_tokenizer(tmp_path / "kept").segmenter == "rjieba"


def test_a_segmenter_leaves_pieces_of_words_alone(tmp_path: Path) -> None:
    """Where the unit is no word, spaces between Chinese words would be text that pretraining never saw."""
    pytest.importorskip("rjieba")
    folder, rows = make_model(tmp_path / "model", POOLED), rows_of(["今天天气很好。"])
    sizes = {"none": set(), "rjieba": set()}
    for name, found in sizes.items():
        backend = Tokenizer(Unigram([(word, 0.0) for word in [*WORDS[:5], "▁", *"今天气很好。"]], 1))
        backend.pre_tokenizer = Metaspace(prepend_scheme="never")
        tokenizer = ZooTokenizer(backend, load_tokenizer(folder).roles)
        tokenizer.segmenter = name
        tokenizer.save(folder)
        found.update(PreparedTask(folder, SINGLE, rows, SETTINGS).train.lengths.tolist())
    assert sizes["rjieba"] == sizes["none"] == {len("今天天气很好。") + 2}


# --- segments and sides --------------------------------------------------------------------------------------


def test_the_closing_token_has_a_segment_of_its_own(toy_folders, toy_data: Path, tmp_path: Path) -> None:
    assert parse_layout("$A [SEP] $B [SEP] [CLS]:2") == [("$A", 0), ("[SEP]", 0), ("$B", 1), ("[SEP]", 1), ("[CLS]", 2)]
    assert Template("$A:0 <x:y> [CLS]:2", "$A $B [CLS]:2").tokens == ["<x:y>", "[CLS]"]
    for task, expected in ((SINGLE, [0, 0, 2]), (PAIR, [0, 0, 1, 1, 2])):
        prepared = PreparedTask(toy_folders["permuted"], task, toy_data, SETTINGS)
        rows = prepared.train.sequences
        ids, types = (part[: rows.offsets[1]] for part in (rows.ids, rows.types))
        assert types[np.append(True, types[1:] != types[:-1]) | np.isin(ids, (2, 3))].tolist() == expected
        texts = prepared.data.train
        assert prepared.tokenizer.backend.encode(texts.texts[0], texts.pairs[0] if texts.pairs else None).type_ids == (
            types.tolist()
        )


def test_a_segment_that_the_table_lacks(toy_data: Path, tmp_path: Path) -> None:
    template = Template("[CLS]:2 $A [SEP]")
    folder = make_model(tmp_path / "model", POOLED._replace(template=template))
    with pytest.raises(ZooError, match="segment 2, and the core has 2"):
        PreparedTask(folder, SINGLE, toy_data, SETTINGS)


# --- permutation and memory models ---------------------------------------------------------------------------


def stock_xlnet(folder: Path) -> XLNetForSequenceClassification:
    """A stock XLNet with a classifier and random weights, and its tokenizer's files."""
    words = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", *WORDS[5:]]
    config = XLNetConfig(
        vocab_size=len(words), d_model=24, n_layer=3, n_head=4, d_inner=40, dropout=0.0, mem_len=None, num_labels=2
    )
    model = XLNetForSequenceClassification(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(words[:7])
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **roles})
    return model


@pytest.mark.parametrize("task", [SINGLE, PAIR], ids=lambda task: task.name)
def test_xlnet_classifies_as_in_transformers(task, toy_data: Path, tmp_path: Path) -> None:
    """Equal weights; theirs pads at the left (segment 3 there, nobody looks), ours at the right."""
    (tmp_path / "stock").mkdir()
    theirs = stock_xlnet(tmp_path / "stock")
    import_folder(tmp_path / "stock", tmp_path / "model")
    prepared = PreparedTask(tmp_path / "model", task, toy_data, replace(SETTINGS, classifier_dropout=0.0))
    ours = prepared.model(1)
    load_head(tmp_path / "model", "classifier", ours.head)
    assert ours.head.head_config["dense"] == "tanh"
    rows = np.arange(16)
    inputs, _, (labels,) = prepared.batch("train", rows)
    lengths = prepared.train.lengths[rows]
    width = int(lengths.max())
    ids, types = torch.full((16, width), 5), torch.full((16, width), 3)
    mask = torch.zeros(16, width)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = inputs.input_ids[row, :length]
        types[row, width - length :] = inputs.token_type_ids[row, :length]
        mask[row, width - length :] = 1.0
    assert (ids[:, -1] == 3).all()  # <cls> closes
    assert (types[:, -1] == 2).all()
    assert (lengths < width).any() or task is PAIR
    expected = theirs(ids, attention_mask=mask, token_type_ids=types, labels=labels)
    logits = ours(inputs)
    assert largest(logits, expected.logits) <= 1e-5
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert abs(loss.item() - expected.loss.item()) <= 1e-5
    loss.backward()
    expected.loss.backward()
    pairs = (
        (ours.head.dense.weight, theirs.sequence_summary.summary.weight),
        (ours.head.output.weight, theirs.logits_proj.weight),
        (ours.core.token_embedding, theirs.transformer.word_embedding.weight),
    )
    for mine, other in pairs:
        assert largest(mine.grad, other.grad) / max(1.0, other.grad.abs().max().item()) <= 1e-5


@pytest.mark.parametrize("name", ["permuted", "memory"])
def test_memory_plays_no_part(name: str, toy_folders, tmp_path: Path) -> None:
    """Rows are longer than it, and what one batch leaves is not read by the next."""
    texts = ["a b c d e f g good h i", "bad a"]
    prepared = PreparedTask(toy_folders[name], SINGLE, rows_of(texts), SETTINGS)
    assert prepared.train.lengths.max() > 3 * (prepared.metadata.config.mem_len or 0)
    model = prepared.model(1).eval()
    inputs = prepared.batch("train", np.arange(2)).inputs
    first, second = model(inputs), model(inputs)
    assert torch.equal(first, second)
    config = json.loads((toy_folders[name] / "config.json").read_text())
    config["core"] |= {"mem_len": None, "reuse_len": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in ("model.safetensors", "tokenizer.json"):
        (tmp_path / file).write_bytes((toy_folders[name] / file).read_bytes())
    without = PreparedTask(tmp_path, SINGLE, rows_of(texts), SETTINGS).model(1).eval()
    assert torch.equal(without(inputs), first)


def test_where_the_padding_stands_is_all_the_same_to_relative_positions(toy_folders) -> None:
    """So rows are padded at the right in training, where dropout's masks then follow the row alone."""
    prepared = PreparedTask(toy_folders["permuted"], SINGLE, rows_of(["a b c d e good", "bad"]), SETTINGS)
    core, _ = load_core(toy_folders["permuted"])
    inputs = prepared.batch("train", np.arange(2)).inputs
    right = pooled_state(core(inputs).last_hidden_state, "last", inputs.attention_pattern.lengths - 1)
    lengths = inputs.attention_pattern.lengths.tolist()
    rolled = [[x[i].roll(8 - n) for i, n in enumerate(lengths)] for x in (inputs.input_ids, inputs.token_type_ids)]
    real = torch.arange(8)[None] >= 8 - inputs.attention_pattern.lengths[:, None]
    left = core(CoreInputs(torch.stack(rolled[0]), AttentionPattern(dense=real[:, None]), torch.stack(rolled[1])))
    assert largest(left.last_hidden_state[:, -1], right) < 1e-5


def test_a_causal_memory_model_is_read_like_gpt(toy_folders, toy_data: Path) -> None:
    model = PreparedTask(toy_folders["memory"], SINGLE, toy_data, SETTINGS).model(1)
    assert model.head.head_config["dense"] == "none"
    assert model.head.head_config["bias"] is False
    assert model.core.config.vocab_size == len(WORDS) + 3  # its template's tokens are new
    assert model.core.config.mem_len == 3  # a fact of the model, kept though not used here


def test_what_a_folder_says_of_its_template_is_kept(tuned) -> None:
    name, place, _, prepared = tuned
    found: ModelMetadata = read_metadata(place / "model")
    assert found.template == TOYS[name].template
    assert found.attention == TOYS[name].attention
    assert read_json(place / "model" / "tokenizer_config.json")["padding_side"] == found.template.padding_side
    again = PreparedTask(place / "model", SINGLE, prepared.data, SETTINGS)
    model = again.model(1)
    load_head(place / "model", "classifier", model.head)
    lines = (place / "predictions.tsv").read_text(encoding="utf-8").splitlines()[1:]
    expected = np.array([[float(cell) for cell in line.split("\t")[3:]] for line in lines])
    np.testing.assert_allclose(predict(model, again), expected, atol=3e-6)

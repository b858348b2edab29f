"""The class of encoder-decoder cores in transformers: generation beside the stock classes', folders, Auto classes."""

import pytest
import torch
from stock import Case, make_stock
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from finetune.models.task_model import TaskModel
from zoo import hf
from zoo.errors import ZooError
from zoo.hf.seq2seq import shifted_right
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import load_core, load_head
from zoo.storage.files import read_json
from zoo.storage.tensors import save_tensors
from zoo.weights.commands import export_folder, import_folder

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = {
    "marian": Case("marian", "published", "MarianMTModel"),
    "bart": Case("bart", "another decoder", "BartForConditionalGeneration"),
    "t5": Case("t5", "plain", "T5ForConditionalGeneration"),
    "t5 gated": Case("t5", "gated", "T5ForConditionalGeneration"),
}
START, END, PAD = 2, 3, 1


def both(kind):
    theirs = make_stock(KINDS[kind], attention="sdpa")
    theirs.config.decoder_start_token_id = START
    theirs.generation_config.forced_eos_token_id = None
    return theirs, hf.from_transformers(theirs)


def source():
    ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
    "all beams": {"num_beams": 3, "num_return_sequences": 3},
    "without a cache": {"num_beams": 2, "use_cache": False},
    "sampling": {"do_sample": True, "top_k": 12},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_generated_text_is_the_stock_classs(kind, way):
    theirs, ours = both(kind)
    assert type(ours) is hf.ZooForConditionalGeneration
    ids = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "max_length": 11}
    ids["no_repeat_ngram_size"] = 1  # random weights would say one word for ever
    found = []
    for model in (theirs, ours):
        torch.manual_seed(0)
        found.append(model.generate(**source(), **WAYS[way], **ids))
    assert torch.equal(*found)
    assert found[0].unique().numel() > 4


def test_the_source_is_read_once_and_its_keys_are_kept():
    _, ours = both("bart")
    calls, keys = [], []
    ours.core.embeddings.register_forward_hook(lambda *_: calls.append(1))
    ours.core.decoder.layers[0].cross_attention.key.register_forward_hook(lambda *_: keys.append(1))
    ours.generate(
        **source(), num_beams=4, max_length=9, decoder_start_token_id=START, eos_token_id=END, pad_token_id=PAD
    )
    assert (len(calls), len(keys)) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_and_every_output_are_the_stock_classs(kind):
    theirs, ours = both(kind)
    labels = torch.randint(4, 60, (3, 7), generator=torch.Generator().manual_seed(6))
    labels[0, 4:] = -100
    given = {**source(), "labels": labels, "output_hidden_states": True, "use_cache": False}
    ours.config.decoder_start_token_id = theirs.config.decoder_start_token_id
    one, other = theirs(**given), ours(**given)
    real = given["attention_mask"].bool()
    assert torch.allclose(one.loss, other.loss, atol=1e-5)
    assert torch.allclose(one.logits, other.logits, atol=1e-5)
    for name in ("decoder_hidden_states", "encoder_hidden_states"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.allclose(a, b, atol=1e-5) if name[0] == "d" else torch.allclose(a[real], b[real], atol=1e-5)


def test_labels_are_shifted_behind_the_start():
    labels = torch.tensor([[5, 6, 3], [7, -100, -100]])
    assert shifted_right(labels, START, PAD).tolist() == [[2, 5, 6], [2, 7, 1]]


def test_a_folder_opens_with_auto_classes(tmp_path):
    theirs, ours = both("marian")
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    ids = {"eos_token_id": END, "pad_token_id": PAD, "max_length": 9}
    expected = theirs.generate(**source(), decoder_start_token_id=START, **ids)
    assert read_json(tmp_path / "ours" / "config.json")["decoder_start_token_id"] == START
    assert torch.equal(again.generate(**source(), **ids), expected)
    base = AutoModel.from_pretrained(tmp_path / "ours")
    states = base(**source()).last_hidden_state
    assert torch.allclose(states, theirs.get_encoder()(**source()).last_hidden_state, atol=1e-5)
    with pytest.raises(ZooError, match="open it with AutoModelForSeq2SeqLM"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("kind", KINDS)
def test_export_opens_in_the_stock_class_and_generates_the_same(kind, tmp_path):
    theirs, _ = both(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    export_folder(tmp_path / "ours", tmp_path / "back")
    stock = type(theirs).from_pretrained(tmp_path / "back").eval()
    ids = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "max_length": 9}
    ids["forced_eos_token_id"] = None
    assert torch.equal(theirs.generate(**source(), **ids), stock.generate(**source(), **ids))
    assert stock.config.decoder_start_token_id == START


def test_an_output_matrix_of_its_own(tmp_path):
    """T5 1.1's published files: two matrices, and a config that says so."""
    theirs, _ = both("t5 gated")
    theirs.save_pretrained(tmp_path / "theirs")
    state = {name: value.clone() for name, value in theirs.state_dict().items() if "embed_tokens" not in name}
    state["lm_head.weight"] = torch.randn(state["lm_head.weight"].shape, generator=torch.Generator().manual_seed(2))
    save_tensors(tmp_path / "theirs" / "model.safetensors", state)
    config = tmp_path / "theirs" / "config.json"
    said = config.read_text(encoding="utf-8").replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    config.write_text(said, encoding="utf-8")
    stock = T5ForConditionalGeneration.from_pretrained(tmp_path / "theirs").eval()
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    given = {**source(), "decoder_input_ids": torch.tensor([[2, 5, 6], [2, 7, 8], [2, 9, 9]])}
    assert torch.allclose(stock(**given).logits, ours(**given).logits, atol=1e-5)
    export_folder(tmp_path / "ours", tmp_path / "back")
    back = T5ForConditionalGeneration.from_pretrained(tmp_path / "back").eval()
    assert torch.equal(back(**given).logits, stock(**given).logits)


def test_what_is_missing_is_said():
    _, ours = both("bart")
    with pytest.raises(ZooError, match="decoder_input_ids are missing"):
        ours(**source())
    ours.config.decoder_start_token_id = None
    with pytest.raises(ZooError, match="which token a target starts with"):
        ours(**source(), labels=torch.ones(3, 4, dtype=torch.long))


def test_a_row_on_both_sides_is_classified_as_in_the_stock_class(tmp_path):
    theirs = make_stock(Case("bart", "plain", "BartForSequenceClassification"), attention="sdpa")
    theirs.config.eos_token_id, theirs.config.decoder_start_token_id = END, START
    ours = hf.from_transformers(theirs)
    assert type(ours) is hf.ZooForSequenceClassification
    given = source()
    given["input_ids"][torch.arange(3), given["attention_mask"].sum(1) - 1] = END
    labels = torch.tensor([0, 2, 1])
    one, other = theirs(**given, labels=labels), ours(**given, labels=labels)
    assert torch.allclose(one.logits, other.logits, atol=1e-5)
    assert torch.allclose(one.loss, other.loss, atol=1e-5)
    ours.save_pretrained(tmp_path)
    core, metadata = load_core(tmp_path)
    task = TaskModel(core, metadata, {"kind": "classification", "num_labels": 3}, 0.0, seed=1).eval()
    load_head(tmp_path, "classifier", task.head)
    rows = CoreInputs(given["input_ids"], AttentionPattern(lengths=given["attention_mask"].sum(1)))
    assert torch.allclose(task(rows), one.logits, atol=1e-5)  # fine-tuning's model computes one state of a row
    with pytest.raises(ZooError, match="padding at the right"):
        ours(given["input_ids"], given["attention_mask"].flip(1))

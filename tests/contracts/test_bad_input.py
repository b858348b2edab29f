"""The table of bad inputs: each a message of one screen as the last thing printed, exit code 2, nothing lost."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from training import ROOT, Killed, arguments, interrupt_at, last_step, outcome, train, wait_for, write_corpus

import finetune.__main__ as finetune_main
import pretraining.__main__ as pretraining_main
from pretraining.training.checkpoint import find_checkpoint
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from pretraining.training.step import Trainer
from zoo import cli
from zoo.errors import run_command

BODIES = {
    "pretraining": pretraining_main.main,
    "finetune": lambda: run_command(finetune_main.main),
    "zoo": cli.main,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose corpus and stores the tests of this module share."""
    folder = tmp_path_factory.mktemp("bad")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def model(shared):
    """A finished run."""
    return shared.finished_run("bert")


@pytest.fixture
def refuse(monkeypatch, capfd):
    """Run a command as its command line would, and check the form of its refusal."""

    def run(command, argv, *words):
        monkeypatch.setattr(sys, "argv", [command, *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            BODIES[command]()
        printed = capfd.readouterr()
        return check_message(printed.err, left.value.code, *words)

    return run


def check_message(text, code, *words):
    """One message, the last thing printed, of one screen, with what a user needs."""
    assert code == 2, text
    assert text.count("\nerror: ") == 1, text
    assert "Traceback" not in text
    message = text.split("\nerror: ")[1]
    assert sum(1 + len(line) // 120 for line in message.splitlines()) <= 25, message
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"
    return message


# ------------------------------------------------------------------------------------------------ the corpus


def text(content):
    def make(folder):
        path = folder / "bad.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def named(name, content):
    def make(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def parquet(folder):
    path = folder / "bad.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"content": ["One. Two."], "title": ["T"]}), path)
    return path


def empty_folder(folder):
    path = folder / "nothing"
    path.mkdir()
    return path


GOOD = b"A first sentence. A second sentence.\n\nAnother text. It goes on."
SINGLES = "\n\n".join(f"This is the only sentence number {n}." for n in range(200))
ROWS = [{"text": "One thing. And another."}, {"text": "Two things. And others."}, {"body": "Three."}]
CORPORA = {
    # name: (family, how to make the file, words that the message must have)
    "empty file": ("bert", text(""), ["bad.txt is empty (0 bytes)"]),
    "no documents": ("bert", text("\n \n\t\n\n"), ["bad.txt", "no text"]),
    "empty folder": ("bert", empty_folder, ["nothing holds nothing readable", ".jsonl.gz", "it is empty"]),
    "no such file": ("bert", lambda folder: folder / "txet.txt", ["txet.txt does not exist"]),
    "single sentences, next": ("bert", text(SINGLES), ["is a single sentence", "FullSentences", "sentences: rule"]),
    "single sentences, order": ("albert", text(SINGLES), ["is a single sentence", "FullSentences", "sentences: rule"]),
    "invalid UTF-8": (
        "gpt",
        text(GOOD + b"\n\nline five \xff\xfe is broken."),
        ["bad.txt:5: invalid UTF-8", r"\xff\xfe"],
    ),
    "latin-1": ("gpt", text("Nichts.\nEin schöner Tag.".encode("latin-1")), ["bad.txt:2: invalid UTF-8", "iconv"]),
    "binary": ("gpt", text(b"text\0\x01\x02" * 50), ["bad.txt is binary", "UTF-8 text was expected"]),
    "binary far inside": ("gpt", text(GOOD * 400 + b"\n\nab\0\0cd. More."), ["bad.txt:", "NUL"]),
    "a program": ("gpt", text(b"\x7fELF" + b"\x02" * 100), ["is a program under the name of a .txt file"]),
    "gzip as text": ("gpt", text(gzip.compress(GOOD)), ["is gzip data under the name", "rename it to bad.txt.gz"]),
    "text as gzip": ("gpt", named("bad.txt.gz", GOOD), ["is not gzip data", "Rename it to bad.txt"]),
    "gzip cut short": ("gpt", named("b.txt.gz", gzip.compress(GOOD * 99)[:-20]), ["b.txt.gz", "damaged or cut short"]),
    "unknown extension": ("gpt", named("bad.docx", GOOD), ["bad.docx has an extension that no reader knows", ".txt"]),
    "missing field": (
        "gpt",
        named("bad.jsonl", b"\n".join(json.dumps(row).encode() for row in ROWS)),
        ["bad.jsonl:3: no field 'text' (corpus.text_field)", "'body'"],
    ),
    "not JSON": ("gpt", named("bad.jsonl", b'{"text": "One."}\n{"text": "Two.\n'), ["bad.jsonl:2", "JSON"]),
    "missing column": ("gpt", parquet, ["bad.parquet: no field 'text'", "'content', 'title'"]),
    "not Parquet": ("gpt", named("bad.parquet", GOOD), ["bad.parquet is not a Parquet file"]),
    "one document": (
        "bert",
        text("Only one document. It has two sentences. And three."),
        ["pretraining.layouts", "blank line"],
    ),
}


@pytest.mark.parametrize("name", CORPORA)
def test_bad_corpus(name, tmp_path, refuse):
    family, make, words = CORPORA[name]
    argv = arguments(tmp_path, family, **{"data.corpus.files": make(tmp_path)})
    refuse("pretraining", argv, *words)
    assert not list(tmp_path.rglob("checkpoints"))
    if "single sentences" not in name and name != "one document":  # those are found out by the layout
        refuse("zoo", ["prepare", *argv], *words)


# ---------------------------------------------------------------------------------------------- the settings

_CAUSAL = {
    "objectives.causal_lm.class_path": "pretraining.objectives.CausalLM",
    "tasks.pairs.objectives": "[masked_lm, next_sentence, causal_lm]",
}
_PAIRS_ON_BLOCKS = {
    "objectives.pairs.class_path": "pretraining.objectives.PairClassification",
    "model.pooler": "true",
    "tasks.blocks.objectives": "[causal_lm, pairs]",
}
_MASKS_ON_BLOCKS = {
    "objectives.masked.class_path": "pretraining.objectives.MaskedLM",
    "objectives.masked.init_args.select.class_path": "pretraining.masking.RandomTokens",
    "tasks.blocks.objectives": "[masked]",
    "data.tokenizer.special": "{pad: <pad>, unk: <unk>, cls: <s>}",
}
_UNITS = {
    "objectives.masked_lm.init_args.select.class_path": "pretraining.masking.KnowledgeUnits",
    "objectives.masked_lm.init_args.select.init_args.array": "phrase",
}
SETTINGS = {
    # name: (family, settings, words that the message must have)
    "mask rate": (
        "bert",
        {"objectives.masked_lm.init_args.select.init_args.rate": 1.5},
        ["init_args.rate = 1.5", "from 0 to 1"],
    ),
    "heads": ("bert", {"model.num_attention_heads": 3}, ["= 3 does not divide", "= 32", "1, 2, 4, 8, 16, 32"]),
    "unknown key": ("bert", {"train.bacth_size": 8}, ["'train.bacth_size'", "Did you mean 'batch_size'?"]),
    "unknown argument": (
        "bert",
        {"objectives.masked_lm.init_args.select.init_args.rat": 0.1},
        ["select.init_args.rat'", "Did you mean 'rate'?"],
    ),
    "wrong type": ("bert", {"train.steps": "many"}, ["train.steps", "many"]),
    "two budgets": ("gpt", {"train.tokens": 1000}, ["exactly one budget", "found steps and tokens"]),
    "no module": ("gpt", {"tasks.blocks.layout.class_path": "my_layouts.Blocks"}, ["no module 'my_layouts'"]),
    "no class": ("gpt", {"tasks.blocks.layout.class_path": "pretraining.layouts.Block"}, ["mean 'Blocks'?"]),
    "batch": ("gpt", {"train.micro_batch_size": 3}, ["= 8 is not a multiple of train.micro_batch_size = 3", "6 would"]),
    "too long": (
        "gpt",
        {"data.sequence_length": 600, "model.max_position_embeddings": 512},
        ["data.sequence_length = 600", "512 positions", "model.max_position_embeddings"],
    ),
    "unknown objective": ("bert", {"tasks.pairs.objectives": "[masked_ml]"}, ["'masked_ml'", "mean 'masked_lm'?"]),
    "no labels": ("gpt", _PAIRS_ON_BLOCKS, ["'pairs' needs row_labels", "Blocks", "'blocks' does not provide"]),
    "no array": ("bert", _UNITS, ["'masked_lm' needs phrase", "'pairs' does not", "data.corpus.annotations.phrase"]),
    "no pooler": ("bert", {"model.pooler": "false"}, ["no pooler", "model.pooler: true"]),
    "no mask token": ("gpt", _MASKS_ON_BLOCKS, ["no mask token", "CausalLM"]),
    "contradiction": (
        "bert",
        _CAUSAL,
        ["task 'pairs' need different attention patterns", "masked_lm", "causal_lm", "stages"],
    ),
    "vocabulary": (
        "bert",
        {"model.vocab_size": 500},
        ["tokenizer has 600 tokens", "model.vocab_size is 500", "data.tokenizer.vocab_size"],
    ),
    "validation only": ("gpt", {"train.batch_size": 0}, ["train.batch_size = 0", "at least 1"]),
    "divergence": ("gpt", {"train.lr": 1e30, "train.max_grad_norm": 0}, ["the run diverged", "train.lr (now 1e+30)"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings(name, place, tmp_path, refuse):
    family, settings, words = SETTINGS[name]
    refuse("pretraining", arguments(place, family, **{**settings, "output": tmp_path}), *words)
    assert not list(tmp_path.rglob("checkpoints"))
    if name != "divergence":  # which has a log
        assert not list(tmp_path.iterdir())


def test_a_batch_that_cannot_be_divided_is_told_before_the_text_is_prepared(place, tmp_path, refuse):
    more = {"train.micro_batch_size": 3, "data.stores": tmp_path / "stores", "output": tmp_path}
    refuse("pretraining", arguments(place, "gpt", **more), "not a multiple")
    assert not (tmp_path / "stores").exists()


def test_rows_of_held_out_text_alone_can_be_lacking(tmp_path, refuse):
    """A rare name stands in one document, which is not among those that are held out."""
    texts = [f"This is text number {n} of many. It says nothing of names." for n in range(60)]
    texts[30] += " The town of Zorblax is rare."
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    (tmp_path / "names.txt").write_text("Zorblax\n")
    more = {
        "data.corpus.annotations.entity.class_path": "pretraining.annotations.Lexicon",
        "data.corpus.annotations.entity.init_args.files": tmp_path / "names.txt",
        "tasks.blocks.layout.class_path": "pretraining.layouts.MinimumMarked",
        "tasks.blocks.layout.init_args.array": "entity",
        "tasks.blocks.layout.init_args.count": 1,
        "tasks.blocks.layout.init_args.layout.class_path": "pretraining.layouts.Blocks",
        "train.batch_size": 1,
        "data.sequence_length": 16,
        "data.tokenizer.vocab_size": 300,
    }
    refuse("pretraining", arguments(tmp_path, "gpt", **more), "held out for validation", "--data.validation_tokens 0")


def test_missing_config_file(refuse):
    refuse("pretraining", ["--config", "bert-tyni"], "bert-tyni", "Did you mean 'bert-tiny'?")
    refuse("pretraining", ["--config", "no/such/file.yaml"], "no/such/file.yaml")
    refuse("pretraining", [], "--config")


@pytest.mark.parametrize("command", [["pretraining"], ["zoo", "prepare"], ["zoo", "show"]])
@pytest.mark.parametrize("more", [[], ["--train.steps", "3"]])
def test_an_overlay_without_its_base(command, more, refuse):
    text = ["It is a town."] if "show" in command else []
    name = "pretrain_tasks/dialogue"
    refuse(
        command[0],
        [*command[1:], *text, "--config", name, *more],
        f"{name}: no name, model, data",
        f"BASE+{name}",
    )


def test_several_configs_where_one_is_needed(refuse):
    refuse("pretraining", ["--config", "bert-tiny,gpt-tiny"], "names several runs", "bert-tiny+gpt-tiny")


def test_damaged_yaml(tmp_path, refuse):
    (tmp_path / "mine.yaml").write_text("name: x\ntrain: {lr: 1\n")
    refuse("pretraining", ["--config", tmp_path / "mine.yaml"], "mine.yaml", "line")


# ------------------------------------------------------------------------------------------- the run's folder


def test_a_folder_of_another_run(shared, model, refuse):
    argv = shared.settings("bert", **{"train.lr": 0.5, "run_folder": model})
    before = outcome(model)
    refuse("pretraining", argv, f"{model} holds a run with other settings", "train.lr: 0.001 -> 0.5", "--run_folder")
    assert outcome(model) == before


def test_a_checkpoint_of_another_model(place, tmp_path, monkeypatch, refuse):
    """Checkpoints copied in by hand: named tensor by tensor, and left as they are."""
    own = [*arguments(place, "gpt"), "--output", str(tmp_path)]
    other = [*arguments(place, "gpt", **{"model.hidden_size": 64}), "--output", str(tmp_path)]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 5)
        train(other)
    folder = run_folder_of(load_pretrain_config(own))
    shutil.copytree(run_folder_of(load_pretrain_config(other)) / "checkpoints", folder / "checkpoints")
    refuse("pretraining", own, "step-000000003", "does not fit this model", "has shape")
    assert find_checkpoint(folder) is not None


@pytest.mark.slow
def test_a_second_writer(place, warm, tmp_path, refuse):
    argv = [*arguments(place, "gpt", steps=2000), "--output", str(tmp_path)]
    folder = run_folder_of(load_pretrain_config(argv))
    first = warm.start("pretraining", *argv)
    try:
        wait_for(lambda: last_step(folder) >= 3, process=first)
        refuse("pretraining", argv, f"being written by process {first.pid}", "one writer", "--output")
        reached = last_step(folder)
        wait_for(lambda: last_step(folder) > reached, process=first)  # the first one goes on undisturbed
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 143


# ------------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of some bytes; needs root."""
    mounted = []

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_too_little_room_for_the_checkpoints_is_told_before_the_first_step(place, tmp_path, monkeypatch, refuse):
    room = SimpleNamespace(total=10**9, used=10**9 - 10**5, free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
    argv = arguments(place, "gpt", **{"output": tmp_path})
    train_store = [*argv, "--data.stores", str(place / "stores")]
    refuse("pretraining", train_store, "MB are needed", "checkpoints (train.keep)", "0.1 MB are free", "--output")
    assert not list(tmp_path.rglob("checkpoints"))


def test_too_little_room_for_the_store(tmp_path, small_disk, refuse):
    write_corpus(tmp_path)
    argv = arguments(tmp_path, "gpt", **{"data.stores": small_disk("64k")})
    refuse("pretraining", argv, "MB are needed to prepare this corpus", "MB are free", "another disk")


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(place, tmp_path, small_disk, monkeypatch, refuse):
    disk = small_disk("12m")
    argv = [*arguments(place, "gpt", **{"train.save_every": 4}), "--output", str(disk)]
    whole = outcome(train([*arguments(place, "gpt", **{"train.save_every": 4}), "--output", str(tmp_path)]))
    original = Trainer.train_step

    def fill(self, stop):
        if self.state.counters.step == 7:
            with (disk / "filler").open("wb", buffering=0) as stream:
                while True:
                    try:
                        stream.write(b"\0" * 4096)
                    except OSError:
                        break
                stream.truncate(stream.tell() - 300_000)  # room for half a checkpoint
        return original(self, stop)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fill)
        refuse("pretraining", argv, "the disk is full", "checkpoints/.writing-000000008", "same command again")
    folder = run_folder_of(load_pretrain_config(argv))
    assert find_checkpoint(folder).name == "step-000000004"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000004"]
    (disk / "filler").unlink()
    assert outcome(train(argv)) == whole


# ------------------------------------------------------------------------------- fine-tuning and scoring


def cola(folder, rows):
    place = folder / "CoLA"
    place.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (place / name).write_text("".join(f"gj04\t{label}\t\t{sentence}\n" for label, sentence in rows))
    return folder


SENTENCES = [("1", "The cat sat down."), ("0", "Cat the down sat."), ("1", "A dog barks.")]


def tuned(model, data, task="cola"):
    return ["--model", model, "--tasks", task, "--seeds", 1, "--data", data, "--threads", 1]


def test_bad_tasks(model, tmp_path, refuse):
    data = cola(tmp_path, [*SENTENCES, ("2", "An unknown label.")])
    refuse("finetune", tuned(model, data), "CoLA/train.tsv, line 4: unknown label '2'", "known: 0, 1")
    refuse("finetune", tuned(model, data, "coal"), "unknown task 'coal'", "Did you mean 'cola'?")
    refuse("finetune", tuned(model, tmp_path / "none"), "none is not a folder")
    shutil.rmtree(tmp_path / "CoLA")
    cola(tmp_path, SENTENCES)
    (tmp_path / "CoLA" / "dev.tsv").write_bytes(b"gj04\t1\t\tCaf\xe9.\n")
    refuse("finetune", tuned(model, data), "invalid UTF-8")
    (tmp_path / "CoLA" / "dev.tsv").unlink()
    refuse("finetune", tuned(model, data), "no dev.*", ".csv")
    assert not list(model.glob("finetune-*"))


def damaged(model, folder, how):
    copy = folder / "model"
    shutil.copytree(model, copy)
    how(copy)
    return copy


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_core(folder, **facts):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "core": {**content["core"], **facts}}))


def wider(folder):
    change_core(folder, intermediate_size=128)


def smaller_vocabulary(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors = {k: v[:500].clone() if v.shape[0] == 600 else v for k, v in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    change_core(folder, vocab_size=500)


MODELS = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors does not exist"]),
    "weights cut short": (cut_weights, ["model.safetensors is not a readable safetensors file", "complete?"]),
    "no facts": (lambda f: (f / "config.json").unlink(), ["config.json does not exist"]),
    "other facts": (wider, ["model.safetensors does not fit this model", "has shape"]),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json: broken JSON"]),
    "unknown key": (lambda f: change_core(f, hiden_size=3), ["'hiden_size'", "Did you mean 'hidden_size'?"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "vocabulary": (smaller_vocabulary, ["tokenizer", "600", "500"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_damaged_model_folder(name, model, tmp_path, refuse):
    how, words = MODELS[name]
    copy = damaged(model, tmp_path, how)
    refuse("finetune", tuned(copy, cola(tmp_path, SENTENCES)), *words)
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "a.jsonl").write_text('{"sentence_good": "A dog barks.", "sentence_bad": "Dog a barks."}\n')
    refuse("zoo", ["score", copy, "--pairs", pairs], *words)


# ------------------------------------------------------------------------------------------- real processes


def shell(*argv):
    process = subprocess.run(
        [sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    return process.stderr, process.returncode


@pytest.mark.slow
def test_the_command_lines_themselves(place, tmp_path):
    argv = arguments(place, "gpt", **{"output": tmp_path})
    check_message(*shell("-m", "pretraining", *argv, "--train.lrr", 1), "unknown key 'train.lrr'", "'lr'")
    check_message(*shell("-m", "finetune", "--model", tmp_path / "none", "--tasks", "cola"), "none is not a folder")
    check_message(*shell("-m", "zoo.cli", "scoer"), "zoo has no command 'scoer'", "'score'")


@pytest.mark.slow
def test_a_long_line_is_prepared_in_bounded_memory(tmp_path):
    """Five times as much text in one line, 20 pieces long, needs hardly more than text in lines of ordinary length.

    A line that is read whole needs 12 bytes for each of its own (61 MB here); 4 is the bound between that and nothing.
    """
    sentence = b"This is sentence %d of a very long line, and it goes on. "
    content = b"".join(sentence % (n % 1000) for n in range(90_000))
    assert len(content) > 5 * 10**6
    peaks = []
    for name, data in (("long", content), ("short", content[: 10**6].replace(b"on. This", b"on.\nThis"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_bytes(data)
        argv = arguments(tmp_path / name, "gpt", **{"data.processes": 2, "data.tokenizer.kind": "word"})
        code = (
            "import resource, sys; from pretraining.corpus import chunks; chunks.CHUNK = 2**18; "
            "from pretraining.tools.configs import prepare_command; prepare_command(sys.argv[1:]); "
            "print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
        )
        process = subprocess.run(
            [sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
        )
        peaks.append(int(process.stdout.split()[-1]))
    assert 1024 * (peaks[0] - peaks[1]) < 4 * len(content), peaks

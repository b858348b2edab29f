"""Compiled layers: one graph for all of them, the course of an uncompiled run, and no failure that ends a run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from entity_toys import make_store, make_table
from places import ROOT
from training import (
    Killed,
    arguments,
    assert_same_course,
    finish,
    interrupt_at,
    log_lines,
    needs_compiler,
    outcome,
    train,
    write_corpus,
)

from pretraining.training import run as training_run
from pretraining.training.compiled import CompiledCore
from zoo.config import CoreConfig
from zoo.core.build import build_core
from zoo.dropout import row_keys
from zoo.inputs import AttentionPattern, CoreInputs

STEPS = 24
LLAMA_BLOCK = {
    "model.norm": "rms",
    "model.norm_position": "pre",
    "model.position_type": "rotary",
    "model.glu": "true",
    "model.num_key_value_heads": 1,
    "model.num_attention_heads": 2,
}
MEMORY = {"model.num_attention_heads": 2, "train.batch_size": 4}
RUNS = {
    "bert": ("bert", {"model.num_attention_heads": 2}, 2),
    "recomputed": ("bert", {"train.gradient_checkpointing": "true", "train.micro_batch_size": 4}, 2),
    "shorter rows": ("roberta", {}, 2),
    "shared layers": ("albert", {}, 2),
    "causal": ("gpt", {}, 1),
    "llama block": ("gpt", LLAMA_BLOCK, 1),
    "without dropout": ("bert", {"model.hidden_dropout_prob": 0, "model.attention_probs_dropout_prob": 0}, 3),
    "memory": ("transformer-xl", MEMORY, 1),
    "two streams": ("xlnet", {**MEMORY, "model.reuse_len": 24}, 2),
    "several tasks": ("ernie-2", {}, 3),
    "entities": ("ernie-thu", {"model.fusion.layer_types": "[plain, full, full]", "model.num_attention_heads": 2}, 3),
}
"""By what is special: family, settings, and the most graphs a run may need. A last layer of few states has its own."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    write_corpus(folder)
    return folder


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


@pytest.fixture
def watch(monkeypatch):
    """Let runs compile with a backend that needs no compiler; their compiled cores and notes come in the two lists."""

    def start(backend="eager"):
        cores, notes = [], []

        class Watched(CompiledCore):
            def __init__(self, core, length, note):
                super().__init__(core, length, notes.append, backend)
                cores.append(self)

        monkeypatch.setattr(training_run, "CompiledCore", Watched)
        return cores, notes

    return start


def settings(place, family, steps, **more):
    values = {
        "model.num_hidden_layers": 3,
        "train.validate_every": 0,
        "data.validation_tokens": 0,
        "train.save_every": 500,
    }
    if family == "ernie-thu":
        where = place / "entities"
        where.mkdir(exist_ok=True)
        if not (where / "table").exists():
            make_table(where / "table", width=100)
            make_store(where)
        values |= {
            "data.corpus.files": make_store(where),
            "objectives.entities.init_args.entities": where / "table",
        }
    return arguments(place, family, steps, **{**values, **more})


def losses(folder):
    return [line["loss"] for line in log_lines(folder) if "loss" in line]


def assert_same_losses(one, other):
    """To rounding: padded rows add the same numbers in another order, and single precision has 24 bits."""
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)


SLOW = {"recomputed", "shared layers", "shorter rows", "without dropout"}  # their core and objective have another row


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in RUNS])
def test_all_layers_of_a_run_share_a_few_graphs_and_it_takes_its_course(place, tmp_path, watch, name):
    family, more, most = RUNS[name]
    cores, notes = watch()
    plain, compiled = (
        train(settings(place, family, STEPS, **{**more, "train.compile": choice, "output": tmp_path / choice}))
        for choice in ("no", "yes")
    )
    (core,) = cores
    assert not core.failed, notes
    assert 1 <= core.compilations <= most <= 3
    assert len(notes) == core.compilations
    assert all(note.startswith("a layer was compiled in") for note in notes)
    assert_same_losses(compiled, plain)


def test_a_run_that_is_cut_short_goes_on_bit_for_bit(place, tmp_path, watch, monkeypatch):
    watch("aot_eager")
    argv = settings(place, "roberta", 9, **{"train.save_every": 3, "train.compile": "yes"})
    whole = outcome(train([*argv, "--output", str(tmp_path / "whole")]))
    argv += ["--output", str(tmp_path / "cut")]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt_at(patch, 7)
        train(argv)
    torch._dynamo.reset()  # as in a new process
    assert outcome(train(argv)) == whole


def broken(graph, inputs):
    raise RuntimeError("the compiler is broken\nin many lines")


def broken_backwards(graph, inputs):
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda graph, _: graph, bw_compiler=broken)(graph, inputs)


@pytest.mark.parametrize("backend", [broken, broken_backwards])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_a_compiler_that_fails_costs_a_line(place, tmp_path, watch, backend, recompute):
    cores, notes = watch(backend)
    more = {"train.gradient_checkpointing": recompute}
    plain, compiled = (
        train(settings(place, "bert", 3, **{**more, "train.compile": choice, "output": tmp_path / choice}))
        for choice in ("no", "yes")
    )
    (note,) = notes
    assert cores[0].failed
    assert note.startswith("note: train.compile: the layers run uncompiled: ")
    assert "the compiler is broken" in note
    assert "\n" not in note
    assert_same_losses(compiled, plain)


@pytest.mark.slow
@needs_compiler
def test_without_a_compiler_a_run_says_what_is_missing(place, tmp_path):
    argv = settings(place, "gpt", 2, **{"train.compile": "yes", "output": tmp_path})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CXX": "/nowhere/g++"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-m", "pretraining", *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "train.compile" in line or "compiled in" in line]
    assert len(lines) == 1
    assert "no C++ compiler was found that works; install g++" in lines[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_beside_code_of_torch_for_a_part_of_the_processor_layers_run_uncompiled(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    notes = []
    compiled = CompiledCore(tiny(), 16, notes.append)
    assert compiled.failed
    assert "ATEN_CPU_CAPABILITY is set" in notes[0]


def test_a_recurrent_core_says_why_it_is_not_compiled(place, tmp_path, capsys):
    from pretraining.training.load_config import load_pretrain_config
    from pretraining.training.pretrain import pretrain

    more = {"data.tokenizer.vocab_size": 3000, "objectives.bidirectional_lm.init_args.outputs": 400}
    argv = arguments(place, "elmo", 2, **{**more, "train.compile": "yes", "output": tmp_path})
    pretrain(load_pretrain_config(argv), show=True)
    assert "the layers run uncompiled: a recurrent core reads token by token" in capsys.readouterr().err


def tiny(**more):
    values = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return build_core(CoreConfig(**{**values, "max_position_embeddings": 64, **more})).train()


def rows(length, **more):
    ids = torch.randint(5, 40, (3, length), generator=torch.Generator().manual_seed(length))
    return CoreInputs(ids, dropout_keys=row_keys(1, 2, range(3)), **more)


PATTERNS = {
    "all": AttentionPattern(),
    "lengths": AttentionPattern(lengths=torch.tensor([9, 12, 13])),
    "causal": AttentionPattern(causal=True),
    "documents": AttentionPattern(causal=True, documents=torch.arange(13).expand(3, -1) // 5),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_padded_rows_give_the_states_and_gradients_of_the_rows(pattern):
    core = tiny()
    compiled = CompiledCore(core, 16, [].append, "eager")
    inputs = rows(13, attention_pattern=PATTERNS[pattern], token_type_ids=torch.arange(13).expand(3, -1) % 2)
    directions, found = torch.randn(3, 13, 16, generator=torch.Generator().manual_seed(0)), []
    for run in (core, compiled):
        core.zero_grad()
        output = run(inputs)
        (output.last_hidden_state * directions).sum().add(output.pooler_output.sum()).backward()
        gradients = [p.grad.clone() for p in core.parameters()]
        found.append([output.last_hidden_state.detach(), output.pooler_output.detach(), *gradients])
    assert compiled.compilations == 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_much_shorter_rows_and_what_is_not_trained_run_uncompiled():
    core = tiny()
    compiled = CompiledCore(core, 16, [].append, broken)
    dense = AttentionPattern(dense=torch.ones(1, 13, 13, dtype=torch.bool))
    for inputs in (rows(11), rows(13, attention_pattern=dense)):
        assert torch.equal(compiled(inputs).last_hidden_state, core(inputs).last_hidden_state)
    with torch.no_grad():
        compiled(rows(16))
    core.eval()
    compiled(rows(16))
    assert not compiled.failed


@pytest.mark.slow
@needs_compiler
def test_compiled_code_of_two_streams_takes_the_same_course(place, tmp_path, watch):
    """With dropout; a wrong compiled backward pass would show from the second step on."""
    family, more, _ = RUNS["two streams"]
    cores, notes = watch("inductor")
    plain, compiled = (
        train(settings(place, family, 8, **{**more, "train.lr": 1e-2, "train.compile": c, "output": tmp_path / c}))
        for c in ("no", "yes")
    )
    assert not cores[0].failed, notes
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    assert abs(losses(plain)[0] - losses(plain)[-1]) > 0.05


@pytest.mark.slow
@needs_compiler
def test_compiled_code_takes_the_same_course_in_one_process_and_in_two(place, warm, tmp_path):
    """With dropout, to the held-out losses; a wrong compiled backward pass would show from the second step on."""
    more = {"train.lr": 1e-2, "train.micro_batch_size": 4, "train.validate_every": 2, "data.validation_tokens": 1500}
    argv = settings(place, "bert", 4, **more)
    plain, one, two = ([*argv, "--run_folder", str(tmp_path / name)] for name in ("plain", "one", "two"))
    train([*plain, "--train.compile", "no"])
    said = finish(warm.start("pretraining", *one, "--train.compile", "yes"), 600)  # compilers beside other processes
    said += finish(warm.launch([*two, "--train.compile", "yes"], processes=2), 600)
    assert said.count("a layer was compiled in") == 4  # the main processes', a last layer's own graph among them
    assert "uncompiled" not in said
    assert_same_course(tmp_path / "one", tmp_path / "two")
    for expected, found in zip(log_lines(tmp_path / "plain"), log_lines(tmp_path / "one"), strict=True):
        for name, value in (expected.get("terms") or expected["validation"]["terms"]).items():
            again = (found.get("terms") or found["validation"]["terms"])[name]
            both = (value, again) if isinstance(value, float) else (value["loss"], again["loss"])
            assert both[1] == pytest.approx(both[0], rel=1e-4)
    assert abs(losses(tmp_path / "plain")[0] - losses(tmp_path / "plain")[-1]) > 0.05

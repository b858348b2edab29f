"""Every family against stock transformers, from random weights, offline: states, logits, losses, gradients.

``python -m pytest tests/zoo/weights/test_parity.py --write-docs`` writes docs/parity.md.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
import transformers
from elmo_files import FIXTURE, arrays, needs_fixture, token_vectors, top_layers
from families import GRID
from places import ROOT
from stock import (
    STD,
    Case,
    Ours,
    bare_cases,
    both_scores,
    cases,
    draw_labels,
    make_batch,
    make_stock,
    our_loss,
    read_stock,
    stock_inputs,
    stock_labels,
    stored,
    takes,
    under_their_names,
    unread_copies,
)
from torch import Tensor

from zoo.attention.context import KeyValueCache
from zoo.core.transformer import Transformer
from zoo.model_folder import load_core
from zoo.weights.commands import export_folder, import_folder
from zoo.weights.read import all_families

PAGE = ROOT / "docs" / "parity.md"
FP32 = 1e-5  # absolute for states, logits and losses; of a tensor's gradients relative to the largest, or to 0.1
BF16 = 2.0  # our error over theirs, both measured against the same weights in fp32
COLUMNS = {
    "import": 0,
    "export": 0,
    "states": FP32,
    "logits": FP32,
    "loss": FP32,
    "gradients": FP32,
    "bf16 states": BF16,
    "bf16 logits": BF16,
}
measured: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)  # the largest by class and column


pytestmark = pytest.mark.usefixtures("one_thread")


def by_id(case: Case) -> str:
    return case.id


def record(case: Case, column: str, value: float) -> None:
    row = measured[case.model_type, case.architecture]
    row[column] = max(row.get(column, 0.0), value)
    assert value <= COLUMNS[column], column


def distance(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.detach().float() - theirs.detach().float()).abs().max())


def run_stock(model, **given) -> tuple[dict, dict]:
    """Outputs of their base model, and of the whole."""
    base: dict[str, Tensor] = {}
    inside = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
    hook = inside.register_forward_hook(lambda module, args, output: base.update(output.items()))
    whole = dict(model(**given).items())
    hook.remove()
    return base, whole


def state_distance(core: Transformer, batch, base: dict, whole: dict) -> float:
    """Largest difference of all layers' states, the pooled one, and attention probabilities, at real positions."""
    output = core(batch.inputs, output_hidden_states=True)
    written = core(batch.inputs, output_attentions=True)
    real = batch.real
    found = [distance(output.last_hidden_state[real], base["last_hidden_state"][real])]
    side = "" if output.encoder_last_hidden_state is None else "decoder_"
    pairs = [(output.hidden_states, whole[f"{side}hidden_states"])]
    probabilities = [(written.attentions, whole[f"{side}attentions"])]
    if side:
        found.append(distance(output.encoder_last_hidden_state[real], whole["encoder_last_hidden_state"][real]))
        pairs.append((output.encoder_hidden_states, whole["encoder_hidden_states"]))
        probabilities += [(getattr(written, n), whole[n]) for n in ("encoder_attentions", "cross_attentions")]
    for ours, theirs in pairs:
        found += [distance(a[real], b[real]) for a, b in zip(ours, theirs, strict=True)]
    found += [distance(written.last_hidden_state[real], output.last_hidden_state[real])]
    for ours, theirs in probabilities:
        for a, b in zip(ours, theirs, strict=True):
            found.append(distance(a.transpose(1, 2)[real], b.transpose(1, 2)[real]))
    assert (output.pooler_output is None) == (base.get("pooler_output") is None)
    if output.pooler_output is not None:
        found.append(distance(output.pooler_output, base["pooler_output"]))
    return max(found)


# ---- fp32 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(), ids=by_id)
def test_states_logits_loss_and_gradients(case):
    model = make_stock(case)
    ours = read_stock(model)
    spans = any(head["kind"] == "span" for head in ours.metadata.heads.values())  # their softmax runs over padding too
    batch = make_batch(ours.metadata, case.seed, case.model_type, padded=not spans)
    count_tensors(case, model, ours)
    labels = draw_labels(ours, batch, case.seed)
    given = {**stock_inputs(batch, ours.metadata), **(stock_labels(model, labels) if labels else {})}
    base, whole = run_stock(model, **given, output_hidden_states=True, output_attentions=True)
    record(case, "states", state_distance(ours.core, batch, base, whole))
    output = ours.core(batch.inputs)
    pairs = list(both_scores(ours, output, whole, batch))
    assert len(pairs) == sum(name.endswith("logits") for name in whole)
    for mine, expected in pairs:
        record(case, "logits", distance(mine, expected))
    if labels:
        loss, expected_loss = our_loss(ours, output, batch, labels), whole["loss"]
        record(case, "loss", distance(loss, expected_loss))
    else:
        loss, expected_loss = (weighted_sum(o, batch.real) for o in (output._asdict(), base))
    loss.backward()
    expected_loss.backward()
    record(case, "gradients", gradient_distance(case, model, ours))


def count_tensors(case: Case, model, ours: Ours) -> None:
    """Tensors that were not read, and tensors that come back changed."""
    theirs, back = stored(model), under_their_names(ours, ours.state_dict())
    record(case, "import", len(set(theirs) - set(back)))
    unread = unread_copies(model, case.family)
    changed = [name for name in theirs if name not in unread and not torch.equal(theirs[name], back[name])]
    record(case, "export", len(changed) + len(set(back) - set(theirs)))


def weighted_sum(output: dict, real: Tensor) -> Tensor:
    """A loss for models without a head: all real states and the pooled ones, each with a weight of its own."""
    total = torch.zeros(())
    for value in (output["last_hidden_state"][real], output.get("pooler_output")):
        if value is not None:
            total = total + (value * torch.arange(value.numel()).sin().reshape(value.shape)).sum()
    return total / 10


def gradient_distance(case: Case, model, ours: Ours) -> float:
    """Largest difference in any tensor, ours under their names; a tied one has the sum of its uses on both sides."""
    gradients = {name: p.new_zeros(p.shape) if p.grad is None else p.grad for name, p in ours.named_parameters()}
    theirs = dict(model.named_parameters(remove_duplicate=False))
    unread, found = unread_copies(model, case.family), []
    for name, mine in under_their_names(ours, gradients).items():
        if name not in theirs:  # a buffer there, which is not trained
            continue
        expected = theirs[name].grad
        if name in unread:
            assert expected is None
            continue
        expected = torch.zeros_like(mine) if expected is None else expected
        found.append(distance(mine, expected) / max(0.1, float(expected.abs().max())))
    return max(found)


@pytest.mark.parametrize("kind", ["positions", "other"])
@pytest.mark.parametrize("case", [case for case in bare_cases() if takes(case, "position_ids")], ids=by_id)
def test_given_positions_and_padding_at_the_other_side(case, kind):
    model = make_stock(case)
    ours = read_stock(model)
    batch = make_batch(ours.metadata, case.seed, case.model_type, **{kind: True})
    given = stock_inputs(batch, ours.metadata)
    with torch.no_grad():
        base, whole = run_stock(model, **given, output_hidden_states=True, output_attentions=True)
        if not batch.real[:, 0].all():  # the first position, which is pooled, is padding there
            base = {"last_hidden_state": base["last_hidden_state"]}
            ours.core.pooler = None
        record(case, "states", state_distance(ours.core, batch, base, whole))


@pytest.mark.parametrize("case", bare_cases(causal=True), ids=by_id)
def test_a_cache_of_keys_and_values_changes_nothing(case):
    model = make_stock(case)
    ours = read_stock(model)
    batch = make_batch(ours.metadata, case.seed, case.model_type, padded=False)
    cache, states, start = KeyValueCache(), [], 0
    with torch.no_grad():
        base, _ = run_stock(model, **stock_inputs(batch, ours.metadata))
        for size in (1, 4, 1, 1, batch.real.shape[1] - 7):
            piece = batch.inputs._replace(input_ids=batch.inputs.input_ids[:, start : start + size])
            states.append(ours.core(piece, state=cache).last_hidden_state)
            start += size
    record(case, "states", distance(torch.cat(states, 1), base["last_hidden_state"]))


# ---- bf16 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [a for family in GRID for a in all_families()[family].architectures])
def test_bf16_is_as_close_to_fp32_as_theirs(architecture):
    """Root mean squares over a class's whole grid, since a head has but few logits."""
    squares: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for case in (case for case in cases() if case.architecture == architecture):
        low = make_stock(case, torch.bfloat16, attention=None)
        high = make_stock(case, torch.float32, attention=None)
        high.load_state_dict(low.state_dict())  # the same rounded weights: what remains is arithmetic
        ours = read_stock(low)
        ours = ours.to(torch.bfloat16)
        batch = make_batch(ours.metadata, case.seed, case.model_type)
        with torch.no_grad():
            (exact, exact_whole), (rounded, rounded_whole) = (
                run_stock(m, **stock_inputs(batch, ours.metadata)) for m in (high, low)
            )
            output = ours.core(batch.inputs)
        states = [o["last_hidden_state"][batch.real] for o in (output._asdict(), rounded, exact)]
        squares["bf16 states"].append(relative_errors(*states))
        scores = [both_scores(ours, output, whole, batch) for whole in (rounded_whole, exact_whole)]
        for (mine, theirs), (_, reference) in zip(*scores, strict=True):
            squares["bf16 logits"].append(relative_errors(mine, theirs, reference))
    for column, errors in squares.items():
        mine, theirs = torch.tensor(errors).square().mean(0).sqrt().tolist()
        assert theirs < 0.1
        record(case, column, mine / theirs)


def relative_errors(ours: Tensor, theirs: Tensor, exact: Tensor) -> tuple[float, float]:
    """Root mean square of our error and of theirs, as parts of the values'."""
    assert ours.dtype == theirs.dtype == torch.bfloat16
    scale = exact.square().mean().sqrt()
    return tuple(float((x.detach().float() - exact.detach()).square().mean().sqrt() / scale) for x in (ours, theirs))


# ---- the comparison can fail ----------------------------------------------------------------------------------------


def first_cases() -> list[Case]:
    """One for each family: its first point under its first class, the one with the most heads."""
    return [next(case for case in cases() if case.model_type == model_type) for model_type in GRID]


def worst_distance(model, ours: Ours, case: Case) -> float:
    """Of states and logits."""
    batch = make_batch(ours.metadata, case.seed, case.model_type)
    with torch.no_grad():
        given = stock_inputs(batch, ours.metadata)
        base, whole = run_stock(model, **given, output_hidden_states=True, output_attentions=True)
        found = [state_distance(ours.core, batch, base, whole)]
        output = ours.core(batch.inputs)
        found += [distance(*pair) for pair in both_scores(ours, output, whole, batch)]
    return max(found)


@pytest.mark.parametrize("case", first_cases(), ids=by_id)
def test_every_tensor_matters_to_the_comparison(case):
    """With the sign of any one tensor changed, it fails by a factor of ten at least."""
    model = make_stock(case)
    ours = read_stock(model)
    right = {name: value.clone() for name, value in ours.state_dict().items()}
    free = ["relative.start"]  # of the second stream, which is not run here
    if ours.metadata.config.position_type != "rotary":  # softmax cancels what is added to all scores of a query
        free.append("attention.key.bias")
    assert worst_distance(model, ours, case) <= FP32
    for name, value in right.items():
        ours.load_state_dict({**right, name: -value})
        if not name.endswith(tuple(free)):
            assert worst_distance(model, ours, case) > 10 * FP32, name


def transposed(state: dict, ids: Tensor) -> dict:
    name = "core.layers.0.attention.query.weight"
    return {name: state[name].t()}


def two_rows_exchanged(state: dict, ids: Tensor) -> dict:
    name, pair = "core.embeddings.word_embeddings.weight", ids.unique()[-2:]
    value = state[name].clone()
    value[pair] = value[pair.flip(0)]
    return {name: value}


def exchanged(one: str, other: str):
    def change(state: dict, ids: Tensor) -> dict:
        there = {name.replace(one, other): value for name, value in state.items() if one in name}
        return there | {name.replace(other, one): value for name, value in state.items() if other in name}

    return change


MISTAKES = {
    "transposed": transposed,
    "rows": two_rows_exchanged,
    "query and key": exchanged("attention.query", "attention.key"),
    "norms": exchanged(".attention_norm.", ".output_norm."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("case", first_cases(), ids=by_id)
def test_a_mistake_in_the_table_would_show(case, mistake):
    model = make_stock(case)
    ours = read_stock(model)
    right = {name: value.clone() for name, value in ours.state_dict().items()}
    ids = make_batch(ours.metadata, case.seed, case.model_type).inputs.input_ids
    ours.load_state_dict({**right, **MISTAKES[mistake](right, ids)})
    assert worst_distance(model, ours, case) > 10 * FP32


# ---- ELMo, which transformers has not ------------------------------------------------------------------------------

ELMO_COLUMNS = {"import": 0, "export": 0, "states": FP32, "token vectors": FP32}
ELMO_ROW = ["ELMo", "allennlp's test fixture", "10 x 3 sentences"]


@needs_fixture
def test_elmo_gives_the_vectors_that_allennlp_expects(tmp_path):
    """Brought in and written again by the commands; states of the top layer, carried from batch to batch."""
    pytest.importorskip("h5py")
    import_folder(FIXTURE, tmp_path / "model")
    export_folder(tmp_path / "model", tmp_path / "theirs")
    core, _ = load_core(tmp_path / "model")
    stored, back = arrays(FIXTURE / "lm_weights.hdf5"), arrays(tmp_path / "theirs" / "weights.hdf5")
    pairs = list(top_layers(core))
    assert len(pairs) == 30
    figures = {
        "import": float(len(set(stored) - set(back))),
        "export": float(sum(not np.array_equal(values, back.get(name)) for name, values in stored.items())),
        "states": max(float(np.abs(found - expected).max()) for found, expected in pairs),
        "token vectors": float(np.abs(np.subtract(*token_vectors(core))).max()),
    }
    measured["elmo", "allennlp"] = figures
    assert all(value <= ELMO_COLUMNS[column] for column, value in figures.items()), figures


# ---- docs/parity.md -------------------------------------------------------------------------------------------------

NOTE = """# Parity with transformers

Written by `python -m pytest tests/zoo/weights/test_parity.py --write-docs`; a plain run of the tests measures again,
and checks that this page has a row for every class and that no figure is above its bound.

**Parity** means: a stock transformers model with random weights (normal, standard deviation {std}, biases, gains and
rows of padding included), brought into the zoo through its weight table, gives the same numbers on the same rows. Every
row of the table is the worst case of a class over its *configurations* (`tests/support/families.py`: other widths,
heads, depths, activations, epsilons, ids of padding, tied and untied, ...), on rows from one token up to the last
position, with padding at one side, and for the class without a head also at the other, with positions given in no
order, and token by token with a cache where the model is causal.

- **import**: tensors of theirs that no row of the weight table reads. **export**: tensors that come back changed in any
  bit (`tests/zoo/weights/test_weights.py` has the names, the configurations, and stock transformers reading what was
  exported). One is left out of both: a second bias that their untied token heads keep in the file and never use.
- **states**: every layer's hidden states, attention probabilities, pooled state; **logits** of every head; **loss** as
  transformers computes it; all as the largest absolute difference in fp32. **gradients**: the largest difference in any
  tensor, as a part of that tensor's largest gradient, or of 0.1 where that is larger. The bound of all four is
  {fp32:.0e}.
- **bf16**: both models in bf16; root mean square of our error over theirs, both against their model in fp32 with the
  same rounded weights. 1 = as close as theirs; the bound is {bf16:g}.

A head whose code presumes a fact (RoBERTa's and ELECTRA's token heads use the erf form of GELU whatever the layers use)
is measured where that holds, and refused elsewhere. Dropout is not compared: the two libraries draw differently.

Reformer has tests of its own (`tests/zoo/weights/test_reformer.py`): under the same `hash_seed` its states, logits
and gradients are within 1e-05 of `ReformerModelWithLMHead`, `ReformerForMaskedLM` and the other classes, for causal and
masked rows, padded or full. Its layers' probabilities are not compared, since theirs stand by chunk, nor bf16, where a
bit moves a bucket.

ELMo, which transformers does not have, has a table of its own below: allennlp's two-layer test fixture with the vectors
that are published beside it, as the largest absolute difference. That of the states stays at 1.1e-06 in double
precision: the published values are rounded.

Measured with torch {torch}, transformers {transformers}, on a CPU with {cpu}.

"""


def table_rows() -> dict[tuple[str, str], list[str]]:
    """What today's grid has: title, class, heads and number of configurations of every row."""
    rows = {}
    for model_type in GRID:
        family = all_families()[model_type]
        for architecture, heads in family.architectures.items():
            points = sum(case.architecture == architecture for case in cases())
            rows[model_type, architecture] = [family.title, architecture, ", ".join(heads), str(points)]
    return rows


def expected_columns(heads: str) -> set[str]:
    """What is measured of a class with these heads."""
    return set(COLUMNS) - (set() if heads else {"logits", "loss", "bf16 logits"})


def write_page() -> None:
    lines = [
        "| system | class | heads | configurations | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|---" + "|---" * len(COLUMNS) + "|",
    ]
    for key, cells in table_rows().items():
        figures = [measured[key].get(column) for column in COLUMNS]
        lines.append(f"| {' | '.join([*cells, *(figure_text(c, f) for c, f in zip(COLUMNS, figures))])} |")
    row = [*ELMO_ROW, *(figure_text(c, measured["elmo", "allennlp"].get(c)) for c in ELMO_COLUMNS)]
    elmo = ["", f"| system | weights | texts | {' | '.join(ELMO_COLUMNS)} |", "|---" * (3 + len(ELMO_COLUMNS)) + "|"]
    lines += [*elmo, f"| {' | '.join(row)} |"]
    note = NOTE.format(
        std=STD,
        fp32=FP32,
        bf16=BF16,
        torch=torch.__version__,
        transformers=transformers.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
    )
    PAGE.write_text(note + "\n".join(lines) + "\n", encoding="utf-8")


def figure_text(column: str, figure: float | None) -> str:
    if figure is None:
        return ""
    bound = {**COLUMNS, **ELMO_COLUMNS}[column]
    return f"{figure:.1e}" if bound == FP32 else f"{figure:.2f}" if bound == BF16 else f"{figure:g}"


def test_the_page_has_todays_rows_and_every_figure_is_within_its_bound(request):
    if request.config.getoption("write_docs"):
        whole = all(set(measured[key]) == expected_columns(row[2]) for key, row in table_rows().items())
        assert whole, "the page is written by a run of the whole file only"
        assert set(measured["elmo", "allennlp"]) == set(ELMO_COLUMNS), (
            "the page needs shared/data/elmo_fixtures and h5py"
        )
        write_page()
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    *cells, header, _, elmo = cells
    assert header == ["system", "weights", "texts", *ELMO_COLUMNS]
    assert elmo[:3] == ELMO_ROW
    assert all(float(cell) <= bound for bound, cell in zip(ELMO_COLUMNS.values(), elmo[3:], strict=True))
    assert [row[:4] for row in cells] == list(table_rows().values())
    for row in cells:
        for (column, bound), cell in zip(COLUMNS.items(), row[4:], strict=True):
            measured_here = column in expected_columns(row[2])
            assert float(cell) <= bound if measured_here else not cell, (row[1], column)

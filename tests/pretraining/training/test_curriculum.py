"""Several tasks in a run: allocations, stages, schedules (specs: ERNIE 2.0, section 8), and runs of all of them."""

import collections
import dataclasses
import itertools
import json
import signal
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from training import (
    Killed,
    arguments,
    finish,
    interrupt_at,
    last_step,
    log_lines,
    outcome,
    train,
    wait_for,
    write_corpus,
)

from finetune.config import FinetuneSettings
from finetune.data.tasks import read_task_file
from finetune.training.prepared import PreparedTask
from finetune.training.run import finetune
from pretraining.arrays import WORD_START
from pretraining.keyed_random import Draw
from pretraining.layouts.blocks import Blocks
from pretraining.objectives.base import base_inputs, collate, corrupt, make_batch
from pretraining.optim.gradients import clip_gradients
from pretraining.optim.learning_rate import Noam
from pretraining.tokenizer.load import load_tokenizer
from pretraining.tools.configs import count_parameters
from pretraining.tools.pairs import pairs_command
from pretraining.training.assemble import make_tasks
from pretraining.training.config import StageConfig
from pretraining.training.curriculum import Continual, Joint, Sequential, Table, describe_stages
from pretraining.training.load_config import load_pretrain_config, run_folder_of
from pretraining.training.model import PretrainingModel
from pretraining.training.state import idle_notes, task_at
from pretraining.training.step import weighted_loss
from pretraining.training.stores import TokenStores, run_stores
from zoo.config import CoreConfig
from zoo.core.build import make_core
from zoo.core.transformer import Transformer
from zoo.errors import ZooError
from zoo.heads.sequence_head import SequenceHead
from zoo.heads.token_heads import TokenHead
from zoo.inputs import CoreInputs
from zoo.model_folder import load_core, read_metadata
from zoo.sample import sample_path
from zoo.settings.yaml_files import read_yaml, shipped_configs

TASKS = ["knowledge_masking", "capitalisation", "token_document", "sentence_reordering"]
PAPER = {  # thousands of iterations in each stage (specs: ERNIE 2.0, section 1)
    "knowledge_masking": [20, 10, 10, 10],
    "capitalisation": [0, 30, 10, 10],
    "token_document": [0, 0, 40, 10],
    "sentence_reordering": [0, 0, 0, 50],
}


# --- allocation ---


def test_the_rule_gives_the_papers_table():
    """Check 7."""
    table = Continual().allocation(TASKS)
    assert {task: [50 * part for part in row] for task, row in table.items()} == PAPER


@pytest.mark.parametrize("kind", [Continual, Joint, Sequential])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_task_gets_as_much_as_the_others(kind, count):
    """Check 7: rows sum to N, whatever the scheme."""
    tasks = [f"task {n}" for n in range(count)]
    table = kind().allocation(tasks)
    assert [sum(row) for row in table.values()] == [Fraction(1)] * count
    stages = kind().stages(tasks)
    starts = [0.0, *[part.until for part in stages.values()]]
    assert starts == sorted(set(starts))
    assert starts[-1] == 1.0
    for task in tasks:
        share = sum(
            (b - a) * p.tasks.get(task, 0) for a, b, p in zip(starts, starts[1:], stages.values(), strict=False)
        )
        assert share == pytest.approx(1 / count)


def test_a_written_table_is_the_same_as_the_rule():
    rule, written = Continual().stages(TASKS), Table(PAPER).stages(TASKS, steps=200)
    assert list(rule) == list(written) == [f"{n}-{task}" for n, task in enumerate(TASKS, start=1)]
    assert [part.until for part in rule.values()] == [part.until for part in written.values()] == [0.1, 0.3, 0.6, 1.0]
    assert rule == written
    assert Sequential(TASKS[::-1]).stages(TASKS) == Sequential().stages(TASKS[::-1])


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        (Joint(["knowledge_masking"]), "gives capitalisation, token_document, sentence_reordering no stage"),
        (Continual([*TASKS[:3], "sentence_order"]), "names task 'sentence_order'.*Did you mean 'sentence_reordering'"),
        (Sequential([*TASKS, TASKS[0]]), "'knowledge_masking' 2 times"),
        (Table(PAPER), "add up to 200, train.steps is 1,000"),
        (Table({**PAPER, "capitalisation": [50]}), "a number for every stage.*capitalisation 1"),
        (Table({**PAPER, "capitalisation": [0, 0, 0, 0]}), "none below 0, and one above it"),
        (Table({**PAPER, "capitalisation": [60, -10, 0, 0]}), "none below 0"),
        (Table({task: [0, 50] for task in TASKS}), "stage 1 has no iterations"),
    ],
)
def test_what_does_not_add_up_is_refused(curriculum, message):
    with pytest.raises(ZooError, match=message):
        curriculum.stages(TASKS, 1000)


def test_steps_follow_the_shares():
    """8,000 steps of four tasks: 2,000 each, within a few steps for each stage's ends."""
    steps = 8000
    stages = {name: StageConfig(*part) for name, part in Continual().stages(TASKS).items()}
    drawn = [task_at(stages, TASKS, step, step / steps, seed=3) for step in range(steps)]
    counts = collections.Counter(drawn)
    assert all(abs(counts[task] - steps / 4) <= 5 for task in TASKS)
    for place, task in enumerate(TASKS):
        assert drawn.index(task) >= [0, 800, 2400, 4800][place]
    assert set(drawn[:800]) == {TASKS[0]}
    assert drawn[800:2400].count(TASKS[1]) == pytest.approx(1200, abs=3)


# --- learning rate ---


def test_noam():
    """Check 9, and a warm-up for every stage."""
    noam = Noam(warmup=0.02)
    assert noam.factor(0.02) == 1.0
    assert noam.factor(0.08) == pytest.approx(0.5)
    assert noam.factor(0.01) == pytest.approx(0.5)
    noam.begin([0.0, 0.3])
    assert noam.factor(0.32) == pytest.approx(0.25)
    again = Noam(warmup=0.02, per_stage=True)
    again.begin([0.0, 0.3])
    assert [again.factor(p) for p in (0.02, 0.08, 0.3, 0.31, 0.32, 0.38)] == pytest.approx([1, 0.5, 0, 0.5, 1, 0.5])


# --- settings ---


def settings(*more):
    return load_pretrain_config(["--config", "ernie-2-tiny", *more])


def test_a_curriculum_is_one_line_of_settings():
    config = settings().value
    assert config.stages["4-sentence_reordering"].tasks == {
        TASKS[0]: 0.125,
        **dict.fromkeys(TASKS[1:3], 0.125),
        TASKS[3]: 0.625,
    }
    joint = settings("--curriculum.class_path", "pretraining.training.curriculum.Joint").value
    assert joint.stages == {"all": StageConfig(1.0, dict.fromkeys(TASKS, 0.25))}
    fewer = settings("--tasks.capitalisation", "null", "--objectives.capitalisation", "null").value
    assert [stage.until for stage in fewer.stages.values()] == pytest.approx([1 / 6, 1 / 2, 1])
    assert dataclasses.replace(config, name="other").stages == config.stages
    lines = config.stage_lines()
    assert lines[1] == "stage 2-capitalisation, 10 to 30 % of the budget: knowledge_masking 25 %, capitalisation 75 %"
    assert describe_stages([]) == []


def test_a_task_without_its_text_is_refused_before_any_work(tmp_path):
    """The overlays for labelled pairs name files that the user makes; the run's own text is not looked at before."""
    absent = ["--data.corpus.files", str(tmp_path / "absent.txt"), "--data.stores", str(tmp_path)]
    for base, task, name in (
        ("ernie-2-tiny", "discourse-en", "discourse_relation"),
        ("ernie-2-tiny-zh", "discourse-zh", "discourse_relation"),
        ("ernie-2-tiny-zh", "relevance-zh", "ir_relevance"),
    ):
        config = load_pretrain_config(["--config", base, "--config", f"pretrain_tasks/{task}", *absent]).value
        assert list(config.stages)[-1].endswith(name)
        assert len({t.task_type_id for t in config.tasks.values()}) == len(config.tasks)
        with pytest.raises(
            ZooError, match=rf"tasks\.{name}\.corpus: .*{task}\.jsonl does not exist.*--tasks\.{name} null"
        ):
            run_stores(config, False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks.capitalisation.task_type_id", "16"], "task_type_id = 16, but model.task_type_vocab_size = 16"),
        (["--model.task_type_vocab_size", "0"], "set that to 2 or more"),
        (["--stages", '{"a": {"until": 1, "tasks": {"capitalisation": 1}}}'], "stages and curriculum are both given"),
        (["--curriculum", "null"], "need `stages`.*or a `curriculum`"),
        (["--curriculum.init_args.order", "[capitalization]"], "names task 'capitalization'.*'capitalisation'"),
        (
            [
                "--curriculum",
                "null",
                "--stages",
                '{"a": {"until": 0, "tasks": {"capitalisation": 1}}, '
                '"b": {"until": 1, "tasks": {"capitalisation": 1}}}',
            ],
            "a number above 0 and at most 1",
        ),
    ],
)
def test_settings_that_cannot_work(more, message):
    with pytest.raises(ZooError, match=message):
        settings(*more)


# --- sizes ---

CORES = {  # (without a table of task types, with MLM and a head of two classes; specs: ERNIE 2.0, section 2)
    "ernie-2-base": (109_483_776, 110_107_964, 12_288),
    "ernie-2-large": (335_143_936, 336_228_156, 16_384),
    "ernie-2-base-zh": (99_867_648, 100_479_314, 12_288),
    "ernie-2-large-zh": (316_996_608, 318_063_106, 16_384),
}


@pytest.mark.parametrize("name", CORES)
def test_published_counts(name):
    """Check 1."""
    core, whole, tasks = CORES[name]
    facts = CoreConfig.from_dict(read_yaml(shipped_configs() / "model" / f"{name}.yaml", "model"))
    plain = facts.replace(task_type_vocab_size=0)
    with torch.device("meta"):
        parts = [Transformer(plain), TokenHead(plain), SequenceHead(plain)]
        numbers = [sum(p.numel() for p in part.parameters()) for part in (*parts, make_core(facts))]
    assert (numbers[0], sum(numbers[:3]), numbers[3]) == (core, whole, core + tasks)
    config = load_pretrain_config(["--config", name]).value
    wide = facts.hidden_size + 1
    classes = sum(
        {"token_document": 2, "capitalisation": 2, "sentence_reordering": 9, "sentence_distance": 3}.get(o, 0)
        for o in config.objectives
    )
    assert count_parameters(config) == (core + tasks, whole + tasks + (classes - 2) * wide)


# --- one batch ---


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose corpus and stores the tests of this module share."""
    folder = tmp_path_factory.mktemp("curriculum")
    write_corpus(folder)
    return folder


def corrupted(task, indices):
    """Rows of the first epoch as the task's objectives read them."""
    return corrupt(*task.rows(0, indices), task.objectives)


@pytest.fixture(scope="module")
def assembled(place):
    """Settings, store, vocabulary and rows of every task of the tiny config, dropout off."""
    more = {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0}
    config = load_pretrain_config(arguments(place, "ernie-2", **more)).value
    stores = run_stores(config, False)
    tokenizer = load_tokenizer(stores.main.path)
    facts = config.model.replace(vocab_size=tokenizer.vocabulary.size)
    for objective in config.objectives.values():
        objective.build(facts, tokenizer.vocabulary)
    model = PretrainingModel(make_core(facts), config.objectives)
    return config, stores, tokenizer, make_tasks(config, stores, tokenizer.vocabulary)[0], model


def test_each_task_brings_its_number(assembled):
    config, _, _, data, model = assembled
    states = {}
    for number, task in enumerate(config.tasks):
        rows = corrupted(data[task], np.arange(3))
        batch = collate(rows, data[task].objectives)
        ids = batch.inputs.task_type_ids
        assert ids is None if number == 0 else ids.tolist() == [number] * 3
        inputs = base_inputs(corrupted(data[TASKS[0]], np.arange(3)))._replace(task_type_ids=ids)
        states[task] = model.core(inputs).last_hidden_state
    assert not any(torch.equal(states[TASKS[0]], states[task]) for task in TASKS[1:])
    task = data["capitalisation"]
    parts = task.parts([(0, np.arange(2)), (1, np.arange(2))], 0, 4)  # over the end of an epoch
    assert make_batch(parts, task.objectives, task.pad).inputs.task_type_ids.tolist() == [1] * 4


def test_tasks_of_one_layout_read_their_own_rows(assembled):
    """And hide their own tokens, though the text is laid out alike; the first task is what it would be alone."""
    config, stores, tokenizer, _, _ = assembled
    first = dataclasses.replace(config.tasks["knowledge_masking"], layout=Blocks(), task_type_id=0)
    tasks = {name: dataclasses.replace(first, layout=Blocks()) for name in ("a", "b", "c")}
    several = dataclasses.replace(
        config, tasks=tasks, stages={"all": StageConfig(1.0, dict.fromkeys(tasks, 1.0))}, curriculum=None
    )
    stores = TokenStores(stores.main, dict.fromkeys(tasks, stores.main))
    data, held_out = make_tasks(several, stores, tokenizer.vocabulary)
    alone = dataclasses.replace(several, tasks={"a": first}, stages=None)
    single, _ = make_tasks(alone, stores, tokenizer.vocabulary)
    orders = {name: part.plan(0)[1] for name, part in data.items()}
    assert np.array_equal(orders["a"], single["a"].plan(0)[1])
    every = np.arange(len(orders["a"]))
    hidden = {name: corrupted(part, every).targets["selected"] for name, part in data.items()}
    assert np.array_equal(hidden["a"], corrupted(single["a"], every).targets["selected"])
    for one, other in itertools.combinations(tasks, 2):
        assert (orders[one] == orders[other]).mean() < 0.2
        assert hidden[one][hidden[other]].mean() < 0.25  # 15 % of the real tokens by chance
    rows = [corrupted(part, np.arange(2)).input_ids for part in held_out.values()]
    assert all(np.array_equal(rows[0], other) for other in rows)  # held-out masks are the same


def test_the_loss_of_a_batch_is_the_sum_of_its_objectives(assembled):
    """Check 8: a loss per token and a loss per row on the same rows, each divided by its own count."""
    config, _, _, data, model = assembled
    task = dataclasses.replace(
        data["sentence_reordering"],
        objectives={name: config.objectives[name] for name in ("masked_lm", "capitalisation", "sentence_reordering")},
        _plans={},
    )
    batch = collate(corrupted(task, np.arange(8)), task.objectives)
    assert len(set(batch.counts.values())) == 3
    terms, _ = model(batch)
    total = weighted_loss(terms, {name: float(count) for name, count in batch.counts.items()}, config.objectives)
    apart = []
    for name in task.objectives:
        alone, _ = model(batch._replace(targets={name: batch.targets[name]}))
        apart.append(alone[name].total / batch.counts[name])
    assert total.item() == pytest.approx(sum(part.item() for part in apart), rel=1e-6)
    assert min(part.item() for part in apart) > 0.1


def test_capitals_are_those_of_the_text(place, assembled):
    """Check 5: recomputed from the raw text for every token."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    config, stores, tokenizer, _, _ = assembled
    store = stores.main
    text = (place / "text.txt").read_text(encoding="utf-8")
    words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]
    expected = np.array([word[0].isupper() for word in words])
    word = np.cumsum((store.flags[:] & WORD_START) != 0) - 1
    assert word[-1] + 1 == len(words)
    layout = config.tasks["capitalisation"].layout
    plan = layout.plan(store, np.arange(store.num_documents), 48, tokenizer.vocabulary, Draw(0, 0))
    rows = layout.rows(store, plan, np.arange(len(plan)), 48, tokenizer.vocabulary)
    labels = config.objectives["capitalisation"].labels(rows)
    assert (labels[rows.special_tokens_mask] == -1).all()
    assert (
        labels[~rows.special_tokens_mask] == expected[word]
    ).all()  # rows are in the order of the text, and lose no token
    assert 0.05 < expected.mean() < 0.3


# --- runs ---


@pytest.fixture(scope="module")
def finished(place):
    """An uninterrupted run through all four stages."""
    return train(arguments(place, "ernie-2", steps=30))


def test_all_tasks_are_trained_and_checked(finished):
    record = json.loads((finished / "run.json").read_text())
    assert min(record["targets"].values()) > 0
    assert list(record["targets"]) == ["masked_lm", "capitalisation", "token_document", "sentence_reordering"]
    validation = [line["validation"] for line in log_lines(finished) if "validation" in line][-4:]
    assert [line["task"] for line in validation] == TASKS
    losses = {name: term for line in validation for name, term in line["terms"].items()}
    assert 5 < losses["masked_lm"]["loss"] < 6.6
    assert losses["capitalisation"]["loss"] < 0.7
    assert 2 < losses["sentence_reordering"]["loss"] < 2.4
    assert record["config"]["curriculum"]["class_path"] == "pretraining.training.curriculum.Continual"
    assert record["config"]["stages"] is None
    heads = read_metadata(finished).heads
    assert {name: head["kind"] for name, head in heads.items()} == {
        "masked_lm": "token",
        "capitalisation": "token_class",
        "token_document": "token_class",
        "sentence_reordering": "row_class",
    }
    assert load_core(finished)[0].config.task_type_vocab_size == 16


def test_interrupted_and_continued_is_bit_identical(place, finished, monkeypatch, tmp_path):
    argv = [*arguments(place, "ernie-2", steps=30), "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 17)
        with pytest.raises(Killed):
            train(argv)
    assert outcome(train(argv)) == outcome(finished)


def test_fine_tuning_reads_row_0_of_the_tasks_unless_told(finished, tmp_path):
    task = read_task_file(sample_path("tasks/tasks.yaml"))["fewrel"]
    rows = {}
    for number in (0, 3):
        settings = FinetuneSettings(epochs=1, limit=64, batch_size=16, max_length=32, task_type_id=number)
        prepared = PreparedTask(finished, task, sample_path("tasks"), settings)
        core, before = prepared.model(1).core, load_core(finished)[0]
        table = core.embeddings.task_type_embeddings.weight
        assert torch.equal(table[0], before.embeddings.task_type_embeddings.weight[number])
        inputs = CoreInputs(torch.arange(5, 25)[None], task_type_ids=torch.tensor([number]))
        plain = core.eval()(inputs._replace(task_type_ids=None)).last_hidden_state
        assert torch.equal(plain, before.eval()(inputs).last_hidden_state)
        result = finetune(finished, task, prepared, 1, settings, tmp_path / str(number), progress=False)
        rows[number] = result.scores["accuracy"]
    assert all(0 <= score <= 1 for score in rows.values())
    with pytest.raises(ZooError, match=r"task_type_id is 16, and the model in .* a table of 16 task types"):
        PreparedTask(finished, task, sample_path("tasks"), FinetuneSettings(task_type_id=16))
    with pytest.raises(ZooError, match="task_type_id = -1"):
        FinetuneSettings(task_type_id=-1)


def test_a_task_with_text_of_its_own(place, tmp_path):
    """Discourse pairs out of the corpus, made, read and trained beside the other tasks, with their own validation."""
    pairs = tmp_path / "discourse.jsonl"
    pairs_command(["discourse", "--files", str(place / "text.txt"), "--output", str(pairs), "--longest", "60"])
    argv = arguments(place, "ernie-2", steps=10, **{"output": tmp_path, "train.validate_every": 0})
    argv += ["--config", "pretrain_tasks/discourse-en", "--tasks.discourse_relation.corpus.files", str(pairs)]
    argv += ["--data.sequence_length", "32", "--curriculum.class_path", "pretraining.training.curriculum.Sequential"]
    lines = log_lines(train(argv))
    assert next(reversed(lines[9]["terms"])) == "discourse_relation"
    assert lines[9]["terms"]["discourse_relation"] == pytest.approx(np.log(174), abs=0.4)
    checked = [line["validation"] for line in lines if "validation" in line]
    assert [line["task"] for line in checked] == [*TASKS, "discourse_relation"]
    assert checked[-1]["terms"]["discourse_relation"]["count"] > 5


def test_idle_heads_have_no_gradient_and_stay_as_they_are(place, monkeypatch, tmp_path):
    """Weight decay would move a head whose gradient is zero; one that is idle has none."""
    seen = []

    def watch(model, limit):
        seen.append(
            {n.split(".")[1] for n, p in model.named_parameters() if n.startswith("heads.") and p.grad is not None}
        )
        if len(seen) == 6:
            raise Killed
        return clip_gradients(model, limit)

    monkeypatch.setattr("pretraining.training.step.clip_gradients", watch)
    sequential = {"curriculum.class_path": "pretraining.training.curriculum.Sequential", "output": tmp_path}
    with pytest.raises(Killed):
        train(arguments(place, "ernie-2", steps=8, **sequential))
    names = ["masked_lm", "masked_lm", "capitalisation", "capitalisation", "token_document", "token_document"]
    assert seen == [{name} for name in names]


@pytest.mark.slow
def test_two_processes_killed_and_continued_take_the_same_course(place, warm, tmp_path):
    """Same steps and rates, losses to rounding; heads of tasks that have not begun are as they were made."""
    more = {
        "curriculum.class_path": "pretraining.training.curriculum.Sequential",
        "train.keep": 20,
        "train.micro_batch_size": 2,
    }
    alone = train([*arguments(place, "ernie-2", steps=24, **more), "--output", str(tmp_path / "one")])
    argv = [*arguments(place, "ernie-2", steps=24, **more), "--output", str(tmp_path / "two")]
    folder = run_folder_of(load_pretrain_config(argv))
    both = warm.launch(argv, processes=2)
    wait_for(lambda: last_step(folder) >= 5, process=both)
    both.send_signal(signal.SIGKILL)
    both.communicate()
    assert last_step(folder) < 24, "it ended before it could be killed: more steps are needed"
    out = finish(warm.launch(argv, processes=2))
    assert "2 processes x 1 threads" in out
    assert "continuing from step" in out
    assert "stage 2-capitalisation, 25 to 50 % of the budget: capitalisation 100 %" in out
    for one, two in zip(log_lines(alone), log_lines(folder), strict=True):
        assert (one["step"], one["tokens"], one.get("lr")) == (two["step"], two["tokens"], two.get("lr"))
        if "terms" in one:
            assert one["terms"] == {name: pytest.approx(value, rel=1e-4) for name, value in two["terms"].items()}
    early, end = (
        [load_file(f / "checkpoints" / s / "model.safetensors") for f in (alone, folder)]
        for s in ("step-000000006", "step-000000024")
    )
    idle = [
        name for name in early[0] if name.startswith("heads.") and ".masked_lm." not in name and name.endswith("weight")
    ]
    assert len(idle) == 3
    for name in idle:
        assert (early[0][name] == early[1][name]).all()
        assert (early[1][name] != end[1][name]).any()


def with_stages(*more):
    """ERNIE 1.0's settings, which have three stages."""
    return load_pretrain_config(["--config", "ernie-1-tiny", *more]).value


def test_a_task_of_no_stage_is_refused():
    overlay = ["--config", "pretrain_tasks/discourse-en", "--model.task_type_vocab_size", "8"]
    with pytest.raises(
        ZooError, match=r"no stage names task 'discourse_relation'.*--stages\.\w+\.tasks\.discourse_rel"
    ):
        with_stages(*overlay)
    config = with_stages(*overlay, "--stages.basic.tasks.discourse_relation", "1")
    assert config.stages["basic"].tasks["discourse_relation"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stages.basic.tasks.basic", ".nan"], "a number above 0"),
        (["--stages.basic.tasks.basic", ".inf"], "a number above 0"),
        (["--stages.basic.until", ".nan"], "at most 1 is needed"),
        (["--tasks.basic.task_type_id", "-1"], r"task_type_id = -1; a whole number of at least 0 is needed\.$"),
        (["--config", "pretrain_tasks/dialogue"], r"stages\.phrase has no until.*--stages\.phrase null"),
    ],
)
def test_stages_and_tasks_that_cannot_be(argv, message):
    with pytest.raises(ZooError, match=message):
        with_stages(*argv)


def test_stages_without_a_step_are_told():
    short = ["--train.tokens", "null", "--train.steps", "2"]  # steps begin at 0 and at one half
    assert idle_notes(with_stages(*short)) == []
    for name, until in (("one", "0.3"), ("two", "0.4")):
        short += [f"--stages.{name}.until", until, f"--stages.{name}.tasks.basic", "1"]
    assert with_stages(*short).idle_stages() == ["two", "basic"]
    assert "two, basic get no step of 2" in idle_notes(with_stages(*short))[0]

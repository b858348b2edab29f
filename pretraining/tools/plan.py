"""What a run would be: ``--dry_run`` of pretraining, ``zoo plan --config NAME --hours 5``, an ablation's ``--plan``."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoo.errors import ZooError
from zoo.runtime.progress import duration
from zoo.settings.load import load_settings
from zoo.settings.yaml_files import split_arguments
from zoo.values import Positive, check_fields

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pretraining.tokenizer.tokenizer import ZooTokenizer
    from pretraining.training.budget import StepCost
    from pretraining.training.config import PretrainConfig
    from pretraining.training.stores import TokenStores
    from zoo.settings.load import Settings
    from zoo.vocabulary import Vocabulary

DRY_RUN_SECONDS = 3.0
"""About how long ``--dry_run`` measures."""
_FEWEST_STEPS = 1_000  # a smaller batch is suggested where the hours make fewer
_SMALLEST_BATCH = 8
_ROOM = 0.8  # share of the memory that may be taken
_WORD, _SENTENCE = 2, 20  # tokens of random text


class RunPlan(NamedTuple):
    """What a run would be.

    Args:
        lines: for people.
        steps: of the whole run; ``None`` = unknown.
        seconds: of the steps that are left; ``None`` = unknown.
        cost: of a step; ``None`` = not measured.
        tokens: of the prepared text; 0 = not prepared.
        is_new: nothing of it is done.
    """

    lines: list[str]
    steps: int | None
    seconds: float | None
    cost: StepCost | None
    tokens: int
    is_new: bool


def plan_run(
    settings: Settings[PretrainConfig], processes: int = 1, measure: float = DRY_RUN_SECONDS, whole_batch: bool = False
) -> RunPlan:
    """What a run would be; everything that needs no training is checked, and no run folder is written.

    Args:
        settings: of the run.
        processes: that would share it.
        measure: seconds in which steps are measured.
        whole_batch: measure passes on up to all rows of a process's batch, instead of up to its micro-batch.

    Raises:
        ZooError: what would stop the run before it trains, as far as the text is prepared.
    """
    import torch

    from pretraining.tools.configs import count_parameters
    from pretraining.training.assemble import make_tasks
    from pretraining.training.checks import accumulation_of, check_data, memory_needed
    from pretraining.training.load_config import run_folder_of
    from pretraining.training.pretrain import check_settings
    from pretraining.training.run import wants_compiling
    from pretraining.training.state import idle_notes
    from pretraining.training.stores import look_for_stores
    from zoo.runtime.processes import check_trackers, device_memory, resolve_precision
    from zoo.vocabulary import Vocabulary

    config, train, folder, own = settings.value, settings.value.train, run_folder_of(settings), settings.value.data
    check_trackers(train.trackers)
    check_settings(settings, folder, processes)
    stores, lines = look_for_stores(config)
    if stores is not None:
        check_data(folder, stores)
    config, tokenizer, told = _with_tokenizer(config, stores)
    vocabulary = tokenizer.vocabulary if tokenizer else Vocabulary(own.tokenizer.vocab_size, 0, 1, 2, 3, 4)
    lines.append(told)
    if stores is not None:
        make_tasks(config, stores, vocabulary)  # what only the rows tell
    core, whole = count_parameters(copy.deepcopy(config))
    heads = f", {core:,} in the core, the others in {', '.join(config.objectives)}" if whole > core else ""
    lines.append(f"model: {whole:,} parameters{heads}")
    micro, slices = accumulation_of(train.batch_size, train.micro_batch_size, processes)
    shape = f"{processes} x {slices} x {micro}, of {own.sequence_length} tokens, {resolve_precision(train.precision)}"
    lines.append(f"batch: {train.batch_size} rows = {shape}")
    cost: StepCost | None = None
    reason = "nothing would be trained"
    state, done = _state_of(folder)
    if done is not None:
        most = slices * micro if whole_batch else micro
        while most > micro and not _fits(config, most):
            most //= 2
        cost, reason = _measured(config, folder, stores, vocabulary, tokenizer, (most, measure, whole_batch))
        if wants_compiling(config, "cuda" if torch.cuda.is_available() else "cpu"):
            reason += ", by layers that are not compiled (those of the run are)"
    seconds = None if cost is None else cost.seconds(slices * micro, micro)
    steps = steps_of(config, folder, cost, seconds)
    lines += [_budget_line(config, steps, stores), *config.stage_lines(), *idle_notes(config)]
    needed = sum(memory_needed(config, processes).values())
    peak = f" (measured: {cost.memory[max(cost.memory)] / 1e6:,.0f} MB)" if cost is not None and cost.memory else ""
    lines.append(f"memory: at least {needed / 1e6:,.0f} MB a process{peak}, of {device_memory() / 1e6:,.0f} MB here")
    left = None if steps is None or seconds is None or done is None else max(steps - done, 0) * seconds
    lines.append(_time_line(cost, seconds, left, reason, train.batch_size, processes))
    lines.append(f"output: {folder}, {state}")
    return RunPlan(lines, steps, left, cost, 0 if stores is None else stores.main.num_tokens, done == 0)


def _with_tokenizer(
    config: PretrainConfig, stores: TokenStores | None
) -> tuple[PretrainConfig, ZooTokenizer | None, str]:
    """The run with a model for its vocabulary, and objectives of its own; its tokenizer, if there is one; a line."""
    from pretraining.tokenizer.load import extend, load_tokenizer
    from pretraining.training.assemble import with_vocabulary

    given, model, tokenizer = config.data.tokenizer, config.model, None
    words, size = f"{given.kind}, to be trained, vocabulary of at most", given.vocab_size
    if stores is not None:
        words, tokenizer = f"{stores.main.path}, vocabulary", load_tokenizer(stores.main.path)
    elif given.path is not None:
        tokenizer = extend(load_tokenizer(given.path, given), given, config.template)
        words = f"{given.path}, vocabulary"
    if tokenizer is not None:
        size, model = tokenizer.vocabulary.size, with_vocabulary(model, tokenizer.vocabulary)
    model = model.replace(vocab_size=model.vocab_size or size)
    made = dataclasses.replace(config, model=model, objectives=copy.deepcopy(config.objectives))
    return made, tokenizer, f"tokenizer: {words} {size:,}"


def steps_of(config: PretrainConfig, folder: Path, cost: StepCost | None, seconds: float | None) -> int | None:
    """How many steps a run's budget makes; ``None`` where that is not known.

    Args:
        config: the run's.
        folder: its folder, which keeps how many its minutes made.
        cost: of a row.
        seconds: of a step.
    """
    from zoo.storage.files import read_json

    train, record = config.train, folder / "run.json"
    if train.steps is not None:
        return train.steps
    if train.minutes is not None:
        known = (read_json(record) if record.exists() else {}).get("budget")
        return int(known["steps"]) if known else max(1, round(60 * train.minutes / seconds)) if seconds else None
    if cost is None:
        return None
    if train.tokens is not None:
        return math.ceil(train.tokens / (cost.tokens * train.batch_size))
    return math.ceil((train.flops or 0.0) / (cost.flops * train.batch_size))


def _budget_line(config: PretrainConfig, steps: int | None, stores: TokenStores | None) -> str:
    """Steps and tokens of a run, as far as they are known."""
    train, rows = config.train, config.train.batch_size * config.data.sequence_length
    known = train.tokens or (train.steps or 0) * rows
    if steps is not None:
        told = f"{'' if train.steps else 'about '}{steps:,} steps"
    elif known:
        told = f"at least {math.ceil(known / rows):,} steps"
    else:
        told = (
            f"as many steps as {f'{train.flops:.3g} operations' if train.flops else f'{train.minutes:g} minutes'} make"
        )
    if known:
        told += f", {'' if train.tokens else 'at most '}{known:,} tokens"
        told += f", {known / stores.main.num_tokens:.2f} times the text" if stores else ""
    return f"budget: {told}"


def _time_line(
    cost: StepCost | None, seconds: float | None, left: float | None, reason: str, batch: int, processes: int
) -> str:
    """How long a run would take, how that is known, and how surely."""
    if cost is None or seconds is None:
        return f"time: unknown: {reason}"
    largest, rate = max(cost.passes), cost.tokens * batch / seconds
    several = "; what the processes exchange is not counted" if processes > 1 else ""
    told = f"about {duration(left)} of training" if left is not None else "of the whole unknown"
    return (
        f"time: {told}, {seconds:.3g} s a step, {rate:,.0f} tokens/s: measured on {reason}, passes of up to {largest} "
        f"rows, to {100 * cost.spread:.0f} %{several}"
    )


def _state_of(folder: Path) -> tuple[str, int | None]:
    """What a run would do with its folder, and how many steps are done; ``None`` = all."""
    from pretraining.training.checkpoint import find_checkpoint
    from pretraining.training.checks import is_finished

    if is_finished(folder):
        return "which is finished: nothing would be trained", None
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        return "a new run", 0
    return f"a run that goes on from {checkpoint.name}", int(checkpoint.name.rpartition("-")[2])


# ---- measured steps --------------------------------------------------------------------------------------------------


def _measured(
    config: PretrainConfig,
    folder: Path,
    stores: TokenStores | None,
    vocabulary: Vocabulary,
    tokenizer: ZooTokenizer | None,
    sizes: tuple[int, float, bool],
) -> tuple[StepCost | None, str]:
    """What a step of a run costs, and what that was measured on, or why it was not.

    Args:
        config: the run's.
        folder: its folder.
        stores: its text, where that is prepared.
        vocabulary: of its tokenizer.
        tokenizer: where there is one yet.
        sizes: largest pass, seconds, and whether all sizes between are measured.
    """
    from zoo.runtime.processes import leave_group_together, resolve_precision, start_processes

    accelerator = start_processes(resolve_precision(config.train.precision), config.train.threads, [], folder)
    with leave_group_together(), tempfile.TemporaryDirectory() as place:
        if stores is not None:
            return _cost(config, accelerator, stores, vocabulary, tokenizer, sizes), "this run's own rows"
        try:
            made = random_store(Path(place) / "store", vocabulary, config.train.batch_size, config.data.sequence_length)
            cost = _cost(config, accelerator, made, vocabulary, tokenizer, sizes)
            return cost, "random text, since this run's own is not prepared"
        except (ZooError, KeyError) as error:
            return (
                None,
                f"it is measured once the text is prepared (`zoo prepare`), since random text will not do: {error}",
            )


def _cost(
    config: PretrainConfig,
    accelerator: Accelerator,
    stores: TokenStores,
    vocabulary: Vocabulary,
    tokenizer: ZooTokenizer | None,
    sizes: tuple[int, float, bool],
) -> StepCost:
    from pretraining.training.assemble import make_tasks
    from pretraining.training.budget import make_trainer, measure_costs
    from pretraining.training.model import build_model

    model = build_model(config.model, config.objectives, vocabulary, config.seed.init, tokenizer)
    if model.core.reads_characters and tokenizer is None:
        model.core.set_spellings([f"word{number}" for number in range(vocabulary.size)], vocabulary)
    model.core.recompute_layers = config.train.gradient_checkpointing
    model.to(accelerator.device).train()
    data, _ = make_tasks(config, stores, vocabulary)
    most, seconds, every = sizes
    return measure_costs(make_trainer(config, accelerator, model, data), seconds, most, every)


def random_store(path: Path, vocabulary: Vocabulary, rows: int, length: int) -> TokenStores:
    """A store of random documents, enough for some batches; text has no annotations here.

    Args:
        path: where it is written.
        vocabulary: whose ids it has.
        rows: of a batch.
        length: of a row, in tokens.
    """
    import numpy as np

    from pretraining.arrays import SENTENCE_START, WORD_START
    from pretraining.store.token_store import Store
    from pretraining.store.writer import StoreWriter
    from pretraining.training.stores import TokenStores

    draws, sentences = np.random.default_rng(0), max(1, length * 4 // _SENTENCE)  # a document of four rows
    documents = max(20, rows)
    count = documents * sentences * _SENTENCE
    flags = np.where(np.arange(count) % _WORD == 0, WORD_START, 0).astype(np.uint8)
    flags[::_SENTENCE] |= SENTENCE_START | WORD_START
    first = min(5, vocabulary.size - 1)  # special ones do not stand in text
    ids = first + ((vocabulary.size - first) ** draws.random(count)).astype(np.int64) - 1  # as frequent as 1 / rank
    with StoreWriter(path, vocabulary.size) as writer:
        shape = np.full(documents * sentences, _SENTENCE), np.full(documents, sentences)
        writer.append(ids, flags, *shape)
        writer.finish("random", {})
    return TokenStores(Store(path), {})


# ---- zoo plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanConfig:
    """How a run is planned. Any other ``--key value`` is a setting of the run.

    Args:
        hours: that the run may take; absent = as long as its budget says.
        measure: seconds in which steps are measured.
    """

    hours: Positive | None = None
    measure: Positive = 30.0

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self)


def plan_command(argv: list[str]) -> int:
    """``zoo plan --config bert-tiny --hours 5``: what a run would be, and what this machine makes of its time."""
    from pretraining.training.load_config import load_pretrain_config

    own, others = list[str](), list[str]()
    for key, text in split_arguments(argv)[0]:
        (own if key in ("hours", "measure") else others).append(f"--{key}" if text is None else f"--{key}={text}")
    plan = load_settings(PlanConfig, own, "zoo plan", "plan").value
    settings = load_pretrain_config(others)
    found = plan_run(settings, measure=plan.measure, whole_batch=True)
    print("\n".join(found.lines))
    if found.cost is not None and found.is_new:  # a run that goes on keeps its settings
        print("\n".join(advice(settings.value, found.cost, found.tokens, plan.hours)))
    return 0


def advice(config: PretrainConfig, cost: StepCost, text: int, hours: float | None) -> list[str]:
    """What fits into the memory and the hours, in lines.

    Args:
        config: the run's.
        cost: of its steps.
        text: tokens of its text; 0 = unknown.
        hours: it may take; ``None`` = nothing is said of them.
    """
    batch = config.train.batch_size
    micro = cost.best_micro(_fitting(config, cost, batch))
    if hours is None:
        return [f"suggested: --train.micro_batch_size {micro}"]
    while (
        3600 * hours / cost.seconds(batch, micro) < _FEWEST_STEPS and batch % 2 == 0 and batch // 2 >= _SMALLEST_BATCH
    ):
        batch //= 2
        micro = cost.best_micro(_fitting(config, cost, batch))
    steps = max(1, int(3600 * hours / cost.seconds(batch, micro)))
    tokens = int(steps * batch * cost.tokens)
    epochs = f", {tokens / text:.2f} times the text" if text else ""
    lines = [f"in {hours:g} hours: about {steps:,} steps of {batch} rows, {tokens:,} tokens{epochs}"]
    if batch != config.train.batch_size:
        lines.append(
            f"batch: {config.train.batch_size} rows would make fewer than {_FEWEST_STEPS:,} steps in that time"
        )
    budget = f"--train.batch_size {batch} --train.micro_batch_size {micro} --train.minutes {60 * hours:g}"
    return [*lines, f"suggested: {budget}"]


def _fitting(config: PretrainConfig, cost: StepCost, batch: int) -> list[int]:
    """Rows of a pass that divide a batch and fit into the memory, as measured, or as far as that is counted."""
    return [rows for rows in cost.passes if batch % rows == 0 and _fits(config, rows, cost.memory.get(rows))] or [1]


def _fits(config: PretrainConfig, rows: int, measured: int | None = None) -> bool:
    """Whether a pass of so many rows has room, by what was measured or else is counted."""
    from pretraining.training.checks import memory_needed
    from zoo.runtime.processes import device_memory

    train = dataclasses.replace(config.train, batch_size=rows, batch_tokens=None, micro_batch_size=rows)
    needed = measured or sum(memory_needed(dataclasses.replace(config, train=train), 1).values())
    return needed <= _ROOM * device_memory()

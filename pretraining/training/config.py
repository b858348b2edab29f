"""Everything a pretraining run is, as typed settings read from YAML."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch

from pretraining.corpus.config import CorpusConfig
from pretraining.layouts.base import Layout
from pretraining.masking.base import Selector
from pretraining.objectives.base import Objective
from pretraining.optim.average import WeightAverage
from pretraining.optim.learning_rate import Schedule
from pretraining.tokenizer.config import TokenizerConfig
from pretraining.training.curriculum import Curriculum, describe_stages
from pretraining.training.init_from import InitFromConfig
from zoo.config import CoreConfig
from zoo.errors import ZooError, nearest
from zoo.values import Amount, Count, Name, NotNegative, Positive, Range, Seed, UserPath, Workers, check_fields
from zoo.vocabulary import Template


@dataclass(frozen=True)
class DataConfig:
    """Text and how it is cut.

    Args:
        corpus: where the text comes from.
        tokenizer: trained on the corpus, or loaded.
        sequence_length: longest row, in tokens, template tokens included.
        mask_copies: number of differently masked copies of the data (static masking: the data of epoch e are
            those of epoch e modulo copies); ``null`` = new draws every epoch (dynamic masking).
        validation_tokens: tokens of held-out documents; at most a tenth of the corpus; 0 = none.
        stores: folder that prepared token stores are kept in.
        processes: processes for the preparation; ``null`` = one per core.
    """

    corpus: CorpusConfig
    tokenizer: TokenizerConfig
    sequence_length: Count = 128
    mask_copies: Count | None = None
    validation_tokens: Amount = 20_000
    stores: UserPath = "stores"
    processes: Workers | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self, "data")


@dataclass(frozen=True)
class TaskConfig:
    """A layout and the objectives that read its rows together.

    Args:
        layout: how documents become rows.
        objectives: names from the run's ``objectives``.
        task_type_id: row of the task in the core's table of task types (``model.task_type_vocab_size``).
        corpus: text of its own, read by the run's tokenizer; absent = the run's ``data.corpus``.
        select: which positions its objective hides, instead of the objective's own ``select``; so several tasks can
            train one head on differently hidden text (the stages of ERNIE 1.0).
    """

    layout: Layout
    objectives: list[str]
    task_type_id: Amount = 0
    corpus: CorpusConfig | None = None
    select: Selector | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self, "a task")

    def own(self, objectives: Mapping[str, Objective]) -> dict[str, Objective]:
        """The task's objectives by name, choosing as the task says; heads are those of ``objectives``."""
        found = {name: objectives[name] for name in self.objectives}
        if self.select is None:
            return found
        return {name: o if o.select is None else o.with_selector(self.select) for name, o in found.items()}


@dataclass(frozen=True)
class StageConfig:
    """A part of the run.

    Args:
        until: progress at which the stage ends; the last one must end at 1.
        tasks: share of the steps that each task gets.
    """

    until: Annotated[float, Range(above=0, most=1)]
    tasks: dict[str, Positive]

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self, "a stage")


@dataclass(frozen=True)
class SeedConfig:
    """Seeds, apart so that data can be paired while initial values differ. ``--seed 3`` sets both.

    Args:
        init: initial values.
        data: order, masks, dropout.
    """

    init: Seed = 0
    data: Seed = 0

    def __post_init__(self) -> None:
        """Raise ZooError if a seed keys nothing."""
        check_fields(self, "seed")

    @staticmethod
    def of_number(number: int) -> dict[str, int]:
        """What ``seed: 3`` means: both."""
        return {"init": number, "data": number}


BUDGETS = ("steps", "tokens", "flops", "minutes")
"""Settings of ``train`` of which a run has one."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop. Exactly one of ``steps``, ``tokens``, ``flops`` and ``minutes`` is the budget.

    Args:
        steps: budget in optimiser steps.
        tokens: budget in non-padding input tokens.
        flops: budget in floating-point operations of the matrix products.
        minutes: budget in minutes of training steps; a new run turns it into steps once, by steps that it measures.
        batch_size: sequences per optimiser step over all processes.
        batch_tokens: a step has rows of like length instead, of all processes: as many as come to so many tokens where
            each is padded to the longest (of source and target the longer one). ``batch_size`` then says how many rows
            validation reads at once. ``null`` = ``batch_size`` rows of any length.
        micro_batch_size: sequences per forward pass and process; ``null`` = batch_size / processes.
        lr: peak learning rate.
        schedule: learning-rate factor over progress; ``null`` = 1 % linear warm-up, then linear to 0.
        optimizer: class path of a torch optimiser; ``null`` = torch.optim.AdamW, fused, eps 1e-6.
        weight_decay: decay of what is decayed.
        no_decay: parts of parameter names that are not decayed.
        average: class path of an average of the weights after each step, which validation reads and the run ends with;
            ``null`` = the last step's weights.
        max_grad_norm: clip the global gradient norm; 0 = no clipping.
        precision: ``auto`` = bf16 where the hardware multiplies it faster, else fp32.
        compile: torch.compile; ``auto`` = for runs that are long enough to pay for it on a GPU.
        prefetch: make the rows of the next step in a thread while one runs; ``auto`` = on a GPU, since on a CPU the
            step itself needs the cores. Results are the same.
        threads: CPU threads per process; ``null`` = cores / local processes.
        gradient_checkpointing: recompute activations in the backward pass.
        log_every: steps between log lines.
        validate_every: steps between validations; 0 = at the end only.
        save_every: steps between checkpoints.
        keep: checkpoints kept.
        trackers: accelerate trackers by name (tensorboard, wandb, trackio, ...), beside the JSONL log.
    """

    steps: Count | None = None
    tokens: Count | None = None
    flops: Positive | None = None
    minutes: Positive | None = None
    batch_size: Count = 32
    batch_tokens: Count | None = None
    micro_batch_size: Count | None = None
    lr: Positive = 1e-3
    schedule: Schedule | None = None
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None
    weight_decay: NotNegative = 0.01
    no_decay: list[str] = field(default_factory=lambda: ["bias", "norm"])
    average: WeightAverage | None = None
    max_grad_norm: NotNegative = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "yes", "no"] = "auto"
    prefetch: Literal["auto", "yes", "no"] = "auto"
    threads: Workers | None = None
    gradient_checkpointing: bool = False
    log_every: Count = 20
    validate_every: Amount = 0
    save_every: Count = 200
    keep: Count = 2
    trackers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range, or there is not exactly one budget."""
        check_fields(self, "train")
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ZooError(
                f"train needs exactly one budget out of {', '.join(BUDGETS[:-1])} and {BUDGETS[-1]}; found "
                f"{' and '.join(given) or 'none'}."
            )
        if self.batch_tokens is not None and self.micro_batch_size is not None:
            raise ZooError(
                f"train.batch_tokens = {self.batch_tokens} makes steps of one pass in each process, so "
                f"train.micro_batch_size = {self.micro_batch_size} has no meaning: set one of the two to null."
            )


@dataclass(frozen=True)
class PretrainConfig:
    """A pretraining run: a core, data, objectives and the loop.

    Args:
        name: first part of the run folder's name.
        edge: place in the chain of models: what it changed, and the claim (shown by ``zoo list``).
        model: the core's config.
        data: text and tokenizer.
        objectives: objectives by name; the name is also the name of the head and of the loss.
        tasks: layouts with the objectives that read them, by name.
        stages: schedule of tasks, by name, in order of ``until``; absent = the single task throughout.
        curriculum: a rule that makes the stages, instead of writing them out.
        train: the loop.
        template: layout of texts for fine-tuning and scoring.
        init_from: weights to start from instead of random ones; absent = random.
        seed: seeds.
        output: folder that run folders are made in.
        run_folder: the run folder itself, instead of one named after the settings.
        mirror: folder on an object store (``s3://...``, any URL of ``fsspec``) to which the run folder is copied after
            each checkpoint, and from which a run goes on that is further there.
    """

    name: Name
    model: CoreConfig
    data: DataConfig
    objectives: dict[Name, Objective]
    tasks: dict[Name, TaskConfig]
    train: TrainConfig
    stages: dict[Name, StageConfig] | None = None
    curriculum: Curriculum | None = None
    template: Template = field(default_factory=Template)
    init_from: InitFromConfig | None = None
    seed: SeedConfig = field(default_factory=SeedConfig)
    edge: str = ""
    output: UserPath = "runs"
    run_folder: UserPath | None = None
    mirror: UserPath | None = None

    def __post_init__(self) -> None:
        """Check what spans several keys."""
        check_fields(self)
        self._check_tasks()
        if self.curriculum is not None:
            made = self.curriculum.stages(list(self.tasks), self.train.steps)
            stages = {name: StageConfig(*part) for name, part in made.items()}
            if self.stages not in (None, stages):
                raise ZooError("stages and curriculum are both given; set one of them to null.")
            object.__setattr__(self, "stages", stages)  # what everybody else reads
        self._check_stages()
        if self.data.sequence_length > self.model.max_length:
            raise ZooError(
                f"data.sequence_length = {self.data.sequence_length} is more than the model's {self.model.max_length} "
                "positions; shorten the rows or raise model.max_position_embeddings."
            )
        if self.data.mask_copies is not None and self.data.mask_copies < 1:
            raise ZooError(f"data.mask_copies = {self.data.mask_copies}; 1 or more, or null for new masks every epoch.")

    def tasks_of(self, objective: str) -> list[str]:
        """Tasks that train an objective."""
        return [name for name, task in self.tasks.items() if objective in task.objectives]

    def with_steps(self, steps: int) -> PretrainConfig:
        """The same run with another budget; its stages stay."""
        made = copy.copy(self)
        train = dataclasses.replace(self.train, steps=steps, tokens=None, flops=None, minutes=None)
        object.__setattr__(made, "train", train)  # a curriculum is not asked again
        return made

    def _check_tasks(self) -> None:
        """Raise ZooError if a task cannot be run."""
        if not self.tasks:
            raise ZooError("tasks is empty; a run needs at least one task (a layout and its objectives).")
        for name, task in self.tasks.items():
            for objective in task.objectives:
                if objective not in self.objectives:
                    raise ZooError(
                        f"tasks.{name}.objectives names {objective!r}, which is not among objectives "
                        f"({', '.join(self.objectives)}).{nearest(objective, self.objectives)}"
                    )
            if not task.objectives:
                raise ZooError(f"tasks.{name}.objectives is empty.")
            if task.select is not None and all(self.objectives[key].select is None for key in task.objectives):
                raise ZooError(
                    f"tasks.{name}.select: none of its objectives ({', '.join(task.objectives)}) chooses positions."
                )
            if task.task_type_id >= max(self.model.task_type_vocab_size, 1):
                raise ZooError(
                    f"tasks.{name}.task_type_id = {task.task_type_id}, but model.task_type_vocab_size = "
                    f"{self.model.task_type_vocab_size}; set that to {task.task_type_id + 1} or more."
                )

    def _check_stages(self) -> None:
        """Raise ZooError if the stages do not add up, or none of them trains a task."""
        if self.stages is None and len(self.tasks) > 1:
            raise ZooError(
                f"several tasks ({', '.join(self.tasks)}) need `stages` that say when each is run, or a `curriculum` "
                "that makes them."
            )
        ends = [stage.until for stage in (self.stages or {}).values()]
        if ends and max(ends) != 1.0:
            raise ZooError(
                f"stages end at {', '.join(map(str, ends))}; the last one must end at until: 1, the end of the budget."
            )
        if len(set(ends)) < len(ends):
            raise ZooError(f"stages end at {', '.join(map(str, ends))}; each needs an end of its own.")
        for stage_name, stage in (self.stages or {}).items():
            if not stage.tasks:
                raise ZooError(f"stages.{stage_name}.tasks is empty; at least one task is needed, with its share.")
            for task_name in stage.tasks:
                if task_name not in self.tasks:
                    raise ZooError(f"a stage names task {task_name!r}.{nearest(task_name, self.tasks)}")
        self._check_idle_tasks()

    def _check_idle_tasks(self) -> None:
        """Raise ZooError if no stage trains a task, whose text would be prepared for nothing."""
        trained = {task for stage in (self.stages or {}).values() for task in stage.tasks}
        idle = [name for name in self.tasks if self.stages is not None and name not in trained]
        if idle:
            first, name = next(iter(self.stages or {}), "NAME"), idle[0]
            raise ZooError(
                f"no stage names task {name!r}, so it would never be trained: give it a share of the steps "
                f"(--stages.{first}.tasks.{name} 1; stages: {', '.join(self.stages or {})}), or leave it out with "
                f"--tasks.{name} null."
            )

    def idle_stages(self) -> list[str]:
        """Stages in which not a single step begins, as far as ``train.steps`` tells."""
        if self.stages is None or self.train.steps is None:
            return []
        ordered = sorted(self.stages, key=lambda name: self.stages[name].until if self.stages else 0.0)
        begun = np.searchsorted(np.arange(self.train.steps) / self.train.steps, [self.stages[n].until for n in ordered])
        return [name for name, steps in zip(ordered, np.diff(begun, prepend=0), strict=True) if not steps]

    def stage_lines(self) -> list[str]:
        """A line for each stage, where there are several tasks."""
        ordered = sorted((self.stages or {}).items(), key=lambda item: item[1].until)
        return describe_stages((name, stage.until, stage.tasks) for name, stage in ordered)

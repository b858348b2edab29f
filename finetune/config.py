"""Settings of fine-tuning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from zoo.errors import ZooError, nearest
from zoo.values import Amount, Count, NotNegative, Positive, Probability, Range, Seed, UserPath, Workers, check_fields

USES = ("finetune", "features", "probe", "lora")
"""How a pretrained core is used."""


@dataclass(frozen=True)
class FeatureSettings:
    """How frozen layers are used (specs: ELMo, section 5).

    Args:
        mixes: 1 = the task network reads a mix of the layers; 2 = a second mix also joins what its first layer gives.
        layer_norm: norm each layer over all tokens and dimensions of the batch before mixing.
        regulariser: lambda of the sum of the squared mixing weights; a large one keeps the plain mean.
        dropout: on each mix.
        hidden_size: width of each direction of the task network's LSTMs.
        cache_mb: keep the layers of all texts where they take so much memory at most; 0 = run the core every time.
    """

    mixes: Annotated[int, Range(least=1, most=2)] = 1
    layer_norm: bool = False
    regulariser: NotNegative = 0.001
    dropout: Probability = 0.5
    hidden_size: Annotated[int, Range(least=1, most=2**16)] = 128
    cache_mb: Amount = 1024

    def __post_init__(self) -> None:
        """Raise ZooError if a value means nothing."""
        check_fields(self, "features")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of a core that stays as it is (Hu et al. 2021), through PEFT.

    Args:
        rank: of the update of each matrix.
        alpha: the update is multiplied by ``alpha / rank``.
        matrices: parts of names of the linear maps that are updated; all of the layers' by default.
    """

    rank: Annotated[int, Range(least=1, most=2**12)] = 8
    alpha: Annotated[int, Range(least=1, most=2**16)] = 16
    matrices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ZooError if a value means nothing."""
        check_fields(self, "lora")


@dataclass(frozen=True)
class GridSettings:
    """Values of which the best is chosen, for each task, on training rows that are held back.

    Args:
        lr: peak learning rates; empty = the one of the settings.
        epochs: passes over the training rows; empty = those of the settings.
    """

    lr: list[Positive] = field(default_factory=list)
    epochs: list[Count] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ZooError if a value means nothing."""
        for name in ("lr", "epochs"):
            if not isinstance(getattr(self, name), list):
                raise ZooError(
                    f"grid.{name} = {getattr(self, name)!r}; a list of numbers is needed, as in [5e-5, 1e-4]."
                )
        check_fields(self, "grid")


@dataclass(frozen=True)
class MixingSettings:
    """How many batches of each task an epoch of multi-task training has.

    Args:
        power: of a task's number of batches, to which its share is proportional; 1 = as many as it has rows for, 0 =
            the same for all tasks.
        cap: a task of more rows counts as one of so many; ``None`` = no bound.
    """

    power: Annotated[float, Range(least=0, most=1)] = 1.0
    cap: Count | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a value means nothing."""
        check_fields(self, "mixing")


@dataclass(frozen=True)
class FinetuneSettings:
    """How one task is fine-tuned; ``None`` leaves the choice to the task or the model's metadata.

    Args:
        lr: peak learning rate.
        epochs: passes over the training rows; ``None`` = the task's own.
        batch_size: rows per step, over all processes.
        max_length: longest input in tokens; ``None`` = the task's own, or the core's where that is shorter.
        warmup: share of the steps over which the rate rises.
        weight_decay: decoupled decay of all but norms and biases.
        classifier_dropout: dropout on the pooled state (the core keeps its own probabilities).
        grad_clip: largest gradient norm.
        precision: ``fp32``, ``bf16`` autocast, or ``auto`` = bf16 where the hardware multiplies it faster.
        limit: keep at most so many training and so many development rows, chosen by hash.
        task_type_id: pretraining task whose row the core's table of task types starts from; it becomes row 0, which is
            read wherever nothing else is said (ERNIE 2.0, section 4.1).
        entities: folder with the vectors of entities that texts name, for a core that reads them; ``None`` = the
            model's own, ``none`` = read none.
        confidence: least confidence of a linker with which an entity is read; ``None`` = the task's own.
        use: ``finetune`` trains core and head together; ``features`` leaves the core as it is and trains a task
            network on mixes of its layers (Peters et al. 2018); ``probe`` leaves it as it is and trains the head alone;
            ``lora`` trains low-rank updates of it, and the head.
        features: settings of ``features``; of what stands above, ``classifier_dropout`` is then the network's.
        lora: settings of ``lora``.
        from_task: task that the model is fine-tuned on first, with the same settings and seed; this one starts from
            that core.
        multi_task: ``only`` trains one core for all tasks together, with a head for each; ``first`` does that, too, and
            each task is then fine-tuned alone from that core.
        mixing: of the tasks' batches, where they are trained together.
        lm_weight: weight of an auxiliary loss, the next token of the task's own rows, for causal models (GPT took 0.5).
        layer_decay: what each layer's rate is of the next one's, the head's being ``lr``; 1 = all the same.
        text_to_text: an encoder-decoder reads a task of labels as a text that opens with the task's name, and writes
            the label's word, as T5 does.
        class_weights: ``balanced`` weighs a class by the inverse of its frequency in training.
        patience: epochs without a better score on rows of *training* that are held back, after which training stops;
            the best epoch's weights are kept. ``None`` = train for all epochs.
        held_back: share of the training rows that is held back to choose by, where something is chosen.
        grid: learning rates and epochs to choose from; the chosen ones then train on all rows.
    """

    lr: Positive = 1e-4
    epochs: Count | None = None
    batch_size: Count = 32
    max_length: Count | None = None
    warmup: Probability = 0.1
    weight_decay: NotNegative = 0.01
    classifier_dropout: Probability = 0.1
    grad_clip: Positive = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    limit: Count | None = None
    task_type_id: Amount = 0
    entities: UserPath | None = None
    confidence: NotNegative | None = None
    use: Literal["finetune", "features", "probe", "lora"] = "finetune"
    features: FeatureSettings = field(default_factory=FeatureSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    from_task: str | None = None
    multi_task: Literal["none", "only", "first"] = "none"
    mixing: MixingSettings = field(default_factory=MixingSettings)
    lm_weight: NotNegative = 0.0
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    text_to_text: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    patience: Count | None = None
    held_back: Annotated[float, Range(above=0, below=1)] = 0.1
    grid: GridSettings = field(default_factory=GridSettings)

    def __post_init__(self) -> None:
        """Raise ZooError if a value cannot train."""
        if isinstance(self.features, dict):  # an ablation's settings, or a record's
            object.__setattr__(self, "features", FeatureSettings(**self.features))
        if isinstance(self.lora, dict):
            object.__setattr__(self, "lora", LoraSettings(**self.lora))
        if isinstance(self.grid, dict):
            object.__setattr__(self, "grid", GridSettings(**self.grid))
        if isinstance(self.mixing, dict):
            object.__setattr__(self, "mixing", MixingSettings(**self.mixing))
        if self.multi_task != "none":
            self._check_together()
        if self.lm_weight and self.use not in ("finetune", "lora"):
            raise ZooError(f"lm_weight trains the core, and use: {self.use} leaves it as it is; leave lm_weight out.")
        if self.patience is not None and self.grid != GridSettings():
            raise ZooError("patience and grid both choose by what is held back; take one of them.")
        check_fields(self)
        if self.use not in USES:
            raise ZooError(f"use is {self.use!r}; one of {', '.join(USES)} is needed.{nearest(self.use, USES)}")
        if self.layer_decay != 1 and self.use != "finetune":
            raise ZooError(f"layer_decay is for use: finetune, where the layers are trained; use is {self.use}.")

    def _check_together(self) -> None:
        """Raise ZooError if settings go with tasks that are trained alone only."""
        for name, plain in (("from_task", None), ("patience", None), ("grid", GridSettings()), ("lm_weight", 0.0)):
            if getattr(self, name) != plain:
                raise ZooError(f"multi_task and {name} do not go together yet; leave one of them out.")
        if self.use == "features":
            raise ZooError("multi_task trains one core for all tasks, and use: features trains none; leave one out.")

    def to_dict(self) -> dict[str, Any]:
        """The fine-tuning settings as JSON values, without what a subclass adds; of the later ones those that count."""
        always = {"lr", "epochs", "batch_size", "max_length", "warmup", "weight_decay", "classifier_dropout"}
        always |= {"grad_clip", "precision", "limit", "task_type_id"}
        found: dict[str, Any] = {}
        for item in dataclasses.fields(FinetuneSettings):
            value = getattr(self, item.name)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                used = {"grid": value != GridSettings(), "mixing": self.multi_task != "none"}
                wanted = used.get(item.name, self.use == item.name)
                found |= {item.name: dataclasses.asdict(value)} if wanted else {}
            elif item.name in always or value != item.default:
                found[item.name] = value
        if self.patience is None and "grid" not in found:
            found.pop("held_back", None)
        return found


@dataclass(frozen=True)
class FinetuneConfig(FinetuneSettings):
    """Fine-tune a pretrained run on tasks, once per seed.

    Args:
        model: the pretrained run's folder.
        tasks: comma-separated names; ``glue`` and ``clue`` stand for all tasks of that group.
        seeds: comma-separated fine-tuning seeds (new weights, data order, dropout).
        data: ``hub``, or a folder with the tasks' official files.
        task_file: YAML with rows for tasks of your own.
        output: folder for results; by default one in the model's folder, named by these settings.
        jobs: processes that fine-tune at the same time, each one task and seed; 1 = all in this process.
        threads: threads per process; ``None`` = the cores shared out.
        progress: show a progress line.
        save_model: keep each fine-tuned model as a model folder, OUTPUT/TASK/seed-N/model. Off by default: every task
            and seed takes the size of the core (440 MB at BERT-base), and of a table of entities, if there is one. What
            was finished without it is trained again.
        predict: ``test`` also answers the rows of each task's test file and writes the file that its benchmark's site
            takes, OUTPUT/TASK/seed-N/test; of a whole group a zip for each seed. The files are read before anything is
            trained.
        report: write and print the table (the children of a pool leave that to their parent).
        checkpoint_minutes: how often a training that takes long writes a checkpoint to resume from; 0 = never.
        rows_cache: folder that keeps the token ids of tasks with 10,000 rows and more, so that processes share them and
            the next run need not tokenise; default: ``sesame-zoo/rows`` in the user's cache (``XDG_CACHE_HOME``).
        rows_cache_mb: size of all that it keeps; what was not read for longest goes first. 0 = keep nothing.
        lr: peak learning rate.
        epochs: passes over the training rows; default: the task's own.
        batch_size: rows per step, over all processes.
        max_length: longest input in tokens; default: the task's own, or the core's where that is shorter.
        warmup: share of the steps over which the rate rises.
        weight_decay: decoupled decay of all but norms and biases.
        classifier_dropout: dropout on the pooled state (the core keeps its own probabilities).
        grad_clip: largest gradient norm.
        precision: ``fp32``, ``bf16`` autocast, or ``auto`` = bf16 where the hardware multiplies it faster.
        limit: keep at most so many training and so many development rows, chosen by hash.
        task_type_id: pretraining task whose row the core's table of task types starts from; it becomes row 0, which is
            read wherever nothing else is said (ERNIE 2.0, section 4.1).
        entities: folder with the vectors of entities that texts name, for a core that reads them; default: the
            model's own; ``none`` = read none.
        confidence: least confidence of a linker with which an entity is read; default: the task's own.
        use: ``finetune`` trains core and head together; ``features`` leaves the core as it is and trains a task
            network on mixes of its layers (Peters et al. 2018); ``probe`` leaves it as it is and trains the head alone;
            ``lora`` trains low-rank updates of it, and the head.
        features: settings of ``features``; of what stands above, ``classifier_dropout`` is then the network's.
        lora: settings of ``lora``.
        from_task: task that the model is fine-tuned on first, with the same settings and seed; this one starts from
            that core.
        multi_task: ``only`` trains one core for all tasks together, with a head for each; ``first`` does that, too, and
            each task is then fine-tuned alone from that core.
        mixing: of the tasks' batches, where they are trained together.
        lm_weight: weight of an auxiliary loss, the next token of the task's own rows, for causal models (GPT took 0.5).
        layer_decay: what each layer's rate is of the next one's, the head's being ``lr``; 1 = all the same.
        class_weights: ``balanced`` weighs a class by the inverse of its frequency in training.
        patience: epochs without a better score on rows of *training* that are held back, after which training stops;
            the best epoch's weights are kept. ``None`` = train for all epochs.
        held_back: share of the training rows that is held back to choose by, where something is chosen.
        grid: learning rates and epochs to choose from; the chosen ones then train on all rows.
    """

    model: UserPath = ""
    tasks: str = ""
    seeds: str | Seed | list[Seed] = "1,2,3"
    data: UserPath = "hub"
    task_file: UserPath | None = None
    output: UserPath | None = None
    jobs: Workers = 1
    threads: Workers | None = None
    progress: bool = True
    save_model: bool = False
    predict: Literal["none", "test"] = "none"
    report: bool = True
    checkpoint_minutes: NotNegative = 5.0
    rows_cache: UserPath | None = None
    rows_cache_mb: Amount = 10_000

    def __post_init__(self) -> None:
        """Raise ZooError if the command cannot start."""
        super().__post_init__()
        if not self.model:
            raise ZooError("no model: give the folder of a pretrained run, --model runs/NAME.")

    @property
    def settings(self) -> FinetuneSettings:
        """The part that decides the results."""
        return FinetuneSettings(**self.to_dict())

    @property
    def seed_list(self) -> list[int]:
        """The seeds, each once, in the order given.

        Raises:
            ZooError: not whole numbers.
        """
        parts = self.seeds if isinstance(self.seeds, list) else str(self.seeds).split(",")
        try:
            seeds = [int(part) for part in parts if str(part).strip()]
        except ValueError as error:
            raise ZooError(
                f"--seeds {self.seeds!r}: whole numbers separated by commas are needed, as in 1,2,3."
            ) from error
        if not seeds or min(seeds) < 0:
            raise ZooError(f"--seeds {self.seeds!r}: at least one seed, none negative, as in 1,2,3.")
        return list(dict.fromkeys(seeds))

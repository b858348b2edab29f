"""What an ablation is: a base, named changes, seeds, and the measure that decides."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from pretraining.training.renamed import RENAMED
from zoo.errors import ZooError, nearest
from zoo.settings.checks import check_keys
from zoo.settings.yaml_files import flatten, merge, parse_arguments, read_configs
from zoo.values import Name, NotNegative, Seed, UserPath, Workers, annotations_of, check_fields

KIND = "ablation"
CLOZE_KEYS = ("longest", "items", "entity", "shortest_entity", "seed", "objective")


@dataclass(frozen=True)
class ArmFinetuning:
    """Fine-tuning of every arm.

    Args:
        tasks: comma-separated names.
        data: folder in the tasks' official layout, ``zoo:sample/tasks`` = the embedded one, or ``hub``.
        task_file: YAML file with tasks of your own.
        seeds: seeds of fine-tuning; a pretraining seed's score is the mean over them.
        settings: further settings of ``python -m finetune``.
    """

    tasks: str
    data: UserPath = "zoo:sample/tasks"
    task_file: UserPath | None = None
    seeds: list[Seed] = field(default_factory=lambda: [1])
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ZooError if a seed keys nothing."""
        check_fields(self, "finetune")


@dataclass(frozen=True)
class FloorConfig:
    """What is reached without having learned anything; nothing is decided while the reference arm is not beyond it.

    Args:
        beats: the floor: another measure (``cloze.unigram.longer``), ``frequency_loss.OBJECTIVE`` (of ``run.json``: the
            loss of knowing the tokens' frequencies only), or ``majority.TASK.METRIC`` (of fine-tuning: always
            answering the most frequent class).
        measure: what has to beat it; absent = the primary measure. (A difference, such as
            ``cloze.nats_at_once.longer-1``, has no floor, but ``cloze.nats_at_once.longer`` has.)
        better: which direction of ``measure`` is better; absent = the primary measure's.
    """

    beats: str
    measure: str | None = None
    better: Literal["lower", "higher"] | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a setting names no figure, or a direction would turn the floor round silently."""
        for name in ("beats", "measure"):
            if not isinstance(getattr(self, name), str if name == "beats" else str | None):
                raise ZooError(f"primary.floor.{name} = {getattr(self, name)!r}; the name of a measure is needed.")
        if self.better not in ("lower", "higher", None):
            raise ZooError(f"primary.floor.better = {self.better!r}; 'lower' or 'higher' is needed.")


@dataclass(frozen=True)
class PrimaryConfig:
    """The one measure that carries the verdict, named before the run.

    Args:
        measure: ``validation.NAME`` (held-out loss of an objective, nats per target; ``validation.TASK.NAME`` where
            several tasks share it), ``reference_masks.NAME``
            (the same, on the rows and masks of the reference arm: for arms that mask or lay out otherwise),
            ``validation_accuracy.NAME``, ``cloze.NAME`` (``nats_at_once.longer-1``, ``exact.2``,
            ``nats.entity-control``; see :func:`pretraining.scoring.cloze.measures`), or ``TASK.METRIC`` of fine-tuning.
        better: the direction that counts as better.
        smallest_effect: differences below this do not matter; absent = any does. In the unit that reports print: points
            (of a hundred) for scores and shares, nats for losses, so 0.5 is from 71.0 % to 71.5 %.
        floor: what the reference arm has to beat by two standard errors, over seeds, before any arm has a verdict;
            absent = nothing.
    """

    measure: str
    better: Literal["lower", "higher"] = "lower"
    smallest_effect: NotNegative | None = None
    floor: FloorConfig | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if the direction would turn verdicts round silently, or the effect is no size."""
        check_fields(self, "primary")
        if self.better not in ("lower", "higher"):
            raise ZooError(f"primary.better = {self.better!r}; 'lower' or 'higher' is needed.")

    @property
    def names(self) -> dict[str, str]:
        """The figures that decide, by the setting that names them."""
        found = {"primary.measure": self.measure}
        if self.floor is not None:
            found["primary.floor.beats"] = self.floor.beats
            if self.floor.measure is not None:
                found["primary.floor.measure"] = self.floor.measure
        return found


@dataclass(frozen=True)
class AblationConfig:
    """An ablation.

    Args:
        name: names its folder.
        primary: the deciding measure.
        changes: what each arm changes, by arm; ``base: pretrain/NAME`` inside starts from a shipped config, and
            ``finetune:`` changes its fine-tuning.
        pretrain: what all arms start from.
        common: laid over every arm, whatever it changes (the budget, the corpus).
        extra: arms that ``zoo demo`` runs with ``--all`` or by name only.
        reference: arm that the others are compared with; absent = the first.
        seeds: pretraining seeds; a seed is a pair: same documents, order and initial values in every arm.
        finetune: fine-tuning of every arm; absent = none.
        cloze: settings of ``zoo cloze`` for every arm (``{}`` = its defaults); absent = no words are asked about.
        title: heading of the report.
        claim: what is asked, and the expected sign, written before the run.
        output: folder of the ablation's own folder.
        workers: runs at a time; absent = 1 on a machine with an accelerator, else one per two cores.
        submit: hand the runs to a cluster by submitit: ``cluster`` (``slurm``; ``local`` tries it here),
            ``timeout_min``, and its other settings (``slurm_partition``, ``gpus_per_node``, ``cpus_per_task``);
            absent = run them on this machine.
    """

    name: Name
    primary: PrimaryConfig
    changes: dict[Name, Any]
    pretrain: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    reference: str | None = None
    seeds: list[Seed] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    finetune: ArmFinetuning | None = None
    cloze: dict[str, Any] | None = None
    title: str = ""
    claim: str = ""
    output: UserPath = "runs"
    workers: Workers | None = None
    submit: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if the arms cannot be compared."""
        if not self.changes:
            raise ZooError("changes is empty; an ablation needs at least one arm (an arm without changes is {}).")
        check_fields(self)
        if self.reference is not None and self.reference not in self.changes:
            raise ZooError(
                f"reference = {self.reference!r} is not an arm.{nearest(self.reference, self.changes)} "
                f"Arms: {', '.join(self.changes)}."
            )
        for where, seeds in (("seeds", self.seeds), ("finetune.seeds", self.finetune.seeds if self.finetune else [0])):
            if not seeds or len(set(seeds)) != len(seeds) or not all(type(seed) is int for seed in seeds):
                raise ZooError(
                    f"{where} = {seeds!r}; a list of different whole numbers is needed, such as [1, 2, 3, 4, 5]."
                )
        for where, name in self.primary.names.items():
            if name.startswith("cloze.") and self.cloze is None:
                raise ZooError(f"{where} = {name!r} needs `cloze: {{}}`, which asks for it.")
        if self.cloze is not None and not isinstance(self.cloze, dict):
            raise ZooError(f"cloze = {self.cloze!r}; settings of `zoo cloze` are needed, such as {{items: 5000}}.")
        if self.submit is not None and not isinstance(self.submit, dict):
            raise ZooError(
                f"submit = {self.submit!r}; settings of submitit are needed, such as {{timeout_min: 720, "
                "slurm_partition: NAME, gpus_per_node: 1}."
            )
        for key in self.cloze or {}:
            if key not in CLOZE_KEYS:
                raise ZooError(f"cloze.{key} is no setting of an arm's cloze.{nearest(key, CLOZE_KEYS)}")
        for key in ("seed", "output", "run_folder"):
            if any(key in (part or {}) for part in (self.pretrain, self.common, *self.changes.values())):
                raise ZooError(f"{key!r} belongs to the ablation itself (seeds, output), not to its arms.")

    @property
    def against(self) -> str:
        """The reference arm."""
        return self.reference or next(iter(self.changes))


class Arm(NamedTuple):
    """One cell of the grid.

    Args:
        name: the arm.
        seed: its pretraining seed.
        values: complete values of its pretraining config.
        finetune: its fine-tuning.
    """

    name: str
    seed: int
    values: dict[str, Any]
    finetune: ArmFinetuning | None = None


def arms(config: AblationConfig) -> list[Arm]:
    """The grid, seed by seed, so that an interrupted ablation has whole pairs."""
    grid = []
    for seed in config.seeds:
        for name, change in config.changes.items():
            own_tuning = (change or {}).get("finetune")
            values = {key: value for key, value in (change or {}).items() if key != "finetune"}
            values = merge(merge(config.pretrain, values), config.common)
            own = {
                "name": f"{config.name}-{name}-seed{seed}",
                "seed": {"init": seed, "data": seed},
                "output": config.output,
            }
            tuning = config.finetune
            if own_tuning is not None:
                tuning = _finetune(merge(vars(tuning) if tuning else {}, own_tuning), f"changes.{name}.finetune")
            grid.append(Arm(name, seed, merge(values, own), tuning))
    return grid


def changed_settings(config: AblationConfig) -> dict[str, list[tuple[str, Any, Any]]]:
    """For each arm the keys in which it differs from the reference: (key, reference's value, its value)."""
    first = {arm.name: flatten(arm.values) for arm in arms(config) if arm.seed == config.seeds[0]}
    base = first[config.against]
    result = {}
    for name, values in first.items():
        keys = sorted((values.keys() | base.keys()) - {"name", "edge"})
        result[name] = [(k, base.get(k), values.get(k)) for k in keys if base.get(k) != values.get(k)]
    return result


def load_ablation(argv: list[str], values: dict[str, Any] | None = None) -> AblationConfig:
    """Read ``--config FILE`` (several merge in order) and ``--key value``; ``values`` are laid on top.

    Raises:
        ZooError: an unknown key (with the nearest), a missing or a wrong value.
    """
    files, overrides, _ = parse_arguments(argv)
    if not files:
        raise ZooError("no ablation: --config FILE, or --config with a shipped one's name, such as masking.")
    return build(merge(merge(read_configs(files, KIND), overrides), values or {}))


def build(values: dict[str, Any]) -> AblationConfig:
    """An :class:`AblationConfig` from plain values."""
    _check_renamed(values)
    names = [f.name for f in fields(AblationConfig)]
    for key in values:
        if key not in names:
            raise ZooError(f"unknown key {key!r} in an ablation.{nearest(key, names)} Known here: {', '.join(names)}.")
    missing = [key for key in ("name", "primary", "changes") if not values.get(key)]
    if missing:
        raise ZooError(f"the ablation lacks {', '.join(missing)}.")
    kinds = annotations_of(AblationConfig)
    own = {
        key: check_keys(kinds[key], value, key) if key in ("seeds", "extra") else value for key, value in values.items()
    }
    primary = own["primary"] if isinstance(own["primary"], dict) else {"measure": own["primary"]}
    try:
        own["primary"] = _primary(primary)
        if own.get("finetune") is not None:
            own["finetune"] = _finetune(own["finetune"], "finetune")
        return AblationConfig(**own)
    except (TypeError, AttributeError) as error:
        raise ZooError(f"the ablation cannot be read: {error}") from error


def _check_renamed(values: dict[str, Any]) -> None:
    """Raise ZooError if the arms' settings have an old name."""
    changes = values.get("changes")
    parts = {key: values.get(key) for key in ("pretrain", "common")}
    parts |= {f"changes.{arm}": part for arm, part in changes.items()} if isinstance(changes, dict) else {}
    for where, part in parts.items():
        if isinstance(part, dict):
            RENAMED.check(part, "the ablation", f"{where}.")


def _primary(values: dict[str, Any]) -> PrimaryConfig:
    floor = values.get("floor")
    own = check_keys(PrimaryConfig, values, "primary") if isinstance(floor, dict | None) else {}
    if floor is not None and (not isinstance(floor, dict) or floor.get("beats") is None):
        raise ZooError(
            f"primary.floor = {floor!r}; what has to be beaten is needed, such as "
            "{beats: frequency_loss.OBJECTIVE}, or {beats: majority.TASK.METRIC}, or {measure: cloze.nats.longer, "
            "beats: cloze.unigram.longer}."
        )
    if floor is not None:
        own["floor"] = FloorConfig(**own["floor"])
    return PrimaryConfig(**own)


def _finetune(values: dict[str, Any], where: str) -> ArmFinetuning:
    try:
        return ArmFinetuning(**check_keys(ArmFinetuning, values, where))
    except TypeError as error:
        raise ZooError(f"{where} cannot be read: {error}") from error

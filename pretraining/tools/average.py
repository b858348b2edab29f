"""``zoo average RUN --last 5``: the mean of a run's last checkpoints as a model folder (Vaswani et al. 2017, 6.1)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from pretraining.training.checkpoint import complete_checkpoints, load_weights
from zoo.errors import ZooError
from zoo.model_folder import INDEX, WEIGHTS, open_weights, read_metadata
from zoo.settings.load import load_settings
from zoo.storage.files import whole_folder
from zoo.storage.tensors import save_tensors
from zoo.values import Range, UserPath, check_fields

_OF_THE_RUN = (".jsonl", ".lock", ".log")  # endings of files that a model folder does not need


@dataclass(frozen=True)
class AverageConfig:
    """Settings of ``zoo average``.

    Args:
        run: a finished run folder, whose checkpoints are averaged.
        last: how many of them, the newest ones; a run keeps ``train.keep`` and writes one every ``train.save_every``
            steps.
        output: the model folder to make; absent = ``average-LAST`` in the run folder.
    """

    run: UserPath
    last: Annotated[int, Range(least=2)] = 5
    output: UserPath | None = None

    def __post_init__(self) -> None:
        """Raise ZooError if a number is out of its range."""
        check_fields(self)


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors by name, summed in double precision; of whole numbers the last ones."""
    found = {}
    for name, last in parts[-1].items():
        if last.is_floating_point():
            total = torch.zeros_like(last, dtype=torch.float64)
            for part in parts:
                total += part[name].double()
            found[name] = (total / len(parts)).to(last.dtype)
        else:
            found[name] = last
    return found


def average_checkpoints(folder: Path, last: int, target: Path) -> list[str]:
    """Write the mean of a run's last checkpoints, with all that a model folder has beside its weights.

    Args:
        folder: the run folder.
        last: how many checkpoints.
        target: the model folder to make, whole or not at all.

    Returns:
        names of the checkpoints.

    Raises:
        ZooError: no finished run, fewer checkpoints than wanted, or they are not of this model.
    """
    read_metadata(folder)  # which says what is wrong with a folder that is no finished run
    checkpoints = complete_checkpoints(folder)[-last:]
    if len(checkpoints) < last:
        raise ZooError(
            f"{folder}: {last} checkpoints are to be averaged, and {len(checkpoints)} are there and whole. Train with "
            f"--train.keep {last} or more, or take --last {max(len(checkpoints), 2)}."
        )
    own = open_weights(folder)
    mean = mean_of([load_weights(path) for path in checkpoints])
    renamed = {name: mean[source] for name in own if (source := _in_checkpoint(name, mean)) is not None}
    if missing := [name for name in own if name not in renamed or renamed[name].shape != own.shape(name)]:
        raise ZooError(f"{checkpoints[-1]} has no {missing[0]!r} as the model in {folder} has it; is it another run's?")
    with whole_folder(target) as place:
        save_tensors(place / WEIGHTS, renamed)
        for path in folder.iterdir():
            if path.is_file() and path.name not in (WEIGHTS, INDEX) and not path.name.endswith(_OF_THE_RUN):
                shutil.copyfile(path, place / path.name)
    return [path.name for path in checkpoints]


def _in_checkpoint(name: str, tensors: dict[str, Tensor]) -> str | None:
    """A model folder's tensor under the name that checkpoints have it by (:func:`zoo.model_folder.pack_model`)."""
    part, _, rest = name.partition(".")
    candidates = [name]
    if part in ("heads", "objectives"):
        owner, _, key = rest.partition(".")
        candidates = [f"heads.{owner}.head.{key}", f"heads.{owner}.{key}"] if part == "heads" else [f"heads.{rest}"]
    return next((candidate for candidate in candidates if candidate in tensors), None)


def average_command(argv: list[str]) -> int:
    """``zoo average RUN [--last 5] [--output FOLDER]``.

    Raises:
        ZooError: wrong arguments, or nothing to average.
    """
    if argv and not argv[0].startswith("-"):
        argv = ["--run", *argv]
    config = load_settings(AverageConfig, argv, "zoo average RUN", "average").value
    folder = Path(config.run)
    target = Path(config.output) if config.output is not None else folder / f"average-{config.last}"
    names = average_checkpoints(folder, config.last, target)
    print(f"{target}: the mean of {', '.join(names)}")
    return 0
